"""The calls that log: what they keep, and that nothing of them reaches the program that calls them."""

import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import polars as pl
import pytest
from tests.fixtures.small_disk import fill
from tests.tracking.conftest import logged

import hooke
from hooke.journal.events import ArtifactLogged, NotesLogged, PointsLogged
from hooke.tracking import tracker as current
from hooke.tracking.logged_values import dropped_calls_in
from hooke.tracking.tracker import MUTED, Tracker, logging_into


def points(folder: Path):
    return [point for event in logged(folder) if isinstance(event, PointsLogged) for point in event.points]


def why(tracker: Tracker) -> str:
    assert tracker.dropped.total is not None
    return tracker.dropped.total.why


def test_steps_count_up_by_name_unless_they_are_given(tracker):
    hooke.log_metric("loss", 3)
    hooke.log_metric("loss", 2.5)
    hooke.log_metric("accuracy", 0.5)
    hooke.log_metric("loss", 2, step=10)
    hooke.log_metric("loss", 1)
    hooke.log_metrics({"loss": 0.5, "accuracy": 0.75})
    assert points(tracker.folder) == [
        ("loss", 3.0, 0),
        ("loss", 2.5, 1),
        ("accuracy", 0.5, 0),
        ("loss", 2.0, 10),
        ("loss", 1.0, 2),
        ("loss", 0.5, 3),
        ("accuracy", 0.75, 1),
    ]
    assert tracker.dropped.total is None


def test_steps_and_points_belong_to_the_attempt_and_the_item(tracker):
    for tracker.attempt, tracker.item in [(None, None), (4, None), (5, 0), (5, 1)]:
        hooke.log_metric("loss", 1)
    events = [event for event in logged(tracker.folder) if isinstance(event, PointsLogged)]
    assert [(event.attempt, event.item) for event in events] == [(None, None), (4, None), (5, 0), (5, 1)]
    assert {event.points for event in events} == {(("loss", 1.0, 0),)}


def test_numbers_of_others_and_those_that_are_none(tracker):
    for value in (np.float32(0.5), np.int64(2), np.array(3.0), True, float("nan"), float("-inf"), "4"):
        hooke.log_metric("x", value)
    values = [value for _, value, _ in points(tracker.folder)]
    assert values[:4] == [0.5, 2.0, 3.0, 1.0]
    assert math.isnan(values[4])
    assert values[5:] == [float("-inf"), 4.0]


@pytest.mark.parametrize(
    ("call", "calls", "said"),
    [
        (lambda: hooke.log_metric("loss", "low"), 1, "metric 'loss': ValueError: could not convert string"),
        (lambda: hooke.log_metric("loss", None), 1, "metric 'loss': TypeError"),
        (lambda: hooke.log_metric("", 1), 1, "a name must be non-empty text, not ''"),
        (lambda: hooke.log_metric("loss", 1, step=1.5), 1, "'float' object cannot be interpreted"),
        (lambda: hooke.log_metric("loss", 1, step=2**70), 1, "metric 'loss'"),
        (lambda: hooke.log_params(7), 1, "parameters: AttributeError"),
        (lambda: hooke.log_metrics({"a": 1, "b": []}), 1, "metric 'b': TypeError"),
        (lambda: hooke.log_metrics(["a"]), 1, "metrics: AttributeError"),
        (lambda: hooke.log_artifact("nowhere.txt"), 1, "artifact 'nowhere.txt': FileNotFoundError"),
        (
            lambda: hooke.log_text("x", "../up.txt"),
            1,
            "'../up.txt' is not a relative path inside the run's artifacts",
        ),
        (lambda: hooke.log_text("x", "/etc/x"), 1, "'/etc/x' is not a relative path inside"),
        (lambda: hooke.log_figure(3, "x.png"), 1, "int is not a figure"),
        (lambda: hooke.log_figure(go.Figure(), "x.png"), 1, "ends in .html or .json, not in .png"),
        (
            lambda: hooke.log_table({"a": [1]}, "x.xls"),
            1,
            "a table's file name ends in .json, .csv or .parquet, not in .xls",
        ),
        (lambda: hooke.log_table(7, "x.json"), 1, "int is not a table"),
    ],
)
def test_what_cannot_be_logged_is_counted_and_said_once(tracker, caplog, call, calls, said):
    call()
    assert tracker.dropped.total is not None
    assert tracker.dropped.total.calls == calls
    assert said in why(tracker)
    assert [record.message for record in caplog.records] == [
        f"not logged: {why(tracker)}. The program continues, and Hooke counts further failures"
    ]
    hooke.log_metric("", 1)
    hooke.log_metric("loss", 1)
    assert len(caplog.records) == 1
    assert dropped_calls_in(tracker.folder)[tracker.segment].calls == calls + 1
    assert points(tracker.folder)[-1] == ("loss", 1.0, 0)


class Hostile:
    """An object all of whose methods raise."""

    def __init__(self, error):
        self._error = error

    def _raise(self, *_):
        raise self._error

    __str__ = __repr__ = __float__ = __len__ = __iter__ = __hash__ = __eq__ = __bool__ = __fspath__ = _raise
    __index__ = __getitem__ = __format__ = items = keys = savefig = to_html = to_pydict = _raise


class Unspeakable(Exception):
    """An exception whose text raises, too."""

    def __str__(self):
        raise ValueError("no text")


ODD = [None, 1.5, {"a": 1}, ["x"], b"x", "", "\ud800", object(), print, Path("x"), 10**400]
ODD += [Hostile(ValueError("mine")), Hostile(Unspeakable()), Hostile(RecursionError())]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_no_argument_whatever_it_is_reaches_the_program(tracker, odd):
    """Each call may keep what it is given or refuse it; it raises nothing, and what comes after it is kept."""
    for call in (
        hooke.log_metric,
        hooke.log_param,
        hooke.set_tag,
        hooke.log_text,
        hooke.log_figure,
        hooke.log_table,
        hooke.log_artifact,
        hooke.log_image,
        hooke.log_histogram,
    ):
        call(odd, odd)
        call("fine", odd)
        call(odd, "fine.json")
    hooke.log_metric("loss", 1, step=odd)
    hooke.log_image("x", np.zeros((1, 1)), step=odd)
    hooke.log_histogram("x", [1], step=odd, bins=odd)
    for several in (hooke.log_metrics, hooke.log_params, hooke.set_tags):
        several(odd)
    hooke.log_artifact(odd)
    hooke.log_metric("loss", 0.5, step=7)
    assert ("loss", 0.5, 7) in points(tracker.folder)


def test_a_bad_value_takes_no_other_with_it(tracker):
    hooke.log_metrics({"a": 1, "b": "low", "c": 3, "": 4, "d": Hostile(ValueError("mine"))})
    hooke.log_params({"a": 1, "b": Hostile(ValueError("mine")), 5: 5, "d": 4})
    hooke.set_tags({"x": Hostile(Unspeakable()), "y": 2})
    events = logged(tracker.folder)
    assert points(tracker.folder) == [("a", 1.0, 0), ("c", 3.0, 0)]
    notes = [event for event in events if isinstance(event, NotesLogged)]
    assert [event.params for event in notes if event.params] == [{"a": "1", "d": "4"}]
    assert [event.tags for event in notes if event.tags] == [{"y": "2"}]
    assert tracker.dropped.total.calls == 3 + 2 + 1
    assert why(tracker).startswith("metric 'b': ValueError")


def test_notes_are_text(tracker):
    hooke.log_param("depth", 6)
    hooke.log_params({"rate": 0.1, "names": ["a"]})
    hooke.set_tag("kind", None)
    hooke.set_tags({"a": 1})
    notes = [event for event in logged(tracker.folder) if isinstance(event, NotesLogged)]
    assert [event.params for event in notes if event.params] == [
        {"depth": "6"},
        {"rate": "0.1", "names": "['a']"},
    ]
    assert [event.tags for event in notes if event.tags] == [{"kind": "None"}, {"a": "1"}]


def test_files_folders_texts_are_kept_as_they_were(tracker, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"123")
    (tmp_path / "model" / "deep").mkdir()
    (tmp_path / "model" / "deep" / "more").write_bytes(b"4")
    hooke.log_artifact(tmp_path / "model")
    hooke.log_artifact(tmp_path / "model" / "weights", "best/weights.bin")
    (tmp_path / "model" / "weights").write_bytes(b"changed")
    hooke.log_text("hello\n", "notes/readme.txt")
    kept = {event.path: event for event in logged(tracker.folder) if isinstance(event, ArtifactLogged)}
    assert {path: (tracker.folder / event.file).read_bytes() for path, event in kept.items()} == {
        "model/weights": b"123",
        "model/deep/more": b"4",
        "best/weights.bin": b"123",
        "notes/readme.txt": b"hello\n",
    }
    assert kept["model/weights"].size == 3


@pytest.mark.parametrize(
    "table",
    [
        {"name": ["a", "b"], "score": [1.0, 2.5]},
        [{"name": "a", "score": 1}, {"name": "b", "score": 2.5}],
        pl.DataFrame({"name": ["a", "b"], "score": [1.0, 2.5]}),
        pd.DataFrame({"name": ["a", "b"], "score": [1.0, 2.5]}),
        pl.DataFrame({"name": ["a", "b"], "score": [1.0, 2.5]}).to_arrow(),
        {"name": np.array(["a", "b"]), "score": np.array([1.0, 2.5])},
    ],
    ids=["columns", "rows", "polars", "pandas", "arrow", "numpy"],
)
def test_tables(tracker, table):
    hooke.log_table(table, "scores.json")
    hooke.log_table(table, "scores.csv")
    folder = tracker.folder / "artifacts" / "run"
    assert json.loads((folder / "scores.json").read_text()) == {
        "columns": ["name", "score"],
        "data": [["a", 1], ["b", 2.5]],
    }
    assert pl.read_csv(folder / "scores.csv").rows() == [("a", 1.0), ("b", 2.5)]


def test_parquet_and_figures(tracker):
    frame = pl.DataFrame({"a": [1, 2]})
    hooke.log_table(frame, "t.parquet")
    hooke.log_table(frame.to_pandas(), "p.parquet")
    hooke.log_figure(go.Figure(go.Scatter(y=[1, 2])), "f.html")
    folder = tracker.folder / "artifacts" / "run"
    assert pl.read_parquet(folder / "t.parquet").equals(frame)
    assert pl.read_parquet(folder / "p.parquet").equals(frame)
    assert "<html>" in (folder / "f.html").read_text("utf-8")
    hooke.log_table({"a": [1]}, "t2.parquet")
    assert "dict has neither write_parquet() nor to_parquet()" in why(tracker)


def test_threads_lose_nothing(tracker):
    def work(name: str) -> None:
        for at in range(500):
            hooke.log_metric(name, at)
            hooke.log_metric("shared", at)

    threads = [threading.Thread(target=work, args=(f"own-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = points(tracker.folder)
    assert len(found) == 4000
    assert sorted(step for name, _, step in found if name == "shared") == list(range(2000))
    assert [value for name, value, _ in found if name == "own-2"] == list(range(500))


def test_a_forked_child_has_a_segment_of_its_own(tracker):
    hooke.log_metric("loss", 1)
    if (child := os.fork()) == 0:
        try:
            hooke.log_metric("loss", 2)
            hooke.log_metric("loss", "x")
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    hooke.log_metric("loss", 3)
    assert sorted(points(tracker.folder)) == [("loss", 1.0, 0), ("loss", 2.0, 1), ("loss", 3.0, 1)]
    assert len(list(tracker.folder.glob("track-test-*.journal"))) == 2
    assert tracker.dropped.total is None
    assert dropped_calls_in(tracker.folder)[f"track-test-{child}"].calls == 1


def test_after_the_end(tracker, caplog):
    hooke.log_metric("loss", 1)
    tracker.close()
    hooke.log_metric("loss", 2)
    assert why(tracker) == "metric 'loss': the run has ended"
    assert points(tracker.folder) == [("loss", 1.0, 0)]


def test_nothing_is_made_before_the_first_call(tmp_path):
    tracker = Tracker(tmp_path / "run", "test")
    tracker.close()
    assert not (tmp_path / "run").exists()


def test_where_nothing_was_refused_nothing_is_left_of_the_count(tracker):
    hooke.log_metric("loss", 1)
    tracker.close()
    assert [path.suffix for path in tracker.folder.iterdir()] == [".journal"]
    assert dropped_calls_in(tracker.folder) == {}


@pytest.mark.needs("cpu")
def test_a_full_disk_is_counted_and_reported_and_what_returned_before_is_there(small_disk, caplog):
    tracker = Tracker(small_disk / "run", "test", durable="none")
    with logging_into(tracker):
        hooke.log_metric("loss", 0)
        ballast = fill(small_disk)
        for at in range(1, 2000):
            hooke.log_metric("loss", at)
        total = tracker.dropped.total
        assert total is not None
        assert "No space left on device" in total.why
        assert dropped_calls_in(tracker.folder)[tracker.segment] == total
        kept = 2000 - total.calls
        ballast.unlink()
        hooke.log_metric("loss", 5000)
    tracker.close()
    values = [value for _, value, _ in points(tracker.folder)]
    assert values == [*range(kept), 5000]
    assert len(caplog.records) == 1


def test_a_disk_that_is_full_from_the_beginning(small_disk):
    tracker = Tracker(small_disk / "run", "test", durable="none")
    ballast = fill(small_disk)
    with logging_into(tracker):
        hooke.log_metric("loss", 0)
        hooke.log_text("x" * 5000, "x.txt")
        assert tracker.dropped.total is not None
        assert tracker.dropped.total.calls == 2
        ballast.unlink()
        hooke.log_metric("loss", 1)
        hooke.log_metric("loss", "x")
    tracker.close()
    assert points(tracker.folder) == [("loss", 1.0, 1)]
    assert dropped_calls_in(tracker.folder)[tracker.segment].calls == 3
    assert not list(tracker.folder.rglob("*.part"))


def test_outside_a_run_it_is_said_once_and_nothing_happens(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(current, "_said", False)
    hooke.log_metric("loss", 1)
    hooke.log_text("x", "x")
    assert [record.message.partition(",")[0] for record in caplog.records] == [
        "log_metric() was called outside a run"
    ]
    assert "hooke.start_run()" in caplog.records[0].message
    assert list(tmp_path.iterdir()) == []


def test_where_it_is_muted_nothing_is_kept_nor_said(tracker, caplog):
    with logging_into(MUTED):
        hooke.log_metric("loss", 1)
    assert not tracker.folder.exists()
    assert caplog.records == []


def test_what_a_traced_body_logs_is_held_until_the_run_begins(tmp_path):
    tracker = Tracker(tmp_path / "run", "driver", held=True)
    with logging_into(tracker):
        hooke.log_param("months", 2)
        hooke.log_metric("x", 1)
        hooke.log_text("x", "x.txt")
    assert not (tmp_path / "run").exists()
    assert "the run has no folder yet while the pipeline's body is traced" in why(tracker)
    tracker.begin()
    tracker.close()
    kinds = [type(event) for event in logged(tmp_path / "run")]
    assert kinds == [NotesLogged, PointsLogged]
