"""An episode that is being recorded: ``log_*`` calls into tables.

Invariant: a call either logs all that it was given or, if it raises FieldError, nothing; once
it has returned, what it logged outlives every process.
"""

import json
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shardwriter.content_checks import ContentChecks
from shardwriter.errors import EpisodeEnded, FieldError
from shardwriter.fields import FieldLog
from shardwriter.layout import (
    BEHAVIOR,
    EVENTS,
    FINAL_STATE,
    NEURAL_STATES,
    REWARDS,
    SPIKES,
    SUMMARY,
    TABLES,
    WEIGHT_CHANGES,
)
from shardwriter.schema import Column, name_problem
from shardwriter.table_log import Store, TableLog
from shardwriter.tree import TreeError, flatten, pack
from shardwriter.values import ValueProblem, as_array, as_timestep, fetched
from shardwriter.writer import Sealed

__all__ = ["Episode"]

Array = np.ndarray[Any, Any]

_SPIKE_COLUMNS = (Column("neuron_ids", np.dtype(np.int32)),)
_REWARD_COLUMNS = (Column("values", np.dtype(np.float64)),)
_RESERVED = {*TABLES, EVENTS, FINAL_STATE, SUMMARY}
_ERROR_CHARACTERS = 16_000


class Episode:
    """One episode; get it from ``start_episode`` or as the argument of a rollout.

    As a context manager it ends itself: as ``completed``, or as ``failed`` (``interrupted`` for
    KeyboardInterrupt and SystemExit) with the exception's text and traceback, which is raised
    on. Any number of threads may log to it.

    Attributes
    ----------
    id
        The episode's id.
    seed
        Its seed, made from the experiment's seed and the id; kept as an attribute.
    rng
        ``numpy.random.default_rng(seed)``.
    """

    def __init__(
        self,
        episode: int,
        seed: int,
        store: Store,
        shard: Path,
        neural_sampling_rate: int,
        checks: ContentChecks | None,
    ) -> None:
        self.id = episode
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._store = store
        self._drain = store.drain
        self._checks = checks
        self._shard = shard
        self._sampling = neural_sampling_rate
        self._lock = threading.Lock()
        self._alarm = store.buffer.alarm
        self._steps_word = store.buffer.steps
        self._steps = 0
        self._next_sample: int | None = None
        self._has_ended = False
        self._neural = FieldLog(store, episode, NEURAL_STATES)
        self._behavior = FieldLog(store, episode, BEHAVIOR)
        self._weights = FieldLog(store, episode, WEIGHT_CHANGES)
        self._events: dict[str, FieldLog] = {}
        self._spikes: TableLog | None = None
        self._rewards: TableLog | None = None
        self._static: set[str] = set()

    def __repr__(self) -> str:
        state = "ended" if self._has_ended else "recording"
        return f"<Episode {self.id}: {state}, {self._steps} timesteps, {self._shard}>"

    # -- one timestep ---------------------------------------------------------------------

    def log_timestep(
        self,
        timestep: int,
        neural_state: Mapping[str, Any] | None = None,
        spikes: Any = None,
        behavior: Mapping[str, Any] | None = None,
        reward: Any = None,
        *,
        spike_ids: Any = None,
    ) -> None:
        """Log one timestep; everything is copied.

        Parameters
        ----------
        timestep
            Its number.
        neural_state
            Arrays by field. Stored for the first timestep and then whenever at least
            ``neural_sampling_rate`` timesteps have passed since the last stored one.
        spikes
            One entry per neuron, shape ``(N,)``, bool or number; non-zero means fired.
        behavior
            Values by field; stored in every call.
        reward
            A number, stored as float64 where it is not 0.
        spike_ids
            The ids of the neurons that fired, shape ``(K,)``, in place of `spikes`.

        Raises
        ------
        FieldError
            A value does not fit what was logged before; this call logged nothing.
        EpisodeEnded
            The episode has ended.
        WriterFailed
            The shard cannot be written; earlier rows are kept.
        """
        with self._lock:
            if self._has_ended or self._alarm[0]:
                self._refuse("log_timestep")
            if type(timestep) is not int:
                timestep = self._timestep(timestep)
            checks = self._checks
            if checks is not None:
                checks.timestep(timestep, "timestep")
            if self._next_sample is not None and timestep < self._next_sample:
                neural_state = None
            if "jax" in sys.modules:
                neural_state, spikes, behavior, reward, spike_ids = fetched(
                    (neural_state, spikes, behavior, reward, spike_ids)
                )
            states = fields = ids = None
            if neural_state:
                states = self._neural.check(neural_state)
                if checks is not None:
                    checks.finite(states, self._neural.names, timestep)
            if spikes is not None or spike_ids is not None:
                ids = self._spike_ids(spikes, spike_ids)
            if behavior:
                fields = self._behavior.check(behavior)
            if reward is not None:
                reward = self._reward(reward)

            if states is not None:
                self._neural.append(timestep, states)
                self._next_sample = timestep + self._sampling
            if ids is not None:
                if self._spikes is None:
                    self._spikes = TableLog(self._store, SPIKES, _SPIKE_COLUMNS)
                self._spikes.append_group(timestep, ids)
            if fields is not None:
                self._behavior.append(timestep, fields)
            if reward:
                self._reward_log().append(timestep, (reward,))
            self._steps += 1
            self._steps_word[0] = self._steps

    def _timestep(self, value: Any) -> int:
        try:
            return as_timestep(value)
        except ValueProblem as problem:
            raise self._problem("timestep", problem, "count steps in integers") from problem

    def _spike_ids(self, spikes: Any, spike_ids: Any) -> Array:
        if spike_ids is None:
            vector = spikes if type(spikes) is np.ndarray else self._array("spikes", spikes)
            if vector.ndim != 1:
                raise self._misfit("spikes", "one entry per neuron, shape (N,)", vector)
            if self._checks is not None:
                self._checks.spike_vector(len(vector))
            return vector.nonzero()[0]
        if spikes is not None:
            raise FieldError(
                self.id, "spikes", "spikes or spike_ids", "both", "pass the one that you have"
            )
        ids = spike_ids if type(spike_ids) is np.ndarray else self._array("spike_ids", spike_ids)
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise self._misfit("spike_ids", "integer ids, shape (K,)", ids)
        if self._checks is not None:
            self._checks.spike_ids(ids)
        return ids

    def _reward(self, reward: Any) -> float:
        try:
            return float(reward)
        except (TypeError, ValueError) as error:
            raise FieldError(
                self.id, "reward", "a number", f"{type(reward).__name__} {reward!r}", "pass a float"
            ) from error

    def _spike_log(self) -> TableLog:
        if self._spikes is None:
            self._spikes = TableLog(self._store, SPIKES, _SPIKE_COLUMNS)
        return self._spikes

    def _reward_log(self) -> TableLog:
        if self._rewards is None:
            self._rewards = TableLog(self._store, REWARDS, _REWARD_COLUMNS)
        return self._rewards

    # -- many timesteps -------------------------------------------------------------------

    def log_timesteps(
        self,
        timesteps: Any,
        neural_state: Mapping[str, Any] | None = None,
        spikes: Any = None,
        behavior: Mapping[str, Any] | None = None,
        reward: Any = None,
        *,
        spike_ids: Sequence[Any] | None = None,
    ) -> None:
        """Log T timesteps at once, as T calls of ``log_timestep`` would.

        Parameters
        ----------
        timesteps
            Their numbers, shape ``(T,)``.
        neural_state, behavior
            Arrays ``(T, *shape)`` by field.
        spikes
            Shape ``(T, N)``.
        reward
            Shape ``(T,)``.
        spike_ids
            T arrays of ids, in place of `spikes`.

        Raises
        ------
        FieldError, EpisodeEnded, WriterFailed
            As ``log_timestep``.
        """
        with self._lock:
            if self._has_ended or self._alarm[0]:
                self._refuse("log_timesteps")
            timesteps, neural_state, spikes, behavior, reward, spike_ids = fetched(
                (timesteps, neural_state, spikes, behavior, reward, spike_ids)
            )
            steps = self._array("timesteps", timesteps)
            if steps.ndim != 1 or (steps.dtype.kind not in "iu" and steps.size):
                raise self._misfit("timesteps", "integers, shape (T,)", steps)
            if len(steps) == 0:
                return
            steps = steps.astype(np.int64, copy=False)
            if self._checks is not None:
                self._checks.timesteps(steps)
            states = fields = fired = None
            chosen = self._samples(steps) if neural_state else steps[:0]
            if neural_state:
                states = self._neural.check_block(neural_state, len(steps))
                if self._checks is not None:
                    self._checks.finite(states, self._neural.names, int(steps[0]))
            if spikes is not None or spike_ids is not None:
                fired = self._spike_block(steps, spikes, spike_ids)
            if behavior:
                fields = self._behavior.check_block(behavior, len(steps))
            rewards = None if reward is None else self._reward_block(steps, reward)

            if states is not None and len(chosen):
                self._neural.extend(steps[chosen], [block[chosen] for block in states])
                self._next_sample = int(steps[chosen[-1]]) + self._sampling
            if fired is not None:
                self._spike_log().extend(fired[0], (fired[1],), len(fired[0]))
            if fields is not None:
                self._behavior.extend(steps, fields)
            if rewards is not None and len(rewards[0]):
                self._reward_log().extend(rewards[0], (rewards[1],), len(rewards[0]))
            self._steps += len(steps)
            self._steps_word[0] = self._steps

    def _samples(self, steps: Array) -> Array:
        """Return the positions of the timesteps whose neural state is stored."""
        if self._sampling == 1 and self._next_sample is None:
            return np.arange(len(steps))
        chosen = []
        position = 0
        due = self._next_sample
        while position < len(steps):
            if due is not None and steps[position] < due:
                later = np.flatnonzero(steps[position:] >= due)
                if not len(later):
                    break
                position += int(later[0])
            chosen.append(position)
            due = int(steps[position]) + self._sampling
            position += 1
        return np.array(chosen, np.intp)

    def _spike_block(self, steps: Array, spikes: Any, spike_ids: Any) -> tuple[Array, Array]:
        if spike_ids is None:
            matrix = self._array("spikes", spikes)
            if matrix.ndim != 2 or len(matrix) != len(steps):
                raise self._misfit("spikes", f"shape ({len(steps)}, N)", matrix)
            if self._checks is not None:
                self._checks.spike_vector(matrix.shape[1])
            rows, ids = matrix.nonzero()
            return steps[rows], ids
        if spikes is not None or len(spike_ids) != len(steps):
            raise FieldError(
                self.id,
                "spike_ids",
                f"{len(steps)} arrays, and no spikes",
                f"{len(spike_ids)}",
                "pass one array of ids per timestep",
            )
        each = [self._spike_ids(None, ids) for ids in spike_ids]
        counts = [len(ids) for ids in each]
        return np.repeat(steps, counts), np.concatenate(each)

    def _reward_block(self, steps: Array, reward: Any) -> tuple[Array, Array]:
        values = self._array("reward", reward)
        if values.shape != steps.shape or values.dtype.kind not in "biuf":
            raise self._misfit("reward", f"numbers, shape ({len(steps)},)", values)
        values = values.astype(np.float64)
        stored = np.flatnonzero(values)
        return steps[stored], values[stored]

    # -- weights, events, static data -----------------------------------------------------

    def log_weight_change(
        self, timestep: int, synapse_id: Any, old_weight: Any, new_weight: Any, **extra: Any
    ) -> None:
        """Log the change of one synapse's weight.

        Parameters
        ----------
        timestep
            When it changed.
        synapse_id
            An int, or a pair ``(source neuron, target neuron)``.
        old_weight, new_weight
            Weight before and after.
        **extra
            More fields, such as an eligibility trace.

        Raises
        ------
        FieldError, EpisodeEnded, WriterFailed
            As ``log_timestep``.
        """
        fields = {"old_weights": old_weight, "new_weights": new_weight, **extra}
        with self._lock:
            self._check_open("log_weight_change")
            step = self._timestep(timestep)
            values = self._weights.check({**self._synapses(synapse_id, None), **fields})
            if self._checks is not None:
                self._checks.weights(old_weight, new_weight)
                self._checks.timestep(step, WEIGHT_CHANGES)
            self._weights.append(step, values)

    def log_weight_changes(
        self, timesteps: Any, synapse_ids: Any, old_weights: Any, new_weights: Any, **extra: Any
    ) -> None:
        """Log K weight changes at once.

        Parameters
        ----------
        timesteps
            One timestep for all, or shape ``(K,)``.
        synapse_ids
            Shape ``(K,)``, or ``(K, 2)`` for pairs of source and target.
        old_weights, new_weights
            Shape ``(K,)``.
        **extra
            More fields, each with a leading axis of K.

        Raises
        ------
        FieldError, EpisodeEnded, WriterFailed
            As ``log_timestep``.
        """
        old = self._array("old_weights", old_weights)
        if old.ndim != 1:
            raise self._misfit("old_weights", "shape (K,)", old)
        fields = {"old_weights": old, "new_weights": new_weights, **extra}
        with self._lock:
            self._check_open("log_weight_changes")
            steps = self._array("timesteps", timesteps)
            if steps.dtype.kind not in "iu" or steps.shape not in ((), old.shape):
                raise self._misfit("timesteps", f"integers, shape () or {old.shape}", steps)
            synapses = self._synapses(synapse_ids, len(old))
            if len(old) == 0:
                return
            values = self._weights.check_block({**synapses, **fields}, len(old))
            steps = np.broadcast_to(steps, old.shape)
            if self._checks is not None:
                self._checks.weights(old, new_weights)
                self._checks.timesteps(steps, WEIGHT_CHANGES)
            self._weights.extend(steps, values)

    def _synapses(self, synapse_ids: Any, count: int | None) -> dict[str, Array]:
        ids = self._array("synapse_id", synapse_ids)
        shape = () if count is None else (count,)
        if ids.dtype.kind in "iu" or ids.size == 0:
            ids = ids.astype(np.int64)
            if ids.shape == shape:
                return {"synapse_ids": ids}
            if ids.shape == (*shape, 2):
                return {"source_ids": ids[..., 0], "target_ids": ids[..., 1]}
        raise self._misfit("synapse_id", f"integers, shape {shape} or {(*shape, 2)}", ids)

    def log_event(self, event_type: str, timestep: int, data: Any = None) -> None:
        """Log something that happened at a timestep.

        Parameters
        ----------
        event_type
            Its kind; each kind is a table of its own.
        timestep
            When it happened.
        data
            Values by name, or one value, which gets the name ``value``. Numbers, arrays and
            short texts; every event of a kind has the same fields.

        Raises
        ------
        FieldError, EpisodeEnded, WriterFailed
            As ``log_timestep``.
        """
        problem = name_problem(event_type)
        if problem:
            raise FieldError(self.id, EVENTS, "a name without slashes", problem, "rename it")
        fields = data if isinstance(data, Mapping) else {} if data is None else {"value": data}
        with self._lock:
            self._check_open("log_event")
            log = self._events.get(event_type)
            if log is None:
                log = FieldLog(self._store, self.id, f"{EVENTS}/{event_type}")
            step = self._timestep(timestep)
            values = log.check(fields)
            if self._checks is not None:
                self._checks.timestep(step, f"{EVENTS}/{event_type}")
            log.append(step, values)
            self._events[event_type] = log

    def log_static_data(self, name: str, data: Any) -> None:
        """Keep data that belongs to the episode as a whole, such as a maze.

        Parameters
        ----------
        name
            Name of its group; each name once.
        data
            Nested dicts and lists of numbers, strings, arrays and None; copied.

        Raises
        ------
        FieldError
            The name is taken or reserved, or the data cannot be stored; nothing was logged.
        EpisodeEnded
            The episode has ended.
        """
        with self._lock:
            self._check_open("log_static_data")
            problem = name_problem(name)
            if problem or name in _RESERVED:
                expected = f"a name without slashes, other than {', '.join(sorted(_RESERVED))}"
                raise FieldError(self.id, "static data", expected, problem or name, "rename it")
            if name in self._static:
                raise FieldError(
                    self.id, name, "a name not yet logged", "a second value", "use another name"
                )
            self._add_static(name, data)
            self._static.add(name)

    def _add_static(self, name: str, data: Any) -> None:
        try:
            payload = pack(flatten(data, name))
        except TreeError as error:
            place, expected, got = error.args
            raise FieldError(self.id, place, expected, got, "convert it") from error
        self._store.buffer.add_record("static", payload)

    # -- the end --------------------------------------------------------------------------

    def end(
        self,
        success: bool = True,
        final_state: Any = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """End the episode as completed; its shard is published soon after.

        Parameters
        ----------
        success
            Whether the episode reached its goal; an attribute of its own, not its status.
        final_state, summary
            Nested values to keep.

        Raises
        ------
        FieldError
            A value cannot be stored; the episode is still open.
        EpisodeEnded
            It has ended before.
        """
        with self._lock:
            self._check_open("end")
            for name, value in ((FINAL_STATE, final_state), (SUMMARY, summary)):
                if value is not None and name not in self._static:
                    self._add_static(name, value)
                    self._static.add(name)
            self._finish("completed", success=bool(success))

    def progress(self) -> tuple[int, int]:
        """Return the rows and raw bytes logged so far, zeros once the episode has ended."""
        with self._lock:
            if self._has_ended:
                return 0, 0
            logs = [self._neural, self._behavior, self._weights, *self._events.values()]
            counts = [log.progress() for log in logs]
            counts += [log.progress() for log in (self._spikes, self._rewards) if log]
        return sum(rows for rows, _ in counts), sum(size for _, size in counts)

    def memory_bytes(self) -> int:
        """Return the bytes of the episode's buffer, 0 once its shard is published."""
        if self._has_ended:
            return 0 if self.is_sealed else self.buffer_bytes
        return self._store.buffer.allocated_bytes

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be logged."""
        return self._has_ended

    @property
    def is_sealed(self) -> bool:
        """Whether the shard is known to be published, or known to have failed."""
        return self._has_ended and self._drain.is_settled

    def interrupt(self) -> None:
        """End the episode as ``interrupted``, if it has not ended."""
        with self._lock:
            if not self._has_ended:
                self._finish("interrupted", success=False)

    def flush(self) -> None:
        """Bring every row logged so far to the shard's part, where no writer process does.

        Raises
        ------
        WriterFailed
            It could not be written; the rows are kept in the buffer.
        """
        with self._lock:
            if not self._has_ended:
                self._drain.flush()

    def wait(self) -> Sealed:
        """Wait until the ended episode's shard is published.

        Raises
        ------
        WriterFailed
            It could not be written.
        """
        with self._lock:  # another thread may be sealing it
            return self._drain.wait_until_sealed()

    def __enter__(self) -> "Episode":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            if not self._has_ended:
                self.end()
            return
        with self._lock:
            if self._has_ended:
                return
            is_stop = isinstance(error, (KeyboardInterrupt, SystemExit))
            text = "".join(traceback.format_exception(error))
            try:
                self._finish(
                    "interrupted" if is_stop else "failed",
                    success=False,
                    error=f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS],
                    traceback=text[-_ERROR_CHARACTERS:],
                )
            except Exception as second:  # noqa: BLE001  (must not mask the first)
                error.add_note(f"and its episode could not be ended: {second}")

    def _finish(self, status: str, **outcome: object) -> None:
        end = {"status": status, "end_time": datetime.now(UTC).isoformat(), **outcome}
        self._store.buffer.add_record("end", json.dumps(end).encode())
        self.buffer_bytes = self._store.buffer.allocated_bytes
        self._has_ended = True
        self._drain.seal()
        # Views of the slots keep their memory mapped; nothing is logged any more.
        del self._neural, self._behavior, self._weights, self._events, self._spikes, self._rewards
        del self._alarm, self._steps_word, self._store

    # -- errors ---------------------------------------------------------------------------

    def _check_open(self, call: str) -> None:
        if self._has_ended or self._alarm[0]:
            self._refuse(call)

    def _refuse(self, call: str) -> None:
        if self._has_ended:
            raise EpisodeEnded(self.id, call)
        self._drain.check()

    def _array(self, field: str, value: Any) -> Array:
        try:
            return as_array(value)
        except ValueProblem as problem:
            raise self._problem(field, problem, "convert it first") from problem

    def _problem(self, field: str, problem: ValueProblem, advice: str) -> FieldError:
        expected, got = problem.args
        return FieldError(self.id, field, expected, got, advice)

    def _misfit(self, field: str, expected: str, got: Array) -> FieldError:
        text = f"{got.dtype.name} {got.shape}"
        return FieldError(self.id, field, expected, text, "check the call's arguments")
