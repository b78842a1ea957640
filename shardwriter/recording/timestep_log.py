"""Timesteps into tables: neural states, spikes, behaviour, rewards.

Invariant: everything is checked before anything is stored, so a call that raises FieldError
logged nothing.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardwriter.errors import FieldError
from shardwriter.files.layout import BEHAVIOR, NEURAL_STATES, REWARDS, SPIKES
from shardwriter.files.schema import Column
from shardwriter.recording.content_checks import ContentChecks, warn_of_non_finite
from shardwriter.recording.fields import FieldLog, array_of, misfit, timestep_of
from shardwriter.recording.innermost import new_cursor, new_step
from shardwriter.recording.table_log import Store, TableLog
from shardwriter.recording.values import fetched

__all__ = ["Checked", "TimestepLog", "Timing"]

Array = np.ndarray[Any, Any]
# A timestep, its neural state, ids of the neurons that fired, behaviour, and reward.
Checked = tuple[int, list[Any] | None, Array | None, list[Any] | None, float]

_SPIKE_COLUMNS = (Column("neuron_ids", np.dtype(np.int32)),)
_REWARD_COLUMNS = (Column("values", np.dtype(np.float64)),)
_LAST_TIMESTEP = 2**63 - 1
_LARGEST_ID = 2**31 - 1
_PLAIN_NUMBERS = frozenset((float, np.float32, np.float64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How calls of ``log_timestep`` are timed: the usual ones now and then, all others.

    Attributes
    ----------
    first, one_in
        The first call that is timed whatever it is, and how many calls lie from one to the next.
    add_usual, add_other
        Take the seconds of a call.
    count
        Takes a number of calls that were made.
    """

    first: int
    one_in: int
    add_usual: Callable[[float], None]
    add_other: Callable[[float], None]
    count: Callable[[int], None]


class TimestepLog:
    """Logs the timesteps of one episode; see ``Episode.log_timestep`` for what it takes.

    Parameters
    ----------
    store
        The episode's buffer and drain.
    episode
        The episode's id, for errors.
    sampling
        Timesteps from one stored neural state to the next.
    checks
        Checks of content, None for none.

    Attributes
    ----------
    log_usual
        Logs a timestep that needs nothing but copies, and returns whether that is all; ``log``
        takes every other, and goes on where a slot was filled.
    fits
        Tells whether a timestep is such a one.
    store_usual
        Logs one as part of another call; ``hand_over_full`` goes on where it returns False.
    """

    def __init__(
        self, store: Store, episode: int, sampling: int, checks: ContentChecks | None
    ) -> None:
        self._store = store
        self._episode = episode
        self._sampling = sampling
        self._checks = checks
        self._steps_word = store.buffer.steps
        neural, spikes, behavior, rewards = (new_cursor() for _ in range(4))
        neural.is_watched = checks is not None
        self._step = new_step(
            self._steps_word, sampling, checks is not None, neural, spikes, behavior, rewards
        )
        watch = (lambda *block: warn_of_non_finite(episode, *block)) if checks else None
        self._neural = FieldLog(store, episode, NEURAL_STATES, watch, neural)
        self._behavior = FieldLog(store, episode, BEHAVIOR, None, behavior)
        self._spikes: TableLog | None = None
        self._rewards: TableLog | None = None
        self._cursors = spikes, rewards
        self.log_usual = self._step.log
        self.fits = self._step.fits
        self.store_usual = self._step.store
        self._timing: Timing | None = None
        self._counted = 0
        self._note_network()

    @property
    def steps(self) -> int:
        """Timesteps logged so far."""
        return self._steps_word[0]

    def log(
        self,
        timestep: Any,
        neural_state: Mapping[str, Any] | None,
        spikes: Any,
        behavior: Mapping[str, Any] | None,
        reward: Any,
        spike_ids: Any,
    ) -> None:
        """Log one timestep that ``log_usual`` did not, or not to the end."""
        call = (timestep, neural_state, spikes, behavior, reward, spike_ids)
        if self._timing is None:
            self._log(*call)
        else:
            self._log_timed(self._timing, call)

    def _log_timed(self, timing: Timing, call: tuple[Any, ...]) -> None:
        step = self._step
        start = time.perf_counter()
        if step.calls == step.timed:
            step.timed += timing.one_in
            step.calls -= 1  # it comes once more
            if step.log(*call):
                timing.add_usual(time.perf_counter() - start)
                return
        self._log(*call)
        timing.add_other(time.perf_counter() - start)

    def time_calls(self, timing: Timing) -> None:
        """From now on, time some calls; between them nothing runs for it."""
        self._timing = timing
        self._step.timed = self._step.calls + timing.first

    def count_calls(self) -> None:
        """Report the calls since this was called last, where calls are timed."""
        if self._timing is not None:
            new = self._step.calls - self._counted
            self._counted += new
            self._timing.count(new)

    def _log(
        self,
        timestep: Any,
        neural_state: Mapping[str, Any] | None,
        spikes: Any,
        behavior: Mapping[str, Any] | None,
        reward: Any,
        spike_ids: Any,
    ) -> None:
        if self._step.has_filled:
            self.hand_over_full()
            return
        if "jax" in sys.modules:
            if type(timestep) is int and not self.is_due(timestep):
                neural_state = None  # and so it is not fetched
            neural_state, spikes, behavior, reward, spike_ids = fetched(
                (neural_state, spikes, behavior, reward, spike_ids)
            )
        self.store(self.check(timestep, neural_state, spikes, behavior, reward, spike_ids))

    def hand_over_full(self) -> None:
        """Hand over the slots that the last timestep filled."""
        for log in (self._neural, self._spikes, self._behavior, self._rewards):
            if log is not None:
                log.hand_over_full()

    def is_due(self, timestep: int) -> bool:
        """Tell whether the neural state of a timestep would be stored."""
        return timestep >= self._step.next_sample

    def check(
        self,
        timestep: Any,
        neural_state: Mapping[str, Any] | None,
        spikes: Any,
        behavior: Mapping[str, Any] | None,
        reward: Any,
        spike_ids: Any,
    ) -> Checked:
        """Return one timestep as ``store`` takes it, before anything else is checked or stored.

        Raises
        ------
        FieldError
            A value does not fit.
        """
        if type(timestep) is not int:
            timestep = timestep_of(self._episode, timestep)
        if not self._step.first_valid <= timestep <= _LAST_TIMESTEP:
            raise self._out_of_order(timestep)
        if timestep < self._step.next_sample:
            neural_state = None
        states = fields = ids = None
        if neural_state is not None:
            states = self._neural.check(neural_state)
        if spikes is not None or spike_ids is not None:
            ids = self._spike_ids(spikes, spike_ids)
        if behavior is not None:
            fields = self._behavior.check(behavior)
        value = 0.0 if reward is None else self._reward(reward)
        return timestep, states, ids, fields, value

    def store(self, checked: Checked) -> None:
        """Log a timestep that was checked."""
        timestep, states, ids, fields, value = checked
        if states:
            self._neural.append(timestep, states)
            self._sampled(timestep)
        if ids is not None:
            self._spike_log().append_group(timestep, ids)
        if fields:
            self._behavior.append(timestep, fields)
        if value:
            self._reward_log().append(timestep, (value,))
        self._accept(timestep, 1)

    def log_many(
        self,
        timesteps: Any,
        neural_state: Mapping[str, Any] | None,
        spikes: Any,
        behavior: Mapping[str, Any] | None,
        reward: Any,
        spike_ids: Sequence[Any] | None,
    ) -> None:
        """Log T timesteps at once, as T calls of ``log`` would."""
        timesteps, neural_state, spikes, behavior, reward, spike_ids = fetched(
            (timesteps, neural_state, spikes, behavior, reward, spike_ids)
        )
        steps = self._steps(timesteps)
        if len(steps) == 0:
            return
        count = len(steps)
        chosen = steps[:0] if neural_state is None else self._samples(steps)
        states = None if neural_state is None else self._neural.check_block(neural_state, count)
        fired = self._spike_block(steps, spikes, spike_ids)
        fields = None if behavior is None else self._behavior.check_block(behavior, count)
        rewards = self._reward_block(steps, reward)

        if states and len(chosen):
            self._neural.extend(steps[chosen], [_rows(block, chosen) for block in states])
            self._sampled(int(steps[chosen[-1]]))
        if fired is not None:
            self._spike_log().extend(fired[0], (fired[1],), len(fired[0]))
        if fields:
            self._behavior.extend(steps, fields)
        if rewards is not None and len(rewards[0]):
            self._reward_log().extend(rewards[0], (rewards[1],), len(rewards[0]))
        self._accept(int(steps[-1]), count)

    def finish(self) -> None:
        """Check what is left to check; called at the episode's end."""
        self.count_calls()
        self._neural.finish()

    def progress(self) -> list[tuple[int, int]]:
        """Return rows and raw bytes logged so far, by table."""
        logs = (self._neural, self._behavior, self._spikes, self._rewards)
        return [log.progress() for log in logs if log is not None]

    def _accept(self, timestep: int, count: int) -> None:
        if self._checks is not None:
            self._step.first_valid = timestep
            self._checks.accept_spikes()
            self._note_network()
        self._steps_word[0] += count

    def _note_network(self) -> None:
        if self._checks is not None and self._checks.n_neurons is not None:
            self._step.n_neurons = self._checks.n_neurons

    def _sampled(self, timestep: int) -> None:
        self._step.next_sample = min(timestep + self._sampling, _LAST_TIMESTEP)

    def _out_of_order(self, timestep: int) -> FieldError:
        expected = f"an integer from {self._step.first_valid} to {_LAST_TIMESTEP}"
        advice = "log timesteps in order"
        if self._checks is not None:
            advice += ", or set validate_data=False"
        return FieldError(self._episode, "timestep", expected, str(timestep), advice)

    def _steps(self, timesteps: Any) -> Array:
        steps = array_of(self._episode, "timesteps", timesteps)
        if steps.ndim != 1 or (steps.dtype.kind not in "iu" and steps.size):
            raise misfit(self._episode, "timesteps", "integers, shape (T,)", steps)
        if steps.dtype == np.uint64 and steps.size and steps.max() > _LAST_TIMESTEP:
            raise self._out_of_order(int(steps.max()))
        steps = steps.astype(np.int64, copy=False)
        if self._checks is not None and len(steps):
            self._checks.in_order(steps, self._step.first_valid, "timesteps")
        return steps

    def _samples(self, steps: Array) -> Array:
        """Return the positions of the timesteps whose neural state is stored."""
        due = self._step.next_sample
        if self._sampling == 1 and steps[0] >= due and bool(np.all(steps[1:] > steps[:-1])):
            return np.arange(len(steps))
        chosen = []
        position = 0
        while position < len(steps):
            if steps[position] < due:
                later = np.flatnonzero(steps[position:] >= due)
                if not len(later):
                    break
                position += int(later[0])
            chosen.append(position)
            due = int(steps[position]) + self._sampling
            position += 1
        return np.array(chosen, np.intp)

    def _spike_ids(self, spikes: Any, spike_ids: Any) -> Array:
        if spike_ids is None:
            if type(spikes) is not np.ndarray:
                spikes = array_of(self._episode, "spikes", spikes)
            if spikes.ndim != 1:
                raise misfit(self._episode, "spikes", "one entry per neuron, shape (N,)", spikes)
            if self._checks is not None:
                self._checks.spike_vector(len(spikes))
            return np.asarray(spikes.nonzero()[0])
        if spikes is not None:
            advice = "pass the one that you have"
            raise FieldError(self._episode, "spikes", "spikes or spike_ids", "both", advice)
        ids = spike_ids
        if type(ids) is not np.ndarray:
            ids = array_of(self._episode, "spike_ids", ids)
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise misfit(self._episode, "spike_ids", "integer ids, shape (K,)", ids)
        self._check_range(ids)
        return np.asarray(ids)

    def _check_range(self, ids: Array) -> None:
        if len(ids) == 0:
            return
        # Several times faster than min() and max(), which go through NumPy's reductions; and ints
        # compare faster than NumPy's scalars.
        low, high = ids.item(ids.argmin()), ids.item(ids.argmax())
        lowest, largest = (0, self._checks.largest_id) if self._checks else (-(2**31), _LARGEST_ID)
        if low < lowest or high > largest:
            got = str(low if low < lowest else high)
            expected = f"ids from {lowest} to {largest}"
            advice = "check the ids against the network"
            raise FieldError(self._episode, "spike_ids", expected, got, advice)

    def _spike_block(self, steps: Array, spikes: Any, spike_ids: Any) -> tuple[Array, Array] | None:
        if spike_ids is None:
            if spikes is None:
                return None
            matrix = array_of(self._episode, "spikes", spikes)
            if matrix.ndim != 2 or len(matrix) != len(steps):
                raise misfit(self._episode, "spikes", f"shape ({len(steps)}, N)", matrix)
            if self._checks is not None:
                self._checks.spike_vector(matrix.shape[1])
            rows, ids = matrix.nonzero()
            return steps[rows], ids
        given = len(spike_ids) if isinstance(spike_ids, Sequence | np.ndarray) else "no sequence"
        if spikes is not None or given != len(steps):
            expected = f"{len(steps)} arrays, and no spikes"
            advice = "pass one array of ids per timestep"
            raise FieldError(self._episode, "spike_ids", expected, str(given), advice)
        joined = _joined(spike_ids)
        if joined is None:
            spike_ids = [self._spike_ids(None, ids) for ids in spike_ids]
            joined = np.concatenate(spike_ids)
        else:
            self._check_range(joined)
        return np.repeat(steps, list(map(len, spike_ids))), joined

    def _reward(self, reward: Any) -> float:
        if type(reward) in _PLAIN_NUMBERS:
            return float(reward)
        if isinstance(reward, (str, bytes)):
            raise FieldError(self._episode, "reward", "a number", repr(reward), "pass a float")
        if hasattr(reward, "detach"):  # a PyTorch tensor, which may require a gradient
            reward = reward.detach()
        try:
            return float(reward)
        except (TypeError, ValueError, OverflowError) as error:
            got = f"{type(reward).__name__} {reward!r}"[:100]
            raise FieldError(self._episode, "reward", "a number", got, "pass a float") from error

    def _reward_block(self, steps: Array, reward: Any) -> tuple[Array, Array] | None:
        if reward is None:
            return None
        values = array_of(self._episode, "reward", reward)
        if values.shape != steps.shape or values.dtype.kind not in "biuf":
            raise misfit(self._episode, "reward", f"numbers, shape ({len(steps)},)", values)
        values = values.astype(np.float64)
        stored = np.flatnonzero(values)
        return steps[stored], values[stored]

    def _reward_log(self) -> TableLog:
        if self._rewards is None:
            cursor = self._cursors[1]
            self._rewards = TableLog(self._store, REWARDS, _REWARD_COLUMNS, cursor=cursor)
        return self._rewards

    def _spike_log(self) -> TableLog:
        if self._spikes is None:
            cursor = self._cursors[0]
            self._spikes = TableLog(self._store, SPIKES, _SPIKE_COLUMNS, cursor=cursor)
        return self._spikes


def _rows(block: Array, chosen: Array) -> Array:
    return block if len(chosen) == len(block) else block[chosen]


def _joined(arrays: Sequence[Any]) -> Array | None:
    """Return arrays of ids as one, None where one of them is something else."""
    if {type(ids) for ids in arrays} != {np.ndarray}:
        return None
    if not {(ids.dtype.kind, ids.ndim) for ids in arrays} <= {("i", 1), ("u", 1)}:
        return None
    ids = np.concatenate(arrays)
    return ids if ids.dtype.kind in "iu" else None  # uint64 beside int64 becomes float64
