"""`start_run()` in plain scripts: real processes, ended in every way."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hooke
from hooke.base.errors import UsageError
from hooke.project.folder import Project
from hooke.running.resume import resume
from hooke.running.run import Run
from hooke.sync.shipper import Shipper
from hooke.testing import MemorySink

pytestmark = pytest.mark.needs("processes")


def script(
    folder: Path, source: str, *arguments: str, name: str = "train.py"
) -> subprocess.CompletedProcess[str]:
    (folder / name).write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, name, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def last(folder: Path) -> Run:
    project = Project.find(folder)
    return Run(project, project.runs.find())


def hooke_says(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hooke", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_parameters_of_a_script_are_listed_and_given_to_trackers_once(tmp_path):
    source = """
        import hooke

        with hooke.start_run("tried", params={"rate": 0.1, "kind": "forest"}):
            hooke.log_metric("x", 1)
        with hooke.start_run("tried", params=7):
            hooke.log_metric("x", 1)
        """
    done = script(tmp_path, source, "--fast")
    assert done.returncode == 0, done.stderr
    rows = json.loads(hooke_says(tmp_path, "runs", "--json").stdout)
    assert [row["parameters"] for row in rows][-1] == {"[0]": "'--fast'", "rate": "0.1", "kind": "'forest'"}
    assert "rate=0.1" in hooke_says(tmp_path, "runs").stdout
    runs, sink = Project.find(tmp_path).runs, MemorySink()
    with Shipper(runs=runs, sinks={"memory": sink}) as shipper:
        assert all(shipper.ship(run) for run in runs.names())
    assert [seen.params for seen in sink.runs.values()][-1] == {
        "[0]": "--fast",
        "rate": "0.1",
        "kind": "forest",
    }


@pytest.mark.parametrize("name", ["it's.py", 'two "words".py', "größe.py", "--.py"])
def test_a_script_may_have_any_name(tmp_path, name):
    done = script(
        tmp_path, "import hooke\nwith hooke.start_run():\n    hooke.log_metric('x', 1)\n", name=f"./{name}"
    )
    assert done.returncode == 0, done.stderr
    run = last(tmp_path)
    assert re.fullmatch(r"[\w.]+[\w.-]*", run.id)
    assert run._view().begun.pipeline == name.removesuffix(".py")
    assert [point.value for point in run.logged().points] == [1.0]


def test_a_script_and_what_is_shown_of_it(tmp_path):
    done = script(
        tmp_path,
        """
        import hooke

        with hooke.start_run("mnist", params={"rate": 0.1}, tags={"by": "me"}) as run:
            for loss in (3, 2, 1):
                hooke.log_metric("loss", loss)
            hooke.log_metric("odd", "x")
            print(run.id)
        print(run.status)
        """,
        "--fast",
    )
    run = last(tmp_path)
    assert done.stdout.split() == [run.id, "finished"]
    assert run.id.startswith("train-")
    assert "not logged: metric 'odd': ValueError" in done.stderr
    assert [point.value for point in run.logged().points] == [3.0, 2.0, 1.0]
    shown = hooke_says(tmp_path, "show").stdout
    assert f"run {run.id}: finished" in shown
    assert "3 points of 1 metric, 1 parameter, 1 tag" in shown
    assert "1 call was refused" in shown
    assert run.id in hooke_says(tmp_path, "runs").stdout
    resumed = hooke_says(tmp_path, "resume", run.id)
    assert resumed.returncode == 2
    assert f"run {run.id} is a script's run, which cannot be resumed" in resumed.stderr
    nothing = hooke_says(tmp_path, "resume")
    assert "there is no run to resume" in nothing.stderr
    with pytest.raises(UsageError, match="cannot be resumed"):
        resume(run.project, run.id)


@pytest.mark.parametrize(
    ("end", "code", "status"),
    [
        ("", 0, "finished"),
        ("raise SystemExit(0)", 0, "finished"),
        ("raise SystemExit(3)", 3, "failed"),
        ("raise ValueError('too bad')", 1, "failed"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "stopped"),
        ("run.finish('stopped')", 0, "stopped"),
    ],
)
@pytest.mark.parametrize("inside", [True, False], ids=["with", "without"])
def test_how_a_script_ends_is_how_its_run_ends(tmp_path, inside, end, code, status):
    head = "with hooke.start_run() as run:" if inside else "run = hooke.start_run()\nif True:"
    done = script(tmp_path, f"import hooke\n{head}\n    hooke.log_metric('x', 1)\n    {end}\n")
    codes = {code}
    if code == -signal.SIGINT and sys.version_info < (3, 11, 7):
        codes.add(1)  # older Pythons forget the signal where a hook compiles code
    assert done.returncode in codes, done.stderr
    run = last(tmp_path)
    expected = "failed" if end == "raise SystemExit(3)" and inside else status
    if not inside and end.startswith("raise SystemExit"):
        expected = "finished"  # nothing tells a handler at exit with which code
    if not inside and end == "raise KeyboardInterrupt":
        expected = "stopped"
    assert run.status == expected
    assert len(run.logged().points) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_a_killed_script_loses_nothing_that_returned(tmp_path, how):
    (tmp_path / "train.py").write_text(
        textwrap.dedent(
            """
            import sys, hooke

            hooke.start_run()
            for at in range(10**9):
                hooke.log_metric("loss", at)
                print(at, flush=True)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(500)]
        process.send_signal(how)
        lines += process.stdout.read().splitlines(keepends=True)
    acknowledged = sum(line.endswith("\n") for line in lines)
    run = last(tmp_path)
    assert run.status == "lost"
    values = [point.value for point in run.logged().points]
    assert values == list(range(len(values)))
    assert len(values) >= acknowledged >= 500
    told = json.loads(hooke_says(tmp_path, "show", "--json").stdout)
    lasted = run.logged().points[-1].at - told["started_at"]
    assert told["seconds"] == pytest.approx(lasted, abs=0.5), "until it was last heard of"
    assert f"next: hooke compare {run.id} RUN" in hooke_says(tmp_path, "show").stderr


def test_a_forked_child_logs_and_ends_nothing(tmp_path):
    done = script(
        tmp_path,
        """
        import os, sys, hooke

        run = hooke.start_run()
        if os.fork() == 0:
            hooke.log_metric("child", 1)
            sys.exit(0)
        os.wait()
        print(run.status)
        hooke.log_metric("parent", 1)
        """,
    )
    assert done.stdout.split() == ["running"], done.stderr
    run = last(tmp_path)
    assert run.status == "finished"
    assert sorted(point.name for point in run.logged().points) == ["child", "parent"]


def test_two_at_once_are_refused_and_two_after_one_another_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hooke.start_run(name="one") as one:
        with pytest.raises(UsageError, match="this process already logs into a run"):
            hooke.start_run()
        assert one.status == "running"
    with hooke.start_run(name="two") as two:
        hooke.log_metric("x", 1)
    two.finish()
    assert two.status == "finished"
    assert len(two.logged().points) == 1
    assert one.logged().points == []
    with pytest.raises(UsageError, match="status='ok' is not valid"):
        two.finish("ok")
    with pytest.raises(UsageError, match="is a script's run, which has no result"):
        two.result()


@pytest.mark.parametrize("name", ["a/b", "a b", "../x"])
def test_a_name_that_is_no_beginning_of_an_id(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is not a valid beginning of a run id"):
        hooke.start_run(name=name)
    assert list(tmp_path.iterdir()) == []


def test_inside_a_task_it_is_refused_with_the_mend(tmp_path):
    done = script(
        tmp_path,
        """
        import hooke
        from hooke import pipeline, run, task

        @task
        def work() -> int:
            hooke.start_run()
            return 1

        @pipeline
        def job() -> int:
            return work()

        if __name__ == "__main__":
            run(job, on="serial")
        """,
    )
    assert done.returncode == 1
    assert "inside a task, use log_metric() without start_run()" in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".hooke").write_text("a file")
    done = script(tmp_path, "import hooke\nhooke.start_run()\n")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_a_plain_script_pays_for_no_tracker(tmp_path):
    done = script(
        tmp_path,
        """
        import sys, hooke

        with hooke.start_run():
            hooke.log_metric("x", 1)
        print([name for name in ("mlflow", "pandas", "comet_ml", "scipy", "polars") if name in sys.modules])
        """,
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert os.environ.get("HOOKE_SINKS") == "none", "the tests ship into no tracker but where they say so"
