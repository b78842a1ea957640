"""The episode index as a pandas table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from shardwriter.files.compression import optional

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["index_to_dataframe"]


def index_to_dataframe(index: np.ndarray[Any, Any]) -> "DataFrame":
    """Return an episode index as a table; see ``ExperimentLoader.to_dataframe``."""
    pandas = optional("pandas", "pandas")
    columns: dict[str, Any] = {}
    for name in index.dtype.names or ():
        values = index[name]
        if name in ("start_time", "end_time"):
            with np.errstate(over="ignore"):
                microseconds = np.round(values * 1e6)
            columns[name] = pandas.to_datetime(microseconds, unit="us", utc=True, errors="coerce")
        elif name.startswith("rows_"):
            columns[name] = pandas.array(np.where(values < 0, 0, values), dtype="Int64")
            columns[name][values < 0] = pandas.NA
        elif values.dtype.kind == "S":
            columns[name] = [value.decode(errors="backslashreplace") for value in values]
        else:
            columns[name] = values
    return pandas.DataFrame(columns).set_index("episode_id")
