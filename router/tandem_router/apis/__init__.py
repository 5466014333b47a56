"""The HTTP APIs that clients speak: what differs between them, as values. No I/O."""
