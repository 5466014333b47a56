"""What the router replicas of an installation tell each other ten times a second. A lost digest costs hit rate only."""
