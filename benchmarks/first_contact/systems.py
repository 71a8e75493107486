"""What is typed into each system in the first ten minutes: the programs, and the lines of every step."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DAYS", "STEPS", "SYSTEMS", "Step", "System"]

STEPS = {
    "install": "into an empty environment",
    "first run": "twelve days",
    "edit": "the helper that rounds the mean, and run again",
    "failure": "thirteen days, of which the last has no file",
    "debug": "reach the failed call with its argument",
    "resume": "the file is there now",
    "artifact": "print the report that the run kept",
    "compare": "the metrics and parameters of two runs",
    "serve": "answer a request over HTTP",
}

DAYS = '''\
"""Given: reads the measurements of a day, which takes half a second."""

import time
from pathlib import Path


def read(day: int) -> float:
    with open("{calls}", "a") as calls:
        calls.write("read\\n")
    time.sleep(0.5)
    return float(Path(f"days/{{day}}.txt").read_text())
'''
"""The module that all programs import. It writes a line for each call into a file outside of the project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Lines that are typed one after the other. `{python}`, `{port}` and others are filled in: see `__main__.py`.

    `shows` must be in the output of the last line. `keys` are typed into a debugger. A step with `none` is not there, and says why.
    `serves` is the line that asks a server, which the last of `lines` starts.
    """

    lines: tuple[str, ...] = ()
    shows: str = ""
    keys: str = ""
    fails: bool = False
    serves: str = ""
    none: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system: what is installed, its files and its steps in the order of `STEPS`."""

    title: str
    requirement: str
    files: dict[str, str]
    steps: dict[str, Step]
    environment: dict[str, str] = field(default_factory=dict)


ROUND = "sed -i 's/round(x, 1)/round(x, 2)/' report.py"
MEASURE = "echo 24 > days/12.txt"

HOOKE = System(
    title="Hooke",
    requirement="hooke-ml[serve]",
    files={
        "report.py": """\
import hooke
from days import read
from hooke import pipeline, task


def rounded(x: float) -> float:
    return round(x, 1)


@task
def clean(day: int) -> float:
    return read(day)


@task
def mean(values: list[float]) -> float:
    result = rounded(sum(values) / len(values))
    hooke.log_metric("mean", result)
    hooke.log_text(f"the mean is {result}", "report.txt")
    return result


@pipeline
def report(days: int = 12) -> float:
    return mean(clean.map(range(days)))
""",
        "scale.py": """\
from hooke import service


@service
class Scale:
    def predict(self, rows: list[float]) -> list[float]:
        return [2 * row for row in rows]
""",
    },
    steps={
        "first run": Step(lines=("hooke run report.py",), shows="11.0"),
        "edit": Step(lines=(ROUND, "hooke run report.py"), shows="11.0"),
        "failure": Step(lines=("hooke run report.py --days 13",), shows="days/12.txt", fails=True),
        "debug": Step(lines=("hooke debug",), keys="p 'day', day\nq\n", shows="('day', 12)"),
        "resume": Step(lines=(MEASURE, "hooke resume"), shows="12.0"),
        "artifact": Step(
            lines=("hooke show", "cat .hooke/runs/{run}/artifacts/*/report.txt"), shows="the mean is 12.0"
        ),
        "compare": Step(lines=("hooke runs", "hooke compare {first} {run}"), shows="mean"),
        "serve": Step(
            lines=("hooke serve scale.py --port {port}",),
            serves='curl --silent --fail -H "Authorization: Bearer $(cat .hooke/services/Scale/token)" '
            "-H content-type:application/json -d '{{\"rows\": [1, 2]}}' 127.0.0.1:{port}/predict",
            shows="[2.0,4.0]",
        ),
    },
)

PREFECT = System(
    title="Prefect",
    requirement="prefect",
    environment={
        "PREFECT_HOME": "{home}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    },
    files={
        "report.py": """\
import sys

from days import read
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import INPUTS, TASK_SOURCE


def rounded(x: float) -> float:
    return round(x, 1)


@task(cache_policy=INPUTS + TASK_SOURCE, persist_result=True)
def clean(day: int) -> float:
    return read(day)


@task
def mean(values: list[float]) -> float:
    result = rounded(sum(values) / len(values))
    create_markdown_artifact(f"the mean is {result}", key="report")
    return result


@flow
def report(days: int = 12) -> float:
    return mean(clean.map(range(days)))


if __name__ == "__main__":
    print("result", report(*map(int, sys.argv[1:])))
""",
    },
    steps={
        "first run": Step(lines=("python report.py",), shows="result 11.0"),
        "edit": Step(lines=(ROUND, "python report.py"), shows="result 11.0"),
        "failure": Step(
            lines=("python report.py 13",),
            shows="days/12.txt",
            note="the log has the error, but the flow ends as `Completed`, with the result None and exit code 0",
        ),
        "debug": Step(
            none="no command. The task ran in a thread of a run that is over; `python -m pdb report.py 13` runs the flow again",
        ),
        "resume": Step(
            lines=(MEASURE, "python report.py 13"),
            shows="result 12.0",
            note="a new run; cached days are reused",
        ),
        "artifact": Step(lines=("prefect artifact inspect report",), shows="the mean is 12.0"),
        "compare": Step(none="`prefect flow-run ls` lists runs; there are no metrics, and nothing compares"),
        "serve": Step(none="`flow.serve()` makes a deployment that starts flows; it serves no models"),
    },
)

METAFLOW = System(
    title="Metaflow",
    requirement="metaflow",
    environment={"USERNAME": "somebody", "METAFLOW_HOME": "{home}/metaflow"},
    files={
        "report.py": """\
from days import read
from metaflow import FlowSpec, Parameter, step


def rounded(x):
    return round(x, 1)


class Report(FlowSpec):
    days = Parameter("days", default=12)

    @step
    def start(self):
        self.day = list(range(self.days))
        self.next(self.clean, foreach="day")

    @step
    def clean(self):
        self.value = read(self.input)
        self.next(self.mean)

    @step
    def mean(self, inputs):
        values = [each.value for each in inputs]
        self.result = rounded(sum(values) / len(values))
        self.text = f"the mean is {self.result}"
        self.next(self.end)

    @step
    def end(self):
        print("result", self.result)


if __name__ == "__main__":
    Report()
""",
    },
    steps={
        "first run": Step(lines=("python report.py run",), shows="result 11.0"),
        "edit": Step(lines=(ROUND, "python report.py run"), shows="result 11.0"),
        "failure": Step(lines=("python report.py run --days 13",), shows="days/12.txt", fails=True),
        "debug": Step(
            none="no debugger: steps are processes without a terminal. `spin STEP` repeats one step with its inputs"
        ),
        "resume": Step(lines=(MEASURE, "python report.py resume"), shows="result 12.0"),
        "artifact": Step(
            lines=("python -c \"from metaflow import Flow; print(Flow('Report').latest_run.data.text)\"",),
            shows="the mean is 12.0",
        ),
        "compare": Step(
            lines=(
                (
                    'python -c "from metaflow import Flow; '
                    "[print(r.id, r['start'].task.data.days, r.data.result) for r in Flow('Report').runs() if r.successful]\""
                ),
            ),
            shows="12.0",
            note="by hand: no command compares runs",
        ),
        "serve": Step(none="serves no models"),
    },
)

MLFLOW = System(
    title="MLflow",
    requirement="mlflow",
    environment={"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"},
    files={
        "report.py": """\
import sys

import mlflow
from days import read


def rounded(x: float) -> float:
    return round(x, 1)


def clean(day: int) -> float:
    return read(day)


def report(days: int = 12) -> float:
    with mlflow.start_run():
        mlflow.log_param("days", days)
        values = [clean(day) for day in range(days)]
        result = rounded(sum(values) / len(values))
        mlflow.log_metric("mean", result)
        mlflow.log_text(f"the mean is {result}", "report.txt")
        return result


if __name__ == "__main__":
    print("result", report(*map(int, sys.argv[1:])))
""",
        "scale.py": """\
import mlflow


def predict(model_input: list[float]) -> list[float]:
    return [2 * row for row in model_input]


mlflow.pyfunc.log_model(name="scale", python_model=predict, registered_model_name="scale", pip_requirements=[])
""",
    },
    steps={
        "first run": Step(lines=("python report.py",), shows="result 11.0"),
        "edit": Step(lines=(ROUND, "python report.py"), shows="result 11.0"),
        "failure": Step(lines=("python report.py 13",), shows="days/12.txt", fails=True),
        "debug": Step(
            lines=("python -m pdb -c continue report.py 13",),
            keys="up\nup\nup\np 'day', day\nq\n",
            shows="('day', 12)",
            note="plain Python: everything runs again, up to the failure",
        ),
        "resume": Step(
            lines=(MEASURE, "python report.py 13"), shows="result 12.0", note="a new run, from the beginning"
        ),
        "artifact": Step(
            lines=(
                (
                    "python -c \"import mlflow; r = mlflow.search_runs(output_format='list', order_by=['start_time DESC'])[0]; "
                    "print(mlflow.artifacts.load_text(r.info.artifact_uri + '/report.txt'))\""
                ),
            ),
            shows="the mean is 12.0",
        ),
        "compare": Step(
            lines=(
                "python -c \"import mlflow; print(mlflow.search_runs()[['run_id', 'params.days', 'metrics.mean']])\"",
            ),
            shows="12.0",
            note="or in the browser, after `mlflow ui`",
        ),
        "serve": Step(
            lines=(
                "python scale.py",
                "mlflow models serve -m models:/scale/1 --env-manager local --port {port}",
            ),
            serves="curl --silent --fail -H content-type:application/json -d '{{\"inputs\": [1.0, 2.0]}}' "
            "127.0.0.1:{port}/invocations",
            shows="[2.0, 4.0]",
        ),
    },
)

SYSTEMS = {"hooke": HOOKE, "prefect": PREFECT, "metaflow": METAFLOW, "mlflow": MLFLOW}
