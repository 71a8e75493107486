"""examples/tracking: what its epochs log, as a pipeline and as a script."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hooke.project.folder import Project
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

FILE = Path(__file__).parents[2] / "examples" / "tracking" / "digits.py"


def runs(folder: Path) -> list[Run]:
    project = Project.find(folder)
    return [Run(project, name) for name in reversed(project.runs.names())]


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_every_epoch_of_every_rate_is_there_and_the_cache_logs_nothing_again(tmp_path):
    shutil.copy(FILE, tmp_path)
    best = command(tmp_path, "-m", "hooke", "run", "digits.py", "--epochs", "3").strip()
    (run,) = runs(tmp_path)
    logged = run.logged()
    assert {(point.item, point.step) for point in logged.metric("loss")} == {
        (item, step) for item in range(4) for step in range(3)
    }
    final = [point for point in logged.metric("accuracy") if point.step == 2]
    rates = {note.item: note.value for note in logged.params if note.name == "rate"}
    (said,) = logged.metric("best_accuracy")
    assert rates[max(final, key=lambda point: point.value).item] == best
    assert said.value == max(point.value for point in final) > 0.3
    assert [artifact.path for artifact in logged.artifacts] == ["rates.json"]
    assert command(tmp_path, "-m", "hooke", "run", "digits.py", "--epochs", "3").strip() == best
    assert runs(tmp_path)[-1].logged().points == []
    assert "computed 3 of 3 stored results again, and none differ" in command(
        tmp_path, "-m", "hooke", "cache", "audit"
    )


@pytest.mark.long
def test_as_a_script(tmp_path):
    shutil.copy(FILE, tmp_path)
    said = command(tmp_path, "digits.py")
    (run,) = runs(tmp_path)
    assert run.id in said
    accuracy = run.logged().metric("accuracy")
    assert [point.step for point in accuracy] == list(range(20))
    assert accuracy[-1].value > 0.9
    assert f"accuracy {accuracy[-1].value:.3f}" in said
