"""One crash trial: record, kill, recover, merge, and compare with what was acknowledged."""

import fcntl
import os
import random
import select
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import hdf5plugin  # noqa: F401  (registers the filters that HDF5 does not have)
from crash import forked
from crash.known import ACK, Acks, check
from crash.recording import record
from tqdm import tqdm

# Before the first fork.
import shardwriter.engines.worker
import shardwriter.recording.writer_server  # noqa: F401
from merge import merge_experiment
from shardwriter.recovery import exit_code, recover
from shardwriter.system.instants import INSTANTS

# Its own lock is shared by the forked processes: a killed one would keep it for ever.
tqdm.set_lock(threading.RLock())
RANDOM = "at random"
PATIENCE_S = 60.0
PIPE_BYTES = 1 << 20

SYNC = [name for name in INSTANTS if name not in ("slot returned", "seal returned")]
SALVAGE = ["rows salvaged", "part created", "part published"]
PUBLISH = ["file closed", "file synced", "file renamed", "directory synced"]
JOURNAL = ["journal written", "journal published", "journal applied", "journal removed"]
DRAIN = ["chunk written", "chunk flushed"]
LOGGING = ["buffer created", "buffer started", "record written", "record linked", "slot full"]
WRITING = ["part created", "part published", "part opened", *DRAIN, *JOURNAL, *PUBLISH]
REACHED = {
    ("main", "sync"): [*LOGGING, "slot sent", *WRITING, "buffer removed"],
    ("main", "async"): [*LOGGING, "slot sent"],
    ("worker", "workers"): [*LOGGING, "slot sent"],
    ("writer", "async"): [*WRITING, "slot returned", "buffer removed", "seal returned"],
    ("writer", "workers"): [*WRITING, "slot returned", "buffer removed", "seal returned"],
    ("recover", "sync"): [*SALVAGE, *JOURNAL, *PUBLISH, "buffer removed"],
    ("merge", "sync"): PUBLISH,
}
RARE = {
    *JOURNAL,
    *PUBLISH,
    *SALVAGE,
    "part opened",
    "buffer created",
    "buffer started",
    "buffer removed",
    "seal returned",
}
SHORT = {"sync": [*LOGGING[:4], *PUBLISH, "buffer removed"], "async": LOGGING[:4]}


@dataclass(frozen=True)
class Trial:
    """What is recorded, who is killed with whom, and when."""

    mode: str  # sync, async or workers
    role: str  # main, worker, writer, recover or merge
    instant: str
    who: str = "alone"  # alone, pair or all
    shape: str = "late"
    compression: str | None = "gzip"
    buffer_elsewhere: bool = False
    nth: int = 1
    seed: int = 0

    @property
    def kills(self) -> int:
        """Times that something is killed: a recovery or merge needs something to be left."""
        return 2 if self.role in ("recover", "merge") else 1


@dataclass(frozen=True)
class Outcome:
    """What a trial showed: rows acknowledged, and what is wrong, if anything."""

    kills: int
    rows: int
    problem: str | None = None


class Session:
    """The processes of one trial, in a process group of their own."""

    def __init__(self, folder: Path, trial: Trial) -> None:
        self.directory = folder / "experiment"
        (self.directory / "shards").mkdir(parents=True)
        self.buffers = folder / "buffers"
        self.buffers.mkdir()
        self.fuse = folder / "fuse"
        self._trial = trial
        fifo = folder / "acks"
        os.mkfifo(fifo)
        self._pipe = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._fifo = fifo
        self.acks: Acks = defaultdict(Counter)
        self.n_acks = 0
        self._log = folder / "log"
        self._main: int | None = None
        self._status: int | None = None

    def record(self, role: str, instant: str, nth: int) -> None:
        """Start the recording process."""
        arguments = {
            **asdict(self._trial),
            "directory": str(self.directory),
            "fifo": str(self._fifo),
            "episodes": 3 if role == "writer" or self._trial.mode == "workers" else 40,
            "buffer_dir": str(self.buffers) if self._trial.buffer_elsewhere else None,
        }
        self.start(partial(record, arguments), "main", role, instant, nth)

    def start(
        self, run: Callable[[], object], name: str, role: str, instant: str, nth: int
    ) -> None:
        """Start the process `name`; the one of `role` is killed at an instant."""
        plan = None
        if instant != RANDOM:
            self.fuse.touch()
            plan = {"role": role, "instant": instant, "nth": nth, "who": self._trial.who}
            plan["fuse"] = str(self.fuse)
        self._status = None
        self._main = forked.fork(name, plan, self._log, run)

    def _has_ended(self) -> bool:
        """Tell whether the process that was started has ended."""
        if self._status is None and self._main is not None:
            pid, status = os.waitpid(self._main, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def wait_for_acks(self, count: int) -> bool:
        """Take in acknowledgements until there are so many, or the recording process ends."""
        deadline = time.monotonic() + PATIENCE_S
        while self.n_acks < count:
            assert time.monotonic() < deadline, f"still running: {self.processes()}"
            if not select.select([self._pipe], [], [], 0.005)[0]:
                if self._has_ended():
                    return False
                continue
            data = os.read(self._pipe, 1 << 16)
            for episode, kind, total in ACK.iter_unpack(data):
                self.acks[episode][kind] = max(total, self.acks[episode][kind])
            self.n_acks += len(data) // ACK.size
        return True

    def processes(self) -> dict[int, str]:
        """Return the living processes of the trial, pid to role."""
        found = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                is_ours = os.getpgid(int(name)) == self._main
            except ProcessLookupError:
                continue
            role = forked.role_of(int(name)) if is_ours else None
            if role is not None:
                found[int(name)] = role
        return found

    def wait(self) -> int:
        """Wait until every process has ended by itself; return the first one's exit code."""
        deadline = time.monotonic() + PATIENCE_S
        self.wait_for_acks(1 << 60)  # until the recording process ends
        while living := self.processes():
            assert time.monotonic() < deadline, f"still running: {living}"
            time.sleep(0.002)
        while select.select([self._pipe], [], [], 0)[0]:
            self.wait_for_acks(self.n_acks + 1)
        assert self._status in (0, -signal.SIGKILL), self._log.read_text()[-3000:]
        return self._status

    def inside(self, work: Callable[[], object]) -> int:
        """Do work that opens HDF5 files in a process of its own; return its number, if one.

        A process that has opened them may not be forked, and this one is, again and again.
        """
        result = self.directory.parent / "result"

        def run() -> None:
            result.write_text(str(work()))

        self.start(run, "check", "check", RANDOM, 0)
        code = self.wait()
        assert code == 0, f"the check was ended by {code}"
        text = result.read_text()
        return int(text) if text.isdigit() else 0

    def close(self) -> None:
        """End what is left."""
        if self._main is not None:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            if self._status is None:
                os.waitpid(self._main, 0)
        os.close(self._pipe)


@contextmanager
def session(folder: Path, trial: Trial) -> Iterator[Session]:
    """Lend out a trial's processes and end what is left of them."""
    folder.mkdir(parents=True)
    opened = Session(folder, trial)
    try:
        yield opened
    finally:
        opened.close()


def run_trial(folder: Path, trial: Trial) -> Outcome:
    """Run one trial in a folder of its own, which is kept where something is wrong."""
    with session(folder, trial) as trial_session:
        try:
            outcome = _run(trial_session, trial)
        except Exception as problem:  # noqa: BLE001  (whatever it is, it is the outcome)
            rows = sum(sum(counts.values()) for counts in trial_session.acks.values())
            return Outcome(trial.kills, rows, f"{type(problem).__name__}: {problem}")
    shutil.rmtree(folder)
    return outcome


def _run(run: Session, trial: Trial) -> Outcome:
    rng = random.Random(trial.seed)
    if trial.role in ("recover", "merge"):
        run.record("main", "slot sent", rng.randint(40, 120))
        assert run.wait() == -signal.SIGKILL, "the recording was not killed"
        if trial.role == "merge":
            run.inside(partial(recover, run.directory))
        work = partial(_WORK[trial.role], run.directory)
        run.start(work, trial.role, trial.role, trial.instant, trial.nth)
        if trial.instant == RANDOM:
            time.sleep(rng.uniform(0, 0.1))
            _kill(run, trial.role, "alone", rng)
        code = run.wait()
    else:
        run.record(trial.role, trial.instant, trial.nth)
        if trial.instant == RANDOM:
            run.wait_for_acks(rng.randint(1, 700))
            time.sleep(rng.uniform(0, 0.01))
            _kill(run, trial.role, trial.who, rng)
        code = run.wait()
    assert trial.instant == RANDOM or not run.fuse.exists(), f"never reached: {trial.instant}"
    is_finished = code == 0 and trial.role == "writer" and trial.who == "alone"
    rows = run.inside(partial(_rows_after_recovery, run.directory, run.acks, trial, is_finished))
    _check_nothing_left(run)
    return Outcome(trial.kills, rows)


def _rows_after_recovery(directory: Path, acks: Acks, trial: Trial, is_finished: bool) -> int:
    """Recover, merge, compare with what was acknowledged; return the rows compared."""
    result = recover(directory)
    assert exit_code(result) == 0, "; ".join(map(str, result))
    assert not recover(directory), "a second recover found something"
    merge_experiment(directory)
    return check(directory, acks, trial.shape, is_finished)


_WORK = {"recover": recover, "merge": merge_experiment}


def _kill(run: Session, role: str, who: str, rng: random.Random) -> None:
    processes = run.processes()
    victims = [pid for pid, its in processes.items() if its == role]
    rng.shuffle(victims)
    others = [pid for pid in processes if pid not in victims[:1]]
    rng.shuffle(others)
    chosen = {"alone": victims[:1], "pair": [*victims[:1], *others[:1]], "all": processes}[who]
    for pid in chosen:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _check_nothing_left(run: Session) -> None:
    names = {path.name for path in (run.directory / "shards").iterdir()}
    shards = {name for name in names if name.startswith("episode_") and name.endswith(".h5")}
    assert names == shards, f"left over: {sorted(names - shards)}"
    left = {path.name for path in run.directory.iterdir()}
    assert left == {"shards", "experiment", "experiment_data.h5"}, f"left over: {left}"
    buffers = list(run.buffers.iterdir())
    assert not buffers, f"left over: {buffers}"


NAMED = [
    (mode, role, instant)
    for (role, mode), instants in REACHED.items()
    for instant in [*instants, RANDOM, RANDOM]
]
NAMED += [("workers", "main", RANDOM)] * 3
N_NAMED = len(NAMED)


_PHASES = {
    **dict.fromkeys(LOGGING, "logging"),
    "slot sent": "logging",
    **dict.fromkeys(["part created", "part published", "part opened"], "making the part"),
    **dict.fromkeys([*DRAIN, "slot returned"], "writing chunks"),
    "rows salvaged": "taking over",
    **dict.fromkeys(JOURNAL, "changing the part"),
    **dict.fromkeys([*PUBLISH, "buffer removed", "seal returned"], "publishing"),
}


def phase_of(instant: str) -> str:
    """Return the phase of the protocol that an instant belongs to."""
    return _PHASES.get(instant, instant)


def trials(rng: random.Random) -> Iterator[Trial]:
    """Return trials without end: every named instant of every process in turn."""
    while True:
        for mode, role, instant in rng.sample(NAMED, N_NAMED):
            yield _drawn(mode, role, instant, rng)


def _drawn(mode: str, role: str, instant: str, rng: random.Random) -> Trial:
    shapes = ["long", "late"] if role != "writer" or instant == RANDOM else ["late"]
    if instant in SHORT.get(mode, []) and role == "main":
        shapes.append("short")
    if instant == "part opened" or instant in JOURNAL:
        shapes = ["late"]
    alone = role in ("recover", "merge") or mode == "sync"
    return Trial(
        mode,
        role,
        instant,
        who="alone" if alone else rng.choice(["alone", "alone", "pair", "all"]),
        shape=rng.choice(shapes),
        compression=rng.choice(["gzip", "gzip", None, "lzf", "zstd", "lz4", "blosc"]),
        buffer_elsewhere=rng.random() < 0.3,
        nth=rng.randint(1, 9)
        if instant not in RARE
        else rng.randint(1, 2)
        if role == "main"
        else 1,
        seed=rng.randrange(1 << 30),
    )
