"""Traffic: what came when, how long the prompt, how long the answer. One reader per public format."""
