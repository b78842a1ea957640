"""The named instants of the recording protocol, where the crash tests stop a process.

Invariant: nothing happens at an instant unless a test installed an action; none is reached more
often than once per slot.
"""

from collections.abc import Callable
from typing import Final, Literal, get_args

__all__ = ["INSTANTS", "Instant", "install", "reached"]

Instant = Literal[
    "buffer created",
    "buffer started",
    "record written",
    "record linked",
    "slot full",
    "slot sent",
    "part created",
    "part published",
    "part opened",
    "chunk written",
    "chunk flushed",
    "slot returned",
    "rows salvaged",
    "journal written",
    "journal published",
    "journal applied",
    "journal removed",
    "file closed",
    "file synced",
    "file renamed",
    "directory synced",
    "buffer removed",
    "seal returned",
]
INSTANTS: Final[tuple[Instant, ...]] = get_args(Instant)

_actions: list[Callable[[Instant], None]] = []


def reached(instant: Instant) -> None:
    """Do what a test installed for this instant, usually nothing."""
    for action in _actions:
        action(instant)


def install(action: Callable[[Instant], None]) -> None:
    """Call `action` at every instant from now on, in this process; for tests only."""
    _actions.append(action)
