"""Merging: from many shards to one master file of virtual datasets."""

from merge.master import merge_experiment, merge_experiments
from merge.options import MergeOptions, MergeReport
from merge.pack import pack, pack_shards, unpack
from merge.plan import MasterPlan, plan
from merge.relink import relink
from merge.verify import VerifyReport, verify

__all__ = [
    "MasterPlan",
    "MergeOptions",
    "MergeReport",
    "VerifyReport",
    "merge_experiment",
    "merge_experiments",
    "pack",
    "pack_shards",
    "plan",
    "relink",
    "unpack",
    "verify",
]
