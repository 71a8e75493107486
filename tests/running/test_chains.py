"""Chains of short calls, each sent to the worker of the one before: results, failures, deaths, kills, edits, and where they run."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from hooke.base.errors import TaskFailed
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted
from hooke.running.resume import last_resumable, resume
from hooke.running.run import Run

JOB = """
    import os, signal
    from pathlib import Path
    from hooke import task, pipeline

    HERE = Path(__file__).parent

    def note(x):
        with (HERE / "ran.txt").open("a") as file:
            file.write(f"{x} ")

    @task(observe=False, retries=2)
    def link(x: int, seed: int) -> int:
        note(x)
        if x == 150 and (HERE / "bad").exists():
            raise ValueError("bad luck")
        if x == 120 and (HERE / "deadly").exists():
            (HERE / "deadly").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return x + 1

    @task(observe=False, cache=False)
    def uncached(x: int) -> int:
        note(x)
        return x + 1

    @task
    def read(x: int) -> int:
        note("read")
        return len((HERE / "words.txt").read_text().split()) + x

    @pipeline
    def chain(links: int = 300, seed: int = 0) -> int:
        x = 0
        for _ in range(links):
            x = link(x, seed)
        return x

    @pipeline
    def chains(chains: int = 40, links: int = 50) -> list[int]:
        return [several(1000 * each, links) for each in range(chains)]

    def several(x, links):
        for _ in range(links):
            x = link(x, 1)
        return x

    @pipeline
    def uncached_chain(links: int = 100) -> int:
        x = 0
        for _ in range(links):
            x = uncached(x)
        return x

    @task
    def plain(x: int) -> int:
        note("plain")
        return x + 1

    @pipeline
    def watched(links: int = 20) -> int:
        x = 0
        for _ in range(links):
            x = read(x)
        return x

    @pipeline
    def watched_once(links: int = 20) -> int:
        x = read(0)
        for _ in range(links):
            x = plain(x)
        return x
"""

DRIVER = """
import sys
from hooke import run
from hooke.project.pipeline_file import load_entry
pipeline, _ = load_entry(sys.argv[1] + ":chain")
run(pipeline, links=int(sys.argv[2]), on="local:2")
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    return workshop


def ran(shop) -> list[str]:
    try:
        return (shop.folder / "ran.txt").read_text().split()
    except FileNotFoundError:
        return []


def events_of(run, kind):
    return [event for event in run.journal if isinstance(event, kind)]


def followed(run) -> int:
    """How many attempts began in a worker at the moment when the one before them in their chain ended there."""
    ends = {(event.node, event.worker): event.at for event in events_of(run, AttemptFinished)}
    return sum(
        ends.get((event.node - 1, event.worker)) == event.at for event in events_of(run, AttemptStarted)
    )


def begin_after_their_inputs(run) -> bool:
    """Whether each node's attempts are journalled as begun after the node before it was journalled as finished."""
    done: set[int] = set()
    for event in run.journal:
        if isinstance(event, AttemptStarted) and event.node and event.node - 1 not in done:
            return False
        if isinstance(event, AttemptFinished):
            done.add(event.node)
    return True


@pytest.mark.needs("cpu")
def test_most_links_of_a_chain_follow_one_another(shop):
    run = shop.run(name="chain", on="local:2")
    assert run.result() == 300
    assert ran(shop) == [str(x) for x in range(300)]
    assert followed(run) > 60
    assert begin_after_their_inputs(run)
    assert len(events_of(run, AttemptStarted)) == 300


@pytest.mark.needs("cpu")
def test_a_chain_that_fails_in_the_midst_says_so_and_goes_on_from_there(shop):
    (shop.folder / "bad").touch()
    with pytest.raises(TaskFailed, match="bad luck"):
        shop.run(name="chain", on="local:2").result()
    assert Counter(ran(shop))["150"] == 3
    assert "151" not in ran(shop)
    (shop.folder / "bad").unlink()
    (shop.folder / "ran.txt").unlink()
    assert shop.run(name="chain", on="local:2").result() == 300
    assert ran(shop) == [str(x) for x in range(150, 300)]


@pytest.mark.needs("cpu")
def test_a_worker_that_dies_in_the_midst_costs_one_try_of_one_link(shop):
    (shop.folder / "deadly").touch()
    run = shop.run(name="chain", on="local:2")
    assert run.result() == 300
    (failed,) = events_of(run, AttemptFailed)
    assert failed.failure.kind == "WorkerDied"
    assert ran(shop) == [*map(str, range(121)), *map(str, range(120, 300))]
    assert {event.number for event in events_of(run, AttemptStarted) if event.node != failed.node} == {1}
    assert begin_after_their_inputs(run)


@pytest.mark.needs("cpu")
def test_forced_and_uncached_links_run_again(shop):
    for again in (1, 2):
        assert shop.run(name="uncached_chain", on="local:2").result() == 100
        assert len(ran(shop)) == 100 * again
    (shop.folder / "ran.txt").unlink()
    assert shop.run(name="chain", on="local:2").result() == 300
    assert shop.run(name="chain", on="local:2").result() == 300
    assert len(ran(shop)) == 300
    run = shop.run(name="chain", on="local:2", force=["link"])
    assert run.result() == 300
    assert len(ran(shop)) == 600
    assert followed(run) > 60


@pytest.mark.needs("cpu")
def test_a_file_that_a_link_reads_is_looked_at_as_before(shop):
    words = shop.folder / "words.txt"
    words.write_text("a b")
    assert shop.run(name="watched", on="local:2").result() == 40
    assert len(ran(shop)) == 20
    assert shop.run(name="watched", on="local:2").result() == 40
    assert len(ran(shop)) == 20
    words.write_text("a b c")
    run = shop.run(name="watched", on="local:2")
    assert run.result() == 60
    assert len(ran(shop)) == 40
    assert followed(run) == 0, "what is stored may count, once the input is there"
    assert begin_after_their_inputs(run)


@pytest.mark.needs("cpu")
def test_after_an_edit_that_changes_no_result_what_follows_is_found(shop):
    words = shop.folder / "words.txt"
    words.write_text("a b")
    assert shop.run(name="watched_once", on="local:2").result() == 22
    assert Counter(ran(shop)) == {"read": 1, "plain": 20}
    words.write_text("c d")
    assert shop.run(name="watched_once", on="local:2").result() == 22
    assert Counter(ran(shop)) == {"read": 2, "plain": 20}


@pytest.mark.needs("cpu")
def test_chains_beside_one_another_use_all_workers(shop):
    run = shop.run(name="chains", on="local:2")
    assert run.result() == [1000 * each + 50 for each in range(40)]
    assert len(ran(shop)) == 2000
    workers = Counter(event.worker for event in events_of(run, AttemptFinished))
    assert len(workers) == 2
    assert min(workers.values()) > 20


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_kill_9_in_the_midst_of_a_chain_then_resume(shop):
    (shop.folder / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, "driver.py", str(shop.file), "3000"], cwd=shop.folder)
    while len(ran(shop)) <= 200:
        assert driver.poll() is None
        time.sleep(0.005)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    project = shop.project
    name = last_resumable(project)
    before = {event.node for event in events_of(Run(project, name), AttemptFinished)}
    resumed = resume(project, name)
    assert resumed is not None
    assert resumed.drive() == "finished"
    run = Run(project, name)
    assert run.result() == 3000
    times = Counter(event.node for event in events_of(run, AttemptFinished))
    assert set(times.values()) == {1}, "nothing that finished ran again"
    assert len(before) > 50
    assert sorted(times) == [*range(3000)]
