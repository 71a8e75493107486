"""Offline logs: files as the two clients write them, made here operation by operation, and damaged on purpose."""

import base64
import json
import sqlite3
from datetime import UTC, datetime

import pytest
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import SET_OPERATION, UpdateRunSnapshot
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as Created
from tests.importers.conftest import bring, brought, content, table

from hooke.base.errors import UsageError
from hooke.importers.landing import run_id
from hooke.importers.source import MOST_POINTS

NOW = 1_740_830_400
ID = "1fa44ac3-9f6f-4fad-84de-13e8e6b4e7db"


def classic(folder, operations, *, number=1, put=None, tail=b"", kind="run"):
    """A log of the classic client in `folder/.neptune/offline/run__ID__1__x`; returns its file."""
    place = folder / ".neptune" / "offline" / f"{kind}__{ID}__1__abcd"
    place.mkdir(parents=True, exist_ok=True)
    made = datetime.fromtimestamp(NOW, UTC).isoformat()
    facts = {"containerId": ID, "containerType": kind, "createdAt": made, "mode": "offline"}
    (place / "metadata.json").write_text(json.dumps(facts))
    lines = [
        json.dumps(
            {"obj": {"type": name, "path": path.split("/")} | fields, "version": number + at, "at": NOW}
        )
        for at, (name, path, fields) in enumerate(operations)
    ]
    file = place / f"data-{number}.log"
    file.write_bytes("".join(f"{line}\n" for line in lines).encode() + tail)
    (place / "last_put_version").write_text(str(len(operations) if put is None else put))
    return file


def floats(path, *values):
    return (
        "LogFloats",
        path,
        {"values": [{"value": v, "step": s, "ts": NOW + n} for n, (v, s) in enumerate(values)]},
    )


def scale(folder, messages, *, project="team/flights", run="run-1", version="v5", uploads=(), errors=()):
    """A database of neptune-scale in `folder/run`; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run_operations.sqlite3"
    with sqlite3.connect(file) as opened:
        opened.execute(
            "CREATE TABLE run_operations (sequence_id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER NOT NULL, "
            "operation_type INTEGER NOT NULL, operation BLOB NOT NULL, operation_size_bytes INTEGER NOT NULL)"
        )
        opened.execute(
            "CREATE TABLE metadata (id INTEGER PRIMARY KEY, version TEXT, project TEXT, run_id TEXT)"
        )
        opened.execute(
            "CREATE TABLE file_upload_requests (id INTEGER PRIMARY KEY, source_path TEXT, destination TEXT)"
        )
        opened.execute(
            "CREATE TABLE operation_errors (error_id INTEGER PRIMARY KEY, timestamp INTEGER, error_type TEXT, "
            "error_details TEXT, error_body TEXT, sequence_id INTEGER)"
        )
        opened.execute(
            "INSERT INTO metadata (version, project, run_id) VALUES (?, ?, ?)", (version, project, run)
        )
        for message in messages:
            blob = message if isinstance(message, bytes) else message.SerializeToString()
            row = (NOW * 1000, int(isinstance(message, Created)), blob, len(blob))
            opened.execute("INSERT INTO run_operations VALUES (NULL, ?, ?, ?, ?)", row)
        opened.executemany("INSERT INTO file_upload_requests VALUES (NULL, ?, ?)", uploads)
        opened.executemany("INSERT INTO operation_errors VALUES (NULL, ?, ?, ?, '', NULL)", errors)
    opened.close()
    return file


def update(*, step=None, seconds=NOW, preview=False):
    made = UpdateRunSnapshot()
    made.timestamp.seconds = seconds
    if step is not None:
        made.step.whole, made.step.micro = divmod(step, 1_000_000)
    if preview:
        made.preview.is_preview = True
    return made


def test_every_operation_of_the_classic_client(tmp_path, project):
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("a = 1")
    upload = tmp_path / ".neptune/offline" / f"run__{ID}__1__abcd" / "upload_path"
    upload.mkdir(parents=True)
    (upload / "made.txt").write_text("made in memory")
    png = base64.b64encode(b"\x89PNG...").decode()
    image = {"data": png, "name": "first", "description": None}
    text = {"value": "hello\n", "step": None, "ts": NOW}
    classic(
        tmp_path,
        [
            ("AssignFloat", "lr", {"value": 0.1}),
            ("AssignInt", "depth", {"value": 5}),
            ("AssignInt", "depth", {"value": 6}),
            ("AssignBool", "deep", {"value": True}),
            ("AssignString", "sys/name", {"value": "trees"}),
            ("AssignDatetime", "until", {"value": NOW * 1000 + 500}),
            ("AssignArtifact", "data", {"hash": "abc"}),
            ("AddStrings", "sys/tags", {"values": ["a", "b"]}),
            ("RemoveStrings", "sys/tags", {"values": ["a"]}),
            ("LogFloats", "old", {"values": [{"value": 1.0, "step": 0, "ts": NOW}]}),
            ("ClearFloatLog", "old", {}),
            ("AssignInt", "gone", {"value": 1}),
            ("DeleteAttribute", "gone", {}),
            floats("loss", (0.9, 0), (0.5, 0.5), (0.4, 0.1 + 0.2)),
            floats("acc", (0.1, None), (0.2, None), (0.3, None)),
            ("ConfigFloatSeries", "acc", {"min": 0, "max": 1, "unit": "%"}),
            ("LogStrings", "out", {"values": [text]}),
            ("LogImages", "pictures", {"values": [{"value": image, "step": 2, "ts": NOW}]}),
            (
                "UploadFile",
                "model",
                {"ext": "bin", "file_path": str(tmp_path / "model.bin"), "tmp_file_name": None},
            ),
            ("UploadFile", "made", {"ext": "txt", "file_path": None, "tmp_file_name": "made.txt"}),
            ("UploadFileContent", "note", {"ext": "txt", "file_content": base64.b64encode(b"note").decode()}),
            ("UploadFileSet", "code", {"file_globs": [f"{tmp_path}/src/*.py"], "reset": "False"}),
            ("TrackFilesToArtifact", "track", {"entries": [["s3://b/x", None]], "project_id": "p"}),
            (
                "CopyAttribute",
                "copy",
                {
                    "container_id": "c",
                    "container_type": "run",
                    "source_path": ["x"],
                    "source_attr_name": "Float",
                },
            ),
        ],
    )
    done, run = brought(project, tmp_path / ".neptune", files=tmp_path)
    assert done.run == run_id("", ID)
    logged = run.logged()
    assert [(p.name, p.value, p.step) for p in logged.points if p.name == "loss"] == [
        ("loss", 0.9, 0),
        ("loss", 0.5, 5),
        ("loss", 0.4, 3),
    ]
    assert [(p.value, p.step) for p in logged.metric("acc")] == [(0.1, 0), (0.2, 10), (0.3, 20)]
    assert not logged.metric("old")
    params = {note.name: note.value for note in logged.params}
    assert params == {
        "lr": "0.1",
        "depth": "6",
        "deep": "True",
        "until": "2025-03-01T12:00:00.500000+00:00",
        "data": "abc",
        "acc.config": '{"min": 0, "max": 1, "unit": "%"}',
    }
    tags = {note.name: note.value for note in logged.tags}
    assert (tags["neptune.sys/tags"], tags["track"], tags["copy"]) == ("b", "s3://b/x", "copy of c/x")
    assert table(run, "neptune/exact_steps.csv")[0]["value"] == "loss 0.30000000000000004"
    assert table(run, "out.csv")[0]["value"] == "hello\n"
    assert content(run, "model.bin") == "weights"
    assert content(run, "made.txt") == "made in memory"
    assert content(run, "note.txt") == "note"
    assert content(run, "code/a.py") == "a = 1"
    (picture,) = [each for each in logged.artifacts if each.path == "pictures/step_2.png"]
    assert picture.file.read_bytes() == b"\x89PNG..."
    assert done.losses.counts["values that the run itself cleared"] == 2
    assert run.status == "finished"
    assert "is unknown" in run._view().ended.message


@pytest.mark.needs("cpu")
def test_a_value_without_a_step_has_the_step_after_the_last_one_of_its_series(tmp_path, project):
    """Also where the values before it were written in an earlier batch."""
    png = base64.b64encode(b"\x89PNG...").decode()
    image = {"data": png, "name": None, "description": None}
    classic(
        tmp_path,
        [
            floats("loss", *((0.5, step) for step in range(7, 7 + MOST_POINTS))),
            floats("loss", (0.4, None)),
            *(
                ("LogImages", "pictures", {"values": [{"value": image, "step": step, "ts": NOW}]})
                for step in (2, None)
            ),
        ],
    )
    _, run = brought(project, tmp_path)
    logged = run.logged()
    assert [point.step for point in logged.metric("loss") if point.value == 0.4] == [7 + MOST_POINTS]
    assert [each.path for each in logged.artifacts if each.path.startswith("pictures/")] == [
        "pictures/step_2.png",
        "pictures/step_3.png",
    ]


def test_a_half_written_line_is_left_out_and_said(tmp_path, project):
    classic(tmp_path, [floats("loss", (0.9, 0))], put=7, tail=b'{"obj": {"type": "LogFlo')
    done, run = brought(project, tmp_path)
    assert [point.value for point in run.logged().points] == [0.9]
    assert done.losses.counts["half-written records at the end of a log"] == 1
    assert done.losses.counts["operations that the client never wrote out"] == 6
    assert "half-written records" in content(run, "neptune/report.md")


def test_logs_in_parts_are_one_run(tmp_path, project):
    for number in (1, 9, 10):
        classic(tmp_path, [floats("loss", (number, number))], number=number, put=10)
    done, run = brought(project, tmp_path)
    assert [point.step for point in run.logged().points] == [1, 9, 10]
    assert "operations that the client never wrote out" not in done.losses.counts


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: data.replace(b'{"obj"', b"{obj", 1), "a log of Neptune is damaged"),
        (lambda data: b"[1]\n" + data, "a log of Neptune is damaged"),
        (lambda data: b"\xff\xfe\x00\n" + data, "a log of Neptune is damaged"),
        (lambda data: data.replace(b"LogFloats", b"LogMatrix"), "unknown operation 'LogMatrix'"),
        (lambda data: data.replace(b'"values"', b'"value"'), "has an unexpected form"),
        (lambda data: data.replace(b'"step": 1.5', b'"step": Infinity'), "is not valid"),
    ],
    ids=[
        "no JSON",
        "no object",
        "no text",
        "an operation of tomorrow",
        "a field that is not there",
        "a step",
    ],
)
def test_a_damaged_log_is_refused_whole(tmp_path, project, damage, what):
    file = classic(tmp_path, [floats("loss", (0.9, 1.5)), floats("loss", (0.8, 2))])
    file.write_bytes(damage(file.read_bytes()))
    (failed,) = bring(project, tmp_path)
    assert what in failed.error.what
    assert failed.error.fix
    assert "data-1.log" in failed.error.where
    assert project.runs.names() == []


@pytest.mark.parametrize(
    "operation",
    [
        ("AssignString", "name", {"value": [None]}),
        ("AssignFloat", "lr", {"value": {"x": 1}}),
        ("AssignArtifact", "data", {"hash": [None]}),
    ],
)
def test_a_single_value_that_is_several_is_refused(tmp_path, project, operation):
    classic(tmp_path, [operation])
    (failed,) = bring(project, tmp_path)
    assert f"an operation {operation[0]} in a log of Neptune has an unexpected form" in failed.error.what
    assert "its value must be a single one" in failed.error.why
    assert project.runs.names() == []


def test_a_log_of_a_project_is_no_run(tmp_path, project):
    classic(tmp_path, [], kind="project")
    (failed,) = bring(project, tmp_path)
    assert "belongs to a project" in failed.error.what


def test_an_older_log_has_a_folder_a_process_and_no_metadata(tmp_path, project):
    for process in ("exec-1-a", "exec-2-b"):
        place = tmp_path / ".neptune/async" / f"run__{ID}" / process
        place.mkdir(parents=True)
        classic(tmp_path / "made", [floats("loss", (0.5, int(process[5])))]).rename(place / "data-1.log")
    done, run = brought(project, tmp_path / ".neptune")
    assert done.neptune_run == ID
    assert [point.step for point in run.logged().points] == [1, 2]


def test_a_file_that_happens_to_be_called_as_a_log_is_none(tmp_path, project):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/data-1.log").write_text("mine")
    with pytest.raises(UsageError, match="no Neptune runs"):
        bring(project, tmp_path)


def test_files_of_one_name_in_a_file_set_are_kept_apart(tmp_path, project):
    for name in ("a/x.py", "b/x.py", "b/deep/y.py"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(name)
    files = {"file_globs": [f"{tmp_path}/src/a/*.py", f"{tmp_path}/src/b/**"], "reset": "False"}
    classic(tmp_path / "log", [("UploadFileSet", "code", files)])
    _, run = brought(project, tmp_path / "log", files=tmp_path / "src")
    assert {
        each.path: each.file.read_text() for each in run.logged().artifacts if each.path.startswith("code")
    } == {f"code/{name}": name for name in ("a/x.py", "b/x.py", "b/deep/y.py")}


@pytest.mark.parametrize(
    "name", ["\ud800", "ü" * 200, "\U0001f600" * 90 + ".txt", "a\0b", "x" * 149 + "é.csv"]
)
def test_names_that_no_disk_takes(tmp_path, project, name):
    text = {"value": "hello", "step": 0, "ts": NOW}
    note = {"ext": "txt", "file_content": base64.b64encode(b"note").decode()}
    classic(tmp_path, [("LogStrings", name, {"values": [text]}), ("UploadFileContent", f"{name}/n", note)])
    _, run = brought(project, tmp_path)
    kept = [each for each in run.logged().artifacts if not each.path.startswith("neptune/")]
    assert sorted(each.file.read_text().split(",")[-1].strip() for each in kept) == ["hello", "note"]


def test_a_file_that_is_gone_may_be_skipped(tmp_path, project):
    gone = {"ext": "bin", "file_path": str(tmp_path / "gone.bin"), "tmp_file_name": None}
    classic(
        tmp_path, [("UploadFile", "model", gone), ("UploadFileSet", "code", {"file_globs": ["/no/*.py"]})]
    )
    (failed,) = bring(project, tmp_path)
    assert "--skip-missing" in failed.error.fix
    done, _ = brought(project, tmp_path, skip_missing=True)
    assert done.losses.counts["files that are not where the export says"] == 2


UPLOAD = {"ext": "txt", "tmp_file_name": None}


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("skip_missing", [False, True])
@pytest.mark.parametrize(
    "operation",
    [
        lambda out: ("UploadFile", "stolen", UPLOAD | {"file_path": f"{out}/secret.txt"}),
        lambda out: ("UploadFile", "stolen", UPLOAD | {"file_path": None, "tmp_file_name": "link.txt"}),
        lambda out: (
            "UploadFile",
            "stolen",
            UPLOAD | {"file_path": None, "tmp_file_name": "../" * 5 + "secret.txt"},
        ),
        lambda out: ("UploadFile", "stolen", UPLOAD | {"file_path": f"{out}/log/folder"}),
        lambda out: ("UploadFileSet", "stolen", {"file_globs": [f"{out}/*.txt"]}),
        lambda out: ("UploadFileSet", "stolen", {"file_globs": [f"{out}/log/**/*.txt"]}),
        lambda out: ("UploadFileSet", "stolen", {"file_globs": [f"{out}/log/*/../../secret.txt"]}),
    ],
    ids=[
        "absolute",
        "link",
        "dots",
        "folder with a link",
        "pattern",
        "pattern with a link",
        "pattern with dots",
    ],
)
def test_a_log_reads_no_file_outside_its_folder(tmp_path, project, operation, skip_missing):
    (tmp_path / "secret.txt").write_text("secret")
    log = tmp_path / "log"
    place = classic(log, [operation(tmp_path)]).parent
    (log / "folder").mkdir()
    (place / "upload_path").mkdir()
    for folder in (log / "folder", place / "upload_path"):
        (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (failed,) = bring(project, log, skip_missing=skip_missing)
    assert "is outside the imported folder" in failed.error.what
    assert f"--files {tmp_path}" in failed.error.fix
    assert project.runs.names() == []
    (dry,) = bring(project, log, skip_missing=skip_missing, dry_run=True)
    assert dry.error.what == failed.error.what
    _, run = brought(project, log, files=tmp_path)
    assert "secret" in {each.file.read_text() for each in run.logged().artifacts}


def test_the_metadata_of_a_log_is_no_link_to_another_file(tmp_path, project):
    (tmp_path / "config.json").write_text(json.dumps({"auth": "secret"}))
    place = classic(tmp_path / "log", [floats("loss", (0.9, 0))]).parent
    (place / "metadata.json").unlink()
    (place / "metadata.json").symlink_to(tmp_path / "config.json")
    (failed,) = bring(project, tmp_path / "log")
    assert "the metadata of a log is outside the imported folder" in failed.error.what


@pytest.mark.parametrize("linked", [False, True])
def test_a_log_of_neptune_scale_reads_no_file_outside_its_folder(tmp_path, project, linked):
    (tmp_path / "secret.txt").write_text("secret")
    assigned = update()
    assigned.assign["stolen"].file_ref.path = "run-1/stolen"
    named = tmp_path / ("log/link.txt" if linked else "secret.txt")
    scale(tmp_path / "log", [assigned], uploads=[(str(named), "run-1/stolen")])
    (tmp_path / "log/link.txt").symlink_to(tmp_path / "secret.txt")
    (failed,) = bring(project, tmp_path / "log", skip_missing=True)
    assert "the file of attribute 'stolen' is outside the imported folder" in failed.error.what
    _, run = brought(project, tmp_path / "log", files=tmp_path)
    assert content(run, "stolen") == "secret"


def test_the_files_of_a_copied_log_are_those_of_the_copy(tmp_path, project):
    assigned = update()
    assigned.assign["model"].file_ref.path = "run-1/model"
    (tmp_path / "log").mkdir()
    (tmp_path / "model.bin").write_text("of the original")
    (tmp_path / "log/model.bin").write_text("of the copy")
    scale(tmp_path / "log", [assigned], uploads=[(str(tmp_path / "model.bin"), "run-1/model")])
    _, run = brought(project, tmp_path / "log")
    assert content(run, "model") == "of the copy"


def test_every_value_of_neptune_scale(tmp_path, project):
    created = Created(experiment_id="exp", family="fam")
    created.creation_time.seconds = NOW
    created.fork_point.parent_run_id = "run-0"
    created.fork_point.step.whole = 4
    single = update()
    single.assign["lr"].float64 = 0.1
    single.assign["depth"].int64 = 6
    single.assign["deep"].bool = True
    single.assign["name"].string = "gbt"
    single.assign["until"].timestamp.seconds = NOW
    single.assign["columns"].string_set.values.extend(["x", "y"])
    single.assign["model"].file_ref.path = "run-1/model/model.bin"
    tags, untag = update(), update()
    for name in ("a", "b"):
        tags.modify_sets["sys/tags"].string.values[name] = SET_OPERATION.ADD
    untag.modify_sets["sys/tags"].string.values["a"] = SET_OPERATION.REMOVE
    points = []
    for number in range(3):
        points.append(update(step=number * 250_000, seconds=NOW + number))
        points[-1].append["loss"].float64 = 1 / (number + 1)
    ahead = update(step=3_000_000, preview=True)
    ahead.append["loss"].float64 = 9.0
    series = update(step=1_000_001)
    series.append["out"].string = "hello"
    series.append["counts"].histogram.bin_edges.extend([0, 1, 2])
    series.append["counts"].histogram.counts.values.extend([3, 4])
    series.append["shares"].histogram.bin_edges.extend([0, 1])
    series.append["shares"].histogram.densities.values.extend([1.0])
    series.append["pictures"].file_ref.path = "run-1/pictures/p.png"
    (tmp_path / "log").mkdir()
    (tmp_path / "log/model.bin").write_text("weights")
    (tmp_path / "p.png").write_text("picture")
    uploads = [
        ("/elsewhere/model.bin", "run-1/model/model.bin"),
        (str(tmp_path / "p.png"), "run-1/pictures/p.png"),
    ]
    scale(
        tmp_path / "log",
        [created, single, tags, untag, *points, ahead, series],
        uploads=uploads,
        errors=[(NOW * 1000, "NeptuneError", "too large")],
    )
    done, run = brought(project, tmp_path / "log", files=tmp_path)
    logged = run.logged()
    assert done.run == run_id("team/flights", "run-1")
    assert [(p.value, p.step, p.at) for p in logged.metric("loss")] == [
        (1.0, 0, NOW),
        (1 / 2, 25, NOW + 1),
        (1 / 3, 50, NOW + 2),
    ]
    assert [(p.value, p.step) for p in logged.metric("loss.preview")] == [(9.0, 300)]
    params = {note.name: note.value for note in logged.params}
    assert params == {
        "lr": "0.1",
        "depth": "6",
        "deep": "True",
        "name": "gbt",
        "until": "2025-03-01T12:00:00+00:00",
    }
    tags = {note.name: note.value for note in logged.tags}
    assert tags["neptune.parent"] == run_id("team/flights", "run-0")
    assert (tags["neptune.sys/forking/step"], tags["neptune.sys/tags"], tags["columns"]) == (
        "4.0",
        "b",
        "x, y",
    )
    assert table(run, "out.csv") == [{"step": "1.000001", "time": str(NOW), "value": "hello"}]
    assert json.loads(content(run, "counts.json"))["data"][0][2:] == ["counts", [0, 1, 2], [3, 4]]
    assert json.loads(content(run, "shares.json"))["data"][0][2:] == ["densities", [0, 1], [1.0]]
    assert content(run, "model.bin") == "weights"
    assert content(run, "pictures/step_1.000001.png") == "picture"
    assert table(run, "neptune/errors.csv")[0]["value"] == "NeptuneError: too large"


def point(value, step):
    made = update(step=step)
    made.append["loss"].float64 = value
    return made


def test_processes_of_one_run_are_one_run(tmp_path, project):
    scale(tmp_path / "logs/a", [point(0.9, 0)])
    scale(tmp_path / "logs/b", [point(0.5, 1_000_000)])
    scale(tmp_path / "logs/c", [point(0.1, 0)], run="run-2")
    done = bring(project, tmp_path / "logs")
    assert [(each.neptune_run, each.losses.values["points"]) for each in done] == [("run-1", 2), ("run-2", 1)]
    assert {each.state for each in bring(project, tmp_path / "logs")} == {"there"}


def test_damaged_databases_are_said_and_the_others_come(tmp_path, project):
    scale(tmp_path / "logs/good", [point(0.9, 0)])
    torn = scale(tmp_path / "logs/torn", [point(0.9, number) for number in range(2000)], run="torn")
    torn.write_bytes(torn.read_bytes()[:9000])
    (tmp_path / "logs/none").mkdir()
    (tmp_path / "logs/none/run_operations.sqlite3").write_text("not a database, by far: " * 50)
    scale(tmp_path / "logs/odd", [point(0.9, 0), b"\xff\xff\xff"], run="odd")
    scale(tmp_path / "logs/old", [], version="v2")
    unknown = update(step=0)
    unknown.append["loss"].SetInParent()
    scale(tmp_path / "logs/unknown", [unknown], run="unknown")
    done = bring(project, tmp_path / "logs")
    assert [each.neptune_run for each in done if each.error is None] == ["run-1"]
    said = "\n".join(each.error.what for each in done if each.error is not None)
    assert "operation 2 in a log of neptune-scale cannot be read" in said
    assert "has version 'v2'" in said
    assert "'loss' has the unknown type" in said
    assert said.count("a log of neptune-scale cannot be read") == 3
    assert all(each.error.fix and each.error.where for each in done if each.error is not None)
    assert project.runs.names() == [run_id("team/flights", "run-1")]


def test_a_run_that_a_dump_brought_is_not_brought_by_its_log(tmp_path, project):
    scale(tmp_path / "logs/a", [point(0.9, 0)])
    brought(project, tmp_path / "logs")
    scale(tmp_path / "more/a", [point(0.9, 0), point(0.8, 1)])
    (again,) = bring(project, tmp_path / "more")
    assert again.state == "changed"
