"""`kvTransfer.connector: nixl`: vLLM's own NIXL connector, held to Tandem's contract where NIXL lets it be.

Signed tickets, the lease gauge, `leases:release`, counters, circuits and the KV probe work as with our own connector.
What NIXL cannot hold is in docs/design/nixl.md.
"""
