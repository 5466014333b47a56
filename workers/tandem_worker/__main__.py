"""`python -m tandem_worker`."""

import sys

from tandem_worker.app import main

sys.exit(main())
