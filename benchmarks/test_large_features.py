"""Features of many rows by Polars and DuckDB as tasks, beside the same functions without Hooke, in turn: time and peak memory."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "benchmarks" / "large_features_programs.py"
ROWS = int(os.environ.get("LARGE_ROWS", "10000000"))
REPEATS = 3
MEMORY = 2 << 30


def started(folder: Path, *arguments: str) -> str:
    """What the program prints. It gets no more memory than `MEMORY`, as the tasks get from Hooke, whose processes set their own limits."""
    done = subprocess.run(
        [sys.executable, "large_features_programs.py", *arguments],
        cwd=folder,
        env=os.environ | {"POLARS_MAX_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the example and its files of rows."""
    made = tmp_path_factory.mktemp("many_rows")
    for file in [*(ROOT / "examples" / "flights").glob("*.py"), PROGRAM]:
        shutil.copy(file, made)
    (made / "hooke.toml").touch()
    started(made, "write", str(ROWS))
    return made


@pytest.mark.timeout(3600)
@pytest.mark.benchmark(group="features of many rows")
@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_a_task_beside_the_plain_function(benchmark, folder, engine):
    figures: dict[str, list[dict[str, float]]] = {"plain": [], "hooke": []}
    for number in range(REPEATS):
        for kind in list(figures)[:: 1 if number % 2 else -1]:
            figures[kind].append(json.loads(started(folder, kind, str(ROWS), engine)))
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{engine}, {ROWS:,} rows")
    ratios = {}
    for what in ("wall", "cpu", "peak"):
        plain, ours = ([each[what] for each in figures[kind]] for kind in ("plain", "hooke"))
        ratios[what] = median(a / b for a, b in zip(ours, plain, strict=True))
        print(
            f"{what:5} plain {[round(each, 1) for each in plain]}, a task {[round(each, 1) for each in ours]}: {ratios[what]:.2f}x"
        )
    benchmark.extra_info |= ratios
    assert max(each["peak"] for kind in figures.values() for each in kind) < MEMORY >> 20
