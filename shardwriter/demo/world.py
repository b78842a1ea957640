"""The foraging world: a square arena, food patches that smell, one agent that moves.

Lengths are centimetres, times milliseconds, angles radians. The invariant: the agent is always
inside the walls, and there are always `ArenaConfig.patches` patches.
"""

import cmath
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Arena", "ArenaConfig", "Meal", "Odour", "random_walk"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArenaConfig:
    """Size of the arena and what lies in it."""

    size_cm: float = 100.0
    patches: int = 10
    reach_cm: float = 4.0
    odour_length_cm: float = 20.0

    def __post_init__(self) -> None:
        """Refuse an arena in which no patch can be placed or found."""
        if self.patches < 1 or not 0 < 2 * self.reach_cm < self.size_cm:
            raise ValueError(
                f"arena: expected at least 1 patch and 0 < reach < size / 2, got {self.patches} "
                f"patches, reach {self.reach_cm} cm, size {self.size_cm} cm"
            )


class Odour(NamedTuple):
    """What the agent smells where it stands.

    `concentration` is the sum over patches of exp(-distance / odour length); `bearing_rad` is the
    direction in which it rises, measured from the heading, positive to the left.
    """

    concentration: float
    bearing_rad: float


class Meal(NamedTuple):
    """One patch eaten: where it lay, and where the next one has grown."""

    position: npt.NDArray[np.float32]
    regrown_at: npt.NDArray[np.float32]


class Arena:
    """A square with reflecting walls, odorous food patches and one agent.

    Points are complex numbers inside (x + iy), which makes a bearing one division and a step one
    addition.
    """

    def __init__(self, config: ArenaConfig, rng: np.random.Generator) -> None:
        """Scatter the patches and put the agent in the middle with a random heading."""
        self.config = config
        self.heading_rad = float(rng.uniform(-math.pi, math.pi))
        self.speed_cm_s = 0.0
        self.distance_cm = 0.0
        self._rng = rng
        self._where = complex(config.size_cm / 2, config.size_cm / 2)
        self._food = np.array([self._fresh_spot() for _ in range(config.patches)])

    @property
    def position(self) -> npt.NDArray[np.float32]:
        """Where the agent is, a new float32 (2,) array in cm."""
        return np.array((self._where.real, self._where.imag), dtype=np.float32)

    @property
    def food(self) -> npt.NDArray[np.float32]:
        """Where the patches are now, a new float32 (patches, 2) array in cm."""
        return np.stack((self._food.real, self._food.imag), axis=1).astype(np.float32)

    def smell(self) -> Odour:
        """Return the odour at the agent's position."""
        offsets = self._food - self._where
        distances = np.abs(offsets)
        intensity = np.exp(distances * (-1.0 / self.config.odour_length_cm))
        gradient = complex((intensity * offsets / (distances + 1e-9)).sum())
        bearing = cmath.phase(gradient * cmath.exp(-1j * self.heading_rad))
        return Odour(float(intensity.sum()), bearing)

    def move(self, speed_cm_s: float, turn_rad_s: float, duration_ms: float) -> None:
        """Turn, then walk straight for `duration_ms`; a wall reflects both path and heading."""
        seconds = duration_ms * 1e-3
        heading = self.heading_rad + turn_rad_s * seconds
        step = speed_cm_s * seconds
        dx, dy = step * math.cos(heading), step * math.sin(heading)
        x, flip_x = _reflect(self._where.real + dx, self.config.size_cm)
        y, flip_y = _reflect(self._where.imag + dy, self.config.size_cm)
        if flip_x or flip_y:
            heading = math.atan2(-dy if flip_y else dy, -dx if flip_x else dx)
        self.heading_rad = math.remainder(heading, 2 * math.pi)
        self.speed_cm_s = speed_cm_s
        self.distance_cm += step
        self._where = complex(x, y)

    def eat(self) -> Meal | None:
        """Eat the nearest patch if it is within reach, and let another grow elsewhere."""
        distances = np.abs(self._food - self._where)
        nearest = int(distances.argmin())
        if distances[nearest] > self.config.reach_cm:
            return None
        eaten = self._food[nearest]
        self._food[nearest] = self._fresh_spot()
        grown = self._food[nearest]
        return Meal(
            np.array((eaten.real, eaten.imag), dtype=np.float32),
            np.array((grown.real, grown.imag), dtype=np.float32),
        )

    def _fresh_spot(self) -> complex:
        """Draw a point at least a quarter of the arena away from the agent."""
        size, margin = self.config.size_cm, self.config.reach_cm
        while True:
            x, y = self._rng.uniform(margin, size - margin, size=2)
            spot = complex(x, y)
            if abs(spot - self._where) > size / 4:
                return spot


def _reflect(value: float, size: float) -> tuple[float, bool]:
    """Fold `value` back into [0, size] once, and say whether a wall was hit."""
    if value < 0:
        return min(-value, size), True
    if value > size:
        return max(2 * size - value, 0.0), True
    return value, False


def random_walk(
    config: ArenaConfig,
    rng: np.random.Generator,
    steps: int,
    *,
    speed_cm_s: float,
    turn_sd_rad_s: float = 2.0,
    turn_memory_ms: float = 300.0,
    frame_ms: int = 5,
) -> int:
    """Count what a walker that smells nothing eats in `steps` milliseconds.

    Its speed is constant and its turning rate an Ornstein-Uhlenbeck process: the control that a
    forager has to beat.
    """
    arena = Arena(config, rng)
    frames = steps // frame_ms
    keep = math.exp(-frame_ms / turn_memory_ms)
    kicks = rng.standard_normal(frames) * (turn_sd_rad_s * math.sqrt(1 - keep * keep))
    turn, eaten = 0.0, 0
    for kick in kicks:
        turn = keep * turn + float(kick)
        arena.move(speed_cm_s, turn, frame_ms)
        eaten += arena.eat() is not None
    return eaten
