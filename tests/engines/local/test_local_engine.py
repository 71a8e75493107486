import decimal
import errno
import importlib
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.local.faults import gone, wait_until

from hooke.engines.local import LocalEngine
from hooke.engines.worker import worker_loop
from hooke.journal.events import AttemptStarted, WorkerStarted, WorkerStopped
from hooke.pipeline.engine import EngineContext
from hooke.processes.devices import Devices
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import EngineBench
from hooke.testing.engine_suite import ENGINE_CHECKS, EngineCheck, check_engine, name_of

pytestmark = pytest.mark.needs("processes")


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=name_of)
def test_the_local_engine(check: EngineCheck, tmp_path: Path) -> None:
    check_engine(LocalEngine, tmp_path, only=check)


def test_the_short_calls_behind_a_cancelled_one_are_answered(tmp_path: Path) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        bench.finished(bench.submit(tasks.add, 0, short=True))
        blocked = bench.submit(tasks.wait_for_file, str(tmp_path / "go"), short=True)
        bench.until(lambda: bench.is_running(blocked), "it runs")
        waiting = [bench.submit(tasks.add, number, short=True) for number in range(3)]
        bench.cancel(blocked)
        for attempt in waiting:
            bench.finished(attempt)


def test_short_calls_do_not_wait_behind_a_long_one_while_another_worker_is_free(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with EngineBench(LocalEngine, tmp_path, workers=2) as bench:
        bench.finished(bench.submit(tasks.add, 0, short=True))
        long = bench.submit(tasks.wait_for_file, str(go), short=True)
        for attempt in [bench.submit(tasks.add, n, short=True) for n in range(30)]:
            bench.finished(attempt)
        assert long not in bench.answers, "it waits for the file"
        go.touch()
        bench.finished(long)


def test_a_worker_that_is_free_takes_calls_that_wait_in_another_one_though_none_is_stuck(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    with EngineBench(LocalEngine, tmp_path, workers=2) as bench:
        bench.finished(bench.submit(tasks.sleep, 0.0, short=True))
        long = bench.submit(tasks.wait_for_file, str(go), short=True)
        bench.until(lambda: bench.is_running(long), "it runs")
        time.sleep(0.1)  # what comes now does not wait behind it
        heads = [bench.submit(tasks.sleep, 0.01, short=True) for _ in range(30)]
        chained = [bench.submit_behind(head, tasks.sleep) for head in heads]
        go.touch()
        for attempt in (long, *heads, *chained):
            bench.finished(attempt)
        assert len({started.worker for started in bench.of(AttemptStarted) if started.attempt in heads}) == 2


def test_nothing_follows_where_a_result_is_to_be_on_the_disk_first(tmp_path: Path) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        assert bench.capabilities.follows
        engine = LocalEngine(replace(bench.context, durable="each"), workers=(1, 1))
        assert not engine.capabilities.follows
        engine.close()


def test_a_waiting_call_is_cancelled_without_its_worker(tmp_path: Path) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        bench.finished(bench.submit(tasks.add, 0, short=True))
        blocked = bench.submit(tasks.wait_for_file, str(tmp_path / "go"), short=True)
        bench.until(lambda: bench.is_running(blocked), "it runs")
        waiting = [bench.submit(tasks.add, number, short=True) for number in range(40)]
        for attempt in waiting[::2]:
            bench.cancel(attempt)
        (tmp_path / "go").touch()
        for attempt in (blocked, *waiting[1::2]):
            bench.finished(attempt)
        assert not bench.of(WorkerStopped)
        assert bench.answers.keys().isdisjoint(waiting[::2])


def mark(path: str) -> int:
    with open(path, "a") as file:
        return file.write("x")


def marks(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


def test_what_ended_unnoticed_is_not_run_again_for_a_cancelled_one(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        bench.finished(bench.submit(mark, str(path), short=True))
        attempts = [bench.submit(mark, str(path), short=True) for _ in range(40)]
        wait_until(lambda: marks(path) > 1, "the first to end")
        for attempt in (attempts[0], attempts[20]):
            bench.cancel(attempt)
        for attempt in {*attempts} - {attempts[0], attempts[20]}:
            bench.finished(attempt)
        assert marks(path) in (40, 41), "the other may have been dropped before it began"
        assert not bench.of(WorkerStopped)


def test_a_warm_worker_has_the_functions_of_what_was_taken_back_from_it(tmp_path: Path) -> None:
    def warm(context: EngineContext, *, workers: tuple[int, int] | None) -> LocalEngine:
        return LocalEngine(replace(context, warm=True), workers=workers)

    go = tmp_path / "go"
    with EngineBench(warm, tmp_path, workers=1) as bench:
        for attempt in (
            bench.submit(mark, str(tmp_path / "marks"), short=True),
            bench.submit(tasks.wait_for_file, str(tmp_path), short=True),
        ):
            bench.finished(attempt)
        bench.next_run()
        blocked = bench.submit(tasks.wait_for_file, str(go), short=True)
        bench.until(lambda: bench.is_running(blocked), "it runs")
        bench.cancel(bench.submit(mark, str(tmp_path / "marks"), short=True))
        go.touch()
        bench.finished(blocked)
        bench.next_run()
        bench.finished(bench.submit(mark, str(tmp_path / "marks"), short=True))
    assert marks(tmp_path / "marks") == 2


STALE = """
import functools

@functools.lru_cache
def settings():
    return open({path!r}).read()

def of_settings(n):
    return settings()
"""


def test_what_waits_in_a_worker_that_is_refused_runs_once(tmp_path: Path, monkeypatch) -> None:
    settings, path, go = tmp_path / "settings", tmp_path / "marks", tmp_path / "go"
    settings.write_text("1")
    (tmp_path / "with_settings.py").write_text(STALE.format(path=str(settings)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    of_settings = importlib.import_module("with_settings").of_settings
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        for warmed in (bench.submit(mark, str(path), short=True), bench.submit(of_settings, 0, short=True)):
            bench.finished(warmed)
        bench.finished(bench.submit(tasks.wait_for_file, str(tmp_path), short=True))
        blocked = bench.submit(tasks.wait_for_file, str(go), short=True)
        bench.until(lambda: bench.is_running(blocked), "it runs")
        refused = bench.submit(of_settings, 1, short=True)
        behind = [bench.submit(mark, str(path), short=True) for _ in range(40)]
        settings.write_text("22")
        go.touch()
        for attempt in (blocked, *behind):
            bench.finished(attempt)
        assert bench.value(bench.finished(refused).ref) == "22"
        assert bench.of(WorkerStopped)
    assert marks(path) == 41


def length_of_variable() -> int:
    return len(os.environ["SUITE_LONG"])


def test_many_waiting_calls_with_large_variables_do_not_hold_up_the_driver(
    tmp_path: Path, monkeypatch
) -> None:
    """The worker does not read while its call runs, so what is sent there must fit its socket."""
    go = tmp_path / "go"
    monkeypatch.setenv("SUITE_LONG", "x" * 6000)
    monkeypatch.setattr(worker_loop, "STUCK_S", 60.0)
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        bench.finished(bench.submit(length_of_variable, short=True))
        blocked = bench.submit(tasks.wait_for_file, str(go), short=True)
        bench.until(lambda: bench.is_running(blocked), "it runs")
        waiting = [bench.submit(length_of_variable, short=True) for _ in range(100)]
        go.touch()  # which would not be reached
        bench.finished(blocked)
        assert {bench.value(bench.finished(attempt).ref) for attempt in waiting} == {6000}


IMPORTS = {
    "takes_output": "import io, sys\nsys.stdout = io.StringIO()\ndef loud(n):\n    print('loud', n)\n",
    "sets_decimals": "import decimal\ndecimal.getcontext().prec = 50\nclass Thing:\n    pass\n",
    "asks_decimals": "import decimal\ndef precision(thing):\n    return decimal.getcontext().prec\n",
}


def test_what_a_module_changes_when_it_is_imported_between_calls(tmp_path: Path, monkeypatch) -> None:
    """A worker that has run calls finds the output and the context that the import leaves."""
    for name, code in IMPORTS.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.stdout", sys.stdout)
    with decimal.localcontext():
        output, context, asking = map(importlib.import_module, IMPORTS)
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        bench.finished(bench.submit(tasks.add, 0))
        assert all(bench.finished(bench.submit(output.loud, n)).log is not None for n in range(2))
        found = [
            bench.value(bench.finished(bench.submit(asking.precision, context.Thing())).ref) for _ in range(3)
        ]
    assert found[1:] == [50, 50]


def test_the_gpus_of_what_still_ran_are_free_after_close(tmp_path: Path) -> None:
    devices = Devices(("0",))

    def make(context: EngineContext, *, workers: tuple[int, int] | None) -> LocalEngine:
        return LocalEngine(context, workers=workers, devices=devices)

    with EngineBench(make, tmp_path, workers=1) as bench:
        attempt = bench.submit(tasks.sleep, 600.0, gpus=1)
        bench.until(lambda: bench.is_running(attempt), "it runs")
    assert devices.take("the next run", 1) == ("0",)


class Refused:
    """A worker's socket that fails to send once, after `sends` others."""

    def __init__(self, real, number: int) -> None:
        self.real, self.number = real, number

    def send(self, data):
        if self.number:
            number, self.number = self.number, 0
            raise OSError(number, os.strerror(number))
        return self.real.send(data)

    def __getattr__(self, name):
        return getattr(self.real, name)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EIO])
def test_a_send_that_fails_leaves_no_attempt_without_an_answer(tmp_path: Path, number: int) -> None:
    """One that may go again does; after any other the attempt fails, is retryable, and the next one has a new worker."""
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        bench.finished(bench.submit(tasks.add, 0))
        (process,) = bench.engine._loop._workers.values()
        process.channel._socket = Refused(process.channel._socket, number)
        attempt = bench.submit(tasks.add, 1)
        if number == errno.ENOBUFS:
            bench.finished(attempt)
        else:
            failure = bench.failed(attempt).failure
            assert failure.kind == "WorkerDied" and failure.retryable
            assert (
                "the driver could not send to it" in failure.message
                and os.strerror(number) in failure.message
            )
            assert "dmesg" not in failure.fix
        bench.finished(bench.submit(tasks.add, 2))


REFUSES = """
import os
from pathlib import Path

left = Path(__file__).with_name("left")
fork = os.fork

def refusing():
    count = int(left.read_text())
    if count > 0:
        left.write_text(str(count - 1))
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

os.fork = refusing
"""


@pytest.fixture
def refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The number in this file is how often the fork servers of new pools refuse to fork from now on."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(REFUSES)
    (site / "left").write_text("0")
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site / "left"


def test_a_process_that_the_system_refuses_once_costs_no_other(tmp_path: Path, refusals: Path) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=2) as bench:
        bench.finished(bench.submit(tasks.add, 0))
        (first,) = bench.engine._loop._workers
        refusals.write_text("1")
        held = bench.submit(tasks.wait_for_file, str(tmp_path / "go"))
        bench.until(lambda: bench.is_running(held), "it runs")
        waited = bench.submit(tasks.add, 1)
        bench.finished(waited)
        assert refusals.read_text() == "0"
        assert first in bench.engine._loop._workers
        (tmp_path / "go").touch()
        bench.finished(held)


def test_a_system_that_refuses_every_process_is_named(
    tmp_path: Path, refusals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hooke.engines.worker.worker_loop.FORK_AGAIN_S", 0.01)
    refusals.write_text("1000")
    with EngineBench(LocalEngine, tmp_path, workers=2) as bench:
        failure = bench.failed(bench.submit(tasks.add, 0)).failure
    assert "refused to start another worker process" in failure.message
    assert "Resource temporarily unavailable" in (failure.traceback or "")
    assert "ulimit -u" in failure.fix


def test_edited_closures_do_not_stay_in_warm_workers(tmp_path: Path) -> None:
    """As a notebook makes them: each edit is a new function, with all that it holds."""
    script = """
        import gc, os, types
        from hooke import pipeline, run, task

        def edited(number):
            held = bytes([number]) * 1000

            @task
            def cell(x):
                alive = [each for each in gc.get_objects() if type(each) is types.FunctionType]
                return os.getpid(), held[0], sum(each.__name__ == "cell" for each in alive)

            return cell

        if __name__ == "__main__":
            seen = []
            for number in [1, 1, 2, 3, 4, 5, 6, 7, 1, 1]:
                cell = edited(number)

                @pipeline
                def job(salt):
                    return cell(salt)

                seen.append(run(job, len(seen), on="local", workers=1, progress="none").result())
            assert len({pid for pid, _, _ in seen}) == 1, seen
            assert [value for _, value, _ in seen] == [1, 1, 2, 3, 4, 5, 6, 7, 1, 1]
            print(max(alive for _, _, alive in seen), seen[0][2])
    """
    (tmp_path / "notebook.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=os.environ | {"HOOKE_SINKS": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    most, one = map(int, done.stdout.split()[-2:])
    assert most <= 2 * one, "the functions of this run and of the one before"


def test_a_close_that_ctrl_c_interrupts_may_come_again(tmp_path: Path, monkeypatch) -> None:
    with EngineBench(LocalEngine, tmp_path, workers=1) as bench:
        attempt = bench.submit(tasks.sleep, 600.0)
        bench.until(lambda: bench.is_running(attempt), "it to begin")
        (worker,) = [event.pid for event in bench.of(WorkerStarted)]
        selector = bench.engine._loop._selector
        plain = selector.unregister

        def interrupted(channel: object) -> None:
            plain(channel)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(selector, "unregister", interrupted)
            with pytest.raises(KeyboardInterrupt):
                bench.engine.close()
        bench.engine.close()
        gone([worker])
