"""From the shell: what a user waits for, beside plain Python and the installed peers, in one run."""

import shutil

import pytest

TASKS = """
from hooke import task, pipeline

@task
def one() -> int:
    return 1

@task
def add(x: int) -> int:
    return x + 1

@pipeline
def three() -> int:
    return add(add(one()))
"""

PLAIN = """
def one(): return 1
def add(x): return x + 1
print(add(add(one())))
"""

JOBLIB = """
from joblib import Memory
memory = Memory("cache", verbose=0)
@memory.cache
def one(): return 1
@memory.cache
def add(x): return x + 1
print(add(add(one())))
"""

PREFECT = """
from prefect import flow, task
@task
def one(): return 1
@task
def add(x): return x + 1
@flow
def three(): return add(add(one()))
print(three())
"""


@pytest.mark.benchmark(group="shell: three trivial tasks, process start to exit")
@pytest.mark.parametrize("state", ["new", "again"])
@pytest.mark.parametrize(
    ("system", "source"), [("plain", PLAIN), ("hooke", TASKS), ("joblib", JOBLIB), ("prefect", PREFECT)]
)
def test_three_tasks(benchmark, project, command, system, source, state):
    """New, or found in the cache of the run before."""
    (project / "job.py").write_text(source)
    words = ("hooke", "run", "job.py") if system == "hooke" else ("python", "job.py")

    def forget():
        if state == "new":
            for kept in (".hooke", "cache"):
                shutil.rmtree(project / kept, ignore_errors=True)

    repeats = 2 if system == "prefect" else 5
    benchmark.pedantic(command, args=words, setup=forget, rounds=repeats, iterations=1, warmup_rounds=1)


@pytest.mark.benchmark(group="shell: start-up")
@pytest.mark.parametrize(
    "words",
    [
        ("python", "-c", "pass"),
        ("python", "-c", "import hooke"),
        ("python", "-c", "import hooke; hooke.task, hooke.pipeline"),
        ("hooke", "--help"),
    ],
    ids=["python", "import hooke", "import hooke and its decorators", "hooke --help"],
)
def test_start_up(benchmark, command, words):
    benchmark.pedantic(command, args=words, rounds=9, iterations=1, warmup_rounds=1)
