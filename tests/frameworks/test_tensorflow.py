"""Training with TensorFlow, in an environment of its own: it is large, and needs an older h5py than other tests use."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.environments import environment_python
from benchmarks.private_network import enter_private_network

pytestmark = [pytest.mark.needs("tensorflow", "root"), pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "train.md"


@pytest.fixture(scope="module")
def python():
    """Python with TensorFlow and JAX."""
    return environment_python("tensorflow", "tensorflow-cpu", "jax", "tf2onnx")


def output_of(python, *command, folder):
    """What a command prints there, in a network of its own: TensorFlow listens on all addresses."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HOOKE"))}
    done = subprocess.run(
        [python, *map(str, command)],
        cwd=folder,
        env=known | {"TF_CPP_MIN_LOG_LEVEL": "2", "HOOKE_SINKS": "none"},
        preexec_fn=enter_private_network,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


def test_batches_states_and_what_is_refused(python):
    said = output_of(
        *(python, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "ignore"),
        *("--durations=0", "tests/frameworks/tensorflow_cases.py"),
        folder=ROOT,
    )
    assert re.search(r"^\d+ passed in", said, re.MULTILINE), said


DRIVER = """
import json

import alone
import killed
import undisturbed
from hooke import run

def told(module):
    done = run(module.training, on="local", workers=2)
    return {
        "weights": [[array.tobytes().hex() for array in weights] for weights in done.result()],
        "curve": [(point.step, point.value) for point in done.logged().curve("loss")],
    }

if __name__ == "__main__":
    print(json.dumps({module.__name__: told(module) for module in (alone, undisturbed, killed)}))
"""


def page_block(first_line, after):
    """The code of a block of the page."""
    text = PAGE.read_text("utf-8")
    text = text[text.index(after) :]
    (block,) = re.findall(
        rf"^```python[^\n]*\n({re.escape(first_line)}\n.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    return block


def changed(code, *changes):
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def test_the_training_of_the_page_goes_on_bit_equal_after_a_kill(python, tmp_path):
    """And learns what one process learns, although the parts of its batches are unequal: 26 and 25 rows, at last 6 and 5."""
    code = page_block("# training.py", "## TensorFlow")
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    code = changed(
        code,
        ("Dropout(0.1)", "Dropout(0.0)"),
        ("@task(gang=2, retries=1)", '@task(gang=2, retries=1, results="all")'),
        ("return accuracy(train(rows, epochs, rate), rows)", "return train(rows, epochs, rate)"),
    )
    (tmp_path / "killed.py").write_text(code)
    (tmp_path / "undisturbed.py").write_text(
        changed(code, (kill, "raise AssertionError")).replace("step == 50", "step < 0")
    )
    (tmp_path / "alone.py").write_text(
        changed(
            code,
            ('gang=2, retries=1, results="all"', "retries=1"),
            ("return train(rows, epochs, rate)", "return [train(rows, epochs, rate)]"),
        )
    )
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "hooke.toml").touch()
    told = json.loads(output_of(python, "driver.py", folder=tmp_path).splitlines()[-1])
    one, other = told["undisturbed"]["weights"]
    assert one == other, "both ranks have the same weights"
    assert told["killed"]["weights"] == [one, other]
    assert told["killed"]["curve"] == told["undisturbed"]["curve"]
    assert [step for step, _ in told["killed"]["curve"]] == [20, 40, 60, 80, 100, 120]
    assert "rank 1 of 2: WorkerDied" in output_of(python, "-m", "hooke", "show", folder=tmp_path)
    assert "rank 1 #2, try 2 of 2 | from step 40 to 120" in output_of(
        python, "-m", "hooke", "logs", folder=tmp_path
    )
    for mine, alone in zip(one, *told["alone"]["weights"], strict=True):
        np.testing.assert_allclose(floats(mine), floats(alone), rtol=1e-3, atol=1e-4)


def floats(digits):
    return np.frombuffer(bytes.fromhex(digits), np.float32)


def test_ranks_meet_by_jax_as_the_page_says(python, tmp_path):
    (tmp_path / "total.py").write_text(page_block("# total.py", "## JAX"))
    (tmp_path / "hooke.toml").touch()
    assert output_of(python, "-m", "hooke", "run", "total.py", "--workers", "2", folder=tmp_path) == "3.0\n"


REGISTER = """
import flights_service

print(flights_service.register("tensorflow", months=3, epochs=1))
"""
SERVE = """
import sys

import numpy as np
from flights_service import Flight, LateFlights, rows_of

import hooke
from hooke.testing import client

assert "tensorflow" not in sys.modules
model = hooke.load_model("late@champion")
flights = [{"carrier": "UA", "origin": "EWR", "dest": "ORD", "distance": 719}, {"carrier": "??", "origin": "", "dest": ""}]
with client(LateFlights, model=model) as served:
    found = served.post("/predict", {"flights": flights}).json()
np.testing.assert_allclose(found, model.predict(rows_of([Flight(**each) for each in flights])), rtol=1e-5)
print(model.inputs, all(0 < each < 1 for each in found), len(set(found)), "tensorflow" in sys.modules)
"""
COMPARE = """
import numpy as np
import onnxruntime
from flights_rows import NUMBERS, Facts
from flights_tensorflow import Trained, exported, network

chance = np.random.default_rng(0)
known = Facts((("A", "B"), ("EWR", "JFK"), ("x", "y", "z")), (1.0,) * len(NUMBERS), (2.0,) * len(NUMBERS))
weights = [chance.normal(0, 1, each.shape).astype(each.dtype) for each in network(known).get_weights()]
numbers = chance.normal(0, 3, (40, len(NUMBERS))).astype(np.float32)
numbers[chance.random(numbers.shape) < 0.2] = np.nan
words = [chance.choice([*each, "?"], 40) for each in known.words]
rows = {"numbers": numbers, "carrier": words[0], "origin": words[1], "dest": words[2]}
session = onnxruntime.InferenceSession(exported.function(known, weights), providers=["CPUExecutionProvider"])
np.testing.assert_allclose(session.run(None, rows)[0], Trained(known, weights).predict(rows), rtol=1e-4, atol=1e-6)
print("equal")
"""


@pytest.fixture
def example(tmp_path, lay_tables):
    """The folder of the examples, with those of flights beside it."""
    (tmp_path / "training").mkdir()
    lay_tables(tmp_path / "training")
    for name in ("training", "flights"):
        shutil.copytree(
            ROOT / "examples" / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns(".hooke"),
            dirs_exist_ok=True,
        )
    (tmp_path / "training" / "hooke.toml").touch()
    return tmp_path / "training"


def test_the_example_learns_which_flights_are_late_and_is_served_without_tensorflow(python, example):
    """From two months, in one epoch, with more than chance: AUC 0.5 is chance."""
    options = ("--workers", "2", "--months", "3", "--epochs", "1")
    said = output_of(python, "-m", "hooke", "run", "flights_tensorflow.py", *options, folder=example)
    scores = re.search(r"^scores +(.*)$", said, re.MULTILINE)
    assert scores is not None, said
    assert ast.literal_eval(scores[1])["auc"] > 0.65
    said = output_of(python, "-c", REGISTER, folder=example)
    assert said == "late:1 (onnx), now @champion\n"
    said = output_of(sys.executable, "-c", SERVE, folder=example)
    assert said == "['carrier', 'origin', 'dest', 'numbers'] True 2 False\n"


def test_the_network_as_onnx_forecasts_what_tensorflow_does(python, example):
    """Also of words that it does not know, and of numbers that are missing."""
    assert output_of(python, "-c", COMPARE, folder=example) == "equal\n"
