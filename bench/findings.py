"""What a benchmark found, in a form that can be printed, judged, drawn, saved and compared.

Invariant: a figure has a key that stays the same from run to run, so that runs can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import busy_cpu_s, tree_cpu_s, wait_until_quiet

__all__ = ["Beside", "Figure", "Findings", "Rounds", "Setting", "Table", "figure", "interleaved"]

BUSY_CORES = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How to measure.

    Attributes
    ----------
    folder
        An existing folder, on the disk to be measured, for all that is recorded.
    is_quick
        Seconds instead of minutes: shows that the benchmark works, and nothing else.
    is_full
        Also the sizes that take longer than all the rest.
    shards
        Measure ``merge`` with this many shards alone; 0 for its own sizes.
    rounds
        How often everything is measured, in turn.
    quiet_s
        How long each measurement waits for a quiet machine at most.
    """

    folder: Path
    is_quick: bool
    is_full: bool = False
    shards: int = 0
    rounds: int
    quiet_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What a figure is read beside: a peer that does the same, or the limit that holds for both.

    Attributes
    ----------
    value
        The other's figure, in the same unit.
    ratio
        Ours / the other's, taken within a round; median over rounds.
    """

    name: str
    value: float
    ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure: the median over rounds, and the smallest and largest of them.

    Attributes
    ----------
    key
        Path-like; the same in every run.
    what
        For people.
    is_rate
        More is better; else less is.
    """

    key: str
    what: str
    value: float
    unit: str
    low: float
    high: float
    is_rate: bool = True
    peer: Beside | None = None
    ceiling: Beside | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Figure:
        """Read what `dataclasses.asdict` gave."""
        besides = {
            name: None if values.get(name) is None else Beside(**values[name])
            for name in ("peer", "ceiling")
        }
        return cls(**{**values, **besides})


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table that goes into more detail than the figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(kw_only=True, slots=True)
class Findings:
    """All that one benchmark found.

    Attributes
    ----------
    series
        What the plots need, by name; JSON.
    missing
        Peers that are not installed, and how to install them.
    foreign_cores
        CPU that other processes used meanwhile, in cores.
    error
        Why the benchmark failed, if it did.
    """

    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    foreign_cores: float = 0.0
    took_s: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Findings:
        """Read what `to_json` gave."""
        figures = [Figure.from_json(each) for each in values["figures"]]
        tables = [Table(**each) for each in values["tables"]]
        return cls(**{**values, "figures": figures, "tables": tables})


Rounds = Sequence[dict[str, float]]
"""For each round, the value by name of what was measured."""


def interleaved(
    actions: Mapping[str, Callable[[], float | dict[str, float]]], setting: Setting
) -> list[dict[str, float]]:
    """Measure everything in turn, in every round.

    An action that returns several values gives ``"<action> <value's name>"`` each. Rounds in which
    other processes used much CPU do not count, unless all are such.
    """
    quiet, all_rounds = [], []
    for _ in range(setting.rounds):
        wait_until_quiet(setting.quiet_s)
        busy, used, start = busy_cpu_s(), tree_cpu_s(), time.perf_counter()
        values: dict[str, float] = {}
        for name, action in actions.items():
            got = action()
            several = got if isinstance(got, dict) else None
            values |= (
                {name: got} if several is None else {f"{name} {k}": v for k, v in several.items()}
            )
        wall = time.perf_counter() - start
        foreign = (busy_cpu_s() - busy - (tree_cpu_s() - used)) / wall
        all_rounds.append(values)
        if foreign <= BUSY_CORES:
            quiet.append(values)
    return quiet or all_rounds


def figure(
    key: str,
    what: str,
    rounds: Rounds,
    name: str,
    unit: str,
    *,
    is_rate: bool = True,
    peer: tuple[str, str] | None = None,
    ceiling: tuple[str, str] | None = None,
) -> Figure:
    """Reduce rounds to one figure.

    Parameters
    ----------
    key, what, unit, is_rate
        As in `Figure`.
    rounds, name
        Where its values are.
    peer, ceiling
        Name in the rounds, and for people, of what it is read beside.
    """

    def beside(other: tuple[str, str] | None) -> Beside | None:
        if other is None:
            return None
        found = [each for each in rounds if other[0] in each]
        if not found:
            return None
        return Beside(
            name=other[1],
            value=median(each[other[0]] for each in found),
            ratio=median(each[name] / each[other[0]] for each in found),
        )

    values = [each[name] for each in rounds]
    return Figure(
        key=key,
        what=what,
        value=median(values),
        unit=unit,
        low=min(values),
        high=max(values),
        is_rate=is_rate,
        peer=beside(peer),
        ceiling=beside(ceiling),
    )
