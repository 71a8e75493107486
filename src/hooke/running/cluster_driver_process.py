"""What the pod of a driver runs: it unpacks the project, starts the run or goes on with it, and prints what the driver prints.

The project's folder is the pod's own, but for its `.hooke`, which is on a claim and outlives the pod. A pod that takes the place of
another finds the run there, prints what was printed before, and resumes it.
"""

from __future__ import annotations

import os
import signal
import sys
import tarfile
import threading
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import IO

import msgspec

from hooke.base.errors import JournalError
from hooke.engines.remote.handshake import unpack_tar
from hooke.journal.run_view import view_of
from hooke.processes.start import python_module, start_apart
from hooke.project.folder import Project

__all__ = ["BEGUN", "CODE", "PROJECT", "STDOUT", "DriverOrder", "main"]

PROJECT = Path("/project")
"""Where a pod has the project. It is the same in each pod, so a run finds its files when it is resumed."""
CODE = Path("/run/hooke/project.tar.gz")
"""Where a pod finds the project's archive."""
BEGUN = "hooke: the run has begun"
"""A line of a pod's log, and not of the driver's."""
STDOUT = "[out] "
"""How a line of the driver's stdout begins in a pod's log, which does not tell it from stderr."""
POLL_S = 0.1
STOPPED = 130
"""The exit code of a run that was asked to stop."""
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a pod that was asked to end: unless its job is deleted, another pod goes on."""


class DriverOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod does: the words after `hooke`, and of a run those that continue it."""

    words: tuple[str, ...]
    folder: str = "."
    """The working directory, from the project's folder."""
    run: str = ""
    """The run that the words begin; empty for a command that only looks at one."""
    again: tuple[str, ...] = ()
    output: str = ""
    """The file in the run's folder for what is printed."""


class _Output:
    """Lines for the pod's log, which also go to a file as soon as there is one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: list[str] = []
        self._file: IO[str] | None = None

    def repeat(self, file: Path) -> None:
        """Print what earlier pods printed, and append to it from now on."""
        if file.is_file():
            sys.stdout.write(file.read_text("utf-8", "replace"))
            sys.stdout.flush()
        self.keep(file)

    def keep(self, file: Path) -> None:
        """Write to this file, also what came before."""
        with self._lock:
            self._file = file.open("a", encoding="utf-8")
            self._file.writelines(self._before)
            self._file.flush()

    def say(self, line: str) -> None:
        """Print a line, and write it to the file."""
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()
            if self._file is None:
                self._before.append(line)
            else:
                self._file.write(line)
                self._file.flush()

    def mark(self, line: str) -> None:
        """Print a line that is not the driver's."""
        with self._lock:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def pump(self, stream: IO[bytes], prefix: str) -> None:
        """Say all that a process prints, until it ends."""
        for line in stream:
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.say(f"{prefix}{text}\n")


class _Supervisor:
    """Runs the command as a process, and asks it to stop when the pod is asked to end."""

    def __init__(self, order: DriverOrder, project: Project) -> None:
        self._order = order
        self._project = project
        self._output = _Output()
        self._terminated = threading.Event()
        self._begun = False

    def run(self) -> int:
        """To its end; returns the exit code of the pod."""
        signal.signal(signal.SIGTERM, lambda *_: self._terminated.set())
        words = self._order.words
        if self._order.run:
            if not self._wait_for_lock():
                return TERMINATED
            if self._has_begun():
                words = self._order.again
                self._output.repeat(self._file)
        process = start_apart(python_module("hooke", *words), output=PIPE, errors=PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        pumps = [
            threading.Thread(target=self._output.pump, args=each)
            for each in ((process.stdout, STDOUT), (process.stderr, ""))
        ]
        for pump in pumps:
            pump.start()
        stopping = False
        while True:
            self._tell_begun()
            if self._terminated.is_set() and not stopping:
                process.send_signal(signal.SIGINT)
                stopping = True
            try:
                code = process.wait(POLL_S)
                break
            except TimeoutExpired:
                continue
        for pump in pumps:
            pump.join()
        self._tell_begun()
        if code == STOPPED and self._terminated.is_set():
            return TERMINATED
        return code if code >= 0 else 128 - code

    @property
    def _file(self) -> Path:
        return self._project.runs.folder(self._order.run) / self._order.output

    def _wait_for_lock(self) -> bool:
        """Wait while another pod drives the run, which may take some time to be gone. False if this one shall end."""
        said = False
        while self._project.runs.alive(self._order.run):
            if not said:
                self._output.mark("hooke: another pod still drives the run")
                said = True
            if self._terminated.wait(POLL_S):
                return False
        return True

    def _has_begun(self) -> bool:
        if not self._project.runs.folder(self._order.run).is_dir():
            return False
        try:
            return view_of(self._project.runs, self._order.run).begun is not None
        except JournalError:  # there is no journal yet; `hooke resume` says what is wrong with a damaged one
            return False

    def _tell_begun(self) -> None:
        if self._begun or not self._order.run or not self._has_begun():
            return
        self._begun = True
        if not self._file.exists():
            self._output.keep(self._file)
        self._output.mark(BEGUN)


def main(argument: str) -> int:
    """Do what the order says; returns the exit code of the pod."""
    order = msgspec.json.decode(argument, type=DriverOrder)
    with tarfile.open(CODE) as archive:
        unpack_tar(archive, PROJECT)
    os.chdir(PROJECT / order.folder)
    return _Supervisor(order, Project.at(PROJECT)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
