"""Every snippet of README.md and docs/ runs, and shows what it says it shows."""

import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from tests.house import snippets

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
)
RUNNABLE = [
    page
    for page in PAGES
    if "_build" not in page.parts
    and any(block.language in {"python", "console"} for block in snippets.blocks_of(page.read_text("utf-8")))
]

LONG = {
    "docs/how-to/bench.md",
    "docs/how-to/curve.md",
    "docs/how-to/dask.md",
    "docs/how-to/export.md",
    "docs/how-to/fleets.md",
    "docs/how-to/gangs.md",
    "docs/how-to/large-features.md",
    "docs/how-to/measure.md",
    "docs/how-to/measure-language-models.md",
    "docs/how-to/models.md",
    "docs/how-to/plan.md",
    "docs/how-to/ray.md",
    "docs/how-to/rent.md",
    "docs/how-to/reproduce.md",
    "docs/how-to/rerun.md",
    "docs/how-to/search.md",
    "docs/how-to/serve.md",
    "docs/how-to/shuffle.md",
    "docs/how-to/train.md",
}
"""Pages that cost more than their share of `make test`."""


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def marks_of(page: Path) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.long] if page_name(page) in LONG else []
    return (
        [*marks, pytest.mark.needs("curl")]
        if re.search(r"^\$ .*\bcurl ", page.read_text("utf-8"), re.MULTILINE)
        else marks
    )


def environment() -> dict[str, str]:
    """The tests' own, with this environment's commands first, the project importable and this checkout's Hooke; without pytest's options."""
    commands = str(Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return inherited | {
        "PATH": commands + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }


def free_ports(count: int) -> list[int]:
    """As many on which nothing listens now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


def end_what_is_left(folder: Path) -> None:
    """End the processes that a page started in its folder and noted in a `*.pid` file, as one that fails midway leaves them."""
    for note in folder.glob("*.pid"):
        try:
            process = psutil.Process(int(note.read_text("utf-8")))
            if Path(process.cwd()) != folder.resolve():
                continue  # the page has ended its own, and the number is another's by now
            below = process.children(recursive=True)
            process.terminate()
            _, left = psutil.wait_procs([process], timeout=30)
            for one in [*left, *below]:
                if one.is_running():
                    one.kill()
        except (ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue


@pytest.mark.needs("processes")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=marks_of(page)) for page in RUNNABLE],
    ids=map(page_name, RUNNABLE),
)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns(".hooke", "__pycache__")
    )
    script = tmp_path / "page.py"
    text = page.read_text("utf-8")
    ports = snippets.ports_of(text)
    text = snippets.with_ports(text, dict(zip(ports, free_ports(len(ports)), strict=True)))
    script.write_text(snippets.script_of(text), "utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "page.py"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
    finally:
        end_what_is_left(tmp_path)
    assert done.returncode == 0, (
        f"{page.relative_to(ROOT)} (as page.py)\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    )


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in snippets.blocks_of(page.read_text("utf-8")):
        if block.language == "python" and block.words:
            assert block.words.startswith("no-run "), f"{page}:{block.line}: ```python {block.words}"


class TestSnippets:
    """The reader of pages itself."""

    PAGE = (
        "# T\n\n```python\nx = 1\n```\n\n- in a list\n  ```python\n  print(x)\n  ```\n\n```output\n1\n```\n"
    )

    def test_lines_stay_where_they_were(self) -> None:
        lines = snippets.script_of(self.PAGE).splitlines()
        assert lines[3] == "x = 1"
        assert lines[8] == "print(x)"

    def test_a_block_may_be_a_file(self) -> None:
        (block,) = snippets.blocks_of("```python\n# delays.py\nx = 1\n```\n")
        assert block.file == "delays.py"
        assert "_page.write('delays.py'" in snippets.script_of("```python\n# delays.py\nx = 1\n```\n")

    @pytest.mark.parametrize(
        ("expected", "actual", "same"),
        [
            ("a ... c", "a b c", True),
            ("a\n...\nd", "a\nb\nc\nd", True),
            ("a", "a  \n", True),
            ("a.c", "abc", False),
            ("a", "a\nb", False),
        ],
    )
    def test_dots_stand_for_anything(self, expected: str, actual: str, same: bool) -> None:
        assert snippets.matches(expected, actual) is same

    @pytest.mark.parametrize(
        ("actual", "same"),
        [
            ("run a-20261128-083410-wxgu: 3 done in 1.9 s, 12/s", True),
            ("run a-20261128-083410-wxgu: 3 done in 1m 5.25 s, 0.5/s", True),
            ("run b-20261128-083410-wxgu: 3 done in 1.9 s, 12/s", False),
            ("run a-20261128-083410-wxgu: 4 done in 1.9 s, 12/s", False),
        ],
    )
    def test_what_was_measured_may_differ_and_nothing_else(self, actual: str, same: bool) -> None:
        expected = "run a-20251127-093410-abcd: 3 done in 12 ms, 3.2/s"
        assert snippets.matches(expected, actual, measured=True) is same
        assert not snippets.matches(expected, actual)

    def test_a_block_says_that_it_was_measured(self) -> None:
        assert "measured=True" in snippets.script_of("```console measured\n$ ls\n```\n")
        assert "measured" not in snippets.script_of("```console\n$ ls\n```\n")

    def test_cells_run_in_a_notebook(self) -> None:
        page = "<!-- notebook -->\n\n```python\nx = 1\n```\n"
        assert "_page.cell('x = 1\\n')" in snippets.script_of(page)
        assert "_page.cell" not in snippets.script_of(page.replace("<!-- notebook -->", ""))

    def test_a_page_listens_on_other_ports_than_it_says(self) -> None:
        page = "8017\n```console\n$ serve --port 8017 &\n$ curl 127.0.0.1:8017/8017\n$ serve --port 0\n```\n```python\nask('127.0.0.1:8017', 80171)\n```\n"
        assert snippets.ports_of(page) == [8017]
        changed = snippets.with_ports(page, {8017: 9})
        assert changed.splitlines()[2:] == [
            "$ serve --port 9 &",
            "$ curl 127.0.0.1:9/8017",
            "$ serve --port 0",
            "```",
            "```python",
            "ask('127.0.0.1:9', 80171)",
            "```",
        ]

    def test_what_a_page_left_is_ended_and_what_is_not_its_own_stays(self, tmp_path: Path) -> None:
        (tmp_path / "page").mkdir()
        own, other = (
            subprocess.Popen(["sleep", "60"], cwd=folder) for folder in (tmp_path / "page", tmp_path)
        )
        try:
            for process in (own, other):
                (tmp_path / "page" / f"{process.pid}.pid").write_text(f"{process.pid}\n", "utf-8")
            end_what_is_left(tmp_path / "page")
            assert own.poll() is not None
            assert other.poll() is None
        finally:
            for process in (own, other):
                process.kill()
                process.wait()

    @pytest.mark.parametrize("wrong", ["2", "1\n2"])
    def test_a_wrong_output_is_found(self, tmp_path: Path, wrong: str) -> None:
        page = self.PAGE.replace("\n1\n", f"\n{wrong}\n")
        (tmp_path / "page.py").write_text(snippets.script_of(page), "utf-8")
        done = subprocess.run(
            [sys.executable, "page.py"], cwd=tmp_path, env=environment(), capture_output=True, check=False
        )
        assert done.returncode != 0
