"""What recording costs: times of calls, rates, back-pressure, writers and compression.

Invariant: with profiling off nothing here runs per call; what a writer does is counted per
slot and per episode, always. With profiling on every call is counted, and some are timed, since
reading the clock costs a good part of what they take: of ``log_timestep`` all that are not the
usual call and one in 61 that are, of the other calls that log single rows every seventh.
"""

import itertools
import random
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from shardwriter.printable import printable_lines
from shardwriter.recording.batch import EpisodeBatch
from shardwriter.recording.episode import Episode
from shardwriter.recording.timestep_log import Timing
from shardwriter.recording.writer import Sealed

__all__ = ["CallTimes", "Collected", "Performance", "performance_text"]

# One call in so many is timed: primes, so that the calls which hand over a slot, which come at
# intervals of their own, are timed as often as they happen.
_ONE_IN = 7
_USUAL_ONE_IN = 61  # the innermost step counts them, so that the others pay nothing
_OPERATIONS = {  # and log_timestep
    "log_timesteps": 1,
    "log_weight_change": _ONE_IN,
    "log_weight_changes": 1,
    "log_event": _ONE_IN,
    "log_static_data": 1,
    "end": 1,
}
_HELD = 65_536  # times held before they go into the histogram
_BINS_PER_OCTAVE = 16
_N_BINS = 48 * _BINS_PER_OCTAVE  # from one nanosecond to three days


@dataclass(slots=True)
class CallTimes:
    """The times of one operation: a histogram of 16 bins to each doubling.

    ``count`` counts all calls, ``timed`` those that were timed. Where that is one in so many it
    stands for so many in ``total_s`` and ``bins``, which hold ``weight`` calls.
    """

    count: int = 0
    timed: int = 0
    weight: int = 0
    total_s: float = 0.0
    bins: np.ndarray[Any, np.dtype[np.int64]] = field(
        default_factory=lambda: np.zeros(_N_BINS, np.int64)
    )

    def add(self, seconds: np.ndarray[Any, np.dtype[np.float64]], one_in: int) -> None:
        """Add measured times, each of one call in so many."""
        self.timed += len(seconds)
        self.weight += one_in * len(seconds)
        self.total_s += one_in * float(seconds.sum())
        places = np.log2(np.maximum(seconds, 1e-9) * 1e9) * _BINS_PER_OCTAVE
        places = places.astype(np.intp).clip(0, _N_BINS - 1)
        self.bins += one_in * np.bincount(places, minlength=_N_BINS)

    def merge(self, other: "CallTimes") -> None:
        """Add the times of another process."""
        self.count += other.count
        self.timed += other.timed
        self.weight += other.weight
        self.total_s += other.total_s
        self.bins += other.bins

    def summary(self) -> dict[str, float]:
        """Return counts, mean and percentiles in microseconds (within 4 %)."""
        found: dict[str, float] = {"count": self.count, "timed": self.timed}
        if self.timed:
            found["mean_us"] = self.total_s / self.weight * 1e6
            reached = np.cumsum(self.bins) / self.weight
            for percent in (50, 95, 99):
                place = int(np.searchsorted(reached, percent / 100)) + 0.5
                found[f"p{percent}_us"] = float(2.0 ** (place / _BINS_PER_OCTAVE) / 1e3)
        return found


class _Calls:
    """Counts calls of one operation, and holds the times of one in so many."""

    def __init__(self, name: str, one_in: int) -> None:
        self.name = name
        self.one_in = one_in
        self.held: array[float] = array("d")
        self._count = itertools.count()  # atomic, for calls from many threads
        self._looks = 0
        self._reported = 0
        self.next = self._count.__next__

    def new(self) -> int:
        """Return how many calls there were since the last time this was asked."""
        total = self.next() - self._looks  # looking counts on, too
        self._looks += 1
        new, self._reported = total - self._reported, total
        return new


@dataclass(frozen=True, slots=True)
class Collected:
    """What one process collected: times by operation, and its sealed episodes."""

    times: Mapping[str, CallTimes]
    sealed: list[Sealed]


class Performance:
    """Collects what the episodes of one recorder cost; those of workers are added to it."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], _Calls] = {}
        self._folding = threading.Lock()
        self._places = random.Random()  # of its own: whoever seeds Python's sees no difference
        self._times: dict[str, CallTimes] = {}
        self._sealed: list[Sealed] = []
        self._start = time.monotonic()
        self._last = (self._start, 0, 0)

    def attach(self, episode: Episode) -> None:
        """Count and time an episode's calls from now on."""
        for name, one_in in _OPERATIONS.items():
            setattr(episode, name, self._timed(getattr(episode, name), self._of(name, one_in)))
        timing = Timing(
            first=self._places.randint(1, _USUAL_ONE_IN),  # or short episodes would count more
            one_in=_USUAL_ONE_IN,
            add_usual=partial(self._add, self._of("log_timestep", _USUAL_ONE_IN)),
            add_other=partial(self._add, self._of("log_timestep", 1)),
            count=self._count_timesteps,
        )
        episode.time_timesteps(timing)

    def attach_batch(self, batch: EpisodeBatch) -> None:
        """Time a batch's calls from now on; its episodes are timed already."""
        timed = self._timed(batch.log_timesteps, self._of("log_timesteps", 1))
        batch.log_timesteps = timed  # type: ignore[method-assign]  # on this one object

    def _of(self, name: str, one_in: int) -> _Calls:
        return self._calls.setdefault((name, one_in), _Calls(name, one_in))

    def _timed(self, call: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
        """Time one call in so many, and count all."""
        clock, next_call, one_in = time.perf_counter, calls.next, calls.one_in

        def timed(*arguments: Any, **options: Any) -> Any:
            if next_call() % one_in:
                return call(*arguments, **options)
            start = clock()
            try:
                return call(*arguments, **options)
            finally:
                self._add(calls, clock() - start)

        return timed

    def _count_timesteps(self, calls: int) -> None:
        with self._folding:
            self._times.setdefault("log_timestep", CallTimes()).count += calls

    def _add(self, calls: _Calls, seconds: float) -> None:
        calls.held.append(seconds)
        if len(calls.held) >= _HELD:
            self._fold(calls)

    def _fold(self, calls: _Calls) -> None:
        with self._folding:
            # A copy: NumPy's view would keep other threads from appending meanwhile.
            taken = calls.held[:]
            del calls.held[: len(taken)]  # in place: the wrappers of open episodes append to it
            times = self._times.setdefault(calls.name, CallTimes())
            times.add(np.array(taken, np.float64), calls.one_in)
            times.count += calls.new()

    def _fold_all(self) -> None:
        for calls in list(self._calls.values()):
            self._fold(calls)

    def add_sealed(self, sealed: Sealed) -> None:
        """Count an episode whose shard is published."""
        self._sealed.append(sealed)

    def collected(self) -> "Collected":
        """Return what was collected so far, for another process."""
        self._fold_all()
        return Collected(self._times, self._sealed)

    def taken(self) -> "Collected":
        """Return what was collected since the last call, for another process."""
        collected = self.collected()
        self._times, self._sealed = {}, []
        return collected

    def add(self, collected: "Collected") -> None:
        """Add what another process collected."""
        for name, times in collected.times.items():
            self._times.setdefault(name, CallTimes()).merge(times)
        self._sealed += collected.sealed

    def stats(self, open_rows: int = 0, open_bytes: int = 0) -> dict[str, Any]:
        """Return everything as nested numbers.

        Parameters
        ----------
        open_rows, open_bytes
            Rows and raw bytes logged so far by episodes that are not sealed.
        """
        self._fold_all()
        now = time.monotonic()
        rows = open_rows + sum(sum(s.rows.values()) for s in self._sealed)
        size = open_bytes + sum(sum(s.raw_bytes.values()) for s in self._sealed)
        before, rows_before, size_before = self._last
        self._last = (now, rows, size)
        return {
            "operations": {name: times.summary() for name, times in sorted(self._times.items())},
            "episodes": len(self._sealed),
            "rows": rows,
            "raw_mb": size / 1e6,
            "overall": _rates(rows, size, now - self._start),
            "now": _rates(rows - rows_before, size - size_before, now - before),
            "back_pressure": {
                "blocked_s": sum(s.blocked_s for s in self._sealed),
                "slots_high_water": max((s.slots_high_water for s in self._sealed), default=0.0),
            },
            "writer": _writer(self._sealed),
            "compression": _ratios(self._sealed),
            "codec_choices": _choices(self._sealed),
        }


def _rates(rows: int, size: int, seconds: float) -> dict[str, float]:
    seconds = max(seconds, 1e-9)
    return {"seconds": seconds, "rows_per_s": rows / seconds, "mb_per_s": size / seconds / 1e6}


def _writer(sealed: list[Sealed]) -> dict[str, float]:
    busy = sum(s.busy_s for s in sealed)
    open_for = sum(s.open_s for s in sealed)
    return {"busy_s": busy, "utilisation": busy / open_for if open_for else 0.0}


def _ratios(sealed: list[Sealed]) -> dict[str, float]:
    raw: dict[str, int] = {}
    stored: dict[str, int] = {}
    for one in sealed:
        for column, size in one.raw_bytes.items():
            raw[column] = raw.get(column, 0) + size
            stored[column] = stored.get(column, 0) + one.stored_bytes[column]
    return {column: raw[column] / stored[column] for column in raw if stored[column]}


def _choices(sealed: list[Sealed]) -> dict[str, list[str]]:
    """Return what adaptive compression chose for each column and why, in the order it did."""
    found: dict[str, list[str]] = {}
    for one in sealed:
        for column, choice in one.codec_choices.items():
            if choice not in found.setdefault(column, []):
                found[column].append(choice)
    return found


def performance_text(stats: Mapping[str, Any]) -> str:
    """Write what ``stats`` returned, and a file holds, as lines for people."""
    try:
        return printable_lines(_lines(stats))
    except (LookupError, TypeError, ValueError, AttributeError):
        return "  performance that was saved by something else"


def _lines(stats: Mapping[str, Any]) -> list[str]:
    overall, pressure, writer = stats["overall"], stats["back_pressure"], stats["writer"]
    rate = f"{overall['rows_per_s']:,.0f} rows/s, {overall['mb_per_s']:.1f} MB/s"
    high_water = f"{pressure['slots_high_water']:.0%} of the slots"
    lines = [
        f"  rate        {rate} over {overall['seconds']:.1f} s",
        f"  writers     {writer['utilisation']:.0%} busy ({writer['busy_s']:.2f} s)",
        f"  blocked     {pressure['blocked_s']:.3f} s on full slots (high water {high_water})",
    ]
    for name, times in stats["operations"].items():
        line = f"  {name:<19} {times['count']:>10,} calls"
        if times["timed"]:
            line += (
                f"  mean {times['mean_us']:.1f} µs, p50 {times['p50_us']:.1f}, "
                f"p95 {times['p95_us']:.1f}, p99 {times['p99_us']:.1f}"
            )
        if times["count"]:
            lines.append(line)
    lines += [f"  {column:<35} {ratio:6.2f}x" for column, ratio in stats["compression"].items()]
    for column, choices in stats["codec_choices"].items():
        lines += [f"  {column:<35} chosen: {choice}" for choice in choices]
    return lines
