"""A Ray cluster that is there before, as `ray start --head` makes one."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import living
from engine_rollouts import check_command, exporter_in, live, local_run, logical
from running import run

from shardwriter.engines import RayExecutor

pytestmark = pytest.mark.timeout(300)  # Ray's workers are nice, and wait for all else


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    place = tempfile.mkdtemp(prefix="ray-")  # short: names of Unix sockets have 107 characters
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": place}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    options = ("--num-cpus", 2, "--object-store-memory", 80_000_000, "--include-dashboard", "false")
    head = ("start", "--head", "--block", "--port", port, "--temp-dir", place, *options)
    try:
        with living(Path(place), "ray.scripts.scripts", *head, is_there=lambda: answers(port)):
            yield f"127.0.0.1:{port}"
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


def test_the_command_and_a_program_record_on_it(
    tmp_path: Path, address: str, reference: dict[str, Any]
) -> None:
    check_command(tmp_path, reference, "ray", "--address", address)
    options = {"logging_level": "warning", "log_to_driver": False}
    for found in (address, "auto"):  # by RAY_TMPDIR, here
        with (
            exporter_in(tmp_path, "program") as exporter,
            RayExecutor(found, init=options) as executor,
        ):
            exporter.run_episodes(live, range(3), executor=executor)
        assert logical(exporter.output_dir).items() <= reference.items()
        shutil.rmtree(exporter.output_dir)


def test_nothing_at_the_address_is_an_error_at_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--engine", "ray", "--address", f"127.0.0.1:{free_port()}") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "expected a cluster of Ray's that answers, got '[Errno 111]" in line
    assert not (place / "experiments").exists()
