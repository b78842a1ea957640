"""The ``shardwriter`` command: one module per command, which parses, calls, and prints."""

from shardwriter.cli.main import main

__all__ = ["main"]
