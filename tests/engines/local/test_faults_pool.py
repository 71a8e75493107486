"""The pool under fire: its fork server dies or stops, warm workers die or grow stale, the fleet's size changes without end."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest
from tests.engines.local.faults import Faults, events_of, fork_servers, gone, wait_until
from tests.support.sizes import choose_size

from hooke.engines.local import LocalEngine
from hooke.engines.worker import fork_server
from hooke.engines.worker.fork_server import Spawn
from hooke.engines.worker.fork_server_client import ForkServer
from hooke.engines.worker.pool import shared_pool
from hooke.journal.events import AttemptStarted, WorkerStarted
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import EngineBench

pytestmark = pytest.mark.needs("processes")

WORKERS = choose_size(sample=50, full=50, soak=200)
STEPS = """
    @task
    def hit(x: int, how: str) -> int:
        note("worker.pid", os.getpid())
        if x == 2 and how and not (HERE / "hit").exists():
            note("hit", x)
            note("server.pid", os.getppid())
            os.kill(os.getppid(), getattr(signal, how))
        return 10 * x

    @task(cpus=2, memory="2GiB")
    def wide(xs: list[int]) -> int:
        return sum(xs)

    @pipeline
    def job(how: str = "", n: int = 6):
        return wide(hit.map(range(n), how=how))
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGSTOP"])
def test_a_run_survives_its_fork_server(faults: Faults, how: str) -> None:
    """Workers finish what they do; new ones come from a new server, which `wide` with its own thread count needs."""
    faults.source(STEPS)
    run = faults.go(how=how)
    assert run.result() == 150
    assert len(faults.noted("hit")) == 1
    assert fork_servers() != faults.pids("server.pid")
    again = faults.go(n=7)
    assert again.result() == 210
    gone(faults.pids("server.pid"))


def test_a_driver_with_more_descriptors_than_select_takes(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    server = ForkServer()
    try:
        worker = server.spawn(Spawn("w", dict(os.environ), str(tmp_path)), log=tmp_path / "w.log")
        assert worker.channel.fileno() > 1023
        worker.channel.close()
        ended = server.ended(worker.pid, within_s=60)
        assert ended is not None
        assert ended.status == 0
        os.close(worker.lifeline)
    finally:
        server.close()
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.long
def test_a_worker_that_is_killed_between_two_runs(faults: Faults) -> None:
    faults.source(STEPS.replace("cpus=2, ", ""))
    faults.go(n=2)
    before = set(faults.pids("worker.pid"))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    run = faults.go(n=5)
    assert run.result() == 100
    assert not {event.pid for event in events_of(run, WorkerStarted)} & before


@pytest.mark.long
def test_workers_that_are_stopped_between_two_runs(faults: Faults) -> None:
    faults.source(STEPS.replace("cpus=2, ", ""))
    faults.go(n=2)
    for pid in set(faults.pids("worker.pid")):
        os.kill(pid, signal.SIGSTOP)
    assert faults.go(n=5).result() == 100


@pytest.mark.long
def test_warm_workers_serve_the_next_run(faults: Faults) -> None:
    faults.source(STEPS.replace("cpus=2, ", ""))
    first, second = faults.go(n=2, on="local:1"), faults.go(n=5, on="local:1")
    assert second.result() == 100
    assert [event.pid for event in events_of(first, WorkerStarted)] == [
        event.pid for event in events_of(second, WorkerStarted)
    ]


# -- stale code --------------------------------------------------------------------------------------


MODULE = """
class Scale:
    def __init__(self, by):
        self.by = by

    def of(self, x):
        return x * self.by


def helped(x):
    return x + 1
"""

USER = """
    import edited_module

    @task
    def through_helper(x: int) -> int:
        return edited_module.helped(x)

    @task
    def through_value(scale, x: int) -> int:
        return scale.of(x)

    @pipeline
    def job(x: int = 5):
        return through_helper(x), through_value(edited_module.Scale(3), x)
"""


@pytest.mark.long
def test_a_module_that_is_edited_and_reloaded_between_two_runs(faults: Faults, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(faults.folder))
    module = faults.folder / "edited_module.py"
    faults.source(USER)
    try:
        for text, expected in [
            (MODULE, (6, 15)),
            (MODULE.replace("x + 1", "x + 200"), (205, 15)),
            (MODULE.replace("x * self.by", "x * self.by + 1000"), (6, 1015)),  # only a value's class
            (MODULE, (6, 15)),
        ]:
            module.write_text(text)
            for cached in (faults.folder / "__pycache__").glob("edited_module*"):
                cached.unlink()
            if "edited_module" in sys.modules:
                importlib.reload(sys.modules["edited_module"])
            run = faults.go(on="local:1")
            assert run.result() == expected
            attempts = [event.attempt for event in events_of(run, AttemptStarted)]
            assert len(set(attempts)) == len(attempts), "an attempt began twice"
    finally:
        sys.modules.pop("edited_module", None)


# -- size --------------------------------------------------------------------------------------------


class Churning(LocalEngine):
    """Another size at every turn, as an autoscaler out of its mind would have it."""

    def __init__(self, context, *, workers=None):
        super().__init__(context, workers=workers)
        self.chance = Random(7)
        self.asked = 0

    def wait(self, timeout_s):
        if self.chance.random() < 0.3:
            size = self.chance.randint(1, 12)
            self.asked += size
            self.scale(size)
        return super().wait(timeout_s)


def all_answered(bench: EngineBench, attempts: list[int]) -> bool:
    return len(bench.answers) == len(attempts)


@pytest.mark.long
def test_workers_that_come_and_go_lose_nothing(tmp_path: Path) -> None:
    with EngineBench(Churning, tmp_path) as bench:
        attempts: list[int] = []
        while len(bench.of(WorkerStarted)) < WORKERS:
            attempts += [bench.submit(tasks.add, number) for number in range(20)]
            bench.until(partial(all_answered, bench, attempts), "all answers")
        assert [bench.value(bench.finished(attempt).ref) for attempt in attempts] == [
            number + 10 for _ in range(len(attempts) // 20) for number in range(20)
        ]
        started = [event.pid for event in bench.of(WorkerStarted)]
    assert len(started) >= WORKERS
    gone(started)


@pytest.mark.long
def test_files_and_processes_do_not_pile_up(faults: Faults) -> None:
    faults.source(STEPS)
    faults.go(n=2)
    me = psutil.Process()
    before = me.num_fds()
    for n in range(3, 12):
        for pid in psutil.Process(fork_servers()[0]).children():
            pid.kill()
        faults.go(n=n)
    wait_until(lambda: me.num_fds() <= before + 2, "descriptors to be closed")
    assert len(fork_servers()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists children")
def test_the_kernel_and_the_parents_of_all_processes_name_the_same_children() -> None:
    started = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    try:
        assert {each.pid for each in started} <= {*fork_server._children()}
        assert {each.pid for each in started} <= {*fork_server._children_of(os.getpid())}
    finally:
        for each in started:
            each.kill()
            each.wait()


@pytest.mark.long
def test_a_closed_pool_starts_again(faults: Faults) -> None:
    faults.source(STEPS)
    faults.go(n=2)
    shared_pool().close()
    wait_until(lambda: not fork_servers())
    assert faults.go(n=3).result() == 30


# -- two projects of one process ---------------------------------------------------------------------

BESIDE = """
from pathlib import Path
from hooke import pipeline, task

HERE = Path(__file__).parent

@task(cache=False)
def read(n):
    return (HERE / "beside.txt").read_text()

@pipeline
def job(n=1):
    return read(n)
"""


def test_equal_code_in_another_project_reads_the_file_beside_it(tmp_path: Path) -> None:
    """Both have the same key: a warm worker of the first must not serve the second."""
    program = (
        "import sys\n"
        "from hooke import run\n"
        "from hooke.project.pipeline_file import load_entry\n"
        "for name in ('one', 'two'):\n"
        "    pipeline, _ = load_entry(f'{name}/flow_{name}.py:job')\n"
        "    print(run(pipeline, on='local:1').result())\n"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"flow_{name}.py").write_text(BESIDE, encoding="utf-8")
        (tmp_path / name / "beside.txt").write_text(f"beside {name}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["beside one", "beside two"], done.stderr
