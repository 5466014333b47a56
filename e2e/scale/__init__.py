"""Many fleets on nodes that only pretend: `python -m scale` (make scale)."""
