"""Where the router learns which fleets and workers there are."""
