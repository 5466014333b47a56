"""Who sizes the fleet: Tandem's own decision code, and the baselines, each with the same queue and the same engines."""
