"""The last good state on disk: a router that starts while the Kubernetes API is gone serves from it."""

import logging
import os
from pathlib import Path

from tandem_router.snapshot import Snapshot, parse_snapshot

LOG = logging.getLogger(__name__)
FILE_NAME = "last-good.json"


def read_last_good(directory: Path) -> Snapshot | None:
    """What the router before us knew; None when there is nothing usable."""
    file = directory / FILE_NAME
    try:
        return parse_snapshot(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        LOG.warning("last good state not usable, starting without: %s: %s", file, error)
        return None


def write_last_good(directory: Path, snapshot: Snapshot) -> None:
    """Replace the state on disk, whole or not at all.

    Raises:
        OSError: the directory is not writable.
    """
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f"{FILE_NAME}.{os.getpid()}"
    draft.write_bytes(snapshot.to_json())
    draft.replace(directory / FILE_NAME)
