"""The main job, its driver killed in the middle: `hooke resume` repeats nothing and ends bit for bit as if undisturbed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hooke.journal.events import AttemptFinished
from hooke.journal.reader import read
from hooke.project.folder import Project
from hooke.project.running import Run

FILES = Path(__file__).parents[2] / "examples" / "flights"
COMMAND = (sys.executable, "-m", "hooke")

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def copy(folder: Path) -> Path:
    folder.mkdir()
    for file in FILES.glob("*.py"):
        shutil.copy(file, folder)
    return folder


def finished(folder: Path) -> list[tuple[int, int]]:
    events = [event for segment in read(folder, "driver") for event in segment.events]
    return [
        (event.node, item)
        for event in events
        if isinstance(event, AttemptFinished)
        for item in range(event.lo, event.hi)
    ]


def killed_in_the_middle(folder: Path, *, after: int) -> Project:
    process = subprocess.Popen([*COMMAND, "run", "flights.py"], cwd=folder, stdout=subprocess.DEVNULL)
    project = Project.find(folder)
    while not project.runs.names() or len(finished(project.runs.folder(project.runs.names()[0]))) < after:
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.05)
    process.kill()
    process.wait()
    return project


def outputs(folder: Path) -> dict[str, bytes]:
    """What the last run returned, as bytes: the model's own pickle and the tables' Arrow files."""
    code = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "from hooke.project.folder import Project\n"
        "from hooke.project.running import Run\n"
        "project = Project.find(Path.cwd())\n"
        "result = Run(project, project.runs.names()[0]).result()\n"
        "import io\n"
        "def frame(df):\n"
        "    out = io.BytesIO(); df.write_ipc(out); return out.getvalue()\n"
        "out = {k: frame(v) if hasattr(v, 'write_ipc') else pickle.dumps(v) for k, v in result.items()}\n"
        "sys.stdout.buffer.write(pickle.dumps(out))\n"
    )
    import pickle

    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    disturbed, undisturbed = copy(tmp_path / "disturbed"), copy(tmp_path / "undisturbed")
    project = killed_in_the_middle(disturbed, after=34)
    (name,) = project.runs.names()
    assert Run(project, name).status == "lost"
    before = finished(project.runs.folder(name))
    assert len(before) < 62

    resumed = subprocess.run([*COMMAND, "resume"], cwd=disturbed, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    after = finished(project.runs.folder(name))
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 62, "each call ran once, before the kill or after it"

    plain = subprocess.run(
        [*COMMAND, "run", "flights.py"], cwd=undisturbed, capture_output=True, text=True, check=False
    )
    assert plain.returncode == 0, plain.stderr
    assert outputs(disturbed) == outputs(undisturbed)
