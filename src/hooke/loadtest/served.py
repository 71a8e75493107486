"""Starts a service with `hooke serve` for a load test, in its own process group, and ends it afterwards."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import tempfile
import threading
import urllib.request
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hooke.base.errors import HookeError
from hooke.loadtest.load_result import Handled
from hooke.processes.start import python_module
from hooke.processes.with_parent import with_parent
from hooke.project.folder import Project
from hooke.scaling.affine import Affine
from hooke.scaling.call_times import Ends
from hooke.scaling.measurements import Estimate
from hooke.services.service_report import law_lines, read_service
from hooke.services.shares import thread_variables
from hooke.serving.stats_windows import merge_windows

__all__ = ["ServedFile"]

SPARE_S = 30.0
"""How long the end may take beyond the service's timeout before the process is killed."""
LINES = 20
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores the environment's proxy, which must not see the token."""


class ServedFile:
    """A service in `with ServedFile(...) as served`, at `served.url` with the bearer token `served.token`.

    Entering it raises HookeError with the last lines of output if the service does not start.
    """

    def __init__(
        self,
        entry: str,
        *,
        words: Sequence[str],
        timeout_s: float,
        replicas: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self.url = ""
        self.pid = 0
        self._entry = entry
        self._words = [*words, *(["--replicas", str(replicas)] if replicas is not None else [])]
        if threads is not None:
            self._words += ["--threads", str(threads)]
        self._environment = os.environ | (thread_variables(threads) if threads is not None else {})
        self._replicas = replicas
        self._timeout_s = timeout_s
        self._lines: deque[str] = deque(maxlen=LINES)
        self._up = threading.Event()
        self._run = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="hooke-bench-")
        file = Path(self._folder.name) / "token"
        file.touch(mode=0o600)
        file.write_text(self.token)
        words = [self._entry, "--port", "0", "--token-file", str(file), *self._words]
        command = [*with_parent(signal.SIGTERM), *python_module("hooke", "serve", *words)]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, process_group=0, env=self._environment
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name="hooke-served", daemon=True)
        self._reader.start()
        try:
            self._await_up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=self._timeout_s + SPARE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        self._folder.cleanup()

    def batches(self) -> tuple[float, float] | None:
        """The numbers of batches and of their rows so far, from its metrics; None with several replicas, whose metrics are separate."""
        if self._replicas is not None:
            return None
        asked = urllib.request.Request(  # noqa: S310 - our own service
            f"{self.url}/-/metrics", headers={"authorization": f"Bearer {self.token}"}
        )
        try:
            with _DIRECT.open(asked, timeout=self._timeout_s) as answer:
                text = answer.read().decode()
        except OSError:
            return None  # too busy: the table omits it
        found = dict(re.findall(r"^hooke_batch_rows_(count|sum)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE))
        return (float(found["count"]), float(found["sum"])) if len(found) == 2 else None

    def handled(self, project: Project, method: str) -> Handled | None:
        """The journalled counts and batch durations of the method, after the service's end; None if it has no journal."""
        if not self._run:
            return None
        record = read_service(project.runs.folder(self._run))
        whole = merge_windows(record.windows)
        law = record.laws().get(method)
        return Handled(
            run=self._run,
            requests=whole.requests,
            batches=whole.batches,
            rows=whole.rows,
            law=tuple(law_lines(record, lacking=False)),
            batch_s=(_ends(law.a), _ends(law.b)) if isinstance(law, Affine) else None,
        )

    def _await_up(self) -> None:
        while not self._up.wait(0.1):
            if self._process.poll() is not None:
                self._reader.join()
                break
        if not self.url or not self._up.is_set():
            raise HookeError(
                f"{self._entry} did not start",
                why="\n".join(self._lines),
                next=f"hooke serve {self._entry}",
            )

    def _ready_pattern(self) -> str:
        """The pattern of the line that it prints when it is ready."""
        if self._replicas is None:
            return r" answers: POST /"
        return rf" {self._replicas} of {self._replicas} replicas answer$"

    def _read(self) -> None:
        """Read its output: its address, that it is ready, and its run."""
        assert self._process.stderr is not None
        with self._process.stderr as said:
            for line in said:
                self._lines.append(line.rstrip())
                if found := re.search(r" (?:is being set up, on|listens on) (https?://\S+)$", line):
                    self.url = found[1]
                elif re.search(self._ready_pattern(), line):
                    self._up.set()
                elif found := re.search(r"^next: hooke show (\S+)", line):
                    self._run = found[1]


def _ends(estimate: Estimate) -> Ends:
    low, high = estimate.interval
    return low, estimate.value, high
