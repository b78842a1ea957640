"""Bringing the episodes of dead processes to their end."""

from shardwriter.recovery.abandoned import RecoveredEpisode
from shardwriter.recovery.recover import exit_code, is_good, missing, recover, recover_episode

__all__ = ["RecoveredEpisode", "exit_code", "is_good", "missing", "recover", "recover_episode"]
