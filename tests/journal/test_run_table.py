"""The plain table of a run."""

from hooke.base.formats import aligned
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Failure,
    NodePlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.run_view import RunView, run_table

BEGUN = [
    RunStarted(run="job-1", pipeline="job", entry="job.py:job", shown={"n": "3", "text": "'a b'"}, at=100.0),
    NodePlanned(node=0, task="load", key="1" * 32, at=100.0),
    NodePlanned(node=1, task="square", key="2" * 32, kind="map", items=None, parents=(0,), at=100.0),
]


def test_a_view_of_nothing():
    assert run_table(RunView(), "job-1") == "run job-1: new"


def test_a_finished_run():
    view = RunView.fold(
        [
            *BEGUN,
            AttemptStarted(attempt=1, node=0, lo=0, hi=1, worker="w", at=101.0),
            AttemptFinished(
                attempt=1,
                node=0,
                lo=0,
                hi=1,
                ref=Ref(digest="0" * 64, size=1, inline=b"x"),
                seconds=2.0,
                peak_bytes=1 << 20,
                at=103.0,
            ),
            RunFinished(status="stopped", at=104.0),
        ]
    )
    lines = run_table(view, "").splitlines()
    assert lines[0] == "run job-1: stopped in 4.00 s"
    assert lines[1] == "  job(n=3, text='a b') of job.py:job"
    load, square = lines[-2:]
    assert load.split() == ["load", "done", "1", "0", "0", "1", "2.00", "s", "2.00", "s", "1.00", "MiB"]
    assert square.split() == ["square", "waiting", "0", "0", "0", "?"]


def test_a_failed_run_ends_with_its_error():
    failure = Failure(kind="TaskError", message="ValueError: no", arguments="n=3")
    view = RunView.fold(
        [
            *BEGUN,
            AttemptStarted(attempt=1, node=0, lo=0, hi=1, worker="w", at=101.0),
            AttemptFailed(attempt=1, node=0, lo=0, hi=1, failure=failure, worker="w", at=102.0),
            RunFinished(status="failed", node=0, message="ValueError: no", at=102.0),
        ]
    )
    text = run_table(view, "")
    assert "load(n=3) failed: ValueError: no" in text
    assert "  where: try 1 of 1 on worker w\n" in text
    assert text.endswith("next: hooke debug job-1 load")


def test_columns_line_up():
    assert aligned(("a", "bb"), [("long", "1"), ("x", "22")], right=[1]) == [
        "a     bb",
        "long   1",
        "x     22",
    ]
