"""How to merge, and what a merge did."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge.differences import SchemaDifference

__all__ = ["MergeOptions", "MergeReport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeOptions:
    """How to merge.

    ``expected`` are the ids that have to be there; ``renumber`` gives colliding episodes new
    ids, which they keep; ``forget_missing`` drops episodes of the last master whose shards are not
    there, or in no directory that is given; ``rebuild`` takes nothing over from it but ids;
    ``concat`` adds datasets over all episodes; ``dry_run`` writes nothing; ``workers`` read shards
    in parallel, by default one for each core.
    """

    expected: Sequence[int] | None = None
    renumber: bool = False
    forget_missing: bool = False
    rebuild: bool = False
    concat: bool = False
    dry_run: bool = False
    workers: int | None = None
    progress: bool = False


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did, or with ``dry_run`` would do.

    ``added``, ``changed`` (read anew; with ``rebuild``, all) and ``removed`` are ids against the
    last master; ``renumbered`` maps ids of the master to the shard and the id there. ``root`` is
    the directory that holds both the master and its shards.
    """

    path: Path
    episodes: int
    added: tuple[int, ...]
    changed: tuple[int, ...]
    removed: tuple[int, ...]
    renumbered: dict[int, tuple[Path, int]]
    differences: tuple[SchemaDifference, ...]
    root: Path

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": str(self.path),
            "episodes": self.episodes,
            "added": list(self.added),
            "changed": list(self.changed),
            "removed": list(self.removed),
            "renumbered": {
                str(episode): {"path": str(path), "episode": original}
                for episode, (path, original) in self.renumbered.items()
            },
            "differences": {
                each.field: [[dtype, list(shape)] for dtype, shape in each.forms]
                for each in self.differences
            },
            "root": str(self.root),
        }

    @property
    def leaves_folder(self) -> bool:
        """Tell whether shards lie outside the master's folder, so that readers have to agree."""
        return self.root != self.path.parent

    @property
    def is_unchanged(self) -> bool:
        """Tell whether every episode was in the last master already, as it is."""
        return not (self.added or self.changed or self.removed)
