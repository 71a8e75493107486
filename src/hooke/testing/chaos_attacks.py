"""What chaos does to a driver: to its workers, its fork server, itself and its disk."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil

__all__ = ["Attacker", "Disk", "living"]

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
        with self._ballast.open("ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            file.truncate(max(0, file.tell() - leave))

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
