"""Plain progress: what is said of a history, and that it is never much."""

import io

import pytest
from rich.console import Console

from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
    CapacityChanged,
    Failure,
    NodePlanned,
    RetryPlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.run_view import RunView
from hooke.progress.lines import EVERY_S, MOST_TROUBLES, Lines
from hooke.progress.table import picture

REF = Ref(digest="0" * 64, size=1, inline=b"x")


def told(*events) -> list[str]:
    out = io.StringIO()
    lines = Lines(out)
    for event in events:
        lines.observe(event)
    return out.getvalue().splitlines()


def begun(items: int) -> list:
    return [
        RunStarted(run="job-1", pipeline="job", entry="x", at=0.0),
        NodePlanned(node=0, task="square", key="1" * 32, kind="map", items=items, at=0.0),
        CapacityChanged(slots=1, cpus=1, at=0.0),
    ]


def attempts(count: int, seconds: float) -> list:
    made = []
    for at in range(count):
        now = 1 + at * seconds
        made.append(AttemptStarted(attempt=at, node=0, lo=at, hi=at + 1, worker="w", at=now))
        made.append(
            AttemptFinished(
                attempt=at, node=0, lo=at, hi=at + 1, ref=REF, worker="w", seconds=seconds, at=now + seconds
            )
        )
    return made


def test_a_history_in_lines():
    lines = told(*begun(3), *attempts(3, 0.5), RunFinished(status="finished", at=3.0))
    assert lines[0] == "run job-1 started on local"
    assert lines[1] == "square: running, 3 items"
    assert lines[-2] == "square: done 3 items, 1.50 s of work"
    assert lines[-1] == "finished in 3.00 s: 3 done, 0 cached, 0 failed"


@pytest.mark.needs("processes")
def test_lines_grow_with_time_and_not_with_items():
    lines = told(*begun(10_000), *attempts(10_000, 0.01), RunFinished(status="finished", at=102.0))
    assert len(lines) <= 4 + 101 / EVERY_S
    assert any("about" in line and "left" in line for line in lines)


def test_failures_are_said_up_to_a_limit():
    failures = []
    for at in range(500):
        failures.append(AttemptStarted(attempt=at, node=0, lo=at, hi=at + 1, worker="w", at=1.0))
        failures.append(
            AttemptFailed(
                attempt=at,
                node=0,
                lo=at,
                hi=at + 1,
                failure=Failure(kind="TaskError", message=f"ValueError: {at}\nmore"),
                worker="w",
                at=1.0,
            )
        )
    lines = told(*begun(500), *failures)
    said = [line for line in lines if "failed: ValueError" in line]
    assert len(said) == MOST_TROUBLES
    assert "hooke show" in said[-1]
    assert "more" not in said[0]


def test_a_long_wait_for_a_retry_is_said_however_many_were_before():
    def retries(count: int, wait_s: float, at: float) -> list:
        return [
            RetryPlanned(
                node=0,
                lo=0,
                hi=1,
                number=each + 2,
                due=at + (each + 1) * wait_s,
                reason="died",
                at=at + each * wait_s,
            )
            for each in range(count)
        ]

    lines = told(*begun(1), *retries(100, 0.1, 1.0), *retries(3, 60.0, 20.0))
    waits = [line for line in lines if "runs again in 1m 00s: died" in line]
    assert len(waits) == 3
    assert len([line for line in lines if "runs again in 100 ms" in line]) == MOST_TROUBLES


def test_what_keeps_a_backend_from_having_workers_is_said_and_shown_until_it_has_more():
    trouble = BackendTrouble(at=1.0, about="pod a", message="no node has room for it; add nodes")
    assert "pod a: no node has room for it; add nodes" in told(*begun(1), trouble)
    view = RunView.fold([*begun(1), trouble])
    shown = view.row(2.0)
    assert shown.message == "pod a: no node has room for it; add nodes"
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(picture(shown, [], memory=None, stopping=None, console=console))
    assert "add nodes" in console.file.getvalue()
    view.apply(CapacityChanged(slots=2, cpus=2, at=3.0))
    assert view.row(4.0).message == ""


def test_a_line_of_a_task_that_goes_on_has_its_rate():
    lines = told(*begun(100), *attempts(50, 0.5))
    assert "square: 10 of 100, 2.02/s, about 45.0 s left" in lines
