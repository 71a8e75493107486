"""Bytes of a dump or a log changed anywhere: the run comes or is refused with what to do, and nothing else happens."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.importers.conftest import bring
from tests.importers.dumps import every_type, write_dump, write_files
from tests.importers.test_logs import NOW, classic, floats, point, scale, update

from hooke.project.folder import Project

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)
some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(data: bytes, where) -> bytes:
    changed = bytearray(data)
    for at, value in where:
        changed[int(at * len(changed))] = value
    return bytes(changed)


def bring_it_or_say_why(folder: Path, tmp_path: Path):
    shutil.rmtree(tmp_path / "project", ignore_errors=True)
    (tmp_path / "project").mkdir()
    project = Project.find(tmp_path / "project")
    for each in bring(project, folder, skip_missing=True):
        if each.error is None:
            assert (project.runs.folder(each.run) / "driver.journal").exists()
        else:
            assert each.error.fix
            assert each.error.where


@given(flips)
@some
def test_a_dump(tmp_path, where):
    folder = tmp_path / "dump"
    if not folder.exists():
        (file,) = write_dump(folder, every_type())
        write_files(folder / "files")
        (tmp_path / "sound").write_bytes(file.read_bytes())
    (file,) = (folder / "data").glob("*/*.parquet")
    file.write_bytes(damaged((tmp_path / "sound").read_bytes(), where))
    bring_it_or_say_why(folder, tmp_path)


@given(flips)
@some
def test_a_log_of_the_classic_client(tmp_path, where):
    file = classic(
        tmp_path / "log",
        [
            ("AssignDatetime", "until", {"value": NOW * 1000}),
            ("AddStrings", "tags", {"values": ["a"]}),
            floats("loss", (0.9, 0.5)),
            ("UploadFileContent", "note", {"ext": "txt", "file_content": "bm90ZQ=="}),
        ],
    )
    file.write_bytes(damaged(file.read_bytes(), where))
    bring_it_or_say_why(tmp_path / "log", tmp_path)


@given(flips)
@some
def test_a_log_of_neptune_scale(tmp_path, where):
    folder = tmp_path / "log"
    shutil.rmtree(folder, ignore_errors=True)
    single = update()
    single.assign["until"].timestamp.seconds = NOW
    single.assign["name"].string = "gbt"
    file = scale(folder, [single, point(0.9, 500_000)])
    file.write_bytes(damaged(file.read_bytes(), where))
    bring_it_or_say_why(folder, tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["value", "step", "ts"]), inner)
    ),
    max_leaves=4,
)
KINDS = [
    "LogFloats",
    "LogStrings",
    "LogImages",
    "AssignInt",
    "AssignDatetime",
    "AddStrings",
    "UploadFile",
    "CopyAttribute",
]
KINDS += [
    "UploadFileContent",
    "UploadFileSet",
    "TrackFilesToArtifact",
    "ConfigFloatSeries",
    "DeleteFiles",
    "ClearFloatLog",
]
FIELDS = [
    "value",
    "values",
    "ext",
    "file_path",
    "tmp_file_name",
    "file_content",
    "file_globs",
    "entries",
    "hash",
]


@pytest.mark.long
@given(
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=3),
    st.lists(st.text(max_size=3), max_size=2) | values,
)
@some
def test_operations_with_fields_of_any_type(tmp_path, kind, fields, path):
    file = classic(tmp_path / "log", [])
    file.write_text(json.dumps({"obj": {"type": kind, "path": path} | fields, "version": 1}) + "\n")
    bring_it_or_say_why(tmp_path / "log", tmp_path)
