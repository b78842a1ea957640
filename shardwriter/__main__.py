"""``python -m shardwriter`` is the command ``shardwriter``."""

import sys

from shardwriter.cli import main

if __name__ == "__main__":  # MPI's workers run this file under another name
    sys.exit(main())
