"""The one error that the demo shows."""


class DemoError(Exception):
    """One sentence for a person: what went wrong, and the fix."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
