"""``python -m refiner``."""

import sys

from refiner.cli import main

sys.exit(main())
