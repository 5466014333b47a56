"""Discrete-event replay of traces through the production decision code."""
