"""`hooke run --detach` and `hooke attach`, and the other ways to ask for a run, each with real processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pexpect
import pytest
from tests.cli.conftest import Desk, plain
from tests.cli.jobs import ARITHMETIC, SLOW
from tests.cli.test_live_table import terminal

from hooke import runs
from hooke.base.errors import UsageError
from hooke.base.files import FileLock
from hooke.journal.run_view import view_of

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def slow(desk: Desk) -> Desk:
    desk.write("slow.py", SLOW)
    yield desk
    for name in desk.project.runs.names():  # a driver in a session of its own outlives its test
        if desk.project.runs.alive(name):
            os.killpg(view_of(desk.project.runs, name).begun.pid, signal.SIGKILL)


def began(desk: Desk) -> bool:
    ran = desk.folder / "ran"
    return ran.exists() and "slow" in ran.read_text()


def test_a_detached_run_outlives_its_terminal_and_attach_has_its_result(slow):
    child = terminal(slow, "run", "slow.py", "--detach", "--on", "local:2")
    child.expect("goes on without this terminal")
    child.expect(pexpect.EOF)
    child.close(force=True)  # the terminal is gone
    assert child.exitstatus == 0
    run = slow.last()
    begun = view_of(slow.project.runs, run).begun
    assert os.getsid(begun.pid) == begun.pid, "a session of its own"
    slow.until(lambda: began(slow))

    watching = terminal(slow, "attach")
    watching.expect(r"2 of 2 workers busy")
    watching.sendintr()
    watching.expect(f"run {run} goes on")
    watching.expect(pexpect.EOF)
    watching.close()
    assert watching.exitstatus == 130
    assert slow.project.runs.alive(run)

    again = slow.start("attach", run)
    slow.write("go", "")
    out, err = again.communicate(timeout=120)
    assert (again.returncode, out) == (0, "33\n")
    assert f"next: hooke show {run}" in err
    assert "33\n" in (slow.project.runs.folder(run) / "output.txt").read_text()
    assert slow.hooke("attach").out == "33\n", "a run that has ended: its result"


def test_attach_ends_with_the_runs_exit_code(slow):
    slow.write("bad.py", ARITHMETIC.replace("return x * x * FACTOR", "raise ValueError('no')"))
    run = slow.hooke("run", "--detach", "bad.py").out.strip()
    done = slow.hooke("attach", run)
    assert done.code == 1
    assert "ValueError: no" in done.err

    run = slow.hooke("run", "slow.py", "--detach").out.strip()
    slow.until(lambda: began(slow))
    assert slow.hooke("stop", run).code == 0
    done = slow.hooke("attach", run)
    assert (done.code, done.out) == (130, "")
    assert f"next: hooke resume {run}" in done.err

    facts = json.loads(slow.hooke("run", "slow.py", "--detach", "--json").out)
    slow.until(lambda: slow.project.runs.alive(facts["run"]))
    os.killpg(facts["pid"], signal.SIGKILL)
    slow.until(lambda: not FileLock(slow.project.runs.folder(facts["run"]) / "driver.lock").taken())
    done = slow.hooke("attach", facts["run"])
    assert done.code == 1
    assert f"the driver of run {facts['run']} died" in done.err
    assert f"hooke resume {facts['run']}" in done.err


def test_what_ends_before_it_starts_is_said_here(slow):
    done = slow.hooke("run", "slow.py", "--detach", "--on", "nowhere")
    assert (done.code, done.out) == (2, "")
    assert "no backend is called 'nowhere'" in done.err
    done = slow.hooke("run", "slow.py", "--detach", "--n", "few")
    assert done.code == 2
    assert "--n 'few': it must be a whole number" in done.err
    done = slow.hooke("run", "slow.py", "--detach", "--on", "nowhere", "--json")
    assert json.loads(done.out)["error"]["what"] == "no backend is called 'nowhere'"
    assert slow.project.runs.names() == []
    assert [each.name for each in slow.project.data.iterdir() if each.name.startswith("tmp")] == []


def test_attach_names_the_runs_of_which_one_is_meant(slow):
    first = slow.hooke("run", "slow.py", "--detach", "--name", "one").out.strip()
    second = slow.hooke("run", "slow.py", "--detach", "--name", "two", "--n", "2").out.strip()
    assert first.startswith("one-") and second.startswith("two-")
    done = slow.hooke("attach")
    assert done.code == 2
    assert "2 runs are running" in done.err and first in done.err and second in done.err
    slow.write("go", "")
    assert slow.hooke("attach", "two").out == "11\n"
    assert slow.hooke("attach", "one").out == "33\n"


def test_attach_refuses_what_has_no_tasks(desk):
    desk.write("note.py", "import hooke\nwith hooke.start_run():\n    hooke.log_metric('x', 1)\n")
    subprocess.run([sys.executable, "note.py"], cwd=desk.folder, check=True, env=desk.environment())
    done = desk.hooke("attach")
    assert done.code == 2
    assert "is the run of a script" in done.err
    with pytest.raises(UsageError, match="is the run of a script"):
        runs(project=desk.folder)[0].follow()


class TestLabels:
    @pytest.mark.long
    def test_name_and_tags_are_shown_kept_and_asked_for(self, desk):
        desk.write("job.py", ARITHMETIC)
        done = desk.hooke("run", "job.py", "--name", "base", "--tag", "team=ours", "--tag", "why=a b")
        assert done.code == 0
        run = desk.last()
        assert run.startswith("base-")
        assert desk.hooke("run", "job.py", "--n", "3").code == 0
        listed = desk.hooke("runs").out
        assert "team=ours why=a b" in listed
        assert "tags team=ours, why=a b" in desk.hooke("show", "base").out
        for condition in ("tags.team=ours", "name=base"):
            found = json.loads(desk.hooke("runs", "--where", condition, "--json").out)
            assert [each["run"] for each in found] == [run]
        assert found[0]["tags"] == {"team": "ours", "why": "a b"}
        assert desk.hooke("run", "job.py", "--name", "measure-x").code == 2

    def test_what_is_wrong_is_said(self, desk):
        desk.write("job.py", ARITHMETIC)
        for words, said in (
            (("--name", "a b"), "not a valid beginning of a run id"),
            (("--tag", "team"), "KEY=VALUE expected"),
            (("--tag", "a=1", "--tag", "a=2"), "--tag a= is given twice"),
            (("--retries", "-1"), "retries"),
            (("--params", "none.toml"), "none.toml: No such file"),
        ):
            done = desk.hooke("run", "job.py", *words)
            assert done.code == 2, words
            assert said in plain(done.err)
        assert desk.project.runs.names() == []

    def test_parameters_come_from_a_file_too(self, desk):
        desk.write("job.py", ARITHMETIC)
        desk.write("p.yaml", "n: 4\nbonus: 100\n")
        assert desk.hooke("run", "job.py", "--params", "p.yaml").out == "142\n"
        assert desk.hooke("run", "job.py", "--params", "p.yaml", "--bonus", "1").out == "43\n"
        desk.write("p.yaml", "bonsu: 1\n")
        done = desk.hooke("run", "job.py", "--params", "p.yaml")
        assert done.code == 2
        assert "no parameter bonsu" in done.err and "did you mean bonus?" in done.err

    def test_without_the_extra_a_file_of_yaml_says_how_to_get_it(self, desk):
        desk.write("job.py", ARITHMETIC)
        desk.write("p.yaml", "n: 4\n")
        desk.write("hidden/sitecustomize.py", "import sys\n\nsys.modules['yaml'] = None\n")
        done = desk.hooke("run", "job.py", "--params", "p.yaml", PYTHONPATH=str(desk.folder / "hidden"))
        assert done.code == 2
        assert 'pip install "hooke-ml[yaml]"' in done.err

    def test_an_option_that_is_a_parameter_too_is_no_guess(self, desk):
        desk.write(
            "job.py",
            "from hooke import pipeline, task\n\n@task\ndef say(x: str) -> str:\n    return x\n\n"
            "@pipeline\ndef job(name: str = 'a') -> str:\n    return say(name)\n",
        )
        done = desk.hooke("run", "job.py", "--name", "b")
        assert done.code == 2
        assert "--name is an option of hooke run, and a parameter of pipeline 'job'" in done.err
        assert desk.hooke("run", "job.py", "--", "--name", "b").out == "b\n"
        assert desk.hooke("run", "job.py", "--name", "ours", "--", "--name", "c").out == "c\n"
        assert desk.last().startswith("ours-")


class TestModules:
    @pytest.fixture
    def package(self, desk: Desk) -> Desk:
        desk.write("hooke.toml", "")
        desk.write("flows/__init__.py", "")
        desk.write("flows/helper.py", "def bonus():\n    return 1\n")
        source = ARITHMETIC.replace("return x * x", "return x * x + bonus()")
        desk.write("flows/sums.py", "from .helper import bonus\n" + textwrap.dedent(source))
        return desk

    def test_a_module_is_run_by_its_name_and_resumed_from_its_file(self, package):
        assert package.hooke("run", "flows.sums:job", "--n", "3").out == "14\n"
        assert package.hooke("run", "flows.sums", "--n", "3").out == "14\n"
        assert (
            view_of(package.project.runs, package.last()).begun.entry == f"{package.folder}/flows/sums.py:job"
        )
        assert "0 done, 1 cached" in package.hooke("run", "flows/sums.py", "--n", "3").err
        assert len(package.project.runs.names()) == 3

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            ("flows.smus", "did you mean flows.sums?"),
            ("flows", "has no pipeline"),
            ("nothing", "no module nothing, and no file of this name"),
            ("flows.sums:jbo", "has no pipeline 'jbo'"),
            ("json", "has no pipeline"),
            ("plain.sums", "has no __init__.py"),
        ],
    )
    def test_what_is_wrong_is_said(self, package, target, said):
        package.write("plain/sums.py", ARITHMETIC)
        done = package.hooke("run", target)
        assert done.code == 2
        assert said in done.err


def test_retries_replace_those_of_every_task(desk):
    desk.write(
        "job.py",
        """
        from pathlib import Path
        from hooke import pipeline, task

        @task
        def flaky(x: int) -> int:
            with open(Path(__file__).parent / "tries", "a") as file:
                file.write("x")
            if (Path(__file__).parent / "tries").stat().st_size < 3:
                raise ValueError("not yet")
            return x

        @pipeline
        def job() -> int:
            return flaky(7)
        """,
    )
    done = desk.hooke("run", "job.py", "--retries", "1")
    assert done.code == 1
    assert (desk.folder / "tries").read_text() == "xx"
    (desk.folder / "tries").unlink()
    done = desk.hooke("run", "job.py", "--retries", "2")
    assert (done.code, done.out) == (0, "7\n")
