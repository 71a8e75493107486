"""The driver's own life: Ctrl-C, kill -9 and resume, two at once, in a thread, in a notebook."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from hooke.base.errors import RunStopped, UsageError
from hooke.journal.events import AttemptFinished, ItemsFound, RunStarted
from hooke.journal.reader import read
from hooke.project.folder import Project
from hooke.running.resume import last_resumable, resume
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

SLOW = """
    import os, sys, time
    from pathlib import Path
    from hooke import task, pipeline, run

    HERE = Path(__file__).parent

    @task
    def slow(x: int, pause: float) -> int:
        time.sleep(pause)
        with open(HERE / "ran.txt", "a") as file:
            file.write(f"{x}\\n")
        return 10 * x

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @pipeline
    def job(n: int = 12, pause: float = 0.2):
        return total(slow.map(range(n), pause=pause))

    if __name__ == "__main__":
        print("result", run(job, on=sys.argv[1], n=int(sys.argv[2]), pause=float(sys.argv[3])).result())
"""


def start(workshop, *args):
    return subprocess.Popen(
        [sys.executable, str(workshop.file), *map(str, args)],
        cwd=workshop.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, *, within_s=30.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def runs_of(workshop):
    return workshop.project.runs.names()


def finished_items(folder: Path) -> list[int]:
    found = []
    for segment in read(folder, "driver"):
        for event in segment.events:
            if isinstance(event, AttemptFinished):
                found += [(event.node, item) for item in range(event.lo, event.hi)]
    return found


def has_finished_some(workshop, least=3):
    names = runs_of(workshop)
    return bool(names) and len(finished_items(workshop.project.runs.folder(names[0]))) >= least


@pytest.mark.parametrize("on", ["local:2", "serial"])
def test_kill_9_of_the_driver_then_resume(workshop, on):
    workshop.write(SLOW)
    process = start(workshop, on, 12, 0.2)
    wait_until(lambda: has_finished_some(workshop))
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))

    project = workshop.project
    name = last_resumable(project)
    assert Run(project, name).status == "lost"
    before = finished_items(project.runs.folder(name))
    driver = resume(project, name)
    assert driver is not None
    assert driver.drive() == "finished"
    run = Run(project, name)
    assert run.result() == sum(10 * x for x in range(12))
    after = finished_items(project.runs.folder(name))
    assert after[: len(before)] == before
    assert len(set(after)) == len(after), "nothing that finished ran again"
    recalled = [event for event in run.journal if isinstance(event, ItemsFound) and event.source == "journal"]
    assert recalled
    assert resume(project, name) is None


def test_ctrl_c_stops_cleanly(workshop):
    workshop.write(SLOW)
    process = start(workshop, "local:2", 50, 0.2)
    wait_until(lambda: has_finished_some(workshop, 1))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    run = Run(workshop.project, runs_of(workshop)[0])
    assert run.status == "stopped"
    assert run.stopped_by == "Ctrl-C"
    assert f"hooke resume {run.id}" in err
    with pytest.raises(RunStopped, match="hooke resume"):
        run.result()


ENDED_FROM_OUTSIDE = """
    import signal, sys
    sys.path.insert(0, {folder!r})
    from {module} import job
    from hooke import run

    class Terminated(BaseException):
        "As orchestrators raise where SIGTERM finds a task."

    def end(*_):
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    run(job, on="local:2", n=50, pause=0.2)
"""


@pytest.mark.needs("cpu")
def test_what_ends_the_caller_from_outside_stops_the_run(workshop):
    workshop.write(SLOW)
    names = {"folder": str(workshop.folder), "module": workshop.file.stem}
    code = textwrap.dedent(ENDED_FROM_OUTSIDE.format(**names))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=workshop.folder, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: has_finished_some(workshop, 1))
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.rstrip().endswith("Terminated"), err
    psutil.wait_procs(workers, timeout=30)
    assert not any(each.is_running() for each in workers)
    run = Run(workshop.project, runs_of(workshop)[0])
    assert run.status == "stopped"


def test_two_processes_compute_a_shared_key_once(workshop):
    workshop.write(SLOW)
    both = [start(workshop, "local:1", 6, 0.15) for _ in range(2)]
    outputs = [process.communicate(timeout=180) for process in both]
    assert [out.strip() for out, _ in outputs] == ["result 150"] * 2, outputs
    ran = Path(workshop.folder / "ran.txt").read_text().split()
    assert sorted(ran) == sorted(map(str, range(6)))


def test_a_second_driver_of_one_run_is_refused(workshop):
    workshop.write(SLOW)
    process = start(workshop, "local:1", 30, 0.2)
    wait_until(lambda: has_finished_some(workshop, 1))
    name = runs_of(workshop)[0]
    with pytest.raises(UsageError, match=f"process {process.pid}"):
        resume(workshop.project, name)
    workshop.project.runs.request_stop(name, "a test")
    process.communicate(timeout=20)
    run = Run(workshop.project, name)
    assert (run.status, run.stopped_by) == ("stopped", "a test")


def test_in_a_thread(workshop, monkeypatch):
    workshop.write(SLOW)
    from hooke import run
    from hooke.project.pipeline_file import load_entry

    job, _ = load_entry(str(workshop.file))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(workshop.file), raising=False)
    going = run(job, on="local:1", wait=False, n=3, pause=0.2)
    with pytest.raises(TimeoutError):
        going.result(timeout=0.01)
    assert going.result() == 30
    stopped = run(job, on="local:1", wait=False, n=30, pause=0.3)
    stopped.stop()
    with pytest.raises(RunStopped):
        stopped.result()


def test_an_edit_between_death_and_resume_runs_what_it_touches(workshop):
    workshop.write(SLOW)
    run = workshop.run(n=3, pause=0.0)
    assert run.result() == 30
    workshop.project.runs.request_stop(run.id, "test")
    stopped = workshop.run(n=4, pause=0.0)
    assert stopped.result() == 60
    workshop.edit("return sum(xs)", "return sum(xs) + 1")
    assert workshop.ran(workshop.run(n=4, pause=0.0)) == {"total": 1}


NOTEBOOK = """
from hooke import task, pipeline, run

@task
def inc(x: int) -> int:
    return x + STEP

@pipeline
def job(n: int = 3):
    return inc.map(range(n))

STEP = 1
print(run(job, on="local:1").result())
STEP = 2
second = run(job, on="local:1")
print(second.result(), [row.done for row in second.tasks()])
third = run(job, on="local:1")
print(third.result(), [row.cached for row in third.tasks()], third.id)
"""


@pytest.mark.needs("processes")
def test_in_a_notebook(tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    text = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "[1, 2, 3]" in text
    assert text.count("[2, 3, 4] [3]") == 2
    project = Project.find(tmp_path)
    (started, *_) = [
        event for event in Run(project, project.runs.names()[0]).journal if isinstance(event, RunStarted)
    ]
    assert started.entry == "pickle"


def test_python_dash_c(tmp_path):
    code = (
        "from hooke import task, pipeline, run\n"
        "@task\n"
        "def inc(x): return x + 1\n"
        "@pipeline\n"
        "def job(n=3): return inc.map(range(n))\n"
        "print(run(job, on='local:1').result())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.strip() == "[1, 2, 3]", done.stderr
