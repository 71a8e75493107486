"""A Ray that outlives runs: Ray's own documented examples on it, and pipelines."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hooke import Fleet, run
from hooke.base.errors import HookeError, UsageError
from hooke.engines.ray.head import Head, environment_of_head

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]

ROOT = Path(__file__).parents[3]
EXAMPLES = (
    "tasks",
    "resources_are_those_of_the_fleet",
    "objects",
    "results_are_arguments",
    "results_as_they_come",
    "several_returns",
    "generators",
    "tasks_start_tasks",
    "errors",
    "retries",
    "cancelling",
    "monte_carlo_estimation_of_pi",
    "named_actors",
    "asynchronous_actors",
    "an_actor_pool",
    "a_queue",
    "a_pool_as_of_multiprocessing",
    "a_placement_group",
    "map_and_reduce",
    "a_runtime_environment",
    "runs_one_after_another_with_an_edit_between",
    "a_run_has_its_own_processes_where_all_cpus_are_taken",
    "a_task_uses_the_ray_that_runs_it",
    "two_runs_at_once",
    "nobody_else_can_reach_it",
    "a_run_that_goes_on_is_told_of_the_end",
    "the_process_is_as_it_was",
    "nothing_is_left",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.mark.long
def test_until_ray_has_its_ports_nobody_else_gets_one_of_them(folder: Path) -> None:
    """It binds them seconds after they were chosen; meanwhile any connection on this machine could take one."""
    head = Head(folder, environment=environment_of_head(folder, os.environ))
    try:
        ports = {each.getsockname()[1] for each in head._reserved}
        assert len(ports) >= 3
        for port in ports:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        head.wait()
    finally:
        head.end()
    for port in ports:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))


@pytest.mark.long
def test_ray_starts_although_its_agents_do_not(folder: Path) -> None:
    """On a busy machine they may need longer than the 15 s after which a raylet crashes that waits for one of them."""
    environment = environment_of_head(folder, os.environ)
    head = Head(folder, environment=environment, cpus=1)
    stop = threading.Event()

    def hold_agents() -> None:
        while not stop.wait(0.02):
            for each in psutil.Process(head._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any(word.endswith(("/agent.py", "/agent/main.py")) for word in each.cmdline()):
                        each.suspend()

    holding = threading.Thread(target=hold_agents)
    holding.start()
    try:
        head.wait()
        script = f"import ray; ray.init('{head.address}'); print(len(ray.nodes()))"
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "1", done.stderr
    finally:
        stop.set()
        holding.join()
        head.end()


@pytest.mark.long
def test_a_ray_that_does_not_start_shows_what_its_processes_said(folder: Path) -> None:
    environment = environment_of_head(folder, os.environ) | {"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}
    head = Head(folder, environment=environment)
    try:
        with pytest.raises(HookeError, match="cannot start Ray on this machine") as caught:
            head.wait()
    finally:
        head.end()
    assert "/nowhere/token" in caught.value.why and "exit code" in caught.value.why


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each of `ray_examples`, which has a fleet of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.ray.ray_examples"],
        cwd=tmp_path_factory.mktemp("fleet"),
        env=os.environ | {"PYTHONPATH": path, "HOOKE_PROGRESS": "none", "HOOKE_SINKS": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=350,
    )
    assert done.returncode == 0, done.stderr
    came: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return came


@pytest.mark.long
@pytest.mark.parametrize("example", EXAMPLES)
def test_it_runs_on_a_fleet(example: str, outcome: dict[str, str]) -> None:
    assert outcome[example] == ""


def test_all_of_them_are_looked_at(outcome: dict[str, str]) -> None:
    assert set(outcome) == set(EXAMPLES)


def test_a_fleet_that_is_not_running_says_so() -> None:
    from hooke.testing.engine_suite import every_shape

    with pytest.raises(UsageError, match=r"is not running"):
        run(every_shape, 3, on=Fleet("ray", workers=1))
