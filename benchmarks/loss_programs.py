"""The programs of `losses.py`: the few lines that a user of each tracker would write, and how what it kept is read back.

Every program is a loop that logs `loss = 0, 1, 2, …`, one point a call, and notes in a mapped file of 32 bytes, which outlives
it, how many calls had returned, how long the longest took, and that one raised (there the loop ends, as training would).
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "TRACKERS", "Notes", "Tracker", "program"]

ROOT = Path(__file__).resolve().parents[1]
_NOTES = struct.Struct("<qdqq")


@dataclass(frozen=True, slots=True)
class Notes:
    """What a program noted of its calls."""

    returned: int
    longest_s: float
    raised: bool
    ended: bool

    @classmethod
    def make(cls, file: Path) -> None:
        """An empty note, for the program to write in."""
        file.write_bytes(bytes(_NOTES.size))

    @classmethod
    def read(cls, file: Path) -> Notes:
        """What is noted by now."""
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), _NOTES.size) as shared:
            returned, longest, raised, ended = _NOTES.unpack(shared[:])
        return cls(returned, longest, bool(raised), bool(ended))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """A tracker through its own public API. `kept` reads the values back from the folder of the program, or a server."""

    title: str
    distribution: str
    begin: str
    log: str
    end: str
    kept: Callable[[Path, str], list[float]]
    environment: dict[str, str]
    serverless: bool = True
    """Whether it is tried without a server."""
    served: bool = False
    """Whether it is tried with a tracking server."""
    python: Path = Path(sys.executable)
    reported: Callable[[Path], int] = lambda _folder: 0
    """How many calls the tracker itself says, afterwards, that it has refused."""


def program(tracker: Tracker, *, count: int, pause_s: float) -> str:
    """The source of a loop of `count` calls, `pause_s` apart."""
    return f"""\
import mmap, os, struct, sys, time

if __name__ == "__main__":
    with open(os.environ["NOTES"], "r+b") as file:
        notes = mmap.mmap(file.fileno(), {_NOTES.size})
    clock, longest, raised, at = time.perf_counter, 0.0, None, -1
{textwrap.indent(tracker.begin, " " * 4)}
    with open(os.environ["BEGUN"], "w"):
        pass
    for at in range({count}):
        began = clock()
        try:
{textwrap.indent(tracker.log, " " * 12)}
        except Exception as error:
            raised = error
        longest = max(longest, clock() - began)
        if raised is not None:
            struct.pack_into("<qdqq", notes, 0, at, longest, 1, 0)
            raise raised
        struct.pack_into("<qdqq", notes, 0, at + 1, longest, 0, 0)
        time.sleep({pause_s}) if {pause_s} else None
{textwrap.indent(tracker.end, " " * 4)}
    struct.pack_into("<qdqq", notes, 0, at + 1, longest, 0, 1)
"""


def _in_journal(folder: Path, _uri: str) -> list[float]:
    from hooke.project.folder import Project
    from hooke.running.run import Run

    project = Project.find(folder)
    return [point.value for point in Run(project, project.runs.find()).logged().metric("loss")]


def _refused(folder: Path) -> int:
    from hooke.project.folder import Project
    from hooke.running.run import Run

    project = Project.find(folder)
    run = Run(project, project.runs.find())
    return sum(refused.calls for refused in run.logged().refused.values())


def _in_mlflow_after_sync(folder: Path, uri: str) -> list[float]:
    environment = os.environ | {"HOOKE_SINKS": "mlflow", "MLFLOW_TRACKING_URI": uri}
    hooke = [sys.executable, "-m", "hooke", "sync"]
    subprocess.run(hooke, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return _in_mlflow(folder, uri)


def _in_mlflow(folder: Path, uri: str) -> list[float]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri or f"sqlite:///{folder / 'peer.db'}")
    (experiment,) = client.search_experiments(filter_string=f"name = '{_experiment(folder)}'")
    runs = client.search_runs([experiment.experiment_id])
    return [point.value for run in runs for point in client.get_metric_history(run.info.run_id, "loss")]


def _experiment(folder: Path) -> str:
    return (folder / "experiment").read_text()


def _in_comet(folder: Path, _uri: str) -> list[float]:
    found = []
    for archive in (folder / "comet").glob("*.zip"):
        if not zipfile.is_zipfile(archive):
            continue
        lines = _output(
            [str(Path(sys.executable).with_name("comet")), "offline", "--csv", str(archive)], folder
        )
        rows = [line.strip().strip('"').split('","') for line in lines]
        found += [float(row[6]) for row in rows if row[3:6] == ["detail", "metric", "loss"]]
    return found


def _in_neptune(folder: Path, _uri: str) -> list[float]:
    import sqlite3

    from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot

    found = []
    for file in folder.glob("neptune/*/run_operations.sqlite3"):
        with sqlite3.connect(file) as base:
            updates = base.execute("select operation from run_operations where operation_type = 0").fetchall()
        for (update,) in updates:
            values = UpdateRunSnapshot.FromString(update).append
            found += [values[name].float64 for name in values if name == "loss"]
    return found


def _in_wandb(folder: Path, _uri: str) -> list[float]:
    """W&B's file is a log of LevelDB: blocks of 32 KiB with records of checksum, length and kind (whole, first, middle, last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, block = [], 1 << 15
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        raw, at, parts = file.read_bytes(), 7, b""
        while at + 7 <= len(raw):
            left = block - at % block
            _, size, kind = struct.unpack_from("<IHB", raw, at) if left >= 7 else (0, 0, 0)
            if kind == 0 or at + 7 + size > len(raw):
                at += left
                continue
            parts += raw[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                record = Record.FromString(parts)
                items = record.history.item
                found += [float(json.loads(item.value_json)) for item in items if "loss" in item.nested_key]
                parts = b""
    return found


def _in_trackio(folder: Path, _uri: str) -> list[float]:
    trackio = str(TRACKERS["trackio"].python.with_name("trackio"))
    ask = [trackio, "get", "metric", "--project", "p", "--run", "r", "--metric", "loss", "--json"]
    lines = _output(ask, folder, TRACKIO_DIR=str(folder / "trackio"))
    return [each["value"] for each in json.loads("\n".join(lines) or "{}").get("values", [])]


def _output(command: list[str], folder: Path, **variables: str) -> list[str]:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


def _mlflow(title: str, *, synchronous: bool) -> Tracker:
    return Tracker(
        title=title,
        distribution="mlflow",
        begin="""\
import mlflow
mlflow.set_tracking_uri(os.environ.get("SERVER") or "sqlite:///peer.db")
mlflow.set_experiment(open("experiment").read())
mlflow.start_run()
""",
        log=f"mlflow.log_metric('loss', float(at), step=at, synchronous={synchronous})",
        end="" if synchronous else "mlflow.flush_async_logging()",
        kept=_in_mlflow,
        environment={},
        served=True,
    )


_HOOKE = {
    "distribution": "hooke-ml",
    "begin": "import hooke\nrun = hooke.start_run(open('experiment').read())",
    "log": "hooke.log_metric('loss', at)",
    "end": "run.finish()",
}

TRACKERS = {
    "hooke": Tracker(
        title="Hooke", kept=_in_journal, environment={"HOOKE_SINKS": "none"}, reported=_refused, **_HOOKE
    ),
    "hooke-mlflow": Tracker(
        title="Hooke",
        kept=_in_mlflow_after_sync,
        environment={"HOOKE_SINKS": "mlflow"},
        serverless=False,
        served=True,
        **_HOOKE,
    ),
    "mlflow": _mlflow("MLflow", synchronous=True),
    "mlflow-async": _mlflow("MLflow, asynchronous", synchronous=False),
    "comet": Tracker(
        title="Comet, offline",
        distribution="comet_ml",
        begin="""\
import comet_ml
experiment = comet_ml.OfflineExperiment(
    offline_directory="comet", project_name="p", workspace="w", log_code=False, log_env_details=False
)
""",
        log="experiment.log_metric('loss', float(at), step=at)",
        end="experiment.end()",
        kept=_in_comet,
        environment={},
    ),
    "neptune": Tracker(
        title="neptune-scale, offline",
        distribution="neptune-scale",
        begin="""\
import neptune_scale
run = neptune_scale.Run(project="w/p", run_id="r", mode="offline", log_directory="neptune")
""",
        log="run.log_metrics({'loss': float(at)}, step=at)",
        end="run.close()",
        kept=_in_neptune,
        environment={},
    ),
    "wandb": Tracker(
        title="W&B, offline",
        distribution="wandb",
        begin="import wandb\nrun = wandb.init(mode='offline', project='p', dir='.')",
        log="run.log({'loss': float(at)}, step=at)",
        end="run.finish()",
        kept=_in_wandb,
        environment={"WANDB_SILENT": "false"},
    ),
    "trackio": Tracker(
        title="Trackio",
        distribution="trackio",
        begin="import trackio\ntrackio.init(project='p', name='r')",
        log="trackio.log({'loss': float(at)}, step=at)",
        end="trackio.finish()",
        kept=_in_trackio,
        environment={"TRACKIO_DIR": "trackio"},
        python=ROOT / ".venv-trackio" / "bin" / "python",
    ),
}
