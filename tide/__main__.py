"""python -m tide: the same as the command `tide`."""

import sys

from tide.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
