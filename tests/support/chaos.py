"""Chaos: whole runs in a driver of their own, whose processes are killed and stopped and whose disk fills, by a seed.

    python -m tests.support.chaos --seconds 300 --seed 7

Each round runs the job of `chaos_job`, resumed until it has finished. Then its answer must be that of a serial
run, its journal must hold nothing twice, and no process may be left. The seed decides what is done and when;
what it meets is real, so the same seed finds the same bug often, not always.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
from tests.support import chaos_job, environment, fill_disk
from tests.support.chaos_driver import CODES, PLACE, REFUSED

from hooke.base.intervals import IntervalSet
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Event,
    ItemsFound,
    RunStarted,
)
from hooke.journal.run_view import output_ref
from hooke.pipeline.references import unpack
from hooke.project.folder import Project
from hooke.running.run import Run

__all__ = ["Attacker", "ChaosReport", "Disk", "chaos", "living", "repeated"]


# --- What chaos does to a driver: to its workers, its fork server, itself and its disk.

PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
STOPS_S = (0.05, 0.3, 1.0)


class Disk:
    """The folder of the project, and the ballast that takes its room."""

    def __init__(self, folder: Path, *, limited: bool) -> None:
        self.folder = folder
        self.limited = limited
        self._ballast = folder / "ballast"

    def fill(self, *, leave: int) -> None:
        """Take all room but so many bytes."""
        fill_disk(self._ballast, leave=leave)

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)


class Attacker:
    """Draws from `chance` what to do to the driver `pid` next, and counts it in `done`."""

    def __init__(self, pid: int, disk: Disk, chance: Random, done: Counter[str]) -> None:
        self.seen: set[psutil.Process] = set()
        self.filled = False
        self._driver = psutil.Process(pid)
        self._disk = disk
        self._chance = chance
        self._done = done
        self._attacks: list[tuple[int, Callable[[], str]]] = [
            (30, self._kill_worker),
            (15, self._stop_worker),
            (6, self._kill_server),
            (6, self._stop_server),
            (8, self._kill_driver),
            (5, self._interrupt),
            (3, self._interrupt_twice),
            (10 if disk.limited else 0, self._fill_disk),
            (10, lambda: "calm moments"),
        ]

    def below(self) -> list[psutil.Process]:
        """Every process below the driver."""
        try:
            return self._driver.children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def look(self) -> None:
        """Remember what there is, to see later that it has gone."""
        self.seen.update(self.below())

    def act(self) -> None:
        """Wait a moment, and do something."""
        time.sleep(self._chance.choice(PAUSES_S))
        weights = [weight for weight, _ in self._attacks]
        attack = self._chance.choices([act for _, act in self._attacks], weights)[0]
        try:
            what = attack()
        except (psutil.NoSuchProcess, IndexError):  # it has ended by itself, or there is none yet
            return
        self._done[what] += 1

    def _server(self) -> psutil.Process:
        return self._driver.children()[0]

    def _worker(self) -> psutil.Process:
        return self._chance.choice(self._server().children())

    def _kill_worker(self) -> str:
        self._worker().kill()
        return "workers killed"

    def _stop_worker(self) -> str:
        self._stop(self._worker())
        return "workers stopped and continued"

    def _kill_server(self) -> str:
        self._server().kill()
        return "fork servers killed"

    def _stop_server(self) -> str:
        self._stop(self._server())
        return "fork servers stopped and continued"

    def _kill_driver(self) -> str:
        self.look()
        self._driver.kill()
        return "drivers killed"

    def _interrupt(self) -> str:
        self._server()  # it has begun
        self._driver.send_signal(signal.SIGINT)
        return "Ctrl-C"

    def _interrupt_twice(self) -> str:
        self._interrupt()
        self._driver.send_signal(signal.SIGINT)
        return "Ctrl-C twice"

    def _fill_disk(self) -> str:
        self.filled = True
        self._disk.fill(leave=self._chance.choice((0, 5_000, 100_000, 2_000_000)))
        time.sleep(self._chance.choice(PAUSES_S))
        self._disk.free()
        return "disks filled and freed"

    def _stop(self, process: psutil.Process) -> None:
        process.suspend()
        time.sleep(self._chance.choice(STOPS_S))
        process.resume()


def living(processes: set[psutil.Process]) -> list[str]:
    """Those of them that run, in words. A zombie does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.status()} {' '.join(process.cmdline())}")
    return found


# --- What a journal must not hold, however often its driver died.


def repeated(journal: Iterable[Event]) -> list[str]:
    """Work that was done again although the journal had it done, in words; attempts that began or ended twice."""
    book = _Book()
    for event in journal:
        book.enter(event)
    return book.problems


class _Book:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self._done: dict[int, IntervalSet] = {}
        self._ended: set[int] = set()
        self._began: set[int] = set()
        self._drives = 0

    def enter(self, event: Event) -> None:
        """One event, in order."""
        match event:
            case RunStarted():
                self._drives += 1
            case AttemptStarted():
                self._once(self._began, event.attempt, "began")
                self._not_done(event.node, event.lo, event.hi, "began again")
            case AttemptFinished():
                self._once(self._ended, event.attempt, "ended")
                if event.expanded is None:
                    self._not_done(event.node, event.lo, event.hi, "finished again")
                    self._add(event.node, event.lo, event.hi)
            case AttemptFailed():
                self._once(self._ended, event.attempt, "ended")
                if event.ref is not None:
                    self._add(event.node, event.lo, event.lo + event.done)
            case ItemsFound():
                self._add(event.node, event.lo, event.hi)
            case _:
                pass

    def _once(self, seen: set[int], attempt: int, what: str) -> None:
        if attempt in seen:
            self.problems.append(f"drive {self._drives}: attempt {attempt} {what} twice")
        seen.add(attempt)

    def _not_done(self, node: int, lo: int, hi: int, what: str) -> None:
        for a, b in self._done.get(node, IntervalSet()).within(lo, hi):
            self.problems.append(f"drive {self._drives}: items {a}..{b} of node {node} were done, and {what}")

    def _add(self, node: int, lo: int, hi: int) -> None:
        self._done.setdefault(node, IntervalSet()).add(lo, hi)


DISK_BYTES = 96 << 20

MOST_DRIVES = 8
"""After so many deaths of its driver a round is left in peace, so that it ends."""

DRIVE_S = 90.0
"""A driver that is left in peace takes two seconds; one that takes this long hangs."""

GONE_S = 2.0
"""How long after its driver's death anything may live on."""


@dataclass(slots=True, kw_only=True)
class ChaosReport:
    """What was done and what came of it. `problems` are sentences; empty is what one wants."""

    seed: int
    rounds: int = 0
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {what}" for what, count in sorted(self.done.items()))
        lines = [f"seed {self.seed}: {self.rounds} rounds; {counted}", *self.problems]
        return "\n".join(lines)


def chaos(seed: int, *, seconds: float, folder: Path | None = None) -> ChaosReport:
    """Rounds of chaos until `seconds` have passed or something is wrong. Linux; as root the disk is filled too."""
    report = ChaosReport(seed=seed)
    end = time.monotonic() + seconds
    with _small_disk(folder) as disk:
        report.done["disk fills possible"] += disk.limited
        while time.monotonic() < end and not report.problems:
            _Round(disk, report, Random(f"{seed}/{report.rounds}")).play()
            report.rounds += 1
    return report


@dataclass(slots=True)
class _Round:
    disk: Disk
    report: ChaosReport
    chance: Random

    def play(self) -> None:
        salt = self.chance.randrange(10_000)
        _write_project(self.disk.folder)
        for drive in range(2 * MOST_DRIVES):
            status = self._drive(salt, in_peace=drive >= MOST_DRIVES)
            if self.report.problems:
                return
            if status == CODES["finished"]:
                break
            self.report.done["resumes"] += 1
        else:
            self.report.problems.append(f"salt {salt}: not finished after {MOST_DRIVES} drives in peace")
            return
        self._judge(salt)

    def _drive(self, salt: int, *, in_peace: bool) -> int:
        """One life of a driver; its exit code."""
        command = [sys.executable, "-m", "tests.support.chaos_driver", str(self.disk.folder), str(salt)]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stderr=errors, cwd=self.disk.folder, env=environment()) as driver,
        ):
            attacker = Attacker(driver.pid, self.disk, self.chance, self.report.done)
            code = self._watch(driver, attacker, in_peace=in_peace)
            self.disk.free()
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        self._check_end(code, said, attacker)
        self.report.done["drives"] += 1
        return code

    def _watch(self, driver: subprocess.Popen[bytes], attacker: Attacker, *, in_peace: bool) -> int:
        end = time.monotonic() + DRIVE_S
        while driver.poll() is None:
            attacker.look()
            if time.monotonic() > end:
                self.report.problems.append(f"the driver hangs: {attacker.below()}")
                driver.kill()
            elif in_peace:
                time.sleep(0.05)
            else:
                attacker.act()
        return driver.wait()

    def _check_end(self, code: int, said: str, attacker: Attacker) -> None:
        expected = {*CODES.values(), REFUSED, -signal.SIGKILL, -signal.SIGINT}
        if code not in expected or "\nTraceback" in f"\n{said}":
            self.report.problems.append(f"the driver ended with {code}:\n{said[-4000:]}")
        if code == REFUSED:
            self.report.done["errors said"] += 1
            if not attacker.filled:
                self.report.problems.append(f"the driver refused, with room on the disk:\n{said[-4000:]}")
        end = time.monotonic() + GONE_S
        while (left := living(attacker.seen)) and time.monotonic() < end:
            time.sleep(0.01)
        if left:
            self.report.problems.append(f"left running {GONE_S:g} s after the driver's end: {left}")
            for process in attacker.seen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def _judge(self, salt: int) -> None:
        """The answer, and the journal."""
        project = Project.find(self.disk.folder)
        (name,) = project.runs.names()[:1]
        run = Run(project, name)
        with contextlib.redirect_stdout(io.StringIO()):
            expected = chaos_job.job(salt)
        found = _answer(run)
        if found != expected:
            self.report.problems.append(f"salt {salt}: wrong answer\nexpected {expected}\nfound {found}")
        events = list(run.journal)
        self.report.problems += repeated(events)
        self.report.done["scalings"] += sum(isinstance(event, CapacityChanged) for event in events)
        self.report.done["tasks out of memory"] += sum(
            isinstance(event, AttemptFailed) and event.failure.kind == "OutOfMemory" for event in events
        )
        self.report.done["items checked"] += len(expected["blends"]) + len(expected["lengths"])


def _answer(run: Run) -> Any:
    store = run.project.store()
    return unpack(store.get(output_ref(run.folder)), store)


def _write_project(folder: Path) -> None:
    """A project with the job and a place whose engine scales, which is a plug-in as anybody's."""
    shutil.rmtree(folder / ".hooke", ignore_errors=True)
    shutil.copy(chaos_job.__file__, folder / "chaos_job.py")
    (folder / "hooke.toml").touch()
    plugin = folder / "hooke_chaos-0.dist-info"
    plugin.mkdir(exist_ok=True)
    (plugin / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hooke-chaos\nVersion: 0\n", encoding="utf-8"
    )
    (plugin / "entry_points.txt").write_text(
        f"[hooke.engines]\n{PLACE} = tests.support.chaos_driver:ScalingEngine\n", encoding="utf-8"
    )


@contextmanager
def _small_disk(folder: Path | None) -> Iterator[Disk]:
    """A folder on a small tmpfs of its own where this process may mount one, else a plain one."""
    path = Path(tempfile.mkdtemp(prefix="hooke-chaos-", dir=folder))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield Disk(path, limited=mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=False)
        shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else Random().randrange(1 << 30)
    print(f"repro: python -m tests.support.chaos --seconds {asked.seconds:g} --seed {seed}", flush=True)
    report = chaos(seed, seconds=asked.seconds)
    print(report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
