"""`hooke debug`: the failed call again, in its own process, with its real inputs, under pdb."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.needs("processes")

JOB = """
from hooke import task, pipeline

@task
def make(n: int) -> list[int]:
    return list(range(n))

@task
def invert(x: int, k: int = 1) -> float:
    return k / (x - 3)

@task
def total(xs: list[float]) -> float:
    return sum(xs)

@pipeline
def dynamic(n: int = 6):
    return total(invert.map(make(n), k=2))

@pipeline
def static(n: int = 6):
    return total(invert.map(range(n), k=2))

@pipeline
def fine(n: int = 6):
    return total(make(n))

@pipeline
def single():
    return invert(total([1.0, 2.0]))
"""


@pytest.fixture
def hooke(tmp_path):
    (tmp_path / "job.py").write_text(JOB)

    def call(*words, typed=""):
        return subprocess.run(
            [sys.executable, "-m", "hooke", *words],
            cwd=tmp_path,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NO_COLOR": "1"},
        )

    return call


@pytest.mark.long
@pytest.mark.parametrize("pipeline", ["dynamic", "static"])
def test_the_failed_item_with_its_inputs(hooke, pipeline):
    assert hooke("run", f"job.py:{pipeline}").returncode == 1
    again = hooke("debug", "invert", typed="p (x, k)\nq\n")
    assert again.returncode == 1
    assert "(3, 2)" in again.stdout
    assert "ZeroDivisionError" in again.stderr
    assert "(Pdb)" in again.stdout
    fine = hooke("debug", "invert", "--item", "5")
    assert fine.returncode == 0
    assert "the task did not fail; it returned 1.0" in fine.stdout


def test_a_call_that_takes_a_tasks_result(hooke):
    assert hooke("run", "job.py:single").returncode == 1
    assert "3.0" in hooke("debug", "invert", typed="p x\nq\n").stdout


def test_pdb_opens_in_the_users_code_although_a_library_has_raised(hooke, tmp_path):
    (tmp_path / "lost.py").write_text(
        "from pathlib import Path\n\nfrom hooke import pipeline, task\n\n\n@task\ndef count(day: int) -> int:\n"
        "    return len(Path(f'{day}.txt').read_text())\n\n\n@pipeline\ndef lost():\n    return count(12)\n"
    )
    assert hooke("run", "lost.py").returncode == 1
    debugged = hooke("debug", typed="p 'day', day\ndown\nq\n")
    assert "('day', 12)" in debugged.stdout
    assert "pathlib" in debugged.stdout, "down leads into the library"


def test_step_stops_at_the_first_line(hooke):
    hooke("run", "job.py:static")
    stepped = hooke("debug", "invert", "--item", "0", "--step", typed="p x\nc\n")
    assert stepped.returncode == 0
    assert "-> return k / (x - 3)" in stepped.stdout


@pytest.mark.long
def test_without_a_task_it_is_the_one_that_failed_and_the_failure_screen_says_so(hooke):
    failed = hooke("run", "job.py:dynamic")
    command = re.search(r"next: hooke (debug \S+ invert --item 3)\n +when fixed: hooke resume", failed.stderr)
    assert command is not None, failed.stderr
    shown = hooke("show")
    assert f"next: hooke {command[1]}\n" in shown.stdout
    for words in (command[1].split(), ["debug"]):
        again = hooke(*words, typed="p (x, k)\nq\n")
        assert again.returncode == 1
        assert "(3, 2)" in again.stdout
    assert hooke("run", "job.py:single").returncode == 1
    assert "3.0" in hooke("debug", typed="p x\nq\n").stdout


def test_without_a_failure_the_tasks_are_named(hooke):
    assert hooke("run", "job.py:fine").returncode == 0
    done = hooke("debug")
    assert done.returncode == 2
    assert "no task of run fine-" in done.stderr
    assert "fix: name one of its tasks: make, total" in done.stderr
    assert re.search(r"next: hooke debug fine-\S+ make", done.stderr)


def test_what_cannot_be_debugged_says_why(hooke):
    hooke("run", "job.py:dynamic")
    for words, said in (
        (("debug", "total"), "inputs of total are missing: invert"),
        (("debug", "invert", "--item", "9"), "valid: 0 to 5"),
        (("debug", "invrt"), "did you mean invert?"),
    ):
        done = hooke(*words)
        assert done.returncode == 2
        assert said in done.stderr


CELLS = (
    "from hooke import pipeline, run, task",
    "def shifted(x):\n    # three is the hole\n    return x - 3",
    "@task\ndef invert(x: int) -> float:\n    y = shifted(x)\n    return 1 / y",
    "@pipeline\ndef inverses(n: int = 6):\n    return invert.map(range(n))",
    "run(inverses, on='local:2', progress='none')",
    # A later edit is no part of the run.
    "@task\ndef invert(x: int) -> float:\n    # nothing to see\n    # here\n    return 0.0",
)


def in_a_kernel(folder):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        said = [client.execute_interactive(cell, timeout=100, output_hook=lambda _: None) for cell in CELLS]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return "".join(reply["content"].get("evalue", "") for reply in said)


def in_a_shell(folder):
    program = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell as Shell\n"
        "shell = Shell.instance(user_module=sys.modules['__main__'])\n"
        f"for cell in {CELLS!r}: shell.run_cell(cell, store_history=True)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    ).stdout


@pytest.mark.long
@pytest.mark.parametrize("cells", [in_a_kernel, in_a_shell])
def test_the_lines_of_a_task_from_a_notebook(hooke, tmp_path, cells):
    """They are in no file, and the process that knew them is gone."""
    pytest.importorskip("ipykernel" if cells is in_a_kernel else "IPython")
    (tmp_path / "hooke.toml").touch()
    told = cells(tmp_path)
    assert re.search(r"invert\((x=3|item 3: 3)\) failed", told), told  # alone, or in a chunk
    assert re.search(r"line 4, in invert\s+return 1 / y\n", told), told
    again = hooke("debug", typed="p x\nll\nq\n")
    assert again.returncode == 1
    assert re.search(r"line 4, in invert\n +return 1 / y\n", again.stderr), again.stderr
    assert re.search(r"^> .*\(4\)invert\(\)\n-> return 1 / y\n\(Pdb\) 3$", again.stdout, re.MULTILINE)
    assert "  3  \t    y = shifted(x)\n  4  ->\t    return 1 / y\n" in again.stdout, again.stdout
    stepped = hooke("debug", "invert", "--item", "0", "--step", typed="s\ns\ns\ns\nq\n")
    assert "-> return x - 3\n" in stepped.stdout, stepped.stdout
