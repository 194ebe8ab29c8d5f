"""`python -m lowmem`."""

import sys

from lowmem.cli import main

sys.exit(main())
