"""Going on where another writer was killed: what is sound of its part and of the buffer.

Invariant: slots are only read, and of the part only its journal is replayed. Damage is raised, or
noted where a recovery goes on with what is sound: with the longest prefix of each table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shardwriter.errors import ShardDamaged
from shardwriter.files.buffer import TableSlots
from shardwriter.files.journal import replay
from shardwriter.files.layout import REWARDS, EpisodePaths
from shardwriter.files.salvage import check_opens, part_tables, salvage, set_aside
from shardwriter.files.shard import Shard
from shardwriter.system.instants import reached

__all__ = ["Progress", "Takeover"]


@dataclass(slots=True)
class Progress:
    """How far an episode's tables are written, and how much of them there is.

    Attributes
    ----------
    is_recovery
        Whether damage is noted, instead of raised.
    written
        Whole chunks flushed, by table.
    rewards
        Sum of rewards, by chunk.
    kept
        Rows of the tables of which not all are sound.
    part_only
        Rows of tables that the buffer does not know.
    only_in_part
        Chunks of a table that were found in a part, and whose slot is damaged.
    damage
        What is not sound.
    """

    is_recovery: bool
    written: dict[str, int] = field(default_factory=dict)
    rewards: dict[int, float] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    part_only: dict[str, int] = field(default_factory=dict)
    only_in_part: set[tuple[str, int]] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)

    def rows(self, slots: TableSlots) -> int:
        """Return how many rows of a table there are to be had."""
        return self.kept.get(slots.table.name, slots.rows)

    def lost(self, tables: Mapping[str, TableSlots]) -> dict[str, int]:
        """Return how many rows of tables are lost, -1 where that is not known."""
        return {name: max(-1, tables[name].rows - kept) for name, kept in self.kept.items()}

    def note(self, damage: Exception) -> None:
        """Raise what a recovery goes on from."""
        if not self.is_recovery:
            raise damage
        if str(damage) not in self.damage:
            self.damage.append(str(damage))


class Takeover:
    """Finds what is sound.

    Parameters
    ----------
    paths
        The episode's files.
    tables
        Its tables, by name.
    progress
        Where findings go.
    has_rebooted
        Whether the buffer was logged to before this boot: memory may not have reached it all.
    """

    def __init__(
        self,
        paths: EpisodePaths,
        tables: Mapping[str, TableSlots],
        progress: Progress,
        *,
        has_rebooted: bool,
    ) -> None:
        self._paths = paths
        self._tables = tables
        self._progress = progress
        self._has_rebooted = has_rebooted
        self._in_part: dict[str, int] = {}  # whole chunks that were found in a part

    def is_readable(self) -> bool:
        """Bring the part up to date with its journal and tell whether it can be read at all."""
        paths = self._paths
        try:
            if paths.journal.exists():
                replay(paths.journal, paths.part)
        except (ShardDamaged, FileNotFoundError) as damage:
            self._progress.note(damage)
            set_aside(paths.journal, paths.damaged)
            paths.journal.unlink()
        try:
            check_opens(paths.part, paths.episode)
        except ShardDamaged as damage:
            self._progress.note(damage)
            return False
        return True

    def copy_part(self, shard: Shard, *, is_readable: bool) -> None:
        """Write what is sound of the part into a new file, which gets every table."""
        paths = self._paths
        for name, slots in self._tables.items():
            if is_readable:
                kept = salvage(paths.part, shard, slots.table)
            else:
                shard.add_table(slots.table)
                kept = 0
            self._go_on_from(name, kept)
            if name == REWARDS:
                self._progress.rewards = shard.sums(name, 1, kept)
            self._in_part[name] = kept
        if is_readable:
            for table in part_tables(paths.part, paths.episode):
                if table.name not in self._tables:  # its record is damaged
                    salvage(paths.part, shard, table, whole=False)
                    self._progress.part_only[table.name] = shard.rows()[table.name]
        reached("rows salvaged")

    def _go_on_from(self, name: str, chunks: int) -> None:
        """Take a table's first chunks as written, as far as the buffer does not have them."""
        slots, progress = self._tables[name], self._progress
        needed = slots.oldest_unless_free
        progress.written[name] = min(chunks, slots.oldest_chunk)
        if chunks < needed:
            place = f"{name}, chunk {chunks}"
            progress.note(ShardDamaged(self._paths.part, place, "it cannot be read"))
        if chunks < needed or chunks * slots.table.rows_per_chunk > slots.rows:
            progress.written[name] = chunks
            progress.kept[name] = chunks * slots.table.rows_per_chunk

    def verify_slots(self) -> None:
        """Find the first full slot of each table whose content has changed."""
        progress = self._progress
        for name, slots in self._tables.items():
            rows = slots.table.rows_per_chunk
            if name not in progress.written:
                self._go_on_from(name, 0)
            self._verify_rest(slots)
            for chunk in range(progress.written[name], progress.rows(slots) // rows):
                if slots.is_intact(chunk, or_unknown=not self._has_rebooted):
                    continue
                if chunk < self._in_part.get(name, 0):
                    progress.only_in_part.add((name, chunk))
                else:
                    damage = f"{self._paths.buffer}: {name}: chunk {chunk} has changed"
                    progress.damage.append(damage)
                    progress.kept[name] = chunk * rows
                    break

    def _verify_rest(self, slots: TableSlots) -> None:
        """After a power loss, keep of the slot that is not full what its mark covers."""
        name, rows = slots.table.name, self._progress.rows(slots)
        rest = rows % slots.table.rows_per_chunk
        if not rest or not self._has_rebooted:
            return
        marked = slots.marked_rows()
        kept = rows - rest if marked is None else marked
        if kept < rows:
            damage = f"{name}: rows {kept} to {rows - 1} were logged too late"
            self._progress.damage.append(damage)
            self._progress.kept[name] = kept
