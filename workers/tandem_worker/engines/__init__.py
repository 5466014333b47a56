"""Engines: what turns tokens into tokens. Each serves the HTTP surface of vLLM's OpenAI server."""
