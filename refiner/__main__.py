"""``python -m refiner``."""

import sys

from refiner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
