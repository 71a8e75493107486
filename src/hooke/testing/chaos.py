"""Chaos: whole runs in a driver of their own, whose processes are killed and stopped and whose disk fills, by a seed.

    python -m hooke.testing.chaos --seconds 300 --seed 7

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from hooke.journal.events import AttemptFailed, CapacityChanged
from hooke.pipeline.references import unpack
from hooke.project.folder import Project
from hooke.project.outcome import output_ref
from hooke.project.running import Run
from hooke.testing import chaos_job
from hooke.testing.chaos_attacks import Attacker, Disk, living
from hooke.testing.chaos_checks import repeated
from hooke.testing.chaos_driver import CODES, PLACE, REFUSED

__all__ = ["ChaosReport", "chaos"]

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
        command = [sys.executable, "-m", "hooke.testing.chaos_driver", str(self.disk.folder), str(salt)]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stderr=errors, cwd=self.disk.folder) as driver,
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
        f"[hooke.engines]\n{PLACE} = hooke.testing.chaos_driver:ScalingEngine\n", encoding="utf-8"
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
            subprocess.run(["umount", "-l", str(path)], check=False)  # noqa: S607 - where it lies differs
        shutil.rmtree(path, ignore_errors=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m hooke.testing.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else Random().randrange(1 << 30)
    print(f"repro: python -m hooke.testing.chaos --seconds {asked.seconds:g} --seed {seed}", flush=True)  # noqa: T201 - a program's own output
    report = chaos(seed, seconds=asked.seconds)
    print(report)  # noqa: T201 - same
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
