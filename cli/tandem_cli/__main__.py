"""`python -m tandem_cli`."""

import sys

from tandem_cli.app import main

if __name__ == "__main__":
    sys.exit(main())
