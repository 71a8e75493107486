"""examples/training: a gang that learns to read digits."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hooke.project.folder import Project
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

FILE = Path(__file__).parents[2] / "examples" / "training" / "digits.py"


@pytest.mark.long
def test_two_ranks_learn_to_read_digits(tmp_path):
    shutil.copy(FILE, tmp_path)
    (tmp_path / "hooke.toml").touch()
    done = subprocess.run(
        [sys.executable, "-m", "hooke", "run", "digits.py", "--workers", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.95
    project = Project.find(tmp_path)
    steps = [point.step for point in Run(project, project.runs.find()).logged().curve("loss")]
    assert steps == list(range(1, 6 * 23 + 1))
