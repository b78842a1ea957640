"""What a user sees of an outage: one error that names its cause, and nothing lost.

The full disk is a small tmpfs in a mount namespace of the test's own. Where the system forbids
that, a limit on the size of files, which fails the same calls, stands for it. The broken disk is
a library, loaded before all others, in whose system calls the fault is.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest
from merging import record
from running import without_privilege

RECORD = """
    import json, os, resource, sys, time
    from pathlib import Path
    import numpy as np
    import psutil
    from shardwriter import DataExporter, ShardWriterError
    from shardwriter.errors import BufferFailed

    folder, is_asynchronous, is_disk = Path(sys.argv[1]), sys.argv[2] == "async", sys.argv[3] == "1"
    noise = np.random.default_rng(0).random((200_000, 8))
    exporter = DataExporter(
        "o", folder, chunk_size=100, async_write=is_asynchronous, n_async_workers=1, progress=False
    )
    shards = exporter.output_dir / "shards"

    def log(episode, steps, pause_s=0.0, start=0):
        '''Log until an error comes; return the rows acknowledged and the error.'''
        for t in range(start, steps):
            try:
                episode.log_timestep(t, behavior={"x": noise[t]})
            except ShardWriterError as error:
                return t, str(error)
            time.sleep(pause_s)
        return steps, ""

    def report(rows, error):
        print(json.dumps([str(exporter.output_dir), rows, error]), flush=True)

    with exporter.start_episode(0) as before:
        log(before, 500)
    failing = exporter.start_episode(1)
    OUTAGE
    with exporter.start_episode(2) as after:
        assert log(after, 500) == (500, "")
    try:
        if not failing.has_ended:
            failing.end()
        exporter.close()
    except ShardWriterError as error:
        assert is_asynchronous, error
"""
READ = """
    import json, sys
    from pathlib import Path
    import numpy as np
    from merge import merge_experiment
    from shardwriter import ExperimentLoader
    from shardwriter.recovery import recover

    noise = np.random.default_rng(0).random((200_000, 8))
    recover(Path(sys.argv[1]))
    merge_experiment(Path(sys.argv[1]))
    with ExperimentLoader(sys.argv[1]) as loader:
        found = {one.id: one.get_behavior()["x"] for one in loader}
    assert all(np.array_equal(x, noise[: len(x)]) for x in found.values())
    print(json.dumps([len(found[i]) for i in range(3)]))
"""
FULL_DISK = """
    log(failing, 1_000)
    with (folder / 'ballast').open('wb', buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass
    report(*log(failing, 10_000, 0.001, 1_000))
    (folder / 'ballast').unlink()
"""
LIMITED = """
    log(failing, 1_000)
    processes = [os.getpid(), *(writer.pid for writer in psutil.Process().children())]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for pid in processes:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, limit[1]))
    report(*log(failing, 10_000, 0.001, 1_000))
    for pid in processes:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
"""
FORBIDDEN = """
    shards.chmod(0o500)
    report(*log(failing, 10_000, 0.001))
    shards.chmod(0o700)
"""
KILLED = """
    from shardwriter.recording import writer_process

    # Every replacement dies as it starts, before it can acknowledge anything.
    (folder / 'dying.py').write_text('import os\\ndef serve(parent): os.kill(os.getpid(), 9)')
    sys.path.append(str(folder))
    serve, writer_process._SERVE = writer_process._SERVE, 'dying:serve'
    for writer in psutil.Process().children():
        writer.kill()
    report(*log(failing, 200_000))
    writer_process._SERVE = serve
"""
BROKEN = """
    log(failing, 1_000)
    switch = folder / 'broken'
    switch.touch()
    report(*log(failing, 10_000, 0.001, 1_000))
    switch.unlink()
"""
BROKEN_AT_THE_END = """
    log(failing, 1_000)
    switch = folder / 'broken'
    switch.touch()
    try:
        failing.end()
        failing.wait()
    except ShardWriterError as error:
        report(1_000, str(error))
    switch.unlink()
"""
BROKEN_BUFFERS = """
    def refused(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except BufferFailed as error:
            return str(error)
        raise AssertionError('it was not refused')

    errors = []
    switch = folder / 'broken'
    for name in ('posix_fallocate', 'pwrite'):
        os.environ['EIO_CALLS'] = name  # the writers need not know: they write no buffers
        switch.touch()
        errors += [
            refused(exporter.start_episode, 3),
            refused(failing.log_static_data, 'maze', [1, 2]),
            refused(failing.log_event, 'turn', 0, {'angle': 1.0}),
            refused(failing.end),
        ]
        switch.unlink()
    for t in range(20):
        failing.log_event('turn', t, {'angle': 1.0})
    log(failing, 1_000)
    report(1_000, errors)
"""
# After the 1,000 rows before it, an outage shows when a slot of 100 is handed over; the caller must
# know of it within a second of calls, a millisecond apart.
WITHIN_A_SECOND = 1_000 + 100 + 1_000
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'


@cache
def may_mount() -> bool:
    """Tell whether this system lets a test mount a file system of its own."""
    try:
        return subprocess.run([*NAMESPACE, MOUNT, "/mnt", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


def broken_disk(folder: Path, calls: str, files: str, first: int) -> list[str]:
    """Return what makes a command's calls on some files fail with EIO, from the nth on.

    They fail while a file named ``broken`` exists beside the experiment's directory.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc, to build the library that makes calls fail")
    library = folder / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    built = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"]
    subprocess.run(built, check=True)
    variables = {
        "LD_PRELOAD": library,
        "EIO_CALLS": calls,
        "EIO_PATH": files,
        "EIO_FROM": first,
        "EIO_WHILE": folder / "experiments" / "broken",
    }
    return ["env", *(f"{name}={value}" for name, value in variables.items())]


def outage(
    folder: Path, way: str, cause: str, prefix: list[str], *, disk: bool = False
) -> tuple[int, str, list[int]]:
    """Record through an outage; return rows acknowledged, the error, and rows found by episode."""
    record = textwrap.dedent(RECORD).replace("OUTAGE", textwrap.dedent(cause))
    read = textwrap.dedent(READ)
    (folder / "record.py").write_text(record)
    (folder / "read.py").write_text(read)
    (folder / "experiments").mkdir()
    python = f"{sys.executable} -W error"
    both = (
        f"{python} {folder}/record.py {folder}/experiments {way} {int(disk)} && "
        f"{python} {folder}/read.py {folder}/experiments/o_*"
    )
    done = subprocess.run([*prefix, "sh", "-c", both], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    recorded, found = map(json.loads, done.stdout.splitlines())
    return recorded[1], recorded[2], found


def check(rows: int, error: str, found: list[int], cause: str, latest: int | None = None) -> None:
    """Check what came of an outage; `latest` bounds the rows that were acknowledged in it."""
    assert error.startswith("episode 1: its shard")
    assert error.count("could not be written") == 1
    assert cause in error
    assert "shardwriter recover" in error
    assert found[0] == found[2] == 500
    assert rows <= found[1] <= rows + 1  # the call that raised may have logged
    assert latest is None or rows <= latest


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_full_disk(tmp_path: Path, way: str) -> None:
    mounted = [*NAMESPACE, MOUNT, str(tmp_path / "experiments")]
    if may_mount():
        result = outage(tmp_path, way, FULL_DISK, mounted, disk=True)
        check(*result, "No space left on device", WITHIN_A_SECOND)
    else:
        check(*outage(tmp_path, way, LIMITED, []), "File too large", WITHIN_A_SECOND)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_limit_on_the_size_of_files(tmp_path: Path, way: str) -> None:
    check(*outage(tmp_path, way, LIMITED, []), "File too large", WITHIN_A_SECOND)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_directory_that_may_no_longer_be_written(tmp_path: Path, way: str) -> None:
    result = outage(tmp_path, way, FORBIDDEN, without_privilege())
    check(*result, "Permission denied", WITHIN_A_SECOND - 1_000)


def test_a_writer_that_is_killed_again_and_again(tmp_path: Path) -> None:
    check(*outage(tmp_path, "async", KILLED, []), "its writer process died 3 times (signal 9)")


def test_a_writer_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    cause = """
    [writer] = psutil.Process().children()
    writer.kill()
    report(*log(failing, 20_000))
    """
    rows, error, found = outage(tmp_path, "async", cause, [])
    assert (rows, error) == (20_000, "")
    assert found == [500, 20_000, 500]


@pytest.mark.parametrize(
    ("way", "first"), [("sync", 1), ("async", 4)], ids=["sync-its-first", "async-a-later"]
)
def test_a_disk_that_fails_to_write(tmp_path: Path, way: str, first: int) -> None:
    broken = broken_disk(tmp_path, "write pwrite", "episode_0001.h5", first)
    check(*outage(tmp_path, way, BROKEN, broken), "Input/output error", WITHIN_A_SECOND)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_disk_that_fails_to_sync(tmp_path: Path, way: str) -> None:
    broken = broken_disk(tmp_path, "fsync", "episode_0001.h5.part", 1)
    check(*outage(tmp_path, way, BROKEN_AT_THE_END, broken), "Input/output error")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_disk_that_fails_under_buffers(tmp_path: Path, way: str) -> None:
    broken = broken_disk(tmp_path, "", ".buffer", 1)
    rows, errors, found = outage(tmp_path, way, BROKEN_BUFFERS, broken)
    assert found == [500, rows, 500]
    assert len(errors) == 8
    for error in errors:
        assert error.count("Input/output error") == 1
        assert ".buffer: expected a buffer that can be written" in error


def test_a_full_disk_under_buffers(tmp_path: Path) -> None:
    """What needs room in a full `/dev/shm` is refused, and nothing logged before it is lost."""
    if not may_mount():
        pytest.skip("this system forbids mounts; test_faults.py has a limit on the size of files")
    script = """
        import sys
        from pathlib import Path
        import numpy as np
        from shardwriter import DataExporter, ExperimentLoader
        from shardwriter.errors import NoSpace

        memory, folder = Path(sys.argv[1]), Path(sys.argv[2])
        values = np.arange(40_000.0)
        exporter = DataExporter("o", folder, buffer_dir=memory, chunk_size=100, progress=False)
        episode = exporter.start_episode(0)
        for t in range(150):
            episode.log_timestep(t, behavior={"x": values[t]})
        with (memory / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
        for attempt in (
            lambda: exporter.start_episode(1),
            lambda: episode.log_static_data("maze", values),
            lambda: episode.log_event("late", 150, {"wide": values}),
        ):
            try:
                attempt()
            except NoSpace as error:
                print(error)
        for t in range(150, 20_000):  # what has its room already goes on
            episode.log_timestep(t, behavior={"x": values[t]})
        (memory / "ballast").unlink()
        episode.log_event("late", 20_000, {"wide": values})
        episode.end()
        exporter.close()
        assert list(memory.iterdir()) == []
        with ExperimentLoader(exporter.output_dir) as loader:
            [found] = list(loader)
            assert np.array_equal(found.get_behavior()["x"], values[:20_000])
            print(found.get_static_data(), found.get_events("late")["timesteps"])
    """
    (tmp_path / "memory").mkdir()
    command = [*NAMESPACE, MOUNT, str(tmp_path / "memory"), sys.executable, "-W", "error", "-c"]
    arguments = [textwrap.dedent(script), str(tmp_path / "memory"), str(tmp_path / "experiments")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *errors, found = done.stdout.splitlines()
    assert len(errors) == 3, errors
    assert all(f"{tmp_path}/memory)" in error and "buffer_dir=" in error for error in errors)
    assert found == "{} [20000]"


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    """Each attempt raises the system's own error, and leaves what there was and nothing else."""
    script = """
        import sys
        from pathlib import Path
        from shardwriter import DataExporter

        folder = Path(sys.argv[1])
        exporter = DataExporter("o", folder, progress=False)
        shards = exporter.output_dir / "shards"
        with exporter.start_episode(0) as episode:
            episode.log_timestep(0, behavior={"x": 1.0})
        episode.wait()
        before = sorted(folder.rglob("*"))
        for closed, attempt in ((folder, lambda: DataExporter("p", folder)),
                                (shards, lambda: exporter.start_episode(1))):
            closed.chmod(0o500)
            try:
                attempt()
            except PermissionError as error:
                print(error)
            closed.chmod(0o700)
        assert sorted(folder.rglob("*")) == before
        exporter.start_episode(1).end()
        exporter.close()
        print(len(list(shards.glob("*.h5"))))
    """
    command = [*without_privilege(), sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *errors, shards = done.stdout.splitlines()
    assert len(errors) == 2
    assert "Permission denied" in errors[0]
    assert str(tmp_path / "p_") in errors[0]
    assert "Permission denied" in errors[1]
    assert "episode_0001" in errors[1]
    assert shards == "2"


def test_an_experiment_that_may_only_be_read_is_merged_and_packed(tmp_path: Path) -> None:
    experiment = record(tmp_path, range(2))
    script = """
        import sys
        from pathlib import Path
        from merge import merge_experiment, pack
        from shardwriter.errors import NotWritten
        experiment, output = map(Path, sys.argv[1:])
        merge_experiment(experiment, output / "all.h5")
        pack(experiment, output / "packed.h5")
        try:
            merge_experiment(experiment)
        except NotWritten as error:
            print(error)
        """
    (experiment / "experiment_data.h5").unlink()
    command = [sys.executable, "-c", textwrap.dedent(script)]
    lock = experiment / "experiment" / "merge.lock"
    lock.touch()
    folders = [path for path in (experiment, *experiment.rglob("*")) if path.is_dir()]
    for output in (tmp_path / "locked", tmp_path / "lockless"):
        output.mkdir()
        for path in (*folders, *filter(Path.exists, [lock])):
            path.chmod(path.stat().st_mode & ~0o222)
        try:
            done = subprocess.run(
                [*without_privilege(), *command, os.fspath(experiment), os.fspath(output)],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            for path in folders:
                path.chmod(0o755)
        assert done.returncode == 0, done.stderr
        assert f"{experiment / 'experiment_data.h5'}: expected to write it" in done.stdout
        assert sorted(path.name for path in output.iterdir()) == ["all.h5", "packed.h5"]
        lock.unlink(missing_ok=True)
