"""`python -m kalam_notify`: the same as the console script."""

import sys

from kalam_notify.cli import main

if __name__ == "__main__":
    sys.exit(main())
