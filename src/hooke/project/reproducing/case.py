"""`reproduce`: what a run was made of against what there is now, and the run made again from it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import FileLock
from hooke.base.processes import python_module
from hooke.journal.events import RunMadeOf, RunStarted, StudyStarted
from hooke.journal.made_of import MadeOf
from hooke.journal.reader import read
from hooke.journal.trials import SearchStarted
from hooke.keys.file import File
from hooke.project.belonging import start_of
from hooke.project.driving import DRIVER
from hooke.project.folder import Project
from hooke.project.outcome import view_of
from hooke.project.provenance import environment, machine
from hooke.project.provenance.git import Repository
from hooke.project.reproducing.again import ERRAND, REPORT
from hooke.project.reproducing.anchors import Anchor, Edit, changed_lines, compared, libraries
from hooke.project.reproducing.beside import run_beside
from hooke.project.reproducing.errand import Errand, Report
from hooke.project.reproducing.replayed import replay_script
from hooke.project.reproducing.reproduction import Reproduction
from hooke.project.reproducing.values import EQUAL, Tolerance
from hooke.project.running import Run

__all__ = ["Asked", "reproduce", "reproduce_in"]

TREE = "tree"
DATA = "hooke"
PREFIX = "hooke-reproduce-"
LOCK = "lock"
"""Held as long as somebody is at work in the folder."""
MOST_PLACES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody wants of a reproduction; see `reproduce`."""

    verify: bool = False
    here: bool = False
    best_effort: bool = False
    tolerance: Tolerance = field(default_factory=Tolerance)
    keep: bool = False


def reproduce(  # noqa: PLR0913 - one for each option of the command
    run: Run | str,
    *,
    verify: bool = False,
    here: bool = False,
    best_effort: bool = False,
    rtol: float = 0.0,
    atol: float = 0.0,
    keep: bool = False,
) -> Reproduction:
    """Whether a run can be made again, and, with `verify`, make it again and compare each result.

    Anchors are checked first: code, Python, each library, data files, seed, thread counts, hardware. The code is the tree
    that the run recorded, in a git worktree that is removed at the end (not with `keep`); with `here` it is the
    project's as it is now, and what was changed since is an anchor. The run has a store of its own, so that all is computed.
    An anchor that is not met ends it before the run, unless `best_effort`. A number that differs by at most
    `atol + rtol * |number|` is close enough.

    Raises UsageError where the run has no record, did not finish or is unknown; HookeError where git refuses.
    """
    if isinstance(run, Run):
        project, name = run.project, run.id
    else:
        project = Project.find(start_of())
        name = project.runs.find(run)
    asked = Asked(
        verify=verify,
        here=here,
        best_effort=best_effort,
        tolerance=Tolerance(rtol=rtol, atol=atol),
        keep=keep,
    )
    return reproduce_in(project, name, asked)


def reproduce_in(project: Project, run: str, asked: Asked) -> Reproduction:
    """As `reproduce`, of a run by its whole id."""
    begun, record = _read(project, run)
    case = _Case(project=project, begun=begun, record=record, asked=asked)
    found = Reproduction(run=run, status="checked")
    with case.code(found) as (root, tree, data):
        errand = Errand(
            run=run,
            project=str(project.root),
            root=root,
            tree=tree,
            data=str(data / DATA),
            paths=record.paths,
            seed=record.seed,
            best_effort=asked.best_effort,
            rtol=asked.tolerance.rtol,
            atol=asked.tolerance.atol,
        )
        found.anchors += case.anchors(errand)
        if not asked.verify:
            return found
        if found.unmet and not asked.best_effort:
            found.status = "unmet"
            return found
        if begun.kind == "script":
            report = replay_script(errand, begun, record)
        else:
            report = _make_again(errand, begun, data)
        _take(report, found)
    return found


def _take(report: Report, found: Reproduction) -> None:
    found.anchors += report.anchors
    found.tasks, found.outputs, found.message = report.tasks, report.outputs, report.message
    if report.status == "not run":
        found.status = "unmet"
    elif report.status != "finished":
        found.status = "failed"
    else:
        same = all(each.kind in (EQUAL, "close") for each in (*report.tasks, *report.outputs))
        found.status = "reproduced" if same else "different"


def _read(project: Project, run: str) -> tuple[RunStarted, MadeOf]:
    """How the run began the last time, and what it was made of then. Raises UsageError."""
    begun: RunStarted | None = None
    record: MadeOf | None = None
    for segment in read(project.runs.folder(run), DRIVER):
        for event in segment.events:
            if isinstance(event, RunStarted):
                begun, record = event, None
            elif isinstance(event, RunMadeOf):
                record = event.record
            elif isinstance(event, SearchStarted | StudyStarted):
                raise _no_run(run, event)
    if begun is None:
        raise UsageError(f"{run} is no run that began", next="hooke runs")
    status = view_of(project.runs, run).status
    if status != "finished":
        raise UsageError(
            f"run {run} is {status}: it has no results to compare with",
            next=f"hooke show {run}" if status == "running" else f"hooke resume {run}",
        )
    if record is None:
        raise UsageError(
            f"run {run} has no record of what it was made of",
            why="an earlier Hooke made it, or the record could not be written (its log says so)",
            mend="run it again: every run records that now",
        )
    return begun, record


def _no_run(name: str, event: SearchStarted | StudyStarted) -> UsageError:
    if isinstance(event, SearchStarted):
        return UsageError(
            f"{name} is a search, and each of its trials is a run",
            mend="name a trial's run",
            next=f"hooke show {name}",
        )
    return UsageError(
        f"{name} measured how {event.pipeline!r} scales, which is never twice the same",
        mend="measure again: hooke measure",
        next="hooke runs",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    project: Project
    begun: RunStarted
    record: MadeOf
    asked: Asked

    @contextmanager
    def code(self, found: Reproduction) -> Iterator[tuple[str, str, Path]]:
        """The repository of then, where its code lies now, and a folder for what is made; both are gone afterwards."""
        repository, restored = self._repository(), False
        _sweep(repository)
        scratch = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(scratch / LOCK)
        lock.try_acquire()
        try:
            trouble = self._why_not(repository)
            if repository is None or trouble or self.asked.here:
                found.anchors += self._code_here(repository, trouble)
                tree = self.record.root
            else:
                tree = str(scratch / TREE)
                repository.restore(self.record.tree, Path(tree))
                restored = True
                found.anchors.append(_tree_anchor(self.record.tree, self.record.tree))
                found.notes += self._since(repository)
                if self.record.left_out:
                    found.notes.append(
                        f"too large for the tree, so not restored: {', '.join(self.record.left_out)}"
                    )
                self._link_files(Path(tree))
            yield self.record.root, tree, scratch
        finally:
            if self.asked.keep:
                found.notes.append(f"kept: {scratch}")
                (scratch / LOCK).unlink()  # nobody sweeps it
            else:
                if restored and repository is not None:
                    repository.forget(scratch / TREE)
                shutil.rmtree(scratch, ignore_errors=True)
            lock.release()

    def anchors(self, errand: Errand) -> list[Anchor]:
        """All but the code's."""
        record = self.record
        now = environment.installed()
        known = environment.read_kept(self.project.data, record.environment)
        if known is None:
            found = compared("library", {"(all)": record.environment}, {"(all)": environment.digest_of(now)})
        else:
            found = libraries(known, now)
        return [
            *compared("python", record.interpreter, machine.interpreter()),
            *found,
            self._parameters(),
            *compared("threads", record.threads, machine.threads()),
            *compared("hardware", record.hardware, machine.hardware()),
            *compared("seed", {"": str(record.seed)}, {"": str(self._seed(errand))}),
            *compared("data", record.files, _files_now(record.files, errand)),
        ]

    def _parameters(self) -> Anchor:
        """Those that the run was given; the store may have evicted them."""
        words = (
            [f"{name}={value}" for name, value in self.begun.shown.items()]
            or list(self.record.argv)
            or ["none"]
        )
        was, ref = " ".join(words), self.begun.arguments
        there = ref is None or self.project.store().keep([ref]) == [True]
        mend = "" if there else "they were evicted: run the pipeline with them again"
        return Anchor(kind="parameters", name="", was=was, now=was if there else "", mend=mend)

    def _repository(self) -> Repository | None:
        here = Repository.around(self.project.root)
        return here if here is not None else Repository.around(Path(self.record.root or "/nowhere"))

    def _why_not(self, repository: Repository | None) -> str:
        """Why the recorded tree cannot be restored; empty where it can."""
        if not self.record.tree:
            return self.record.trouble or "no tree was recorded"
        if repository is None:
            return f"{self.project.root} lies in no git repository any more"
        return "" if repository.has(self.record.tree) else "git has that tree no more"

    def _code_here(self, repository: Repository | None, trouble: str) -> list[Anchor]:
        """The code of now: what differs, or that nobody can tell."""
        was = self.record.tree
        if trouble or repository is None:
            mend = "--best-effort runs the project's code as it is now" if not self.asked.here else ""
            return [Anchor(kind="code", name="tree", was=was[:12] or "not recorded", now=trouble, mend=mend)]
        now = repository.snapshot().tree
        if now == was:
            return [_tree_anchor(was, now)]
        edits = self._edits(repository, now)
        if not edits:  # of data files alone, which are anchors of their own
            return [_tree_anchor(was, was)]
        return [Anchor(kind="code", name=edit.place, was=edit.was, now=edit.now) for edit in edits]

    def _edits(self, repository: Repository, now: str) -> list[Edit]:
        """What was changed from the recorded tree to this one, but for the run's data files."""
        data = {
            str(Path(name).relative_to(self.record.root))
            for name in self.record.files
            if Path(name).is_relative_to(self.record.root)
        }
        edits = changed_lines(repository.differences(self.record.tree, now))
        return [
            edit for edit in edits if edit.place not in data and edit.place.rpartition(":")[0] not in data
        ]

    def _since(self, repository: Repository) -> list[str]:
        """A line on what was changed in the project since, which is not what runs."""
        now = repository.snapshot().tree
        places = [edit.place for edit in self._edits(repository, now)] if now != self.record.tree else []
        if not places:
            return []
        more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
        return [f"changed since, and not used here: {', '.join(places[:MOST_PLACES])}{more} (--here uses it)"]

    def _link_files(self, tree: Path) -> None:
        """Data files that git ignores are not in the tree: those that were arguments are linked to where they are."""
        for name in self.record.files:
            file = Path(name)
            if not file.is_relative_to(self.record.root) or not file.exists():
                continue
            place = tree / file.relative_to(self.record.root)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(file)

    def _seed(self, errand: Errand) -> int:
        return Project.find(errand.moved(self.project.root)).seed


def _sweep(repository: Repository | None) -> None:
    """Remove what reproductions that were killed have left."""
    left = [
        folder
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")
        if os.path.exists(folder / LOCK) and not FileLock(folder / LOCK).taken()
    ]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)  # it may be another user's
    if left and repository is not None:
        repository.prune()


def _tree_anchor(was: str, now: str) -> Anchor:
    return Anchor(kind="code", name="tree", was=was[:12], now=now[:12])


def _files_now(files: Mapping[str, str], errand: Errand) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in files:
        try:
            found[name] = File(errand.moved(Path(name))).__hooke_key__()
        except UsageError:
            found[name] = ""
    return found


def _make_again(errand: Errand, begun: RunStarted, scratch: Path) -> Report:
    (scratch / ERRAND).write_bytes(msgspec.json.encode(errand))
    folder = errand.moved(Path(begun.folder))
    code = run_beside(
        python_module("hooke.project.reproducing.again", str(scratch)),
        folder=folder if folder.is_dir() else None,
        environment=os.environ | {"HOOKE_SINKS": "none"},
    )
    try:
        return msgspec.json.decode((scratch / REPORT).read_bytes(), type=Report)
    except FileNotFoundError as error:
        raise HookeError(
            f"the process that made run {errand.run} again ended with exit code {code}",
            why="it left no report; what it printed stands above",
            mend="--keep leaves its folder, with journal and logs",
        ) from error
