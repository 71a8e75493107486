"""Runs that are listed, filtered, framed and set side by side, from journals."""

import json
import math
import sys
from pathlib import Path

import pandas
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.played_runs import START, Played

from hooke import JournalError, MissingExtra, UsageError, compare, runs
from hooke.comparing.facts import FILE, MetricSpread, Name, facts_of, folded_in
from hooke.comparing.side_by_side import Section, letters, side_by_side
from hooke.journal.events import PointsLogged
from hooke.journal.run_folders import RunsFolder
from hooke.journal.segments import HEADER_BYTES
from hooke.journal.writer import Journal


@pytest.fixture
def played(tmp_path):
    def make(run="sweep-20261125-010000-aaaa", **given) -> Played:
        return Played(tmp_path, run, **given)

    return make


@pytest.fixture
def three(played, tmp_path) -> Path:
    """Three runs of one pipeline, the newest one without a metric."""
    for at, (depth, kind, auc) in enumerate(
        [("2", "'forest'", 0.7), ("10", "'forest'", 0.9), ("3", "'linear'", None)]
    ):
        run = played(f"sweep-20261125-01000{at}-aaa{at}", at=START + at, depth=depth, kind=kind)
        attempt = run.attempt("fit")
        if auc is not None:
            run.log(("auc", auc, 0), ("auc", auc - 0.5, 1), attempt=attempt, tags={"team": "us"})
        run.end("finished" if at else "failed")
    return tmp_path


def ids(found) -> list[str]:
    return [run.id[-4:] for run in found]


class TestFolding:
    points = st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(width=32), st.integers(0, 9)), min_size=1, max_size=8
    )

    @pytest.mark.needs("cpu")
    @given(
        st.lists(st.tuples(st.sampled_from(["track-x-1", "track-y-2"]), points, st.booleans()), max_size=8)
    )
    @settings(max_examples=25, deadline=None)
    def test_it_is_that_of_all_points_however_often_it_went_on(self, tmp_path_factory, events):
        run = Played(tmp_path_factory.mktemp("run"), "r-20261125-010000-aaaa")
        logged: dict[str, list[float]] = {}
        for at, (segment, points, fold_now) in enumerate(events):
            run.log(*points, segment=segment, at=START + at)
            for name, value, _ in points:
                logged.setdefault(name, []).append(value)
            if fold_now:
                folded_in(run.folder)
        metrics = {
            name: each for owned in folded_in(run.folder).owned for name, each in owned.metrics.items()
        }
        assert set(metrics) == set(logged)
        for name, values in logged.items():
            finite = [value for value in values if not math.isnan(value)] or [math.nan]
            found = metrics[name]
            assert found.count == len(values)
            told = [found.value(which) for which in ("last", "min", "max")]
            assert [value + 0.0 for value in told] == pytest.approx(
                [values[-1], min(finite), max(finite)], rel=0, abs=0, nan_ok=True
            )

    def test_a_long_journal_is_read_once(self, played):
        run = played()
        for _ in range(3):
            run.log(*[("loss", 1 / (step + 1), step) for step in range(3000)])
        first = folded_in(run.folder)
        assert (run.folder / FILE).stat().st_size < 1000
        (segment,) = run.folder.glob("track-*.journal")
        inside = HEADER_BYTES + 40
        whole = segment.read_bytes()
        segment.write_bytes(
            whole[:inside] + b"\0" + whole[inside + 1 :]
        )  # what was folded is not looked at again
        run_metrics = folded_in(run.folder).owned[0].metrics
        assert run_metrics == first.owned[0].metrics
        assert run_metrics["loss"] == MetricSpread(
            last=1 / 3000, step=2999, at=run.at, low=1 / 3000, high=1.0, count=9000, highest_step=2999
        )
        (run.folder / FILE).unlink()
        with pytest.raises(JournalError, match="damaged"):
            folded_in(run.folder)

    @pytest.mark.parametrize("damage", [b"", b"\x93\x02\x80", b"not msgpack at all", b"\x81\xa4form\x63"])
    def test_a_damaged_fold_is_made_anew(self, played, damage):
        run = played()
        run.log(*[("loss", 1.0, step) for step in range(9000)])
        whole = folded_in(run.folder)
        (run.folder / FILE).write_bytes(damage)
        assert folded_in(run.folder) == whole

    def test_points_may_have_times_of_their_own(self, played):
        run = played()
        points = (("loss", 1.0, 0), ("loss", 2.0, 1), ("loss", 3.0, 2))
        with Journal.create(run.folder, "track-import-1", durable="none") as journal:
            journal.append(PointsLogged(at=START, points=points, times=(START, START + 9, START + 1)))
        assert folded_in(run.folder).owned[0].metrics["loss"].last == 2.0

    def test_a_segment_that_was_cut_is_folded_anew(self, played):
        run = played()
        run.log(*[("loss", 1.0, step) for step in range(9000)])
        folded_in(run.folder)
        (segment,) = run.folder.glob("track-*.journal")
        segment.write_bytes(segment.read_bytes()[:HEADER_BYTES])
        assert folded_in(run.folder).owned == []


class TestFacts:
    def facts(self, run: Played):
        return facts_of(RunsFolder(run.folder.parent), run.run)

    def test_of_attempts_at_the_same_items_the_finished_one_counts(self, played):
        run = played()
        first = run.attempt("fit", items=3, failed=True)
        second = run.attempt("fit", items=3)
        run.log(("loss", 0.1, 0), attempt=first, item=0)
        run.log(("loss", 99.0, 0), attempt=first, item=1)
        run.log(("loss", 0.2, 0), attempt=second, item=1)
        run.log(("loss", 0.3, 0), attempt=second, item=2)
        spread = self.facts(run).metrics[Name("fit", "loss")]
        assert (spread.count, spread.value("min"), spread.value("max")) == (3, 0.1, 0.3)

    def test_of_a_task_that_never_finished_the_last_attempt_counts(self, played):
        run = played()
        for value in (9.0, 0.5):
            run.log(("loss", value, 0), attempt=run.attempt("fit", failed=True))
        assert self.facts(run).metrics[Name("fit", "loss")].value("max") == 0.5

    def _loss(self, *attempts: list[int], ended: str = "finished", name: str = "loss"):
        """The summary of a training whose attempts logged these steps; the value is 100 * attempt + step."""
        return self._training([{name: steps} for steps in attempts], ended=ended).metrics[Name("fit", name)]

    def _training(self, attempts: list[dict[str, list[int]]], *, ended: str = "finished"):
        run = Played(self.root, f"sweep-20261125-010000-{len(list(self.root.rglob('driver*'))):04}")
        for number, metrics in enumerate(attempts, 1):
            failed = number < len(attempts) or ended == "failed"
            attempt = run.attempt("fit", failed=failed)
            points = [
                (name, 100.0 * number + step, step) for name, steps in metrics.items() for step in steps
            ]
            run.log(*points, attempt=attempt, at=START + number)
        return self.facts(run)

    @pytest.fixture(autouse=True)
    def _root(self, tmp_path):
        self.root = tmp_path

    def test_a_training_that_goes_on_from_a_checkpoint_has_one_curve(self):
        spread = self._loss([0, 1, 2, 3, 4, 5], [6, 7, 8, 9])
        assert (spread.count, spread.value("min"), spread.value("max"), spread.value("last")) == (
            10,
            100,
            209,
            209,
        )

    def test_steps_that_were_done_again_count_once(self):
        spread = self._loss([0, 1, 2, 3, 4, 5], [4, 5, 6])
        assert (spread.count, spread.value("min"), spread.value("max")) == (7, 100, 206)

    def test_a_training_that_begins_anew_has_nothing_of_the_earlier_attempt(self):
        spread = self._loss([0, 1, 2, 3, 4, 5], [0, 1, 2])
        assert (spread.count, spread.value("min")) == (3, 200)

    def test_each_of_several_attempts_counts_up_to_the_next(self):
        assert self._loss([0, 1, 2], [2, 3, 4], [4, 5]).count == 6

    def test_an_attempt_from_an_earlier_checkpoint_cuts_all_before_it(self):
        spread = self._loss([0, 1, 2, 3], [4, 5, 6], [2, 3])
        assert (spread.count, spread.value("min"), spread.value("max")) == (4, 100, 303)

    def test_of_attempts_that_all_failed_the_curve_ends_with_the_last(self):
        assert self._loss([0, 1], [2, 3], ended="failed").count == 4

    def test_a_metric_of_the_earlier_attempt_alone_counts_up_to_where_the_others_go_on(self):
        facts = self._training([{"loss": [0, 1, 2, 3], "val": [0, 2, 3]}, {"loss": [3, 4]}])
        assert facts.metrics[Name("fit", "val")].count == 2
        facts = self._training([{"loss": [0, 1, 2, 3], "val": [0, 2]}, {"loss": [0]}])
        assert Name("fit", "val") not in facts.metrics

    def test_a_rarer_metric_is_cut_where_the_training_went_on(self):
        facts = self._training(
            [{"loss": [*range(9)], "val": [0, 5, 8]}, {"loss": [6, 7, 8, 9, 10], "val": [10]}]
        )
        assert facts.metrics[Name("fit", "val")].count == 3

    def test_an_attempt_that_had_nothing_left_to_do_keeps_the_curve(self):
        run = Played(self.root, "sweep-20261125-010000-aaaa")
        first = run.attempt("fit", failed=True)
        run.log(("loss", 1.0, 0), ("loss", 2.0, 1), attempt=first)
        run.log(attempt=run.attempt("fit"), tags={"resumed": "yes"})
        assert self.facts(run).metrics[Name("fit", "loss")].count == 2

    def test_items_give_a_parameter_several_values(self, played):
        run = played(depth="7")
        attempt = run.attempt("fit", items=3)
        for item, rate in enumerate(("0.1", "0.2", "0.1")):
            run.log(attempt=attempt, item=item, params={"rate": rate})
        run.log(params={"depth": "8"})
        facts = self.facts(run)
        assert facts.params == {Name("", "depth"): ("8",), Name("fit", "rate"): ("0.1", "0.2")}

    def test_what_was_logged_by_an_attempt_nobody_told_of_is_kept(self, played):
        run = played()
        run.log(("loss", 1.0, 0), attempt=7)
        assert Name("attempt 7", "loss") in self.facts(run).metrics


class TestRuns:
    def test_they_are_filtered_and_sorted(self, three):
        def found(*where, **given):
            return ids(runs(where=where, project=three, **given))

        assert found() == ["aaa2", "aaa1", "aaa0"]
        assert found("params.depth>2") == ["aaa2", "aaa1"]  # as text 10 is less than 2
        assert found("params.kind=forest", sort="metrics.auc") == ["aaa0", "aaa1"]
        assert found("status=failed") == ["aaa0"]
        assert found("metrics.auc.max>0.8", "tags.team=us") == ["aaa1"]
        assert found("status=failed or params.depth=10") == ["aaa1", "aaa0"]
        assert found("params.depth in (2, 10)") == ["aaa1", "aaa0"]
        assert found("(status=failed or params.depth>2) and metrics.auc.max>0.8") == ["aaa1"]
        assert found(sort="auc") == ["aaa0", "aaa1", "aaa2"]
        assert found(sort="-auc.min", limit=2) == ["aaa1", "aaa0"]
        assert found(sort="-params.depth") == ["aaa1", "aaa2", "aaa0"]
        assert found(sort="started") == ["aaa0", "aaa1", "aaa2"]
        assert ids(runs("other", project=three)) == []

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"where": "params.dept>1"}, "did you mean depth?"),
            ({"where": "metrics.acu>1"}, "did you mean auc?"),
            ({"where": "tags.xyz=1"}, "valid: team"),
            ({"where": "status=failed or tags.xyz=1"}, "valid: team"),
            ({"where": "status=fnished"}, "did you mean finished?"),
            ({"sort": "-acu"}, "did you mean auc?"),
            ({"sort": "params.knd"}, "did you mean kind?"),
            ({"sort": "strated"}, "did you mean started"),
            ({"limit": -1}, "limit=-1"),
            ({"project": "no/such/folder"}, "no such file or folder"),
        ],
    )
    def test_a_typo_is_told_what_was_meant(self, three, given, said):
        with pytest.raises(UsageError) as caught:
            runs(**{"project": three} | given)
        assert said in str(caught.value)

    def test_a_name_of_two_tasks_is_asked_for(self, played, tmp_path):
        run = played()
        for task, auc in (("fit", 0.5), ("score", 0.8)):
            run.log(("auc", auc, 0), attempt=run.attempt(task))
        with pytest.raises(UsageError, match=r"fit\.auc, score\.auc"):
            runs(sort="auc", project=tmp_path)
        assert len(runs(where="metrics.score.auc>0.7", project=tmp_path)) == 1
        assert {"metrics.fit.auc", "metrics.score.auc"} <= set(runs(project=tmp_path).columns())
        run.log(("auc", 0.9, 0), segment="track-driver-1")
        assert runs(where="metrics.auc=0.9", project=tmp_path).columns()["metrics.auc"] == [0.9]

    def test_they_are_a_list(self, three):
        found = runs(project=three)
        assert len(found) == len(list(found)) == 3
        assert found[-1].status == "failed"
        assert [point.value for point in found[1].logged().points] == [0.9, 0.4]
        assert ids(found[:2]) == ["aaa2", "aaa1"]
        assert "3 runs" in repr(found)
        with pytest.raises(IndexError):
            found[3]

    def test_a_frame_has_a_row_a_run(self, three):
        frame = runs(project=three, sort="started").to_frame()
        assert isinstance(frame, pandas.DataFrame)
        assert frame["params.depth"].tolist() == [2, 10, 3]
        assert frame["metrics.auc.max"].tolist()[:2] == [0.7, 0.9]
        assert math.isnan(frame["metrics.auc"][2])
        assert frame["status"].tolist() == ["failed", "finished", "finished"]
        assert frame["started"][0].timestamp() == START
        other = runs(project=three, sort="started").to_frame("polars")
        assert isinstance(other, polars.DataFrame)
        assert set(other.columns) == set(frame.columns)
        assert other["tags.team"].to_list() == ["us", "us", None]

    def test_a_frame_that_cannot_be_made_says_why(self, three, monkeypatch):
        with pytest.raises(UsageError, match="pandas, polars"):
            runs(project=three).to_frame("arrow")
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingExtra, match="pip install pandas"):
            runs(project=three).to_frame()

    def test_no_runs_are_no_error(self, tmp_path):
        found = runs(project=tmp_path, where="params.depth>6", sort="auc")
        assert (len(found), repr(found)) == (0, "<no runs>")
        assert found.columns()["run"] == []

    def test_in_a_notebook_nothing_of_it_is_markup(self, played, tmp_path):
        played(name="'<script>'")
        page = runs(project=tmp_path)._repr_html_()
        assert "&lt;script&gt;" in page
        assert "<script>" not in page


class TestComparison:
    def test_what_differs_is_shown_and_what_is_equal_counted(self, three):
        text = compare("sweep-20261125-010000", "sweep-20261125-010001", project=three).text(width=80)
        assert "  depth  2  10\n" in text
        assert "  auc      0.2  0.4\n" in text
        assert "parameters (1): kind" in text
        assert "tags (1): team" in text
        assert "kind " not in text.partition("equal")[0]

    def test_runs_that_share_nothing(self, played, tmp_path):
        one = played("one-20261125-010000-aaaa", pipeline="one", depth="3")
        one.log(("loss", 0.5, 0), attempt=one.attempt("fit"))
        two = played("two-20261125-010000-bbbb", pipeline="two", month="4")
        two.keep("a.txt", "text")
        two.attempt("load", ended=False)
        text = compare("one", "two", project=tmp_path).text(width=60)
        assert "depth  3  -" in text
        assert "month  -  4" in text
        assert "loss  0.5  -" in text
        assert "a.txt  -  4 B" in text
        assert "task fit" in text

    def test_files_of_one_size_are_compared_by_content(self, played, tmp_path):
        for at, text in enumerate(("same", "eman", "same")):
            run = played(f"r-20261125-01000{at}-aaaa")
            run.keep("x.txt", text)
            run.keep("y.txt", "equal")
        _, _, _, artifacts, *_ = runs(project=tmp_path).compare().sections
        first, second, third = artifacts.differ["x.txt"]
        assert first == third != second
        assert list(artifacts.equal) == ["y.txt"]

    def test_nan_equals_nan_and_close_numbers_are_told_apart(self, played, tmp_path):
        for at, auc in enumerate((0.123456781, 0.123456782)):
            run = played(f"r-20261125-01000{at}-aaaa")
            run.log(("auc", auc, 0), ("loss", math.nan, 0))
        metrics = runs(project=tmp_path).compare().sections[1]
        assert list(metrics.equal) == ["loss"]
        assert metrics.cells("auc") == ["0.123456782", "0.123456781"]

    def test_parameters_of_many_digits_are_shortened_where_that_tells_them_apart(self, played, tmp_path):
        for at, rate in enumerate(("0.043314043078429", "0.028897780806285")):
            played(f"r-20261125-01000{at}-aaaa", rate=rate, seed=str(at), name="'1.50'")
        parameters = runs(project=tmp_path).compare().sections[0]
        assert parameters.cells("rate") == ["0.0288978", "0.043314"]
        assert parameters.differ["rate"] == ["0.028897780806285", "0.043314043078429"]

    def test_code_that_changed_is_named(self, played, tmp_path):
        for at, code in enumerate(("1" * 32, "2" * 32)):
            run = played(f"r-20261125-01000{at}-aaaa")
            run.task("fit", code={"job.py:net": code, "job.py:fit": "0" * 32})
        assert dict(runs(project=tmp_path).compare().sections[-1].differ) == {
            "job.py:net": ["2" * 8, "1" * 8]
        }

    def test_one_run_is_nothing_to_compare(self, three):
        with pytest.raises(UsageError, match="give two or more runs"):
            compare("sweep-20261125-010000", project=three)
        with pytest.raises(UsageError, match="no run begins with 'swep'"):
            compare("swep", "sweep-20261125-010000", project=three)

    def test_its_facts_are_json(self, three):
        facts = json.loads(json.dumps(runs(project=three).compare().facts()))
        assert facts["parameters"]["differ"]["depth"] == ["3", "10", "2"]

    def test_figures_and_page(self, three, tmp_path):
        both = compare("sweep-20261125-010000", "sweep-20261125-010001", project=three)
        figure = both.learning_curves()
        assert [trace.y[0] for trace in figure.data] == [0.7, 0.9]
        assert [list(trace.x) for trace in figure.data] == [[0, 1], [0, 1]]
        columns = both.parallel_coordinates("params.depth", "metrics.auc.max").data[0].dimensions
        assert [column.label for column in columns] == ["depth", "auc.max"]
        page = both.save(tmp_path / "c.html").read_text("utf-8")
        assert page.count("<table") == 3
        assert "src=" not in page.rpartition("<script>const figures")[2]
        with pytest.raises(UsageError, match="acu"):
            both.learning_curves("acu")
        with pytest.raises(UsageError, match=r"\.html"):
            both.save(tmp_path / "c.png")


cells = st.text("ab <>é", max_size=70)


@pytest.mark.needs("cpu")
@given(
    st.integers(40, 100),
    st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(1, 12),
)
@settings(deadline=None)
def test_side_by_side_fits_its_width_and_loses_nothing(width, rows, times):
    section = Section(
        title="things",
        differ={f"row {at}": row * times for at, row in enumerate(rows)},
        equal={"x": 1, "y" * 99: 2},
    )
    count = 3 * times
    legend = [(letter, "run", "finished") for letter in letters(count)]
    text = side_by_side(legend, [section], width=width)
    assert max(map(len, text.splitlines())) <= width
    squeezed = "".join(text.split())
    assert all("".join(cell.split()) in squeezed or len(cell) > width // 2 for row in rows for cell in row)
    assert len(set(letters(count))) == count
