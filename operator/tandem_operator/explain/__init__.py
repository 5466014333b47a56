"""`tandem explain`: what the operator would do with an InferenceDeployment, and why. Touches nothing."""
