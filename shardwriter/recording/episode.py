"""An episode that is being recorded: ``log_*`` calls into tables.

Invariant: a call either logs all that it was given or, if it raises FieldError, nothing; once
it has returned, what it logged outlives every process.
"""

import json
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shardwriter.errors import EpisodeEnded, FieldError
from shardwriter.files.layout import EVENTS, FINAL_STATE, SUMMARY, TABLES
from shardwriter.files.schema import name_problem
from shardwriter.files.tree import TreeError, flatten, pack
from shardwriter.notebook import facts_html
from shardwriter.recording.content_checks import ContentChecks
from shardwriter.recording.occurrences import EventLog, WeightLog
from shardwriter.recording.table_log import Store
from shardwriter.recording.timestep_log import TimestepLog, Timing
from shardwriter.recording.writer import Sealed

__all__ = ["Episode", "held"]

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
        self._shard = shard
        self._lock = threading.Lock()
        self._alarm = store.buffer.alarm
        self._has_ended = False
        self._n_steps = 0  # once it has ended
        self._timesteps = TimestepLog(store, episode, neural_sampling_rate, checks)
        self._weights = WeightLog(store, episode, checks)
        self._events = EventLog(store, episode, checks)
        self._static: set[str] = set()

    def __repr__(self) -> str:
        return f"<Episode {self.id}: {self._state}, {self._shard}>"

    def __reduce__(self) -> str:
        raise TypeError("an Episode stays in its process; send the exporter, which opens others")

    def _repr_html_(self) -> str:
        facts = {"state": self._state, "steps": f"{self.steps:,}", "shard": self._shard}
        return facts_html(f"Episode {self.id}", facts)

    @property
    def _state(self) -> str:
        return "ended" if self._has_ended else "recording"

    # -- logging --------------------------------------------------------------------------

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
            log = self._timesteps
            if not log.log_usual(timestep, neural_state, spikes, behavior, reward, spike_ids):
                log.log(timestep, neural_state, spikes, behavior, reward, spike_ids)

    def time_timesteps(self, timing: Timing) -> None:
        """From now on, count the calls of ``log_timestep`` and time some of them."""
        with self._lock:
            self._timesteps.time_calls(timing)

    def count_timesteps(self) -> None:
        """Report the calls of ``log_timestep`` that were not yet, where they are timed."""
        with self._lock:
            if not self._has_ended:
                self._timesteps.count_calls()

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
            self._check_open("log_timesteps")
            self._timesteps.log_many(timesteps, neural_state, spikes, behavior, reward, spike_ids)

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
            self._weights.log(timestep, synapse_id, fields)

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
        fields = {"old_weights": old_weights, "new_weights": new_weights, **extra}
        with self._lock:
            self._check_open("log_weight_changes")
            self._weights.log_many(timesteps, synapse_ids, fields)

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
        with self._lock:
            self._check_open("log_event")
            self._events.log(event_type, timestep, data)

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
        self._store.buffer.add_record("static", self._packed(name, data))

    def _packed(self, name: str, data: Any) -> bytes:
        try:
            return pack(flatten(data, name))
        except TreeError as error:
            place, expected, got = error.args
            raise FieldError(self.id, place, expected, got, "convert it") from error

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

    def check_end(self, final_state: Any, summary: Any) -> None:
        """Raise the error that ``end`` would raise."""
        with self._lock:
            self._check_open("end")
        for name, value in ((FINAL_STATE, final_state), (SUMMARY, summary)):
            self._packed(name, value)

    @property
    def steps(self) -> int:
        """Timesteps logged so far."""
        with self._lock:
            return self._n_steps if self._has_ended else self._timesteps.steps

    def progress(self) -> tuple[int, int]:
        """Return the rows and raw bytes logged so far, zeros once the episode has ended."""
        with self._lock:
            if self._has_ended:
                return 0, 0
            logs = (self._timesteps, self._weights, self._events)
            counts = [count for log in logs for count in log.progress()]
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
                    error=_storable(f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]),
                    traceback=_storable(text[-_ERROR_CHARACTERS:]),
                )
            except Exception as second:  # noqa: BLE001  (must not mask the first)
                error.add_note(f"and its episode could not be ended: {second}")

    def _finish(self, status: str, **outcome: object) -> None:
        end = {"status": status, "end_time": datetime.now(UTC).isoformat(), **outcome}
        self._store.buffer.add_record("end", json.dumps(end).encode())
        self.buffer_bytes = self._store.buffer.allocated_bytes
        self._has_ended = True
        self._drain.seal()
        timesteps = self._timesteps
        self._n_steps = timesteps.steps
        # Views of the slots keep their memory mapped; nothing is logged any more.
        del self._timesteps, self._weights, self._events, self._alarm, self._store
        timesteps.finish()

    # -- errors ---------------------------------------------------------------------------

    def _check_open(self, call: str) -> None:
        if self._has_ended or self._alarm[0]:
            self._refuse(call)

    def _refuse(self, call: str) -> None:
        if self._has_ended:
            raise EpisodeEnded(self.id, call)
        self._drain.check()


@contextmanager
def held(episodes: Sequence[Episode], call: str) -> Iterator[list[TimestepLog]]:
    """Keep other threads out of several episodes while one call logs to all of them.

    Raises
    ------
    EpisodeEnded, WriterFailed
        One of them takes no more.
    """
    locks = [episode._lock for episode in episodes]
    for lock in locks:
        lock.acquire()
    try:
        for episode in episodes:
            episode._check_open(call)
        yield [episode._timesteps for episode in episodes]
    finally:
        for lock in locks:
            lock.release()


def _storable(text: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates, as in odd file names, written out."""
    return text.encode(errors="backslashreplace").decode()
