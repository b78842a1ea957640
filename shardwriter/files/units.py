"""What the numbers mean: units of fields, and the time from one timestep to the next."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardwriter.errors import ConfigError, FormatError
from shardwriter.files.layout import REWARDS, WEIGHT_CHANGES

__all__ = ["DT", "Units"]

DT = "dt"  # the attribute that holds the seconds, beside those that hold units

# Columns that are not the user's own fields, by the word that one would use for them.
_WORDS = {
    (REWARDS, "values"): "reward",
    (WEIGHT_CHANGES, "old_weights"): "weight",
    (WEIGHT_CHANGES, "new_weights"): "weight",
    (WEIGHT_CHANGES, "deltas"): "weight",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """Units by field, and the length of a timestep.

    Parameters
    ----------
    by_name
        Unit by ``field``, or by ``table/field`` where two tables have fields of one name. For
        rewards the name is ``reward``, for old and new weights ``weight``.
    dt
        Seconds from one timestep to the next; None if nobody said.

    Raises
    ------
    ConfigError
        A unit is no text, or `dt` no positive number.
    """

    by_name: Mapping[str, str] = field(default_factory=dict)
    dt: float | None = None

    def __post_init__(self) -> None:
        given: Mapping[Any, Any] = self.by_name
        for name, unit in given.items():
            if not isinstance(name, str) or not name or name == DT or "\0" in name:
                raise ConfigError("units", f"names of fields, not {DT!r}", name)
            if not isinstance(unit, str) or not unit or "\0" in unit:
                raise ConfigError(f"units[{name!r}]", "text, such as 'mV'", unit)
        dt: Any = self.dt
        if dt is not None:
            is_number = isinstance(dt, (int, float, np.number)) and not isinstance(dt, bool)
            if not is_number or not 0 < dt < math.inf:
                raise ConfigError(DT, "seconds of a timestep, a number above 0", dt)

    def of(self, table: str, column: str) -> str | None:
        """Return the unit of a column, such as ``("behavior", "position")``; None if unknown."""
        names = (f"{table}/{column}", column, _WORDS.get((table, column), column))
        return next((self.by_name[name] for name in names if name in self.by_name), None)

    def to_attributes(self) -> dict[str, object]:
        """Return the attributes that hold them."""
        return {**self.by_name, **({} if self.dt is None else {DT: float(self.dt)})}

    @classmethod
    def from_attributes(cls, values: Mapping[str, Any], where: Any) -> "Units":
        """Return what ``to_attributes`` wrote.

        Raises
        ------
        FormatError
            The file at `where` has something else.
        """
        try:
            return cls(by_name={k: v for k, v in values.items() if k != DT}, dt=values.get(DT))
        except ConfigError as error:
            raise FormatError(where, "units that are text", str(error)) from error
