"""From events to what is shown: when it opens, what it says, and that nothing it meets reaches the run."""

import errno
import io
import logging
import sys
import threading
import time

import msgspec
import pytest

from hooke.base.errors import ConfigError, UsageError
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    ItemsFound,
    NodePlanned,
    RunFinished,
    RunStarted,
)
from hooke.journal.run_view import RunView
from hooke.progress import progress as module
from hooke.progress.choice import Scene, open_progress, wanted_progress
from hooke.progress.display import Terminal, snapshot_of
from hooke.progress.lines import NOTHING_NEW_S, SUMMARY_EVERY_S, SummaryLines
from hooke.progress.notebook import run_html
from hooke.progress.progress import Drawn, ProgressClock, Silent
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.run import Run, run

REF = Ref(digest="0" * 64, size=1, inline=b"x")


def begun(items: int = 10, task: str = "square") -> list:
    return [
        RunStarted(run="job-1", pipeline="job", entry="x", at=1.0),
        NodePlanned(node=0, task=task, key="1" * 32, kind="map", items=items, at=1.0),
        CapacityChanged(slots=1, cpus=1, at=1.0),
    ]


def item(at: int, *, began: float, ended: float) -> list:
    span = {"attempt": at, "node": 0, "lo": at, "hi": at + 1, "worker": "w"}
    return [
        AttemptStarted(**span, at=began),
        AttemptFinished(**span, ref=REF, seconds=ended - began, at=ended),
    ]


def snapshot(*events, now: float):
    return snapshot_of(RunView.fold(events), now)


class Recorder:
    """A display that keeps what it was given; `fails` is raised instead."""

    every_s = 0.0

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.drawn = []
        self.closed = []
        self.threads = set()

    def draw(self, snapshot) -> None:
        self.threads.add(threading.current_thread().name)
        self.drawn.append(snapshot)
        if self.fails is not None:
            raise self.fails

    def close(self, snapshot) -> None:
        self.closed.append(snapshot)
        if self.fails is not None:
            raise self.fails


def until(condition, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# -- when -----------------------------------------------------------------------------------------


def test_a_run_that_ends_before_the_delay_shows_nothing():
    display = Recorder()
    with Drawn(lambda: display, delay_s=3600.0) as shown:
        for event in [*begun(), RunFinished(status="finished", at=2.0)]:
            shown.observe(event)
    assert not display.drawn
    assert not display.closed


def test_what_is_shown_is_drawn_in_another_thread_and_closed_in_the_runs_own():
    display = Recorder()
    with Drawn(lambda: display, delay_s=0.01) as shown:
        for event in begun():
            shown.observe(event)
        until(lambda: any(each.run.items == 10 for each in display.drawn))
        shown.observe(RunFinished(status="finished", at=2.0))
    assert display.threads == {"hooke-progress"}
    (last,) = display.closed
    assert last.run.status == "finished"


def drawing() -> int:
    """How many threads draw."""
    return sum(each.name == "hooke-progress" for each in threading.enumerate())


@pytest.mark.needs("processes")
def test_one_thread_draws_all_runs_and_ends_when_there_are_none():
    with Drawn(Recorder, delay_s=3600.0), Drawn(Recorder, delay_s=3600.0):
        assert drawing() == 1
    until(lambda: drawing() == 0)
    with Drawn(Recorder, delay_s=3600.0):
        assert drawing() == 1, "it begins again"


def test_events_that_nobody_draws_yet_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(module, "MOST_UNREAD", 100)
    display = Recorder()
    with Drawn(lambda: display, delay_s=3600.0) as shown:
        for event in begun(items=1000):
            shown.observe(event)
        for at in range(1000):
            for event in item(at, began=2.0 + at, ended=3.0 + at):
                shown.observe(event)
            assert len(shown._unread) < 100


def test_calls_share_a_plan_and_are_forgotten_once_they_are_over():
    """A display of a million calls would take as much memory as all else that their driver knows of them."""
    with Drawn(Recorder, delay_s=3600.0) as shown:
        for node in range(3):
            shown.observe(NodePlanned(node=node, task="t", key=str(node), shown={"x": str(node)}))
        shown.observe(ItemsFound(node=1, lo=0, hi=1, ref=Ref("r", 0)))
        (task,) = shown._snapshot().tasks
        assert (task.nodes, task.cached, task.waiting) == (3, 1, 2)
        first, last = shown._view.nodes.values()
    assert first.planned is last.planned
    assert (first.number, last.number) == (0, 2)


@pytest.mark.needs("processes")
def test_a_watch_in_a_forked_child_is_as_new():
    watch, of_the_child = ProgressClock(), Drawn(Recorder, delay_s=3600.0)
    watch.add(Drawn(Recorder, delay_s=3600.0))
    watch._lock.acquire()  # as another thread of the parent may have done
    watch.after_fork()
    watch.add(of_the_child)
    assert watch._watched == [of_the_child]
    watch.remove(of_the_child)
    until(lambda: drawing() == 0)


# -- it never reaches the run ---------------------------------------------------------------------


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(),
        OSError(errno.EIO, "gone"),
        ValueError("I/O operation on closed file."),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_a_display_that_breaks_ends_and_the_run_goes_on(error, caplog):
    display = Recorder(error)
    with caplog.at_level(logging.WARNING), Drawn(lambda: display, delay_s=0.01) as shown:
        for event in begun():
            shown.observe(event)
        until(lambda: display.closed)
        shown.observe(RunFinished(status="finished", at=2.0))
        until(lambda: not shown._unread)
    assert len(display.drawn) == 1
    assert len(display.closed) == 1, "it had its chance to leave the terminal as it was"
    expected = not isinstance(error, (OSError, ValueError))
    assert bool(caplog.records) == expected, "an error of ours is told, an audience that left is not"


def test_a_display_that_cannot_open(caplog):
    def fails():
        raise RuntimeError("no such display")

    with caplog.at_level(logging.WARNING), Drawn(fails, delay_s=0.0) as shown:
        shown.observe(begun()[0])
    assert "the run continues" in caplog.text


ARITHMETIC = """
    from hooke import task, pipeline

    @task(cache=False)
    def double(x: int) -> int:
        return 2 * x

    @pipeline
    def job(n: int = 3):
        return double.map(range(n))
"""


@pytest.fixture
def job(workshop):
    from hooke.project.pipeline_file import load_entry

    workshop.write(ARITHMETIC)
    return load_entry(str(workshop.file))[0]


@pytest.mark.parametrize("progress", ["auto", "table", "lines"])
def test_a_closed_stderr(job, monkeypatch, progress):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert run(job, on="serial", progress=progress).result() == [0, 2, 4]


@pytest.mark.parametrize("progress", ["auto", "table", "lines"])
def test_no_stderr_at_all(job, monkeypatch, progress):
    monkeypatch.setattr(sys, "stderr", None)
    assert run(job, on="serial", progress=progress).result() == [0, 2, 4]


# -- what was asked for ---------------------------------------------------------------------------


@pytest.mark.needs("cpu")
def test_who_calls_goes_before_the_environment_and_that_before_the_file(job, workshop, capsys, monkeypatch):
    monkeypatch.delenv("HOOKE_PROGRESS", raising=False)

    def said(**how: str) -> bool:
        run(job, on="serial", **how)
        return "started on serial" in capsys.readouterr().err

    assert not said()
    assert said(progress="lines")
    assert said(progress="table"), "where no table can be, lines"
    (workshop.folder / "hooke.toml").write_text('[show]\nprogress = "lines"\n')
    assert said()
    monkeypatch.setenv("HOOKE_PROGRESS", "none")
    assert not said()
    assert said(progress="lines")
    monkeypatch.setenv("HOOKE_PROGRESS", "")
    assert said()


def test_what_is_not_known_is_refused_with_what_is(job, workshop, monkeypatch):
    with pytest.raises(UsageError, match=r"progress='fancy' is not valid\n.*auto, table, lines, log, none"):
        run(job, on="serial", progress="fancy")
    with pytest.raises(UsageError, match="progress=False"):
        run(job, on="serial", progress=False)
    monkeypatch.setenv("HOOKE_PROGRESS", "loud")
    with pytest.raises(ConfigError, match="HOOKE_PROGRESS is 'loud'"):
        run(job, on="serial")
    (workshop.folder / "hooke.toml").write_text('[show]\nprogress = "loud"\n')
    with pytest.raises(ConfigError, match=r"show\.progress = 'loud'"):
        run(job, on="serial")
    assert not (workshop.folder / ".hooke").exists(), "nothing had begun"


def test_nothing_is_nothing():
    assert isinstance(open_progress("none", Scene(in_this_process=False)), Silent)
    assert wanted_progress("none", "lines") == "none"


def test_a_logger_gets_the_lines_and_what_tasks_print(workshop, caplog, capsys):
    """Each line once, in the order of what happened, and stderr has none."""
    workshop.write(PRINTS)
    job, _ = load_entry(str(workshop.file))
    with caplog.at_level(logging.INFO, "hooke"):
        done = run(job, on="local:1", progress="log")
    lines = [(each.name, each.getMessage()) for each in caplog.records if each.name.startswith("hooke.")]
    assert lines[0] == ("hooke.run", f"run {done.id} started on local:1")
    assert [line for name, line in lines if name == "hooke.tasks"] == [
        "fit #1 | begins to fit",
        "fit #1 | and is done",
    ]
    assert lines[-1][1].endswith("1 done, 0 cached, 0 failed")
    assert capsys.readouterr().err == ""


PRINTS = """
    from hooke import pipeline, task

    @task
    def fit(x: int) -> int:
        print("begins to fit")
        print("and is done")
        return x

    @pipeline
    def job(x: int = 1):
        return fit(x)
"""


# -- lines for logs -------------------------------------------------------------------------------


def test_a_summary_says_little_and_in_the_end_what_it_came_to():
    out = io.StringIO()
    lines = SummaryLines(out, patient=False)
    events = begun()
    for at in range(10):
        events += item(at, began=1.0 + 2 * at, ended=3.0 + 2 * at)
        lines.draw(snapshot(*events, now=3.0 + 2 * at))
    events.append(RunFinished(status="finished", at=22.0))
    lines.close(snapshot(*events, now=22.0))
    said = out.getvalue().splitlines()
    assert said[0] == "run job-1 running for 2.00 s: 1 of 10 done, about 18.0 s left"
    assert said[-1] == "run job-1 finished in 21.0 s: 10 done, 0 cached, 0 failed"
    assert 3 <= len(said) <= 2 + 20 / SUMMARY_EVERY_S


def test_a_summary_of_one_long_task_says_that_it_goes_on():
    out = io.StringIO()
    lines = SummaryLines(out, patient=False)
    events = [*begun(), item(0, began=2.0, ended=3.0)[0]]
    for now in range(3, 200):
        lines.draw(snapshot(*events, now=float(now)))
    said = out.getvalue().splitlines()
    assert len(said) == 1 + int(196 / NOTHING_NEW_S)
    assert said[-1].endswith("0 of 10 done, now square")


def test_a_summary_says_nothing_while_a_task_of_this_process_may_be_in_a_debugger():
    out = io.StringIO()
    lines = SummaryLines(out, patient=True)
    events = [*begun(), item(0, began=2.0, ended=3.0)[0]]
    for now in range(3, 200):
        lines.draw(snapshot(*events, now=float(now)))
    assert not out.getvalue()
    events.append(item(0, began=2.0, ended=200.0)[1])
    lines.draw(snapshot(*events, now=201.0))
    assert len(out.getvalue().splitlines()) == 1


def test_lines_go_above_a_live_table():
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Table:
        def __init__(self) -> None:
            self.lines = []

        def above(self, line: str) -> None:
            self.lines.append(line)

    terminal, table, out, pipe = Terminal(), Table(), Tty(), io.StringIO()
    assert terminal.claim(table)
    assert not terminal.claim(Table()), "one at a time"
    terminal.say("one", out)
    terminal.say("two", pipe)
    terminal.release(table)
    terminal.say("three", out)
    assert (table.lines, out.getvalue(), pipe.getvalue()) == (["one"], "three\n", "two\n")


# -- tables in a notebook -------------------------------------------------------------------------


def test_all_text_in_html_is_escaped():
    bad = "<script>alert('x')</script>&"
    events = [*begun(task=bad), item(0, began=2.0, ended=3.0)[0]]
    failure = Failure(kind="TaskError", message=bad)
    events.append(AttemptFailed(attempt=0, node=0, lo=0, hi=1, worker="w", failure=failure, at=3.0))
    view = RunView.fold([*events, RunFinished(status="failed", node=0, at=4.0)])
    row = msgspec.structs.replace(view.row(5.0), run=bad, status=bad)
    html = run_html(row, view.rows(5.0), stopping=bad, error=bad)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 4
    going = msgspec.structs.replace(row, status="running")
    assert "<script" not in run_html(going, view.rows(5.0), stopping=bad)


def test_a_run_shows_itself_as_html(workshop):
    workshop.write(
        """
        from hooke import task, pipeline

        @task
        def fails(x: int) -> int:
            raise ValueError(f"<b>{x}</b> & more")

        @pipeline
        def job(n: int = 3):
            return fails.map(range(n))
        """
    )
    failed = workshop.run()
    html = failed._repr_html_()
    assert failed.id in html
    assert "ValueError: &lt;b&gt;" in html
    assert "<b>0" not in html
    assert ">fails</td>" in html
    assert Run(Project.find(workshop.folder), failed.id)._repr_html_() == html


def test_a_table_of_many_tasks_stays_readable():
    events = [RunStarted(run="job-1", pipeline="job", entry="x", at=1.0)]
    events += [NodePlanned(node=at, task=f"task{at}", key=f"{at:032x}", at=1.0) for at in range(500)]
    events.append(AttemptStarted(attempt=1, node=400, lo=0, hi=1, worker="w", at=2.0))
    view = RunView.fold(events)
    html = run_html(view.row(3.0), view.rows(3.0))
    assert ">task400</td>" in html
    assert html.count("<tr") <= 42
    assert "more tasks" in html


def test_a_line_of_another_thread_comes_after_the_last_frame():
    """Between the last frame and the end of the display it would leave the frame there twice."""
    from hooke.progress.table import LiveTable

    out = io.StringIO()
    table = LiveTable(out)
    stop, other = table._live.stop, threading.Thread(target=table.above, args=("from elsewhere",))

    def stop_slowly():
        other.start()
        other.join(0.1)  # it waits for the end, or prints meanwhile
        out.write("[end]")
        stop()

    table._live.stop = stop_slowly
    table.close(snapshot(*begun(), now=2.0))
    other.join()
    assert out.getvalue().index("[end]") < out.getvalue().index("from elsewhere")
