"""Builders: one module per child kind, each a pure function from the fleet to a manifest."""
