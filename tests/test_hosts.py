"""Two nodes that share one directory and nothing else.

A node here is a process group with a host name, a /dev/shm, and pids of its own: Linux namespaces.
They have the same boot id, which only makes it harder to tell them apart.
"""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from merge import merge_experiment
from shardwriter import DataExporter, ExperimentLoader
from shardwriter.cli import main
from shardwriter.files.layout import EpisodePaths
from shardwriter.recovery import missing

SEPARATE = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
SETUP = 'hostname "$0" && mount -t tmpfs -o size=256m tmpfs /dev/shm && exec "$@"'
PRELUDE = """
    import pickle, sys
    from pathlib import Path
    from shardwriter.recovery import recover
    recorder = pickle.loads(Path(sys.argv[1]).read_bytes())
    def log(episode, rows):
        for i in range(rows):
            episode.log_timestep(i, behavior={"x": float(i)})
"""


def may_separate() -> bool:
    command = [*SEPARATE, "sh", "-c", SETUP, "node", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.skipif(not may_separate(), reason="namespaces need root, and util-linux"),
    pytest.mark.filterwarnings("ignore::shardwriter.system.file_systems.NetworkMappingWarning"),
]


class Node:
    """A node that runs one script, which can print a line and wait for an answer."""

    def __init__(self, name: str, handle: Path, script: str) -> None:
        code = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
        self._process = subprocess.Popen(
            [*SEPARATE, "sh", "-c", SETUP, name, sys.executable, "-c", code, handle],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    def line(self) -> str:
        """Wait for a line that the script prints."""
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        """Let a script that waits in ``input()`` go on."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Wait until the script has ended well."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()

    def lose(self) -> None:
        """Take the node away at once, with all its processes and its /dev/shm."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe and not pipe.closed:
                pipe.close()


@pytest.fixture
def start() -> Iterator[object]:
    nodes: list[Node] = []

    def started(name: str, handle: Path, script: str) -> Node:
        nodes.append(Node(name, handle, script))
        return nodes[-1]

    yield started
    for node in nodes:
        node.lose()


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Return an experiment's directory, whose buffers lie in each node's memory."""
    options = {"chunk_size": 100, "buffer_dir": Path("/dev/shm")}
    with DataExporter("shared", tmp_path, **options) as exporter:  # type: ignore[arg-type]
        (tmp_path / "handle").write_bytes(pickle.dumps(exporter))
        exporter.close(merge=False)
    return exporter.output_dir


@pytest.fixture
def handle(experiment: Path) -> Path:
    return experiment.parent / "handle"


def rows(directory: Path) -> dict[int, int]:
    with ExperimentLoader(merge_experiment(directory)) as loader:
        found = {}
        for episode in loader:
            x = episode.get_behavior().get("x", np.zeros(0))
            np.testing.assert_array_equal(x, np.arange(len(x)))
            found[episode.id] = len(x)
        return found


def test_two_nodes_record_into_one_experiment(experiment: Path, handle: Path, start) -> None:
    script = """
        with recorder:
            for _ in range(4):
                with recorder.start_episode() as episode:  # the next free id, on either node
                    log(episode, 250)
        print("done", flush=True)
    """
    nodes = [start(name, handle, script) for name in ("node-a", "node-b")]
    assert [node.line() for node in nodes] == ["done", "done"]
    for node in nodes:
        node.end()
    assert rows(experiment) == dict.fromkeys(range(8), 250)


def test_what_a_living_node_records_is_left_alone(
    experiment: Path, handle: Path, start, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = """
        with recorder, recorder.start_episode(0) as episode:
            log(episode, 250)
            print("recording", flush=True)
            input()
            for i in range(250, 300):
                episode.log_timestep(i, behavior={"x": float(i)})
    """
    asking = "print(*recover(recorder.output_dir), sep='; ', flush=True)"
    first = start("node-a", handle, recording)
    assert first.line() == "recording"
    second = start("node-b", handle, asking)
    answer = second.line()
    assert "episode 0: elsewhere" in answer
    assert "of host node-a: run `shardwriter recover` there" in answer
    assert "--force-host node-a once nothing records there" in answer
    second.end()
    # Nor does this node touch it, and the name of another is no help.
    assert main(["recover", str(experiment), "--force-host", "node-b"]) == 1
    assert "elsewhere" in capsys.readouterr().out
    assert main(["missing", str(experiment), "--expected", "0:1"]) == 0
    assert capsys.readouterr().out.split() == ["0"]
    first.go_on()
    first.end()
    assert rows(experiment) == {0: 300}


@pytest.mark.leaves_unfinished  # what was damaged is kept
def test_an_episode_of_a_lost_node_is_missing_and_run_again(
    experiment: Path, handle: Path, start, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
        episodes = [recorder.start_episode(i) for i in (0, 1)]
        log(episodes[0], 30)  # in memory alone
        log(episodes[1], 250)  # its full slots are in a part beside the shards
        print("recording", flush=True)
        input()
    """
    node = start("node-a", handle, script)
    assert node.line() == "recording"
    node.lose()
    assert EpisodePaths(experiment, 1).part.exists()
    assert not EpisodePaths(experiment, 1).buffer.exists()  # a link to nothing
    assert missing(experiment, range(2)) == [0, 1]
    assert main(["recover", str(experiment)]) == 1
    capsys.readouterr()
    forced = ["recover", str(experiment), "--force-host", "node-a"]
    assert main([*forced, "--dry-run"]) == 3
    foreseen = capsys.readouterr().out.splitlines()
    assert "episode 1: recovered as interrupted: behavior ?; lost: behavior ?" in foreseen[1]
    assert main(forced) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0] == foreseen[0]
    assert "episode 0: removed" in said[0]
    assert "was lost with host node-a" in said[0]
    assert "episode 1: recovered as interrupted: behavior 200" in said[1]
    assert missing(experiment, range(2)) == [0, 1]
    with DataExporter.resume(experiment) as exporter:
        exporter.run_episodes(
            lambda episode: (
                [episode.log_timestep(i, behavior={"x": float(i)}) for i in range(5)] and None
            ),
            range(2),
            n_workers=1,
            skip_existing=True,
        )
    assert missing(experiment, range(2)) == []
    assert rows(experiment) == {0: 5, 1: 5}
