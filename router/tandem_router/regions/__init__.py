"""Which region serves a request, and what is known of the others. Pure: the simulator drives the same code."""
