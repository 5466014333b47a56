"""Proves for each pair of workers that KV really moves between them: nothing else would show silent local prefill."""
