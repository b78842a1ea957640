"""Record neural and behavioural data of many parallel episodes; read them as one experiment."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "DataExporter",
    "EpisodeResult",
    "ExperimentLoader",
    "Recorder",
    "ShardWriterError",
    "quick_load",
]

if TYPE_CHECKING:
    from shardwriter.engines import EpisodeResult
    from shardwriter.errors import ShardWriterError
    from shardwriter.exporter import DataExporter
    from shardwriter.loader import ExperimentLoader, quick_load
    from shardwriter.recording.recorder import Recorder

_HOMES = {
    "DataExporter": "shardwriter.exporter",
    "EpisodeResult": "shardwriter.engines",
    "ExperimentLoader": "shardwriter.loader",
    "quick_load": "shardwriter.loader",
    "Recorder": "shardwriter.recording.recorder",
    "ShardWriterError": "shardwriter.errors",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a writer process needs neither exporter nor loader.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
