"""The conformance suite of engines: `check_engine(make, folder)`, or each of `ENGINE_CHECKS` as a test of its own.

    @pytest.mark.parametrize("check", ENGINE_CHECKS, ids=name_of)
    def test_my_engine(check, tmp_path):
        check_engine(MyEngine, tmp_path, only=check)

`pytest.register_assert_rewrite("hooke.testing.engine_suite", "hooke.testing.engine_bench")`, and the same of
`hooke.testing.short_call_suite`, in a conftest lets failures show their values. Processes, signals and files are real. What an engine declares that it cannot do is not asked of it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hooke.base.clock import SystemClock
from hooke.base.observed import first_changed
from hooke.journal.events import (
    FINISHED,
    WITH_FAILURES,
    AttemptFailed,
    AttemptStarted,
    CapacityChanged,
    WorkerStarted,
    WorkerStopped,
)
from hooke.journal.writer import Journal
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import Pipeline, pipeline
from hooke.pipeline.references import pack, unpack
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import Resources, Task
from hooke.pipeline.trace import trace
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import CARRIED, EngineBench, MakeEngine, loaded_module
from hooke.testing.short_call_suite import SHORT_CALL_CHECKS

__all__ = [
    "ENGINE_CHECKS",
    "GANG_CHECKS",
    "EngineCheck",
    "check_a_whole_run",
    "check_a_whole_run_that_goes_on_after_an_error",
    "check_a_whole_run_with_a_death",
    "check_engine",
    "name_of",
]


# --- Checks for engines with gangs: the ranks meet, begin and end together, and the failure names the rank.


def meet(value: int) -> tuple[int, int, int]:
    """Rank, world size and the sum of all ranks' values, exchanged through the address that each of them got."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank:
        with _connected(place) as joined:
            joined.sendall(struct.pack("!q", value + rank))
            return rank, size, struct.unpack("!q", joined.recv(8, socket.MSG_WAITALL))[0]
    with socket.create_server(place) as server:
        others = [server.accept()[0] for _ in range(size - 1)]
        total = value + sum(struct.unpack("!q", each.recv(8, socket.MSG_WAITALL))[0] for each in others)
        for each in others:
            each.sendall(struct.pack("!q", total))
            each.close()
    return rank, size, total


def gather_marks(folder: str, name: str) -> int:
    """Returns once every rank of this gang has begun; in `folder` each leaves its process id."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    mark = Path(folder) / f"{name}-{rank}"
    mark.with_suffix(".new").write_text(str(os.getpid()), "utf-8")
    mark.with_suffix(".new").rename(mark)
    while not all((Path(folder) / f"{name}-{other}").exists() for other in range(size)):
        time.sleep(0.005)
    return rank


def end_badly(folder: str, how: str) -> int:
    """Once all ranks have begun, the last one ends in some way; the others never do."""
    rank = gather_marks(folder, how)
    last = int(os.environ["WORLD_SIZE"]) - 1
    while rank != last:
        time.sleep(0.1)
    if how == "raise":
        raise ValueError("the last rank has had enough")
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)
    return rank


def lose_the_other() -> int:
    """The last rank breaks off and fails a moment later; the others fail first, of that."""
    rank, last = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) - 1
    if rank == last:
        time.sleep(0.2)
        raise ValueError("the cause")
    raise ConnectionResetError("Connection closed by peer")


def say_rank(text: str) -> int:
    """Output of each rank."""
    print(f"{text} of rank {os.environ['RANK']}", flush=True)  # noqa: T201 - the subject of the check
    return int(os.environ["RANK"])


def _connected(place: tuple[str, int]) -> socket.socket:
    while True:
        try:
            return socket.create_connection(place)
        except ConnectionRefusedError:
            time.sleep(0.01)


def check_the_ranks_of_a_gang_meet(bench: EngineBench) -> None:
    if not bench.capabilities.gangs:
        return
    ranks = bench.workers
    total = 10 * ranks + sum(range(ranks))
    one = bench.submit(meet, 10, gang=ranks)
    assert bench.value(bench.finished(one).ref) == (0, ranks, total)
    every = bench.submit(meet, 10, gang=ranks, results="all")
    assert bench.value(bench.finished(every).ref) == [(rank, ranks, total) for rank in range(ranks)]
    asked = Resources(gang=ranks, results="all")
    task: Task[..., Any] = Task(gather_marks, name="gather_marks", resources=asked)
    mapped = bench.submit_map(task, [[str(bench.folder)], ["mapped"]])
    assert bench.value(bench.finished(mapped).ref) == [list(range(ranks))]
    started = next(event for event in bench.of(AttemptStarted) if event.attempt == every)
    assert len(set(started.workers)) == ranks
    assert started.workers[0] == started.worker


def check_gangs_begin_whole_or_not_at_all(bench: EngineBench) -> None:
    """More gangs than fit, with calls between them: none waits for a rank that never comes."""
    if not bench.capabilities.gangs:
        return
    folder, ranks = str(bench.folder), bench.workers
    attempts: list[int] = []
    for number in range(3):
        attempts += [bench.submit(gather_marks, folder, f"gang-{number}", gang=ranks), bench.submit(_nothing)]
    assert [bench.value(bench.finished(attempt).ref) for attempt in attempts] == [0, None] * 3


def check_a_gang_ends_with_a_rank_that_dies(bench: EngineBench) -> None:
    if not bench.capabilities.gangs:
        return
    killed = _ends(bench, "kill")
    assert (killed.failure.kind, killed.failure.retryable) == ("WorkerDied", True)
    assert killed.failure.signal == signal.SIGKILL or not bench.capabilities.knows_signal
    gone = _ends(bench, "exit")
    assert gone.failure.kind == "WorkerDied"
    assert gone.failure.exit_code == 7 or not bench.capabilities.knows_signal
    bench.finished(bench.submit(_nothing))


def check_a_gang_ends_with_a_rank_that_raises(bench: EngineBench) -> None:
    if not bench.capabilities.gangs:
        return
    failure = _ends(bench, "raise").failure
    assert failure.kind == "TaskError"
    assert "has had enough" in failure.message


def check_the_cause_is_blamed_and_not_its_echo(bench: EngineBench) -> None:
    if not bench.capabilities.gangs:
        return
    failure = bench.failed(bench.submit(lose_the_other, gang=bench.workers)).failure
    assert (failure.rank, failure.ranks) == (bench.workers - 1, bench.workers)
    assert "the cause" in failure.message


def check_a_gang_can_be_cancelled(bench: EngineBench) -> None:
    if not (bench.capabilities.gangs and bench.capabilities.cancels):
        return
    attempt = bench.submit(_never, str(bench.folder), gang=bench.workers)
    pids = _pids(bench, "never")
    bench.cancel(attempt)
    _all_gone(pids)
    bench.finished(bench.submit(_nothing))
    assert attempt not in bench.answers


def check_each_rank_has_its_log(bench: EngineBench) -> None:
    if not bench.capabilities.gangs:
        return
    finished = bench.finished(bench.submit(say_rank, "a line", gang=bench.workers))
    texts = [
        (bench.context.logs / span.name).read_bytes()[span.start : span.end].decode()
        for span in finished.logs
    ]
    assert texts == [f"a line of rank {rank}\n" for rank in range(bench.workers)]


def _ends(bench: EngineBench, how: str) -> AttemptFailed:
    """The failure of a gang whose last rank ended so; the processes of all ranks are gone."""
    attempt = bench.submit(end_badly, str(bench.folder), how, gang=bench.workers)
    pids = _pids(bench, how)
    failed = bench.failed(attempt)
    assert (failed.failure.rank, failed.failure.ranks) == (bench.workers - 1, bench.workers)
    _all_gone(pids)
    bench.until(lambda: len(bench.of(WorkerStopped)) >= bench.workers, "the ranks' ends to be told")
    return failed


def _pids(bench: EngineBench, name: str) -> list[int]:
    marks = [bench.folder / f"{name}-{rank}" for rank in range(bench.workers)]
    bench.until(lambda: all(mark.exists() for mark in marks), "all ranks to begin")
    return [int(mark.read_text("utf-8")) for mark in marks]


def _all_gone(pids: list[int]) -> None:
    _, alive = psutil.wait_procs(_processes(pids), timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], f"still there: {alive}"


def _never(folder: str) -> None:
    gather_marks(folder, "never")
    while True:
        time.sleep(0.1)


def _nothing() -> None:
    return None


GANG_CHECKS: tuple[Callable[[EngineBench], None], ...] = (
    check_the_ranks_of_a_gang_meet,
    check_gangs_begin_whole_or_not_at_all,
    check_a_gang_ends_with_a_rank_that_dies,
    check_a_gang_ends_with_a_rank_that_raises,
    check_the_cause_is_blamed_and_not_its_echo,
    check_a_gang_can_be_cancelled,
    check_each_rank_has_its_log,
)
"""Part of ENGINE_CHECKS."""


# --- Whole runs of the production runner on an engine, compared with plain Python.

add = Task(tasks.add, name="add")
fail_at = Task(tasks.fail_at, name="fail_at")
total = Task(tasks.total, name="total")
listed = Task(tasks.listed, name="listed")
note_in = Task(tasks.note_in, name="note_in", resources=Resources(observe=False))
exit_once = Task(tasks.exit_once, name="exit_once", resources=Resources(retries=1))


@pipeline
def every_shape(items: int) -> Any:
    """Calls, and maps over ranges, over lists that contain results, item by item, and over lists that are results."""
    first = add.map(range(items))
    both = add.map(first, range(items), by=total(first))
    dynamic = add.map(listed(items), by=first[0])
    return {"both": both, "sums": [total(both), total(dynamic)], "few": add.map([first[1], first[2], 5])}


@pipeline
def dying(folder: str, items: int) -> Any:
    """One item kills its worker, the first time."""
    return exit_once.map(range(items), folder=folder)


@pipeline
def with_a_bad_item(items: int) -> Any:
    """One item fails for good and is left out of its list, of the map after it, and of their sum."""
    kept = fail_at.map(range(items), bad=3, on_error="continue")
    return {"kept": kept, "after": add.map(kept, range(items)), "sum": total(kept)}


@pipeline
def noted(folder: str, items: int) -> Any:
    """Each item leaves a line when it runs; their sum does not."""
    return total(note_in.map(range(items), folder=folder))


def check_a_whole_run(bench: EngineBench) -> None:
    """Every shape of graph, on the production runner, gives what plain Python gives."""
    assert _run(bench, every_shape, 50) == every_shape(50)


def check_a_whole_run_with_a_death(bench: EngineBench) -> None:
    """An item that kills its worker in the middle of a chunk is found and run again; no other item fails."""
    if bench.capabilities.isolated:
        assert _run(bench, dying, str(bench.folder), 40) == list(range(40))


def check_a_whole_run_that_goes_on_after_an_error(bench: EngineBench) -> None:
    """A failed item is left out alone, and what follows has the right pairs."""
    kept = [item for item in range(40) if item != 3]
    expected = {"kept": kept, "after": [2 * item for item in kept], "sum": sum(kept)}
    assert _run(bench, with_a_bad_item, 40, status=WITH_FAILURES) == expected


def check_a_whole_run_that_is_forced(bench: EngineBench) -> None:
    """A second run takes the stored results, and with the task forced it runs all of its items again."""
    for times, forced in ((1, ""), (1, ""), (2, "note_in")):
        assert _run(bench, noted, str(bench.folder), 9, forced=forced) == sum(range(9))
        ran = (bench.folder / "ran").read_text(encoding="utf-8").split()
        assert Counter(ran) == {str(item): times for item in range(9)}
        bench.next_run()


def _run(
    bench: EngineBench, wanted: Pipeline[..., Any], *args: Any, status: str = FINISHED, forced: str = ""
) -> Any:
    graph = trace(wanted, args)
    keys = GraphKeys(graph, run="suite")
    plans = [NodePlan(retries=node.task.resources.retries) for node in graph.nodes]
    state = RunState(graph, plans)
    folder = bench.folder / f"journal {uuid.uuid4().hex}"
    with Journal.create(folder, "driver", durable="none") as journal:
        parts = RunnerParts(
            run="suite",
            graph=graph,
            keys=keys,
            state=state,
            engine=bench.engine,
            store=bench.store,
            journal=journal,
            clock=SystemClock(),
            forced=frozenset(graph.downstream([node.id for node in graph.nodes if node.task.name == forced])),
        )
        ended = Runner(parts).run()
    assert ended == status, state.failure
    return unpack(pack(graph.output, CallMaker(graph, keys, state, bench.store).refer), bench.store)


EngineCheck = Callable[[EngineBench], None]


def check_engine(
    make: MakeEngine, folder: Path, *, only: EngineCheck | None = None, workers: int = 2
) -> None:
    """Run the suite, or one of its checks, each on a new engine. Raises AssertionError if a guarantee is broken."""
    for check in ENGINE_CHECKS if only is None else (only,):
        with EngineBench(make, Path(tempfile.mkdtemp(dir=folder)), workers=workers) as bench:
            check(bench)


def name_of(check: EngineCheck) -> str:
    """For test ids."""
    return check.__name__.removeprefix("check_")


# -- results -----------------------------------------------------------------------------------------


def check_calls_and_maps_give_what_plain_python_gives(bench: EngineBench) -> None:
    call = bench.submit(tasks.add, 1, 2)
    chunk = bench.submit_map(tasks.add, [range(10), list(range(10, 20))], lo=3, hi=7, by=100)
    whole = bench.submit_map(tasks.add, [np.arange(4)], by=1)
    assert bench.value(bench.finished(call).ref) == 3
    assert bench.value(bench.finished(chunk).ref) == [tasks.add(i, i + 10, by=100) for i in range(3, 7)]
    assert bench.value(bench.finished(whole).ref) == [11, 12, 13, 14]


def check_large_arguments_and_results(bench: EngineBench) -> None:
    big = np.arange(1_000_000)
    given = bench.submit(tasks.total, big)
    made = bench.submit(tasks.ones, 8)
    assert bench.value(bench.finished(given).ref) == big.sum()
    ref = bench.finished(made).ref
    assert ref.inline is None
    assert bench.value(ref).nbytes == 8 << 20


def check_the_list_of_a_dynamic_map_is_read_on_a_worker(bench: EngineBench) -> None:
    attempt = bench.submit_reading(tasks.add, bench.store.put([5, 6, 7]))
    answer = bench.finished(attempt)
    assert answer.expanded is not None
    assert answer.expanded.keys is not None
    assert (answer.expanded.node, answer.expanded.items) == (1, 3)
    assert len(bench.value(answer.expanded.keys)) == 3 * 16
    assert bench.value(answer.expanded.blocks[0]) == [(5,), (6,), (7,)]


def check_thousands_of_small_calls(bench: EngineBench) -> None:
    attempts = [bench.submit(tasks.add, 0) for _ in range(2000)]
    bench.until(lambda: len(bench.answers) == len(attempts), "2,000 answers")
    assert all(bench.value(bench.finished(attempt).ref) == 10 for attempt in attempts[::100])


# -- failures ----------------------------------------------------------------------------------------


def check_an_exception_is_told_with_the_users_frames(bench: EngineBench) -> None:
    source = "def work(text):\n    deeper(text)\ndef deeper(text):\n    raise ValueError(text)\n"
    with loaded_module(bench.folder, "suite_failing", source, importable=True) as module:
        failure = bench.failed(bench.submit(module.work, "too low")).failure
    assert failure.kind == "TaskError"
    assert failure.error_type.endswith("ValueError")
    assert "too low" in failure.message
    assert "in work" in failure.traceback
    assert "in deeper" in failure.traceback
    assert "hooke" not in failure.traceback.replace(str(bench.folder), "")
    assert "too low" in failure.arguments
    assert failure.retryable


def check_a_failure_says_whether_and_when_to_try_again(bench: EngineBench) -> None:
    good, now = bench.submit(tasks.fail_for_good), bench.submit(tasks.fail_for_now)
    assert not bench.failed(good).failure.retryable
    assert bench.failed(now).failure.retryable
    assert bench.failed(now).failure.delay_s == 3.5


def check_what_a_failing_chunk_had_done_is_kept(bench: EngineBench) -> None:
    failed = bench.failed(bench.submit_map(tasks.fail_at, [range(10)], lo=2, hi=9, bad=5))
    assert failed.done == 3
    assert failed.ref is not None
    assert bench.value(failed.ref) == [2, 3, 4]
    assert "item 5 is bad" in failed.failure.message
    first = bench.failed(bench.submit_map(tasks.fail_at, [range(10)], lo=5, hi=9, bad=5))
    assert (first.done, first.ref) == (0, None)


def check_a_chunk_ends_at_its_limit_with_what_it_has_done(bench: EngineBench) -> None:
    early = bench.finished(bench.submit_map(tasks.sleep, [[0.05] * 100], lo=20, limit_s=0.02))
    assert (early.lo, early.hi) == (20, 21)
    assert bench.value(early.ref) == [tasks.sleep(0.05)]
    whole = bench.finished(bench.submit_map(tasks.add, [range(100)], by=1, limit_s=60.0))
    assert (whole.lo, whole.hi) == (0, 100)
    assert bench.value(whole.ref) == [tasks.add(x, by=1) for x in range(100)]


def check_tasks_may_raise_anything(bench: EngineBench) -> None:
    left, odd = bench.submit(tasks.leave_python), bench.submit(tasks.raise_base)
    assert "SystemExit" in bench.failed(left).failure.message
    assert "Odd" in bench.failed(odd).failure.message
    assert bench.value(bench.finished(bench.submit(tasks.add, 1)).ref) == 11


def check_a_result_that_cannot_be_stored_is_a_failure(bench: EngineBench) -> None:
    failure = bench.failed(bench.submit(tasks.unpicklable)).failure
    assert "generator" in failure.message + failure.traceback
    bench.finished(bench.submit(tasks.add, 1))


def check_a_function_that_cannot_travel_is_refused(bench: EngineBench) -> None:
    lock = threading.Lock()

    def guarded() -> bool:
        return lock.locked()

    attempt = bench.submit(guarded)
    if not bench.capabilities.isolated:
        assert bench.value(bench.finished(attempt).ref) is False
        return
    failure = bench.failed(attempt).failure
    assert failure.kind == "NotPicklable"
    assert not failure.retryable
    assert failure.fix


def check_a_module_that_workers_lack_is_an_environment_mismatch(bench: EngineBench) -> None:
    with loaded_module(bench.folder, "suite_only_here", "def work():\n    return 1\n") as module:
        attempt = bench.submit(module.work)
        if not bench.capabilities.isolated:
            bench.finished(attempt)
            return
        failure = bench.failed(attempt).failure
    assert failure.kind == "EnvironmentMismatch"
    assert not failure.retryable
    assert failure.fix


def check_code_that_differs_on_the_worker_is_an_environment_mismatch(bench: EngineBench) -> None:
    """The script set a module's global after its import; a worker that imports the module itself sees the old value."""
    source = "SCALE = 1\ndef work():\n    return SCALE\n"
    with loaded_module(bench.folder, "suite_scaled", source, importable=True) as module:
        vars(module)["SCALE"] = 7
        attempt = bench.submit(module.work)
        if not bench.capabilities.isolated:
            assert bench.value(bench.finished(attempt).ref) == 7
            return
        failure = bench.failed(attempt).failure
    assert failure.kind == "EnvironmentMismatch"
    assert not failure.retryable


def check_an_edit_during_a_run_does_not_change_it(bench: EngineBench) -> None:
    """Neither of the task's module nor of one that only the task imports."""
    with ExitStack() as loaded:
        modules = {
            name: loaded.enter_context(loaded_module(bench.folder, name, source, importable=True))
            for name, source in CARRIED.items()
        }
        for name, source in CARRIED.items():
            (bench.folder / f"{name}.py").write_text(source.replace("VALUE", "OTHER"), encoding="utf-8")
        attempt = bench.submit(modules["suite_carried"].work)
        assert bench.value(bench.finished(attempt).ref) == 1


# -- deaths ------------------------------------------------------------------------------------------


def check_a_killed_worker_is_told_and_harms_nobody_else(bench: EngineBench) -> None:
    if not bench.capabilities.isolated:
        return
    go = bench.folder / "go"
    other = bench.submit(tasks.wait_for_file, str(go))
    bench.until(lambda: bench.is_running(other), "the other attempt to begin")
    failure = bench.failed(bench.submit(tasks.die)).failure
    assert failure.kind == "WorkerDied"
    assert failure.retryable
    if bench.capabilities.knows_signal:
        assert failure.signal == signal.SIGKILL
        assert "SIGKILL" in failure.message
    bench.until(lambda: bool(bench.of(WorkerStopped)), "the worker's end to be told")
    go.touch()
    bench.finished(other)
    bench.finished(bench.submit(tasks.add, 1))


def check_a_worker_that_exits_is_told_with_its_code(bench: EngineBench) -> None:
    if not bench.capabilities.isolated:
        return
    failure = bench.failed(bench.submit(tasks.exit_process, 42)).failure
    assert failure.kind == "WorkerDied"
    if bench.capabilities.knows_signal:
        assert (failure.exit_code, failure.signal) == (42, None)
    bench.finished(bench.submit(tasks.add, 1))


def check_a_chunk_dies_as_a_whole(bench: EngineBench) -> None:
    if not bench.capabilities.isolated:
        return
    failed = bench.failed(bench.submit_map(tasks.exit_process, [range(3, 8)]))
    assert (failed.done, failed.ref) == (0, None)


# -- giving up, growing, ending ----------------------------------------------------------------------


def check_a_queued_attempt_can_be_cancelled(bench: EngineBench) -> None:
    marks = [bench.folder / f"ran-{number}" for number in range(20)]
    attempts = [bench.submit(_touch, str(mark)) for mark in marks]
    bench.cancel(attempts[-1])
    bench.cancel(attempts[-1])
    for attempt in attempts[:-1]:
        bench.finished(attempt)
    bench.finished(bench.submit(tasks.add, 1))
    assert all(mark.exists() for mark in marks[:-1])
    assert not marks[-1].exists()


def check_a_running_attempt_can_be_cancelled(bench: EngineBench) -> None:
    if not bench.capabilities.cancels:
        return
    stuck = [bench.submit(tasks.sleep, 600.0) for _ in range(bench.workers)]
    bench.until(lambda: all(map(bench.is_running, stuck)), "all workers to be busy")
    waiting = bench.submit(tasks.add, 1)
    for attempt in stuck:
        bench.cancel(attempt)
    bench.finished(waiting)
    assert not bench.answers.keys() & set(stuck)


def check_workers_are_added_and_retired_without_losing_work(bench: EngineBench) -> None:
    if not bench.capabilities.elastic:
        bench.engine.scale(5)
        bench.finished(bench.submit(tasks.add, 1))
        return
    go = bench.folder / "go"
    many = 2 * bench.workers
    attempts = [bench.submit(tasks.wait_for_file, str(go)) for _ in range(many)]
    bench.engine.scale(many)
    bench.until(lambda: all(map(bench.is_running, attempts)), f"{many} attempts at once")
    bench.engine.scale(1)
    bench.until(lambda: bench.of(CapacityChanged)[-1].slots == 1, "the smaller capacity to be told")
    go.touch()
    for attempt in attempts:
        bench.finished(attempt)
    bench.engine.scale(bench.workers)
    bench.finished(bench.submit(tasks.add, 1))


def check_output_is_kept_by_attempt(bench: EngineBench) -> None:
    attempts = {text: bench.submit(tasks.noisy, text) for text in ("one", "two", "three")}
    silent = bench.submit(tasks.add, 1)
    for text, attempt in attempts.items():
        span = bench.finished(attempt).log
        assert span is not None
        written = (bench.context.logs / span.name).read_bytes()[span.start : span.end].decode()
        assert f"out {text}" in written
        assert f"err {text}" in written
        assert not any(other in written for other in attempts if other != text)
    assert bench.finished(silent).log is None


def check_what_a_task_changes_in_its_process_is_set_back(bench: EngineBench) -> None:
    """Working directory, umask, variables, module path, locale and more, after each call and each item."""
    before = bench.value(bench.finished(bench.submit(tasks.change_the_process, 0)).ref)
    items = bench.value(bench.finished(bench.submit_map(tasks.change_the_process, [range(3)])).ref)
    after = bench.value(bench.finished(bench.submit(tasks.state_of_the_process)).ref)
    for found in (*items[:1], after):
        assert found == before
    for found in items[1:]:  # handlers and limits are set back after the whole attempt
        assert {**found, "handler": "", "open files": 0} == {**before, "handler": "", "open files": 0}


def check_a_checkpoint_folder_belongs_to_the_key(bench: EngineBench) -> None:
    """A second attempt at a call goes on from the first one's checkpoint, other calls and items have other folders."""
    how = "kill" if bench.capabilities.isolated else "raise"
    failed = bench.failed(bench.submit(tasks.count_on, 5, how))
    assert not failed.checkpoints
    again = bench.finished(bench.submit(tasks.count_on, 5, how))
    first, folder = bench.value(again.ref)
    assert first == 3
    assert again.checkpoints == (Path(folder).name,)
    other = bench.failed(bench.submit(tasks.count_on, 6, how)).failure
    assert other.kind == ("WorkerDied" if bench.capabilities.isolated else "TaskError")
    mapped = bench.finished(bench.submit_map(tasks.checkpoint_of, [range(3)]))
    folders = [folder for folder, found in bench.value(mapped.ref) if not found]
    assert len(set(folders)) == 3
    assert mapped.checkpoints == tuple(Path(folder).name for folder in folders)
    if bench.capabilities.gangs:
        asked = {"gang": bench.workers, "results": "all"}
        ranks = bench.finished(bench.submit(tasks.checkpoint_of, 7, **asked))
        assert len({folder for folder, _ in bench.value(ranks.ref)}) == 1
        assert len(ranks.checkpoints) == 1
    assert bench.store.checkpoints.remove(again.checkpoints) == 1
    assert not Path(folder).exists()


_READING = """
import os
from pathlib import Path

def work(name):
    return Path(name).read_text() + os.environ["SUITE_MODE"]
"""


def check_what_a_task_reads_is_recorded(bench: EngineBench) -> None:
    """Files below the project by their relative names, item by item, and variables with the driver's values; later whether they changed."""
    for name in ("one", "two"):
        (bench.folder / f"{name}.txt").write_text(name, encoding="utf-8")
    files = [str(bench.folder / f"{name}.txt") for name in ("one", "two")]
    os.environ["SUITE_MODE"] = "!"
    try:
        with loaded_module(bench.folder, "suite_reading", _READING, importable=True) as module:
            called = bench.finished(bench.submit(module.work, files[0]))
            mapped = bench.finished(bench.submit_map(module.work, [files]))
            silent = bench.finished(bench.submit(module.work, files[0], observe=False))
    finally:
        del os.environ["SUITE_MODE"]
    assert bench.value(called.ref) == "one!"
    assert bench.value(mapped.ref) == ["one!", "two!"]
    inputs = [[(each.kind, each.name) for each in items.inputs] for items in mapped.observed]
    assert inputs == [[("file", f"{name}.txt"), ("variable", "SUITE_MODE")] for name in ("one", "two")]
    assert called.observed[0].inputs == mapped.observed[0].inputs
    environment = {"SUITE_MODE": "!"}
    assert first_changed(called.observed[0].inputs, root=bench.folder, environment=environment) is None
    assert silent.observed == ()
    if bench.capabilities.unshared:
        read = tuple(items.inputs[0] for items in mapped.observed)
        assert bench.finished(bench.look(read)).observed[0].inputs == ()
        (bench.folder / "two.txt").write_text("later", encoding="utf-8")
        assert bench.finished(bench.look(read)).observed[0].inputs == read[1:]


def check_peak_memory_is_known_where_declared(bench: EngineBench) -> None:
    peak = bench.finished(bench.submit(tasks.allocate, 64)).peak_bytes
    assert peak is not None or not bench.capabilities.knows_peak_memory
    assert peak is None or peak >= 64 << 20


def check_close_ends_all_and_may_come_twice(bench: EngineBench) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    child = bench.value(bench.finished(bench.submit(tasks.leave_a_child)).ref)
    workers = [event.pid for event in bench.of(WorkerStarted)]
    bench.engine.close()
    bench.engine.close()
    if not bench.capabilities.isolated:
        psutil.Process(child).kill()
        psutil.Process(child).wait()
        return
    started = {*workers, child} - before
    _, alive = psutil.wait_procs(_processes(started), timeout=10)
    assert not alive, f"still there after close: {alive}"


def check_close_does_not_wait_for_what_runs(bench: EngineBench) -> None:
    if not bench.capabilities.isolated:
        bench.submit(tasks.sleep, 600.0)
        bench.engine.close()
        return
    busy = [bench.submit(tasks.sleep, 600.0) for _ in range(3 * bench.workers)]
    bench.until(lambda: any(map(bench.is_running, busy)), "an attempt to begin")
    workers = [event.pid for event in bench.of(WorkerStarted)]
    bench.engine.close()
    _, alive = psutil.wait_procs(_processes(workers), timeout=10)
    assert not alive, f"still there after close: {alive}"


def check_the_capacity_comes_first(bench: EngineBench) -> None:
    bench.until(lambda: bool(bench.events), "the first event")
    capacity: Any = bench.events[0]
    assert isinstance(capacity, CapacityChanged)
    assert capacity.slots >= 1
    assert capacity.cpus > 0


def _touch(path: str) -> None:
    Path(path).touch()


def _processes(pids: Any) -> list[psutil.Process]:
    wanted = set(pids)
    return [each for each in psutil.process_iter() if each.pid in wanted]


ENGINE_CHECKS: tuple[EngineCheck, ...] = (
    check_the_capacity_comes_first,
    check_calls_and_maps_give_what_plain_python_gives,
    check_large_arguments_and_results,
    check_the_list_of_a_dynamic_map_is_read_on_a_worker,
    check_thousands_of_small_calls,
    check_an_exception_is_told_with_the_users_frames,
    check_a_failure_says_whether_and_when_to_try_again,
    check_what_a_failing_chunk_had_done_is_kept,
    check_a_chunk_ends_at_its_limit_with_what_it_has_done,
    check_tasks_may_raise_anything,
    check_a_result_that_cannot_be_stored_is_a_failure,
    check_a_function_that_cannot_travel_is_refused,
    check_a_module_that_workers_lack_is_an_environment_mismatch,
    check_code_that_differs_on_the_worker_is_an_environment_mismatch,
    check_an_edit_during_a_run_does_not_change_it,
    check_a_killed_worker_is_told_and_harms_nobody_else,
    check_a_worker_that_exits_is_told_with_its_code,
    check_a_chunk_dies_as_a_whole,
    check_a_queued_attempt_can_be_cancelled,
    check_a_running_attempt_can_be_cancelled,
    *SHORT_CALL_CHECKS,
    check_workers_are_added_and_retired_without_losing_work,
    check_output_is_kept_by_attempt,
    check_what_a_task_changes_in_its_process_is_set_back,
    check_a_checkpoint_folder_belongs_to_the_key,
    check_what_a_task_reads_is_recorded,
    check_peak_memory_is_known_where_declared,
    *GANG_CHECKS,
    check_close_ends_all_and_may_come_twice,
    check_close_does_not_wait_for_what_runs,
    check_a_whole_run,
    check_a_whole_run_that_goes_on_after_an_error,
    check_a_whole_run_that_is_forced,
    check_a_whole_run_with_a_death,
)
"""All checks, cheap ones first."""
