"""What a conversion of one episode asks of it.

The conversions lie below `RecordedEpisode`, whose methods call them; they know it by this form.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import h5py
import numpy as np

from shardwriter.errors import ConfigError
from shardwriter.files.units import Units

__all__ = ["Columns", "Recorded", "seconds_per_timestep"]

Columns = Mapping[str, np.ndarray[Any, Any]]


class Recorded(Protocol):
    """One recorded episode; what its methods return, `RecordedEpisode` says."""

    id: int

    def opened(self) -> AbstractContextManager[h5py.Group]: ...
    def get_units(self) -> Units: ...
    def get_metadata(self) -> dict[str, Any]: ...
    def get_neural_states(self) -> dict[str, np.ndarray[Any, Any]]: ...
    def get_behavior(self) -> dict[str, np.ndarray[Any, Any]]: ...
    def get_spikes(self) -> Columns: ...
    def get_rewards(self) -> dict[str, np.ndarray[Any, Any]]: ...
    def get_weight_changes(self) -> dict[str, np.ndarray[Any, Any]]: ...
    def get_events(self) -> Any: ...


def seconds_per_timestep(units: Units, dt: float | None) -> float:
    """Return the length of a timestep: the one given, else the one recorded.

    Raises
    ------
    ConfigError
        Nobody said.
    """
    found = Units(dt=dt).dt if dt is not None else units.dt
    if found is None:
        expected = "seconds of a timestep, as dt= here (--dt in commands) or in save_units"
        raise ConfigError("dt", expected, None)
    return found
