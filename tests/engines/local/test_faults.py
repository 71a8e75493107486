"""Tasks that take their worker down, in whole runs on the local engine: the error says how, and nobody else suffers."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest
from tests.engines.local.faults import Faults, events_of, gone, went_on

from hooke.base.errors import OutOfMemory, TaskError, WorkerDied
from hooke.journal.events import AttemptFailed, AttemptFinished, RetryPlanned, WorkerStopped
from hooke.processes.devices import MachineMemory

pytestmark = pytest.mark.needs("processes")

DEADLY = """
    def overflow_c():
        text = b"x = " + b"-" * 5_000_000 + b"1"
        ctypes.pythonapi.Py_CompileString  # a real stack overflow: C recursion without a check
        handle = ctypes.CFUNCTYPE(None)
        def again():
            back()
        back = handle(again)
        sys.setrecursionlimit(10**9)
        back()
        ctypes.string_at(0)  # Python 3.13 checks that recursion

    def overflow_python():
        return overflow_python()

    def fault(how):
        print("last words")
        sys.stdout.flush()
        if how == "fine":
            return how
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "abort":
            os.abort()
        if how == "exit 0":
            os._exit(0)
        if how == "exit 7":
            os._exit(7)
        if how == "sys.exit":
            sys.exit("enough")
        if how == "RecursionError":
            overflow_python()
        if how == "stack overflow":
            overflow_c()
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "closes its sockets":
            os.closerange(3, 200)
            time.sleep(60)
        return how

    @task
    def doing(how: str) -> str:
        note("worker.pid", os.getpid())
        return fault(how)

    @task
    def other(x: int) -> int:
        return x

    @pipeline
    def job(how: str = "fine"):
        return doing(how), other.map(range(3))
"""


@pytest.mark.parametrize(
    ("how", "kind", "message", "facts"),
    [
        ("killed", WorkerDied, "killed by SIGKILL", {"signal": signal.SIGKILL}),
        ("terminated", WorkerDied, "killed by SIGTERM", {"signal": signal.SIGTERM}),
        ("segfault", WorkerDied, "killed by SIGSEGV", {"signal": signal.SIGSEGV}),
        ("abort", WorkerDied, "killed by SIGABRT", {"signal": signal.SIGABRT}),
        ("exit 0", WorkerDied, "exit code 0", {"exit_code": 0, "signal": None}),
        ("exit 7", WorkerDied, "exit code 7", {"exit_code": 7, "signal": None}),
        ("stack overflow", WorkerDied, "killed by SIGSEGV", {"signal": signal.SIGSEGV}),
        ("stopped", WorkerDied, "it was stopped (SIGSTOP) for 5 s and then ended", {}),
        ("closes its sockets", WorkerDied, "it closed its connection to the driver", {}),
        ("sys.exit", TaskError, "SystemExit: enough", {"exit_code": None, "signal": None}),
        ("RecursionError", TaskError, "RecursionError: maximum recursion depth exceeded", {}),
    ],
)
def test_a_death_is_told_as_what_it_was(faults: Faults, how, kind, message, facts) -> None:
    faults.source(DEADLY)
    run = faults.go(how)
    with pytest.raises(kind) as caught:
        run.result()
    error = caught.value
    assert type(error).__name__ == kind.__name__
    text = str(error)
    assert f"doing(how='{how}') failed: " in text
    assert message in text
    assert "on worker local-" in text
    assert f"hooke logs {run.id} doing" in text
    assert error.log_tail[0] == "last words"
    assert facts.items() <= error.details.items()
    (failed,) = events_of(run, AttemptFailed)
    assert failed.worker == error.worker
    if kind is WorkerDied:
        assert error.worker in {event.worker for event in events_of(run, WorkerStopped)}
        gone(faults.pids("worker.pid"))
    assert run.status == "failed"
    faults.edit("def fault(how):\n", "def fault(how):\n    return 'fixed'\n")
    assert went_on(faults, run).result() == ("fixed", [0, 1, 2])


@pytest.mark.long
def test_a_crash_of_an_import_is_the_tasks(faults: Faults) -> None:
    (faults.folder / "crashing_import.py").write_text(
        "import os, sys\nif 'pytest' not in sys.modules:\n    os._exit(9)\n"
    )
    faults.source("""
        sys.path.insert(0, str(HERE))

        @task
        def doing() -> int:
            import crashing_import
            return 1

        @pipeline
        def job():
            return doing()
    """)
    with pytest.raises(WorkerDied, match="exit code 9"):
        faults.go().result()


@pytest.mark.long
def test_one_poisoned_item_fails_alone_and_the_journal_says_how_it_was_found(faults: Faults) -> None:
    faults.source("""
        @task
        def item(x: int) -> int:
            note("ran", x)
            if x == 37:
                os._exit(3)
            return 10 * x

        @pipeline
        def job():
            return item.map(range(100))
    """)
    run = faults.go()
    with pytest.raises(WorkerDied, match=r"item\(x=37\) failed: .*exit code 3") as caught:
        run.result()
    assert "37" in caught.value.arguments
    final = events_of(run, AttemptFailed)[-1]
    assert (final.lo, final.hi) == (37, 38)
    assert faults.noted("ran").count("37") <= 2, "once in its chunk, once alone"
    if len(events_of(run, AttemptFailed)) > 1:
        (planned,) = events_of(run, RetryPlanned)
        assert "each runs alone to find which" in planned.reason
        assert planned.lo <= 37 < planned.hi
    done = {x for event in events_of(run, AttemptFinished) for x in range(event.lo, event.hi)}
    faults.edit("os._exit(3)", "return -1")
    after = went_on(faults, run)
    assert after.result() == [-1 if x == 37 else 10 * x for x in range(100)]
    assert 37 not in done


@pytest.mark.long
def test_an_item_that_dies_once_costs_nobody_else_anything(faults: Faults) -> None:
    faults.source("""
        @task(retries=1)
        def item(x: int) -> int:
            note("ran", x)
            if x == 37 and not (HERE / "died").exists():
                note("died", x)
                os.kill(os.getpid(), signal.SIGKILL)
            return 10 * x

        @pipeline
        def job():
            return item.map(range(100))
    """)
    run = faults.go()
    assert run.result() == [10 * x for x in range(100)]
    assert run.status == "finished"
    assert any("WorkerDied" in event.reason for event in events_of(run, RetryPlanned))


@pytest.mark.long
def test_a_declared_retry_is_said_and_counted(faults: Faults) -> None:
    faults.source("""
        @task(retries=2)
        def doing() -> int:
            note("ran", 1)
            os._exit(5)

        @pipeline
        def job():
            return doing()
    """)
    run = faults.go()
    with pytest.raises(WorkerDied, match="exit code 5"):
        run.result()
    assert len(faults.noted("ran")) == 3
    assert [event.number for event in events_of(run, RetryPlanned)] == [2, 3]
    assert "try 3 of 3" in events_of(run, RetryPlanned)[-1].reason


# -- memory ------------------------------------------------------------------------------------------

HUNGRY = """
    @task(memory="{limit}")
    def eat(megabytes: int) -> int:
        held = []
        for _ in range(megabytes // 16):
            held.append(bytearray(os.urandom(1) * (16 << 20)))
            time.sleep(0.02)
        time.sleep(0.2)
        return len(held)

    @pipeline
    def job(megabytes: int = 0):
        return eat(megabytes)
"""


@pytest.mark.long
def test_out_of_memory_runs_again_with_double(faults: Faults) -> None:
    faults.source(HUNGRY.replace("{limit}", "128MiB"))
    run = faults.go(320)
    assert run.result() == 20
    assert [event.failure.kind for event in events_of(run, AttemptFailed)] == ["OutOfMemory"] * 2
    reasons = [event.reason for event in events_of(run, RetryPlanned)]
    assert "again with 256" in reasons[0]
    assert "again with 512" in reasons[1]
    for event, limit in zip(events_of(run, AttemptFailed), (128 << 20, 256 << 20), strict=True):
        assert event.failure.limit_bytes == limit
        assert limit <= event.failure.peak_bytes < 2 * limit


@pytest.mark.long
def test_a_hard_limit_of_the_shell_below_the_memory_of_a_task_stays(faults: Faults) -> None:
    faults.source(
        HUNGRY.replace("{limit}", "4GiB")
        + """
    if __name__ == "__main__":
        print(run(job, on="local:1", megabytes=32).result())
    """
    )
    done = subprocess.run(
        [sys.executable, str(faults.file)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.long
def test_what_outgrows_the_machine_says_that_it_ran_again(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = MachineMemory(available=(200 << 20) * 10 // 9, total=1 << 30)
    monkeypatch.setattr("hooke.processes.devices.machine_memory", lambda: small)
    faults.source(HUNGRY.replace("{limit}", "128MiB"))
    run = faults.go(480)
    with pytest.raises(OutOfMemory, match="of 200 MiB allowed; it ran again, because 128 MiB had been too"):
        run.result()


@pytest.mark.long
def test_more_memory_than_the_machine_has_fails_with_peak_and_limit(faults: Faults) -> None:
    """The limit is the machine's own, and the allocation is refused rather than the machine taken down."""
    faults.source("""
        import psutil

        @task(memory=psutil.virtual_memory().total // 4 * 3)
        def eat() -> int:
            return len(bytearray(4 * psutil.virtual_memory().total))

        @pipeline
        def job():
            return eat()
    """)
    run = faults.go()
    with pytest.raises(OutOfMemory) as caught:
        run.result()
    assert "memory limit" in str(caught.value) or "peak memory" in str(caught.value)
    assert caught.value.details["limit_bytes"] is not None


# -- what tasks start and print ----------------------------------------------------------------------


def test_a_tasks_own_pool_goes_with_its_worker(faults: Faults) -> None:
    faults.source("""
        from concurrent.futures import ProcessPoolExecutor

        def busy(n):
            note("pool.pid", os.getpid())
            time.sleep(600)

        @task
        def doing() -> int:
            pool = ProcessPoolExecutor(3)
            for n in range(3):
                pool.submit(busy, n)
            while len((HERE / "pool.pid").read_text().split() if (HERE / "pool.pid").exists() else ()) < 3:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        @pipeline
        def job():
            return doing()
    """)
    run = faults.go()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        run.result()
    assert len(faults.pids("pool.pid")) == 3
    gone(faults.pids("pool.pid"))


DAEMON = """
    def daemonise():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                note("daemon.pid", os.getpid())
                {then}
                time.sleep(600)
            os._exit(0)

    @task
    def doing(die: bool) -> int:
        daemonise()
        while not (HERE / "daemon.pid").exists():
            time.sleep(0.01)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    @pipeline
    def job(die: bool = False):
        return doing(die)

    if __name__ == "__main__":
        print(run(job, on="local:1").result())
"""


@pytest.mark.long
def test_a_daemon_that_a_task_left_does_not_hide_its_workers_death(faults: Faults) -> None:
    """It has inherited the worker's socket, and must not keep it open."""
    faults.source(DAEMON.replace("{then}", "pass"))
    run = faults.go(die=True)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        run.result()


def test_a_program_that_a_task_left_does_not_hide_its_workers_death(faults: Faults) -> None:
    faults.source("""
        @task
        def doing() -> int:
            os.system("setsid sleep 600 & echo $! >> sleep.pid")
            time.sleep(0.2)
            os._exit(4)

        @pipeline
        def job():
            return doing()
    """)
    with pytest.raises(WorkerDied, match="exit code 4"):
        faults.go().result()


@pytest.mark.long
def test_fifty_megabytes_of_output(faults: Faults) -> None:
    faults.source("""
        @task
        def loud(fail: bool) -> int:
            for number in range(500):
                print(str(number).rjust(99_999))
            print("the last line")
            if fail:
                raise ValueError("after all that")
            return 1

        @pipeline
        def job(fail: bool = False):
            return loud(fail)
    """)
    run = faults.go()
    assert run.result() == 1
    (finished,) = events_of(run, AttemptFinished)
    assert finished.log is not None
    assert finished.log.end - finished.log.start == 500 * 100_000 + len("the last line\n")
    with pytest.raises(TaskError) as caught:
        faults.go(fail=True).result()
    assert caught.value.log_tail[-1] == "the last line"
    assert sum(map(len, caught.value.log_tail)) <= 20_000


@pytest.mark.long
@pytest.mark.parametrize(
    "closing",
    ["os.close(1)", "os.close(2)", "os.close(1); os.close(2)", "sys.stdout.close()", "sys.stderr.close()",
     "sys.stdout = None", "sys.stdout = sys.stderr = open(os.devnull, 'w')", "os.close(0)"],
)  # fmt: skip
def test_a_task_that_closes_its_output_harms_nobody(faults: Faults, closing: str) -> None:
    faults.source(f"""
        @task
        def closing(x: int) -> int:
            print("before")
            {closing}
            return x

        @task
        def after(x: int) -> bytes:
            print("printed after", x)
            return bytes([x]) * 200_000

        @pipeline
        def job():
            return after(closing(7))
    """)
    run = faults.go(on="local:1")
    assert run.result() == bytes([7]) * 200_000
    first, second = events_of(run, AttemptFinished)
    assert first.worker == second.worker, "it cost a worker"
    log = (run.folder / "logs" / second.log.name).read_bytes()
    assert b"printed after 7" in log[second.log.start : second.log.end]
