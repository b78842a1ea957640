"""The network's structure: whether its arrays fit together, and how large it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shardwriter.errors import ConfigError

__all__ = ["network_size"]

_ENDS = ("sources", "targets", "source_ids", "target_ids", "pre", "post")


def network_size(neurons: Mapping[str, Any], connections: Mapping[str, Any]) -> int | None:
    """Return the number of neurons, None where no array tells or their ids have gaps.

    Raises
    ------
    ConfigError
        Arrays of neurons, or of connections, differ in length; or a connection names a neuron
        that the network does not have.
    """
    size = _common_length("neurons", neurons)
    _common_length("connections", connections)
    ids = np.asarray(neurons["ids"]) if "ids" in neurons else None
    for name in _ENDS:
        if name not in connections or size is None:
            continue
        ends = np.asarray(connections[name])
        known = np.arange(size) if ids is None else ids
        strangers = ends[~np.isin(ends, known)]
        if len(strangers):
            raise ConfigError(
                f"connections[{name!r}]", f"ids of the {size} neurons", strangers[0].item()
            )
    is_plain = ids is None or np.array_equal(np.sort(ids), np.arange(size or 0))
    return size if is_plain else None


def _is_array(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or np.ndim(value) > 0  # a list may be ragged


def _common_length(kind: str, arrays: Mapping[str, Any]) -> int | None:
    lengths = {name: len(array) for name, array in arrays.items() if _is_array(array)}
    if len(set(lengths.values())) > 1:
        raise ConfigError(kind, "arrays of one length", lengths)
    return next(iter(lengths.values()), None)
