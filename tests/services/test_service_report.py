"""From windows to a law, and to what is said of a service's run."""

import dataclasses
import itertools
import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.generation.test_token_law import windows as token_windows
from tests.serving.openai.paged_model import Paged
from tests.serving.services import Rows

from hooke.autoscaling.service_policy import (
    capacity_of,
    capacity_of_batches,
    capacity_of_calls,
    law_of,
    stretches,
)
from hooke.base.errors import NotEnoughData, UsageError
from hooke.charts.service_chart import service_panels, service_plot
from hooke.journal.events import RunStarted
from hooke.journal.run_view import is_service, view_of
from hooke.journal.service_events import BatchSize, BatchWindow, MethodBatches
from hooke.project.folder import Project
from hooke.services.service_report import (
    ServiceFold,
    law_lines,
    picture_of,
    read_service,
    save_service,
    service_facts,
    service_table,
    service_text,
)
from hooke.services.service_runs import ServiceRun
from hooke.serving.service import service_of
from hooke.serving.slo import Slo, parse_slo
from hooke.serving.stats_windows import merge_windows


def window(at, *sizes, a=1e-3, b=5e-3, **fields):
    """A window in which each size was run ten times, by the law."""
    batches = tuple(BatchSize(10, 10 * n, 10 * (a * n + b), 10 * (a * n + b) ** 2) for n in sizes)
    return BatchWindow(
        at=at,
        seconds=5.0,
        methods=(MethodBatches(method="predict", sizes=batches),),
        requests=10 * len(sizes),
        **fields,
    )


def test_the_law_of_a_method():
    windows = [window(at, 1, 2, 8, 200) for at in range(6)]
    found = law_of(windows, "predict", max_batch=16)
    assert found.both == pytest.approx((1e-3, 5e-3))
    assert found.most_rows == 8, "a request that is larger than a batch is several calls"
    assert found.calls == 6 * 30
    with pytest.raises(NotEnoughData):
        law_of(windows, "other", max_batch=16)


def test_what_a_replica_can_do_is_known_once_its_law_is():
    slo = Slo(99.0, 0.05)
    windows = [window(float(at), 1, 2, 8, busy_s=0.26) for at in range(6)]
    assert capacity_of(windows[:2], max_batch=16, slo=slo) is None
    known = capacity_of(windows, max_batch=16, slo=slo)
    expected = capacity_of_batches(1e-3, 5e-3, max_batch=16, limit_s=0.05, rows=11 / 3)
    assert known.rate == pytest.approx(expected.rate, rel=1e-3)
    assert known.rate < 16 / (16e-3 + 5e-3) / (11 / 3)
    busier = [window(float(at), 1, 2, 8, busy_s=4.0) for at in range(6)]
    assert capacity_of(busier, max_batch=16, slo=slo) is None, "most of the time is another method's"


def test_calls_for_one_request_each_tell_it_by_their_mean():
    windows = [
        BatchWindow(
            at=float(at),
            seconds=5.0,
            busy_s=0.04,
            methods=(MethodBatches(method="f", sizes=(BatchSize(10, 10, 0.04, 0.0),)),),
            requests=10,
        )
        for at in range(6)
    ]
    known = capacity_of(windows, max_batch=None, slo=Slo(99.0, 0.02))
    assert known is not None
    assert dataclasses.replace(known, station=None) == capacity_of_calls(0.004, limit_s=0.02)
    assert known.station is not None
    assert (known.station.rate, known.station.wait_s) == pytest.approx((250.0, 0.016))
    assert capacity_of(windows[:3], max_batch=None, slo=None) is None
    assert capacity_of([BatchWindow(requests=9)], max_batch=None, slo=None) is None


@pytest.mark.needs("cpu")
@given(st.lists(st.lists(st.integers(1, 8), max_size=3), max_size=60), st.integers(1, 12))
def test_stretches_hold_all_in_order(sizes, most):
    windows = [window(float(at), *each) for at, each in enumerate(sizes)]
    parts = stretches(windows[::-1], most)
    assert len(parts) <= most
    assert [part.at for part in parts] == sorted(part.at for part in parts)
    whole = merge_windows(windows)
    assert sum(part.batches for part in parts) == whole.batches
    assert sum(part.rows for part in parts) == whole.rows


@pytest.fixture
def run(tmp_path):
    with ServiceRun(
        Project.find(tmp_path), service_of(Rows), entry="rows.py:Rows", shown={"scale": "3.0"}
    ) as made:
        for replica in ("1", "2"):
            for _ in range(6):
                made.window(window(0.0, 1, 2, 8, busy_s=2.0, request_s=5.0, refused=1, replica=replica))
    return made


def test_a_run_as_it_is_shown(run):
    folder = run.project.runs.folder(run.id)
    assert is_service(folder)
    record = read_service(folder)
    text = service_text(record, alive=False)
    assert f"run {run.id}: finished" in text
    assert "service Rows(scale=3.0) of rows.py:Rows" in text
    assert "360 requests answered" in text
    assert ", 12 refused" in text
    assert "3.7 rows a batch, of at most 8" in text
    assert (
        "predict: a batch of n rows takes n x 1.00 ms (1.00 ms to 1.00 ms) + 5.00 ms (5.00 ms to 5.00 ms)"
        in text
    )
    assert "one replica, its batches full (8): 615 rows/s (615 to 615)\n" in text
    columns, rows = service_table(record)
    assert columns[2:6] == ("ready", "wanted", "asked/s", "answered/s")
    assert [row[-1] for row in rows] == ["12"]
    row = view_of(run.project.runs, run.id).row(0.0)
    assert (row.done, row.failed, row.status) == (360, 12, "finished")


def test_a_language_model_is_shown_by_its_tokens_and_steps(tmp_path):
    declared = dataclasses.replace(service_of(Paged), slo=parse_slo("p95 first < 2s, each < 100ms"))
    with ServiceRun(Project.find(tmp_path), declared, entry="paged.py:Paged", shown={}) as run:
        run.window(
            BatchWindow(at=time.time(), seconds=5.0, arrived=1, steps=token_windows(1, count=1)[0].steps)
        )
        for each in token_windows(1, count=3):
            run.window(
                msgspec.structs.replace(
                    each, at=time.time(), arrived=10, requests=10, over_slo=1, answer_tokens=300
                )
            )
    record = read_service(run.project.runs.folder(run.id))
    assert str(record.slo) == "p95 first < 2.00 s, each < 100 ms"
    text = service_text(record, alive=False)
    assert "900 tokens of answers" in text
    assert "200 steps, of " in text, "those before the first answer has ended, too"
    assert "SLO p95 first < 2.00 s, each < 100 ms: NOT kept, 90 % of requests within it" in text
    columns, rows = service_table(record)
    assert {"tokens/s", "whole p50", "whole p95", "in a step"} <= set(columns)
    cells = dict(zip(columns, rows[-1], strict=True))
    assert cells["in a step"] and cells["busy"] not in ("", "0%")
    picture = picture_of(record)
    assert picture.tokens is not None and picture.tokens.sum() > 0
    assert picture.limit is None, "a promise for first tokens is no limit of whole answers"
    panels = [each.title for each in service_panels(picture)]
    assert "tokens of answers per second" in panels and "requests in a step, on average" in panels
    assert "tokens per second" in service_plot(picture, width=80, colour=False, ascii_only=True)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("ending", [".svg", ".html", ".png"])
def test_a_run_as_a_picture(run, tmp_path, ending):
    record = read_service(run.project.runs.folder(run.id))
    file = save_service(record, tmp_path / f"service{ending}", alive=False)
    assert file.read_bytes()[:5] in (b"<?xml", b"<!DOC", b"\x89PNG\r")
    assert ending == ".png" or "Rows: load, replicas and latency" in file.read_text()


def test_what_cannot_be_a_picture_says_why(run, tmp_path):
    record = read_service(run.project.runs.folder(run.id))
    for name, says in [("service.pdf", "cannot be saved"), ("none/service.svg", "folder does not exist")]:
        with pytest.raises(UsageError, match=says):
            save_service(record, tmp_path / name, alive=False)
    silent = dataclasses.replace(record, windows=())
    with pytest.raises(UsageError, match="has no requests to draw"):
        save_service(silent, tmp_path / "service.svg", alive=False)


def test_a_run_as_plain_values(run):
    facts = json.loads(json.dumps(service_facts(read_service(run.project.runs.folder(run.id)), alive=False)))
    assert facts["laws"]["predict"]["a"]["value"] == pytest.approx(1e-3)
    assert (facts["requests"], facts["refused"], facts["declared"]["max_batch"]) == (360, 12, 8)
    assert sum(each["requests"] for each in facts["windows"]) == 360


def test_a_law_that_is_not_there_says_why(tmp_path):
    with ServiceRun(Project.find(tmp_path), service_of(Rows), entry="", shown={}) as made:
        made.window(window(0.0, 3))
    record = read_service(made.project.runs.folder(made.id))
    assert law_lines(record) == [
        "predict: no law yet, as calls from 1 blocks of time are too few to estimate their spread"
    ]
    assert "why_not" in service_facts(record, alive=False)["laws"]["predict"]


def test_one_that_was_killed_says_when_it_was_heard_of_last(run):
    record = dataclasses.replace(read_service(run.project.runs.folder(run.id)), finished=None)
    assert "ended without a word, last heard of at 20" in service_text(record, alive=False)
    assert f"run {run.id}: running after" in service_text(record, alive=True)
    facts = service_facts(record, alive=False)
    assert (facts["status"], facts["last_heard_at"]) == ("lost", record.until)


def leaves(made):
    """All values within, by where they are."""
    if isinstance(made, msgspec.Struct):
        made = msgspec.structs.asdict(made)
    if isinstance(made, tuple | list):
        made = dict(enumerate(made))
    if not isinstance(made, dict):
        return {(): made}
    return {(key, *more): leaf for key, each in made.items() for more, leaf in leaves(each).items()}


@pytest.mark.needs("cpu")
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([5.0, 5.0, 5.0, 3600.0])), min_size=1, max_size=400
    )
)
def test_merging_older_windows_keeps_all_sums_and_the_times_without_requests(steps):
    at = dict.fromkeys("ab", 1e9)
    windows = []
    for replica, step in steps:
        at[replica] += step
        windows.append(window(at[replica], 1, 4, replica=replica, busy_s=1.0, arrived=20))
    windows.sort(key=lambda each: each.at)
    fold, every = ServiceFold(most_windows=20), ServiceFold()
    for event in (RunStarted(at=1e9, run="r", pipeline="Rows", entry="x", kind="service"), *windows):
        fold.apply(event)
        every.apply(event)
    merged, plain = fold.record(), every.record()
    assert [(each.replica, each.at) for each in plain.windows] == [
        (each.replica, each.at) for each in windows
    ]
    for replica in "ab":
        own, all_of_it = (
            merge_windows([each for each in record.windows if each.replica == replica])
            for record in (merged, plain)
        )
        same = msgspec.structs.replace(all_of_it, seconds=own.seconds)
        found, wanted = leaves(own), leaves(same)
        assert found.keys() == wanted.keys()
        for place, leaf in wanted.items():
            close = pytest.approx(leaf, rel=1e-12) if isinstance(leaf, float) else leaf
            assert found[place] == close, (place, "floats were added in another order")
        spans = [(each.at - each.seconds, each.at) for each in merged.windows if each.replica == replica]
        assert all(end <= begin + 1e-6 for (_, end), (begin, _) in itertools.pairwise(spans))
        assert all(end - begin <= 1.5 * 5 * len(steps) for begin, end in spans)
    if all(step == 5.0 for _, step in steps):
        assert len(merged.windows) <= 20
    assert merged.windows[-1] == windows[-1]


def test_a_service_that_was_never_asked(tmp_path):
    with ServiceRun(Project.find(tmp_path), service_of(Rows), entry="", shown={}) as made:
        pass
    record = read_service(made.project.runs.folder(made.id))
    assert "0 requests answered" in service_text(record, alive=False)
    assert law_lines(record) == []
