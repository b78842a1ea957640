"""What the figures should be, and whether they are.

A goal is about a figure itself, about its ratio to a peer that does the same work in the same run,
or about its share of the limit that holds for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.findings import Figure

__all__ = ["GOALS", "Goal", "Verdict", "judged"]

# A recorder that this one succeeds recorded A1k at 16,000 steps/s on a machine whose buffered
# write() made 394,000; four times that.
FOUR_TIMES_PREDECESSOR = 4 * 16_000 / 394_000

About = Literal["value", "peer", "ceiling"]
Verdict = Literal["met", "missed", "not measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A bound for one figure.

    Attributes
    ----------
    key
        The figure's.
    about
        Its value, or the ratio to its peer or ceiling.
    bound, is_least
        It should be at least, or at most, that.
    """

    key: str
    about: About
    bound: float
    is_least: bool = True

    @property
    def question(self) -> str:
        """The benchmark that answers."""
        return self.key.partition("/")[0]

    def measured(self, figure: Figure) -> float | None:
        """Return what is compared with the bound; None if it was not measured."""
        if self.about == "value":
            return figure.value
        beside = figure.peer if self.about == "peer" else figure.ceiling
        return None if beside is None else beside.ratio

    def judge(self, figure: Figure | None) -> Verdict:
        """Say whether a figure is as it should be."""
        found = None if figure is None else self.measured(figure)
        if found is None:
            return "not measured"
        is_met = found >= self.bound if self.is_least else found <= self.bound
        return "met" if is_met else "missed"

    def spell(self, unit: str) -> str:
        """Spell the bound."""
        sign = ">=" if self.is_least else "<="
        if self.about == "value":
            return f"{sign} {self.bound:,g} {unit}"
        if self.about == "peer":
            return f"{sign} {self.bound:g}x peer"
        return f"{sign} {100 * self.bound:.0f} % of limit"


def _most(key: str, bound: float, about: About = "value") -> Goal:
    return Goal(key=key, about=about, bound=bound, is_least=False)


def _least(key: str, bound: float, about: About = "value") -> Goal:
    return Goal(key=key, about=about, bound=bound)


GOALS: tuple[Goal, ...] = (
    _least("record/A1k/gzip", 10, "peer"),
    _least("record/A1k/gzip", FOUR_TIMES_PREDECESSOR, "ceiling"),
    _least("peers/A1k/ahead", 1),
    _least("record/A10k/gzip", 600),
    _least("record/A10k/none", 0.7, "ceiling"),
    _least("record/B1k/gzip", 250_000),
    _least("record/A1k/lz4", 1, "peer"),
    _least("record/A1k/zstd", 1, "peer"),
    _least("frames/gzip", 1, "peer"),
    _most("latency/p50", 8),
    _most("latency/tail", 3),
    _most("latency/field", 1),
    _most("overhead/validation/ids", 10),
    _most("overhead/validation/dense", 10),
    _most("overhead/profiling/ids", 5),
    _most("overhead/compressing", 1.1, "peer"),
    _least("bulk/gzip", 0.8, "ceiling"),
    _least("bulk/none", 0.7, "ceiling"),
    _least("short_episodes/gzip", 150),
    _least("scaling/self/2", 1.9),
    _most("memory/rollout", 60),
    _most("memory/writer", 60),
    _least("read/episode/2", 3, "peer"),
    _least("read/episode/1", 1.5, "peer"),
    _most("read/timestep", 1, "peer"),
    _most("start/import", 150),
    _most("start/help", 200),
    _most("start/first_row", 1_000),
    _most("idle/writer", 1),
    _most("death/rollout", 10),
    _most("death/writer", 10),
    _most("death/producer", 10),
    _most("compression/column", 1.03),
)


def judged(figures: Iterable[Figure]) -> list[tuple[Goal, Figure | None, Verdict]]:
    """Judge every goal by the figures of a run."""
    by_key = {figure.key: figure for figure in figures}
    return [(goal, by_key.get(goal.key), goal.judge(by_key.get(goal.key))) for goal in GOALS]
