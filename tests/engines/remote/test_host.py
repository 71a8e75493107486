"""The part of a remote engine that is on the workers' machine, without any library."""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
from pathlib import Path

import msgspec
import psutil
import pytest
from tests.engines.local.faults import gone

from hooke.base.ref import Manifest
from hooke.engines.remote.host import WorkerHost
from hooke.engines.remote.worker_protocol import AttemptOrder, HostSession
from hooke.engines.worker.pool import LocalPool
from hooke.engines.worker.worker_process import Begun
from hooke.engines.worker.worker_process import WorkerTask as Work
from hooke.journal.events import AttemptFailed, AttemptFinished, WorkerStarted, WorkerStopped
from hooke.keys.fingerprint import fingerprint_code
from hooke.pipeline.engine import LOOK
from hooke.pipeline.references import pack
from hooke.pipeline.task import Task
from hooke.processes.devices import Devices
from hooke.store import by_value
from hooke.store.store import Store
from hooke.testing import engine_tasks as tasks

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def pool():
    made = LocalPool()
    yield made
    made.close()


@pytest.fixture
def told() -> list:
    return []


@pytest.fixture
def host(tmp_path: Path, pool: LocalPool, told: list):
    session = HostSession(
        id="s",
        store=str(tmp_path / "store"),
        logs=str(tmp_path / "logs"),
        folder=str(tmp_path),
        sys_path=sys.path,
    )
    made = WorkerHost(session, name="here", slots=2, tell=told.extend, pool=pool)
    yield made
    made.close()


def order(function, *args, attempt: int = 1, image: bool = True, cpus: float = 1) -> AttemptOrder:
    task = Task(function, name=function.__name__)
    work = Work(
        attempt=attempt,
        node=0,
        kind="call",
        lo=0,
        hi=1,
        payload=pack((list(args), {}), lambda promise: promise),
        shown="",
        name=task.name,
        digest=hashlib.blake2b(task.name.encode()).hexdigest(),
        pickle=by_value.dumps(task) if image else None,
        parts={part.name: part.digest for part in fingerprint_code(function).parts} if image else {},
        memory=None,
    )
    return AttemptOrder(session="s", task=work, cpus=cpus)


def never() -> bool:
    return False


def test_an_attempt(host: WorkerHost, told: list, tmp_path: Path) -> None:
    answer = host.run(order(tasks.add, 1), given_up=never)
    assert isinstance(answer, AttemptFinished)
    assert Store.open(tmp_path / "store").get(answer.ref) == 11
    assert [type(note) for note in told] == [WorkerStarted, Begun]


def test_all_workers_are_there_before_the_first_attempt_where_that_is_asked_for(
    host: WorkerHost, told: list
) -> None:
    assert host.prepare() == []
    host.session = msgspec.structs.replace(host.session, ready_for=1.0)
    ready = host.prepare()
    assert [type(note) for note in ready] == [WorkerStarted] * 2
    assert isinstance(host.run(order(tasks.add, 1), given_up=never), AttemptFinished)
    (begun,) = told
    assert begun.worker in {note.worker for note in ready}


def test_a_function_that_was_not_sent_is_asked_for(host: WorkerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hooke.engines.remote.host.IMAGE_S", 0.1)
    assert host.run(order(tasks.add, 1, image=False), given_up=never) is None
    assert isinstance(host.run(order(tasks.add, 1), given_up=never), AttemptFinished)
    assert isinstance(host.run(order(tasks.add, 2, image=False), given_up=never), AttemptFinished)


def read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def test_what_a_task_reads_on_a_host_of_its_own_is_noted_as_such(host: WorkerHost, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("1", encoding="utf-8")
    host.session = msgspec.structs.replace(host.session, root=str(tmp_path), unshared=True)
    answer = host.run(order(read_text, str(tmp_path / "input")), given_up=never)
    assert isinstance(answer, AttemptFinished)
    (read,) = answer.observed[0].inputs
    assert (read.kind, read.name, read.unshared) == ("file", "input", True)
    assert looked(host, answer.observed[0].inputs) == ()
    (tmp_path / "input").write_text("2", encoding="utf-8")
    assert looked(host, answer.observed[0].inputs) == (read,)


def test_what_a_task_reads_in_a_copy_of_the_code_is_noted_as_the_drivers(
    host: WorkerHost, tmp_path: Path, told: list
) -> None:
    copy = tmp_path / "code" / "rates"
    copy.mkdir(parents=True)
    (tmp_path / "root").mkdir()
    (copy / "table.txt").write_text("1", encoding="utf-8")
    (copy / "__init__.py").write_text(
        "import functools, os\n"
        "@functools.cache\n"
        "def table():\n"
        "    return open(os.path.join(os.path.dirname(__file__), 'table.txt')).read()\n"
        "def rate(path):\n"
        "    return table() + open(path).read()\n",
        encoding="utf-8",
    )
    host.session = msgspec.structs.replace(
        host.session,
        root=str(tmp_path / "root"),
        unshared=True,
        copies={str(copy): "src/rates"},
        sys_path=[str(copy.parent), *sys.path],
    )
    (tmp_path / "root" / "here").write_text("2", encoding="utf-8")
    sys.path.insert(0, str(copy.parent))
    try:
        rate = importlib.import_module("rates").rate
        orders = [order(rate, str(tmp_path / "root" / "here"), attempt=number) for number in (1, 2)]
    finally:
        sys.path.remove(str(copy.parent))
        del sys.modules["rates"]
    for each in orders:
        answer = host.run(each, given_up=never)
        assert isinstance(answer, AttemptFinished)
        read = [(each.kind, each.name, each.unshared) for each in answer.observed[0].inputs]
        assert read == [("file", "here", True), ("file", "src/rates/table.txt", False)]
    assert sum(isinstance(note, WorkerStarted) for note in told) == 1, "the copy never changes"


def looked(host: WorkerHost, inputs: Manifest) -> Manifest:
    asked = order(read_text, attempt=-1)
    payload = msgspec.msgpack.encode(inputs)
    task = msgspec.structs.replace(asked.task, kind=LOOK, digest=LOOK, payload=payload, pickle=b"")
    answer = host.run(msgspec.structs.replace(asked, task=task), given_up=never)
    assert isinstance(answer, AttemptFinished)
    return answer.observed[0].inputs


def test_a_question_that_the_host_cannot_read_is_answered_with_a_failure(
    host: WorkerHost, told: list
) -> None:
    asked = order(read_text, attempt=-1)
    task = msgspec.structs.replace(asked.task, kind=LOOK, payload=b"?")
    answer = host.run(msgspec.structs.replace(asked, task=task), given_up=never)
    assert isinstance(answer, AttemptFailed)
    assert told == [], "no worker is needed"


def test_what_was_withdrawn_does_not_run_and_may_come_again(host: WorkerHost) -> None:
    assert host.withdraw([1]) == [1]
    assert host.run(order(tasks.add, 1), given_up=never) is None
    assert isinstance(host.run(order(tasks.add, 1), given_up=never), AttemptFinished)
    assert host.withdraw([1]) == []


def test_what_nobody_waits_for_is_ended(host: WorkerHost, told: list) -> None:
    given_up = threading.Event()
    answers = []
    running = threading.Thread(
        target=lambda: answers.append(host.run(order(tasks.sleep, 600.0), given_up=given_up.is_set))
    )
    running.start()
    while not any(isinstance(note, Begun) for note in told):
        running.join(0.01)
    given_up.set()
    running.join(30)
    assert answers == [None]
    (worker,) = [note for note in told if isinstance(note, WorkerStarted)]
    assert not psutil.pid_exists(worker.pid)
    assert isinstance(told[-1], WorkerStopped)


def test_a_death_is_told(host: WorkerHost, told: list) -> None:
    answer = host.run(order(tasks.exit_process, 7), given_up=never)
    assert isinstance(answer, AttemptFailed)
    assert (answer.failure.kind, answer.failure.exit_code) == ("WorkerDied", 7)
    assert told[-1].exit_code == 7


def test_threads_are_those_that_are_asked_for(host: WorkerHost, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for cpus in (1, 2, 1):
        answer = host.run(order(threads_of_libraries, cpus=cpus), given_up=never)
        assert isinstance(answer, AttemptFinished)
        assert store.get(answer.ref) == str(cpus)


def threads_of_libraries() -> str:
    import os

    return os.environ["OMP_NUM_THREADS"]


def test_idle_workers_are_ended_after_a_while_and_start_again(host: WorkerHost, told: list) -> None:
    host.run(order(tasks.add, 1), given_up=never)
    host.rest(60.0)
    assert not any(isinstance(note, WorkerStopped) for note in told)
    host.rest(0.0)
    assert isinstance(told[-1], WorkerStopped)
    assert isinstance(host.run(order(tasks.add, 1), given_up=never), AttemptFinished)


def test_kept_workers_serve_the_next_run_of_their_driver_alone(
    host: WorkerHost, pool: LocalPool, told: list
) -> None:
    """Another driver may have read an edit since."""

    def of_a_run(driver: str) -> int:
        session = msgspec.structs.replace(host.session, driver=driver, kept_s=60.0)
        here = WorkerHost(session, name="here", slots=1, tell=told.extend, pool=pool)
        here.run(order(tasks.add, 1), given_up=never)
        here.close()
        return next(note.pid for note in reversed(told) if isinstance(note, WorkerStarted))

    first = of_a_run("one")
    assert of_a_run("one") == first
    other = of_a_run("other")
    assert other != first
    gone([first])
    pool.end_idle(60.0)
    assert of_a_run("other") == other
    pool.end_idle(0.0)
    gone([other])


@pytest.mark.parametrize(("kept_s", "stays"), [(60.0, False), (float("inf"), True)])
def test_a_kept_worker_holds_no_gpu_on_a_cluster_of_others(
    host: WorkerHost, pool: LocalPool, told: list, kept_s: float, stays: bool
) -> None:
    pool.devices = Devices(("0",))
    session = msgspec.structs.replace(host.session, kept_s=kept_s)
    here = WorkerHost(session, name="here", slots=1, tell=told.extend, pool=pool)
    here.run(msgspec.structs.replace(order(tasks.add, 1), gpus=1.0), given_up=never)
    here.close()
    (worker,) = [note.pid for note in told if isinstance(note, WorkerStarted)]
    if stays:
        assert psutil.pid_exists(worker)
    else:
        gone([worker])


def test_the_fork_server_ends_with_the_last_worker_of_all_hosts_that_share_it(
    host: WorkerHost, pool: LocalPool, told: list
) -> None:
    """The driver may be dead, and what it leaves in another's cluster would stay there for an hour."""
    begun: list = []
    other = WorkerHost(host.session, name="other", slots=1, tell=begun.extend, pool=pool)
    given_up = threading.Event()
    busy = threading.Thread(target=lambda: other.run(order(tasks.sleep, 600.0), given_up=given_up.is_set))
    busy.start()
    while not any(isinstance(note, Begun) for note in begun):
        busy.join(0.01)
    host.run(order(tasks.add, 1), given_up=never)
    (worker,) = [note for note in told if isinstance(note, WorkerStarted)]
    server = psutil.Process(worker.pid).parent()
    host.rest(0.0)
    assert not psutil.pid_exists(worker.pid)
    assert server.is_running(), "it has the other host's worker"
    given_up.set()
    busy.join(30)
    assert server.is_running()
    other.rest(0.0)
    assert not server.is_running()
    assert isinstance(host.run(order(tasks.add, 2), given_up=never), AttemptFinished)
    other.close()


def test_what_this_machine_refuses_is_an_answer_and_holds_nothing(
    tmp_path: Path, pool: LocalPool, told: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt without an answer would be waited for, for ever; devices that it kept, too."""
    pool.devices = Devices(("0",))
    session = HostSession(
        id="s",
        store=str(tmp_path / "store"),
        logs=str(tmp_path / "file" / "logs"),
        folder=str(tmp_path),
        sys_path=sys.path,
    )
    (tmp_path / "file").touch()
    host = WorkerHost(session, name="here", slots=1, tell=told.extend, pool=pool)
    answer = host.run(msgspec.structs.replace(order(tasks.add, 1), gpus=1.0), given_up=never)
    assert isinstance(answer, AttemptFailed)
    assert "the run's logs cannot be written" in answer.failure.message
    assert pool.devices.take("t", 1.0) == ("0",)

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pool, "take", refuse)
    host.session = msgspec.structs.replace(session, logs=str(tmp_path / "logs"))
    answer = host.run(order(tasks.add, 1), given_up=never)
    assert isinstance(answer, AttemptFailed)
    assert "failed" in answer.failure.message
    assert "Too many open files" in str(answer.failure)
    host.close()
