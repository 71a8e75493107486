"""How Python collects garbage while a run is traced and driven."""

import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest

from hooke import pipeline, run, task
from hooke.base.clock import SystemClock
from hooke.base.errors import TaskFailed
from hooke.base.this_process import COLLECT_S, RARELY, RareCollections

USUAL = (700, 10, 10)
RARE = (RARELY, 10, 10)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before, enabled = gc.get_threshold(), gc.isenabled()
    gc.enable()
    gc.set_threshold(*USUAL)
    yield
    gc.set_threshold(*before)
    (gc.enable if enabled else gc.disable)()


class Clock(SystemClock):
    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.mark.needs("cpu")
def test_a_forked_child_that_leaves_what_its_parent_entered_sets_thresholds_back_later():
    with RareCollections(Clock()):
        child = os.fork()
        if not child:
            try:
                RareCollections(Clock()).__exit__()  # as the child does that returns from the body
                with RareCollections(Clock()):
                    inside = gc.get_threshold()
                os._exit(0 if (inside, gc.get_threshold()) == (RARE, USUAL) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Cyclic:
    def __init__(self) -> None:
        self.itself = self


def garbage() -> weakref.ref[Cyclic]:
    return weakref.ref(Cyclic())


def test_thresholds_are_set_back() -> None:
    with RareCollections(SystemClock()):
        assert gc.get_threshold() == RARE
    assert gc.get_threshold() == USUAL


def test_an_error_sets_them_back() -> None:
    with pytest.raises(KeyboardInterrupt), RareCollections(SystemClock()):
        raise KeyboardInterrupt
    assert gc.get_threshold() == USUAL


def test_the_last_of_several_threads_sets_them_back() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with RareCollections(SystemClock()):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with RareCollections(SystemClock()):
        thread.start()
        entered.wait()
    assert gc.get_threshold() == RARE
    leave.set()
    thread.join()
    assert gc.get_threshold() == USUAL


def test_a_program_that_turned_collections_off_keeps_them_off() -> None:
    gc.disable()
    with RareCollections(clock := Clock()) as collections:
        kept = garbage()
        clock.seconds = COLLECT_S
        collections.due()
        assert not gc.isenabled()
        assert kept() is not None
    assert not gc.isenabled()


def test_one_that_turns_them_off_inside_keeps_them_off() -> None:
    with RareCollections(SystemClock()):
        gc.disable()
    assert not gc.isenabled()
    assert gc.get_threshold() == USUAL


@pytest.mark.parametrize("own", [(0, 10, 10), (RARELY, 5, 5), (50_000, 2, 2)])
def test_thresholds_of_a_program_that_are_as_high_stay(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with RareCollections(SystemClock()):
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def test_thresholds_that_are_set_inside_stay() -> None:
    with RareCollections(SystemClock()):
        gc.set_threshold(500, 3, 3)
    assert gc.get_threshold() == (500, 3, 3)


def test_garbage_is_collected_after_so_many_objects() -> None:
    with RareCollections(Clock()):
        first = garbage()
        for _ in range(RARELY):
            Cyclic()
        assert first() is None


@pytest.mark.needs("cpu")
def test_a_little_garbage_is_collected_after_a_second() -> None:
    with RareCollections(clock := Clock()) as collections:
        kept = [[] for _ in range(2 * USUAL[0])]
        gone = garbage()
        collections.due()
        assert gone() is not None
        clock.seconds = COLLECT_S
        collections.due()
        assert gone() is None
        assert kept


@pytest.mark.needs("cpu")
def test_old_garbage_is_collected_by_the_second_too() -> None:
    with RareCollections(clock := Clock()) as collections:
        old = Cyclic()
        gone, old = weakref.ref(old), [old]
        gc.collect(1)  # the oldest generation
        old.clear()
        kept = []
        for _ in range(200):
            kept.append([[] for _ in range(2 * USUAL[0])])
            clock.seconds += COLLECT_S
            collections.due()
        assert kept
        assert gone() is None


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_the_clock_of_an_earlier_run_does_not_put_that_off() -> None:
    """Each run may have a clock of its own, and the process remembers when it last looked at everything."""
    for start in (1e9, 0.0):
        with RareCollections(clock := Clock()) as collections:
            clock.seconds = start
            old = Cyclic()
            gone, old = weakref.ref(old), [old]
            gc.collect(1)
            old.clear()
            kept = []
            for _ in range(200):
                kept.append([[] for _ in range(2 * USUAL[0])])
                clock.seconds += COLLECT_S
                collections.due()
            assert gone() is None


@pytest.mark.needs("cpu")
def test_a_child_has_the_usual_thresholds() -> None:
    with RareCollections(SystemClock()):
        child = os.fork()
        if not child:
            os._exit(0 if gc.get_threshold() == USUAL else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert gc.get_threshold() == RARE
    assert gc.get_threshold() == USUAL


@task
def inverse(x: int) -> float:
    return 1 / x


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("x", "error"), [(2, None), (0, TaskFailed)])
def test_a_run_is_traced_and_driven_so(
    tmp_path, monkeypatch: pytest.MonkeyPatch, x: int, error: type[Exception] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    @pipeline
    def one(x: int):
        seen.append(gc.get_threshold())
        return inverse(x)

    if error is None:
        assert run(one, on="local:1", x=x).result() == 0.5
    else:
        with pytest.raises(error):
            run(one, on="local:1", x=x)
    assert seen == [RARE]
    assert gc.get_threshold() == USUAL


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("collections_of_the_youngest", "is_collected"), [(1, False), (USUAL[1] + 1, True)])
def test_the_middle_generation_is_collected_when_python_would_have_done_so(
    collections_of_the_youngest: int, is_collected: bool
) -> None:
    with RareCollections(clock := Clock()) as collections:
        collections.due()
        gc.collect()
        old = Cyclic()
        gone, old = weakref.ref(old), [old]
        for _ in range(collections_of_the_youngest):
            gc.collect(0)
        old.clear()
        kept = [[] for _ in range(2 * USUAL[0])]
        clock.seconds = COLLECT_S
        collections.due()
        assert kept
        assert (gone() is None) == is_collected
