"""Engines: who runs the rollouts of an experiment."""

from shardwriter.engines.result import EpisodeResult
from shardwriter.engines.run import run_episodes

__all__ = ["EpisodeResult", "run_episodes"]
