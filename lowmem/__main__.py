"""`python -m lowmem` runs the command line."""

import sys

from lowmem.cli import main

sys.exit(main())
