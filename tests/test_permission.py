"""Files that may not be read are not called damaged."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from merging import shard
from running import environment, without_privilege

from shardwriter.files.layout import MASTER

DENIED = "expected to be permitted to open it, got: permission denied; ask its owner, or change"
EPISODES = 3  # of the experiment that each test has a copy of


def printed(script: str, *arguments: object) -> str:
    """Return what a script prints that is subject to permissions."""
    command = [*without_privilege(), sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    command += [str(each) for each in arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("missing", ["raise", "skip"])
def test_a_loader_says_that_a_shard_may_not_be_read(experiment: Path, missing: str) -> None:
    script = """
        import sys
        from shardwriter import ExperimentLoader
        from shardwriter.errors import NotPermitted

        with ExperimentLoader(sys.argv[1], missing=sys.argv[2]) as loader:
            for attempt in (
                lambda: list(loader),
                lambda: [each.get_behavior() for each in loader],
                lambda: loader.concat("behavior/position"),
                lambda: loader.get_episode(1).get_rewards(),
            ):
                try:
                    attempt()
                except NotPermitted as error:
                    print(error)
    """
    closed = shard(experiment, 1)
    for place, mode in ((closed, 0), (closed.parent, 0o600)):
        place.chmod(mode)
        lines = printed(script, experiment, missing).splitlines()
        place.chmod(0o700)
        assert len(lines) == (4 if missing == "skip" else 3)
        assert all("episode_000" in line and DENIED in line for line in lines)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("info", MASTER),
        ("info", "shards/episode_0001.h5"),
        ("verify", MASTER),
        ("verify", "shards/episode_0001.h5"),
        ("merge --rebuild", "shards/episode_0001.h5"),
    ],
)
def test_a_command_says_that_a_file_may_not_be_read(
    experiment: Path, command: str, name: str
) -> None:
    script = """
        import sys
        from shardwriter.cli import main
        sys.stderr = sys.stdout
        print(main(sys.argv[1:]))
    """
    (experiment / name).chmod(0)
    *lines, code = printed(script, *command.split(), experiment).splitlines()
    assert code == "1"
    assert DENIED in lines[-1]
    assert "cannot be opened" not in "".join(lines)
