"""Processes that a run or a task starts, and processes beside it, log into the run."""

import os
import subprocess
import sys
import textwrap

import pytest

import hooke
from hooke.base.errors import UsageError
from hooke.project.folder import Project
from hooke.running.run import Run
from hooke.tracking.tracker import MUTED, VARIABLE, AttemptScope, Tracker, active, current, logging_into

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(400)]

JOB = """
import multiprocessing, subprocess, sys

import hooke
from hooke import pipeline, task


def rank(number: int, x: int) -> None:
    hooke.log_metric("rank", number + 10 * x, step=number)


def torch_rank(number: int, x: int) -> None:
    rank(number, x)


@task
def spawned(x: int) -> int:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank, args=(number, x)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    hooke.log_metric("own", x)
    return x


@task
def program(x: int) -> int:
    code = f"import hooke; hooke.log_metric('rank', {x}); hooke.log_text('t', 'note.txt'); hooke.log_param('p', {x})"
    subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{code}"'], check=True)
    return x


@task
def distributed(x: int) -> int:
    import torch.multiprocessing

    torch.multiprocessing.spawn(torch_rank, args=(x,), nprocs=2)
    return x


@task
def forkserver(x: int) -> int:
    process = multiprocessing.get_context("forkserver").Process(target=rank, args=(0, x))
    process.start()
    process.join()
    return x


@pipeline
def one(kind: str, n: int = 2) -> list[int]:
    return {"spawned": spawned, "program": program, "distributed": distributed, "forkserver": forkserver}[kind].map(range(n))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOKE_SINKS", "none")
    (tmp_path / "job.py").write_text(textwrap.dedent(JOB))
    return tmp_path


def start(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def last(folder):
    project = Project.find(folder)
    return Run(project, project.runs.find())


def ran(folder, kind, *how):
    done = start(folder, "-m", "hooke", "run", "job.py:one", "--kind", kind, *how)
    assert done.returncode == 0, done.stdout + done.stderr
    return last(folder)


@pytest.mark.long
@pytest.mark.parametrize("how", [("--workers", "1"), ("--workers", "2"), ("--on", "serial")], ids="-".join)
def test_spawned_processes_log_for_the_item_that_started_them(folder, how):
    logged = ran(folder, "spawned", *how).logged()
    points = {(point.task, point.item, point.value, point.step) for point in logged.metric("rank")}
    assert points == {("spawned", x, number + 10.0 * x, number) for x in range(2) for number in range(2)}
    assert {(point.item, point.value) for point in logged.metric("own")} == {(0, 0.0), (1, 1.0)}
    assert not logged.refused


@pytest.mark.long
def test_torchs_processes_do(folder):
    pytest.importorskip("torch")
    points = ran(folder, "distributed", "--workers", "1").logged().metric("rank")
    assert {(point.item, point.value) for point in points} == {(0, 0.0), (0, 1.0), (1, 10.0), (1, 11.0)}


def test_programs_do_also_through_a_shell(folder):
    logged = ran(folder, "program", "--workers", "1").logged()
    assert {(point.item, point.value) for point in logged.metric("rank")} == {(0, 0.0), (1, 1.0)}
    assert {(note.item, note.value) for note in logged.params} == {(0, "0"), (1, "1")}
    assert {(each.item, each.file.read_text()) for each in logged.artifacts} == {(0, "t"), (1, "t")}


def test_a_forkserver_whose_environment_may_be_of_another_task_logs_nothing_and_says_so(folder):
    run = ran(folder, "forkserver", "--workers", "1")
    assert not run.logged().points
    said = "".join(file.read_text() for file in (run.folder / "logs").iterdir())
    assert "nothing is logged by a process of multiprocessing's forkserver" in said


def test_a_scripts_programs_log_into_its_run_until_it_ends(folder):
    source = """
        import subprocess, sys
        import hooke

        def child(value):
            code = f"import hooke; hooke.log_metric('x', {value})"
            return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr

        with hooke.start_run():
            assert child(1) == ""
        assert "outside a run" in child(2)
        """
    (folder / "script.py").write_text(textwrap.dedent(source))
    done = start(folder, "script.py")
    assert done.returncode == 0, done.stderr
    assert [point.value for point in last(folder).logged().metric("x")] == [1.0]


def test_a_process_attaches_to_a_run_by_its_id_also_after_its_end(folder):
    source = "import hooke\nwith hooke.start_run() as run:\n    hooke.log_metric('x', 1)\n"
    (folder / "script.py").write_text(source)
    assert start(folder, "script.py").returncode == 0
    run = last(folder)
    attach = f"""
        import hooke

        with hooke.attach_run({run.id!r}) as attached:
            hooke.log_metric("late", 2)
            try:
                hooke.start_run()
            except hooke.UsageError:
                hooke.set_tag("refused", "a second run")
        assert attached.status == "finished"
        hooke.log_metric("late", 3)
        """
    (folder / "attach.py").write_text(textwrap.dedent(attach))
    done = start(folder, "attach.py")
    assert done.returncode == 0, done.stderr
    assert "outside a run" in done.stderr
    logged = run.logged()
    assert [(point.name, point.value) for point in logged.points] == [("x", 1.0), ("late", 2.0)]
    assert [note.name for note in logged.tags] == ["refused"]
    assert run.status == "finished"


def test_there_is_no_such_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match="there are no runs yet"):
        hooke.attach_run("nothing")


def test_what_is_passed_on_is_what_counts_now(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "of the outside")
    one, other = (
        Tracker(tmp_path / "one", "w", durable="none"),
        Tracker(tmp_path / "two", "w", durable="none"),
    )
    with logging_into(one):
        one.move(3, 5)
        assert '"attempt":3,"item":5' in os.environ[VARIABLE]
        with logging_into(other):
            assert VARIABLE not in os.environ, "tasks of two runs share the environment"
            one.move(3, 6)
            assert VARIABLE not in os.environ
        assert '"item":6' in os.environ[VARIABLE]
        with logging_into(MUTED):
            assert VARIABLE not in os.environ
    assert os.environ[VARIABLE] == "of the outside"


def test_a_worker_keeps_the_variable_from_one_attempt_to_the_next_and_logs_nothing_between(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, "of the outside")
    tracker = Tracker(tmp_path / "one", "w", durable="none")
    scope = AttemptScope(tracker)
    for attempt in range(3):
        with scope:
            tracker.move(attempt, None)
            assert active() is tracker
            assert f'"attempt":{attempt},' in os.environ[VARIABLE]
        assert f'"attempt":{attempt},' in os.environ[VARIABLE]
        assert active() is None
        assert current("log_metric") is None, "the variable is for other processes"
    scope.leave()
    assert os.environ[VARIABLE] == "of the outside"
    scope.leave()
    monkeypatch.setenv(VARIABLE, "another")
    with scope:
        tracker.move(4, None)
    scope.leave()
    assert os.environ[VARIABLE] == "another"


@pytest.mark.parametrize(
    "said", ["{", '{"folder":"/nowhere","name":"w","durable":"none","attempt":1,"item":null,"mlflow":null}']
)
def test_a_variable_that_says_nothing_useful_is_said_and_harmless(folder, said):
    done = start(
        folder, "-c", "import hooke; hooke.log_metric('x', 1); hooke.log_metric('x', 2)", **{VARIABLE: said}
    )
    assert done.returncode == 0
    assert done.stderr.count("nothing is logged") == 1
