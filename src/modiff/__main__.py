"""`python -m modiff` is the command `modiff`."""

import sys

from modiff.cli import main

sys.exit(main())
