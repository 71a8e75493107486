"""Airflow's environment, its folder, its commands and `dag.test()`, for tests that run exported DAGs."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.exporters.exported import environment_of

__all__ = ["airflow", "airflow_python", "ended", "migrated", "settings_of"]

HOOKE = Path(sys.executable).with_name("hooke")


def airflow_python():
    """Python with Airflow."""
    return environment_of("airflow")


def settings_of(home):
    """The environment of commands that have this folder."""
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "HOOKE", "AIRFLOW"))
    }
    return known | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "HOOKE": str(HOOKE),
        "HOOKE_PROJECT": str(home / "project"),
    }


def airflow(python, settings, *command, most_s=800):
    """Run a command of Airflow's environment to its end."""
    done = subprocess.run(
        [python, *command],
        env=settings,
        cwd=settings["AIRFLOW_HOME"],
        capture_output=True,
        text=True,
        timeout=most_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]


def migrated(python):
    """A database of SQLite with Airflow's tables, to copy. It is made once for the environment."""
    kept = python.parents[1] / "airflow.db"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as home:
            airflow(python, settings_of(Path(home)), "-m", "airflow", "db", "migrate")
            Path(home, "airflow.db").replace(kept)
    return kept


def ended(python, settings, home, cases, *, most_s=800):
    """DAG -> how its `dag.test()` ended; all in one process."""
    told = home / "told.json"
    # The project is that of the running script.
    shutil.copy(Path(__file__).with_name("airflow_cases.py"), home)
    command = ("airflow_cases.py", str(home / "dags"), json.dumps(cases))
    airflow(python, settings, *command, str(told), most_s=most_s)
    found = json.loads(told.read_text())
    assert found.pop("errors") == {}
    return found
