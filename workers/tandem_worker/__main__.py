"""`python -m tandem_worker`."""

import signal
import sys


def run() -> int:
    # PID 1 has no default action for SIGTERM: one that came during the imports would be lost, and the pod would
    # wait for the end of its grace period.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from tandem_worker.app import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
