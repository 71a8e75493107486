"""The flights' winner becomes `flights@champion`, and forecasts from there, and as a service, as it did in the run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(800)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights"

SERVE = """
import json

import numpy as np
import polars as pl
from flight_features import WORDS, features

import flights
import hooke
import service
from hooke.testing import client

model = hooke.load_model("flights@champion")
tables = {name: flights.read(flights.source(f"{name}.csv")) for name in ("airports", "weather", "planes")}
year = flights.read_flights(flights.source("flights.csv.zip"))
month = flights.month(1, year=year, airports=tables["airports"])
rows = features(month, None, weather=tables["weather"], planes=tables["planes"]).head(500)
sent = rows.select(pl.col(name).cast(kind) for name, kind in service.SCHEMA.items()).to_dicts()
with client(service.Delay, model=model) as served:
    answer = served.post("/predict", {"flights": sent})
    print((np.array(answer.json()) == model.predict(rows)).all())
    names = [name for name in service.SCHEMA if sent[0].get(name) is not None or name not in WORDS]
    columns, raw = [], b""
    for name in names:
        words = service.SCHEMA[name] == pl.String
        column = {"name": name, "datatype": "BYTES" if words else "FP64", "shape": [len(sent)]}
        if words:
            column["data"] = [row[name] for row in sent]
        else:
            numbers = np.array([row[name] for row in sent], dtype=np.float64)
            column["parameters"] = {"binary_data_size": numbers.nbytes}
            raw += numbers.tobytes()
        columns.append(column)
    header = json.dumps({"inputs": columns}).encode()
    length = {"inference-header-content-length": str(len(header))}
    tabled = served.request("POST", "/v2/models/Delay/infer", body=header + raw, headers=length)
    print(tabled.json()["outputs"][0]["data"] == answer.json())
    least = served.post("/predict", {"flights": [{"carrier": "??", "origin": "EWR", "dest": "???"}]})
    print(len(least.json()))
    print(served.post("/predict", {"flights": [sent[0], sent[0] | {"tmp": 3}]}).json()["detail"])
"""

LOAD = """
from flight_features import features

import flights
import hooke
from hooke.project.folder import Project
from hooke.running.run import Run

model = hooke.load_model("flights@champion")
project = Project.find(flights.Path("."))
made = Run(project, project.runs.find()).result()["model"]
tables = {name: flights.read(flights.source(f"{name}.csv")) for name in ("airports", "weather", "planes")}
year = flights.read_flights(flights.source("flights.csv.zip"))
month = flights.month(1, year=year, airports=tables["airports"])
rows = features(month, None, weather=tables["weather"], planes=tables["planes"]).head(2000)
print(type(model).__name__, (model.predict(rows) == made.predict(rows)).all())
"""


@pytest.mark.long
def test_the_winner_is_registered_once_and_loads_as_it_was(tmp_path, lay_tables):
    lay_tables(tmp_path)
    for file in EXAMPLE.glob("*.py"):  # with a tenth of the trees
        text = re.sub(
            r"\brounds=(\d+)", lambda found: f"rounds={int(found[1]) // 10}", file.read_text("utf-8")
        )
        (tmp_path / file.name).write_text(text, "utf-8")
    (tmp_path / "load.py").write_text(LOAD)
    (tmp_path / "serve.py").write_text(SERVE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert python("register.py", "3") == "flights:1 (skops), now @champion"
    again = python("register.py", "3")
    assert again.startswith("flights is not registered: log_loss ")
    assert again.endswith(" of version 1")
    assert " equals " in again
    assert python("load.py") == "Boosted True"
    served = python("serve.py").splitlines()
    assert served == ["True", "True", "1", "flights[1].tmp: unknown field"]
