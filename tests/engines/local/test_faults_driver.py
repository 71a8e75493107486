"""The driver's own death, interruption and confusion: nothing it started outlives it, and the run can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import psutil
import pytest
from tests.engines.local.faults import (
    Faults,
    begin,
    events_of,
    fork_servers,
    gone,
    let_go,
    wait_until,
    went_on,
)

from hooke.base.clock import SystemClock
from hooke.base.errors import TimedOut
from hooke.journal.events import AttemptFinished, RunFinished
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

HELD = """
    import multiprocessing

    def keep(what):
        note(what, os.getpid())
        time.sleep(600)

    def daemonise(what):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for fd in (0, 1, 2):
                    os.close(fd)
                try:
                    keep(what)
                finally:
                    os._exit(0)
            os._exit(0)

    @task
    def held(x: int, how: str) -> int:
        note("worker.pid", os.getpid())
        if not (HERE / "go").exists():
            if how == "daemon":
                daemonise("daemon.pid")
            if how == "pool":
                multiprocessing.get_context("fork").Process(target=keep, args=("pool.pid",)).start()
            if how == "program":
                os.system("sleep 600 & echo $! >> program.pid")
            note("begun", x)
            wait_for("go")
        note("ran", x)
        return 10 * x

    @task
    def quick(x: int) -> int:
        note("quick", x)
        return x

    @pipeline
    def job(how: str = "plain"):
        return quick.map(range(5)), held.map(range(2), how=how)

    if __name__ == "__main__":
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the tests would hand on that it is ignored
        print("result", run(job, on="local:2", how=sys.argv[1]).result())
"""


def held_run(faults: Faults, how: str = "plain"):
    """A driver whose two workers are busy, and all pids below it."""
    faults.source(HELD)
    driver = begin(faults, how)
    wait_until(lambda: len(faults.noted("begun")) == 2, "both workers to be busy")
    if how != "plain":
        wait_until(lambda: len(faults.noted(f"{how}.pid")) == 2, "what the tasks start")
    below = [child.pid for child in psutil.Process(driver.pid).children(recursive=True)]
    assert len(below) >= 3
    return driver, {*below, *(pid for file in faults.folder.glob("*.pid") for pid in faults.pids(file.name))}


@pytest.mark.parametrize("how", ["plain", "pool", "program", "daemon"])
def test_kill_9_of_the_driver_leaves_nothing_running(faults: Faults, how: str) -> None:
    driver, below = held_run(faults, how)
    driver.kill()
    driver.communicate()
    gone(sorted(below))
    run = faults.last()
    assert run.status == "lost"
    let_go(faults, "go")
    assert went_on(faults, run).result() == ([0, 1, 2, 3, 4], [0, 10])
    assert sorted(faults.noted("quick")) == list("01234"), "what had finished ran again"


def test_kill_9_of_the_driver_while_its_fork_server_is_stopped(faults: Faults) -> None:
    driver, below = held_run(faults)
    (server,) = fork_servers(driver.pid)
    os.kill(server, signal.SIGSTOP)
    driver.kill()
    driver.communicate()
    gone(sorted(below))


def test_kill_9_of_the_driver_while_its_workers_are_stopped(faults: Faults) -> None:
    driver, below = held_run(faults)
    for pid in faults.pids("worker.pid"):
        os.kill(pid, signal.SIGSTOP)
    driver.kill()
    driver.communicate()
    gone(sorted(below))


@pytest.mark.long
def test_kill_9_of_driver_and_fork_server_at_once(faults: Faults) -> None:
    driver, below = held_run(faults, "pool")
    (server,) = fork_servers(driver.pid)
    driver.kill()
    os.kill(server, signal.SIGKILL)
    driver.communicate()
    gone(sorted(below))


@pytest.mark.long
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(faults: Faults, times: int) -> None:
    driver, below = held_run(faults, "program")
    for _ in range(times):
        driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=20)
    assert driver.returncode != 0
    assert "KeyboardInterrupt" in err
    gone(sorted(below))
    run = faults.last()
    assert run.status == "stopped"
    assert run.stopped_by == "Ctrl-C"
    assert events_of(run, RunFinished)
    let_go(faults, "go")
    assert went_on(faults, run).result() == ([0, 1, 2, 3, 4], [0, 10])


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda how: how.name)
def test_other_ends_of_the_driver(faults: Faults, how: signal.Signals) -> None:
    driver, below = held_run(faults, "program")
    driver.send_signal(how)
    driver.communicate(timeout=20)
    gone(sorted(below))
    run = faults.last()
    assert run.status in ("lost", "stopped", "failed")
    let_go(faults, "go")
    assert went_on(faults, run).result() == ([0, 1, 2, 3, 4], [0, 10])


# -- clocks ------------------------------------------------------------------------------------------


@dataclass
class Jumping(SystemClock):
    """A wall clock that somebody sets while the run goes on."""

    jumps: list[tuple[float, float]]
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        passed = time.monotonic() - self.began
        return time.time() + sum(by for at, by in self.jumps if passed >= at)


CLOCKED = """
    @task(timeout={timeout}, retries=1)
    def item(x: int) -> int:
        time.sleep(0.15)
        if x == 3 and not (HERE / "failed").exists():
            note("failed", x)
            raise ValueError("once")
        return x

    @pipeline
    def job():
        return item.map(range(10))
"""


@pytest.mark.long
@pytest.mark.parametrize("jumps", [[(0.4, 86400.0)], [(0.4, -86400.0)], [(0.3, -3600.0), (0.6, 7200.0)]])
def test_a_clock_that_is_set_times_nothing_out_and_holds_nothing_up(faults: Faults, jumps) -> None:
    faults.source(CLOCKED.replace("{timeout}", "30"))
    run = clocked(faults, jumps)
    assert run.result() == list(range(10))


@pytest.mark.long
def test_a_timeout_is_kept_while_the_clock_is_set_back(faults: Faults) -> None:
    faults.source(CLOCKED.replace("{timeout}", "0.5").replace("sleep(0.15)", "sleep(600)"))
    run = clocked(faults, [(0.2, -86400.0)])  # its tasks sleep for longer than a test may take
    with pytest.raises(TimedOut, match=r"timeout of 0.5 s"):
        run.result()


def clocked(faults: Faults, jumps: list[tuple[float, float]]) -> Run:
    pipeline, _ = load_entry(str(faults.file))
    driver = prepare(RunOrder(pipeline=pipeline, on="local:2"), faults.project, clock=Jumping(jumps))
    thread = threading.Thread(target=driver.drive, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the run hangs"
    return Run(faults.project, driver.run)


# -- several at once ---------------------------------------------------------------------------------

SHARED = """
    @task
    def item(x: int, by: int) -> int:
        note(f"ran-{by}", x)
        time.sleep(0.05)
        return x * by

    @pipeline
    def job(by: int = 1):
        return item.map(range(12), by=by)

    if __name__ == "__main__":
        print("result", run(job, on="local:2", by=int(sys.argv[1])).result())
"""


@pytest.mark.long
def test_two_runs_in_two_threads_of_one_process(faults: Faults) -> None:
    faults.source(SHARED)
    pipeline, _ = load_entry(str(faults.file))
    drivers = [
        prepare(RunOrder(pipeline=pipeline, params={"by": by}, on="local:2"), faults.project)
        for by in (2, 3, 2)
    ]
    threads = [threading.Thread(target=driver.drive) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    runs = [Run(faults.project, driver.run) for driver in drivers]
    assert [run.result() for run in runs] == [[by * x for x in range(12)] for by in (2, 3, 2)]
    assert sorted(map(int, faults.noted("ran-2"))) == list(range(12)), "a shared key was computed twice"


@pytest.mark.long
def test_two_processes_in_one_folder(faults: Faults) -> None:
    faults.source(SHARED)
    drivers = [begin(faults, by) for by in (2, 3)]
    outputs = [driver.communicate(timeout=180) for driver in drivers]
    expected = [f"result {[by * x for x in range(12)]}" for by in (2, 3)]
    assert [out.strip() for out, _ in outputs] == expected, outputs
    assert len(faults.project.runs.names()) == 2


@pytest.mark.long
def test_a_fork_of_the_driver_disturbs_nothing(faults: Faults) -> None:
    """A child of the driver has the pool's memory but none of its sockets, and may even run pipelines itself."""
    faults.source(SHARED)
    assert faults.go(by=2).result()[1] == 2
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if faults.go(by=5).result()[1] == 5 else 2
        finally:
            os._exit(code)
    assert faults.go(by=3).result()[1] == 3
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    run = faults.go(by=4)
    assert run.result()[1] == 4
    assert events_of(run, AttemptFinished)


@pytest.mark.long
def test_a_fork_that_outlives_the_driver_keeps_no_worker_alive(faults: Faults) -> None:
    faults.source(
        HELD.replace(
            '        print("result", run(job, on="local:2", how=sys.argv[1]).result())',
            """        going = run(job, on="local:2", wait=False, how=sys.argv[1])
        while not (HERE / "begun").exists():
            time.sleep(0.01)
        if os.fork() == 0:
            note("fork", os.getpid())
            time.sleep(600)
        going.result()""",
        )
    )
    driver = begin(faults, "plain")
    (fork,) = wait_until(lambda: faults.pids("fork"), "the fork")
    below = [child.pid for child in psutil.Process(driver.pid).children(recursive=True) if child.pid != fork]
    try:
        driver.kill()
        gone(below)
    finally:
        os.kill(fork, signal.SIGKILL)
        driver.communicate()


AT_EXIT = """
    from hooke.engines.worker.fork_server_client import ForkServer

    closes = ForkServer.close

    def interrupted(self):
        for _ in range(int(sys.argv[1])):
            signal.raise_signal(signal.SIGINT)
        closes(self)
        note("closed", "yes")

    @task
    def half(x: int) -> int:
        return x // 2

    @pipeline
    def halves():
        return half(10)

    if __name__ == "__main__":
        print(run(halves).result())
        ForkServer.close = interrupted
"""


@pytest.mark.long
def test_ctrl_c_while_the_workers_end_at_exit_changes_nothing(faults: Faults) -> None:
    faults.source(AT_EXIT)
    driver = subprocess.run(
        [sys.executable, faults.file, "1"],
        cwd=faults.folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (driver.returncode, driver.stdout) == (0, "5\n"), driver.stderr
    assert "ignored" not in driver.stderr and "KeyboardInterrupt" not in driver.stderr
    assert faults.noted("closed") == ["yes"]
