"""``python -m ml_backend.cli``."""

import sys

from ml_backend.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
