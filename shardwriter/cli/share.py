"""``--shard-of``: which of the episodes one job of an array records."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Share", "share"]


@dataclass(frozen=True, slots=True)
class Share:
    """Every `count`-th episode, from the one at `index` on."""

    index: int
    count: int

    def of(self, episodes: Sequence[int]) -> Sequence[int]:
        """Return the episodes of this share."""
        return episodes[self.index % self.count :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share(text: str) -> Share:
    """Return the share that ``3/100`` or ``slurm`` names.

    Indices of an array may begin at 0 or at 1: of 100 jobs, the one with 100 has the share 0.
    """
    if text == "slurm":
        return _of_slurm()
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        expected = "expected I/N, such as 3/100, or slurm"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    index, count = int(match[1]), int(match[2])
    if index > count or count < 1:
        raise argparse.ArgumentTypeError(f"expected I from 0 to N - 1, or 1 to N, got {text}")
    return Share(index, count)


def _of_slurm() -> Share:
    try:
        index, low, high, count = (
            int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "MAX", "COUNT")
        )
    except KeyError as error:
        text = f"slurm: expected a job of an array (sbatch --array=0-99), but {error} is not set"
        raise argparse.ArgumentTypeError(text) from None
    if high - low + 1 != count:
        advice = f"give I/N with the N of the whole array, as --shard-of {index}/{high + 1}"
        text = f"slurm: expected an array without gaps, got {count} jobs from {low} to {high}"
        raise argparse.ArgumentTypeError(f"{text}; {advice}")
    return Share(index - low, count)
