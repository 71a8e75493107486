"""Ray as a place: the suite on a Ray that is joined and on those that we start, and what Ray alone makes possible."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.engines.local.faults import gone
from tests.fixtures.workshop import Workshop

from hooke.base.errors import EnvironmentMismatch, HookeError, UsageError
from hooke.engines.ray import ray_engine
from hooke.engines.ray.ray_engine import RayEngine
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    WorkerStarted,
    WorkerStopped,
)
from hooke.running.resume import resume
from hooke.running.run import Run
from hooke.testing import engine_suite as suite
from hooke.testing import engine_tasks as tasks
from hooke.testing import short_call_suite
from hooke.testing.engine_bench import EngineBench
from hooke.testing.engine_suite import ENGINE_CHECKS, EngineCheck, check_engine, name_of

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]

OURS = (
    suite.check_thousands_of_small_calls,
    suite.check_workers_are_added_and_retired_without_losing_work,
    suite.check_close_ends_all_and_may_come_twice,
)
"""Where it makes a difference that the Ray is ours. They share one, which takes long to start; the last check closes it."""

GENTLE = (
    suite.check_thousands_of_small_calls,
    suite.check_calls_and_maps_give_what_plain_python_gives,
    suite.check_large_arguments_and_results,
    suite.check_the_list_of_a_dynamic_map_is_read_on_a_worker,
    suite.check_a_failure_says_whether_and_when_to_try_again,
    suite.check_what_a_failing_chunk_had_done_is_kept,
    suite.check_tasks_may_raise_anything,
    suite.check_a_result_that_cannot_be_stored_is_a_failure,
    suite.check_a_function_that_cannot_travel_is_refused,
    suite.check_a_module_that_workers_lack_is_an_environment_mismatch,
    suite.check_a_queued_attempt_can_be_cancelled,
    suite.check_output_is_kept_by_attempt,
    suite.check_what_a_task_changes_in_its_process_is_set_back,
    suite.check_peak_memory_is_known_where_declared,
    suite.check_a_checkpoint_folder_belongs_to_the_key,
    short_call_suite.check_calls_follow_one_another,
    short_call_suite.check_a_call_may_follow_one_that_has_just_ended,
    short_call_suite.check_what_follows_a_failure_never_begins,
    short_call_suite.check_calls_that_follow_can_be_cancelled,
    short_call_suite.check_each_call_of_a_group_has_its_own_end,
    short_call_suite.check_what_waits_behind_a_long_call_of_a_group_runs_elsewhere,
    short_call_suite.check_calls_of_a_group_can_be_cancelled,
)
"""They end no worker and need none that is new, so all of them ask one engine: each takes 8 s of CPU time to begin and end."""

ENDING = (
    suite.check_a_killed_worker_is_told_and_harms_nobody_else,
    suite.check_a_worker_that_exits_is_told_with_its_code,
    suite.check_a_chunk_dies_as_a_whole,
    short_call_suite.check_short_calls_outlive_the_worker_that_they_wait_in,
    suite.check_a_running_attempt_can_be_cancelled,
    short_call_suite.check_short_calls_can_be_cancelled,
    short_call_suite.check_what_follows_a_dead_one_never_begins,
    short_call_suite.check_a_group_outlives_its_worker,
    suite.check_a_chunk_ends_at_its_limit_with_what_it_has_done,
    *suite.GANG_CHECKS,
)
"""They end workers, for which the engine starts others: they share one as well."""


def joined(address: str, **options):
    def make(context, *, workers):
        return RayEngine(context, workers=workers, at=address, **options)

    return make


@pytest.mark.parametrize(
    "check", [each for each in ENGINE_CHECKS if each not in GENTLE + ENDING], ids=name_of
)
def test_a_ray_that_is_joined(check: EngineCheck, address: str, tmp_path: Path) -> None:
    check_engine(joined(address), tmp_path, only=check)


@pytest.mark.long
@pytest.mark.parametrize("checks", [GENTLE, ENDING], ids=["gentle", "ending"])
def test_many_checks_of_one_engine_on_a_ray_that_is_joined(
    checks: tuple[EngineCheck, ...], address: str, tmp_path: Path
) -> None:
    with EngineBench(joined(address), tmp_path) as bench:
        check_all(bench, checks, tmp_path)


def check_all(bench: EngineBench, checks: tuple[EngineCheck, ...], folder: Path) -> None:
    """Each waits for files of its own, and for ends of workers."""
    for check in checks:
        print(name_of(check))  # what comes last has failed
        bench.folder = folder / name_of(check)
        bench.folder.mkdir()
        bench.events = [event for event in bench.events if not isinstance(event, WorkerStopped)]
        check(bench)


@pytest.mark.long
def test_a_ray_of_ours(tmp_path: Path) -> None:
    with EngineBench(RayEngine, tmp_path) as bench:
        check_all(bench, OURS, tmp_path)


def listening(below: list[psutil.Process]) -> set[str]:
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for each in below
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.long
def test_a_ray_of_ours_is_on_loopback_alone_asks_for_its_token_and_ends_with_what_started_it(
    tmp_path: Path,
) -> None:
    with EngineBench(RayEngine, tmp_path) as bench:
        bench.finished(bench.submit(tasks.add, 1))
        (bridge,) = [
            each for each in psutil.Process().children() if "hooke.engines.ray.bridge" in each.cmdline()
        ]
        below = [bridge, *bridge.children(recursive=True)]
        assert listening(below) == {"127.0.0.1"}
        (raylet,) = [each for each in below if each.name() == "raylet"]
        environment = raylet.environ()
        assert environment["RAY_AUTH_MODE"] == "token"
        token = Path(environment["RAY_AUTH_TOKEN_PATH"])
        assert token.stat().st_mode & 0o777 == 0o600
        # Ray's agents look a minute longer for the rest before they end.
        ends = [each.pid for each in below if not each.name().endswith("Agent")]
        bridge.kill()  # as the kernel does where memory is out
    assert not token.parent.exists()
    gone(ends)


def host_processes() -> list[psutil.Process]:
    """The actors of Rays that this process started."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayHost" in each.name() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def of_worker(bench: EngineBench, attempt: int) -> psutil.Process:
    """The actor whose process runs the attempt."""
    (started,) = [event for event in bench.of(AttemptStarted) if event.attempt == attempt]
    (worker,) = [event for event in bench.of(WorkerStarted) if event.worker == started.worker]
    return psutil.Process(worker.pid).parent().parent()


def mark_and_wait(path: str) -> None:
    """A task that says that it ran, each time."""
    with open(path, "a") as file:
        file.write("ran\n")
    tasks.sleep(600.0)


@pytest.mark.long
def test_the_death_of_a_host_ends_its_attempt_and_is_not_made_up_for_in_silence(
    address: str, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    with EngineBench(joined(address), tmp_path) as bench:
        attempt = bench.submit(mark_and_wait, str(marks))
        bench.until(lambda: bench.is_running(attempt) and marks.exists(), "it to begin")
        host = of_worker(bench, attempt)
        below = host.children(recursive=True)
        host.kill()
        failure = bench.failed(attempt).failure
        assert failure.kind == "WorkerDied"
        assert (failure.exit_code, failure.signal) == (None, None)
        assert "is gone" in failure.message
        gone([each.pid for each in below])
        bench.finished(bench.submit(tasks.add, 1))
        assert marks.read_text() == "ran\n"


@pytest.mark.long
def test_a_host_that_gives_no_sign_of_life_is_given_up(address: str, tmp_path: Path) -> None:
    with EngineBench(joined(address, silent_s=5.0), tmp_path) as bench:
        go = tmp_path / "go"
        attempt = bench.submit(tasks.wait_for_file, str(go))
        bench.until(lambda: bench.is_running(attempt), "it to begin")
        host = of_worker(bench, attempt)
        host.send_signal(signal.SIGSTOP)
        try:
            failure = bench.failed(attempt).failure
            assert failure.kind == "WorkerDied"
            assert "no sign of life for 5 s" in failure.message
            go.touch()
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                host.send_signal(signal.SIGCONT)
        bench.finished(bench.submit(tasks.add, 1))
        assert isinstance(bench.answers[attempt], AttemptFailed)


@pytest.mark.long
def test_all_cpus_of_each_node_without_a_number(address: str, tmp_path: Path) -> None:
    def make(context, *, workers):
        return RayEngine(context, at=address)

    with EngineBench(make, tmp_path) as bench:
        bench.finished(bench.submit(tasks.add, 1))
        assert bench.of(CapacityChanged)[-1].slots == 4
        assert not bench.capabilities.elastic


@pytest.mark.long
def test_nodes_that_are_not_like_the_driver_are_refused(address: str, tmp_path: Path) -> None:
    def make(context, *, workers):
        return RayEngine(replace(context, requires={"msgspec": "0.0.1"}), workers=workers, at=address)

    with pytest.raises(EnvironmentMismatch, match=r"msgspec: 0\.0\.1 on the driver, ") as refused:
        EngineBench(make, tmp_path)
    assert "--allow-mismatch msgspec" in refused.value.fix


@pytest.mark.long
@pytest.mark.parametrize("nowhere", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_place_where_nothing_answers(nowhere: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"no Ray answers at {nowhere}"):
        EngineBench(joined(nowhere), tmp_path)


@pytest.mark.long
def test_a_place_where_something_else_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "CONNECT_S", 5.0)  # nothing answers at all, however long it is waited for
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(HookeError, match="Ray"):
            EngineBench(joined(f"127.0.0.1:{port}"), tmp_path)


@pytest.mark.long
def test_a_ray_that_asks_for_a_token_which_is_not_given(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    with pytest.raises(UsageError, match="token") as refused:
        EngineBench(joined(address), tmp_path)
    assert "RAY_AUTH_MODE" in refused.value.fix


PIPELINE = """
    import os
    from hooke import log_metric, pipeline, task

    @task
    def square(x):
        print("squaring", x)
        log_metric("x", x)
        return x * x

    @task
    def total(xs):
        return sum(xs)

    @pipeline
    def squares(n: int = 20):
        return total(square.map(range(n)))
"""


@pytest.mark.long
def test_a_run_with_logs_metrics_and_a_cache(workshop: Workshop, address: str) -> None:
    workshop.write(PIPELINE)
    run = workshop.run(on=address, workers=2, n=20)
    assert run.result() == sum(x * x for x in range(20))
    # On a busy machine an item may have a second attempt: what it logs does not count, what it prints stays.
    assert sorted(point.value for point in run.logged().curve("x")) == list(range(20))
    printed = "".join(path.read_text() for path in (run.folder / "logs").iterdir())
    assert {int(x) for x in re.findall(r"squaring (\d+)", printed)} == set(range(20))
    assert workshop.ran(workshop.run(on="serial", n=20)) == {}


@pytest.mark.long
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "joined"])
def test_a_killed_driver_leaves_nothing_running_and_resume_goes_on(
    ours: bool, workshop: Workshop, address: str
) -> None:
    workshop.write(KILLED.replace("PLACE", "ray:2" if ours else address))
    below_us = psutil.Process().children(recursive=True)
    theirs = {each.pid for each in below_us if each.name() in ("raylet", "gcs_server")}
    assert theirs
    with workshop.started(until=lambda: len(list(workshop.folder.glob("ran-*"))) >= 4, within_s=300) as pid:
        below = [process.pid for process in psutil.Process(pid).children(recursive=True)]
        below += [process.pid for process in host_processes()]
    gone(below)
    assert all(map(psutil.pid_exists, theirs))
    (workshop.folder / "go").touch()
    run = Run(workshop.project, workshop.project.runs.names()[0])
    durable = [f"ran-{event.node}" for event in run.journal if isinstance(event, AttemptFinished)]
    assert durable
    driver = resume(workshop.project, run.id)
    assert driver is not None
    assert driver.drive() == "finished"
    assert run.result() == sum(range(8))
    assert [(workshop.folder / name).read_text() for name in durable] == ["once"] * len(durable)


KILLED = """
    import time
    from pathlib import Path
    from hooke import pipeline, run, task

    HERE = Path(__file__).parent

    @task(observe=False)
    def one(x):
        while len(list(HERE.glob("ran-*"))) >= 4 and not (HERE / "go").exists():
            time.sleep(0.01)
        with open(HERE / f"ran-{x}", "a") as file:
            file.write("once")
        return x

    @task
    def total(xs):
        return sum(xs)

    @pipeline
    def work():
        return total([one(x) for x in range(8)])

    if __name__ == "__main__":
        run(work, on="PLACE", workers=2)
"""


FAILING = """
import socket, sys
from hooke.processes.channel import Channel
from hooke.engines.ray.bridge import _Bridge
from hooke.engines.ray.bridge_protocol import ConnectBridge, unpack_for_driver

ours, theirs = (Channel(end.detach()) for end in socket.socketpair())
bridge = _Bridge(theirs, ConnectBridge(address="10.0.0.5:6379", folder=sys.argv[1], ours=False))
bridge._connect = lambda: None
bridge._inbox.put(lambda: [].pop())
bridge.serve()
print(*map(unpack_for_driver, ours.take()[0]))
"""
"""In a process of its own, as a bridge is: Ray's library is not for the driver's."""


@pytest.mark.long
def test_what_a_bridge_ends_of_is_told(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", FAILING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (
        "BridgeFailed(what='the connection to Ray is lost', why='IndexError: pop from empty list'"
        in told.stdout
    )
