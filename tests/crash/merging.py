"""A merge that a crash trial kills: ``merging.py DIRECTORY``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])

from merge import merge_experiment

merge_experiment(Path(sys.argv[1]))
