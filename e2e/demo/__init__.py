"""`make demo`: the main job end to end, told to a person as it happens."""
