"""Comet's archives: read as plain zips, and by Comet's own commands."""

import json
import math
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import msgspec
import pytest
from tests.fixtures.small_disk import fill

from hooke.base.errors import HookeError
from hooke.sinks.comet import CometSink
from hooke.sinks.comet_messages import comet_histogram, experiment_key
from hooke.sinks.sink import LoggedBatch, LoggedPoints, Media, ShippedRun, SinkAway
from hooke.testing import check_sink
from hooke.testing.sink_suite import SeenRun
from hooke.tracking.log import histogram_bytes
from hooke.tracking.logged_values import HistogramFile

STATUSES = {
    "finished": "finished",
    "failed": "failed",
    "lost": "stopped",
    "stopped": "stopped",
    "finished with failures": "failed",
    "running": "running",
}


def archives(folder: Path) -> list[Path]:
    assert not list(folder.glob(".*")), "nothing half-written stays"
    return sorted(folder.glob("*.zip"))


def seen_in_archive(file: Path) -> tuple[dict, SeenRun]:
    """What Comet's uploader would send, by the format alone."""
    with ZipFile(file) as archive:
        experiment = json.loads(archive.read("experiment.json"))
        seen = SeenRun()
        for line in archive.read("messages.json").decode().splitlines():
            message = json.loads(line)
            payload = message["payload"]
            match message["type"]:
                case "metric_msg":
                    metric = payload["metric"]
                    seen.points.append(
                        (
                            metric["metricName"],
                            metric["metricValue"],
                            metric["step"],
                            payload["local_timestamp"],
                        )
                    )
                case "parameter_msg":
                    seen.params[payload["param"]["paramName"]] = payload["param"]["paramValue"]
                case "ws_msg":
                    seen.tags[payload["log_other"]["key"]] = payload["log_other"]["val"]
                case "git_metadata":
                    seen.tags["git"] = payload["git_metadata"]["parent"]
                case "file_upload":
                    params, data = payload["additional_params"], archive.read(payload["file_path"])
                    match payload["upload_type"]:
                        case "asset":
                            seen.artifacts[params["fileName"]] = data
                        case "visualization":
                            assert data.startswith(b"\x89PNG")
                            seen.media.append(("image", params["figName"], params["step"]))
                        case "histogram3d":
                            assert json.loads(data)["index_values"]
                            seen.media.append(("histogram", params["fileName"], params["step"]))
    seen.name = seen.tags["Name"]
    seen.parent = seen.tags.get("hooke.parent")
    seen.status = STATUSES[seen.tags["hooke.status"]]
    return experiment, seen


def seen_in_archives(folder: Path, experiment: str) -> dict[str, SeenRun]:
    read = [seen_in_archive(file) for file in archives(folder)]
    assert len({facts["offline_id"] for facts, _ in read}) == len(read)
    return {seen.tags["hooke.run_id"]: seen for facts, seen in read if facts["project_name"] == experiment}


def a_run(key: str = "k", **fields) -> ShippedRun:
    return ShippedRun(key=key, parent=None, name=key, experiment="e", started_at=1.0, **fields)


def a_batch(*values: float, run: ShippedRun | None = None, **fields) -> LoggedBatch:
    steps = list(range(len(values)))
    points = LoggedPoints(["x"] * len(values), list(values), steps, [1.5 + step for step in steps])
    return LoggedBatch(run=run or a_run(), points=points, **fields)


@pytest.mark.needs("cpu")
def test_archives_pass_the_suite(tmp_path):
    check_sink(lambda: CometSink(tmp_path), lambda name: seen_in_archives(tmp_path / "comet", name))
    assert not list((tmp_path / ".hooke" / "comet").iterdir()), "no draft stays behind its archive"


def test_a_run_that_ended_has_its_archive_at_once_and_one_that_is_resumed_a_new_one(tmp_path):
    sink = CometSink(tmp_path)
    note = tmp_path / "note.txt"
    note.write_text("first")
    made_of = {"hooke.git.commit": "c0ffee", "hooke.git.branch": "main"}
    sink.write(
        a_batch(0.5, math.nan, params={"rate": "0.1"}, tags=made_of, artifacts={"deep/note.txt": note})
    )
    assert not archives(tmp_path / "comet"), "a run that goes on has a draft"
    sink.finish(a_run(status="failed", ended_at=9.0))
    (file,) = archives(tmp_path / "comet")
    facts, seen = seen_in_archive(file)
    assert (facts["start_time"], facts["stop_time"]) == (1000, 9000)
    assert facts["customer_error_reported"] and facts["customer_error_message"] == "the run was failed"
    note.unlink()
    again = CometSink(tmp_path)
    again.write(a_batch(0.5, math.nan, 3.0, params={"rate": "0.2"}))
    again.finish(a_run(status="finished", ended_at=12.0))
    assert archives(tmp_path / "comet") == [file]
    facts, seen = seen_in_archive(file)
    assert [repr(value) for _, value, _, _ in seen.points] == ["0.5", "nan", "3.0"]
    assert (seen.params, seen.artifacts) == ({"rate": "0.2"}, {"deep/note.txt": b"first"})
    assert (seen.status, facts["stop_time"], facts["customer_error_reported"]) == ("finished", 12000, False)
    assert seen.tags["git"] == "c0ffee" and seen.tags["hooke.git.branch"] == "main"
    assert facts["offline_id"] == experiment_key("k")


def test_equal_values_of_one_step_are_two_points_unless_they_are_one_that_came_twice(tmp_path):
    sink = CometSink(tmp_path)
    points = LoggedPoints(["x", "x", "x"], [1.0, 1.0, 1.0], [0, 0, 0], [1.5, 1.5001, 1.5])
    for _ in range(2):
        receipt = sink.write(LoggedBatch(run=a_run(), points=points))
        sink.close()
        assert receipt.merged == 1, "the third is in all the same as the first"
    _, seen = seen_in_archive(archives(tmp_path / "comet")[0])
    assert len(seen.points) == 2


@pytest.mark.needs("cpu")
def test_histograms_lie_in_comets_own_bins(tmp_path):
    from comet_ml.data_structure import Histogram

    for edges in ([-3.0, -1.0, 1.0, 3.0], [0.0, 1e-13, 1e-3, 5.0, 1e30], [-1e30, -1e-3, -1e-13, 0.0]):
        counts = [at + 2 for at in range(len(edges) - 1)]
        made = json.loads(comet_histogram(HistogramFile(edges=edges, counts=counts)))
        theirs = Histogram()
        assert len(theirs.values) > max(at for at, _ in made["index_values"])
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            middle = (low + high) / 2
            ((at, _),) = [each for each in made["index_values"] if each[1] == count]
            assert theirs.values[at] <= middle <= theirs.values[at + 1]
        read = Histogram.from_json(made, verbose=False)
        assert sum(read.counts) == sum(counts)
        assert made.keys() == theirs.to_json().keys()


@pytest.mark.parametrize("values", [[1e300] * 5, [-1.7e308, 1.7e308], [5e-324]])
def test_values_at_the_limits_of_floats_have_a_bin_of_comets(values):
    made = json.loads(comet_histogram(msgspec.json.decode(histogram_bytes(values), type=HistogramFile)))
    assert sum(count for _, count in made["index_values"]) == len(values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (histogram_bytes([math.nan]), "histogram 'w' has no finite value at step 0"),
        (b"", "histogram 'w' at step 0 cannot be read"),
    ],
    ids=["nan", "torn"],
)
def test_a_histogram_of_which_comet_can_show_nothing_is_said(tmp_path, content, said):
    file = tmp_path / "0.json"
    file.write_bytes(content)
    sink = CometSink(tmp_path)
    media = {"histograms/w/0.json": Media("histogram", "w", 0, 1.0)}
    receipt = sink.write(a_batch(1.0, artifacts={"histograms/w/0.json": file}, media=media))
    sink.close()
    (note,) = receipt.notes
    assert note.startswith(said)
    _, seen = seen_in_archive(archives(tmp_path / "comet")[0])
    assert len(seen.points) == 1 and not seen.media


@pytest.mark.parametrize("key", ["größe ✓/1/0", "a/1", "a-1", "../up", "x" * 300])
def test_a_key_gives_a_name_of_a_file_in_the_folder(tmp_path, key):
    sink = CometSink(tmp_path, archives="deep/comet")
    sink.write(a_batch(1.0, run=a_run(key)))
    sink.write(a_batch(2.0, run=msgspec.structs.replace(a_run("a/1"), name=key)))  # two of one name
    sink.close()
    assert set(seen_in_archives(tmp_path / "deep" / "comet", "e")) == {key, "a/1"}


def test_archives_that_are_not_ours_to_read_are_said_and_left(tmp_path):
    sink = CometSink(tmp_path)
    sink.write(a_batch(1.0))
    sink.close()
    (file,) = archives(tmp_path / "comet")
    torn = file.read_bytes()[:-30]
    file.write_bytes(torn)
    with pytest.raises(HookeError, match=f"the archive {file} cannot be read") as refused:
        CometSink(tmp_path).write(a_batch(1.0))
    assert not isinstance(refused.value, SinkAway)
    assert file.read_bytes() == torn
    file.unlink()
    CometSink(tmp_path).write(a_batch(2.0))
    (draft,) = (tmp_path / ".hooke" / "comet").glob("*.draft")
    draft.write_bytes(b"no database at all" * 100)
    with pytest.raises(HookeError, match="the draft of an archive for Comet is damaged"):
        CometSink(tmp_path).write(a_batch(2.0))


def test_what_an_earlier_crash_left_is_made_good(tmp_path, caplog):
    drafts = tmp_path / ".hooke" / "comet"
    drafts.mkdir(parents=True)
    sink = CometSink(tmp_path)
    sink.write(a_batch(1.0, run=a_run("killed before its archive")))
    half = tmp_path / "comet" / f".{CometSink(tmp_path)._sink.path('killed before its archive').name}.tmp"
    half.parent.mkdir()
    half.write_bytes(b"PK half")
    (drafts / f"{experiment_key('k')}.draft").touch()
    (drafts / f"{experiment_key('k')}.files").mkdir()
    (drafts / f"{experiment_key('k')}.files" / "asset-of-before").touch()
    (drafts / "0.files").mkdir()
    CometSink(tmp_path).close()
    assert [len(seen.points) for seen in seen_in_archives(tmp_path / "comet", "e").values()] == [1]
    assert not list(drafts.iterdir())
    assert not caplog.records


@pytest.mark.needs("processes")
def test_a_full_disk_is_a_tracker_that_is_away_and_leaves_what_was_there(small_disk):
    sink = CometSink(small_disk)
    sink.write(a_batch(1.0))
    sink.close()
    (file,) = archives(small_disk / "comet")
    whole = file.read_bytes()
    sink.write(a_batch(1.0, 2.0))
    ballast = fill(small_disk)
    with pytest.raises(SinkAway, match="an archive for Comet cannot be written now") as away:
        sink.write(a_batch(*map(float, range(2000))))
    assert "full" in away.value.why or "No space" in away.value.why
    with pytest.raises(SinkAway):
        sink.finish(a_run(status="finished", ended_at=5.0))
    sink.close()
    assert file.read_bytes() == whole
    ballast.unlink()
    sink.write(a_batch(*map(float, range(20))))
    sink.finish(a_run(status="finished", ended_at=5.0))
    _, seen = seen_in_archive(file)
    assert [value for _, value, _, _ in seen.points] == [1.0, 2.0, *map(float, range(20))]


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("seed", range(8))
def test_shippers_that_are_killed_at_any_moment_lose_nothing_and_double_nothing(tmp_path, seed):
    child = Path(__file__).with_name("comet_killed.py")
    done = subprocess.run(
        [sys.executable, str(child), str(tmp_path), str(seed)],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    points, images, killed = map(int, done.stdout.split())
    assert killed
    (seen,) = seen_in_archives(tmp_path / "comet", "sweep").values()
    assert [step for _, _, step, _ in seen.points] == list(range(points))
    assert seen.artifacts == {"a.bin": (tmp_path / "a.bin").read_bytes()}
    assert sorted(seen.media) == sorted(
        (kind, name, step)
        for kind, name in (("image", "sample"), ("histogram", "weights"))
        for step in range(images)
    )
    assert (seen.status, seen.params) == (STATUSES["lost"], {"n": "4"})
    assert not list((tmp_path / ".hooke" / "comet").iterdir())
