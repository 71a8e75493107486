"""What every benchmark shares: an empty project, fresh processes, and ratios within one run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory, so that `.hooke/` is new."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(project: Path) -> Callable[..., float]:
    """Run a command of this environment to its exit; wall seconds. Fails with its output when it fails."""
    commands = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": commands + os.pathsep + os.environ["PATH"], "NO_COLOR": "1"}

    def wall_s(*arguments: str) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            arguments, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stdout + done.stderr
        return seconds

    return wall_s


@pytest.fixture
def median_s() -> Callable[[Callable[[], object], int], float]:
    """Median wall seconds of a call, for ratios of two things within one test."""

    def median(call: Callable[[], object], repeats: int) -> float:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[repeats // 2]

    return median
