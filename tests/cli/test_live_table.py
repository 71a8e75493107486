"""The live table, on a real terminal."""

import re
import sys

import pexpect
import pytest
from tests.cli.conftest import Desk, plain
from tests.cli.jobs import SLOW

from hooke.progress.table import picture

pytestmark = pytest.mark.needs("processes")


def terminal(desk: Desk, *arguments: str, columns: int = 120, lines: int = 30) -> pexpect.spawn:
    environment = desk.environment(TERM="xterm-256color")
    del environment["COLUMNS"]
    return pexpect.spawn(
        sys.executable,
        ["-m", "hooke", *arguments],
        cwd=str(desk.folder),
        env=environment,
        encoding="utf-8",
        timeout=30,
        dimensions=(lines, columns),
    )


def screen(text: str) -> str:
    """Every frame's lines below those of the frame before: whatever moves the cursor begins a new line."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-ln-z]", "\n", text).replace("\r", "").replace("\x1b[0m", "")


@pytest.fixture
def slow(desk: Desk) -> Desk:
    desk.write("slow.py", SLOW)
    return desk


def test_the_table_shows_tasks_workers_memory_and_then_the_result(slow):
    child = terminal(slow, "run", "slow.py", "--on", "local:2")
    child.expect(r"2 of 2 workers busy.*MiB")
    child.expect(r"slow")
    slow.write("go", "")
    child.expect(r"finished")
    child.expect(r"33\r\n")
    child.expect(r"next: hooke show")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_the_last_picture_has_every_task_done(slow):
    slow.write("go", "")
    child = terminal(slow, "run", "slow.py")
    child.expect(pexpect.EOF)
    last = plain(screen(child.before)).rpartition("finished")[2]
    for task, count in (("quick", 3), ("slow", 3), ("total", 1)):
        assert re.search(rf"✓ {task} +━+ +{count} +{count} ", last), last


def test_ctrl_c_on_the_terminal(slow):
    child = terminal(slow, "run", "slow.py")
    child.expect(r"workers busy")
    slow.until(lambda: (slow.folder / "ran").exists() and "slow" in (slow.folder / "ran").read_text())
    child.sendintr()
    child.expect(r"stopped cleanly")
    child.expect(r"hooke resume")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before


@pytest.mark.long
@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(slow, columns):
    slow.write("go", "")
    child = terminal(slow, "run", "slow.py", columns=columns)
    child.expect(pexpect.EOF)
    table = plain(screen(child.before)).partition("next:")[0]
    assert max(map(len, table.splitlines())) <= columns


def test_a_dumb_terminal_gets_lines(slow):
    slow.write("go", "")
    child = terminal(slow, "run", "slow.py")
    child.close()
    environment = slow.environment(TERM="dumb")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "hooke", "run", "slow.py"],
        cwd=str(slow.folder),
        env=environment,
        encoding="utf-8",
    )
    child.expect(pexpect.EOF)
    assert "\x1b[" not in child.before
    assert "run job-" in child.before


def test_many_tasks_on_a_low_screen(tmp_path):
    import io

    from rich.console import Console

    from hooke.journal.events import AttemptStarted, NodePlanned, RunStarted
    from hooke.journal.run_view import RunView

    tasks = [NodePlanned(node=i, task=f"task{i}", key=f"{i:032x}", at=1.0) for i in range(50)]
    view = RunView.fold(
        [
            RunStarted(run="job-1", pipeline="job", entry="x", at=0.0),
            *tasks,
            AttemptStarted(attempt=1, node=40, lo=0, hi=1, at=2.0),
        ]
    )
    out = io.StringIO()
    console = Console(file=out, width=100, height=12, force_terminal=True, color_system=None)
    console.print(picture(view.row(3.0), view.rows(3.0), memory=None, stopping=None, console=console))
    text = out.getvalue()
    assert "task40" in text, "what runs is shown before what waits"
    assert "more tasks" in text
    assert len(text.splitlines()) <= 12
