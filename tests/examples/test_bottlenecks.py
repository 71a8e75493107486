"""The planted bottlenecks of examples/scaling are found where they were planted. Two of them only sleep."""

import sys
from pathlib import Path
from statistics import mean

import pytest

from hooke.measuring.studies import Study, measure
from hooke.project.pipeline_file import load_entry
from hooke.scaling import fit

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

FILE = Path(__file__).parents[2] / "examples" / "scaling" / "bottlenecks.py"
LEVEL = 0.999
"""Of the intervals that must hold the truth: at 95 % one test in twenty would fail."""
OWN = 0.1
"""What the engine and busy cores may add to each run, in seconds: no worker shortens it, so it is serial, and found as such."""

NOISE = 1.15
"""How far the mean of two runs may be from the law's interval where other processes have the cores."""


@pytest.fixture
def bottleneck(tmp_path, monkeypatch):
    """A pipeline of the example, as if it lay in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    copy = tmp_path / "bottlenecks.py"
    copy.write_text(FILE.read_text("utf-8"), "utf-8")
    sys.modules.pop("bottlenecks", None)
    yield lambda name: load_entry(f"{copy}:{name}")[0]
    sys.modules.pop("bottlenecks", None)


@pytest.mark.long
def test_a_serial_fraction_is_recovered_up_to_32_workers(bottleneck):
    seconds, serial = 6.4, 0.05
    study = measure(
        bottleneck("sleeping"),
        seconds=seconds,
        serial=serial,
        workers=[1, 2, 4, 8, 16, 32],
        repeats=2,
        progress="none",
    )
    told = [study.law.family, *(each.family for each in study.law.alternatives)]
    # USL is Amdahl's law, and what 32 workers cost one another.
    family = next(name for name in told if name in {"amdahl", "usl"})
    low, high = fit(study.measurements, families=[family], level=LEVEL).parameters["a"].interval
    took = {n: mean(1 / row.throughput for row in study.rows if row.n == n) for n in (1, 2, 4, 8, 16, 32)}
    # Busy cores lengthen the sleeps that all share, or the part that none does.
    assert low <= max(serial + OWN / seconds, 1.1 * took[32] / took[1])
    assert high >= serial * seconds / took[1]
    for n, measured in took.items():
        low, high = study.law.predict(n).interval
        assert low / NOISE <= 1 / measured <= NOISE * high, n
    for n in range(1, 33):
        assert study.law.predict(n).value <= 1.1 / (seconds * (serial + (1 - serial) / n)), (
            n
        )  # nothing sleeps faster
    # One worker takes as long as the plain call, and a little: on a busy machine either may seem the faster one.
    assert study.cost.n in (1, 2)


@pytest.mark.long
def test_a_door_is_a_hard_knee(bottleneck):
    study: Study = measure(
        bottleneck("locking"),
        task="enter",
        held=0.25,
        seconds=0.04,
        workers=[1, 2, 3, 4, 6, 8, 12],
        repeats=2,
        progress="none",
    )
    assert "hard_knee" in {study.law.family, *(each.family for each in study.law.alternatives)}
    most = max(row.throughput for row in study.rows)
    door = 1 / (0.25 * 0.04)
    assert 0.5 * door <= most <= 1.02 * door  # a busy machine is late at the door; nobody passes it faster


@pytest.mark.parametrize(
    ("name", "task", "more"),
    [
        ("computing", "compute", {"items": 4, "rounds": 20_000}),
        ("streaming", "stream", {"items": 4, "megabytes": 8, "passes": 2}),
    ],
)
def test_the_others_are_measured_too(bottleneck, name, task, more):
    study = measure(bottleneck(name), task=task, workers=[1, 2], repeats=1, progress="none", **more)
    assert [(row.n, row.work) for row in study.rows] == [(1, 4), (2, 4)]
