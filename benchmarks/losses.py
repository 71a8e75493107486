"""What trackers lose of the points whose calls had returned: real programs, killed, starved of disk, left by their server.

    python -m benchmarks.losses > docs/explanation/losses.md
    python -m benchmarks.losses kill full --trackers hooke,comet --trials 3      some of it, to look at

Linux, as root (for a small disk of its own). Trackio asks for an older pandas, so it has an environment of its own:

    python3 -m venv .venv-trackio && .venv-trackio/bin/pip install trackio
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from benchmarks.loss_programs import TRACKERS, Notes, Tracker, program

OURS, PEERS = 20, 3
"""Trials."""
DISK_BYTES = 4 << 20
START_LIMIT_S = 120.0
TROUBLE = re.compile(r"error|fail|drop|refus|lost|loss \d|no space|exception|retry", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one program."""

    returned: int
    lost: int
    twice: int
    longest_s: float
    raised: bool
    reported: int
    lines: int
    """Lines of its output that mention trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that goes wrong."""

    title: str
    text: str
    run: Callable[[Tracker, Path, random.Random], Outcome]
    served: bool = False
    at_once: int = 1
    """Trials side by side."""


class Started:
    """A program under way in a folder of its own. Its output and notes lie beside that, which may be on another disk."""

    def __init__(
        self,
        tracker: Tracker,
        folder: Path,
        *,
        count: int,
        pause_s: float = 0.0,
        server: str = "",
    ) -> None:
        beside = folder.with_name("beside")
        beside.mkdir()
        (folder / "experiment").write_text(folder.parent.name)
        (folder / "train.py").write_text(program(tracker, count=count, pause_s=pause_s))
        Notes.make(beside / "notes")
        self._beside = beside
        home = beside / "home"
        home.mkdir()
        environment = os.environ | {
            "HOME": str(home),
            "TMPDIR": str(folder),
            "NOTES": str(beside / "notes"),
            "BEGUN": str(beside / "begun"),
            "SERVER": server,
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }
        environment |= tracker.environment | ({"MLFLOW_TRACKING_URI": server} if server else {})
        with (beside / "output").open("w") as output:
            self.process = subprocess.Popen(
                [str(tracker.python), "train.py"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._helpers: list[psutil.Process] = []

    def wait_for_first(self) -> None:
        """Until it logs."""
        deadline = time.monotonic() + START_LIMIT_S
        while not (self._beside / "begun").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it did not begin:\n{self.output()}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Only to the program itself: what it started may finish its work."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._helpers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)

    def finish(self, limit_s: float = 400.0) -> Notes:
        """Wait for it and, for half a minute, for what it started."""
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._helpers = psutil.Process(self.process.pid).children(recursive=True) or self._helpers
            time.sleep(0.05)
        self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(self._helpers, timeout=30)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return Notes.read(self._beside / "notes")

    def output(self) -> str:
        """What it printed."""
        return (self._beside / "output").read_text(errors="replace")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 MiB in this folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Server:
    """A real `mlflow server` over SQLite, in its light form, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self._folder = folder
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()
        self.wait()

    def start(self) -> None:
        """Begin; it answers some ten seconds later."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        raise RuntimeError("the tracking server does not answer")

    def kill(self) -> None:
        """With -9, all of it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """One for a trial."""
    with tempfile.TemporaryDirectory(prefix="losses", ignore_cleanup_errors=True) as folder:
        made = Server(Path(folder))
        try:
            yield made
        finally:
            made.kill()


def outcome(tracker: Tracker, started: Started, notes: Notes, folder: Path, uri: str = "") -> Outcome:
    """What was kept, against what had returned."""
    kept = tracker.kept(folder, uri)
    reported = tracker.reported(folder)
    known = {value for value in kept if value < notes.returned}
    return Outcome(
        returned=notes.returned,
        lost=notes.returned - len(known) - reported,
        twice=len(kept) - len(set(kept)),
        longest_s=notes.longest_s,
        raised=notes.raised,
        reported=reported,
        lines=sum(bool(TROUBLE.search(line)) for line in started.output().splitlines()),
    )


def ended_by(number: signal.Signals) -> Callable[[Tracker, Path, random.Random], Outcome]:
    """The program logs a point each millisecond, and gets a signal at some moment of its first five seconds."""

    def run(tracker: Tracker, folder: Path, chance: random.Random) -> Outcome:
        started = Started(tracker, folder, count=10**6, pause_s=0.001)
        started.wait_for_first()
        time.sleep(chance.uniform(0.2, 5.0))
        started.send(number)
        return outcome(tracker, started, started.finish(60), folder)

    return run


def untroubled(tracker: Tracker, folder: Path, _chance: random.Random) -> Outcome:
    """1,000 points and the tracker's own end: all must be found, or it is the reading that loses them."""
    started = Started(tracker, folder, count=1_000)
    return outcome(tracker, started, started.finish(), folder)


def full_disk(tracker: Tracker, folder: Path, _chance: random.Random) -> Outcome:
    """100,000 points onto 4 MiB; what is there then is read from a copy."""
    copy = folder.with_name("copy")
    with small_disk(folder):
        started = Started(tracker, folder, count=100_000)
        notes = started.finish()
        shutil.copytree(folder, copy, symlinks=True)
    return outcome(tracker, started, notes, copy)


def restarted(tracker: Tracker, folder: Path, chance: random.Random) -> Outcome:
    """1,000 points in 20 seconds; the server is killed within the first ten and started again at once."""
    with server() as peer:
        started = Started(tracker, folder, count=1_000, pause_s=0.02, server=peer.uri)
        started.wait_for_first()
        time.sleep(chance.uniform(1.0, 10.0))
        peer.kill()
        peer.start()
        notes = started.finish()
        peer.wait()
        return outcome(tracker, started, notes, folder, peer.uri)


def never_back(tracker: Tracker, folder: Path, chance: random.Random) -> Outcome:
    """The server is killed within three seconds, for good. Its database is read by a server of the same folder, afterwards."""
    with server() as peer:
        started = Started(tracker, folder, count=200, pause_s=0.02, server=peer.uri)
        started.wait_for_first()
        time.sleep(chance.uniform(1.0, 3.0))
        peer.kill()
        notes = started.finish()
        if tracker.title == "Hooke":
            return outcome(TRACKERS["hooke"], started, notes, folder)
        peer.start()
        peer.wait()
        return outcome(tracker, started, notes, folder, peer.uri)


TROUBLES = {
    "none": Trouble(
        title="No failure",
        text="The loop logs 1,000 points, and the tracker ends normally. This section checks that the points are read back correctly.",
        run=untroubled,
    ),
    "kill": Trouble(
        title="`kill -9`",
        text="The loop logs a point each millisecond. The process gets SIGKILL within five seconds, as the kernel sends it when memory runs out.",
        run=ended_by(signal.SIGKILL),
    ),
    "term": Trouble(
        title="SIGTERM",
        text="The loop logs a point each millisecond. The process gets SIGTERM within five seconds, as schedulers and spot machines send it.",
        run=ended_by(signal.SIGTERM),
    ),
    "full": Trouble(
        title="A full disk",
        text="The loop logs 100,000 points. The tracker's files and temporary files are on a disk of 4 MiB.",
        run=full_disk,
    ),
    "restart": Trouble(
        title="The tracking server is killed and restarted",
        text="The loop logs 1,000 points, one each 20 ms, into a real `mlflow server`. The server gets SIGKILL within ten seconds and is restarted at once. "
        "Hooke's points are counted in MLflow, after `hooke sync`.",
        run=restarted,
        served=True,
    ),
    "never": Trouble(
        title="The tracking server never comes back",
        text="The loop logs 200 points, one each 20 ms. The server gets SIGKILL within three seconds. MLflow's points are read from the server's database, Hooke's from its journal.",
        run=never_back,
        served=True,
        at_once=3,
    ),
}


def trials(trouble: Trouble, tracker: Tracker, count: int) -> list[Outcome]:
    """Some of them, each in folders of its own."""

    def one(at: int) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="losses", ignore_cleanup_errors=True) as text:
            folder = Path(text) / "program"
            folder.mkdir()
            return trouble.run(tracker, folder, random.Random(f"{tracker.title} {trouble.title} {at}"))

    with ThreadPoolExecutor(trouble.at_once) as pool:
        return list(pool.map(one, range(count)))


def row(tracker: Tracker, outcomes: list[Outcome]) -> str:
    """A line of a table."""
    returned, lost, twice, reported, lines = (
        sum(getattr(each, name) for each in outcomes)
        for name in ("returned", "lost", "twice", "reported", "lines")
    )
    said = [f"counts {reported:,} as refused"] if reported else []
    if raised := sum(each.raised for each in outcomes):
        said.append(f"an exception, {raised} of {len(outcomes)}")
    elif lines and lost:
        said.append(f"{lines:,} lines on the terminal, no exception")
    cells = [
        tracker.title,
        f"{len(outcomes)}",
        f"{returned:,}",
        f"**{lost:,}**" if tracker.title == "Hooke" else f"{lost:,}",
        f"{twice:,}",
        _duration(max(each.longest_s for each in outcomes)),
        "; ".join(said) or ("nothing" if lost else ""),
    ]
    return f"| {' | '.join(cells)} |"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _version(tracker: Tracker) -> str:
    if tracker.python == Path(sys.executable):
        return importlib.metadata.version(tracker.distribution)
    ask = f"import importlib.metadata as m; print(m.version({tracker.distribution!r}))"
    return subprocess.run(
        [str(tracker.python), "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()


PAGE = """\
# What trackers lose

Each tracker is called through its own public API, with its defaults, one point per call, in a loop. This page is the output of

```text
python -m benchmarks.losses > docs/explanation/losses.md
```

*Lost* points are points whose `log` call had returned, that are missing afterwards, and that the tracker does not count. Hooke does not
raise an exception on a full disk. It counts the points that it refuses, and shows the count and the reason in `hooke show` and at the end of the run. *Duplicate* points are there
more than once.

The programs are in `benchmarks/loss_programs.py`. The number of calls that returned and the duration of the longest one are written to mapped
memory that outlives the process. The surviving points are read back as each tracker's documentation recommends (MLflow's client, `comet offline --csv`,
`trackio get metric`), or from its files if it offers only an upload (W&B, neptune-scale). The moments of failure are seeded. Processes that a
tracker started beside the program are not killed, and have half a minute to finish. A program that runs for 400 s is stopped.

{versions}, Python {python}, Linux, {cpus} cores shared with other processes. The longest call includes their influence.
"""
HEAD = """
| tracker | trials | returned | lost | duplicate | longest call | what the tracker reports |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Write the page, a row at a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("troubles", nargs="*", help=f"of {', '.join(TROUBLES)}; by default all")
    parser.add_argument("--trackers", default=",".join(TRACKERS))
    parser.add_argument("--trials", type=int)
    chosen = parser.parse_args()
    trackers = [TRACKERS[name] for name in chosen.trackers.split(",")]
    titles = {tracker.distribution: tracker for tracker in trackers}
    versions = ", ".join(f"{name} {_version(tracker)}" for name, tracker in titles.items())
    print(PAGE.format(versions=versions, python=platform.python_version(), cpus=os.cpu_count()))
    for name in chosen.troubles or TROUBLES:
        trouble = TROUBLES[name]
        print(f"## {trouble.title}\n\n{trouble.text}\n{HEAD}")
        for tracker in trackers:
            if tracker.served if trouble.served else tracker.serverless:
                count = chosen.trials or (OURS if tracker.title == "Hooke" else PEERS)
                print(row(tracker, trials(trouble, tracker, count)), flush=True)
        print()


if __name__ == "__main__":
    main()
