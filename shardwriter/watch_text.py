"""A running experiment, as lines for people."""

import shlex

from shardwriter.errors import command, episodes_text
from shardwriter.info import size_text
from shardwriter.printable import printable_lines
from shardwriter.watch import RunningEpisode, Snapshot

__all__ = ["snapshot_text"]

_RUNNING_SHOWN = 8
_DEAD_SHOWN = 3


def snapshot_text(snapshot: Snapshot) -> str:
    """Write a snapshot as lines for people."""
    s = snapshot
    done = f"{s.done:,}" + (f" of {s.expected:,}" if s.expected is not None else "") + " done"
    if s.finished:
        done += f" ({', '.join(f'{count:,} {status}' for status, count in s.finished.items())})"
    for state in ("running", "dead", "elsewhere"):
        count = sum(e.state == state for e in s.running)
        done += f", {count:,} {state}" if count else ""
    lines = [
        str(s.directory),
        f"  episodes  {done}",
        f"  data      {s.rows:,} rows, {size_text(s.raw_bytes)} before compression",
    ]
    if s.is_over:
        return printable_lines([*lines, f"  over      {_end_text(s)}"])
    if s.rows_per_s is not None and s.bytes_per_s is not None:
        lines.append(f"  rate      {s.rows_per_s:,.0f} rows/s, {size_text(s.bytes_per_s)}/s")
    if s.left is not None:
        lines.append(f"  left      {_left_text(s, s.left)}")
    return printable_lines([*lines, *_death_lines(s), *_episode_lines(s.running)])


def _end_text(s: Snapshot) -> str:
    what = "all there is has been merged" if s.is_merged else "all that was expected is done"
    dead = any(run.state == "dead" for run in s.runs)
    return what + (f", and {s.left:,} episodes were never recorded" if dead and s.left else "")


def _left_text(s: Snapshot, left: int) -> str:
    if not left:
        return "nothing but the merge" if not s.is_merged else "nothing"
    text = f"{left:,} episode" + ("s" if left > 1 else "")
    if not s.is_recorded:
        return f"{text}, which nobody records now"
    if s.eta_s is None:
        return f"{text}; how long they take is known once one has ended"
    return f"{text}, about {_duration(s.eta_s)}"


def _death_lines(s: Snapshot) -> list[str]:
    """Say what died, and what to do about it."""
    episodes = [e.episode for e in s.running if e.state == "dead"]
    processes = [f"{run.pid} of {run.host}" for run in s.runs if run.state == "dead"]
    lines = []
    if len(processes) > _DEAD_SHOWN:
        processes[_DEAD_SHOWN:] = [f"{len(processes) - _DEAD_SHOWN:,} more"]
    if processes:
        lines.append(f"  died      process {', '.join(processes)}, which ran episodes")
    if episodes:
        recover = f"{command('recover', s.directory)} keeps every row they logged"
        lines.append(f"  died      the processes of {episodes_text(episodes)}; {recover}")
    if processes and s.left != 0:
        resume = f"`shardwriter run … --resume {shlex.quote(str(s.directory))}`"
        lines.append(f"  go on     with {resume}, or DataExporter.resume")
    return lines


def _episode_lines(running: tuple[RunningEpisode, ...]) -> list[str]:
    shown = running[:_RUNNING_SHOWN]
    if not shown:
        return []
    lines = ["", f"  {'episode':>8} {'state':<9} {'steps':>11} {'rows':>13}  newest slot"]
    lines += [
        f"  {e.episode:>8} {e.state:<9} {e.steps:>11,} {e.rows:>13,}  {_bar(e.fill)}" for e in shown
    ]
    if len(running) > len(shown):
        lines.append(f"  … and {len(running) - len(shown):,} more")
    return lines


def _bar(fill: float) -> str:
    full = round(10 * fill)
    return "█" * full + "░" * (10 - full) + f" {fill:4.0%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
