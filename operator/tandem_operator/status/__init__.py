"""Pure: what a snapshot means, as conditions."""
