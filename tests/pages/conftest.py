"""A project with runs that went well, failed, and had script in every text; its pages served by `hooke ui`; a browser."""

import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.browser import Browser
from tests.support.needs import is_there, skip_without

SCRIPT = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>\"'`&"
"""What a user's text may be."""

JOB = f"""
import os, time
import numpy as np
from hooke import log_artifact, log_image, log_metric, log_param, log_text, pipeline, run, set_tag, task

SCRIPT = {SCRIPT!r}

@task
def load(month: int, note: str) -> list[int]:
    print("loading", month, SCRIPT)
    return list(range(6))

@task(retries=2)
def fit(row: int, depth: int) -> float:
    log_metric("loss", row / depth, step=row)
    mark = f"tried-{{row}}"
    if row == 3 and not os.path.exists(mark):
        open(mark, "w").close()
        raise ConnectionError("the server was away " + SCRIPT)
    return row / depth

@task
def score(values: list[float]) -> float:
    log_image("sample", np.zeros((40, 60, 3), dtype="uint8"), step=0)
    log_text("<script>window.hacked=3</script>", "page.html")
    log_param("alpha" + SCRIPT[:9], SCRIPT)
    set_tag("tag", SCRIPT)
    return sum(values)

@task
def broken(x: float) -> float:
    raise KeyError(SCRIPT)

@task
def wait(x: float) -> float:
    print("waiting")
    while not os.path.exists("go"):
        time.sleep(0.01)
    print("gone on")
    return x

@pipeline
def train(month: int, note: str):
    return score(fit.map(load(month, note), depth=3))

@pipeline
def good(note: str = SCRIPT):
    return train(1, note)

@pipeline
def bad(note: str = SCRIPT):
    return broken(train(2, note))

@pipeline
def slow():
    return wait(score([1.0]))
"""


@dataclass(frozen=True)
class Pages:
    """A server and its project."""

    address: str
    """Without a token."""
    opening: str
    """As printed: with the token."""
    folder: Path
    runs: dict[str, str]
    """Pipeline -> id of its run."""

    def of(self, pipeline: str, rest: str = "") -> str:
        return f"{self.address}/runs/{self.runs[pipeline]}{rest}"


def hooke(folder: Path, *words: str, **given) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", "-m", "hooke", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **given,
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`hooke ui` of the project in `folder`; the address that opens it, with the token."""
    with (folder / "served").open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "hooke", "ui", "--port", "0"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        opening = re.search(r"http://\S+", line)
        assert opening, (line, (folder / "served").read_text())
        yield opening[0]
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=30)
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "hooke.toml").touch()
    (folder / "job.py").write_text(textwrap.dedent(JOB), "utf-8")
    runs = {}
    for name in ("good", "bad"):
        hooke(folder, "run", f"job.py:{name}", "--on", "local:2", "--tag", f"team={SCRIPT}")
        runs[name] = max((folder / ".hooke" / "runs").iterdir(), key=lambda each: each.stat().st_mtime).name
    with served_pages(folder, runs) as made:
        yield made


@contextmanager
def served_pages(folder: Path, runs: dict[str, str]) -> Iterator[Pages]:
    """The pages of a project with these runs."""
    with served(folder) as opening:
        yield Pages(opening.partition("/?")[0], opening, folder, runs)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not is_there("chromium"):
        skip_without("chromium")
    made = Browser()
    try:
        yield made
    finally:
        made.close()
