"""Engines: who runs the rollouts of an experiment."""

from shardwriter.engines.ray_executor import RayExecutor
from shardwriter.engines.result import EpisodeResult
from shardwriter.engines.run import run_episodes

__all__ = ["EpisodeResult", "RayExecutor", "run_episodes"]
