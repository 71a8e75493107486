"""Exported flows run in Prefect 3, which has an environment of its own, and compute what the pipelines do; and runs inside a flow.

One server on the loopback lives for all of them.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from benchmarks.environments import environment_python
from tests.exporters.exported import Exported
from tests.exporters.shapes import NAMES
from tests.support import wait_for

from hooke.base.errors import UsageError
from hooke.exporters.plan import Secret
from hooke.project.folder import Project
from hooke.running.run import Run

heavy = [pytest.mark.heavy, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
HOOKE = Path(sys.executable).with_name("hooke")
PAGE = ROOT / "docs" / "how-to" / "inside-orchestrators.md"


class Prefect:
    """A server, and commands of its environment."""

    def __init__(self, python, home, port):
        self.python = python
        self.url = f"http://127.0.0.1:{port}/api"
        hidden = ("PYTEST", "HOOKE", "PREFECT")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {
            "HOOKE": str(HOOKE),
            "HOOKE_SINKS": "none",
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(home),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "hooke",
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        command = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        self.server = self.start(*command, folder=home)

    def start(self, *command, folder):
        return subprocess.Popen(
            [self.python, *command],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def answers(self):
        assert self.server.poll() is None, self.server.communicate()[0]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def run(self, folder, **cases):
        """Case -> how its flow ended: `case=(module, flow, parameters, deployed, last line)`."""
        told = folder / "told.json"
        command = [self.python, ROOT / "tests" / "exporters" / "prefect_cases.py", json.dumps(cases), told]
        done = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return json.loads(told.read_text())


def end(process):
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory, free_port):
    found = Prefect(environment_python("prefect", "prefect"), tmp_path_factory.mktemp("prefect"), free_port())
    wait_for(found.answers, within_s=180)
    yield found
    end(found.server)


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Exported(tmp_path)
    sys.modules.pop("shapes_job", None)
