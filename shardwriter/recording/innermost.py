"""The innermost step of ``log_timestep``: compiled where the package was built with a compiler.

Invariant: what is compiled is a shortcut. It stores a timestep as ``TimestepLog`` would, or stores
nothing and leaves it to that; handing a full slot over it always leaves to that. The classes here
stand in its place where it is not there.
"""

from typing import Any, Protocol, cast

import numpy as np

from shardwriter.compiled import compiled_module

__all__ = ["Cursor", "Step", "new_cursor", "new_step"]

Array = np.ndarray[Any, Any]

_FURTHEST = 2**63 - 1


class Cursor(Protocol):
    """Where the next row of a table goes.

    Attributes
    ----------
    is_watched
        Whether rows are looked at for ``all_finite`` when they are stored.
    """

    is_watched: bool

    def enter(
        self, names: tuple[str, ...], arrays: tuple[Array, ...], counter: memoryview, base: int, /
    ) -> None:
        """Go on in a slot.

        Parameters
        ----------
        names
            The columns after ``timesteps``.
        arrays
            All columns of the slot, ``(rows, *shape)``.
        counter
            The table's row counter, one 8-byte word.
        base
            The table's row that is the slot's first.
        """

    def leave(self) -> None:
        """Be in no slot."""

    def all_finite(self) -> bool:
        """Tell whether the slot, which is full, is known to hold neither NaN nor infinity."""


class Step(Protocol):
    """Logs the usual timesteps of one episode.

    A call is a timestep, its neural state, spikes, behaviour, reward and spike ids.

    Attributes
    ----------
    first_valid
        The smallest timestep that may come.
    next_sample
        The smallest timestep whose neural state is stored.
    n_neurons
        How many entries a vector of spikes has, -1 where that is not known.
    calls
        Calls of ``log`` so far.
    timed
        The call that is left to Python whatever it is; 0 for none.
    """

    first_valid: int
    next_sample: int
    n_neurons: int
    calls: int
    timed: int

    @property
    def has_filled(self) -> bool:
        """Whether the last call was stored, and filled a slot that is to be handed over."""

    def log(self, *call: Any) -> bool:
        """Log a timestep and return True; return False where Python has to go on.

        Nothing was logged then, unless ``has_filled`` is set.
        """

    def fits(self, *call: Any) -> bool:
        """Tell whether ``store`` of a timestep would store it; store nothing."""

    def store(self, *call: Any) -> bool:
        """Log a timestep as ``log`` does, but as part of a call for several; ``calls`` stays."""


class PythonCursor:
    """Keeps nothing."""

    is_watched = False

    def enter(
        self, names: tuple[str, ...], arrays: tuple[Array, ...], counter: memoryview, base: int, /
    ) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""

    def all_finite(self) -> bool:
        """Return False: somebody has to look."""
        return False


class PythonStep:
    """Leaves every timestep to its caller."""

    has_filled = False
    __slots__ = ("calls", "first_valid", "n_neurons", "next_sample", "timed")

    def __init__(self, is_checked: bool) -> None:
        self.first_valid = 0 if is_checked else -(2**63)
        self.next_sample = -(2**63)
        self.n_neurons = -1
        self.calls = self.timed = 0

    def log(self, *call: Any) -> bool:
        """Return False."""
        self.calls += 1
        return False

    def fits(self, *call: Any) -> bool:
        """Return False."""
        return False

    store = fits


compiled = compiled_module("shardwriter.recording._fast")


def new_cursor() -> Cursor:
    """Return a cursor that is in no slot."""
    return cast(Cursor, compiled.Cursor()) if compiled else PythonCursor()


def new_step(
    steps: memoryview,
    sampling: int,
    is_checked: bool,
    neural: Cursor,
    spikes: Cursor,
    behavior: Cursor,
    rewards: Cursor,
) -> Step:
    """Return what logs an episode's timesteps.

    Parameters
    ----------
    steps
        Counts them: one 8-byte word.
    sampling
        Timesteps from one stored neural state to the next.
    is_checked
        Whether timesteps must not fall, and ids lie within the network.
    neural, spikes, behavior, rewards
        Where the next row of each table goes.
    """
    if not compiled or sampling > _FURTHEST:
        return PythonStep(is_checked)
    tables = (neural, spikes, behavior, rewards)
    return cast(Step, compiled.Step(steps, sampling, is_checked, *tables))
