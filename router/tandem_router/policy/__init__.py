"""Which worker serves a request: pure functions and structures; time and chance come in as arguments."""
