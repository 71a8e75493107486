"""What is printed by commands that end by themselves, each a real process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Desk
from tests.cli.jobs import ARITHMETIC

from hooke import Run
from hooke.journal.reader import read

pytestmark = pytest.mark.needs("processes")


GOES_ON = """
    from hooke import pipeline, task

    @task
    def invert(x: int) -> float:
        return 1 / x

    @pipeline
    def inverses():
        return invert.map([2, 0, 4], on_error="continue")
"""

PRICES = """
    import os
    from pathlib import Path
    from hooke import pipeline, task

    @task
    def load() -> list[int]:
        return [int(each) for each in Path("prices.txt").read_text().split()]

    @task
    def scaled(x: int) -> int:
        assert os.environ["SHOP_TOKEN"]
        return x * int(os.environ["FACTOR"])

    @task
    def total(xs: list[int]) -> int:
        return sum(xs)

    @pipeline
    def prices() -> int:
        return total(scaled.map(load()))
"""


RESUMED = """
    from hooke import pipeline, task

    @task
    def square(x: int) -> int:
        return x

    @task
    def total(xs: list[int]) -> int:
        if len(xs) == 6 and not __import__("pathlib").Path("go").exists():
            raise ValueError("not yet")
        return sum(xs)

    @pipeline
    def job(n: int) -> int:
        return total(square.map(range(n)))
"""

LOGGING = """
    from hooke import log_text, pipeline, task

    @task
    def fit() -> int:
        log_text("hello", "notes/a.txt")
        return 1

    @pipeline
    def job() -> int:
        return fit()
"""

LOUD = """
    from hooke import pipeline, task

    @task(retries=1)
    def loud() -> int:
        print("\\x1b[32mgreen\\x1b[0m")
        lines = "\\n".join(f"line {at} of the message" for at in range(900))
        raise ValueError(f"\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07\\n{lines}")

    @task
    def longer() -> int:
        raise ValueError("x" * 3000)

    @pipeline
    def job() -> int:
        return loud()

    @pipeline
    def short() -> int:
        return longer()
"""


@pytest.fixture
def job(desk: Desk) -> Desk:
    desk.write("job.py", ARITHMETIC)
    return desk


class TestRun:
    def test_the_result_is_all_that_is_on_stdout(self, job):
        done = job.hooke("run", "job.py", "--n", "4")
        assert (done.code, done.out) == (0, "42\n")
        assert f"next: hooke show {job.last()}" in done.err
        assert "square: done 4 items" in done.err

    def test_lines_are_few_for_many_items(self, job):
        done = job.hooke("run", "job.py", "--n", "20000", "--on", "local:2")
        assert done.code == 0
        assert len(done.err.splitlines()) < 25

    def test_json_is_one_object(self, job):
        done = job.hooke("run", "job.py", "--json")
        facts = json.loads(done.out)
        assert facts["run"] == job.last()
        assert (facts["status"], facts["result"]) == ("finished", 90)
        assert [task["task"] for task in facts["tasks"]] == ["square", "total"]
        assert done.err == ""

    def test_json_of_a_refusal(self, job):
        done = job.hooke("run", "job.py", "--m", "3", "--json")
        facts = json.loads(done.out)
        assert done.code == 2
        assert facts["error"]["kind"] == "UsageError"
        assert "--n" in facts["error"]["fix"]

    def test_failed_items_that_were_left_out_are_named_and_the_code_is_1(self, desk):
        desk.write("job.py", GOES_ON)
        done = desk.hooke("run", "job.py")
        run = desk.last()
        assert (done.code, done.out) == (1, "[0.5, 0.25]\n")
        assert re.search(
            r"^finished with 1 failure in .*: 2 done, 0 cached, 1 failed$", done.err, re.MULTILINE
        )
        assert "invert item 1: TaskError: ZeroDivisionError" in done.err
        assert (
            f"  look at one: hooke debug {run} invert --item 1\n  when fixed: hooke resume {run}\n"
            in done.err
        )
        facts = json.loads(desk.hooke("run", "job.py", "--json").out)
        assert (facts["status"], facts["result"]) == ("finished with failures", [0.5, 0.25])
        (failure,) = facts["failures"]
        assert (failure["task"], failure["item"], failure["kind"]) == ("invert", 1, "TaskError")
        assert f"run {run}: finished with 1 failure" in desk.hooke("show", run).out
        assert json.loads(desk.hooke("show", "--json", run).out)["failures"][0]["item"] == 1
        assert "finished with failures" in desk.hooke("runs").out
        desk.edit("job.py", "1 / x", "1 / (x or 1)")
        again = desk.hooke("resume", run)
        assert (again.code, again.out) == (0, "[0.5, 1.0, 0.25]\n")

    def test_prints_of_serial_tasks_are_not_on_stdout(self, job):
        done = job.hooke("run", "job.py", "--on", "serial", "--json")
        assert json.loads(done.out)["result"] == 90
        assert "squaring 2" in done.err

    def test_prints_of_the_file_are_not_on_stdout(self, job):
        job.write("loud.py", ARITHMETIC + "\n    print('imported')\n")
        done = job.hooke("run", "loud.py")
        assert done.out == "90\n"
        assert "imported" in done.err

    def test_parameters_behind_dashes_may_bear_our_names(self, job):
        job.write(
            "named.py",
            "from hooke import pipeline, task\n@task\ndef f(x): return x\n@pipeline\ndef job(json: int): return f(json)\n",
        )
        assert job.hooke("run", "named.py", "--", "--json", "3").out == "3\n"

    def test_help_with_a_file_lists_its_parameters(self, job):
        done = job.hooke("run", "job.py", "--help")
        assert "--bonus INT" in done.out
        assert "default: 5" in done.out

    def test_a_body_that_raises_is_told_as_the_users(self, job):
        job.write(
            "picky.py",
            "from hooke import pipeline\n@pipeline\ndef job(n: int = 1):\n    raise ValueError(f'{n} is too few')\n",
        )
        done = job.hooke("run", "picky.py")
        assert done.code == 2
        assert done.err.startswith("pipeline 'job' raised ValueError: 1 is too few")
        assert "line 4" in done.err
        assert "bug" not in done.err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["absent.py"], "no file absent.py"),
            (["jib.py"], "did you mean job.py?"),
            (["job.py:jab"], "it has: job"),
            (["job.py", "--on", "mars"], "no backend is called 'mars'"),
            (["job.py", "--workers", "many"], "--workers 4"),
            (["job.py", "--workers", "3-2"], "is not valid"),
            (["broken.py"], "cannot be imported: ZeroDivisionError"),
            (["job.old.py"], "a module name has no dot"),
        ],
    )
    def test_what_cannot_be_run_is_said(self, job, arguments, said):
        job.write("broken.py", "1 / 0")
        job.write("job.old.py", "1 / 0")
        done = job.hooke("run", *arguments)
        assert done.code == 2
        assert said in done.err
        assert "bug" not in done.err

    def test_debug_shows_where_an_error_was_raised(self, job):
        assert "Traceback" not in job.hooke("run", "absent.py").err
        assert "Traceback" in job.hooke("run", "absent.py", "--debug").err
        assert "Traceback" in job.hooke("--debug", "run", "absent.py").err

    def test_next_commands_work_from_another_folder(self, job):
        elsewhere = job.folder / "elsewhere"
        elsewhere.mkdir()
        done = job.hooke("run", "../job.py", cwd=elsewhere)
        (typed,) = re.findall(r"^next: hooke (.*)$", done.err, re.MULTILINE)
        assert typed.endswith("--project ..")
        assert "finished" in job.hooke(*typed.split(), cwd=elsewhere).out


LOGS = """
    import logging
    import fractions
    from hooke import pipeline, task

    {configured}
    log = logging.getLogger(__name__)

    @task
    def fit(x: int) -> int:
        log.info("rows: %s", x)
        log.debug("not shown")
        library = dict(name="lib", level=logging.INFO, pathname=fractions.__file__, lineno=1, msg="theirs", args=(), exc_info=None)
        logging.getLogger("lib").handle(logging.LogRecord(**library))
        return x

    @pipeline
    def job():
        return fit(3)
"""


class TestLooking:
    def test_what_a_task_logs_is_in_its_log(self, desk):
        desk.write("job.py", LOGS.format(configured=""))
        assert desk.hooke("run", "job.py").code == 0
        assert desk.hooke("logs").out == "fit #1 | INFO job: rows: 3\n"

    def test_a_module_that_configures_logging_is_left_alone(self, desk):
        configured = 'logging.basicConfig(level=logging.DEBUG, format="mine: %(message)s")'
        desk.write("job.py", LOGS.format(configured=configured))
        assert desk.hooke("run", "job.py").code == 0
        said = [line.rpartition(" | ")[2] for line in desk.hooke("logs").out.splitlines()]
        assert said == ["mine: rows: 3", "mine: not shown", "mine: theirs"]

    @pytest.mark.long
    def test_runs_show_and_logs(self, job):
        job.hooke("run", "job.py", "--n", "3", "--on", "local:1")
        job.hooke("run", "job.py", "--n", "3", "--bonus", "2")
        listed = job.hooke("runs")
        first, second = re.findall(r"^job-\S+", listed.out, re.MULTILINE)
        assert "n=3 bonus=2" in listed.out
        assert [run["run"] for run in json.loads(job.hooke("runs", "--json").out)] == [first, second]
        assert len(job.hooke("runs", "--limit", "1").out.splitlines()) == 2
        shown = job.hooke("show")
        assert f"run {first}: finished" in shown.out
        assert re.search(r"^square +cached +0 +3", shown.out, re.MULTILINE)
        assert json.loads(job.hooke("show", second, "--json").out)["tasks"][0]["done"] == 3
        assert re.search(r"^square\[\S+\] #\d+ \| squaring 2$", job.hooke("logs", second).out, re.MULTILINE)
        assert job.hooke("logs", second, "total").out == ""
        assert "printed nothing" in job.hooke("logs", "total").err
        assert "did you mean square?" in job.hooke("logs", second, "sqare").err

    @pytest.mark.long
    def test_counts_are_the_same_in_every_command_after_a_resume(self, desk):
        """Cached before the resume, done before it, and done after it: each counts once, and the same everywhere."""
        desk.write("job.py", RESUMED)
        assert desk.hooke("run", "job.py", "--n", "3").code == 0
        assert desk.hooke("run", "job.py", "--n", "6").code == 1
        (desk.folder / "go").touch()
        resumed = desk.hooke("resume")
        assert resumed.code == 0, resumed.err
        run = desk.last()
        rows = json.loads(desk.hooke("show", "--json").out)
        counts = {name: rows[name] for name in ("done", "cached", "failed")}
        assert counts == {"done": 4, "cached": 3, "failed": 0}
        assert f": {counts['done']} done, {counts['cached']} cached, 0 failed\n" in resumed.err
        (listed, _) = json.loads(desk.hooke("runs", "--json").out)
        assert {name: listed[name] for name in counts} == counts
        lines = [re.split(r" {2,}", line) for line in desk.hooke("runs").out.splitlines()]
        cells = dict(zip(lines[0], next(line for line in lines if line[0] == run), strict=True))
        assert {name: int(cells[name]) for name in counts} == counts
        table = desk.hooke("show").out
        shown = [
            [int(cell) for cell in re.split(r" +", line)[2:5]]
            for line in table.splitlines()
            if line.startswith(("square ", "total "))
        ]
        assert [sum(column) for column in zip(*shown, strict=True)] == [4, 3, 0]
        again = json.loads(desk.hooke("resume", run, "--json").out)
        assert {name: sum(task[name] for task in again["tasks"]) for name in counts} == counts
        tasks = Run(desk.project, run).tasks()
        assert {name: sum(getattr(row, name) for row in tasks) for name in counts} == counts

    def test_artifacts_are_shown_with_where_they_lie(self, desk):
        desk.write("job.py", LOGGING)
        assert desk.hooke("run", "job.py", "--on", "local:1").code == 0
        shown = desk.hooke("show").out
        found = re.search(
            r"^artifacts\n  name +size +file\n  fit: notes/a\.txt +5 B +(\S+)$", shown, re.MULTILINE
        )
        assert found is not None, shown
        assert (desk.folder / found[1]).read_text("utf-8") == "hello"
        (artifact,) = json.loads(desk.hooke("show", "--json").out)["artifacts"]
        assert Path(artifact.pop("file")).read_text("utf-8") == "hello"
        assert artifact == {"task": "fit", "path": "notes/a.txt", "size": 5}

    def test_what_tasks_say_moves_no_cursor_and_is_cut_with_where_the_whole_is(self, desk):
        desk.write("job.py", LOUD)
        failed = desk.hooke("run", "job.py:job", "--on", "local:1")
        assert failed.code == 1
        run = desk.last()
        shown = desk.hooke("show").out
        logs = desk.hooke("logs").out
        for text in (failed.err, shown, logs):
            assert "\x1b" not in text
            assert "\x07" not in text
        assert "failed (try 1 of 2): ValueError: red" in failed.err
        assert "loud: runs again in " in failed.err
        assert "where: try 2 of 2 on worker local-1" in failed.err
        assert len(failed.err) < 5_000
        assert re.search(r", in loud\n +raise ValueError", failed.err), "the frames are not pushed out"
        assert re.search(r"\.\.\. \d+ more lines \.\.\.\n", failed.err)
        assert f"the whole message: hooke logs {run} loud\n" in failed.err
        assert f"the whole message: hooke logs {run} loud\n" in shown
        assert "line 450 of the message" in desk.hooke("logs", run, "loud").out
        assert re.search(r"^loud #2, try 2 of 2 \| green$", logs, re.MULTILINE)
        written = b"".join(file.read_bytes() for file in (desk.project.runs.folder(run) / "logs").iterdir())
        assert b"\x1b[32mgreen" in written, "files have what was printed"
        long = desk.hooke("run", "job.py:short", "--on", "local:1")
        assert f"more characters\n      the whole message: hooke show --json {desk.last()}\n" in long.err
        error = json.loads(desk.hooke("show", "--json").out)["error"]
        assert "x" * 3000 in error["details"]["message"]

    def test_an_empty_project_says_what_to_do(self, desk):
        for verb in ("show", "logs", "resume"):
            done = desk.hooke(verb)
            assert done.code == 2
            assert "next: hooke run" in done.err
        assert "next: hooke run FILE.py" in desk.hooke("runs").err
        assert desk.hooke("runs", "--json").out == "[]\n"

    def test_a_prefix_names_a_run(self, job):
        job.hooke("run", "job.py")
        assert job.hooke("show", job.last()[:-2]).code == 0
        assert "name one of" in job.hooke("show", "jab").err

    def test_a_finished_run_is_resumed_by_printing_its_result(self, job):
        job.hooke("run", "job.py")
        done = job.hooke("resume", job.last())
        assert (done.code, done.out) == (0, "90\n")
        done = job.hooke("resume")
        assert done.code == 2
        assert "there is no run to resume" in done.err


class TestCache:
    def test_why_tells_what_changed(self, job):
        job.hooke("run", "job.py")
        job.edit("job.py", "FACTOR = 3", "FACTOR = 4")
        job.hooke("run", "job.py")
        told = job.hooke("cache", "why", "square").out
        assert "global job.FACTOR (job.py) changed" in told
        assert "-3" in told and "+4" in told
        assert told == job.hooke("cache", "why", job.last(), "square").out
        whole = job.hooke("cache", "why").out
        assert "it reads the result of square" in whole
        facts = json.loads(job.hooke("cache", "why", "total", "--json").out)
        assert facts[0]["roots"][0]["task"] == "square"

    @pytest.mark.long
    def test_list_remove_collect_verify(self, job):
        job.hooke("run", "job.py")
        listed = json.loads(job.hooke("cache", "ls", "--json").out)
        assert {(each["task"], each["items"]) for each in listed} == {("square", 5), ("total", None)}
        assert "total" in job.hooke("cache", "ls").out
        key = next(each["key"] for each in listed if each["task"] == "total")
        assert "removed 1 result" in job.hooke("cache", "rm", key[:12]).out
        assert [each["task"] for each in json.loads(job.hooke("cache", "ls", "--json").out)] == ["square"]
        assert job.hooke("cache", "verify").code == 0
        assert job.hooke("cache", "gc", "--max", "0").code == 0
        assert json.loads(job.hooke("cache", "ls", "--json").out) == []
        assert "square: done" in job.hooke("run", "job.py").err

    @pytest.mark.long
    def test_list_names_what_each_result_was_made_from(self, desk):
        desk.write("prices.py", PRICES)
        desk.write("prices.txt", "1 2")
        desk.hooke("run", "prices.py", FACTOR="3", SHOP_TOKEN="geheim")
        desk.write("prices.txt", "1 2 3")
        desk.hooke("run", "prices.py", FACTOR="3", SHOP_TOKEN="heimlich")
        plain = json.loads(desk.hooke("cache", "ls", "--json").out)
        facts = {(each["task"], each["items"], each["results"], each["inputs"]) for each in plain}
        its_list = ("scaled", None, 2, 1)
        assert facts == {("load", None, 2, 1), its_list, ("scaled", 3, None, 2), ("total", None, 2, 3)}
        assert all("made_from" not in each for each in plain)
        (total,) = [each["key"] for each in plain if each["task"] == "total"]

        desk.write("prices.txt", "1 2")
        told = desk.hooke("cache", "ls", total[:10], FACTOR="3")
        lines = told.out.splitlines()
        assert lines[0].split() == "key task items results inputs size age saves run".split()
        heads = [line.split(": ", 1)[1] for line in lines if " ago, run prices-" in line]
        assert heads == ["prices.txt changed (read, not declared)", "its inputs are as they were"]
        variables = ["variable FACTOR (by a task before it)"]
        variables += ["variable SHOP_TOKEN (its value is kept nowhere, by a task before it)"]
        named = [
            re.sub(r"\b[0-9a-f]{8}\b", "DIGEST", line.strip()) for line in lines if line.startswith(" " * 6)
        ]
        assert named == ["file prices.txt (DIGEST, differs, by a task before it)", *variables] * 2

        done = desk.hooke("cache", "ls", "--task", "scaled", "--inputs", "--json", FACTOR="4")
        (items,) = [each for each in json.loads(done.out) if each["items"]]
        for made in items["made_from"]:
            assert not made["unchanged"]
            inputs = {each.pop("name"): each for each in made["inputs"]}
            assert inputs["FACTOR"] == {"kind": "variable", "own": True, "differs": False}, "no digest"
            assert inputs["SHOP_TOKEN"] == {"kind": "variable", "own": True, "differs": False}
        assert "geheim" not in done.out + told.out

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["ls", "abcd"], "no key begins with"),
            (["rm"], "no results selected"),
            (["rm", "abcd"], "no key begins with"),
            (["rm", "--task", "nothing"], "tasks with results: square, total"),
            (["gc"], "pass --max 10GiB"),
            (["gc", "--max", "ten"], "is not a size"),
            (["why", "sqare"], "did you mean square?"),
        ],
    )
    def test_what_is_wrong_is_said(self, job, arguments, said):
        job.hooke("run", "job.py")
        done = job.hooke("cache", *arguments)
        assert done.code == 2
        assert said in done.err


class TestDoctor:
    def test_a_sound_place(self, desk):
        done = desk.hooke("doctor")
        assert done.code == 0, done.out
        assert "broken" not in done.out
        assert re.search(r"ok +local:1 +ran a pipeline", done.out)
        assert {each["name"] for each in json.loads(desk.hooke("doctor", "--json").out)} >= {
            "python",
            "store",
            "serial",
        }

    def test_a_project_that_cannot_be_read(self, desk):
        desk.write("hooke.toml", "[store]\nurll = 'x'\n")
        done = desk.hooke("doctor")
        assert done.code == 1
        assert "did you mean store.url" in done.out

    def test_the_other_hooke_is_said(self, desk, tmp_path):
        """Both have files of the same names: what was installed last is imported."""
        about = tmp_path / "site" / "hooke-3.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hooke\nVersion: 3.0\n", "utf-8")
        said = desk.hooke("doctor", "--json", PYTHONPATH=str(tmp_path / "site")).out
        found = {each["name"]: each for each in json.loads(said)}
        assert found["hooke"]["state"] == "warning"
        assert "the distribution hooke 3.0 is installed, too" in found["hooke"]["text"]
        assert found["hooke"]["fix"] == "pip uninstall hooke hooke-ml; pip install hooke-ml"

    def test_a_store_that_cannot_be_written(self, desk):
        desk.write("taken", "a file")
        desk.write("hooke.toml", "[store]\nurl = 'taken/store'\n")
        done = desk.hooke("doctor")
        assert done.code == 1
        assert re.search(r"broken +store", done.out)


class TestGroup:
    def test_help_is_quick_to_import_and_names_all(self, desk):
        done = desk.hooke("--help")
        assert done.code == 0
        for verb in (
            "run",
            "resume",
            "runs",
            "show",
            "logs",
            "stop",
            "cache",
            "doctor",
            "demo",
            "completion",
        ):
            assert re.search(rf"^  {verb} ", done.out, re.MULTILINE)

    def test_a_mistyped_command(self, desk):
        done = desk.hooke("shwo")
        assert done.code == 2
        assert "Did you mean 'show'?" in done.err

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion(self, desk, shell):
        assert "_HOOKE_COMPLETE" in desk.hooke("completion", shell).out

    def test_help_has_no_marks_of_its_layout(self, desk):
        done = desk.hooke("completion", "--help")
        assert "\\b" not in done.out
        assert re.search(r"^ *zsh +hooke completion zsh > \S+\n +fish ", done.out, re.MULTILINE)

    def test_run_ids_are_completed(self, job):
        job.hooke("run", "job.py")
        done = job.hooke(_HOOKE_COMPLETE="bash_complete", COMP_WORDS="hooke show jo", COMP_CWORD="2")
        assert job.last() in done.out

    def test_a_closed_pipe_is_no_error(self, job):
        job.hooke("run", "job.py")
        line = f"{sys.executable} -m hooke show --json | head -c 1"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=job.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("{", "")

    def test_a_bug_says_that_it_is_one(self, job):
        job.write(
            "sitecustomize.py",
            "import hooke.journal.run_view as o\ndef bad(*_): raise KeyError('odd')\no.view_of = bad\n",
        )
        job.hooke("run", "job.py")
        done = job.hooke("show", PYTHONPATH=str(job.folder))
        assert done.code in (0, 70)
        done = job.hooke("runs", PYTHONPATH=str(job.folder))
        assert done.code == 70
        assert "this is a bug in Hooke: KeyError" in done.err


def test_what_a_run_says_is_in_its_journal(job):
    """The command line keeps no second truth."""
    job.hooke("run", "job.py")
    (segment,) = read(job.project.runs.folder(job.last()))
    assert segment.torn is None
    assert segment.events[0].shown == {}


def test_a_file_that_exits_is_told(desk):
    desk.write("leaves.py", "import sys\nsys.exit('not now')\n")
    done = desk.hooke("run", "leaves.py")
    assert done.code == 2
    assert "leaves.py cannot be imported: SystemExit: not now" in done.err


def test_a_mistyped_cache_command(desk):
    assert "Did you mean 'why'?" in desk.hooke("cache", "wy").err


def test_collections_are_off_for_our_imports_only(desk: Desk) -> None:
    """What is imported is never looked at again, and the user's file and tasks find the collector on."""
    desk.write(
        "job.py",
        """
        import gc
        from hooke import pipeline, task

        SEEN = gc.isenabled(), gc.get_freeze_count() > 10_000

        @task
        def in_worker() -> list[bool]:
            return [gc.isenabled(), gc.get_freeze_count() > 10_000]

        @pipeline
        def job() -> list[bool]:
            print("in the driver", *SEEN)
            return in_worker()
        """,
    )
    done = desk.hooke("run", "job.py")
    assert done.code == 0, done.err
    assert "in the driver True True" in done.err
    assert done.out == "[True, True]\n"


def test_the_time_of_an_fsync_has_an_fsync_in_it(tmp_path, monkeypatch):
    import os

    from hooke.cli.verbs.doctor import _sync_seconds

    sync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size) or sync(fd))
    assert _sync_seconds(tmp_path) > 0
    assert synced == [4096]
