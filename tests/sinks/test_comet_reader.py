"""Runs that are killed, and their archives as Comet's own command and its own checks of the format see them; no network."""

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import psutil
import pytest

from hooke.project.folder import Project
from hooke.sinks.comet import CometSink
from hooke.sinks.sink import LoggedBatch, LoggedPoints, ShippedRun
from hooke.sync.shipper import standing

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

TRAIN = """
    import os
    import numpy as np
    import hooke

    with hooke.start_run("größe", params={"rate": 0.1}):
        hooke.log_text("as it was", "deep/note.txt")
        hooke.log_image("sample", np.zeros((2, 2)))
        hooke.log_histogram("weights", [1, 2])
        hooke.set_tag("team", "ours")
        at = 0
        while True:
            hooke.log_metrics({"loss": float("nan") if at % 10 == 3 else 1 / (at + 1), "größe ✓": -at})
            at += 1
            os.write(1, b".")
"""


@cache
def cut_off() -> tuple[str, ...]:
    """What runs a command where there is no network; nothing, where the system does not let us."""
    unshare = shutil.which("unshare")
    words = (unshare, "--user", "--map-root-user", "--net") if unshare else ()
    return (
        words
        if words and subprocess.run([*words, "true"], check=False, capture_output=True).returncode == 0
        else ()
    )


def comet(*words: str, home: Path) -> str:
    """`comet WORDS`, with no key, a home of its own, and nowhere to connect to."""
    nowhere = "http://127.0.0.1:9"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COMET_")} | {
        "HOME": str(home),
        "PYTHONUTF8": "1",
        "COMET_URL_OVERRIDE": nowhere,
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
    }
    done = subprocess.run(
        [*cut_off(), sys.executable, "-m", "comet_ml.scripts.comet", *words],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout


def rows(file: Path, home: Path) -> list[tuple[str, str, str]]:
    """(section, name, value) of each thing that was logged."""
    read = csv.DictReader(io.StringIO(comet("offline", "--csv", str(file), home=home)))
    return [(row["section"], row["name"], row["value"]) for row in read if row["level"] == "detail"]


def check_by_comets_own_schemas(file: Path) -> None:
    """As `comet upload` does, before it sends: what fails there is dropped."""
    from comet_ml import schemas
    from comet_ml.messages import MetricMessage

    validators = {
        "metric_msg": schemas.get_metric_msg_validator(),
        "parameter_msg": schemas.get_parameter_msg_validator(),
        "ws_msg": schemas.get_ws_msg_validator(),
        "git_metadata": schemas.get_git_metadata_msg_validator(),
        "file_upload": schemas.get_upload_msg_validator(),
    }
    with ZipFile(file) as archive:
        experiment = json.loads(archive.read("experiment.json"))
        schemas.get_experiment_file_validator().validate(experiment)
        assert 32 <= len(experiment["offline_id"]) <= 50 and experiment["offline_id"].isalnum()
        for line in archive.read("messages.json").splitlines():
            message = json.loads(line)
            validators[message["type"]].validate(message["payload"])
            if message["type"] == "metric_msg":
                sent = MetricMessage.from_message_dict(message["payload"]).to_batch_message_dict()
                assert sent["timestamp"] == message["payload"]["local_timestamp"]


def steps(file: Path, name: str) -> list[tuple[int, str]]:
    with ZipFile(file) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    metrics = [message["payload"]["metric"] for message in messages if message["type"] == "metric_msg"]
    return [(each["step"], repr(each["metricValue"])) for each in metrics if each["metricName"] == name]


def shipper(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hooke.sync.background", str(folder)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def stop_shippers(folder: Path) -> None:
    """Those that the run started: `kill -9`, by their ids."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "hooke.sync.background" in words and str(folder) in words:
            process.kill()
            process.wait(60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_of_a_run_and_shippers_that_are_killed_every_point_is_read_back_once(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("HOOKE_SINKS", "comet")
    chance = random.Random(seed)
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN), encoding="utf-8")
    running = subprocess.Popen([sys.executable, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE)
    returned = 0
    while returned <= 1000:
        returned += len(os.read(running.stdout.fileno(), 4096))
    time.sleep(chance.uniform(0.0, 1.0))
    running.kill()
    returned += len(running.communicate()[0])
    stop_shippers(tmp_path)
    for _ in range(4):
        process = shipper(tmp_path)
        time.sleep(chance.uniform(0.3, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    subprocess.run(
        [sys.executable, "-m", "hooke", "sync", "--patience", "200"],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    project = Project.find(tmp_path)
    run = project.runs.find()
    assert standing(project.runs, run, "comet").told
    (file,) = (tmp_path / "comet").iterdir()
    found = rows(file, tmp_path)
    losses = [value for section, name, value in found if (section, name) == ("metric", "loss")]
    assert len(losses) in (returned, returned + 1), (
        "each point whose call returned, once; the last may have been on its way"
    )
    expected = ["nan" if at % 10 == 3 else repr(1 / (at + 1)) for at in range(len(losses))]
    assert losses == expected
    assert steps(file, "loss") == list(enumerate(expected))
    sizes = [value for section, name, value in found if (section, name) == ("metric", "größe ✓")]
    assert sizes == [repr(float(-at)) for at in range(len(losses))]
    assert ("param", "rate", "0.1") in found
    assert ("log_other", "team", "ours") in found
    assert ("log_other", "hooke.status", "lost") in found
    uploads = sorted(name for section, name, _ in found if section == "file_upload")
    assert uploads == ["asset", "histogram3d", "visualization"]
    check_by_comets_own_schemas(file)


@pytest.mark.long
def test_comets_own_checks_take_odd_names_and_what_it_shows_is_what_was_logged(tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("note")
    run = ShippedRun(key="a/1/0", parent="a", name="fit[0]", experiment="größe", started_at=1.0)
    sink = CometSink(tmp_path)
    receipt = sink.write(
        LoggedBatch(
            run=run,
            points=LoggedPoints(
                ["x\ny", "x", "x", "x"],
                [1.0, float("inf"), 1e300, float("nan")],
                [-1, 0, 2**40, 3],
                [1.0, 2.0, 3.0, 4.0],
            ),
            params={"empty": "", "two\nlines": "a\nb", "ü": "✓"},
            tags={"note": "line\nline", "hooke.git.commit": "c0ffee"},
            artifacts={"deep/ü.txt": note},
        )
    )
    sink.close()
    assert receipt.notes == [
        "'x\\ny' is called 'x y-78b04ae0' in Comet, where names have no line breaks",
        "'two\\nlines' is called 'two lines-b9e6235d' in Comet, where names have no line breaks",
    ]
    (file,) = (tmp_path / "comet").iterdir()
    check_by_comets_own_schemas(file)
    found = rows(file, tmp_path)
    assert [row for row in found if row[0] == "metric"] == [
        ("metric", "x y-78b04ae0", "1.0"),
        ("metric", "x", "inf"),
        ("metric", "x", "1e+300"),
        ("metric", "x", "nan"),
    ]
    assert {("param", "empty", ""), ("param", "two lines-b9e6235d", "a\\nb"), ("param", "ü", "✓")} <= set(
        found
    )
    assert {("log_other", "Name", "fit[0]"), ("log_other", "hooke.parent", "a")} <= set(found)
    assert [row[:2] for row in found if row[0] == "file_upload"] == [("file_upload", "asset")]
    assert "Section metric [count]: (min, max)" in comet("offline", str(file), home=tmp_path)
