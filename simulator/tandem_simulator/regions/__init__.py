"""Several regions: their own pools, queues and caches, round trips between them, and a router in each that chooses."""
