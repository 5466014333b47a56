"""How many connections this process can have: each is an open file."""

import resource

FILES_APART = 512  # of the process's own, and idle connections to workers


def most_clients() -> int:
    """Clients that can be served with as many files as we may open: each takes two, its own and its worker's."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (files - FILES_APART) // 2)


def raise_file_limit() -> None:
    """As many open files as this process may ask for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
