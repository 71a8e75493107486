"""Logs that Neptune's own clients wrote offline, ended well or killed with -9: all that is in them comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.importers import clients
from tests.importers.conftest import brought, content, table

from hooke.importers.landing import run_id

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]


@pytest.fixture
def written(tmp_path):
    """What a client writes into the folder that this returns."""

    def write(client, *more):
        folder = tmp_path / "client"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, clients.__file__, client, str(folder), *more],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == (-9 if more else 0), done.stderr
        return folder

    return write


def same_as_logged(run, steps_by):
    logged = run.logged()
    losses = [(point.value, point.step, point.at) for point in logged.metric("loss")]
    assert losses == [
        (clients.loss(step), step * steps_by // 4, clients.BEGAN + step) for step in range(len(losses))
    ]
    assert {note.name: note.value for note in logged.params} == {
        "lr": "0.1",
        "depth": "6",
        "name": "gbt",
        "deep": "True",
        "until": "2025-03-01T00:00:00+00:00",
    } | {
        note.name: note.value for note in logged.params if note.name.startswith(("monitoring", "source_code"))
    }
    tags = {note.name: note.value for note in logged.tags}
    assert tags["neptune.sys/tags"] == "b"
    assert table(run, "out.csv")[0]["value"] == "hello\nworld"
    return len(losses)


@pytest.mark.long
@pytest.mark.parametrize("ending", [(), ("kill",)], ids=["closed", "killed"])
def test_neptune_scale(written, project, ending):
    folder = written("scale", *ending)
    _, run = brought(project, folder)
    assert same_as_logged(run, 100) == clients.POINTS
    assert [point.value for point in run.logged().metric("acc")] == [
        step / 2 for step in range(clients.POINTS)
    ]
    assert json.loads(content(run, "weights.json"))["data"][0][2:] == ["counts", [0, 1, 2.5], [3, 4]]
    assert content(run, "note.bin") == "a note"
    assert [(point.value, point.step) for point in run.logged().metric("ahead.preview")] == [(9.0, 700)]
    tags = {note.name: note.value for note in run.logged().tags}
    assert (tags["neptune.parent"], tags["neptune.sys/forking/step"]) == (
        run_id("team/flights", "run-0"),
        "2.0",
    )
    assert [each.path for each in run.logged().artifacts if each.path.startswith("pictures")] == [
        "pictures/step_3.25.png"
    ]


@pytest.mark.long
@pytest.mark.parametrize("ending", [(), ("kill",)], ids=["closed", "killed"])
def test_the_classic_client(written, project, ending):
    """Killed, it loses what it had buffered: what is in the file is what comes, and how much is missing is said."""
    folder = written("classic", *ending)
    done, run = brought(project, folder / ".neptune", files=Path(clients.__file__).parent)
    came = same_as_logged(run, 100)
    (log,) = Path(folder).glob(".neptune/offline/*/data-1.log")
    whole = [line for line in log.read_bytes().split(b"\n")[:-1] if b'"loss"' in line]
    assert came == len(whole)
    assert content(run, "note.txt") == "a note"
    assert content(run, "code/clients.py") == Path(clients.__file__).read_text("utf-8")
    (picture,) = [each for each in run.logged().artifacts if each.path == "picture/step_2.png"]
    assert picture.file.read_bytes().startswith(b"\x89PNG")
    assert {note.name: note.value for note in run.logged().tags}["data"].endswith("clients.py")
    if ending:
        never = done.losses.counts["operations that the client never wrote out"]
        assert 2 * clients.POINTS >= never + 2 * came - 2 > 0
    else:
        assert came == clients.POINTS
        assert "operations that the client never wrote out" not in done.losses.counts
