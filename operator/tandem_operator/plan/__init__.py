"""Pure decisions: a snapshot in, typed actions with reasons out."""
