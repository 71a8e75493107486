"""Real places of MLflow: a server to start and stop, and what its own client sees in one."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from hooke.testing.sink_suite import SeenRun

__all__ = ["Server", "seen_in_mlflow"]

IMAGE = re.compile(
    r"images/(?P<key>[^+%]+)\+step\+(?P<step>-?\d+)\+timestamp\+\d+\+[-0-9a-f]{36}(?P<small>\+compressed)?\.(png|webp)"
)
"""As the page of MLflow reads an image's name and step from its file's name."""


def seen_in_mlflow(uri: str, experiment: str) -> dict[str, SeenRun]:
    """Through MLflow's own client, by key; a run without a key of its own by its name and its parent's key."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(tracking_uri=uri)
    (known,) = [each for each in client.search_experiments() if each.name == experiment]
    runs = client.search_runs([known.experiment_id])
    keys = {run.info.run_id: key for run in runs if (key := run.data.tags.get("hooke.run_id"))}
    for run in runs:
        if run.info.run_id not in keys:
            keys[run.info.run_id] = f"{run.info.run_name} of {keys[run.data.tags['mlflow.parentRunId']]}"
    assert len(set(keys.values())) == len(runs), "no key twice"
    found = {}
    for run in runs:
        points = [
            (name, point.value, point.step, point.timestamp)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        ]
        artifacts, media = {}, []
        stack = [""]
        while stack:
            for each in client.list_artifacts(run.info.run_id, stack.pop()):
                if each.is_dir:
                    stack.append(each.path)
                else:
                    file = download_artifacts(
                        run_id=run.info.run_id, artifact_path=each.path, tracking_uri=uri
                    )
                    if (image := IMAGE.fullmatch(each.path)) is None:
                        artifacts[each.path] = Path(file).read_bytes()
                    elif image["small"] is None:
                        assert run.data.tags["mlflow.loggedImages"] == "True"
                        media.append(("image", image["key"].replace("~", "/"), int(image["step"])))
        parent = run.data.tags.get("mlflow.parentRunId")
        status = {"RUNNING": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
        found[keys[run.info.run_id]] = SeenRun(
            name=run.info.run_name,
            parent=keys[parent] if parent else None,
            status=status[run.info.status],
            points=points,
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            artifacts=artifacts,
            media=media,
        )
    return found


class Server:
    def __init__(self, port: int, folder: Path) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._port, self._folder = port, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | light
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
