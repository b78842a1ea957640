"""Episodes that one process steps side by side, logged to by one call.

Invariant: a call checks its values for every episode before it stores one of them, so that a call
that raises FieldError logged nothing in any.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, overload

import numpy as np

from shardwriter.errors import ConfigError, EpisodeEnded, FieldError, WriterFailed
from shardwriter.files.layout import BEHAVIOR, FINAL_STATE, NEURAL_STATES, SUMMARY
from shardwriter.files.schema import spell
from shardwriter.recording.episode import Episode, held
from shardwriter.recording.values import ValueProblem, as_array, fetched, flattened, rows_of

__all__ = ["EpisodeBatch", "Opener"]

Array = np.ndarray[Any, Any]
# Opens episodes with these ids, None for the next free one, of which a batch has so many.
Opener = Callable[[Sequence[int | None], int], list[Episode]]


class EpisodeBatch(Sequence[Episode]):
    """N episodes, one for each environment of a vectorised simulation.

    Get it from ``start_episodes``. ``batch[i]`` is the episode that environment ``i`` is in; use it
    for what only one episode has to log, such as an event. As a context manager it ends what is
    still open: as ``completed``, or as ``failed`` with the exception that leaves the block.
    """

    def __init__(self, episodes: Sequence[Episode], opener: Opener) -> None:
        self._episodes = list(episodes)
        self._open_episodes = opener
        self._lock = threading.Lock()

    # -- what it holds --------------------------------------------------------------------

    @overload
    def __getitem__(self, place: int) -> Episode: ...

    @overload
    def __getitem__(self, place: slice) -> list[Episode]: ...

    def __getitem__(self, place: int | slice) -> Episode | list[Episode]:
        return self._episodes[place]

    def __len__(self) -> int:
        return len(self._episodes)

    def __iter__(self) -> Iterator[Episode]:
        return iter(list(self._episodes))

    def __repr__(self) -> str:
        return f"<EpisodeBatch of {len(self)}: {int(self.active.sum())} recording>"

    @property
    def ids(self) -> Array:
        """The ids of the episodes, shape ``(N,)`` int64."""
        return np.array([episode.id for episode in self._episodes], np.int64)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the episodes, N ints below 2**63."""
        return [episode.seed for episode in self._episodes]

    @property
    def steps(self) -> Array:
        """How many timesteps each episode has logged so far, shape ``(N,)`` int64.

        Also the number of each episode's next timestep, where it counts from 0.
        """
        return np.array([episode.steps for episode in self._episodes], np.int64)

    @property
    def active(self) -> Array:
        """Which episodes have not ended, shape ``(N,)`` bool."""
        return np.array([not episode.has_ended for episode in self._episodes], bool)

    # -- logging --------------------------------------------------------------------------

    def log_timesteps(
        self,
        timesteps: Any,
        neural_state: Mapping[str, Any] | None = None,
        spikes: Any = None,
        behavior: Mapping[str, Any] | None = None,
        reward: Any = None,
        *,
        spike_ids: Sequence[Any] | None = None,
        active: Any = None,
    ) -> None:
        """Log one timestep of each episode, as ``log_timestep`` of each would.

        Every array has a leading axis of N, the episodes; entries of episodes that take no part
        may hold anything. JAX arrays come to the host by one transfer for all, and the neural state
        only when some episode stores it.

        Parameters
        ----------
        timesteps
            One number for all, or shape ``(N,)``.
        neural_state, behavior
            Arrays ``(N, *shape)`` by field.
        spikes
            Shape ``(N, neurons)``; non-zero means fired.
        reward
            Shape ``(N,)``.
        spike_ids
            N arrays of ids, in place of `spikes`.
        active
            The episodes that take part, shape ``(N,)`` bool; by default those that have not ended.

        Raises
        ------
        FieldError
            A value does not fit; no episode has logged anything of this call.
        EpisodeEnded
            An episode that takes part has ended, or all have.
        WriterFailed
            A shard cannot be written; earlier rows are kept.
        """
        with self._lock:
            places = self._places(active, "log_timesteps")
            chosen = [self._episodes[i] for i in places]
            with held(chosen, "log_timesteps") as logs:
                steps = self._timesteps(timesteps)
                if not any(log.is_due(steps[i]) for i, log in zip(places, logs, strict=True)):
                    neural_state = None  # and so it is not fetched
                values = fetched((neural_state, spikes, behavior, reward, spike_ids))
                rows = self._rows(steps, *values)
                calls = [(log, rows[i]) for i, log in zip(places, logs, strict=True)]
                unusual = [None if log.fits(*row) else log.check(*row) for log, row in calls]
                for (log, row), checked in zip(calls, unusual, strict=True):
                    if checked is not None:
                        log.store(checked)
                    elif not log.store_usual(*row):
                        log.hand_over_full()

    def _rows(
        self,
        steps: list[int],
        neural_state: Any,
        spikes: Any,
        behavior: Any,
        reward: Any,
        spike_ids: Any,
    ) -> list[tuple[Any, ...]]:
        """Return the arguments of N calls, from those of one."""
        columns = (
            steps,
            self._fields(NEURAL_STATES, neural_state),
            self._split("spikes", spikes),
            self._fields(BEHAVIOR, behavior),
            self._split("reward", reward),
            self._split("spike_ids", spike_ids),
        )
        return list(zip(*columns, strict=True))

    def _timesteps(self, timesteps: Any) -> list[int]:
        if type(timesteps) is int:
            return [timesteps] * len(self)
        try:
            steps = as_array(timesteps)
        except ValueProblem as problem:
            raise self._error("timesteps", *problem.args) from problem
        if steps.dtype.kind not in "iu" or steps.shape not in ((), (len(self),)):
            expected = f"integers, shape () or ({len(self)},)"
            raise self._error("timesteps", expected, spell(steps.dtype, steps.shape))
        return [int(step) for step in np.broadcast_to(steps, (len(self),)).tolist()]

    def _fields(self, table: str, fields: Any) -> Sequence[Any]:
        if fields is None:
            return [None] * len(self)
        if not isinstance(fields, Mapping):
            got = type(fields).__name__
            raise self._error(table, "a dict of fields", got, "name the field: {'name': value}")
        flat = flattened(fields)
        columns = [self._split(f"{table}/{name}", value) for name, value in flat.items()]
        if not columns:
            return [{}] * len(self)
        return [dict(zip(flat, row, strict=True)) for row in zip(*columns, strict=True)]

    def _split(self, field: str, value: Any) -> Sequence[Any]:
        if value is None:
            return [None] * len(self)
        try:
            return rows_of(value, len(self))
        except ValueProblem as problem:
            raise self._error(field, *problem.args) from problem

    # -- ends and beginnings --------------------------------------------------------------

    def end(
        self,
        which: Any = None,
        success: Any = True,
        final_state: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """End some of the episodes as completed.

        Parameters
        ----------
        which
            Which, shape ``(N,)`` bool; by default all that have not ended.
        success
            One value for all, or shape ``(N,)``.
        final_state, summary
            Nested values to keep. An array or list has a leading axis of N, of which each episode
            keeps its entry; a single number or text is kept by each.

        Raises
        ------
        FieldError
            A value cannot be stored; every episode is as it was.
        EpisodeEnded
            One of them has ended before.
        WriterFailed
            A shard cannot be written; the others have ended.
        """
        with self._lock:
            places = self._places(which, "end", or_none=True)
            success, final_state, summary = fetched((success, final_state, summary))
            endings = []
            for i in places:
                state = self._entry(FINAL_STATE, final_state, i)
                kept = self._entry(SUMMARY, summary, i)
                self._episodes[i].check_end(state, kept)
                succeeded = bool(self._entry("success", success, i))
                endings.append(partial(self._episodes[i].end, succeeded, state, kept))
            _do_all(endings)

    def _entry(self, name: str, tree: Any, place: int) -> Any:
        """Return an episode's part of nested values."""
        if isinstance(tree, Mapping):
            return {key: self._entry(f"{name}/{key}", item, place) for key, item in tree.items()}
        has_axis = isinstance(tree, (list, tuple)) or getattr(tree, "ndim", 0) > 0
        return self._split(name, tree)[place] if has_axis else tree

    def restart(self, which: Any = None, ids: Iterable[int] | None = None) -> list[Episode]:
        """Open new episodes in the places of some that have ended, as after an autoreset.

        Parameters
        ----------
        which
            Which, shape ``(N,)`` bool; by default all that have ended.
        ids
            Their ids, one for each place; by default the next free ones.

        Returns
        -------
        list of Episode
            The new ones.

        Raises
        ------
        ConfigError
            One of them has not ended, or there is not one id for each.
        EpisodeExists, NoSpace
            As ``start_episodes``; the batch is as it was.
        """
        with self._lock:
            ended = ~self.active
            places = np.flatnonzero(ended if which is None else self._mask(which)).tolist()
            for i in places:
                if not ended[i]:
                    got = f"episode {self._episodes[i].id}, which has not"
                    raise ConfigError("restart", "episodes that have ended", got)
            wanted: list[int | None] = [None] * len(places) if ids is None else list(ids)
            if len(wanted) != len(places):
                raise ConfigError("ids", f"{len(places)}, one for each new episode", wanted)
            opened = self._open_episodes(wanted, len(self))
            for i, episode in zip(places, opened, strict=True):
                self._episodes[i] = episode
            return opened

    def __enter__(self) -> "EpisodeBatch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _do_all([partial(episode.__exit__, kind, error, trace) for episode in self._episodes])

    # -- which ----------------------------------------------------------------------------

    def _places(self, which: Any, call: str, *, or_none: bool = False) -> list[int]:
        """Return the places of the episodes that a call is for."""
        if which is not None:
            return [int(i) for i in np.flatnonzero(self._mask(which))]
        places = [i for i, episode in enumerate(self._episodes) if not episode.has_ended]
        if not places and not or_none:
            raise EpisodeEnded(self._episodes[-1].id, call)
        return places

    def _mask(self, which: Any) -> Array:
        mask = np.asarray(fetched((which,))[0])
        if mask.dtype != bool or mask.shape != (len(self),):
            expected, got = spell(np.dtype(bool), (len(self),)), spell(mask.dtype, mask.shape)
            raise self._error("mask", expected, got)
        return mask

    def _error(
        self, field: str, expected: str, got: str, advice: str = "check the call's arguments"
    ) -> FieldError:
        return FieldError([episode.id for episode in self._episodes], field, expected, got, advice)


def _do_all(actions: Sequence[Callable[[], None]]) -> None:
    """Do everything, then raise the first failure."""
    failures = []
    for action in actions:
        try:
            action()
        except WriterFailed as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
