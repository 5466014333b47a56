"""`python -m cluster.process_node`: see --help."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys

from cluster.process_node.app import run_node
from cluster.process_node.folders import FolderError
from cluster.process_node.settings import SettingsError, parse_settings


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = parse_settings(sys.argv[1:], os.environ)
        asyncio.run(run_node(settings))
    except (SettingsError, FolderError, ssl.SSLError, OSError) as error:
        print(f"process node: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
