"""What workers do with requests, in modelled time."""
