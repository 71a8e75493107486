"""What is asked of an engine that declares gangs: they meet, begin whole, end whole, and name the rank that was to blame."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from hooke.journal.events import AttemptFailed, AttemptStarted, WorkerStopped
from hooke.pipeline.resources import Resources
from hooke.pipeline.task import Task
from hooke.testing.engine_bench import EngineBench

__all__ = ["GANG_CHECKS"]


def meet(value: int) -> tuple[int, int, int]:
    """Rank, world size and the sum of all ranks' values, by way of the address that each of them was given."""
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
    """More gangs than there is room for, and calls between them: none waits for a rank that never comes."""
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
    assert failure.kind == "UserError"
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
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(there, timeout=10)
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
