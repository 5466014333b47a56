"""`engine.kvCache.offload`: KV that leaves the engine's own cache goes to host memory, and from there to disk.

vLLM's own offloading connector does it, beside the one that hands KV over. What is here makes the two safe together
(`connector`), lets it run on the CPU build (`host`), and keeps the disk within its size (`disk_budget`).
"""
