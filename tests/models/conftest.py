import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.sinks.mlflow_places import Server


@dataclass(frozen=True)
class Shop:
    """A project in which scripts are run, each a real process, beside the MLflow that `mlflow.db` there is."""

    folder: Path

    def run(self, source: str, *, name: str = "job.py", sinks: str = "none", **environment: str) -> str:
        """Run a script to its end; returns what it printed."""
        done = self.start(source, name=name, sinks=sinks, **environment)
        out, err = done.communicate(timeout=200)
        assert done.returncode == 0, f"{out}\n{err}"
        return out

    def start(self, source: str, *, name: str = "job.py", sinks: str = "none", **environment: str):
        (self.folder / name).write_text(textwrap.dedent(source))
        return self._start([sys.executable, name], HOOKE_SINKS=sinks, **environment)

    def hooke(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        started = self._start([sys.executable, "-m", "hooke", *arguments], **environment)
        out, err = started.communicate(timeout=100)
        return subprocess.CompletedProcess(arguments, started.returncode, out, err)

    def _start(self, command: list[str], **environment: str):
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"COLUMNS": "100"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def tables(tmp_path_factory) -> Path:
    """MLflow's tables, empty: to make them takes ten seconds."""
    folder = tmp_path_factory.mktemp("tables")
    script = f"import mlflow\nmlflow.MlflowClient(tracking_uri='sqlite:///{folder}/mlflow.db').search_registered_models()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, check=True, capture_output=True
    )
    return folder / "mlflow.db"


@pytest.fixture
def shop(tmp_path, tables, monkeypatch) -> Shop:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "shop"
    folder.mkdir()
    shutil.copy(tables, folder / "mlflow.db")
    # Experiment 0 keeps its artifacts where it was made.
    with sqlite3.connect(folder / "mlflow.db") as db:
        db.execute("UPDATE experiments SET artifact_location = ?", (str(folder / "mlruns" / "0"),))
    db.close()
    return Shop(folder)


@pytest.fixture
def server(tmp_path):
    """The address of a real `mlflow server`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    running = Server(port, folder)
    running.start()
    yield running.uri
    running.stop()
