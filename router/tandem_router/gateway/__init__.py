"""Who may ask, for what, and how much. Only `files`, `jwks` and `service` do I/O."""
