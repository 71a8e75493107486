"""Dumps of neptune-exporter: what goes in comes back, and what is damaged is refused whole."""

import csv
import json
import shutil
import signal
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.importers.conftest import bring, brought, content, table
from tests.importers.dumps import (
    MADE,
    PROJECT,
    RUN,
    at,
    every_type,
    row,
    write_dump,
    write_files,
)

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import sync_path
from hooke.importers.landing import run_id
from hooke.importers.neptune import ImportOptions, import_neptune
from hooke.importers.source import MICRO, exact_step
from hooke.project.folder import Project
from hooke.running.run import Run


def test_every_type_comes_back(tmp_path, project):
    write_dump(tmp_path / "dump", every_type(), parts=2)
    write_files(tmp_path / "dump" / "files")
    done, run = brought(project, tmp_path / "dump")
    logged = run.logged()
    assert (done.state, run.status, done.run) == ("imported", "finished", run_id(PROJECT, RUN))
    assert [(p.value, p.step, p.at) for p in logged.metric("loss")] == [
        (1 / (n + 1), n * MICRO, at(n).timestamp()) for n in range(5)
    ]
    acc = [(p.value, Decimal(p.step) / MICRO) for p in logged.metric("acc")]
    eighths = [(n / 8, Decimal(n) / 8) for n in range(5)]
    assert acc == [*eighths, (0.75, Decimal("0.625001")), (1.0, Decimal("1.625001"))]
    assert {note.name: note.value for note in logged.params} == {
        "lr": "0.1",
        "depth": "6",
        "model/name": "gbt",
        "model/deep": "True",
        "data/until": "2025-02-28T11:59:59.500000+00:00",
    }
    tags = {note.name: note.value for note in logged.tags}
    assert tags["neptune.step_multiplier"] == "1000000"
    assert tags["neptune.parent"] == run_id(PROJECT, "RUN-0")
    assert (tags["neptune.sys/tags"], tags["data/columns"]) == ("a, b, c", "x, y")


def test_null_members_of_a_set_are_left_out_and_counted(tmp_path, project):
    write_dump(tmp_path / "dump", [row("columns", "string_set", ["x", None, "y", None])])
    done, run = brought(project, tmp_path / "dump")
    assert {note.name: note.value for note in run.logged().tags}["columns"] == "x, y"
    assert done.losses.counts["values that are null in the export"] == 2


def test_what_has_no_place_in_a_tracker_is_in_artifacts(tmp_path, project):
    write_dump(tmp_path / "dump", every_type())
    write_files(tmp_path / "dump" / "files")
    done, run = brought(project, tmp_path / "dump")
    assert [(line["step"], line["value"]) for line in table(run, "out.csv")] == [
        ("0", "hello\nworld"),
        ("1.5", 'a, "b"'),
    ]
    weights = json.loads(content(run, "weights.json"))
    assert weights["columns"] == ["step", "time", "type", "edges", "values"]
    assert weights["data"] == [["1", f"{at(3).timestamp():.0f}", "COUNTING", [0, 1, 2.5], [3, 4]]]
    attributes = json.loads(content(run, "neptune/attributes.json"))
    assert attributes["depth"] == {"type": "int", "value": 6}
    assert attributes["sys/tags"] == {"type": "string_set", "value": ["a", "b, c"]}
    for path, source in [
        ("config.yaml", "config.yaml"),
        ("model/weights.bin", "team/weights.bin"),
        ("code/a.py", "code/a.py"),
        ("code/sub/b.py", "code/sub/b.py"),
        ("data/source.json", "files_list.json"),
        ("pictures/step_0.png", "0.png"),
        ("pictures/step_0.5.png", "1.png"),
    ]:
        assert content(run, path) == f"content of {source}"
    counts = done.losses.counts
    assert counts["metric values at decimal steps"] == 5
    assert counts["values of text series"] == counts["files of file series"] == counts["sets of strings"] == 2
    assert counts["files that the export itself lacks"] == counts["forks of another run"] == 1
    report = content(run, "neptune/report.md")
    assert "| metric values at decimal steps | 5 | step times 1000000, exact;" in report
    assert "- gone" in report


def test_times_are_those_of_then(tmp_path, project):
    write_dump(tmp_path / "dump", every_type())
    write_files(tmp_path / "dump" / "files")
    _, run = brought(project, tmp_path / "dump", experiment="old")
    begun, ended = run.journal.__next__(), run._view().ended
    assert (begun.at, begun.kind, begun.experiment) == (MADE.timestamp(), "imported", "old")
    assert ended.at == at(10).timestamp()


def test_a_second_import_finds_the_run_and_says_when_its_source_grew(tmp_path, project):
    files = write_dump(tmp_path / "dump", [row("lr", "float", 0.1)])
    assert bring(project, tmp_path / "dump")[0].state == "imported"
    assert bring(project, tmp_path / "dump")[0].state == "there"
    pq.write_table(pq.read_table(files[0]).slice(0, 0), files[0])
    write_dump(tmp_path / "dump", [row("lr", "float", 0.1), row("text", "string", "x" * 5000)])
    (again,) = bring(project, tmp_path / "dump")
    assert again.state == "changed"
    assert project.runs.names() == [again.run]
    assert [note.value for note in Run(project, again.run).logged().params] == ["0.1"]


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path, project):
    write_dump(tmp_path / "dump", every_type())
    write_files(tmp_path / "dump" / "files")
    (looked,) = bring(project, tmp_path / "dump", dry_run=True)
    assert not project.data.exists()
    (done,) = bring(project, tmp_path / "dump")
    assert (looked.state, looked.losses.counts, looked.losses.values) == (
        "found",
        done.losses.counts,
        done.losses.values,
    )


def test_runs_and_projects_are_chosen_by_pattern(tmp_path, project):
    for name, run in [("team/a", "A-1"), ("team/a", "A-2"), ("team/b", "B-1")]:
        write_dump(tmp_path / "dump", [row("lr", "float", 0.1)], project=name, run=run)
    done = bring(project, tmp_path / "dump", projects=("team/a",), runs=("*-2", "B-1"))
    assert [each.neptune_run for each in done] == ["A-2"]
    with pytest.raises(UsageError, match="matches") as wrong:
        bring(project, tmp_path / "dump", runs=("C-1",))
    assert "team/b: B-1" in wrong.value.fix


def damage_cut(files):
    files[0].write_bytes(files[0].read_bytes()[:-200])


def damage_hole(files):
    data = bytearray(files[0].read_bytes())
    data[4:400] = bytes(396)
    files[0].write_bytes(data)


def damage_none(files):
    pass


@pytest.mark.parametrize(
    ("rows", "damage", "what"),
    [
        ([row("lr", "float", 0.1)], damage_cut, "cannot be read"),
        ([row("lr", "float", 0.1)], damage_hole, "cannot be read"),
        (
            [row("lr", "complex", "1+1j")],
            damage_none,
            "'lr' has the unknown type 'complex'",
        ),
        (
            [row("plan", "file", {"path": "plan.txt"})],
            damage_none,
            "the file of attribute 'plan' is missing",
        ),
        (
            [row("lr", "float", 0.1) | {"run_id": "other"}, row("lr", "float", 0.2)],
            damage_none,
            "has rows of",
        ),
        ([], damage_none, "has no rows"),
    ],
)
def test_what_is_damaged_is_refused_whole_and_the_others_go_on(tmp_path, project, rows, damage, what):
    bad = write_dump(tmp_path / "dump", rows, run="BAD")
    write_dump(tmp_path / "dump", [row("lr", "float", 0.1)], run="GOOD")
    damage(bad)
    done = bring(project, tmp_path / "dump")
    (error,) = [each.error for each in done if each.error is not None]
    assert what in error.what
    assert error.fix
    assert project.runs.names() == [run_id(PROJECT, "GOOD")]
    assert not (project.data / "importing").exists()


def test_a_missing_file_may_be_skipped(tmp_path, project):
    write_dump(tmp_path / "dump", [row("plan", "file", {"path": "plan.txt"}), row("lr", "float", 0.1)])
    done, run = brought(project, tmp_path / "dump", skip_missing=True)
    assert done.losses.counts["files that are not where the export says"] == 1
    assert "- plan" in content(run, "neptune/report.md")


def test_files_may_lie_elsewhere(tmp_path, project):
    write_dump(tmp_path / "dump", every_type())
    write_files(tmp_path / "elsewhere")
    (failed,) = bring(project, tmp_path / "dump" / "data")
    assert "--files" in failed.error.fix
    _, run = brought(project, tmp_path / "dump" / "data", files=tmp_path / "elsewhere")
    assert content(run, "config.yaml") == "content of config.yaml"


def test_parts_that_are_missing_are_said(tmp_path, project):
    rows = [row(name, "int", at) for at, name in enumerate("abcd")]
    parts = write_dump(tmp_path / "dump", rows, parts=4)
    parts[0].unlink()
    parts[2].rename(f"{parts[2]}.tmp")
    cut, done = bring(project, tmp_path / "dump")
    assert "incomplete" in cut.error.what
    assert done.losses.counts["parts of the export that are missing"] == 2
    assert [note.name for note in Run(project, done.run).logged().params] == ["b", "d"]


@pytest.mark.parametrize("path", ["/etc/hostname", "../outside.txt", "a/../../outside.txt"])
def test_a_dump_reads_no_file_outside_it(tmp_path, project, path):
    write_dump(tmp_path / "dump", [row("stolen", "file", {"path": path})])
    (tmp_path / "dump/outside.txt").write_text("secret")
    (failed,) = bring(project, tmp_path / "dump", skip_missing=True)
    assert "outside the dump" in failed.error.what
    assert project.runs.names() == []


@pytest.mark.parametrize("name", ["link.txt", "folder"])
def test_a_dump_reads_no_file_through_a_link_out_of_it(tmp_path, project, name):
    write_dump(tmp_path / "dump", [row("stolen", "file_set", {"path": name})])
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "dump/files/folder").mkdir(parents=True)
    for link in ("link.txt", "folder/link.txt"):
        (tmp_path / "dump/files" / link).symlink_to(tmp_path / "outside.txt")
    (failed,) = bring(project, tmp_path / "dump", skip_missing=True)
    assert "is outside the imported folder" in failed.error.what
    assert project.runs.names() == []


def test_no_path_is_both_a_file_and_a_folder(tmp_path, project):
    paths = ["model", "model/weights", "model/weights/first", "data/x", "data", "data-2"]
    rows = [row(path, "file", {"path": str(number)}) for number, path in enumerate(paths)]
    rows += [row("model", "file_series", {"path": "0"}, 1, at(0)) for _ in range(2)]
    write_dump(tmp_path / "dump", rows)
    (tmp_path / "dump/files").mkdir()
    for number in range(len(paths)):
        (tmp_path / "dump/files" / str(number)).write_text(paths[number])
    _, run = brought(project, tmp_path / "dump")
    found = {each.path: each.file for each in run.logged().artifacts}
    assert sorted(
        file.read_text() for path, file in found.items() if not path.startswith("neptune/")
    ) == sorted([*paths, "model", "model"])
    for path, file in found.items():
        assert file.name == path.rpartition("/")[2]
        assert not any(other.startswith(f"{path}/") for other in found)


def test_what_is_no_dump_is_said(tmp_path, project):
    with pytest.raises(UsageError, match="no Neptune runs"):
        bring(project, tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        bring(project, tmp_path / "typo")
    (tmp_path / "p").mkdir()
    pq.write_table(
        pq.read_table(write_dump(tmp_path / "d", [])[0]).select([0, 1]), tmp_path / "p/x_part_0.parquet"
    )
    (done,) = bring(project, tmp_path / "p")
    assert "not written by neptune-exporter" in done.error.what


def test_a_multiplier_that_is_too_small_is_refused(tmp_path, project):
    write_dump(tmp_path / "dump", [row("loss", "float_series", 1.0, "0.25", at(0))])
    (failed,) = bring(project, tmp_path / "dump", step_multiplier=10)
    assert "give 100" in failed.error.fix
    _, run = brought(project, tmp_path / "dump", step_multiplier=1000)
    assert [point.step for point in run.logged().points] == [250]


def test_names_that_a_disk_does_not_take(tmp_path, project):
    rows = [
        row("../../up", "string_series", "a", 0, at(0)),
        row("x" * 300 + "/y", "string_series", "b", 0, at(0)),
    ]
    rows += [row("a", "string_series", "c", 0, at(0)), row("a.csv", "file", {"path": "a.csv"})]
    write_dump(tmp_path / "dump", rows)
    (tmp_path / "dump/files").mkdir()
    (tmp_path / "dump/files/a.csv").write_text("d")
    _, run = brought(project, tmp_path / "dump")
    found = {each.path: each.file for each in run.logged().artifacts}
    assert all(file.resolve().is_relative_to(run.folder.resolve()) for file in found.values())
    assert found["a-2.csv"].read_text() == "d"
    assert table(run, "a.csv")[0]["value"] == "c"
    assert "_/_/up.csv" in found


steps = st.integers(-(10**17), 10**17)
values = st.floats(allow_nan=False)
times = st.integers(0, 4 * 10**12)


@pytest.mark.long
@pytest.mark.needs("processes")
@given(
    points=st.lists(st.tuples(st.sampled_from("ab"), values, steps, times), min_size=1, max_size=30),
    texts=st.lists(st.tuples(st.text(), steps), max_size=8),
    notes=st.dictionaries(
        st.text("xyz/", min_size=1), st.one_of(values, st.integers(-(2**63), 2**63 - 1), st.text())
    ),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_in_comes_back(tmp_path, points, texts, notes):
    for old in tmp_path.iterdir():
        shutil.rmtree(old)
    (tmp_path / "project").mkdir()
    kinds = {float: "float", int: "int", str: "string"}
    rows = [
        row(name, "float_series", value, Decimal(step).scaleb(-6), datetime.fromtimestamp(when / 1000, UTC))
        for name, value, step, when in points
    ]
    rows += [row("out", "string_series", text, Decimal(step).scaleb(-6), at(0)) for text, step in texts]
    rows += [row(f"note/{name}", kinds[type(value)], value) for name, value in notes.items()]
    write_dump(tmp_path / "dump", rows)
    _, run = brought(Project.find(tmp_path / "project"), tmp_path / "dump")
    logged = run.logged()
    by = int({note.name: note.value for note in logged.tags}.get("neptune.step_multiplier", "1"))
    assert sorted((p.name, p.value, p.step * MICRO // by, p.at) for p in logged.points) == sorted(
        (name, value, step, when / 1000) for name, value, step, when in points
    )
    assert all(point.step * MICRO % by == 0 for point in logged.points)
    if texts:
        (found,) = [each for each in logged.artifacts if each.path == "out.csv"]
        with found.file.open(encoding="utf-8", newline="") as file:
            assert [(line["value"], line["step"]) for line in csv.DictReader(file)] == [
                (text, exact_step(step)) for text, step in texts
            ]
    attributes = json.loads(content(run, "neptune/attributes.json"))
    assert {name: attributes[f"note/{name}"]["value"] for name in notes} == notes


def test_another_import_is_waited_for(tmp_path, project):
    for run in ("A", "B"):
        write_dump(tmp_path / "dump", [row("lr", "float", 0.1)], run=run)
    first = import_neptune(project, ImportOptions(path=tmp_path / "dump"))
    next(first)
    with pytest.raises(UsageError, match="another import"):
        bring(project, tmp_path / "dump")
    assert [each.state for each in first] == ["imported"]


def test_a_run_in_its_place_is_told_before_ctrl_c_ends_the_import(tmp_path, project, monkeypatch):
    for run in ("A", "B"):
        write_dump(tmp_path / "dump", [row("lr", "float", 0.1)], run=run)

    def interrupted(path):
        sync_path(path)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("hooke.importers.neptune.sync_path", interrupted)
    told = []
    with pytest.raises(KeyboardInterrupt):
        told.extend(import_neptune(project, ImportOptions(path=tmp_path / "dump")))
    assert [each.run for each in told] == project.runs.names() == [run_id(PROJECT, "A")]
    assert not (project.data / "importing").exists()


def test_resume_refuses(tmp_path, project):
    from hooke.running.resume import resume

    write_dump(tmp_path / "dump", [row("lr", "float", 0.1), row("sys/failed", "bool", True)])
    _, run = brought(project, tmp_path / "dump")
    assert run.status == "failed"
    with pytest.raises(UsageError, match="imported from Neptune"):
        resume(project, run.id)
    with pytest.raises(HookeError):
        run.result()
