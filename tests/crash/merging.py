"""A merge that a crash trial kills: ``merging.py DIRECTORY``."""

import sys
from pathlib import Path

from merge import merge_experiment

merge_experiment(Path(sys.argv[1]))
