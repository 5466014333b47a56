"""The tenants file on disk: read again when it changes; a bad one is refused whole, and the old one serves on."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from tandem_router.gateway.config import MAX_FILE_BYTES, GatewayConfig, GatewayConfigError, parse_gateway_config

LOG = logging.getLogger(__name__)
Stamp = tuple[int, int, int]


class TenantsFile:
    """Watches one file.

    Attributes:
        refused: why the file as it is now cannot be used; None when it is in use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp | None = None
        self.refused: str | None = None

    def read(self) -> GatewayConfig:
        """The file's configuration.

        Raises:
            GatewayConfigError: it is missing, unreadable or wrong; the message begins with its path.
        """
        try:
            with self._path.open("rb") as file:
                self._stamp = stamp_of(os.fstat(file.fileno()))
                text = file.read(MAX_FILE_BYTES + 1).decode()
            return parse_gateway_config(text)
        except OSError as error:
            raise GatewayConfigError(f"{self._path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise GatewayConfigError(f"{self._path}: not UTF-8") from None
        except GatewayConfigError as error:
            raise GatewayConfigError(f"{self._path}: {error}") from None

    def refresh(self, apply: Callable[[GatewayConfig], None]) -> None:
        """If the file has changed, `apply` what it says; if that cannot be used, say so once and keep what is."""
        try:
            if stamp_of(self._path.stat()) == self._stamp:
                return
            apply(self.read())
        except (OSError, GatewayConfigError) as error:
            if self.refused != str(error):
                LOG.error("tenants kept as they were: %s", error)
            self.refused = str(error)
            return
        self.refused = None
        LOG.info("tenants reloaded")


def stamp_of(stat: os.stat_result) -> Stamp:
    """Changes when the file is written or replaced; a Secret's volume replaces it atomically."""
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
