"""examples/search: a search that finds a network, and goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hooke.project.folder import Project
from hooke.searching.search_result import Search

pytestmark = pytest.mark.needs("processes")

FILE = Path(__file__).parents[2] / "examples" / "search" / "digits_search.py"


def searched(folder: Path, trials: int) -> tuple[str, Search]:
    done = subprocess.run(
        [sys.executable, "digits_search.py", str(trials)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    project = Project.find(folder)
    (name,) = [name for name in project.runs.names() if name.startswith("search-")]
    return done.stdout, Search(project, name)


@pytest.mark.long
def test_it_finds_a_network_and_goes_on_with_more_trials(tmp_path):
    shutil.copy(FILE, tmp_path)
    said, first = searched(tmp_path, 3)
    assert f"best {first.best.value:.6g}" in said
    assert (first.best.value or 0) > 0.9
    _, more = searched(tmp_path, 5)
    assert [trial.run.id for trial in more.trials[:3]] == [trial.run.id for trial in first.trials]
    assert len(more.trials) == 5
