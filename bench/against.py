"""Compare a run with a saved one, so that a regression shows.

Machines are shared, so a figure alone says little, and its share of its limit (else its ratio to
its peer), measured in the same run, is compared as well. A change counts where both agree, and
where the smaller of the two exceeds 10 % and how much the rounds of both runs differ among
themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.findings import Beside, Figure

__all__ = ["Change", "compare"]

LEAST_CHANGE = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One figure, before and now.

    Attributes
    ----------
    factor
        How many times better than before, at least: below 1 is worse.
    tolerance
        By how much it may be worse without being called so.
    compared
        What was: the value, and which ratio.
    """

    before: Figure
    now: Figure
    factor: float
    tolerance: float
    compared: str

    @property
    def verdict(self) -> Literal["worse", "better", "same"]:
        """Say which it is."""
        if self.factor < 1 / (1 + self.tolerance):
            return "worse"
        return "better" if self.factor > 1 + self.tolerance else "same"


def compare(
    before: Iterable[Figure], now: Iterable[Figure]
) -> tuple[list[Change], list[str], list[str]]:
    """Return changes, what was measured only before, and what only now."""
    old = {figure.key: figure for figure in before}
    new = {figure.key: figure for figure in now}
    changes = [_change(old[key], new[key]) for key in old if key in new]
    return changes, sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())


def _change(before: Figure, now: Figure) -> Change:
    compared, factors = "value", [_factor(before.value, now.value, now)]
    for name, was, is_now in (
        ("ratio to peer", before.peer, now.peer),
        ("share of limit", before.ceiling, now.ceiling),
    ):
        if _is_same(was, is_now):
            compared, factors[1:] = f"value, {name}", [_factor(was.ratio, is_now.ratio, now)]
    agree = all(factor < 1 for factor in factors) or all(factor > 1 for factor in factors)
    return Change(
        before=before,
        now=now,
        factor=min(factors, key=lambda factor: abs(math.log(factor or 1e-9))) if agree else 1.0,
        tolerance=max(LEAST_CHANGE, _spread(before), _spread(now)),
        compared=compared,
    )


def _factor(before: float, now: float, figure: Figure) -> float:
    """Return how many times better it is now."""
    return _quotient(now, before) if figure.is_rate else _quotient(before, now)


def _is_same(was: Beside | None, now: Beside | None) -> bool:
    return was is not None and now is not None and was.name == now.name


def _quotient(above: float, below: float) -> float:
    if above == below:
        return 1.0
    return max(0.0, above) / below if below > 0 else math.inf


def _spread(figure: Figure) -> float:
    return (figure.high - figure.low) / abs(figure.value) if figure.value else 0.0
