"""`run()` in every setting that it is called from: each a real process, terminal or kernel."""

import io
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pexpect
import pytest

pytestmark = pytest.mark.needs("processes")

GATED = """
    import sys
    import threading
    import time
    from pathlib import Path

    from hooke import pipeline, run, task

    HERE = Path.cwd()


    @task(cache=False)
    def quick(x: int) -> int:
        return x


    @task(cache=False)
    def gated(xs: list[int]) -> int:
        while not (HERE / "go").exists():
            time.sleep(0.01)
        return sum(xs)


    @pipeline
    def job(n: int = 3) -> int:
        return gated(quick.map(range(n)))


    @pipeline
    def other(n: int = 4) -> int:
        return gated(quick.map(range(n)))
"""
"""`gated` waits for the file `go`."""

SCRIPT = (
    GATED
    + """
    if __name__ == "__main__":
        print("result", run(job, on="local:1").result())
"""
)
SHORT = (
    GATED
    + """
    @pipeline
    def short(n: int = 3) -> list[int]:
        return quick.map(range(n))


    if __name__ == "__main__":
        print("result", run(short, on="serial").result(), "rich" in sys.modules)
"""
)
HIDDEN = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "HOOKE_PROGRESS", "TERM")


class Place:
    """A folder with a script in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, source: str) -> str:
        (self.folder / name).write_text(textwrap.dedent(source), "utf-8")
        return name

    def go(self) -> None:
        (self.folder / "go").touch()

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        return kept | {"TERM": "xterm-256color"} | more

    def start(self, *arguments: str, stderr=subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def terminal(self, *arguments: str, **environment: str) -> pexpect.spawn:
        return pexpect.spawn(
            sys.executable,
            list(arguments),
            cwd=str(self.folder),
            env=self.environment(**environment),
            encoding="utf-8",
            timeout=60,
            dimensions=(30, 120),
        )


@pytest.fixture
def place(tmp_path):
    here = Place(tmp_path)
    yield here
    here.go()  # so that no task waits for ever


def screen(text: str) -> list[str]:
    """What stands on a terminal after `text`: lines, the cursor going up and down, lines erased. Colours are left out."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part[0] == "\x1b":
            row = max(row - int(part[2:-1] or 1), 0)
        elif part.endswith("K") and part[0] == "\x1b":
            lines[row] = ""
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    while lines and not lines[-1]:
        lines.pop()
    return [line.rstrip() for line in lines]


def ended(child: pexpect.spawn) -> str:
    """What it wrote from here to its end, which was a good one."""
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    return child.before


# -- a terminal -----------------------------------------------------------------------------------


def test_a_script_on_a_terminal(place):
    child = place.terminal(place.write("x.py", SCRIPT))
    child.expect(r"\x1b\[\?25l")
    child.expect(r"running.*1 of 1 workers busy.*MiB")
    child.expect(r"gated")
    place.go()
    child.expect(r"finished")
    child.expect(r"✓.*quick.*✓.*gated")
    child.expect(r"\x1b\[\?25h")
    child.expect(r"result 3\r\n")
    ended(child)


def test_a_short_script_in_one_process_on_a_terminal_is_silent_and_loads_no_rich(place):
    child = place.terminal(place.write("x.py", SHORT))
    assert ended(child) == "result [0, 1, 2] False\r\n"


@pytest.mark.parametrize("how", ["variable", "dumb"])
def test_a_terminal_that_asks_for_less(place, how):
    child = place.terminal(
        place.write("x.py", SCRIPT), **({"NO_COLOR": "1"} if how == "variable" else {"TERM": "dumb"})
    )
    child.expect("gated")
    place.go()
    text = child.before + ended(child)
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", text), "no colours"
    assert ("\x1b" in text) == (how == "variable")


def test_ctrl_c_on_a_terminal_leaves_the_terminal_as_it_was(place):
    child = place.terminal(place.write("x.py", SCRIPT))
    child.expect(r"gated")
    child.sendintr()
    child.expect(r"\x1b\[\?25h")
    child.expect("hooke resume")
    child.expect(pexpect.EOF)


def test_a_run_of_another_process_is_followed_on_a_terminal(place):
    driver = place.start("-m", "hooke", "run", place.write("x.py", GATED) + ":job", "--on", "local:1")
    follow = (
        "import hooke, time\nwhile not hooke.runs(): time.sleep(0.05)\nprint('status', hooke.follow().status)"
    )
    child = place.terminal("-c", follow)
    child.expect(r"running.*1 of 1 workers busy")
    child.expect("gated")
    place.go()
    child.expect("status finished\r\n")
    ended(child)
    assert driver.communicate(timeout=180)[0] == "3\n"


THREADS = (
    GATED
    + """
    def one(pipeline):
        result = run(pipeline, on="local:1").result()
        sys.stdout.write(f"result {result}\\n")  # at once: print() would weave the two


    if __name__ == "__main__":
        import signal
        before = signal.getsignal(signal.SIGINT), sys.stderr
        threads = [threading.Thread(target=one, args=(each,)) for each in (job, other)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert before == (signal.getsignal(signal.SIGINT), sys.stderr)
"""
)


def test_two_threads_on_a_terminal_write_lines(place):
    child = place.terminal(place.write("x.py", THREADS))
    for _ in range(2):
        child.expect(r"run (job|other)-\S+ running for [^\r\n]*\r\n")
    place.go()
    text = ended(child)
    assert "\x1b" not in text
    assert len(re.findall(r"run job-\S+ finished in ", text)) == 1
    assert len(re.findall(r"run other-\S+ finished in ", text)) == 1
    assert sorted(re.findall(r"result \d", text)) == ["result 3", "result 6"]


BESIDE = (
    GATED
    + """
    if __name__ == "__main__":
        behind = run(other, on="local:1", wait=False, progress="lines")
        print("result", run(job, on="local:1", progress="table").result(), behind.result())
"""
)


def test_lines_of_a_run_in_the_background_go_above_the_table(place):
    child = place.terminal(place.write("x.py", BESIDE))
    child.logfile_read = written = io.StringIO()
    child.expect(r"other-")
    child.expect(r"1 of 1 workers busy")
    place.go()
    ended(child)
    lines = screen(written.getvalue())
    (table,) = [at for at, line in enumerate(lines) if re.match(r"job-\S+ finished", line)]
    assert [line[:7] for line in lines[table + 1 : table + 4]] == ["  task ", "✓ quick", "✓ gated"], lines
    assert any(line.startswith("gated: done") for line in lines[:table] + lines[table + 4 :]), lines
    assert lines[-1] == "result 3 6"


# -- no terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["script", "-c", "thread"])
def test_a_pipe_gets_lines_once_the_run_is_no_short_one(place, how):
    if how == "-c":
        process = place.start("-c", textwrap.dedent(SCRIPT))
    elif how == "script":
        process = place.start(place.write("x.py", SCRIPT))
    else:
        process = place.start(place.write("x.py", SCRIPT.replace("run(job,", "run(job, wait=False,")))
    assert process.stderr is not None
    first = process.stderr.readline()
    assert re.fullmatch(
        r"run job-\S+ running for .* s: 3 of 4 done, now gated, at least.*\n|run job-\S+ running.*now gated\n",
        first,
    )
    place.go()
    out, err = process.communicate(timeout=180)
    assert re.fullmatch(r"run job-\S+ finished in .* s: 4 done, 0 cached, 0 failed", err.splitlines()[-1])
    assert (process.returncode, out) == (0, "result 3\n")


def test_a_short_run_leaves_nothing_in_a_file(place):
    with open(place.folder / "log", "w") as log:
        process = place.start(place.write("x.py", SHORT), stderr=log)
        assert process.communicate(timeout=180)[0] == "result [0, 1, 2] False\n"
    assert (place.folder / "log").read_text() == ""


@pytest.mark.parametrize("progress", ["auto", "lines"])
def test_a_pipe_that_nobody_reads_any_more(place, progress):
    process = place.start(place.write("x.py", SCRIPT), HOOKE_PROGRESS=progress)
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline()
    process.stderr.close()
    place.go()
    assert process.stdout.read() == "result 3\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 0


OUTLIVING = (
    GATED
    + """
    if __name__ == "__main__":
        import signal

        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        result = run(job, on="local:1").result()
        (HERE / "new").write_text(str(result))
        (HERE / "new").rename(HERE / "result")
"""
)


def test_a_terminal_that_goes_away(place):
    """As under nohup the process outlives it; every further write to the terminal fails with EIO."""
    child = place.terminal(place.write("x.py", OUTLIVING))
    child.expect("gated")
    os.close(child.child_fd)
    place.go()
    deadline = time.monotonic() + 60
    while not (place.folder / "result").exists():
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.02)
    assert (place.folder / "result").read_text() == "3"
    child.ptyproc.wait()


def test_a_forked_child_runs_too(place):
    source = (
        SHORT
        + """
        import os, sys
        sys.stdout.flush()  # else the child has what is not yet written, too
        if not (child := os.fork()):
            run(short, on="serial")
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    process = place.start("-W", "ignore::DeprecationWarning", place.write("x.py", source))
    assert process.communicate(timeout=180) == ("result [0, 1, 2] False\n0\n", "")


@pytest.mark.long
def test_the_command_line_follows_the_variable(place):
    place.go()
    place.write("x.py", GATED)
    told = {}
    for kind in ("auto", "lines", "none"):
        process = place.start("-m", "hooke", "run", "x.py:job", HOOKE_PROGRESS=kind)
        out, told[kind] = process.communicate(timeout=180)
        assert (process.returncode, out) == (0, "3\n")
    assert "started on local" in told["auto"]
    assert "started on local" in told["lines"]
    assert re.fullmatch(r"next: hooke show \S+\n", told["none"])
    process = place.start("-m", "hooke", "run", "x.py:job", HOOKE_PROGRESS="loud")
    _, err = process.communicate(timeout=180)
    assert process.returncode == 2
    assert "auto, table, lines, log, none" in err


# -- pytest ---------------------------------------------------------------------------------------

TESTS = (
    GATED
    + """
    def when(line):
        # The gate opens once the line is in what pytest has captured.
        def wait():
            while line not in sys.stderr.getvalue():
                time.sleep(0.01)
            (HERE / "go").touch()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()


    def test_short(capsys):
        assert run(quick_only, on="serial").result() == [0, 1, 2]
        assert capsys.readouterr().err == ""


    def test_long(capsys):
        when("now gated")
        assert run(job, on="local:1").result() == 3
        said = capsys.readouterr().err.splitlines()
        assert "running for" in said[0]
        assert "finished in" in said[-1]


    @pipeline
    def quick_only(n: int = 3) -> list[int]:
        return quick.map(range(n))
"""
)


@pytest.mark.long
def test_under_pytest_what_is_said_is_captured(place):
    process = place.start("-m", "pytest", "-q", "-p", "no:cacheprovider", place.write("test_x.py", TESTS))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out
    assert "2 passed" in out
    assert "hooke" not in out + err
    assert "run job" not in out + err


@pytest.mark.long
def test_under_pytest_on_a_terminal_nothing_is_drawn_over_its_lines(place):
    source = (
        GATED
        + "\n    def test_long():\n        assert run(job, on='local:1', progress='auto').result() == 3\n"
    )
    child = place.terminal(
        "-m", "pytest", "-s", "-q", "--color=no", "-p", "no:cacheprovider", place.write("test_x.py", source)
    )
    child.expect(r"run job-\S+ running for [^\r\n]*\r\n")
    place.go()
    text = ended(child)
    assert "finished in" in text
    assert "1 passed" in text
    assert "\x1b" not in text


# -- Jupyter --------------------------------------------------------------------------------------

CELLS = [
    """
import time
from hooke import pipeline, run, task

@task
def load(x: int) -> int:
    return x

@task
def train(x: int) -> int:
    time.sleep(0.6)
    if x == 99:
        raise ValueError("<b>bad & ugly</b>")
    return 2 * x

@pipeline
def job(first: int = 0, n: int = 2):
    return train.map(load.map(range(first, first + n)))
""",
    "done = run(job, on='local:1')",
    "done",
    "run(job, on='local:1', first=98)",
    "behind = run(job, on='local:1', wait=False, first=10)\nprint('going on')",
    "print(run(job, on='local:1', first=20).result(), behind.result())",
    "run(job, on='local:1', first=20, progress='none').result()",
    "run(job, on='serial', first=30, progress='lines').result()",
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    import nbclient
    import nbformat

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    folder = str(tmp_path_factory.mktemp("notebook"))
    nbclient.NotebookClient(
        made, timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": folder}}
    ).execute()
    return made


def displays(notebook, cell: int) -> list[dict[str, str]]:
    return [output.data for output in notebook.cells[cell].outputs if output.output_type == "display_data"]


def test_a_cell_shows_one_table_that_is_updated_in_place(notebook):
    (shown,) = displays(notebook, 1)
    assert "finished" in shown["text/html"]
    assert ">train</td>" in shown["text/html"]
    assert re.fullmatch(r"run job-\S+ finished in .* s: 4 done, 0 cached, 0 failed", shown["text/plain"])
    assert len(notebook.cells[1].outputs) == 1, "nothing else: no lines, no carriage returns"


def test_a_run_as_a_cells_value(notebook):
    (value,) = notebook.cells[2].outputs
    assert value.output_type == "execute_result"
    assert ">train</td>" in value.data["text/html"]
    assert "Run('job-" in value.data["text/plain"]


def test_a_failed_run_leaves_its_table_above_the_error(notebook):
    table, error = notebook.cells[3].outputs
    assert "failed</b>" in table.data["text/html"]
    assert "<b>bad" not in table.data["text/html"]
    assert error.ename == "TaskError"


def test_runs_in_the_background_and_in_the_foreground_have_each_its_table(notebook):
    (behind,) = displays(notebook, 4)
    (before,) = displays(notebook, 5)
    assert "finished" in behind["text/html"]
    assert "finished" in before["text/html"]
    assert behind["text/plain"] != before["text/plain"]
    (printed,) = [output.text for output in notebook.cells[5].outputs if output.output_type == "stream"]
    assert printed == "[40, 42] [20, 22]\n"


def test_a_notebook_that_asks_for_less(notebook):
    assert [output.output_type for output in notebook.cells[6].outputs] == ["execute_result"]
    assert not displays(notebook, 7)
    said = "".join(output.text for output in notebook.cells[7].outputs if output.output_type == "stream")
    assert "started on serial" in said
