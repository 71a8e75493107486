"""examples/training/flights_torch.py: a network learns which flights are late, as a gang and alone, is registered and served."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hooke.project.folder import Project
from hooke.running.run import Run

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"

SERVE = """
import numpy as np
from flights_service import Flight, LateFlights, register, rows_of

import hooke
from hooke.testing import client

print(register("torch", months=3, epochs=1))
print(register("torch", months=3, epochs=1))
model = hooke.load_model("late@champion")
flights = [{"carrier": "UA", "origin": "EWR", "dest": "ORD", "distance": 719}, {"carrier": "??", "origin": "", "dest": ""}]
with client(LateFlights, model=model) as served:
    found = served.post("/predict", {"flights": flights}).json()
    print(served.post("/predict", {"flights": [{"carrier": "UA"}]}).status)
np.testing.assert_allclose(found, model.predict(rows_of([Flight(**each) for each in flights])), rtol=1e-5)
print(all(0 < each < 1 for each in found), len(set(found)))
"""


@pytest.fixture
def example(tmp_path, lay_tables):
    (tmp_path / "training").mkdir()
    lay_tables(tmp_path / "training")
    for name in ("training", "flights"):
        ignored = shutil.ignore_patterns(".hooke")
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=ignored, dirs_exist_ok=True)
    (tmp_path / "training" / "hooke.toml").touch()
    return tmp_path / "training"


def ran(folder, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_from_raw_data_to_a_served_network(example):
    """From two months, in one epoch, with more than chance: AUC 0.5 is chance."""
    options = ("--workers", "2", "--months", "3", "--epochs", "1")
    said = ran(example, "-m", "hooke", "run", "flights_torch.py", *options)
    scores = re.search(r"^scores +(.*)$", said, re.MULTILINE)
    assert scores is not None, said
    assert ast.literal_eval(scores[1])["auc"] > 0.65
    project = Project.find(example)
    steps = [point.step for point in Run(project, project.runs.find()).logged().curve("loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 20
    first, again, refused, forecasts = ran(example, "-c", SERVE).splitlines()
    assert first == "late:1 (safetensors), now @champion"
    assert again.startswith("late is not registered: log_loss")
    assert refused == "422"
    assert forecasts == "True 2"
