"""What goes wrong at the command line, told in one sentence."""


class CommandError(Exception):
    """Wrong input, or a cluster that does not answer. The message names the fix."""
