"""``python -m hwautoml.cli``."""

import sys

from hwautoml.cli import main

sys.exit(main())
