"""Runs that end before their time: real signals to real processes."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from tests.cli.conftest import Desk
from tests.cli.jobs import SLOW

from hooke.project.folder import Project
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def slow(desk: Desk) -> Desk:
    desk.write("slow.py", SLOW)
    return desk


def ran(desk: Desk) -> list[str]:
    path = desk.folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def quick(desk: Desk) -> list[str]:
    return sorted(line for line in ran(desk) if line.startswith("quick"))


def begin(desk: Desk, kill, *arguments: str, on: str = "local:2", busy: int = 2):
    """A run whose workers all are in slow tasks: what these needed has been acknowledged, and nothing else runs."""
    process = desk.start("run", "slow.py", "--on", on, *arguments)
    kill(process)
    desk.until(lambda: sum(line.startswith("slow") for line in ran(desk)) >= busy)
    return process


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_ctrl_c_stops_cleanly_and_resume_goes_on(slow, kill):
    process = begin(slow, kill)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    run = slow.last()
    assert code == 130
    assert out == ""
    assert "Traceback" not in err
    assert f"run {run} stopped cleanly" in err
    assert f"next: hooke resume {run}" in err
    assert "stopped" in slow.hooke("runs").out
    slow.write("go", "")
    done = slow.hooke("resume")
    assert (done.code, done.out) == (0, "33\n")
    assert quick(slow) == ["quick 0", "quick 1", "quick 2"], "what had finished ran again"


def test_json_of_a_stopped_run(slow, kill):
    process = begin(slow, kill, "--json")
    process.send_signal(signal.SIGINT)
    code, out, _ = ended(process)
    assert code == 130
    assert json.loads(out)["status"] == "stopped"


def test_ctrl_c_in_a_serial_run(slow, kill):
    process = begin(slow, kill, on="serial", busy=1)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert "Traceback" not in err
    assert "hooke resume" in err


def test_ctrl_c_while_the_file_is_imported(desk, kill):
    desk.write("sleepy.py", "import time\nfrom pathlib import Path\nPath('here').touch()\ntime.sleep(60)\n")
    process = desk.start("run", "sleepy.py")
    kill(process)
    desk.until((desk.folder / "here").exists)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert "Traceback" not in err


def test_kill_9_and_resume(slow, kill):
    process = begin(slow, kill)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    slow.until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    assert "lost" in slow.hooke("runs").out
    assert "working on 0" in slow.hooke("logs").out, "what a killed run had printed is there"
    slow.write("go", "")
    done = slow.hooke("resume", slow.last())
    assert (done.code, done.out) == (0, "33\n")
    assert quick(slow) == ["quick 0", "quick 1", "quick 2"], "what had finished ran again"
    assert "resumed once" in slow.hooke("show").out


def test_stop_from_another_terminal(slow, kill):
    process = begin(slow, kill)
    asked = slow.hooke("stop")
    code, _, err = ended(process)
    assert asked.code == 0
    assert f"run {slow.last()}: stopped" in asked.out
    assert "next: hooke resume" in asked.err
    assert code == 130
    assert "stopping: hooke stop" in err
    again = slow.hooke("stop", slow.last())
    assert again.code == 2
    assert "is not running: it is stopped" in again.err


def test_a_running_run_is_shown_and_not_resumed(slow, kill):
    begin(slow, kill)
    shown = slow.hooke("show")
    assert f"run {slow.last()}: running" in shown.out
    assert "workers busy" in shown.out
    done = slow.hooke("resume", slow.last())
    assert done.code == 2
    assert "is running (process" in done.err


def test_logs_follow_until_the_run_ends(slow, kill):
    begin(slow, kill)
    follower = slow.start("logs", "--follow")
    kill(follower)
    assert follower.stdout is not None
    assert "working on" in follower.stdout.readline()
    slow.write("go", "")
    out = follower.stdout.read()  # not communicate(), which would miss what readline() read ahead
    assert follower.wait(timeout=30) == 0
    assert out.count("working on") == 2
    assert out == "".join(f"{line}\n" for line in dict.fromkeys(out.splitlines())), "a line was told twice"


def test_a_resumed_run_works_where_it_began(slow, kill):
    slow.write(
        "relative.py",
        """
        import os, time
        from pathlib import Path
        from hooke import pipeline, task

        @task
        def reads() -> str:
            Path("began").touch()
            while not Path("go").exists():
                time.sleep(0.01)
            return os.getcwd()

        @pipeline
        def job(): return reads()
        """,
    )
    process = slow.start("run", "relative.py")
    kill(process)
    slow.until((slow.folder / "began").exists)
    process.send_signal(signal.SIGINT)
    ended(process)
    slow.write("go", "")
    elsewhere = slow.folder / "elsewhere"
    elsewhere.mkdir()
    done = slow.hooke("resume", "--project", "..", cwd=elsewhere)
    assert (done.code, done.out) == (0, f"{slow.folder}\n")
    assert done.err.splitlines()[-1].endswith("--project .."), "hints are for where they are typed"


@pytest.mark.needs("processes")
def test_a_run_goes_on_when_nobody_reads_its_progress(tmp_path):
    (tmp_path / "job.py").write_text(
        "import time\n"
        "from hooke import pipeline, task\n"
        "@task\n"
        "def slow(x):\n"
        "    time.sleep(0.2)\n"
        "    return x\n"
        "@pipeline\n"
        "def job():\n"
        "    return slow(slow(slow(1)))\n"
    )
    words = f"{sys.executable} -m hooke run job.py 2>&1 | head -1"
    subprocess.run(["bash", "-c", words], cwd=tmp_path, check=True, capture_output=True)
    project = Project.find(tmp_path)
    assert Run(project, project.runs.names()[0]).status == "finished"


@pytest.mark.long
def test_workers_have_the_flags_of_the_driver_and_the_cache_knows_them(desk):
    desk.write(
        "strict.py",
        """
        import sys

        from hooke import pipeline, task

        @task
        def checked(n: int) -> str:
            assert n < 0, "too many"
            return f"{n} {' '.join(sys.warnoptions)}"

        @pipeline
        def job(n: int = 1) -> str:
            return checked(n)
        """,
    )
    command = [sys.executable, "-O", "-W", "ignore::ImportWarning", "-m", "hooke", "run", "strict.py"]
    loose = subprocess.run(
        [*command, "--on", "local:1"],
        cwd=desk.folder,
        env=desk.environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert loose.stdout.strip() == "1 ignore::ImportWarning"
    refused = desk.hooke("run", "strict.py", "--on", "local:1")
    assert refused.code == 1
    assert "too many" in refused.err
