"""The part of the engines' conformance suite that is about short calls: they wait in workers, follow one another there, and come in groups."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from hooke.journal.events import AttemptFailed, AttemptStarted, WorkerStarted
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import EngineBench

__all__ = ["SHORT_CALL_CHECKS"]


def check_short_calls_outlive_the_worker_that_they_wait_in(bench: EngineBench) -> None:
    if not bench.capabilities.isolated:
        return
    blocked, waiting, go = _blocked_with_short_calls_behind(bench)
    pids = {started.worker: started.pid for started in bench.of(WorkerStarted)}
    workers = {started.attempt: started.worker for started in bench.of(AttemptStarted)}
    psutil.Process(pids[workers[blocked[0]]]).kill()
    assert bench.failed(blocked[0]).failure.kind == "WorkerDied"
    go.touch()
    assert [bench.value(bench.finished(attempt).ref) for attempt in waiting] == [
        11 + i for i in range(len(waiting))
    ]


def check_short_calls_can_be_cancelled(bench: EngineBench) -> None:
    if not bench.capabilities.cancels:
        return
    blocked, waiting, go = _blocked_with_short_calls_behind(bench)
    given_up = [waiting[0], waiting[-1], blocked[0]]
    for attempt in given_up:
        bench.cancel(attempt)
    go.touch()
    for attempt in {*blocked, *waiting} - {*given_up}:
        bench.finished(attempt)
    bench.finished(bench.submit(tasks.add, 1))
    assert bench.answers.keys().isdisjoint(given_up)


def _blocked_with_short_calls_behind(bench: EngineBench) -> tuple[list[int], list[int], Path]:
    """Attempts that keep all workers busy until the file exists, and short ones that may wait in the same workers."""
    go = bench.folder / "go"
    bench.finished(bench.submit(tasks.add, 0, short=True))
    blocked = [bench.submit(tasks.wait_for_file, str(go), short=True) for _ in range(bench.workers)]
    bench.until(lambda: all(map(bench.is_running, blocked)), "all workers to be busy")
    return blocked, [bench.submit(tasks.add, 1 + i, short=True) for i in range(30)], go


# -- calls that follow others ------------------------------------------------------------------------


def check_calls_follow_one_another(bench: EngineBench) -> None:
    if not bench.capabilities.follows:
        return
    go, chains = _blocked_chains(bench)
    assert not any(bench.is_running(attempt) for _, *followers in chains for attempt in followers)
    go.touch()
    for _, *followers in chains:
        values = [bench.value(bench.finished(attempt).ref) for attempt in followers]
        assert values == [values[0] + 10 * at for at in range(len(followers))]


def check_a_call_may_follow_one_that_has_just_ended(bench: EngineBench) -> None:
    if not bench.capabilities.follows:
        return
    first = bench.submit(tasks.add, 1, short=True)
    bench.finished(first)
    second = bench.submit(tasks.add, 2, short=True)
    time.sleep(0.2)  # the engine may have its answer by then, and nobody has asked for it
    third = bench.submit_behind(second, tasks.add)
    assert bench.value(bench.finished(third).ref) == 22


def check_what_follows_a_failure_never_begins(bench: EngineBench) -> None:
    if not bench.capabilities.follows:
        return
    bench.finished(bench.submit(tasks.add, 0, short=True))
    for _ in range(20):
        bad = bench.submit(tasks.fail_for_good, short=True)
        followers = [bench.submit_behind(bad, tasks.add)]
        followers.append(bench.submit_behind(followers[0], tasks.add))
        bench.failed(bad)
        assert bench.value(bench.finished(bench.submit(tasks.add, 1, short=True)).ref) == 11
        _never_began(bench, followers)


def check_what_follows_a_dead_one_never_begins(bench: EngineBench) -> None:
    if not (bench.capabilities.follows and bench.capabilities.isolated):
        return
    go, chains = _blocked_chains(bench)
    pids = {started.worker: started.pid for started in bench.of(WorkerStarted)}
    workers = {started.attempt: started.worker for started in bench.of(AttemptStarted)}
    (dead, *lost), *others = chains
    psutil.Process(pids[workers[dead]]).kill()
    assert bench.failed(dead).failure.kind == "WorkerDied"
    go.touch()
    for chain in others:
        for attempt in chain:
            bench.finished(attempt)
    assert bench.value(bench.finished(bench.submit(tasks.add, 1, short=True)).ref) == 11
    _never_began(bench, lost)


def check_calls_that_follow_can_be_cancelled(bench: EngineBench) -> None:
    if not (bench.capabilities.follows and bench.capabilities.cancels):
        return
    go, ((first, *lost), (_, *rest), *_) = _blocked_chains(bench)
    bench.cancel(first)
    for attempt in lost:
        bench.cancel(attempt)
    for attempt in reversed(rest[2:]):
        bench.cancel(attempt)
    go.touch()
    assert [bench.value(bench.finished(attempt).ref) for attempt in rest[:2]] == [11, 21]
    _never_began(bench, [*lost, *rest[2:]])


def _never_began(bench: EngineBench, attempts: list[int]) -> None:
    begun = {started.attempt for started in bench.of(AttemptStarted)}
    assert begun.isdisjoint(attempts)
    assert bench.answers.keys().isdisjoint(attempts)


def _one_when_there(path: str) -> int:
    tasks.wait_for_file(path)
    return 1


def _blocked_chains(bench: EngineBench) -> tuple[Path, list[list[int]]]:
    """A file, and for each worker an attempt that runs until it exists, with those that follow it, and one another."""
    go = bench.folder / "go"
    bench.finished(bench.submit(tasks.add, 0, short=True))
    heads = [bench.submit(_one_when_there, str(go), short=True) for _ in range(bench.workers)]
    chains = [[head] for head in heads]
    for chain in chains:
        for _ in range(20):
            chain.append(bench.submit_behind(chain[-1], tasks.add))
    bench.until(lambda: all(map(bench.is_running, heads)), "all workers to be busy")
    return go, chains


# -- groups ------------------------------------------------------------------------------------------

GROUP = 40


def check_each_call_of_a_group_has_its_own_end(bench: EngineBench) -> None:
    if not bench.capabilities.groups:
        return
    bench.finished(bench.submit(tasks.add, 0, short=True))
    kinds = {3: "print", 4: "fail", 11: "large", 12: "print", 20: "fail", 39: "fail"}
    attempts = bench.submit_group(tasks.one_of_many, [(i, kinds.get(i, "")) for i in range(GROUP)])
    for i, attempt in enumerate(attempts):
        what = kinds.get(i, "")
        answer = bench.answer(attempt)
        assert isinstance(answer, AttemptFailed) == (what == "fail")
        if isinstance(answer, AttemptFailed):
            assert answer.failure.message == f"item {i} is bad"
        else:
            assert bench.value(answer.ref) == ([i] if what == "large" else i + 10)
        assert (answer.log is not None) == (what == "print")
        if answer.log is not None:
            text = (bench.folder / "logs" / answer.log.name).read_bytes()[answer.log.start : answer.log.end]
            assert text == b"item %d\n" % i


def check_what_waits_behind_a_long_call_of_a_group_runs_elsewhere(bench: EngineBench) -> None:
    if not bench.capabilities.groups:
        return
    go, attempts, blocked = _blocked_group(bench)
    for attempt in [*attempts[:5], *attempts[6:]]:
        bench.finished(attempt)
    assert blocked not in bench.answers
    go.touch()
    assert [bench.value(bench.finished(each).ref) for each in attempts] == [i + 10 for i in range(GROUP)]


def check_a_group_outlives_its_worker(bench: EngineBench) -> None:
    if not (bench.capabilities.groups and bench.capabilities.isolated):
        return
    go, attempts, blocked = _blocked_group(bench, busy=True)
    pids = {started.worker: started.pid for started in bench.of(WorkerStarted)}
    workers = {started.attempt: started.worker for started in bench.of(AttemptStarted)}
    psutil.Process(pids[workers[attempts[0]]]).kill()
    failure = bench.failed(blocked).failure
    assert failure.kind == "WorkerDied"
    assert "wait" in failure.arguments, "what it was about, though others were told of first"
    go.touch()
    for attempt in attempts:
        assert attempt == blocked or bench.finished(attempt)


def check_calls_of_a_group_can_be_cancelled(bench: EngineBench) -> None:
    if not (bench.capabilities.groups and bench.capabilities.cancels):
        return
    go, attempts, blocked = _blocked_group(bench, busy=True)
    given_up = [attempts[7], attempts[20], attempts[-1], blocked]
    for attempt in given_up:
        bench.cancel(attempt)
    go.touch()
    for attempt in {*attempts} - {*given_up}:
        bench.finished(attempt)
    assert bench.answers.keys().isdisjoint(given_up)
    assert bench.value(bench.finished(bench.submit(tasks.add, 1, short=True)).ref) == 11


def _blocked_group(bench: EngineBench, *, busy: bool = False) -> tuple[Path, list[int], int]:
    """A file, and a group whose sixth call waits for that, which the worker has begun. `busy`: the other workers are, too."""
    go = bench.folder / "go"
    others = bench.workers - 1
    first = [bench.submit(tasks.wait_for_file, str(go), short=True) for _ in range(others * busy)]
    bench.finished(bench.submit(tasks.add, 0, short=True))
    bench.until(lambda: all(map(bench.is_running, first)), "the other workers to be busy")
    calls = [(i, "wait" if i == 5 else "", f"{go}" if i == 5 else "") for i in range(GROUP)]
    attempts = bench.submit_group(tasks.one_of_many, calls)
    bench.until(lambda: attempts[4] in bench.answers, "the results before the long call")
    return go, attempts, attempts[5]


SHORT_CALL_CHECKS: tuple[Callable[[EngineBench], None], ...] = (
    check_short_calls_outlive_the_worker_that_they_wait_in,
    check_short_calls_can_be_cancelled,
    check_calls_follow_one_another,
    check_a_call_may_follow_one_that_has_just_ended,
    check_what_follows_a_failure_never_begins,
    check_what_follows_a_dead_one_never_begins,
    check_calls_that_follow_can_be_cancelled,
    check_each_call_of_a_group_has_its_own_end,
    check_what_waits_behind_a_long_call_of_a_group_runs_elsewhere,
    check_a_group_outlives_its_worker,
    check_calls_of_a_group_can_be_cancelled,
)
"""All of them."""
