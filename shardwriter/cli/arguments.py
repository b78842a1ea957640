"""What several commands read from the command line: ids of episodes, counts."""

import argparse
from typing import TypeAlias

__all__ = ["Parser", "Subparsers", "episode_ids", "expected_ids", "positive"]

Parser: TypeAlias = argparse.ArgumentParser
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def positive(text: str) -> int:
    """Return an int of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def episode_ids(text: str) -> list[int]:
    """Return the ids of ``0:100`` or ``0:8,12``."""
    ids: list[int] = []
    try:
        for part in text.split(","):
            bounds = [int(number) for number in part.split(":")]
            ids += range(*bounds) if len(bounds) > 1 else bounds
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"expected ids such as 0:100, got {text!r}") from None
    return ids


def expected_ids(text: str) -> list[int]:
    """Return the ids of ``100``, which stands for ``0:100``, or of ``0:8,12``."""
    return list(range(int(text))) if text.isdecimal() else episode_ids(text)
