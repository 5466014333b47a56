"""The promises that Linux keeps between a supervisor and its descendants, however either of them dies."""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone. Call it first."""
    parent = os.getppid()
    _set_process_flag(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(1)


def have_forks_die_with_parent() -> None:
    """The same for each process that this one forks, now or later.

    Only for forks by the main thread: the kernel means the thread when it says parent, and other threads come and go.
    """
    by_main_thread = False

    def before() -> None:
        nonlocal by_main_thread
        by_main_thread = threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        if by_main_thread:
            die_with_parent()

    os.register_at_fork(before=before, after_in_child=in_child)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, as PID 1 of a container is anyway."""
    _set_process_flag(_PR_SET_CHILD_SUBREAPER, 1)


def _set_process_flag(flag: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(flag, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({flag})")
