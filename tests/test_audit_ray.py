"""Work spread over a real Ray cluster of two nodes, one of which dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray_cluster as program

from steadymr import executors
from steadymr.errors import SettingsError


def test_a_cluster_that_loses_a_node_makes_the_table_of_one_process() -> None:
    waits = {"RAY_raylet_start_wait_time_s": "150", "RAY_gcs_server_request_timeout_seconds": "150"}
    patient = {**os.environ, **waits}  # on a busy machine nodes start slowly
    command = [sys.executable, Path(program.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=patient)
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["rows"] == program.expected()
    assert made["n_nodes"] == 2


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(SettingsError, match=r"pip install 'steadymr\[ray\]'"),
        executors.ray_cluster("auto"),
    ):
        pass


@pytest.mark.parametrize(("n_processes", "n_tasks"), [(1, 5), (2, 9)])
def test_local_processes_return_every_result_under_its_number(n_processes: int, n_tasks: int) -> None:
    with executors.local_processes(n_processes) as executor:
        found = dict(executor.run(divmod, ((number, 3) for number in range(n_tasks))))
    assert found == {number: divmod(number, 3) for number in range(n_tasks)}


def test_an_error_in_a_process_is_raised_here() -> None:
    with executors.local_processes(2) as executor, pytest.raises(ZeroDivisionError):
        list(executor.run(divmod, [(1, 0), (2, 1)]))


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1, got 0"), executors.local_processes(0):
        pass
