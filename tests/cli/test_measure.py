"""`hooke measure` as it is typed. What is timed sleeps, so that a busy machine changes no answer that is asked for."""

import json
import re
import signal
import subprocess
import sys

import psutil
import pytest
from tests.cli.conftest import Desk

from hooke.journal.study_records import StudyRecord, read_study

pytestmark = pytest.mark.needs("processes")

NAPS = """
    import os
    import time
    from pathlib import Path

    from hooke import pipeline, task

    HERE = Path(__file__).parent


    @task
    def nap(x: int, *, seconds: float) -> int:
        with open(HERE / "ran", "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(seconds)
        return x


    @pipeline
    def naps(n: int = 4, seconds: float = 0.03) -> list[int]:
        print("traced")
        return nap.map(range(n), seconds=seconds)


    def at_once(xs, *, seconds):
        time.sleep(seconds)
"""
MEASURE = ("measure", "naps.py", "--task", "nap", "--workers", "1,2", "--repeats", "2")


@pytest.fixture
def naps(desk: Desk) -> Desk:
    desk.write("naps.py", NAPS)
    return desk


def record(desk: Desk) -> StudyRecord:
    found = read_study(desk.project.runs.folder(desk.last()))
    assert found is not None
    return found


@pytest.mark.long
def test_a_study_is_shown_and_shown_again(naps):
    done = naps.hooke(*MEASURE, "--n", "6")
    assert done.code == 0, done.err
    assert "nap of naps(n=6), strong scaling: 2 repeats" in done.out
    assert "\nplain " in done.out
    assert "COST " in done.out
    assert re.search(
        "next  (measure at N = 4|a machine with more cores)", done.out
    )  # others may take the cores
    assert "traced" not in done.out
    assert "round 2 of 2 is done" in done.err
    study = naps.last()
    assert f"next: hooke show {study}" in done.err
    assert naps.hooke("show").out == done.out
    assert study in naps.hooke("runs").out
    again = naps.hooke(*MEASURE, "--n", "6")
    assert again.out == done.out
    assert "already known; --fresh measures again" in again.err


@pytest.mark.long
def test_json_is_for_programs(naps):
    done = naps.hooke(*MEASURE, "--plain", "at_once", "--json")
    facts = json.loads(done.out)
    assert [row["n"] for row in facts["rows"]] == [1, 2]
    assert facts["plain"] == "at_once"
    assert facts["law"]["measure_at"] == 4
    assert facts["cost"]["never"] is True
    assert done.err == "traced\n"
    assert json.loads(naps.hooke("show", "--json").out) == facts
    curve = naps.hooke("curve", naps.last())
    assert curve.code == 1
    assert "fix: measure at N = 4\n" in curve.err
    assert f"next: hooke measure {naps.folder / 'naps.py'}:naps --task nap --workers 1,2,4" in curve.err
    refused = naps.hooke("measure", "naps.py", "--task", "np", "--json")
    assert refused.code == 2
    assert "did you mean nap?" in json.loads(refused.out)["error"]["fix"]


@pytest.mark.long
def test_a_study_is_no_run_that_others_mean(naps):
    naps.edit("naps.py", "def naps(", "def sleepers(")  # `nap` would be the beginning of a run's name
    assert naps.hooke("run", "naps.py").code == 0
    run = naps.last()
    assert naps.hooke(*MEASURE, "--workers", "1,2,4").code == 0
    study = naps.last()
    assert naps.hooke("cache", "why", "nap").code == 0
    assert naps.hooke("logs").code == 0
    for typed in (("curve",), ("curve", "nap"), ("curve", study, "nap")):
        assert f"study {study}" in naps.hooke(*typed).out, typed
    assert f"run {run}" in naps.hooke("show", run).out
    wrong = naps.hooke("curve", study, "np")
    assert wrong.code == 2
    assert "did you mean nap?" in wrong.err


@pytest.mark.long
def test_ctrl_c_keeps_what_is_measured_and_the_same_command_goes_on(naps, kill):
    process = naps.start(*MEASURE, "--repeats", "3", "--seconds", "0.1")
    kill(process)
    naps.until(lambda: naps.project.runs.names() and _rounds(naps) == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped; finished measurements are kept" in err
    typed = f"hooke {' '.join(MEASURE)} --repeats 3 --seconds 0.1"
    assert f"next: {typed}" in err
    assert record(naps).rounds < 3
    kept = record(naps).measured
    done = naps.hooke(*MEASURE, "--repeats", "3", "--seconds", "0.1")
    assert done.code == 0, done.err
    assert record(naps).measured[: len(kept)] == kept
    assert record(naps).complete
    assert len(naps.project.runs.names()) == 1


@pytest.mark.long
def test_a_killed_driver_leaves_no_process_and_the_study_goes_on(naps, kill):
    process = naps.start(*MEASURE, "--repeats", "3", "--seconds", "0.1")
    kill(process)
    naps.until(lambda: naps.project.runs.names() and _rounds(naps) == 1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert children
    naps.until(lambda: not any(_lives(child) for child in children))
    refused = naps.hooke("resume")
    assert refused.code == 2
    assert "there is no run to resume" in refused.err
    named = naps.hooke("resume", naps.last())
    assert "next: hooke measure" in named.err
    assert naps.hooke(*MEASURE, "--repeats", "3", "--seconds", "0.1").code == 0
    assert record(naps).complete
    assert len(naps.project.runs.names()) == 1
    assert not (naps.project.runs.folder(naps.last()) / "store").exists()


@pytest.mark.long
def test_two_studies_at_once_would_measure_one_another(naps, kill):
    process = naps.start(*MEASURE, "--seconds", "0.5")
    kill(process)
    naps.until(lambda: (naps.folder / "ran").exists())
    second = naps.hooke("measure", "naps.py", "--workers", "1,2")
    assert second.code == 2
    assert "another study is running in this project" in second.err
    third = naps.hooke("stop", naps.last())
    assert third.code == 0
    process.communicate(timeout=120)
    assert process.returncode == 130


def test_a_script_measures_its_own_pipeline(naps):
    script = '\n\n    if __name__ == "__main__":\n        from hooke import measure\n'
    script += '        print(measure(naps, task="nap", workers=[1, 2], repeats=1, plain=at_once).cost)\n'
    naps.write("naps.py", NAPS + script)
    done = subprocess.run(
        [sys.executable, "naps.py"], cwd=naps.folder, capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("traced\nWorkers needed to beat plain Python (COST): no number suffices")


@pytest.mark.long
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--workers", "1-4"), "--workers '1-4' is not a list of whole numbers"),
        (("--sizes", "a"), "--sizes 'a' is not a list"),
        (("--plain", "nothing"), "has no function 'nothing' for --plain"),
        (("--tsk", "nap"), "no parameter --tsk"),
        (("--repeats", "0"), "Invalid value for '--repeats'"),
        (("--on", "nowhere"), "no backend is called 'nowhere'"),
    ],
)
def test_what_was_mistyped_is_said(naps, typed, said):
    done = naps.hooke("measure", "naps.py", *typed)
    assert done.code == 2
    assert said in done.err
    assert not (naps.folder / ".hooke").exists()


def _rounds(desk: Desk) -> int:
    found = read_study(desk.project.runs.folder(desk.last()))
    return found.rounds if found is not None else 0


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
