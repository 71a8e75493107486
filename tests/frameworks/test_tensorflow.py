"""Training with TensorFlow, in an environment of its own: it is large, and needs an older h5py than other tests use."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from benchmarks.environments import environment_python
from benchmarks.private_network import enter_private_network

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "train.md"


@pytest.fixture(scope="module")
def python():
    """Python with TensorFlow and JAX."""
    return environment_python("tensorflow", "tensorflow-cpu", "jax")


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


def test_the_example_learns_which_flights_are_late(python, tmp_path):
    """From two months, in one epoch, with more than chance: AUC 0.5 is chance."""
    shutil.copytree(ROOT / "examples" / "training", tmp_path / "training")
    shutil.copytree(
        ROOT / "examples" / "flights", tmp_path / "flights", ignore=shutil.ignore_patterns(".hooke")
    )
    folder = tmp_path / "training"
    (folder / "hooke.toml").touch()
    options = ("--workers", "2", "--months", "3", "--epochs", "1")
    said = output_of(python, "-m", "hooke", "run", "flights_tensorflow.py", *options, folder=folder)
    assert ast.literal_eval(said)["auc"] > 0.65
