"""Merging: from many shards to one master file of virtual datasets."""

from merge.master import merge_experiment
from merge.plan import MasterPlan, plan

__all__ = ["MasterPlan", "merge_experiment", "plan"]
