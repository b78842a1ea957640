"""loky: its reusable executor, which breaks with a killed worker and is made again."""

from pathlib import Path
from typing import Any

import loky
import pytest
from engine_rollouts import check_command, check_stream, check_survives, local_run


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return local_run(tmp_path_factory)


def executor() -> Any:
    return loky.get_reusable_executor(max_workers=2, timeout=60)


def test_a_killed_worker_costs_nothing(tmp_path: Path, reference: dict[str, Any]) -> None:
    check_survives(tmp_path, executor, reference)


def test_results_come_one_by_one_and_an_error_cancels(tmp_path: Path) -> None:
    check_stream(tmp_path, executor)


def test_the_command_records_what_the_local_engine_does(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    check_command(tmp_path, reference, "loky", "--workers", "2")
