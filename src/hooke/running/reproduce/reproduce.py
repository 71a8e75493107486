"""`reproduce`: what a run was made of against what there is now, and the run made again from it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import FileLock
from hooke.journal.events import MadeOf, RunMadeOf, RunStarted, SearchStarted, StudyStarted
from hooke.journal.run_table import aligned
from hooke.journal.run_view import view_of
from hooke.keys.file import File
from hooke.processes.start import python_module
from hooke.project.folder import Project, start_of
from hooke.running import provenance
from hooke.running.git import Repository
from hooke.running.reproduce.again import ERRAND, REPORT
from hooke.running.reproduce.child_runs import Errand, RerunReport, replay_script, run_beside
from hooke.running.reproduce.conditions import Anchor, Edit, changed_lines, compared, libraries
from hooke.running.reproduce.result_comparison import (
    CLOSE,
    DIFFERENT,
    EQUAL,
    MISSING,
    ResultVerdict,
    Tolerance,
)
from hooke.running.run import Run

__all__ = ["ReproduceOptions", "Reproduction", "reproduce", "reproduce_in"]


# --- What came of a reproduction, and its text: which anchors hold, what differs and from where on.

MOST_SHOWN = 20
WORDS = {
    EQUAL: "bitwise equal",
    CLOSE: "within the tolerance",
    DIFFERENT: "different",
    MISSING: "nothing to compare",
}
KINDS = ("code", "python", "library", "data", "parameters", "seed", "threads", "hardware")


@dataclass(slots=True, kw_only=True)
class Reproduction:
    """What came of it. `str()` of it is the report.

    `status`: `checked` (no `verify`), `unmet` (stopped before the run), `reproduced`, `different`, or `failed`.
    """

    run: str
    status: str
    anchors: list[Anchor] = field(default_factory=list)
    tasks: list[ResultVerdict] = field(default_factory=list)
    outputs: list[ResultVerdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    message: str = ""
    """Why it failed."""

    @property
    def unmet(self) -> list[Anchor]:
        """The anchors that are not as they were."""
        return [anchor for anchor in self.anchors if not anchor.met]

    def __str__(self) -> str:
        return _text_of(self)

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for `--json`."""
        return {
            "run": self.run,
            "status": self.status,
            "anchors": [msgspec.to_builtins(anchor) | {"met": anchor.met} for anchor in self.anchors],
            "tasks": [_verdict_facts(each) for each in self.tasks],
            "outputs": [_verdict_facts(each) for each in self.outputs],
            "notes": self.notes,
            "message": self.message or None,
        }


def _text_of(found: Reproduction) -> str:
    return "\n".join(
        [f"run {found.run}", "", *_anchor_lines(found.anchors), *_note_lines(found), *_result_lines(found)]
    )


def _verdict_facts(each: ResultVerdict) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(each)
    return facts | {"kind": each.kind}


def _anchor_lines(anchors: Sequence[Anchor]) -> Iterator[str]:
    yield "anchors"
    for kind in dict.fromkeys((*KINDS, *(anchor.kind for anchor in anchors))):
        mine = [anchor for anchor in anchors if anchor.kind == kind]
        unmet = [anchor for anchor in mine if not anchor.met]
        if not unmet:
            yield f"  {kind:<10} {_as_it_was(kind, mine)}"
        for anchor in unmet[:MOST_SHOWN]:
            fix = f"  ({anchor.fix})" if anchor.fix else ""
            name = f"{anchor.name}: " if anchor.name else ""
            was, now = (_short(anchor, text) or "not there" for text in (anchor.was, anchor.now))
            yield f"  {kind:<10} DIFFERS  {name}{was} -> {now}{fix}"
        if len(unmet) > MOST_SHOWN:
            yield f"  {'':<10} and {len(unmet) - MOST_SHOWN} more: --json has all"


def _short(anchor: Anchor, text: str) -> str:
    return text[:8] if anchor.kind == "data" and anchor.name.startswith("/") else text


def _as_it_was(kind: str, anchors: Sequence[Anchor]) -> str:
    if not anchors:
        return {"threads": "as it was: no variable set", "data": "as it was: no file"}.get(
            kind, "nothing recorded"
        )
    if kind in ("library", "data"):
        what = {"library": "installed distribution", "data": "file"}[kind]
        return f"as it was: {len(anchors)} {what}{'s' * (len(anchors) != 1)}"
    return "as it was: " + ", ".join(anchor.was for anchor in anchors if anchor.was)


def _note_lines(found: Reproduction) -> Iterator[str]:
    for note in found.notes:
        yield f"  note: {note}"


def _result_lines(found: Reproduction) -> Iterator[str]:
    for title, verdicts in (("tasks", found.tasks), ("outputs", found.outputs)):
        if verdicts:
            yield ""
            rows = [_cells(each) for each in verdicts]
            yield from aligned(
                (title, "items", "equal", "close", "different", "missing", ""), rows, right=range(1, 6)
            )
    yield ""
    yield from _ending(found)


def _cells(each: ResultVerdict) -> tuple[str, ...]:
    counts = (each.items, each.equal, each.close, each.different, each.missing)
    return (
        each.name,
        *(f"{count:,}" if count else "" for count in counts),
        "differs from here on" if each.begins else "",
    )


def _ending(found: Reproduction) -> Iterator[str]:
    unmet = len(found.unmet)
    if found.status == "checked":
        yield (
            f"{unmet} anchors differ"
            if unmet
            else "all anchors are as they were; --verify runs it again and compares"
        )
    elif found.status == "unmet":
        yield f"not run again: {_differ(unmet)}; --best-effort runs it all the same"
    elif found.status == "failed":
        yield f"it could not be made again: {found.message}"
    else:
        worst = [each.first for each in (*found.tasks, *found.outputs) if each.first]
        yield from (f"  {line}" for line in worst[:MOST_SHOWN])
        kinds = {each.kind for each in (*found.tasks, *found.outputs)}
        yield _sentence(found.status, kinds) + (
            f", though {_differ(unmet)}" if unmet and found.status == "reproduced" else ""
        )


def _differ(unmet: int) -> str:
    return "1 anchor differs" if unmet == 1 else f"{unmet} anchors differ"


def _sentence(status: str, kinds: set[str]) -> str:
    if status == "reproduced":
        return "reproduced: all results are " + (WORDS[CLOSE] if CLOSE in kinds else WORDS[EQUAL])
    if DIFFERENT in kinds:
        return "not reproduced: results are different"
    return "not reproduced: of some results there is " + WORDS[MISSING]


TREE = "tree"
DATA = "hooke"
PREFIX = "hooke-reproduce-"
LOCK = "lock"
"""Held as long as somebody is at work in the folder."""
MOST_PLACES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions:
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
    asked = ReproduceOptions(
        verify=verify,
        here=here,
        best_effort=best_effort,
        tolerance=Tolerance(rtol=rtol, atol=atol),
        keep=keep,
    )
    return reproduce_in(project, name, asked)


def reproduce_in(project: Project, run: str, asked: ReproduceOptions) -> Reproduction:
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


def _take(report: RerunReport, found: Reproduction) -> None:
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
    for event in project.runs.events(run):
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
            fix="run it again: every run records that now",
        )
    return begun, record


def _no_run(name: str, event: SearchStarted | StudyStarted) -> UsageError:
    if isinstance(event, SearchStarted):
        return UsageError(
            f"{name} is a search, and each of its trials is a run",
            fix="name a trial's run",
            next=f"hooke show {name}",
        )
    return UsageError(
        f"{name} measured how {event.pipeline!r} scales, which is never twice the same",
        fix="measure again: hooke measure",
        next="hooke runs",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    project: Project
    begun: RunStarted
    record: MadeOf
    asked: ReproduceOptions

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
        now = provenance.installed()
        known = provenance.read_kept(self.project.data, record.environment)
        if known is None:
            found = compared("library", {"(all)": record.environment}, {"(all)": provenance.digest_of(now)})
        else:
            found = libraries(known, now)
        return [
            *compared("python", record.interpreter, provenance.interpreter()),
            *found,
            self._parameters(),
            *compared("threads", record.threads, provenance.threads()),
            *compared("hardware", record.hardware, provenance.hardware()),
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
        fix = "" if there else "they were evicted: run the pipeline with them again"
        return Anchor(kind="parameters", name="", was=was, now=was if there else "", fix=fix)

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
            fix = "--best-effort runs the project's code as it is now" if not self.asked.here else ""
            return [Anchor(kind="code", name="tree", was=was[:12] or "not recorded", now=trouble, fix=fix)]
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


def _make_again(errand: Errand, begun: RunStarted, scratch: Path) -> RerunReport:
    (scratch / ERRAND).write_bytes(msgspec.json.encode(errand))
    folder = errand.moved(Path(begun.folder))
    code = run_beside(
        python_module("hooke.running.reproduce.again", str(scratch)),
        folder=folder if folder.is_dir() else None,
        environment=os.environ | {"HOOKE_SINKS": "none"},
    )
    try:
        return msgspec.json.decode((scratch / REPORT).read_bytes(), type=RerunReport)
    except FileNotFoundError as error:
        raise HookeError(
            f"the process that made run {errand.run} again ended with exit code {code}",
            why="it left no report; what it printed stands above",
            fix="--keep leaves its folder, with journal and logs",
        ) from error
