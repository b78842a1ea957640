"""``shardwriter run``: run a rollout for many episodes, here or on a cluster."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Any, NamedTuple

from shardwriter.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    add_json,
    at_least,
    episode_ids,
    positive,
    print_json,
    say,
    shows_progress,
)
from shardwriter.cli.share import share

if TYPE_CHECKING:
    from shardwriter.engines import EpisodeResult
    from shardwriter.exporter import DataExporter
    from shardwriter.joining import Settings

__all__ = ["add_to"]

_ENGINES = ("local", "ray", "dask", "mpi", "loky")
_WITH_ADDRESS = ("ray", "dask")
_SHOWN = 10

_DESCRIPTION = """Run a rollout for each episode, record and merge. ROLLOUT is imported, from the
current directory too, and called with an open Episode; further parameters of it are taken from
--config by their names. What it returns becomes the episode's summary.

--config is a file with one JSON object. Its keys that are options of DataExporter, such as seed,
neural_sampling_rate, compression, max_memory_mb or scratch_dir, say how to record; all others are
the experiment's configuration, which is kept with it. The config.json of an experiment does as
well: then one records again as it did.

Ctrl-C and SIGTERM end running episodes as interrupted, with every row. Run again with --resume
DIR (or the same command, with --into DIR) to go on: what completed is not run again."""

_EXAMPLES = """
shardwriter run maze:rollout --episodes 0:1000 --workers 8
shardwriter run maze:rollout --episodes 0:1000 --resume experiments/maze_20250601_120000
shardwriter run maze:rollout --episodes 0:1000 --shard-of slurm --into /shared/maze
shardwriter run maze:rollout --episodes 0:1000 --engine ray --address auto
shardwriter run maze:rollout --episodes 0:1000 --engine dask --address tcp://node-1:8786
mpiexec -n 9 python -m mpi4py.futures -m shardwriter run maze:rollout --episodes 0:9 --engine mpi
"""


def add_to(commands: Subparsers, common: Parser) -> None:
    """Add the command to the parser."""
    run = add_command(
        commands,
        common,
        "run",
        "run a rollout for many episodes, here or on a cluster",
        _DESCRIPTION,
        _EXAMPLES,
        exit_codes="0 every episode completed, 1 some did not, or an error, 143 SIGTERM",
    )
    run.add_argument("rollout", type=_rollout, metavar="ROLLOUT", help="package.module:function")
    run.add_argument(
        "--episodes",
        type=_episodes,
        required=True,
        metavar="IDS",
        help="their ids: 0:1000, or 0:8,12",
    )
    run.add_argument(
        "--workers", type=positive, metavar="N", help="processes at a time; default: one per core"
    )
    run.add_argument(
        "--engine", choices=_ENGINES, default="local", help="what runs them; default: local"
    )
    run.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a cluster of Ray's (auto) or Dask's; default: a new one on this machine",
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="JSON, see above; default: none")
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--output-dir",
        "-o",
        type=Path,
        default=Path("experiments"),
        metavar="DIR",
        help="where the experiment's directory is made; default: experiments",
    )
    where.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the experiment in this directory"
    )
    where.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        help="make the experiment in this very directory, or go on with it",
    )
    run.add_argument(
        "--shard-of",
        type=share,
        metavar="I/N",
        help="record every Nth of the episodes, from the Ith on, and do not merge; I counts from 0 "
        "or from 1; `slurm` takes both from the job array (with --into)",
    )
    run.add_argument("--name", help="of a new experiment; default: the module's")
    run.add_argument(
        "--retries",
        type=partial(at_least, 0),
        default=0,
        metavar="N",
        help="how often a failed episode is run again; default: 0",
    )
    add_json(run)
    run.set_defaults(action=_run)


class _Ids(NamedTuple):
    text: str
    ids: Sequence[int]


def _episodes(text: str) -> _Ids:
    ids = episode_ids(text)
    if not ids or min(ids) < 0 or len({*ids}) < len(ids):
        raise argparse.ArgumentTypeError(f"expected ids from 0 on, each once, got {text!r}")
    # `--expected 7` is 0:7, so that the text has to tell.
    return _Ids(f"{text}:{ids[0] + 1}" if text.isdecimal() else text, ids)


def _rollout(text: str) -> str:
    module, _, function = text.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *function.split(".")]):
        expected = "expected package.module:function"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return text


def _check(options: argparse.Namespace) -> None:
    parser: Parser = options.parser
    if options.shard_of and not options.into:
        parser.error("--shard-of needs --into DIR, the one directory of all jobs")
    if options.address and options.engine not in _WITH_ADDRESS:
        parser.error(f"--address is for --engine {' or '.join(_WITH_ADDRESS)}")
    if options.name is not None and options.resume:
        parser.error("--name is of a new experiment, and --resume goes on with one")


def _run(options: argparse.Namespace) -> int:
    from shardwriter.system.process import TerminationAsExit

    _check(options)
    termination = TerminationAsExit()
    termination.turn_on()  # so that clusters which are started here end, too
    try:
        where, results = _recorded(options)
    finally:
        termination.turn_off()
    return _tell(options, where, results)


def _recorded(options: argparse.Namespace) -> "tuple[Path, list[EpisodeResult]]":
    """Run the episodes; return where they are, and the results."""
    from shardwriter.cli.rollout import bound_rollout, named_rollout, read_settings
    from shardwriter.engines.named import named_engine
    from shardwriter.files.run_note import note_run
    from shardwriter.joining import saved_config

    settings = None if options.config is None else read_settings(options.config)
    rollout = named_rollout(options.rollout)
    bound_rollout(options.rollout, rollout, _config(options, settings))  # before anything is made
    is_ours = options.engine in ("ray", "dask", "loky") and not options.address
    ids = options.episodes.ids
    with ExitStack() as engine:
        executor = engine.enter_context(
            named_engine(options.engine, options.workers, options.address)
        )
        exporter = _opened(options, settings)
        try:
            # The whole, of which `run_episodes` may know a share only.
            whole = note_run(exporter.output_dir, ids)
            merges = options.shard_of is None
            with exporter, _closing(exporter, merge=merges), engine.pop_all(), whole:
                config = saved_config(exporter.output_dir) or {}
                results = exporter.run_episodes(
                    bound_rollout(options.rollout, rollout, config),
                    options.shard_of.of(ids) if options.shard_of else ids,
                    None if is_ours else options.workers,
                    executor=executor,
                    on_error="continue",
                    retries=options.retries,
                    skip_existing=True,
                )
        except BaseException:
            again = _command(options, exporter.output_dir)
            say(f"stopped; what was logged is kept; go on with: {again}", sys.stderr)
            raise
    return exporter.output_dir, results


def _config(options: argparse.Namespace, settings: "Settings | None") -> Mapping[str, Any]:
    """Return the configuration that the episodes will have; check it where there is one."""
    from shardwriter.joining import check_agrees, saved_config

    directory = options.resume or options.into
    if options.resume or (directory and saved_config(directory) is not None):
        check_agrees(directory, settings)
        return saved_config(directory) or {}
    return settings.config if settings else {}


@contextmanager
def _closing(exporter: "DataExporter", *, merge: bool) -> Iterator[None]:
    """Close an exporter, once no worker of ours is left."""
    from shardwriter.recovery import recover

    try:
        yield
    except BaseException:
        recover(exporter.output_dir)  # what engines do not stop ended with its workers
        raise
    finally:
        exporter.close(merge=merge)


def _opened(options: argparse.Namespace, settings: "Settings | None") -> "DataExporter":
    from shardwriter.exporter import DataExporter
    from shardwriter.joining import joined_experiment

    progress = shows_progress(options)
    name = options.name or options.rollout.partition(":")[0].rpartition(".")[2]
    if options.into:
        return joined_experiment(options.into, name, settings, progress=progress)
    if options.resume:
        return DataExporter.resume(options.resume, progress=progress)
    chosen = settings.options if settings else {}
    exporter = DataExporter(name, options.output_dir, progress=progress, **chosen)
    exporter.save_config(settings.config if settings else {})
    return exporter


def _command(options: argparse.Namespace, where: Path) -> str:
    """Return the command that runs what is missing."""
    words = ["shardwriter", "run", options.rollout, "--episodes", options.episodes.text]
    for option in ("workers", "engine", "address", "retries"):
        value = getattr(options, option)
        if value not in (None, 0, "local"):
            words += [f"--{option}", str(value)]
    if options.shard_of:
        words += ["--shard-of", str(options.shard_of)]
    words += ["--into" if options.into else "--resume", str(options.into or where)]
    prefix = "mpiexec -n N python -m mpi4py.futures -m " if options.engine == "mpi" else ""
    return prefix + join(words)


def _tell(options: argparse.Namespace, where: Path, results: "list[EpisodeResult]") -> int:
    """Print what became of the episodes; return the exit code."""
    from shardwriter.files.layout import MASTER

    bad = {each.episode: each.error or each.status for each in results if not each.is_good}
    statuses = Counter("failed" if each.episode in bad else each.status for each in results)
    master = None if options.shard_of else where / MASTER
    again = _command(options, where) if bad else None
    if options.json:
        print_json(
            {
                "directory": str(where),
                "master": master and str(master),
                "episodes": len(results),
                "statuses": statuses,
                "failed": bad,
                "rerun": again,
            }
        )
    else:
        counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
        say(f"{where}\n  episodes   {len(results):,}: {counts or 'none in this share'}")
        if master:
            say(f"  master     {master.name}\n  look       shardwriter info {quote(str(where))}")
        else:
            merge = f"shardwriter merge {quote(str(where))} --expected {options.episodes.text}"
            say(f"  master     after the last job: {merge}")
        for episode, error in list(bad.items())[:_SHOWN]:
            say(f"  failed     episode {episode}: {' '.join(error.split())[:200]}")
        if len(bad) > _SHOWN:
            say(f"  failed     … and {len(bad) - _SHOWN} more")
    if bad:
        text = f"{len(bad):,} of {len(results):,} episodes failed; what they logged is kept"
        say(f"shardwriter: {text}; run them again: {again}", sys.stderr)
    return 1 if bad else 0
