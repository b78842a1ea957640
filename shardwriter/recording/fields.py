"""Named fields of one table: what users pass, checked against what the table holds.

Invariant: ``check`` changes nothing, so that a call whose fields do not all fit logs none.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from shardwriter.errors import FieldError
from shardwriter.files.schema import Column, fill_value, name_problem, spell
from shardwriter.recording.innermost import Cursor
from shardwriter.recording.table_log import Store, TableLog
from shardwriter.recording.values import (
    ValueProblem,
    as_array,
    as_timestep,
    flattened,
    foreign_dtype,
)

__all__ = ["FieldLog", "array_of", "misfit", "timestep_of"]

Array = np.ndarray[Any, Any]
Watch = Callable[[Sequence[str], Array, Sequence[Array], Set[str]], Sequence[str]]

_SAME = "log it under another name, or convert it first"
_COMPLETE = "pass every field that is not of a float dtype in every call"


class FieldLog:
    """One table whose columns are the fields that the first call names.

    Float fields may be missing from a call, or appear late; they are NaN where they were not
    given. Every other field is part of every call.

    Parameters
    ----------
    store
        The episode's buffer and drain.
    episode
        The episode's id, for errors.
    name
        The table's name.
    watch
        Looks at the rows of full slots, and at the end at the rest: called with the names of
        the columns, the timesteps, the columns, and the names of those that were not given in
        every call; returns names that it need not see again.
    cursor
        Told of every slot that is entered, as for ``TableLog``.
    """

    __slots__ = (
        "_columns",
        "_cursor",
        "_episode",
        "_lacking",
        "_log",
        "_name",
        "_new",
        "_store",
        "_unseen",
        "_watch",
    )

    def __init__(
        self,
        store: Store,
        episode: int,
        name: str,
        watch: Watch | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        self._watch = watch
        self._cursor = cursor
        self._unseen: set[str] = set()
        self._lacking: set[str] = set()
        self._store = store
        self._episode = episode
        self._name = name
        self._log: TableLog | None = None
        self._columns: list[tuple[str, np.dtype[Any], tuple[int, ...], tuple[type, ...]]] = []
        self._new: list[Column] = []

    def finish(self) -> None:
        """Let the watch see the rows that fill no slot; nothing can be logged any more."""
        # The log refers back to this, and would keep its slots mapped until garbage is collected.
        log, self._log = self._log, None
        if log is not None and self._watch is not None:
            self._look(*log.unfilled())

    def _look(self, timesteps: Array, columns: Sequence[Array]) -> None:
        if self._watch is None:
            return
        seen = [
            (name, column)
            for (name, *_), column in zip(self._columns, columns, strict=True)
            if name not in self._unseen
        ]
        names = [name for name, _ in seen]
        done = self._watch(names, timesteps, [column for _, column in seen], self._lacking)
        self._unseen.update(done)

    def hand_over_full(self) -> None:
        """Hand the slot over if it is full."""
        if self._log is not None:
            self._log.hand_over_full()

    def progress(self) -> tuple[int, int]:
        """Return the rows and raw bytes logged so far."""
        return self._log.progress() if self._log else (0, 0)

    def check(self, fields: Mapping[str, Any]) -> list[Any]:
        """Return the values of one row in the table's order.

        Raises
        ------
        FieldError
            A field does not fit.
        """
        if type(fields) is not dict and not isinstance(fields, Mapping):
            raise self._no_mapping(fields)
        values: list[Any] = []
        missing = 0
        for name, dtype, shape, scalars in self._columns:
            value: Any = fields.get(name)
            kind = type(value)
            is_array = kind is np.ndarray and value.dtype is dtype and value.shape == shape
            if is_array or kind in scalars:
                values.append(value)
            elif name in fields:
                values.append(self._fitted(name, value, dtype, shape))
            else:
                flat = flattened(fields)
                if flat is not fields:
                    return self.check(flat)
                missing += 1
                values.append(self._absent(name, dtype))
        self._new = []
        if len(fields) != len(self._columns) - missing or self._log is None:
            flat = flattened(fields)
            if flat is not fields:
                return self.check(flat)
            values += self._check_new(fields, None)
        return values

    def check_block(self, fields: Mapping[str, Any], count: int) -> list[Any]:
        """Return the values of `count` rows, each field with a leading axis of that length.

        Raises
        ------
        FieldError
            A field does not fit.
        """
        if not isinstance(fields, Mapping):
            raise self._no_mapping(fields)
        fields = flattened(fields)
        values: list[Any] = []
        missing = 0
        for name, dtype, shape, _ in self._columns:
            if name in fields:
                values.append(self._fitted(name, fields[name], dtype, (count, *shape)))
            else:
                missing += 1
                values.append(np.broadcast_to(self._absent(name, dtype), (count, *shape)))
        self._new = []
        if len(fields) != len(self._columns) - missing or self._log is None:
            values += self._check_new(fields, count)
        return values

    def append(self, timestep: int, values: Sequence[Any]) -> None:
        """Append the row that ``check`` returned."""
        self._ready().append(timestep, values)

    def extend(self, timesteps: Array, values: Sequence[Any]) -> None:
        """Append the rows that ``check_block`` returned."""
        self._ready().extend(timesteps, values, len(timesteps))

    def _ready(self) -> TableLog:
        if self._log is None:
            look = None if self._watch is None else self._look
            self._log = TableLog(self._store, self._name, self._new, look, self._cursor)
        elif self._new:
            self._log.add_columns(self._new)
            self._lacking.update(column.name for column in self._new)
        else:
            return self._log
        self._columns += [(c.name, c.dtype, c.shape, _scalars(c)) for c in self._new]
        self._new = []
        return self._log

    def _absent(self, name: str, dtype: np.dtype[Any]) -> Any:
        """Return NaN for a float field that was not given."""
        if dtype.kind in "fc":
            self._lacking.add(name)
            return fill_value(dtype)
        kind = "text" if dtype.kind == "S" else dtype.name
        raise self._error(name, f"{kind} in every call", "none", _COMPLETE)

    def _fitted(self, name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """Return a value as the column wants it."""
        array = self._array(name, value)
        if array.dtype.kind == "S" and dtype.kind == "S" and array.shape == shape:
            longest = max((len(text) for text in array.reshape(-1).tolist()), default=0)
            if longest <= dtype.itemsize:
                return array.astype(dtype)
            limit = f"text of at most {dtype.itemsize} bytes"
            raise self._error(name, limit, f"{longest} bytes", "log it as static data")
        if array.dtype != dtype or array.shape != shape:
            got = spell(array.dtype, array.shape)
            raise self._error(name, spell(dtype, shape), got, _SAME)
        return array

    def _check_new(self, fields: Mapping[str, Any], count: int | None) -> list[Any]:
        known = {name for name, *_ in self._columns}
        values = []
        for name, value in fields.items():
            if name in known:
                continue
            problem = f"{name}, which is taken" if name == "timesteps" else name_problem(name)
            if problem:
                advice = "rename the field; nested values go to fields of their own"
                raise self._error(str(name), "a name without slashes", problem, advice)
            array = self._array(name, value)
            if count is not None and array.shape[:1] != (count,):
                got = spell(array.dtype, array.shape)
                raise self._error(name, f"a leading axis of {count}", got, "pass one row per step")
            shape = array.shape if count is None else array.shape[1:]
            rows = self._log.rows if self._log else 0
            if rows and array.dtype.kind not in "fc":
                expected = f"only float fields to appear after {rows} rows without them"
                raise self._error(name, expected, array.dtype.name, _COMPLETE)
            self._new.append(Column(name, array.dtype, shape, foreign_dtype(value)))
            values.append(array)
        return values

    def _array(self, name: str, value: Any) -> Array:
        return array_of(self._episode, f"{self._name}/{name}", value)

    def _no_mapping(self, fields: object) -> FieldError:
        got = type(fields).__name__
        advice = "name the field: {'name': value}"
        return FieldError(self._episode, self._name, "a dict of fields", got, advice)

    def _error(self, name: str, expected: str, got: str, advice: str) -> FieldError:
        return FieldError(self._episode, f"{self._name}/{name}", expected, got, advice)


def array_of(episode: int, field: str, value: object) -> Array:
    """Return a logged value as an array.

    Raises
    ------
    FieldError
        It cannot be stored.
    """
    try:
        return as_array(value)
    except ValueProblem as problem:
        expected, got = problem.args
        raise FieldError(episode, field, expected, got, "convert it first") from problem


def timestep_of(episode: int, value: object) -> int:
    """Return a timestep as an int.

    Raises
    ------
    FieldError
        It is not an integer of at most 64 bits.
    """
    try:
        return as_timestep(value)
    except ValueProblem as problem:
        expected, got = problem.args
        advice = "count steps in integers"
        raise FieldError(episode, "timestep", expected, got, advice) from problem


def misfit(episode: int, field: str, expected: str, got: Array) -> FieldError:
    """Return the error for an array of the wrong form."""
    advice = "check the call's arguments"
    return FieldError(episode, field, expected, spell(got.dtype, got.shape), advice)


def _scalars(column: Column) -> tuple[type, ...]:
    """Return the scalar types that a column takes as they are."""
    if column.shape or column.dtype.kind == "S":
        return ()
    plain = {"float64": float, "bool": bool}.get(column.dtype.name)
    return (column.dtype.type,) if plain is None else (plain, column.dtype.type)
