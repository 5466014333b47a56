"""Everything that a user can get wrong, in one tree. Each message names the field or flag, and the fix."""


class SimulatorError(Exception):
    """Base of all."""


class TraceError(SimulatorError):
    """A trace file cannot be read."""


class FleetError(SimulatorError):
    """The InferenceDeployment cannot be simulated."""


class PolicyError(SimulatorError):
    """No such policy, or its parameters are wrong."""


class UsageError(SimulatorError):
    """A flag's value is wrong."""
