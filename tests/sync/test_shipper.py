"""Shipping what was logged: real journals, a tracker in memory, and a shipper that dies at any moment."""

import collections
import itertools
import os
import random
import resource
import subprocess
import sys
import time

import msgspec
import pytest
from tests.sync.logbook import Logbook

from hooke.base.errors import HookeError, JournalError
from hooke.base.files import FileLock
from hooke.base.formats import short_repr
from hooke.journal.events import (
    MadeOf,
    NodePlanned,
    RunFinished,
    RunMadeOf,
    RunStarted,
)
from hooke.journal.run_folders import RunsFolder
from hooke.journal.writer import Journal
from hooke.project.folder import Project
from hooke.sinks.sink import Receipt, SinkAway
from hooke.sync import outbox
from hooke.sync.shipper import Shipper, load_cursor, standing
from hooke.sync.sync_report import tracking_lines
from hooke.testing import MemorySink
from hooke.testing.sink_suite import SeenRun
from hooke.tracking.tracker import Tracker


@pytest.fixture
def book(tmp_path):
    book = Logbook(RunsFolder(tmp_path / "runs"))
    yield book
    if book.lock.held:
        book.end(None)


def values(sink: MemorySink, key: str) -> list[float]:
    return [value for _, value, _, _ in sink.runs[key].points]


def test_a_run_is_shipped_as_it_goes_and_told_how_it_ended(book):
    sink = MemorySink()
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        book.log(None, None, 1.0)
        assert not shipper.ship(book.run)
        assert sink.runs[book.run].params == {"n": "4"}
        for attempt in (1, 2, 3):
            book.begin(attempt, node=int(attempt == 3), number=2 if attempt == 2 else 1)
            book.log(attempt, None if attempt == 3 else 5, attempt / 10, worker=1)
        book.succeed(1)
        book.fail(2)
        assert not shipper.ship(book.run)
        assert {key: seen.name for key, seen in sink.runs.items()} == {
            book.run: book.run,
            f"{book.run}/1/5": "fit[5]",
            f"{book.run}/2/5": "fit[5] (attempt 2)",
            f"{book.run}/3": "best",
        }
        assert [seen.status for seen in sink.runs.values()] == ["running", "finished", "failed", "running"]
        writes = sink.writes
        assert not shipper.ship(book.run)
        assert sink.writes == writes, "what is there is not written again"
        book.end()
        assert shipper.ship(book.run)
    assert [seen.status for seen in sink.runs.values()] == ["finished", "finished", "failed", "stopped"]
    stand = standing(book.runs, book.run, "memory")
    assert (stand.points, stand.pending_bytes, stand.told) == (4, 0, True)


def test_an_attempt_that_logs_before_its_driver_has_heard_of_it_waits(book):
    sink = MemorySink()
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        book.log(None, None, 0.5)
        book.log(7, 0, 1.0)
        book.log(None, None, 2.0)
        shipper.ship(book.run)
        assert set(sink.runs) == {book.run}
        assert values(sink, book.run) == [0.5]
        book.begin(7)
        shipper.ship(book.run)
        assert values(sink, f"{book.run}/7/0") == [1.0]
        assert values(sink, book.run) == [0.5, 2.0]
        book.log(8, 0, 3.0)
        book.end(None)
        assert shipper.ship(book.run)
    assert values(sink, f"{book.run}/8/0") == [3.0], "of a driver that died all is shipped"
    assert sink.runs[book.run].status == "lost"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(25))
def test_a_shipper_that_dies_anywhere_loses_nothing_and_doubles_nothing(book, monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(outbox, "MOST_EVENTS", chance.choice([1, 3, 50]))
    sink, expected, begun = MemorySink(), {}, [None]
    for step in range(120):
        what = chance.random()
        if what < 0.1:
            begun.append(len(begun))
            book.begin(len(begun) - 1)
        elif what < 0.8:
            attempt = chance.choice(begun)
            item = None if attempt is None else chance.randrange(2)
            book.log(attempt, item, float(step), worker=chance.randrange(2))
            key = book.run if attempt is None else f"{book.run}/{attempt}/{item}"
            expected.setdefault(key, []).append(float(step))
        elif what < 0.85:
            sink.away = not sink.away
        else:
            sink.dies_after = chance.choice([None, 0, 1, 3])
            try:
                with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
                    shipper.ship(book.run)
            except SystemExit:
                pass
    book.end()
    sink.away, sink.dies_after = False, None
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        assert shipper.ship(book.run)
    expected.setdefault(book.run, [])
    assert {key: sorted(values(sink, key)) for key in sink.runs} == expected
    assert standing(book.runs, book.run, "memory").pending_bytes == 0


class Turned:
    """A clock that the shipper's sleep turns."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.mark.needs("cpu")
def test_an_outage_is_waited_out_in_growing_pauses_and_then_given_up(book):
    book.log(None, None, 1.0)
    book.end()
    sink, clock = MemorySink(), Turned()
    sink.away = True
    asked = []
    write = sink.write
    sink.write = lambda batch: asked.append(clock.time) or write(batch)
    with Shipper(runs=book.runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        assert not shipper.follow(idle_s=2.0, patience_s=600.0)
        pauses = [round(later - sooner) for sooner, later in itertools.pairwise(asked)]
        assert pauses[:6] == [1, 2, 4, 8, 16, 32]
        assert set(pauses[6:]) == {60}
        cursor = load_cursor(book.folder, "memory")
        assert cursor.away_since == 1000.0
        assert cursor.trouble == "the tracker is away"
        sink.away = False
        assert shipper.follow(idle_s=2.0, patience_s=600.0)
    assert values(sink, book.run) == [1.0]
    cursor = load_cursor(book.folder, "memory")
    assert (cursor.trouble, cursor.away_since) == ("", None)


def test_trouble_that_waiting_does_not_cure_is_said_and_stops_no_other_run(book):
    book.log(None, None, 1.0)
    book.end()
    other = Logbook(book.runs, "other-20261125-120001-abcd")
    other.log(None, None, 2.0)
    other.end()
    sink = MemorySink()
    write = sink.write

    def refuse(batch):
        if batch.run.key == book.run:
            raise HookeError("the experiment 'sweep' has been deleted", fix="restore it")
        return write(batch)

    sink.write = refuse
    clock = Turned()
    with Shipper(runs=book.runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
    assert values(sink, other.run) == [2.0]
    assert load_cursor(book.folder, "memory").trouble == "the experiment 'sweep' has been deleted; restore it"


def test_a_resumed_run_is_told_anew(book):
    sink = MemorySink()
    book.log(None, None, 1.0)
    book.end(None)
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        assert shipper.ship(book.run)
    assert sink.runs[book.run].status == "lost"
    driver = Journal.create(book.folder, "driver", durable="none")
    driver.append(RunStarted(run=book.run, pipeline="sweep", entry="job.py:sweep", resumed=True))
    driver.append(RunFinished(status="finished"))
    driver.close()
    assert not standing(book.runs, book.run, "memory").told
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        assert shipper.ship(book.run)
    assert sink.runs[book.run].status == "finished"


def test_a_damaged_cursor_is_named_with_the_mend(book):
    (book.folder / "sinks").mkdir()
    (book.folder / "sinks" / "memory.json").write_text("{")
    with pytest.raises(JournalError, match="the record of what was sent is damaged") as refused:
        standing(book.runs, book.run, "memory")
    assert "remove the file" in refused.value.fix


def ended(runs: RunsFolder, number: int) -> Logbook:
    """A run that logged one point from each of two processes, and ended."""
    made = Logbook(runs, f"run{number}-20261125-{number:06}-abcd")
    made.log(None, None, float(number), worker=0)
    made.log(None, None, number + 0.5, worker=1)
    made.end()
    return made


@pytest.mark.needs("cpu")
def test_no_run_costs_a_file_descriptor_once_it_is_shipped(tmp_path):
    runs, sink, clock = RunsFolder(tmp_path / "runs"), MemorySink(), Turned()
    books = [ended(runs, number) for number in range(40)]
    with Shipper(runs=runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        before = len(os.listdir("/proc/self/fd"))
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
        assert len(os.listdir("/proc/self/fd")) == before
    assert all(values(sink, book.run) for book in books)


def test_a_run_with_more_segments_than_files_may_be_open_is_shipped(book):
    many = 60
    for number in range(many):
        tracker = Tracker(book.folder, f"far-{number}", durable="none")
        tracker.log_metric("loss", number)
        tracker.close()
    book.end()
    sink = MemorySink()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + many // 2, hard))
    try:
        with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
            assert shipper.ship(book.run)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(values(sink, book.run)) == list(range(many))


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), KeyError("a sink's own mistake")], ids=["OSError", "any"]
)
def test_an_unforeseen_error_in_one_run_stops_no_other(book, error):
    book.log(None, None, 1.0)
    book.end()
    other = ended(book.runs, 1)
    sink, clock = MemorySink(), Turned()
    write, failed = sink.write, []

    def broken(batch):
        if batch.run.key == book.run and not failed:
            failed.append(batch)
            raise error
        return write(batch)

    sink.write = broken
    with Shipper(runs=book.runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
    assert values(sink, other.run) == [1.0, 1.5]
    if isinstance(error, OSError):
        assert values(sink, book.run) == [1.0], "it is tried again"
    else:
        assert load_cursor(book.folder, "memory").trouble == 'KeyError: "a sink\'s own mistake"'
        with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
            assert shipper.ship(book.run)
        assert values(sink, book.run) == [1.0]


def test_a_damaged_cursor_stops_no_other_run_and_is_kept(book):
    book.log(None, None, 1.0)
    book.end()
    other = ended(book.runs, 1)
    (book.folder / "sinks").mkdir()
    (book.folder / "sinks" / "memory.json").write_text("{")
    sink, clock = MemorySink(), Turned()
    with Shipper(runs=book.runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
    assert values(sink, other.run) == [1.0, 1.5]
    assert (book.folder / "sinks" / "memory.json").read_text() == "{"


def test_what_a_tracker_took_before_it_went_away_is_neither_sent_nor_counted_twice(book):
    for attempt in range(1, 5):
        book.begin(attempt)
        book.log(attempt, 0, float(attempt))
    book.end()
    sink, clock, taken, refused = MemorySink(), Turned(), [], set()
    write = sink.write

    def some(batch):
        if len(taken) in (2, 3) and len(taken) not in refused:
            refused.add(len(taken))
            raise SinkAway("the tracker is away")
        receipt = write(batch)
        taken.append(batch.run.key)
        return receipt

    sink.write = some
    with Shipper(runs=book.runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
    assert len(taken) == len(set(taken)) == 5
    assert load_cursor(book.folder, "memory").points == 4


class CountedRuns(RunsFolder):
    """Counts how often a run's folder is asked for."""

    def __init__(self, path):
        super().__init__(path)
        self.asked = collections.Counter()

    def folder(self, run):
        self.asked[run] += 1
        return super().folder(run)


def test_runs_of_which_nothing_is_left_are_not_looked_at_each_second(book):
    runs, sink, clock = CountedRuns(book.runs.path), MemorySink(), Turned()
    old = [ended(runs, number).run for number in range(3)]
    book.log(None, None, 1.0)  # it goes on for 100 s

    def sleep(seconds):
        clock.sleep(seconds)
        if clock.time == 1005.0:
            runs.asked.clear()
        if clock.time == 1050.0:
            late.append(ended(book.runs, 7))
        if clock.time == 1051.0:
            sooner.append(values(sink, late[0].run))
        if clock.time == 1070.0:
            driver = Journal.create(runs.folder(old[0]), "driver", durable="none")
            driver.append(RunStarted(run=old[0], pipeline="sweep", entry="job.py:sweep", resumed=True))
            driver.append(RunFinished(status="failed"))
            driver.close()
        if clock.time == 1100.0:
            book.end()

    late, sooner = [], []
    with Shipper(runs=runs, sinks={"memory": sink}, clock=clock, sleep=sleep) as shipper:
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
    assert [values(sink, run) for run in old] == [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    assert runs.asked[old[1]] <= 20, "twice each 10 s, not several times a second"
    assert sooner == [[7.0, 7.5]], "a new run is seen at the next poll"
    assert sink.runs[old[0]].status == "failed", "a resumed run is seen, too"


@pytest.mark.needs("cpu")
def test_a_large_run_does_not_hold_up_a_small_one(book):
    for step in range(30_000):
        book.log(None, None, float(step))
    book.driver.append(RunFinished(status="finished"))
    small, taken = [], []

    class Taking(MemorySink):
        """Remembers whose batches it took; a small run begins and ends when it has taken the first."""

        def write(self, batch):
            if not taken:
                small.append(ended(book.runs, 1))
                book.end(None)
            taken.append(batch.run.key)
            self.runs.setdefault(batch.run.key, SeenRun(name=batch.run.name, parent=None))
            return Receipt()

    clock = Turned()
    with Shipper(runs=book.runs, sinks={"taking": Taking()}, clock=clock, sleep=clock.sleep) as shipper:
        assert shipper.follow(idle_s=2.0, patience_s=60.0)
    assert taken.count(book.run) >= 6
    assert taken.index(small[0].run) <= 2, "its turn is in the next round"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("going_on", [False, True])
def test_sync_goes_on_while_the_tracker_takes_something(book, going_on):
    """An outage ends it, a slow tracker does not; nor is it endless where a run logs faster than the tracker takes."""
    for step in range(50_000):
        book.log(None, None, float(step))
    if not going_on:
        book.end()
    sink, clock, taken = MemorySink(), Turned(), []

    def slow(batch):
        clock.time += 20.0
        taken.append(len(batch.points.names))
        sink.runs.setdefault(batch.run.key, SeenRun(name=batch.run.name, parent=None))
        for step in range(5_000 if going_on else 0):
            book.log(None, None, float(step))
        return Receipt()

    sink.write = slow
    with Shipper(runs=book.runs, sinks={"memory": sink}, clock=clock, sleep=clock.sleep) as shipper:
        assert shipper.send([book.run], patience_s=30.0)
    assert 50_000 <= sum(taken) <= 55_000
    assert clock.time >= 1000 + 200


def test_parameters_include_defaults_and_are_the_texts_that_log_param_keeps(tmp_path):
    given = {"n": 4, "kind": "forest", "said": "it's", "both": "'\"", "line": "a\nb", "off": None}
    runs = RunsFolder(tmp_path / "runs")
    folder = runs.create("defaults")
    with Journal.create(folder, "driver", durable="none") as driver:
        shown = {name: short_repr(value) for name, value in given.items()}
        started = RunStarted(
            run="defaults", pipeline="sweep", entry="job.py:sweep", shown={"n": "4"}, parameters=shown
        )
        driver.append(started)
        driver.append(RunFinished(status="finished"))
    tracker = Tracker(folder, "one", durable="none")
    tracker.log_params({f"logged {name}": value for name, value in given.items()})
    tracker.close()
    sink = MemorySink()
    with Shipper(runs=runs, sinks={"memory": sink}) as shipper:
        assert shipper.ship("defaults")
    params = sink.runs["defaults"].params
    assert {name: params[name] for name in given} == {name: params[f"logged {name}"] for name in given}


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
def test_a_run_ships_itself_into_mlflow_and_sync_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOKE_SINKS", "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "train.py").write_text(
        "import hooke\nwith hooke.start_run('tried'):\n    for at in range(100):\n        hooke.log_metric('x', at)\n"
    )
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=180)
    project = Project.find(tmp_path)
    run = project.runs.find()
    deadline = time.monotonic() + 120
    while not standing(project.runs, run, "mlflow").told:
        assert time.monotonic() < deadline, (project.data / "shipper.log").read_text()
        time.sleep(0.1)
    assert tracking_lines(project, run) == ["100 points of 1 metric", "mlflow: all 100 points there"]
    done = subprocess.run(
        [sys.executable, "-m", "hooke", "sync", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = msgspec.json.decode(done.stdout)
    assert row == {
        "run": run,
        "sink": "mlflow",
        "points": 100,
        "merged": 0,
        "pending_bytes": 0,
        "told": True,
        "trouble": None,
        "notes": [],
    }
    while FileLock(project.data / "shipper.lock").taken():
        assert time.monotonic() < deadline, "the shipper ends by itself"
        time.sleep(0.1)


@pytest.mark.needs("processes")
def test_sync_where_there_is_nothing_to_ship_into(tmp_path, monkeypatch):
    done = subprocess.run(
        [sys.executable, "-m", "hooke", "sync"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "this project has no tracker" in done.stderr
    monkeypatch.setenv("HOOKE_SINKS", "mlfow")
    done = subprocess.run(
        [sys.executable, "-m", "hooke", "sync"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no sink named 'mlfow'" in done.stderr


def test_what_the_run_is_made_of_is_told_once_however_late_it_is_known(book):
    sink = MemorySink()
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        book.log(None, None, 1.0)
        shipper.ship(book.run)
        assert "hooke.git.commit" not in sink.runs[book.run].tags
        (book.folder / "uncommitted.diff").write_text("x" * 20_000)
        book.driver.append(
            RunMadeOf(
                record=MadeOf(
                    commit="abc",
                    branch="trunk",
                    dirty=True,
                    diff="uncommitted.diff",
                    diff_bytes=20_000,
                    files={"/data/table.csv": "0" * 32},
                )
            )
        )
        shipper.ship(book.run)
        writes = sink.writes
        shipper.ship(book.run)
        assert sink.writes == writes, "once"
        book.end()
        assert shipper.ship(book.run)
    with Shipper(runs=book.runs, sinks={"memory": sink}) as another:
        assert another.ship(book.run)
    assert sink.writes == writes + 1, "the data sets, once"
    tags = sink.runs[book.run].tags
    assert (tags["hooke.git.commit"], tags["hooke.git.branch"], tags["hooke.git.dirty"]) == (
        "abc",
        "trunk",
        "True",
    )
    (dataset,) = sink.runs[book.run].datasets.values()
    assert (dataset.name, dataset.place, dataset.digest) == ("table.csv", "/data/table.csv", "0" * 32)
    diff = tags["hooke.git.diff"]
    assert len(diff) == 8000
    assert diff.endswith("[cut: all 20000 bytes are in uncommitted.diff in the run's folder]")


def train(book: Logbook, attempt: int, steps: range, *, number: int = 1, **others: list[int]) -> None:
    """An attempt at item 5 that logs its loss at these steps, and other metrics at theirs; the value is 100 * attempt + step."""
    book.begin(attempt, number=number)
    tracker = book.trackers[attempt % 2]
    tracker.attempt, tracker.item = attempt, 5
    for name, wanted in {"loss": steps, **others}.items():
        for step in wanted:
            tracker.log_metric(name, 100 * attempt + step, step)


def points(sink: MemorySink, key: str, name: str = "loss") -> list[tuple[int, float]]:
    return [(step, value) for metric, value, step, _ in sink.runs[key].points if metric == name]


@pytest.mark.parametrize("died", [False, True], ids=["one-shipper", "another-shipper"])
def test_an_attempt_that_goes_on_from_a_checkpoint_has_the_whole_curve(book, died):
    sink = MemorySink()

    def ship() -> None:
        with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
            shipper.ship(book.run)

    train(book, 1, range(6), val=[0, 4])
    book.fail(1)
    if died:
        ship()
    train(book, 2, range(4, 7), number=2)
    if died:
        ship()
    book.trackers[0].log_metric("loss", 207, 7)
    book.succeed(2)
    book.end()
    ship()
    whole = [(step, 100.0 + step) for step in range(4)] + [(step, 200.0 + step) for step in range(4, 8)]
    assert points(sink, f"{book.run}/2/5") == whole
    assert points(sink, f"{book.run}/2/5", "val") == [(0, 100.0)]
    assert points(sink, f"{book.run}/1/5") == [(step, 100.0 + step) for step in range(6)]


def test_an_attempt_that_begins_anew_has_nothing_of_the_earlier_one(book):
    sink = MemorySink()
    train(book, 1, range(6), val=[0, 4])
    book.fail(1)
    train(book, 2, range(3), number=2)
    book.succeed(2)
    book.end()
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        assert shipper.ship(book.run)
    assert points(sink, f"{book.run}/2/5") == [(step, 200.0 + step) for step in range(3)]
    assert f"{book.run}/2/5" in sink.runs
    assert not points(sink, f"{book.run}/2/5", "val")


def test_after_a_resume_the_curve_goes_on_although_no_attempt_had_failed(book):
    sink = MemorySink()
    train(book, 1, range(3))
    book.driver.append(RunStarted(run=book.run, pipeline="sweep", entry="job.py:sweep", resumed=True))
    book.driver.append(NodePlanned(node=0, task="fit", key="k", kind="map", items=8))
    train(book, 7, range(3, 5))
    book.succeed(7)
    book.end()
    with Shipper(runs=book.runs, sinks={"memory": sink}) as shipper:
        assert shipper.ship(book.run)
    assert [step for step, _ in points(sink, f"{book.run}/7/5")] == [0, 1, 2, 3, 4]


@pytest.mark.needs("processes")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_whole_curve_in_the_run_of_the_last_attempt(book, tmp_path):
    from mlflow import MlflowClient

    from hooke.sinks.mlflow import MlflowSink

    train(book, 1, range(6))
    book.fail(1)
    with Shipper(runs=book.runs, sinks={"mlflow": MlflowSink(tmp_path)}) as shipper:
        shipper.ship(book.run)
    train(book, 2, range(4, 9), number=2)
    book.succeed(2)
    book.end()
    with Shipper(runs=book.runs, sinks={"mlflow": MlflowSink(tmp_path)}) as shipper:
        assert shipper.ship(book.run)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = [
        run
        for run in client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
        if run.data.tags["hooke.run_id"] == f"{book.run}/2/5"
    ]
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((each.step, each.value) for each in history) == [
        *((step, 100.0 + step) for step in range(4)),
        *((step, 200.0 + step) for step in range(4, 9)),
    ]
    assert found.data.metrics["loss"] == 208.0


@pytest.mark.needs("processes")
def test_a_shipper_without_anything_to_send_ends_by_itself(tmp_path):
    Project.at(tmp_path).create()
    command = [sys.executable, "-m", "hooke.sync.background", str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=100).returncode == 0
