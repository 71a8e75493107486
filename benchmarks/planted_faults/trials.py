"""Faults tried on a copy of the repository: planted, tested, and taken out again.

A test counts as having found a fault if it fails with it twice and passes without it. What fails without a fault, or not each time, is
left out from then on. Where root runs this on Linux, tests get processes and a network of their own: a fault in code that ends
processes reaches nobody else, and nothing outlives its session.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.planted_faults.importers import TestGraph
from benchmarks.planted_faults.operators import Fault, plant

__all__ = [
    "ALL",
    "IMPORTERS",
    "SESSION",
    "STAGES",
    "SURVIVED",
    "TEST",
    "Selection",
    "Trial",
    "TrialLog",
    "Workshop",
    "copy_repository",
    "read_outcome",
    "read_tests",
]

IMPORTERS, TEST, ALL = "importers", "test", "all"
STAGES = (IMPORTERS, TEST, ALL)
SURVIVED = "survived"
QUICK, SLOWER = "not needs and not long", "needs and not long"
"""Marks of `make unit`, and of what `make test` adds."""
MARKS = {TEST: "not long", ALL: ""}
LIMITS_S = {IMPORTERS: 150.0, TEST: 3600.0, ALL: 14_400.0}
HANG_S = 60
"""Seconds after which a test hangs: the longest unmarked one takes a third of that on a busy machine."""
SILENCE_S = HANG_S + 30.0
"""Seconds without a line of output after which a session hangs."""
POLL_S = 0.2
LEFT_OUT = 5
"""Tests of one fault that may fail without it before the trial gives up."""
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", re.MULTILINE)
"""A line of the summary; what a test logs may begin with ERROR, too."""
STARTED = re.compile(r"^(tests/\S+::.+?)\s*(?:PASSED|FAILED|SKIPPED|ERROR|XFAIL|\[|$)", re.MULTILINE)
SESSION = "the session as a whole"
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net")
NO_TESTS = 5
"""Exit code of pytest where nothing is selected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tests one session of pytest runs, and for how many seconds at most."""

    files: tuple[str, ...] = ()
    marks: str = ""
    limit_s: float = LIMITS_S[IMPORTERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended: the first failure, or none; `complete` is false where its time ran out."""

    failed: str = ""
    how: str = ""
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of a fault: the verdict is the stage that found it, or `survived` after the stages up to `stage`."""

    fault: str
    verdict: str
    stage: str
    test: str = ""
    how: str = ""
    complete: bool = True
    """Whether the last stage ran all its tests; else its time ran out."""
    first: str = ""
    """The verdict before tests were added."""
    seconds: float = 0.0


@dataclass(slots=True)
class TrialLog:
    """The file of trials, a line of JSON each, from which an interrupted soak goes on. Later lines replace earlier ones."""

    path: Path
    trials: dict[str, Trial] = field(default_factory=dict)
    unfit: dict[str, None] = field(default_factory=dict)
    """Tests that fail without a fault or not each time."""

    @classmethod
    def read(cls, path: Path) -> TrialLog:
        """The log with the lines that the file has; the last one may be cut off."""
        log = cls(path)
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "unfit" in entry:
                log.unfit[entry["unfit"]] = None
            else:
                log.trials[entry["fault"]] = Trial(**entry)
        return log

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials[trial.fault] = trial
        self._append(asdict(trial))

    def leave_out(self, test: str) -> None:
        """Leave a test out from now on."""
        self.unfit[test] = None
        self._append({"unfit": test})

    def _append(self, entry: dict[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * (cut_off and self.path.stat().st_size > 0) + json.dumps(entry) + "\n")


def copy_repository(source: Path, target: Path, only: str = ".") -> None:
    """Copy what git tracks, and what it does not ignore, below a folder of a repository."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", only]
    names = subprocess.run(listed, cwd=source, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def read_tests(tree: Path) -> dict[str, bytes]:
    """The test files of a repository, by their paths from its root."""
    return {
        path.relative_to(tree).as_posix(): path.read_bytes() for path in (tree / "tests").rglob("test_*.py")
    }


@dataclass(slots=True, kw_only=True)
class Workshop:
    """Two copies of a repository in a folder: `clean` stays as it is, in `faulty` one fault at a time is planted."""

    folder: Path
    log: TrialLog
    jobs: int = 1
    changed: frozenset[str] = frozenset()
    """Test files that are new or differ from those of the first trial; of a fault's importers, they come first."""
    limits_s: dict[str, float] = field(default_factory=LIMITS_S.copy)
    python: Sequence[str] = (sys.executable,)

    @property
    def clean(self) -> Path:
        return self.folder / "clean"

    @property
    def faulty(self) -> Path:
        return self.folder / "faulty"

    def try_fault(self, fault: Fault, stage: str) -> Trial:
        """Run the stages up to this one until a test finds the fault, and log the trial."""
        known, begun = self.log.trials.get(fault.name), time.monotonic()
        done = -1 if known is None else STAGES.index(known.stage)
        trial = known or Trial(fault=fault.name, verdict=SURVIVED, stage=IMPORTERS)
        with self.planted(fault):
            for each in STAGES[done + 1 : STAGES.index(stage) + 1]:
                outcome = self._run_stage(each, fault)
                verdict = each if outcome.failed else SURVIVED
                found = {"test": outcome.failed, "how": outcome.how, "complete": outcome.complete}
                trial = replace(trial, verdict=verdict, stage=each, **found)
                if outcome.failed:
                    break
        trial = replace(trial, seconds=round(trial.seconds + time.monotonic() - begun, 1))
        self.log.add(trial)
        return trial

    def retry(self, fault: Fault) -> Trial:
        """Try a fault that survived again, with the tests that there are now."""
        known = self.log.trials.pop(fault.name)
        trial = replace(self.try_fault(fault, known.stage), first=known.first or known.verdict)
        self.log.add(trial)
        return trial

    def show(self, snippet: str, *, tree: Path) -> str:
        """What a snippet of Python prints with the sources of a tree."""
        command = [*self.python, "-c", snippet]
        done = subprocess.run(
            command,
            cwd=tree,
            env=_environment(tree),
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        return done.stdout + (done.stderr.strip().splitlines() or [""])[-1] * bool(done.returncode)

    def witnesses(self, fault: Fault, snippet: str) -> tuple[str, str]:
        """What a snippet prints without and with a fault."""
        with self.planted(fault):
            return self.show(snippet, tree=self.clean), self.show(snippet, tree=self.faulty)

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """The fault is in `faulty` meanwhile. Its time differs from any other fault's, so that Python compiles the file again."""
        file, source = self.faulty / fault.path, (self.clean / fault.path).read_bytes()
        written = (self.clean / fault.path).stat().st_mtime
        file.write_bytes(plant(source, fault))
        os.utime(file, (written, written + 1 + fault.start))
        try:
            yield
        finally:
            file.write_bytes(source)
            os.utime(file, (written, written))

    def _run_stage(self, stage: str, fault: Fault) -> Outcome:
        limit_s = self.limits_s[stage]
        if stage != IMPORTERS:
            return self._find_failure(Selection(marks=MARKS[stage], limit_s=limit_s), fault)
        files = tuple(
            sorted(TestGraph(self.clean).tests_of(fault.path), key=lambda file: file not in self.changed)
        )
        if not files:
            return Outcome()
        deadline, outcome = time.monotonic() + limit_s, Outcome()
        for marks in (QUICK, SLOWER):
            left_s = deadline - time.monotonic()
            outcome = self._find_failure(Selection(files=files, marks=marks, limit_s=left_s), fault)
            if outcome.failed or not outcome.complete:
                break
        return outcome

    def _find_failure(self, selection: Selection, fault: Fault) -> Outcome:
        """The first failure that is the fault's. The limit counts sessions of the selection, not what confirms a failure."""
        spent_s = 0.0
        for _ in range(LEFT_OUT):
            begun = time.monotonic()
            files = tuple(file for file in selection.files if file not in self.log.unfit)
            if selection.files and not files:
                return Outcome()
            limited = replace(selection, files=files, limit_s=max(1.0, selection.limit_s - spent_s))
            outcome = self.run_tests(self.faulty, limited, fault)
            spent_s += time.monotonic() - begun
            if not outcome.failed or self._confirms(outcome.failed, selection, fault):
                return outcome
            if outcome.failed == SESSION:
                return Outcome(complete=False)
            self.log.leave_out(outcome.failed)
        return Outcome(complete=False)

    def _confirms(self, test: str, selection: Selection, fault: Fault) -> bool:
        """Whether a test passes without the fault, and fails with it once more."""
        alone = selection if test == SESSION else Selection(files=(test,), limit_s=2 * SILENCE_S)
        without = self.run_tests(self.clean, alone, fault)
        return (
            not without.failed and without.complete and bool(self.run_tests(self.faulty, alone, fault).failed)
        )

    def run_tests(self, tree: Path, selection: Selection, fault: Fault) -> Outcome:
        """One session of pytest, until its first failure."""
        output = (
            self.folder / "output" / f"{hashlib.sha256(fault.name.encode()).hexdigest()[:12]}.{tree.name}.txt"
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        spread = ["-n", str(self.jobs), "--dist", "loadgroup"] if self.jobs > 1 else []
        command = [
            *self.python,
            "-m",
            "pytest",
            "-x",
            "-v",
            "-p",
            "no:cacheprovider",
            f"--timeout={HANG_S}",
            *spread,
        ]
        command += [
            f"--basetemp={self.folder / 'tmp'}",
            *_chosen(selection, self.log.unfit),
        ]
        with output.open("wb") as file:
            session = subprocess.Popen(
                [*_alone(), *command],
                cwd=tree,
                env=_environment(tree),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            ended = _wait(session, output, selection.limit_s)
        return read_outcome(ended, session.returncode, output.read_text("utf-8", "replace"))


def _environment(tree: Path) -> dict[str, str]:
    """This process's, without settings of Hooke, and with a tree's sources first."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HOOKE_", "PYTEST_"))}
    return own | {"PYTHONPATH": str(tree / "src")}


def _alone() -> list[str]:
    """The beginning of a command that gives it processes and a network of its own, where that is allowed."""
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")):
        return []
    return [*ALONE, "sh", "-c", 'ip link set lo up; "$@"; exit $?', "sh"]


def _chosen(selection: Selection, unfit: Iterable[str]) -> list[str]:
    """The words for pytest that select tests. A file is unfit as a whole if it cannot be imported."""
    left_out = [f"--deselect={test}" if "::" in test else f"--ignore={test}" for test in unfit]
    return ["-m", selection.marks, *left_out, *selection.files]


def _wait(session: subprocess.Popen[bytes], output: Path, limit_s: float) -> str:
    """Wait for a session and all that it started: how it ended, `hung` or `out of time` where it was killed."""
    begun, ended = time.monotonic(), "exited"
    try:
        while ended == "exited" and session.poll() is None:
            time.sleep(POLL_S)
            if time.time() - output.stat().st_mtime > SILENCE_S:
                ended = "hung"
            elif time.monotonic() - begun > limit_s:
                ended = "out of time"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(session.pid, signal.SIGKILL)
        session.wait()
    return ended


def read_outcome(ended: str, code: int, text: str) -> Outcome:
    """The outcome of a session that ended so, with this exit code and output."""
    if ended == "out of time":
        return Outcome(complete=False)
    if ended == "hung":
        started = STARTED.findall(text)
        return Outcome(failed=started[-1] if started else SESSION, how="hung")
    if code in (0, NO_TESTS):
        return Outcome()
    failures = FAILED.findall(text)
    if not failures:
        return Outcome(failed=SESSION, how=f"exit code {code}")
    return Outcome(failed=failures[0], how="hung" if f"Timeout (>{HANG_S}" in text else "failed")
