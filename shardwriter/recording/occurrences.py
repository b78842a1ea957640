"""What happens now and then: weight changes and events.

Invariant: everything is checked before anything is stored.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shardwriter.errors import FieldError
from shardwriter.files.layout import EVENTS, WEIGHT_CHANGES
from shardwriter.files.schema import name_problem
from shardwriter.recording.content_checks import ContentChecks
from shardwriter.recording.fields import FieldLog, array_of, misfit, timestep_of
from shardwriter.recording.table_log import Store

__all__ = ["EventLog", "WeightLog"]

Array = np.ndarray[Any, Any]


class WeightLog:
    """Logs the weight changes of one episode; see ``Episode.log_weight_change``."""

    def __init__(self, store: Store, episode: int, checks: ContentChecks | None) -> None:
        self._episode = episode
        self._checks = checks
        self._log = FieldLog(store, episode, WEIGHT_CHANGES)
        self._first_valid = 0

    def log(self, timestep: Any, synapse_id: Any, fields: Mapping[str, Any]) -> None:
        """Log one change; `fields` are its weights and what else there is."""
        step = timestep_of(self._episode, timestep)
        values = self._log.check({**self._synapses(synapse_id, None), **fields})
        if self._checks is not None:
            self._check(np.array([step]), fields)
            self._first_valid = step
        self._log.append(step, values)

    def log_many(self, timesteps: Any, synapse_ids: Any, fields: Mapping[str, Any]) -> None:
        """Log K changes at once; every field has a leading axis of K."""
        old = array_of(self._episode, "old_weights", fields["old_weights"])
        if old.ndim != 1:
            raise misfit(self._episode, "old_weights", "shape (K,)", old)
        steps = array_of(self._episode, "timesteps", timesteps)
        if steps.dtype.kind not in "iu" or steps.shape not in ((), old.shape):
            expected = f"integers, shape () or {old.shape}"
            raise misfit(self._episode, "timesteps", expected, steps)
        synapses = self._synapses(synapse_ids, len(old))
        if len(old) == 0:
            return
        values = self._log.check_block({**synapses, **fields}, len(old))
        steps = np.broadcast_to(steps, old.shape)
        if self._checks is not None:
            self._check(steps, fields)
            self._first_valid = int(steps[-1])
        self._log.extend(steps, values)

    def progress(self) -> list[tuple[int, int]]:
        """Return rows and raw bytes logged so far."""
        return [self._log.progress()]

    def _check(self, steps: Array, fields: Mapping[str, Any]) -> None:
        if self._checks is not None:
            self._checks.in_order(steps, self._first_valid, f"{WEIGHT_CHANGES}/timesteps")
            for name in ("old_weights", "new_weights"):
                self._checks.finite_weights(name, fields[name])

    def _synapses(self, synapse_ids: Any, count: int | None) -> dict[str, Array]:
        ids = array_of(self._episode, "synapse_id", synapse_ids)
        shape = () if count is None else (count,)
        if ids.dtype.kind in "iu" or ids.size == 0:
            ids = ids.astype(np.int64)
            if ids.shape == shape:
                return {"synapse_ids": ids}
            if ids.shape == (*shape, 2):
                return {"source_ids": ids[..., 0], "target_ids": ids[..., 1]}
        expected = f"integers, shape {shape} or {(*shape, 2)}"
        raise misfit(self._episode, "synapse_id", expected, ids)


class EventLog:
    """Logs the events of one episode, each type in a table of its own."""

    def __init__(self, store: Store, episode: int, checks: ContentChecks | None) -> None:
        self._store = store
        self._episode = episode
        self._checks = checks
        self._logs: dict[str, FieldLog] = {}
        self._first_valid: dict[str, int] = {}

    def log(self, event_type: str, timestep: Any, data: Any) -> None:
        """Log one event."""
        problem = name_problem(event_type)
        if problem:
            expected = "a name without slashes"
            raise FieldError(self._episode, EVENTS, expected, problem, "rename the type")
        table = f"{EVENTS}/{event_type}"
        log = self._logs.get(event_type) or FieldLog(self._store, self._episode, table)
        step = timestep_of(self._episode, timestep)
        if self._checks is not None:
            first = self._first_valid.get(event_type, 0)
            self._checks.in_order(np.array([step]), first, f"{table}/timesteps")
        fields = data if isinstance(data, Mapping) else {} if data is None else {"value": data}
        log.append(step, log.check(fields))
        self._logs[event_type] = log
        self._first_valid[event_type] = step

    def progress(self) -> list[tuple[int, int]]:
        """Return rows and raw bytes logged so far, by type."""
        return [log.progress() for log in self._logs.values()]
