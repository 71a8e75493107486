"""Causes that are planted in real workers, so that a busy machine changes no answer: with sleeps and sockets, or in one worker."""

import faulthandler
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.causes import PAGE, PLANTS, QUIET, RECORD, SEEDS, Played, page_of, play, table_of

from hooke.engines.worker import sampler
from hooke.journal.study_records import read_study
from hooke.measuring.studies import measure
from hooke.planning.advice import advise, known_limit
from hooke.planning.causes import TAKEN, WAITING, cause_of
from hooke.project.pipeline_file import load_entry

pytestmark = pytest.mark.needs("processes")

PROGRAM = """
    import fcntl
    import os
    import queue
    import threading
    import time
    from pathlib import Path

    import numpy as np

    from hooke import pipeline, task

    DOOR = Path(__file__).parent / "door"


    @task(observe=False)
    def locked(x: int) -> int:
        with open(DOOR, "a") as door:
            fcntl.flock(door, fcntl.LOCK_EX)  # the lock
            time.sleep(0.05)
        return x


    @task(observe=False)
    def nap(x: int) -> int:
        time.sleep(0.2)
        return x


    def in_threads(function, count=4):
        threads = [threading.Thread(target=function) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


    def compute(rounds=300_000):
        value = 1
        for _ in range(rounds):
            value = (value * 1103515245 + 12345) % 2147483648


    def compute_in_numpy():
        values = np.arange(1.0, 300_000.0)
        for _ in range(180):
            np.sqrt(values, out=values)


    ONE = threading.Lock()


    def compute_alone():
        for _ in range(4):
            with ONE:  # the thread's lock
                compute(250_000)


    @task(observe=False)
    def threads(x: int, kind: str) -> int:
        match kind:
            case "long":
                in_threads(compute)
            case "short":
                for _ in range(3):
                    in_threads(lambda: compute(100_000))
            case "and main":
                other = threading.Thread(target=compute)
                other.start()
                compute()
                other.join()
            case "numpy":
                in_threads(compute_in_numpy)
            case "one":
                ended = threading.Event()
                waiting = threading.Thread(target=ended.wait)
                waiting.start()
                in_threads(lambda: compute(1_500_000), 1)  # 5 ms of it the start waits for the lock
                ended.set()
                waiting.join()
            case "events":
                happened, passed = threading.Event(), queue.SimpleQueue()
                until = time.thread_time() + 0.1
                while time.thread_time() < until:
                    happened.set()
                    happened.clear()
                    passed.put(x)
                    passed.get()
            case "sleeping":
                in_threads(lambda: time.sleep(0.2))
            case "locked":
                in_threads(compute_alone)
        return x


    @pipeline
    def threading_(kind: str) -> list[int]:
        return threads.map(range(8), kind=kind)


    @task(observe=False)
    def save(x: int) -> int:
        until = time.monotonic() + 0.15
        with open(Path(__file__).parent / f"saved-{x}", "wb", buffering=0) as file:
            while time.monotonic() < until:
                file.seek(0)
                file.write(b"x" * 4096)
                os.fsync(file.fileno())  # the disk
        return x


    @pipeline
    def saving() -> list[int]:
        return save.map(range(8))


    @pipeline
    def locking() -> list[int]:
        return locked.map(range(16))


    @pipeline
    def napping(n: int = 5) -> list[int]:
        return nap.map(range(n))

"""


def study_of(workshop, name, task, workers=(1, 4), repeats=2, **params):
    workshop.write(PROGRAM)
    loaded = load_entry(f"{workshop.file}:{name}")[0]
    return measure(loaded, task=task, workers=workers, repeats=repeats, progress="none", **params)


def line_of(workshop, comment):
    lines = workshop.file.read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if comment in text)


def alone(study):
    """The measurement with one worker: with two, a busy machine decides what is lost."""
    return next(each for each in read_study(study.folder).measured if each.n == 1)


@pytest.mark.parametrize("kind", ["long", "short", "and main"])
def test_threads_that_compute_one_at_a_time_wait_for_the_gil(workshop, kind):
    study = study_of(workshop, "threading_", "threads", workers=[1, 2], repeats=1, kind=kind)
    cause = cause_of([alone(study)], cores=2)
    assert cause is not None
    if cause.name == "cores taken":
        assert alone(study).load.others >= TAKEN
        return
    assert cause.name == "GIL", cause
    assert cause.sentence.startswith(f"waits for the GIL in {workshop.file.name}:")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["numpy", "one", "events", "sleeping"])
def test_threads_that_release_the_gil_or_do_not_compete_for_it_do_not_wait_for_it(workshop, kind):
    study = study_of(workshop, "threading_", "threads", workers=[1, 2], repeats=1, kind=kind)
    measured = alone(study)
    cause = cause_of([measured], cores=2)
    assert cause is None or cause.name == "cores taken", cause
    queued = sum(seconds for what, seconds in measured.use.waits.items() if what.startswith("gil"))
    assert queued < 0.2 * measured.seconds


WOKEN = sampler._Thread("gil", "here.py:3", idle=False, woken=True)
COMPUTING = sampler._Thread("gil", "here.py:3", idle=False, woken=False)
JOINING = sampler._Thread("lock", "here.py:3", idle=True, woken=False)


@pytest.mark.parametrize(
    ("threads", "beginning", "held", "wait"),
    [
        ([WOKEN], 0, True, "gil"),  # the thread that held the lock has ended
        ([JOINING], 1, True, "gil"),  # so too, and the next one has not begun
        ([WOKEN, COMPUTING], 0, True, "gil"),
        ([COMPUTING], 0, True, ""),  # it held the lock, and wants it back from the sampler
        ([WOKEN], 0, False, ""),
        ([JOINING], 1, False, "other"),
    ],
)
def test_threads_that_end_or_begin_at_the_moment_of_a_sample(threads, beginning, held, wait):
    known = dict(enumerate(threads))
    found = sampler._attempt_waits(known, 0, beginning=beginning, held=held, native=False)
    assert found == (wait, "here.py:3")


def test_the_stack_of_a_thread_is_read_from_what_faulthandler_writes(tmp_path):
    begun, end = threading.Event(), threading.Event()
    code = "def outer():\n    inner()\ndef inner():\n    begun.set()\n    end.wait()\nouter()\n"
    file = "/tmp/\xdcbung \u4e00 \U0001f600/x.py"
    thread = threading.Thread(target=exec, args=[compile(code, file, "exec"), {"begun": begun, "end": end}])
    thread.start()
    begun.wait(60)
    with open(tmp_path / "stacks", "w+b") as written:
        faulthandler.dump_traceback(written.fileno(), all_threads=True)
        written.seek(0)
        stack = sampler._stacks_of(written.read().decode("ascii"))[thread.ident]
    end.set()
    thread.join()
    own = [place for place in stack if place[0] == file]
    assert own[-2:] == [(file, 2), (file, 6)]
    assert own[0][1] in (4, 5)


def test_a_place_is_that_of_the_moment_of_the_sample(tmp_path, monkeypatch):
    """Looking up a descriptor or the text of a line lets other threads run on."""
    watching = sampler.Sampler(tmp_path / "samples", 1000.0)
    gate, moved, done = (threading.Event() for _ in range(3))
    here, real, found = sys._getframe(), sampler._wait_of, []

    def look_up(called, lock):
        gate.set()
        moved.wait(60)
        return real(called, lock)

    def sample():
        while here.f_lineno != line:
            time.sleep(0.001)
        found.append(watching._sample(1.0, held=False))
        done.set()

    monkeypatch.setattr(sampler, "_wait_of", look_up)
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), watching._thread])
    thread = threading.Thread(target=sample)
    line = sys._getframe().f_lineno + 2
    thread.start()
    gate.wait(60)
    moved.set()
    done.wait(60)
    thread.join()
    watching.close()
    assert found[0].place == f"{Path(__file__).name}:{line}"


@pytest.mark.long
def test_a_lock_of_threads_is_no_gil(workshop):
    study = study_of(workshop, "threading_", "threads", workers=[1, 2], repeats=1, kind="locked")
    told = alone(study).use.waits
    assert max(told, key=told.get) == f"lock {workshop.file.name}:{line_of(workshop, 'the thread')}", told


@pytest.mark.needs("disk")
def test_a_disk_is_named_with_the_line_and_the_call(workshop):
    study = study_of(workshop, "saving", "save", workers=[1, 2], repeats=1)
    use = alone(study).use
    told = use.waits
    place = f"{workshop.file.name}:{line_of(workshop, '# the disk')} (fsync)"
    # Where others take the cores, the wait for one is longer than that for the disk.
    late = (use.delay_s or 0) > use.busy_s / 3
    assert late or max(told, key=told.get, default="") == f"disk {place}", (told, use)
    cause = cause_of([alone(study)], cores=2)
    if cause is not None and cause.name == "cores taken":
        assert alone(study).load.others >= TAKEN
    elif (
        told.get(f"disk {place}", 0.0) >= WAITING * alone(study).seconds
    ):  # a fast disk takes less, beside system time
        assert cause is not None and cause.sentence.startswith(f"waits for the disk in {place}: "), cause
    else:
        assert cause is None or cause.sentence.startswith(f"waits for the disk in {place}: "), cause


@pytest.mark.long
def test_a_lock_is_named_with_its_line_and_advice_does_not_contradict_it(workshop):
    study = study_of(workshop, "locking", "locked")
    line = line_of(workshop, "# the lock")
    assert study.cause is not None
    assert study.cause.name == "lock"
    assert study.cause.sentence.startswith(f"waits for a lock in {workshop.file.name}:{line}: ")
    assert f"cause {study.cause.sentence}" in str(study)
    assert study.facts()["cause"] == study.cause.facts()
    # The same calls, in a run, wait; more of them would wait longer. In processes of their own no thread of other tests counts.
    workshop.run(name="locking", on="local", workers=2)
    (why, *_) = advise(workshop.project.runs, pipeline="locking")["locked"].why
    assert f"a study says for what: {study.cause.sentence}" in why
    assert "use more workers" not in why


@pytest.mark.long
@pytest.mark.parametrize("planted", QUIET)
def test_a_minute_of_the_campaign_names_what_a_busy_machine_hardly_changes(planted, tmp_path):
    played = play(planted, 3, tmp_path)
    # Where others take the cores, a server answers more clients later.
    late = {"shared server"} if planted == "network" and played.disturbed else set()
    unsaid = {"nothing", "cores taken"} if played.disturbed else set()  # but never another cause
    assert played.outcome in {"right", *late, *unsaid}, played


def test_the_page_has_the_recorded_counts():
    record = json.loads(RECORD.read_text("utf-8"))
    assert PAGE.read_text("utf-8") == page_of(record)
    assert Counter(each["planted"] for each in record["studies"]) == dict.fromkeys(PLANTS, len(SEEDS))
    assert record["seeds"] == list(SEEDS)


def test_the_page_tells_what_is_missed_and_what_was_disturbed():
    def page(*named, control="", others=0.0):
        studies = [Played(planted="disk", seed=seed, named=name) for seed, name in enumerate(named)]
        studies.append(Played(planted="no cause: sleeping", seed=0, named=control, others={"2": others}))
        kept = [asdict(each) for each in studies]
        record = {"machine": "m", "python": "3", "seeds": [0], "repeats": 2, "minutes": 1.0, "studies": kept}
        return page_of(record), table_of(record)

    text, _ = page(*["disk"] * 7, "cores", "", "")
    assert "Right in less than 90% of the studies: disk in 7 of 10 (nothing in 2, cores in 1)." in text
    assert "as in all of these" in text
    text, table = page("disk", control="refused", others=0.4)
    assert "studies: no cause: sleeping in 0 of 1 (refused in 1)." in text
    assert "; that does not hold for 1 of these." in text
    assert "| no cause: sleeping | 1 | 0 | 0 | 1 | 0 | 0 | 0 |" in table, "a refusal is no right answer"
    assert "Each is right in at least 90% of its studies." in page("disk")[0]


@pytest.mark.long
def test_where_nothing_is_wrong_there_is_no_cause(workshop):
    study = study_of(workshop, "napping", "nap", n=16)
    assert study.cause is None
    assert study.facts()["cause"] is None
    assert "\ncause" not in str(study)
    # What sleeps does not keep its worker busy, so more workers do help, and nothing says otherwise.
    assert known_limit(workshop.project.runs, "napping", "nap") == ""
    workshop.run(name="napping")
    assert "use more workers than cores" in advise(workshop.project.runs, pipeline="napping")["nap"].why[0]
