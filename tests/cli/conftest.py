import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hooke.project.folder import Project


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Desk:
    """A folder in which commands are typed, each a real process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, source: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), "utf-8")
        # Within one second an edit of equal length would be taken for no edit.
        for cached in path.parent.glob("__pycache__/*.pyc"):
            cached.unlink()
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text("utf-8")
        assert text.count(old) == 1
        self.write(name, text.replace(old, new))

    def environment(self, **more: str) -> dict[str, str]:
        hidden = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "HOOKE_DEBUG")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        return kept | {"COLUMNS": "100"} | more

    def hooke(
        self, *arguments: str, timeout: float = 180, cwd: Path | None = None, **environment: str
    ) -> Done:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "hooke", *arguments],
            cwd=cwd or self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "hooke", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def project(self) -> Project:
        return Project.find(self.folder)

    def last(self) -> str:
        return self.project.runs.find()

    def until(self, condition, seconds: float = 120.0):
        """Wait for something that another process does."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)
        return value


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def kill():
    """Processes to be killed at the end, whatever the test did."""
    started: list[subprocess.Popen[str]] = []
    yield started.append
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def plain(text: str) -> str:
    """Without what a terminal does not print."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
