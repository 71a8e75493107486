"""The main job, its driver killed in the middle, or at another place: its outputs are the same, byte for byte.

On four months with small models, and in `make soak-campaigns` on the whole year.
"""

import io
import pickle
import pickletools
import re
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

import polars as pl
import pytest
from tests.support.sizes import choose_size

from hooke.journal.events import AttemptFinished
from hooke.journal.reader import read
from hooke.project.folder import Project
from hooke.running.run import Run

FILES = Path(__file__).parents[2] / "examples" / "flights"
COMMAND = (sys.executable, "-m", "hooke")
ARROW = b"ARROW1"

MONTHS = choose_size(sample=4, full=4, soak=12)
WHOLE = MONTHS == 12
CALLS = 62 if WHOLE else 46
RUN = (*COMMAND, "run", "flights.py", "--months", str(MONTHS))

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(1500)]


def copy(folder: Path) -> Path:
    """The example. In the sample, models of the grid have a fifth of its trees: whether two are the same shows in few as well."""
    folder.mkdir()
    for file in FILES.glob("*.py"):
        text = file.read_text("utf-8")
        if not WHOLE:
            text = re.sub(r"\brounds=(\d+)", lambda found: f"rounds={int(found[1]) // 5}", text)
        (folder / file.name).write_text(text, "utf-8")
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
    process = subprocess.Popen([*RUN, "--on", "local:2"], cwd=folder, stdout=subprocess.DEVNULL)
    project = Project.find(folder)
    while not project.runs.names() or len(finished(project.runs.folder(project.runs.names()[0]))) < after:
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.05)
    process.kill()
    process.wait()
    return project


OUTPUTS = """
import io, pickle, sys
from pathlib import Path
from hooke.project.folder import Project
from hooke.running.run import Run

def exact(value):
    out = io.BytesIO()
    if hasattr(value, "write_ipc"):
        value.write_ipc(out)
    else:
        pickler = pickle.Pickler(out)
        pickler.fast = True
        pickler.dump(value)
    return out.getvalue()

project = Project.find(Path.cwd())
result = Run(project, project.runs.names()[0]).result()
sys.stdout.buffer.write(pickle.dumps({name: exact(value) for name, value in result.items()}))
"""


def outputs(folder: Path) -> dict[str, bytes]:
    """What the last run returned, as bytes: tables as Arrow files, anything else as a pickle that repeats equal strings.

    An ordinary pickle says also which equal strings are one object. That is no part of the value and depends on what
    else the process has done: where a stored model was loaded before the first fit, scikit-learn's `__setstate__` has
    put that model's own "loss" among the names of attributes, and `scoring="loss"` is then another object than the name.
    """
    done = subprocess.run([sys.executable, "-c", OUTPUTS], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def difference(ours: bytes, theirs: bytes) -> str:
    """In what two outputs that are not the same bytes differ: in values, or in how equal values are laid out."""
    if ours.startswith(ARROW) and theirs.startswith(ARROW):
        pairs = zip_longest(pl.read_ipc(io.BytesIO(ours)).rows(), pl.read_ipc(io.BytesIO(theirs)).rows())
        rows = [f"{one}, not {other}" for one, other in pairs if one != other]
        return "; ".join(rows[:3]) or "equal rows, laid out otherwise"
    for (code, value, at), (other, another, _) in zip(
        pickletools.genops(ours), pickletools.genops(theirs), strict=False
    ):
        if (code.name, value) != (other.name, another):
            return f"from byte {at}: {code.name} {value!r:.200}, not {other.name} {another!r:.200}"
    return f"{len(ours)} bytes, not {len(theirs)}"


def assert_same(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """The same outputs, byte for byte; else says which differ, and how."""
    assert ours.keys() == theirs.keys()
    differing = {name: difference(ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    assert not differing, "\n".join(f"{name}: {how}" for name, how in differing.items())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = copy(tmp_path_factory.mktemp("flights") / "local")
    subprocess.run([*RUN, "--on", "local:2"], cwd=folder, check=True)
    made = outputs(folder)
    # Each of these results is what its task gives again, in another process.
    audited = subprocess.run(
        [*COMMAND, "cache", "audit", "--sample", "8"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert audited.returncode == 0, audited.stdout + audited.stderr
    return made


@pytest.mark.long
def test_killed_and_resumed_equals_undisturbed(tmp_path, undisturbed):
    disturbed = copy(tmp_path / "disturbed")
    project = killed_in_the_middle(disturbed, after=CALLS // 2)
    (name,) = project.runs.names()
    assert Run(project, name).status == "lost"
    before = finished(project.runs.folder(name))
    assert len(before) < CALLS

    resumed = subprocess.run([*COMMAND, "resume"], cwd=disturbed, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    after = finished(project.runs.folder(name))
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == CALLS, "each call ran once, before the kill or after it"
    assert_same(outputs(disturbed), undisturbed)


@pytest.mark.long
def test_the_same_on_dask(undisturbed, tmp_path):
    """With equal thread counts. A test of Kubernetes has the same on pods; what another engine runs is equal by its suite."""
    folder = copy(tmp_path / "there")
    subprocess.run([*RUN, "--on", "dask:2"], cwd=folder, check=True)
    assert_same(outputs(folder), undisturbed)
