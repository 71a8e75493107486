"""One screen with cause and next command for each way in which a run commonly ends at night. All real."""

import re
import subprocess
import sys

import pytest
from tests.cli.conftest import Desk
from tests.fixtures.small_disk import mount_tmpfs

pytestmark = pytest.mark.needs("processes")

ROWS, COLUMNS = 24, 110
"""One screen."""

DEEP = """
    from hooke import pipeline, task

    RATES = {"EUR": 1.0, "USD": 1.1}


    def rate_of(currency: str) -> float:
        return RATES[currency]


    def converted(amount: float, currency: str) -> float:
        return amount / rate_of(currency)


    @task
    def total(amounts: list[float], currency: str) -> float:
        print("adding", len(amounts), "amounts in", currency)
        return sum([converted(amount, currency) for amount in amounts])


    @pipeline
    def report(currency: str = "GBP") -> float:
        return total([1.0, 2.0, 3.0], currency)
"""

CAPTURE = """
    import threading

    from hooke import pipeline, task


    def counting(lock):
        @task
        def count(text: str) -> int:
            with lock:
                return len(text.split())

        return count


    count = counting(threading.Lock())


    @pipeline
    def words() -> int:
        return count("as the extension so the force")
"""

ABSENT = """
    from hooke import pipeline, task


    @task
    def parsed(text: str) -> dict:
        import tomllibrary

        return tomllibrary.loads(text)


    @pipeline
    def settings() -> dict:
        return parsed("a = 1")
"""

BRANCH = """
    from hooke import pipeline, task


    @task
    def score(month: int) -> float:
        return month / 12


    @task
    def publish(value: float) -> str:
        return f"published {value}"


    @pipeline
    def release(month: int = 6) -> str:
        value = score(month)
        if value > 0.4:
            return publish(value)
        return "kept"
"""

UNKEYED = """
    import sqlite3

    from hooke import pipeline, task


    @task
    def count(connection: sqlite3.Connection) -> int:
        return connection.execute("select 1").fetchone()[0]


    @pipeline
    def rows() -> int:
        return count(sqlite3.connect(":memory:"))
"""

LARGE = """
    from hooke import pipeline, task


    @task
    def texts(n: int) -> list[str]:
        return [f"line {i} " * 100 for i in range(n)]


    @task
    def count(lines: list[str], least: int) -> int:
        return sum(len(line) > least for line in lines)


    @pipeline
    def lines(n: int = 2000, least: int = 3) -> int:
        return count(texts(n), least)
"""


def screen_of(text: str) -> str:
    """The error's own part of stderr, which must fit one screen, in a folder of usual length."""
    text = re.sub(r"/\S*/test_[^/\s]*/", "/home/me/project/", text)
    lines = [line for line in text.splitlines() if line]
    first = max(at for at, line in enumerate(lines) if not line.startswith(" "))
    rows = sum(1 + (len(line) - 1) // COLUMNS for line in lines[first:])
    assert rows <= ROWS, text
    assert "a bug in Hooke" not in text
    return "\n".join(lines[first:])


def resumes(desk: Desk, screen: str, out: str) -> None:
    """The screen's next command, typed as it stands, ends well."""
    (typed,) = re.findall(r"hooke (resume \S+)$", screen, re.MULTILINE)
    done = desk.hooke(*typed.split())
    assert (done.code, done.out) == (0, out), done.err


def test_an_exception_three_frames_deep(desk):
    desk.write("report.py", DEEP)
    done = desk.hooke("run", "report.py")
    screen = screen_of(done.err)
    assert done.code == 1
    assert screen.startswith("total(amounts=[1.0, 2.0, 3.0], currency='GBP') failed: KeyError: 'GBP'")
    for name, line in (("rate_of", 8), ("converted", 12), ("total", 18)):
        assert re.search(rf'report\.py", line {line}, in {name}', screen)
    assert "hooke/pipeline" not in screen
    assert "adding 3 amounts in GBP" in screen
    assert f"hooke logs {desk.last()} total" in screen
    desk.edit("report.py", '"USD": 1.1', '"USD": 1.1, "GBP": 0.5')
    resumes(desk, screen, "12.0\n")


def test_each_of_several_next_commands_names_the_project_from_another_folder(desk):
    desk.write("report.py", DEEP)
    desk.write("elsewhere/hooke.toml", "")
    done = desk.hooke("run", "../report.py", "--on", "serial", cwd=desk.folder / "elsewhere")
    assert done.code == 1
    assert re.findall(r"hooke (debug|logs|resume) .*--project \.\.$", done.err, re.MULTILINE) == [
        "debug",
        "logs",
        "resume",
    ]


def test_an_unpicklable_capture(desk):
    desk.write("words.py", CAPTURE)
    done = desk.hooke("run", "words.py")
    screen = screen_of(done.err)
    assert done.code == 1
    assert "cannot pickle '_thread.lock' object (captured: lock)" in screen
    assert "fix: create the captured object inside the task" in screen
    desk.edit("words.py", "counting(threading.Lock())", "counting(__import__('contextlib').nullcontext())")
    resumes(desk, screen, "6\n")


def test_a_module_that_is_missing_in_the_worker(desk):
    desk.write("settings.py", ABSENT)
    done = desk.hooke("run", "settings.py")
    screen = screen_of(done.err)
    assert done.code == 1
    assert "No module named 'tomllibrary'" in screen
    assert "fix: install the package of the module 'tomllibrary'" in screen
    assert "-m pip install" in screen
    desk.write("tomllibrary.py", "from tomllib import loads")
    resumes(desk, screen, "{'a': 1}\n")


TWO = """
    import os
    from hooke import File, pipeline, task

    @task
    def parts():
        return (each for each in "ab")

    @pipeline
    def streamed():
        return parts()

    @task
    def exits():
        os._exit(3)

    @pipeline
    def ends():
        return exits()

    @task
    def size(path) -> int:
        return len(open(path).read())

    @task
    def opened(n: int):
        return open(__file__)

    @task
    def reads(lines) -> int:
        return len(lines.read())

    @pipeline
    def missing(path: str = "no.txt") -> int:
        return size(path)

    @pipeline
    def declared() -> int:
        return size(File("no.txt"))

    @pipeline
    def kept():
        return opened(1)

    @pipeline
    def passed() -> int:
        return reads(open(__file__))
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            "run two.py",
            2,
            (
                "two.py has several pipelines: declared, ends, kept, missing, passed, streamed",
                "fix: name one: two.py:declared",
            ),
        ),
        (
            "run two.py:mising",
            2,
            ("no pipeline 'mising'", "fix: it has: declared, ends, kept, missing, passed, streamed"),
        ),
        ("run tow.py", 2, ("no file tow.py", "fix: did you mean two.py?")),
        (
            "run none.py",
            2,
            ("none.py has no pipeline", "fix: write @pipeline (from hooke import pipeline) above"),
        ),
        (
            "run absent.py",
            2,
            (
                "No module named 'nosuchlib'",
                "fix: install the package of the module 'nosuchlib'",
                "next: hooke run absent.py",
            ),
        ),
        (
            "run broken.py --workers 2",
            2,
            (
                'broken.py", line 1',
                "SyntaxError",
                "fix: correct line 1 of ",
                "next: hooke run broken.py --workers 2",
            ),
        ),
        ("run raises.py", 2, ("ZeroDivisionError", "fix: correct the file; nothing has run yet")),
        ("run circle.py", 2, ("circular import", "fix: two modules import each other: move one")),
        ("run typo.py", 2, ("cannot import name 'taks' from 'hooke'", "fix: did you mean task?")),
        (
            "run yields.py",
            2,
            ("got the generator function 'rows'", "where: yields.py:2: @task", "fix: return a list"),
        ),
        ("run --worker 2 two.py:missing", 2, ("no option --worker\n", "fix: did you mean --workers?")),
        (
            "run two.py:missing --worker 2",
            2,
            (
                "no parameter --worker\n",
                "did you mean --workers?",
                "next: hooke run two.py:missing --workers 2",
            ),
        ),
        (
            "run --workers 2 two.py:missing --pth a",
            2,
            ("no parameter --pth\n", "next: hooke run --workers 2 two.py:missing --path a"),
        ),
        ("run two.py:missing -path a", 2, ("unexpected argument '-path'", "fix: did you mean --path?")),
        ("plan --dedline 3m two.py:missing", 2, ("no option --dedline\n", "did you mean --deadline?")),
        ("help", 2, ("Did you mean '--help'?",)),
        ("run .", 2, (". is a folder", "fix: name one of its files with a @pipeline: two.py")),
        ("run notes.txt", 2, ("notes.txt is not a Python file", "fix: give a file that ends in .py")),
        ("run notes.ipynb", 2, ("is not a Python file", "fix: move the pipeline into a .py file")),
        ("run two.py:missing --retries many", 2, ("'--retries': 'many' is not a whole number",)),
        ("run two.py:missing --workers 1-2 --deadline soon", 2, ("deadline 'soon' is not a duration",)),
        ("cache gc --max big", 2, ("--max 'big' is not a size", '"2GiB"')),
        ("run two.py:streamed --on serial", 1, ("result is a generator", "fix: return a list instead")),
        (
            "run two.py:ends --on local:1",
            1,
            ("exit code 3", "fix: the task, or a library that it calls, ended its process (os._exit)"),
        ),
        (
            "run two.py:missing --on lcoal",
            2,
            ("no backend is called 'lcoal'", "fix: did you mean local? valid: dask, kubernetes, local"),
        ),
        (
            "run two.py:missing --on serial",
            1,
            (
                "No such file or directory: 'no.txt'",
                "fix: check the path: it is relative to",
                "next: hooke debug missing-",
            ),
        ),
        (
            "run two.py:declared --on serial",
            2,
            ("cannot read no.txt", "fix: give hooke.File the path of a file"),
        ),
        ("run two.py:kept --on serial", 1, ("result is an open file", "fix: close it, and return its path")),
        (
            "run two.py:passed --on serial",
            2,
            (
                "for argument `lines` of `reads`",
                "where: two.py:",
                "fix: pass the path of the file, or hooke.File(path)",
            ),
        ),
        (
            "resume",
            2,
            ("there is no run to resume", "why: none was stopped, failed or killed", "next: hooke runs"),
        ),
        ("advise", 2, ("no task in this project has run yet", "next: hooke run FILE.py")),
        ("show", 2, ("there are no runs yet", "next: hooke run FILE.py")),
    ],
)
def test_a_refusal_says_what_to_do(desk, words, code, said):
    """Each names the thing, and the fix or the command to type."""
    desk.write("two.py", TWO)
    desk.write("none.py", "x = 1\n")
    desk.write("absent.py", "import nosuchlib\n")
    desk.write("broken.py", "def f(: pass\n")
    desk.write("raises.py", "1 / 0\n")
    desk.write("circle.py", "import circle_too\nX = 1\n")
    desk.write("circle_too.py", "from circle import X\n")
    desk.write("typo.py", "from hooke import taks\n")
    desk.write("yields.py", "from hooke import task\n@task\ndef rows():\n    yield 1\n")
    desk.write("notes.txt", "")
    desk.write("notes.ipynb", "{}")
    done = desk.hooke(*words.split())
    assert done.code == code, done.err
    for part in said:
        assert part in done.err


def test_a_finished_run_is_not_continued_but_shown(desk):
    desk.write("two.py", TWO)
    desk.write("no.txt", "text")
    assert desk.hooke("run", "two.py:missing", "--on", "serial").out == "4\n"
    run = desk.last()
    done = desk.hooke("resume", run)
    assert (done.code, done.out) == (0, "4\n")
    assert f"run {run} is finished already; this is its result" in done.err


def test_what_cannot_be_resumed_says_why(desk, kill):
    desk.write(
        "job.py",
        """
        import time
        from hooke import pipeline, task

        @task
        def sleeps() -> int:
            time.sleep(600)
            return 1

        @pipeline
        def job() -> int:
            return sleeps()
    """,
    )
    driver = desk.start("run", "job.py", "--on", "local:1")
    kill(driver)
    run = desk.until(
        lambda: next((name for name in desk.project.runs.names() if desk.project.runs.alive(name)), "")
    )
    done = desk.hooke("resume")
    assert done.code == 2
    assert f"why: {run} is running\n  next: hooke show {run}" in done.err
    driver.kill()
    driver.wait()
    journal = desk.project.runs.folder(run) / "driver.journal"
    desk.until(lambda: not desk.project.runs.alive(run))
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 0xFF
    journal.write_bytes(data)
    done = desk.hooke("resume")
    assert done.code == 2
    assert f"the journal of {run} is damaged" in done.err
    assert f"fix: hooke show {run} says how to repair it" in done.err


def test_a_file_in_the_place_of_a_folder_is_said_to_be_in_the_way(desk):
    desk.write("two.py", TWO)
    desk.write(".hooke/store", "")
    done = desk.hooke("run", "two.py:missing", "--on", "serial")
    assert done.code == 1
    assert "fix: a file lies where Hooke needs a folder: move it away" in done.err


def test_a_typo_in_a_parameter(desk):
    desk.write("report.py", DEEP)
    done = desk.hooke("run", "report.py", "--curency", "EUR")
    screen = screen_of(done.err)
    assert done.code == 2
    assert screen.startswith("pipeline 'report' has no parameter --curency")
    assert "did you mean --currency? its parameters: --currency TEXT" in screen
    assert not (desk.folder / ".hooke").exists(), "nothing is written before a run begins"


def test_a_pipeline_that_branches_on_a_result(desk):
    desk.write("release.py", BRANCH)
    done = desk.hooke("run", "release.py")
    screen = screen_of(done.err)
    assert done.code == 2
    assert "release.py:18: if value > 0.4:" in screen
    assert "'score' was called at release.py:17" in screen
    assert "fix: put it inside a task" in screen


def test_an_argument_without_an_honest_key(desk):
    desk.write("rows.py", UNKEYED)
    done = desk.hooke("run", "rows.py")
    screen = screen_of(done.err)
    assert done.code == 2
    assert "`connection` of `count`: it is of type sqlite3.Connection" in screen
    assert "fix: " in screen
    assert "next: hooke run rows.py" in screen


@pytest.fixture
def small(tmp_path) -> Desk:
    """A desk on a tmpfs of 3 MiB."""
    with mount_tmpfs(tmp_path / "disk", "3M") as folder:
        yield Desk(folder)


def test_a_full_disk(small):
    small.write("lines.py", LARGE)
    done = small.hooke("run", "lines.py", "--n", "6000")
    screen = screen_of(done.err)
    assert done.code == 1
    assert "no room in the store for" in screen
    assert "No space left on device" in screen
    assert "fix: remove the results that are cheapest to compute again (hooke cache gc --max SIZE)" in screen
    subprocess.run(["mount", "-o", "remount,size=30M", str(small.folder)], check=True)
    resumes(small, screen, "6000\n")


def test_a_disk_that_is_full_already(small):
    small.write("lines.py", LARGE)
    ballast = small.folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    done = small.hooke("run", "lines.py", "--n", "10")
    screen = screen_of(done.err)
    assert done.code == 1
    assert "No space left on device" in screen
    ballast.unlink()
    assert small.hooke("run", "lines.py", "--n", "10").out == "10\n"


def test_a_corrupted_store_object(desk):
    desk.write("lines.py", LARGE)
    assert desk.hooke("run", "lines.py").out == "2000\n"
    (path,) = (desk.folder / ".hooke" / "store" / "objects").glob("*/*")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0\0")
    done = desk.hooke("run", "lines.py", "--least", "4")
    screen = screen_of(done.err)
    assert done.code == 1
    assert "a stored object is damaged" in screen
    assert "a disk fault, a power loss, or something else wrote to this file" in screen
    resumes(desk, screen, "2000\n")
    assert desk.hooke("cache", "verify").code == 0


def test_a_corrupted_store_object_is_found_by_verify(desk):
    desk.write("lines.py", LARGE)
    desk.hooke("run", "lines.py")
    (path,) = (desk.folder / ".hooke" / "store" / "objects").glob("*/*")
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0\0")
    done = desk.hooke("cache", "verify")
    assert done.code == 1
    assert path.name in done.out
    assert "next: hooke cache verify --remove" in done.err
    assert desk.hooke("cache", "verify", "--remove").code == 0
    assert desk.hooke("run", "lines.py", "--least", "4").out == "2000\n"


def test_a_torn_journal(desk):
    desk.write("lines.py", LARGE)
    desk.hooke("run", "lines.py")
    journal = desk.project.runs.folder(desk.last()) / "driver.journal"
    size = journal.stat().st_size
    with journal.open("r+b") as file:
        file.truncate(size - 7)
    shown = desk.hooke("show")
    assert ": lost" in shown.out
    assert re.search(
        r"the journal ended with an incomplete record, which was cut: .*driver\.journal: the last \d+ bytes",
        shown.out,
    )
    assert f"next: hooke resume {desk.last()}" in shown.err
    done = desk.hooke("resume")
    assert (done.code, done.out) == (0, "2000\n")
    assert "the journal ended with an incomplete record" in done.err


def test_a_journal_that_is_damaged_in_the_middle(desk):
    desk.write("lines.py", LARGE)
    desk.hooke("run", "lines.py")
    journal = desk.project.runs.folder(desk.last()) / "driver.journal"
    with journal.open("r+b") as file:
        file.seek(700)
        file.write(b"XXXX")
    done = desk.hooke("show")
    screen = screen_of(done.err)
    assert done.code == 1
    assert "a journal is damaged in the middle" in screen
    assert "fix: restore the file from a copy" in screen
    assert "unreadable" in desk.hooke("runs").out
    assert desk.hooke("run", "lines.py", "--least", "9").code == 0, "another run is not harmed"


def test_a_missing_extra_is_said_before_the_run_starts(desk):
    desk.write("two.py", TWO)
    code = "import sys\nsys.modules['distributed'] = None\nfrom hooke.cli import main\nsys.exit(main(['run', 'two.py:missing', '--on', 'dask']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=desk.folder,
        env=desk.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "the engine 'dask' needs distributed, which is not installed" in done.stderr
    assert 'fix: pip install "hooke-ml[dask]"' in done.stderr
    assert "next: hooke run two.py:missing --on dask" in done.stderr
    assert desk.project.runs.names() == []
