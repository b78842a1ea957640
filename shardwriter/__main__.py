"""``python -m shardwriter`` is the command ``shardwriter``."""

import sys

from shardwriter.cli import main

sys.exit(main())
