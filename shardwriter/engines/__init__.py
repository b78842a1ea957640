"""Engines: who runs the rollouts of an experiment."""

from shardwriter.engines.local import run_local
from shardwriter.engines.result import EpisodeResult

__all__ = ["EpisodeResult", "run_local"]
