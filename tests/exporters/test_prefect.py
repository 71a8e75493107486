"""Exported flows run in Prefect 3, which has an environment of its own, and compute what the pipelines do; and runs inside a flow.

One server on the loopback lives for all of them.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.exporters.exported import Exported, environment_of
from tests.exporters.shapes import PLAIN_NAMES, some_of

from hooke.base.errors import UsageError
from hooke.exporters.plan import Secret
from hooke.exporters.targets import ExportOrder, export
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.run import Run

NAMES = some_of("chain", "dynamic", "two_lists", "files")
PLAIN = [name for name in NAMES if name in PLAIN_NAMES]
CASES = Path(__file__).with_name("prefect_cases.py")
HOOKE = Path(sys.executable).with_name("hooke")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "inside-orchestrators.md"


class Prefect:
    """A server, and commands of its environment."""

    def __init__(self, python, home, port):
        self.python = python
        self.url = f"http://127.0.0.1:{port}/api"
        hidden = ("PYTEST", "HOOKE", "PREFECT")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(hidden)
        } | {
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
            start_new_session=True,
        )

    def answers(self):
        assert self.server.poll() is None, self.server.communicate()[0]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def run(self, folder, *, most_s=600, **cases):
        """Case -> how its flow ended: `case=(module, flow, parameters, deployed, last line)`."""
        told = folder / "told.json"
        shutil.copy(CASES, folder)  # the project is that of the running script
        command = [self.python, CASES.name, json.dumps(cases), told]
        done = subprocess.run(
            command,
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=most_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return json.loads(told.read_text())


def wait_until(condition, *, within_s=180.0):
    """Wait for something that another process does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def terminated(flow, *, every_s=60.0):
    """End it as an orchestrator does, and return what it said.

    Prefect raises an exception in its main thread. Once this had no effect, and it is not known why: a second signal then
    ends the flow. Without Prefect, such an exception at 703 random moments always stopped the run.
    """
    for _ in range(5):
        flow.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return flow.communicate(timeout=every_s)[0]
    raise AssertionError("it goes on")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def end(process):
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the children of the server
        process.communicate()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    found = Prefect(environment_of("prefect"), tmp_path_factory.mktemp("prefect"), free_port())
    try:
        wait_until(found.answers)
        yield found
    finally:
        end(found.server)


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Exported(tmp_path)
    sys.modules.pop("shapes_job", None)


# --- Exported flows.

FLAKY = """
import os
from pathlib import Path

from hooke import pipeline, task


@task(retries=1, timeout="1m")
def asks(limit: int) -> str:
    with open("tries", "a") as file:
        file.write(".")
    if len(Path("tries").read_text()) == 1:
        raise ConnectionError("not yet")
    return os.environ["TOKEN"] * limit


@pipeline
def flaky(limit: int = 2):
    return asks(limit)
"""


@pytest.mark.needs("prefect")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_shapes_a_deployment_a_retry_and_a_secret(prefect, shapes):
    for name in NAMES:
        shapes.export("prefect", name, shapes.folder / f"{name}_flow.py")
    (shapes.folder / "flaky.py").write_text(FLAKY)
    flaky, file = load_entry(str(shapes.folder / "flaky.py"))
    secrets = (Secret(variable="TOKEN", secret="service", key="token"),)
    order = ExportOrder(
        target="prefect", pipeline=flaky, file=file, out=shapes.folder / "flaky_flow.py", secrets=secrets
    )
    order.out.write_text(export(order, Project.at(shapes.folder)))
    sys.modules.pop("flaky")
    cases = {name: (f"{name}_flow", "main", {}, False, "") for name in NAMES}
    for name in PLAIN:
        shapes.export("prefect", name, shapes.folder / f"{name}_plain.py", flavour="plain")
        cases[f"{name}_plain"] = (f"{name}_plain", "main", {}, False, "")
    cases["empty"] = ("dynamic_flow", "main", {"n": 0}, False, "")
    cases["deployed"] = ("chain_flow", "chain", {"n": 2}, True, "")
    cases["flaky"] = ("flaky_flow", "main", {}, False, "")
    serving = prefect.start("chain_flow.py", "serve", folder=shapes.folder)
    try:
        told = prefect.run(shapes.folder, **cases)
    finally:
        end(serving)
    assert {name: each["state"] for name, each in told.items()} == dict.fromkeys(cases, "COMPLETED"), told
    for name in PLAIN:
        here = shapes.here(name)
        assert told.pop(f"{name}_plain")["result"] == json.loads(json.dumps(here)), name
    values = {name: shapes.value(each["result"]) for name, each in told.items()}
    if "gang" in values:
        assert values.pop("gang") == {"sum": 7, "count": 2}, "called as a function a gang has one rank"
    assert values.pop("empty") == shapes.here("dynamic", n=0)
    assert values.pop("deployed") == shapes.here("chain", n=2)
    assert values.pop("flaky") == "a tokena token"
    assert (shapes.folder / "tries").read_text() == ".."
    assert values == {name: shapes.here(name) for name in values}


def test_what_prefect_cannot_express_is_refused(tmp_path, shapes):
    (tmp_path / "asking.py").write_text(DEMANDING)
    found, file = load_entry(str(tmp_path / "asking.py"))
    order = ExportOrder(
        target="prefect", pipeline=found, file=file, out=tmp_path / "flow.py", flavour="plain"
    )
    sys.modules.pop("asking")
    with pytest.raises(UsageError) as refused:
        export(order, Project.at(tmp_path))
    for said in (
        "fit: its parameter 'wait_for': Prefect's submit() and map() have",
        "fit: timeout=1m 00s: a function in a thread of the flow cannot be ended",
    ):
        assert said in refused.value.why


DEMANDING = """
from hooke import pipeline, task


@task(timeout="1m")
def fit(wait_for: int) -> int:
    return wait_for


@pipeline
def demanding():
    return fit(1)
"""


# --- Runs of Hooke inside a flow, with the code of the page.


def lay_page(folder, *changes):
    """The page's pipeline, with changes, and its flow."""
    text = PAGE.read_text("utf-8")
    blocks = dict(re.findall(r"^```python[^\n]*\n# (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    code = blocks["training.py"]
    for old, new in changes:
        assert code.count(old) == 1
        code = code.replace(old, new)
    (folder / "training.py").write_text(f"import time\nfrom pathlib import Path\n{code}")
    (folder / "nightly.py").write_text(blocks["nightly.py"])
    (folder / "hooke.toml").touch()


@pytest.mark.needs("prefect")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_inside_a_flow_reports_its_state_and_its_lines_and_is_not_tried_twice_over(prefect, tmp_path):
    fails = (
        "\n    if day == 5:\n        open('tries', 'a').write('.')\n        raise ValueError('no such day')\n"
    )
    lay_page(tmp_path, ('    print("loading day", day)', f'    print("loading day", day){fails}'))
    cases = {
        "good": ("nightly", "nightly", {"days": 3}, False, "finished in"),
        "bad": ("nightly", "nightly", {"days": 6}, False, "failed in"),
    }
    told = prefect.run(tmp_path, **cases)
    good, bad = told["good"], told["bad"]
    assert (good["state"], good["result"]) == ("COMPLETED", 9)
    lines = [tuple(line) for line in good["log"]]
    assert any(name == "hooke.run" and line.startswith("run training-") for name, line in lines), lines
    printed = {line.rpartition(" | ")[2] for name, line in lines if name == "hooke.tasks"}
    assert printed == {f"loading day {day}" for day in range(3)}, lines
    assert bad["state"] == "FAILED"
    assert bad["result"].startswith("TaskError: load(day=5) failed: ValueError: no such day"), bad["result"]
    assert (tmp_path / "tries").read_text() == "...", "three tries of the task, and not of the run"


@pytest.mark.needs("prefect")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_flow_that_is_ended_stops_the_run_in_it(prefect, tmp_path):
    lay_page(
        tmp_path,
        (
            "    return [day, day + 1]",
            "    Path('began').touch()\n    time.sleep(600)\n    return [day, day + 1]",
        ),
    )
    flow = prefect.start("nightly.py", folder=tmp_path)
    try:
        wait_until(lambda: (tmp_path / "began").exists() or flow.poll() is not None)
        said = terminated(flow)
    finally:
        end(flow)
    assert "Crashed" in said, said
    project = Project.at(tmp_path)
    assert Run(project, project.runs.find()).status == "stopped"
