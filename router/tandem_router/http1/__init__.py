"""HTTP/1.1 on both sides of the router, on raw `asyncio.Protocol`: strict, bounded, byte-exact."""
