"""A driver that is killed takes everything with it that it started: workers, their tasks' children, the fork server."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.needs("processes")

GONE_WITHIN_S = 2.0


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_nothing_outlives_the_driver(how: str, tmp_path: Path) -> None:
    child = [sys.executable, str(Path(__file__).parent / "driver_child.py"), str(tmp_path)]
    with subprocess.Popen(child, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        named = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        started = {*named, *psutil.Process(driver.pid).children(recursive=True)}
        assert len(named) >= 3
        getattr(driver, how)()
        driver.wait()
        _, alive = psutil.wait_procs(started, timeout=GONE_WITHIN_S)
    orphans = [
        process for process in alive if process.status() != psutil.STATUS_ZOMBIE
    ]  # init may be slow to reap
    assert not orphans, f"orphans: {[(process.pid, process.cmdline()) for process in orphans]}"
