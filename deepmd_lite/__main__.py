"""`python -m deepmd_lite` is the command `dpl`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
