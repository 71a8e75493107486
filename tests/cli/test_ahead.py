"""The server that forks the workers of `hooke run`: a fork of the command line, or a process that was started, to the same effect."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from tests.engines.local.faults import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a fork serves on Linux only")

STATE = """
from hooke import task, pipeline

@task
def state() -> dict:
    import faulthandler, gc, os, pathlib, signal, sys, warnings
    def facts(pid, *names):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return {name: found[name] for name in names}
    def files(pid):
        names = [os.readlink(each) if each.is_symlink() else "" for each in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
        return sorted("".join(letter for letter in name.partition(":")[0] if letter.isalpha()) for name in names)
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv[:1],
        "collects": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() > 1000],
        "environment": sorted(os.environ),
        "faulthandler": faulthandler.is_enabled(),
        "files": len(files("self")),
        "filters": [str(each) for each in warnings.filters],
        "finders": [str(type(each)) for each in sys.meta_path],
        "folder": os.getcwd(),
        "main": [getattr(main, "__file__", None), str(main.__spec__), sorted(vars(main))],
        "modules": sorted({name for name in sys.modules if not name.startswith("hooke.")} - {"runpy", "_distutils_hack"}),
        "path": sys.path,
        "server files": len(files(os.getppid())),
        "sessions": [os.getsid(0) == os.getpid(), os.getsid(os.getppid()) == os.getppid()],
        "signals": [facts(pid, "SigBlk", "SigIgn", "SigCgt", "Umask") for pid in ("self", os.getppid())],
        "streams": [(each.name, each.encoding, each.errors, each.line_buffering) for each in (sys.stdin, sys.stdout, sys.stderr)],
        "traced": sys.gettrace() is not None,
        "was started": b"fork_server" in pathlib.Path(f"/proc/{os.getppid()}/cmdline").read_bytes(),
    }

@pipeline
def main():
    return state()
"""


def state(folder, *options, verb=("run", "state.py")):
    """What a task tells of its process, below `python OPTION... -m hooke`."""
    (folder / "state.py").write_text(STATE)
    command = [sys.executable, *options, "-m", "hooke", *verb, "--json"]
    told = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return json.loads(told.stdout)["result"]


@pytest.mark.needs("cpu")
def test_a_worker_is_the_same_below_a_forked_server_and_a_started_one(tmp_path):
    forked = state(tmp_path, "-P")
    started = state(tmp_path, "-P", "-X", "int_max_str_digits=4300", verb=("run", "--force", "state.py"))
    assert [forked.pop("was started"), started.pop("was started")] == [False, True]
    assert forked == started


@pytest.mark.needs("cpu")
def test_modules_of_the_working_directory_are_not_those_of_workers(tmp_path):
    assert state(tmp_path)["was started"]  # without -P they come first for the command line


SLOW = """
import subprocess, time
from hooke import task, pipeline

@task
def slow() -> None:
    subprocess.Popen(["sleep", "300"])
    time.sleep(300)

@pipeline
def main():
    return slow()
"""


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["Ctrl-C twice", "kill -9"],
)
def test_all_below_a_run_with_a_forked_server_end_with_it(tmp_path, number, code):
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-P", "-m", "hooke", "run", "slow.py"]
    with (tmp_path / "output.txt").open("w") as output:
        driver = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True)
    wait_until(lambda: len(psutil.Process(driver.pid).children(recursive=True)) == 3)
    below = psutil.Process(driver.pid).children(
        recursive=True
    )  # the server, the worker, and what its task started
    os.killpg(driver.pid, number)
    if number == signal.SIGINT:
        wait_until(lambda: "stopping: Ctrl-C" in (tmp_path / "output.txt").read_text())
        os.killpg(driver.pid, number)
    assert driver.wait(60) == code
    assert not psutil.wait_procs(below, timeout=60)[1]
