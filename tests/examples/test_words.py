"""examples/training/words.py: a transformer learns on one process as on two, beats what counts pairs of bytes, and is served."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hooke.project.folder import Project
from hooke.running.run import Run

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

FOLDER = Path(__file__).parents[2] / "examples" / "training"
SETTING = {"epochs": 1, "width": 48, "every": 3}

SERVE = """
import hooke
import words_service
from hooke.testing import client

print(words_service.register(epochs=1, width=48, every=3))
model = hooke.load_model("words@champion")
with client(words_service.Words, model=model) as served:
    whole = served.post("/write", {"prompt": "The ", "size": 20, "seed": 3}).json()
    print(whole == words_service.complete(model, b"The ", 20, seed=3).decode())
    *parts, end = served.post("/stream", {"prompt": "The ", "size": 25}).events()
    print(len(parts), end)
    print(served.post("/write", {"prompt": "The ", "size": 2000}).status)
"""


@pytest.fixture
def example(tmp_path, lay_tables):
    lay_tables(tmp_path)
    for name in ("words.py", "words_service.py"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "hooke.toml").touch()
    return tmp_path


def ran(folder, *command):
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(folder, ranks):
    """The metrics of a run: those of each step, and the bits of a byte."""
    options = [text for name, value in SETTING.items() for text in (f"--{name}", str(value))]
    ran(folder, "-m", "hooke", "run", "words.py", "--workers", "2", "--ranks", str(ranks), *options)
    project = Project.find(folder)
    logged = Run(project, project.runs.find()).logged()
    curve = logged.curve("loss")
    (validation,) = logged.curve("validation")
    assert [point.step for point in curve] == list(range(1, validation.step + 1))
    return [point.value for point in curve], validation.value


@pytest.mark.long
def test_a_gang_of_two_learns_what_one_process_learns_and_the_model_is_served(example):
    losses, bits = run(example, 2)
    assert 2 < bits < 3.6
    alone, bits_alone = run(example, 1)
    assert len(alone) == len(losses)
    assert bits_alone == pytest.approx(bits, rel=0.03)
    assert np.mean(alone[-50:]) == pytest.approx(np.mean(losses[-50:]), rel=0.1)
    (example / "serve.py").write_text(SERVE)
    assert ran(example, "serve.py").splitlines() == [
        "words:1 (safetensors), now @champion",
        "True",
        f"3 {('end', None)}",
        "422",
    ]
    listed = json.loads(ran(example, "-m", "hooke", "runs", "--limit", "1", "--json"))
    assert listed[0]["status"] == "finished"


def test_the_baselines_are_the_entropies_of_what_is_counted(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from words import baselines, texts

    # Of two bytes in turn, a pair says all; of single ones, half of the bytes and the first are a bit each.
    found = baselines([b"ab" * 100] * 100, [b"ab" * 100])
    assert found["unigram"] == pytest.approx(1, abs=0.02)
    assert found["bigram"] == pytest.approx(0, abs=0.01)
    real = baselines(texts("train"), texts("validation"))
    assert 3.2 < real["bigram"] < real["unigram"] < 5.5
    assert not set(texts("train")[:5]) & set(texts("validation"))
