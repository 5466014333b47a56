"""Opening trace files, plain or gzipped, with errors that name the file."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tandem_simulator.errors import TraceError


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The file as text.

    Raises:
        TraceError: missing, unreadable, damaged, or not UTF-8.
    """
    try:
        with _open(path) as file:
            yield file
    except FileNotFoundError:
        raise TraceError(f"--trace {path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"--trace {path}: cannot be read ({error})") from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open("r", encoding="utf-8", newline="")
