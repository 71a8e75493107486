"""The price of a task, a link of a chain, an item of a map and 100 MB handed on, beside ProcessPoolExecutor, loky, Dask and Ray.

Each system has a fresh process with warm workers; the medians of all five are of one run, so only ratios mean something.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from benchmarks.private_network import enter_private_network

PROGRAM = Path(__file__).parent / "engine_programs.py"
SYSTEMS = ("hooke", "pool", "loky", "dask", "ray")
PEERS = SYSTEMS[1:]
Figures = dict[str, dict[str, float]]


def measure(folder: Path, system: str) -> dict[str, float]:
    """A system's medians, in a process, a network and a home folder of its own."""
    shutil.copy(PROGRAM, folder)
    done = subprocess.run(
        [sys.executable, PROGRAM.name, system],
        cwd=folder,
        env=os.environ | {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter_private_network,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: median(values) for name, values in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """System -> figure -> median, all measured one after another."""
    return {system: measure(tmp_path_factory.mktemp(system), system) for system in SYSTEMS}


@pytest.mark.timeout(600)
@pytest.mark.benchmark(group="engine")
@pytest.mark.parametrize(
    ("figure", "unit", "what"),
    [
        ("task", "us", "one of 1000 tasks that do nothing"),
        ("link", "us", "a link of a chain of 200"),
        ("item", "us", "an item of a map (Dask, Ray: 2000 items; the others 20,000, in chunks)"),
        ("hand", "ms", "100 MB from the end of one task to the first element in the next"),
    ],
)
def test_beside_peers(benchmark: Callable, figures: Figures, figure: str, unit: str, what: str) -> None:
    ours = figures["hooke"][figure]
    row = {system: figures[system][figure] for system in SYSTEMS}
    benchmark.extra_info |= row
    benchmark.pedantic(lambda: None, rounds=1)
    peers = ", ".join(f"{peer} {row[peer]:.1f} ({ours / row[peer]:.2f}x)" for peer in PEERS)
    print(f"\n{what}: Hooke {ours:.1f} {unit}; {peers}")


@pytest.mark.timeout(600)
@pytest.mark.benchmark(group="engine")
def test_a_second_run(benchmark: Callable, figures: Figures) -> None:
    names = ("second run", "second run, cached", "hand, free pages", "write, free pages")
    found = {name: figures["hooke"][name] for name in names}
    benchmark.extra_info |= found
    benchmark.pedantic(lambda: None, rounds=1)
    print("\n" + ", ".join(f"{name}: {ms:.1f} ms" for name, ms in found.items()))
