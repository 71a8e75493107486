"""What the page of a run says, that it says no more than 2 MB, and that no text of a user becomes markup."""

import math
import re
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.played_runs import START, Played

from hooke.base.errors import UsageError
from hooke.base.ref import Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    Failure,
    LogSpan,
    RetryPlanned,
)
from hooke.journal.reader import read as read_segments
from hooke.journal.run_folders import RunsFolder
from hooke.pages.rendering import MOST_BYTES, report_file
from hooke.pages.run_index import NOT_READ, RunIndex
from hooke.pages.run_report import (
    MOST_ROWS,
    RarelyMade,
    RunFollower,
    RunReport,
    keep_report,
    kept_report,
    polyline,
)
from hooke.pages.timeline import MOST_LANES, WIDTH, Bar, Lane, Timeline, TimelineView
from hooke.running.run_page import run_html_file

NASTY = "</script></style><script>hacked()</script><img src=x onerror=hacked()>'\"`{{7*7}}&\x1b[31m\u202e"
REF = Ref(digest="0" * 64, size=1)


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def report_of(played: Played) -> RunReport:
    follower = RunFollower(RunsFolder(played.folder.parent), played.run)
    follower.read()
    made = follower.report(START + 10)
    follower.close()
    return made


def nasty_run(root, *, tasks: int = 1, name: str = NASTY) -> Played:
    played = Played(root, "r-20261125-000001-x", pipeline=name, p=name)
    for number in range(tasks):
        task = f"{number}{name}"
        played.task(task, code={f"part{name}": f"digest{number}"})
        node, attempt = played.nodes[task], number + 1
        played.attempts = attempt
        played.driver.append(
            AttemptStarted(at=START, attempt=attempt, node=node, lo=0, hi=1, worker=name[:40])
        )
        failure = Failure(
            kind="TaskError", error_type=name, message=name, traceback=f'  File "{name}", line 3, in f\n    {name}\n',
            arguments=name, log_tail=(name,),
        )  # fmt: skip
        played.driver.append(
            RetryPlanned(at=START, node=node, lo=0, hi=1, number=2, due=START, reason=name + str(number))
        )
        played.driver.append(
            AttemptFailed(
                at=START + 1,
                attempt=attempt,
                node=node,
                lo=0,
                hi=1,
                failure=failure,
                worker=name[:40],
                seconds=1.0,
            )
        )
    played.log((name, 1.0, 0), (f"nan{name}", math.nan, 1), params={name: name}, tags={name: name})
    played.keep("a<img src=x onerror=hacked()>.txt", name)
    return played


class TestText:
    @pytest.mark.needs("cpu")
    def test_no_text_becomes_markup(self, tmp_path):
        html = report_file(report_of(nasty_run(tmp_path)))
        page = Tags(html)
        known = set(
            "html head meta title link style body a main section h1 h2 h3 p span dl div dt dd code svg g rect text path defs marker"
            " table thead tbody tr th td article details summary pre label input button script".split()
        )
        assert {tag for tag, _ in page.tags} <= known
        assert [tag for tag, _ in page.tags].count("script") == 1
        names = {name for _, attributes in page.tags for name in attributes}
        assert not {name for name in names if name.startswith("on") or name in ("style", "srcdoc", "action")}
        addresses = {
            attributes[name] for _, attributes in page.tags for name in ("href", "src") if name in attributes
        }
        assert addresses == {"data:,", "#main"}
        assert "{{7*7}}" in page.text
        assert "hacked()" in page.text
        assert not re.search("[\x1b\u202e]", html)

    def test_it_has_a_policy_that_allows_no_other_script(self, tmp_path):
        html = report_file(report_of(nasty_run(tmp_path)))
        policy = next(
            a["content"] for t, a in Tags(html).tags if a.get("http-equiv") == "Content-Security-Policy"
        )
        assert re.fullmatch(
            r"default-src 'none'; style-src 'sha256-[\w+/=]{44}'; script-src 'sha256-[\w+/=]{44}'; img-src data:; "
            r"base-uri 'none'; form-action 'none'",
            policy,
        )

    @pytest.mark.needs("cpu")
    def test_it_is_never_larger_than_it_may_be(self, tmp_path):
        long = NASTY * 200
        played = nasty_run(tmp_path, tasks=700, name=long[:4000])
        played.log(*[(f"{at}{long[:500]}", 1.0, 0) for at in range(1000)])
        report = report_of(played)
        assert report.left_out == {
            "tasks": 200,
            "metrics": 502,
            "retries": 200,
            "code": 200,
            "cached": 200,
        }
        html = report_file(report)
        assert 300_000 < len(html.encode()) <= MOST_BYTES

    @pytest.mark.needs("cpu")
    def test_a_timeline_that_does_not_fit_gives_way(self, tmp_path):
        bar = Bar(kind="compute", x=1.0, width=2.0, said="x" * 290)
        lane = Lane(worker="w", bars=(bar,) * 6000, compute_s=1.0, transfer_s=0.0, wait_s=0.0, attempts=6000)
        report = report_of(nasty_run(tmp_path))
        html = report_file(replace(report, timeline=Timeline(seconds=9.0, lanes=(lane,), single=True)))
        assert len(html.encode()) <= MOST_BYTES
        assert "Its 1 lanes are too large for a file" in html


class TestTimeline:
    @pytest.mark.needs("cpu")
    @given(
        st.lists(
            st.tuples(st.integers(0, 99), st.floats(0, 50), st.floats(0, 9), st.floats(0, 9)),
            min_size=1,
            max_size=80,
        )
    )
    def test_no_time_is_lost_or_told_twice(self, attempts):
        """Each worker does one thing at a time, so what it did adds up to the whole."""
        view, free = TimelineView(), {}
        for number, (worker, gap, transfer, seconds) in enumerate(attempts):
            began = free.get(worker, 0.0) + gap
            free[worker] = began + transfer + seconds
            view.apply(AttemptStarted(at=began, attempt=number, node=0, lo=0, hi=1, worker=f"w{worker}"))
            view.apply(
                AttemptFinished(
                    at=free[worker],
                    attempt=number,
                    node=0,
                    lo=0,
                    hi=1,
                    ref=REF,
                    worker=f"w{worker}",
                    seconds=seconds,
                ),
                "t",
            )
        line = view.drawn(0.0)
        assert len(line.lanes) <= MOST_LANES + 1
        whole = line.seconds * len(free)
        assert math.isclose(line.compute_s + line.transfer_s + line.wait_s, whole, rel_tol=1e-6, abs_tol=1e-3)
        assert math.isclose(
            line.compute_s, sum(seconds for *_, seconds in attempts), rel_tol=1e-6, abs_tol=1e-3
        )
        assert sum(lane.attempts for lane in line.lanes) == len(attempts)
        for lane in line.lanes:
            for bar in lane.bars:
                assert 0 <= bar.x <= WIDTH
                assert 0 < bar.height <= 1.0 + 1e-9

    @pytest.mark.needs("cpu")
    def test_twenty_thousand_attempts_are_a_few_bars(self):
        view = TimelineView()
        for number in range(20_000):
            where = {"attempt": number, "node": 0, "lo": 0, "hi": 1, "worker": f"w{number % 100}"}
            view.apply(AttemptStarted(at=number // 100, **where))
            view.apply(AttemptFinished(at=number // 100 + 0.9, ref=REF, seconds=0.6, **where), "t")
        line = view.drawn(0.0)
        assert not line.single
        assert len(line.lanes) == MOST_LANES + 1
        assert line.lanes[-1].worker == "60 more"
        assert sum(len(lane.bars) for lane in line.lanes) < 20_000
        low = [bar.height for bar in line.lanes[-1].bars if bar.kind == "compute"]
        assert all(0.5 < height < 0.75 for height in low[1:-1])

    def test_what_runs_makes_it_longer_and_a_dead_driver_does_not(self):
        view = TimelineView()
        view.apply(AttemptStarted(at=5.0, attempt=1, node=0, lo=0, hi=1, worker="w"))
        assert view.drawn(9.0).seconds == 4.0
        assert TimelineView().drawn(9.0).lanes == ()


class TestRuns:
    @pytest.mark.needs("cpu")
    def test_a_run_tells_its_story(self, workshop, tmp_path):
        workshop.write("""
            from hooke import log_metric, pipeline, task

            @task
            def load(n: int) -> list[int]:
                return list(range(n))

            @task
            def half(x: int) -> float:
                print("half of", x)
                log_metric("x", x)
                return x / 2

            @pipeline
            def job(n: int = 3):
                return half.map(load(n))
        """)
        first = workshop.run()
        again = workshop.run(n=3)
        html = Tags(first.report(tmp_path / "run.html").read_text("utf-8")).text
        for said in (
            first.id,
            "finished",
            "half of 2",
            "map of 3",
            "no earlier run had it",
            "serial",
            ".half",
        ):
            assert said in html, said
        repeated = Tags(run_html_file(again.project, again.id)).text
        assert "3 of 3 stored before" in repeated
        assert "an earlier run had the same code and arguments" in repeated
        with pytest.raises(UsageError, match="mkdir -p"):
            first.report(tmp_path / "nowhere" / "run.html")

    def test_a_run_that_did_not_begin_is_refused(self, workshop):
        workshop.project.runs.create("nothing-20261125-000001-x")
        with pytest.raises(UsageError, match="has no journal"):
            run_html_file(workshop.project, "nothing-20261125-000001-x")

    def test_a_journal_may_be_read_in_parts(self, tmp_path):
        played = Played(tmp_path, "r-20261125-000001-x")
        for _ in range(1500):
            played.attempt("fit")
        played.end()
        follower = RunFollower(RunsFolder(played.folder.parent), played.run)
        reports = []
        while follower.read(0.0) and follower.share_left:
            reports.append(follower.report(START).reading)
            follower.close()
            assert follower.goes_on
        assert len(reports) > 3
        assert all(re.fullmatch(r"\d+%", each) for each in reports)
        assert follower.report(START).reading == ""
        assert follower.view.status == "finished"
        assert follower.view.tasks["fit"].counts.attempts == 1500
        follower.close()


class TestEnd:
    def test_the_timeline_of_a_run_that_ended_does_not_go_on(self, tmp_path):
        """An attempt that was abandoned for its twin has no end."""
        played = Played(tmp_path, "r-20261125-000001-x")
        played.attempt("fit")
        played.end()
        follower = RunFollower(RunsFolder(played.folder.parent), played.run)
        follower.read()
        seconds = {follower.report(START + later).timeline.seconds for later in (10, 1000)}
        follower.close()
        assert len(seconds) == 1


class TestWhatIsRead:
    def test_no_more_than_what_was_logged_is_read_for_what_was_logged(self, tmp_path, monkeypatch):
        """The driver's journal may be long; of an attempt, its own fold knows what a metric and an artifact need."""
        played = Played(tmp_path, "r-20261125-000001-x")
        for attempt in (played.attempt("fit", failed=True), played.attempt("fit"), played.attempt("load")):
            played.log(("loss", float(attempt), 0), attempt=attempt)
        played.keep("a.txt", "a")
        read: list[str] = []
        monkeypatch.setattr(
            "hooke.pages.run_report.read", lambda file: [read.append(file.stem), *read_segments(file)][1:]
        )
        follower = RunFollower(RunsFolder(played.folder.parent), played.run)
        follower.read()
        report = follower.report(START)
        assert [(each.name, each.last, each.count) for each in report.metrics] == [
            ("fit.loss", 2.0, 1),
            ("load.loss", 3.0, 1),
        ]
        assert set(read) == {"track-w1-1"}
        follower.report(START)
        assert follower.file(0).name == "a.txt"
        assert follower.file(1) is None
        assert len(read) == 1
        played.log(("loss", 9.0, 1), attempt=3, segment="track-w2-1")
        assert follower.report(START).metrics[1].last == 9.0
        follower.share_left = 0.5
        assert follower.report(START).metrics == []
        follower.close()

    def test_retries_for_ever_new_reasons_are_counted_together(self, tmp_path):
        played = Played(tmp_path, "r-20261125-000001-x")
        played.task("fit")
        for number in range(MOST_ROWS + 20):
            played.driver.append(
                RetryPlanned(at=START, node=0, lo=0, hi=1, number=2, due=START, reason=f"job {number}")
            )
        report = report_of(played)
        follower_rows = [(each.reason, each.count) for each in report.retries]
        assert len(follower_rows) == MOST_ROWS
        assert report.left_out == {"retries": 1}

    def test_a_run_is_called_by_its_folder(self, tmp_path):
        """A copied folder's journal has the id of the original; a run that has only begun has no journal."""
        played = Played(tmp_path, "r-20261125-000001-x")
        played.end("stopped")
        keep_report(played.folder, report_of(played))
        shutil.copytree(played.folder, played.folder.with_name("copy"))
        assert kept_report(played.folder, START).row.run == played.run
        assert kept_report(played.folder.with_name("copy"), START) is None
        (played.folder.parent / "new").mkdir()
        runs = RunsFolder(played.folder.parent)
        for name, status in (("copy", "stopped"), ("new", "new")):
            follower = RunFollower(runs, name)
            follower.read()
            report = follower.report(START)
            assert (report.row.run, report.row.status) == (name, status)
            assert played.run not in report_file(report)
            follower.close()
        assert "It has not begun" in report_file(report)


class TestLogs:
    def output(self, played: Played, *, log: str, span: LogSpan | None = None, **given) -> list[tuple]:
        (played.folder / "logs").mkdir(exist_ok=True)
        (played.folder / "logs" / "w1.log").write_text(log, "utf-8")
        (played.folder / "logs" / "w2.log").write_text("of rank 1", "utf-8")
        played.task("fit")
        started = AttemptStarted(at=START, attempt=1, node=0, lo=0, hi=1, worker="w1", **given)
        played.driver.append(started)
        if span is not None:
            ended = {"attempt": 1, "node": 0, "lo": 0, "hi": 1, "ref": REF, "seconds": 1.0}
            played.driver.append(AttemptFinished(at=START + 1, log=span, worker="w1", **ended))
        return [(each.whose, each.text, each.cut) for each in report_of(played).logs]

    def test_a_long_line_without_an_end_is_shown(self, tmp_path):
        """Progress bars and JSON have lines longer than the end that is shown."""
        played = Played(tmp_path, "r-20261125-000001-x")
        line = "x" * 9000 + "\rdone"
        said = self.output(played, log=line + "\n", span=LogSpan("w1.log", 0, len(line) + 1))
        assert said == [("fit #1", "done", 9006 - 4096)]

    def test_a_gang_ends_on_all_of_its_workers(self, tmp_path):
        played = Played(tmp_path, "r-20261125-000001-x")
        span = LogSpan("w1.log", 0, 9)
        assert self.output(played, log="of rank 0", span=span, workers=("w1", "w2")) == [
            ("fit #1", "of rank 0", 0)
        ]

    def test_in_a_run_that_is_over_nothing_runs(self, tmp_path):
        played = Played(tmp_path, "r-20261125-000001-x")
        assert self.output(played, log="half") == [("#1, did not end, on w1", "half", 0)]


class TestLines:
    def test_metrics_and_the_machine_have_lines(self, tmp_path):
        played = Played(tmp_path, "r-20261125-000001-x")
        attempt = played.attempt("fit")
        played.log(*[("val.loss", 10.0 - at, at) for at in range(10)], attempt=attempt)
        for at in range(5):
            used = (
                ("system/system_memory_usage_percentage", 20.0 * at, at),
                ("system/gpu_1_utilization_percentage", 50.0, at),
            )
            played.log(*used, segment=f"track-system-{at}", at=START + 10 * at)
        played.end()
        report = report_of(played)
        assert report.metrics[0].line.split()[::9] == ["0.0,0.0", "1000.0,100.0"]
        assert [(each.name, each.mean, each.high) for each in report.usage] == [
            ("memory", 40.0, 80.0),
            ("GPU 1", 50.0, 50.0),
        ]
        assert report.usage[0].line == "0.0,100.0 250.0,80.0 500.0,60.0 750.0,40.0 1000.0,20.0"
        assert report_file(report).count("<polyline") == 3

    @pytest.mark.parametrize(
        ("values", "line"),
        [
            (
                {0: {0: 1.0, 1: 0.0}, 1: {0: 0.5, 2: 1.0}},
                "0.0,0.0 500.0,100.0;0.0,50.0 1000.0,0.0",
            ),
            ({0: {0: 1.0}, 1: {1: 0.0}}, "0.0,0.0 1000.0,100.0"),
        ],
        ids=["curves", "single values"],
    )
    def test_items_of_a_map_have_a_line_each(self, tmp_path, values, line):
        played = Played(tmp_path, "r-20261125-000001-x")
        attempt = played.attempt("fit")
        for item, curve in values.items():
            played.log(*[("loss", value, step) for step, value in curve.items()], attempt=attempt, item=item)
        played.end()
        assert report_of(played).metrics[0].line == line

    @pytest.mark.needs("cpu")
    @given(
        st.lists(st.tuples(st.floats(0, 1e6), st.floats(allow_infinity=True, allow_nan=True)), max_size=900)
    )
    def test_a_line_is_short_and_keeps_its_extremes(self, points):
        points = sorted(points, key=lambda point: point[0])
        known = [y for _, y in points if math.isfinite(y)]
        low, high = min(known, default=0.0), max(known, default=0.0)
        line = [tuple(map(float, each.split(","))) for each in polyline(points, low, high).split()]
        if len(known) < 2 or not math.isfinite(high - low):
            assert line == []
            return
        assert len(line) <= 301
        assert all(-0.1 <= x <= 1000.1 and -0.1 <= y <= 100.1 for x, y in line)
        assert min(y for _, y in line) <= 0.1 or high == low


class TestKept:
    def test_a_kept_report_is_the_same_until_the_run_goes_on(self, tmp_path):
        played = nasty_run(tmp_path)
        played.end("failed")
        report = report_of(played)
        assert kept_report(played.folder, START) is None
        keep_report(played.folder, report)
        kept = kept_report(played.folder, START + 99)
        assert report_file(kept) == report_file(replace(report, now=START + 99))
        played.log(("later", 1.0, 0), segment="track-w9-1")
        assert kept_report(played.folder, START) is None

    def test_a_damaged_one_does_not_count(self, tmp_path):
        played = nasty_run(tmp_path)
        keep_report(played.folder, report_of(played))
        (played.folder / ".page").write_bytes(b"\x00\xff")
        assert kept_report(played.folder, START) is None

    def test_a_list_reads_no_large_journal(self, tmp_path, monkeypatch):
        played = Played(tmp_path, "r-20261125-000001-x", pipeline="long")
        played.attempt("fit")
        played.end()
        monkeypatch.setattr("hooke.pages.run_index.LARGE_BYTES", 10)
        index = RunIndex(RunsFolder(played.folder.parent))
        row = index.page().rows[0][1]
        assert (row.status, row.pipeline, row.done) == (NOT_READ, "long", 0)
        assert index.page().brief == {played.run}
        assert [index.page(status="finished").unread, index.page(query="long").unread] == [1, 1]
        keep_report(played.folder, report_of(played))
        row = index.page().rows[0][1]
        assert (row.status, row.done) == ("finished", 1)
        assert (index.page().brief, index.page(status="finished").unread) == (set(), 0)


class TestParts:
    def test_what_takes_long_is_made_again_only_now_and_then_but_always_at_the_end(self):
        made: list[float] = []

        def make(now: float) -> int:
            made.append(now)
            time.sleep(0.1)
            return len(made)

        part = RarelyMade(make)
        assert not part.due(1)
        assert part.at(1.0, 1, over=False) == 1
        assert part.at(2.0, 2, over=False) == 1  # ten seconds long
        assert not part.due(2)
        assert part.at(3.0, 2, over=True) == 2
        assert part.at(4.0, 2, over=True) == 2
        assert made == [1.0, 3.0]
