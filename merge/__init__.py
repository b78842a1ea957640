"""Merging: from many shards to one master file of virtual datasets."""

from merge.master import MergeOptions, MergeReport, merge_experiment, merge_experiments
from merge.plan import MasterPlan, plan

__all__ = [
    "MasterPlan",
    "MergeOptions",
    "MergeReport",
    "merge_experiment",
    "merge_experiments",
    "plan",
]
