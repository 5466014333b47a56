"""`python -m tandem_operator`."""

import sys

from tandem_operator.app import main

sys.exit(main())
