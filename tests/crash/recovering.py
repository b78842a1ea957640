"""A recovery that a crash trial kills: ``recovering.py DIRECTORY``."""

import sys
from pathlib import Path

from shardwriter.recovery import recover

recover(Path(sys.argv[1]))
