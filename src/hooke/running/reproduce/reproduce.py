"""`reproduce`: checks the recorded conditions of a run, runs it again, and compares the results."""

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
from hooke.base.formats import aligned
from hooke.base.observed import absolute_path
from hooke.base.table import Printed
from hooke.journal.events import WITH_FAILURES, MadeOf, RunMadeOf, RunStarted, SearchStarted, StudyStarted
from hooke.journal.run_view import view_of
from hooke.keys.file import File
from hooke.pipeline.finished_results import StoredManifests
from hooke.processes.start import python_module
from hooke.project.folder import Project, start_of
from hooke.running import provenance
from hooke.running.git import Repository
from hooke.running.reproduce.conditions import Edit, RunCondition, changed_lines, compared, libraries
from hooke.running.reproduce.read_inputs import ReadInputs, link, link_inputs, read_conditions, read_inputs
from hooke.running.reproduce.rerun import RerunReport, RerunRequest, replay_script, run_beside
from hooke.running.reproduce.rerun_process import REPORT, REQUEST
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


# --- The outcome of a reproduction, and its report.

COUNTED = {"library": "installed distribution", "data": "file", "variable": "environment variable"}
"""Kinds of which there may be many."""
MOST_SHOWN = 20
WORDS = {
    EQUAL: "bitwise equal",
    CLOSE: "within the tolerance",
    DIFFERENT: "different",
    MISSING: "nothing to compare",
}
KINDS = ("code", "python", "library", "data", "variable", "parameters", "seed", "threads", "hardware")


@dataclass(slots=True, kw_only=True, repr=False)
class Reproduction(Printed):
    """The outcome of a reproduction. `str()` gives the report.

    `status` is `checked` (without `verify`), `unmet` (a condition differs, so nothing ran), `reproduced`, `different` or `failed`.
    """

    run: str
    status: str
    conditions: list[RunCondition] = field(default_factory=list)
    tasks: list[ResultVerdict] = field(default_factory=list)
    outputs: list[ResultVerdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    message: str = ""
    """Why the rerun failed."""

    @property
    def unmet(self) -> list[RunCondition]:
        """The conditions that differ."""
        return [condition for condition in self.conditions if not condition.met]

    def __repr__(self) -> str:
        return f"Reproduction({self.run!r}, {self.status}: {len(self.unmet)} of {len(self.conditions)} conditions differ)"

    def __str__(self) -> str:
        return _text_of(self)

    def facts(self) -> dict[str, Any]:
        """The report as plain values, for `--json`."""
        return {
            "run": self.run,
            "status": self.status,
            "anchors": [
                msgspec.to_builtins(condition) | {"met": condition.met} for condition in self.conditions
            ],
            "tasks": [_verdict_facts(each) for each in self.tasks],
            "outputs": [_verdict_facts(each) for each in self.outputs],
            "notes": self.notes,
            "message": self.message or None,
        }


def _text_of(found: Reproduction) -> str:
    return "\n".join(
        [
            f"run {found.run}",
            "",
            *_condition_lines(found.conditions),
            *_note_lines(found),
            *_result_lines(found),
        ]
    )


def _verdict_facts(each: ResultVerdict) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(each)
    return facts | {"kind": each.kind}


def _condition_lines(conditions: Sequence[RunCondition]) -> Iterator[str]:
    yield "conditions"
    for kind in dict.fromkeys((*KINDS, *(condition.kind for condition in conditions))):
        mine = [condition for condition in conditions if condition.kind == kind]
        unmet = [condition for condition in mine if not condition.met]
        if not unmet:
            yield f"  {kind:<10} {_as_it_was(kind, mine)}"
        for condition in unmet[:MOST_SHOWN]:
            fix = f"  ({condition.fix})" if condition.fix else ""
            name = f"{condition.name}: " if condition.name else ""
            was, now = (_short(condition, text) or "missing" for text in (condition.was, condition.now))
            yield f"  {kind:<10} DIFFERS  {name}{was} -> {now}{fix}"
        if len(unmet) > MOST_SHOWN:
            yield f"  {'':<10} and {len(unmet) - MOST_SHOWN} more; --json lists all"


def _short(condition: RunCondition, text: str) -> str:
    is_digest = condition.kind == "data" and condition.name.startswith("/") and " " not in text
    return text[:8] if is_digest else text


def _as_it_was(kind: str, conditions: Sequence[RunCondition]) -> str:
    if not conditions:
        return {
            "threads": "as it was: no variable set",
            "data": "as it was: no file",
            "variable": "as it was: none was read",
        }.get(kind, "nothing recorded")
    if kind in COUNTED:
        what = COUNTED[kind]
        return f"as it was: {len(conditions)} {what}{'s' * (len(conditions) != 1)}"
    return "as it was: " + ", ".join(condition.was for condition in conditions if condition.was)


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
            _differ(unmet)
            if unmet
            else "all conditions are unchanged; --verify runs it again and compares the results"
        )
    elif found.status == "unmet":
        yield f"not run again: {_differ(unmet)}; --best-effort runs it anyway"
    elif found.status == "failed":
        yield f"the rerun failed: {found.message}"
    else:
        worst = [each.first for each in (*found.tasks, *found.outputs) if each.first]
        yield from (f"  {line}" for line in worst[:MOST_SHOWN])
        kinds = {each.kind for each in (*found.tasks, *found.outputs)}
        yield _sentence(found.status, kinds) + (
            f", although {_differ(unmet)}" if unmet and found.status == "reproduced" else ""
        )


def _differ(unmet: int) -> str:
    return "1 condition differs" if unmet == 1 else f"{unmet} conditions differ"


def _sentence(status: str, kinds: set[str]) -> str:
    if status == "reproduced":
        return "reproduced: all results are " + (WORDS[CLOSE] if CLOSE in kinds else WORDS[EQUAL])
    if DIFFERENT in kinds:
        return "not reproduced: results differ"
    return "not reproduced: some results have " + WORDS[MISSING]


TREE = "tree"
DATA = "hooke"
PREFIX = "hooke-reproduce-"
LOCK = "lock"
"""Held while a process uses the folder."""
MOST_PLACES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions:
    """Options of `reproduce`."""

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
    """Check whether a run can be reproduced; with `verify`, run it again and compare each result.

    First the recorded conditions are checked: code, Python, each library, data files, files and environment variables that tasks read
    without declaring them, seed, thread counts, hardware. The code
    is the recorded tree, restored in a git worktree that is removed at the end (unless `keep`). With `here` it is the project's
    current code, and each change since is a condition that differs. The rerun has its own store, so everything is computed.
    If a condition differs, nothing runs, unless `best_effort`. A number that differs by at most
    `atol + rtol * |number|` counts as close.

    Raises UsageError if the run is unknown, did not finish or has no record; HookeError if git fails.
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
    """`reproduce` for a run's full id."""
    begun, record = _read(project, run)
    manifests = StoredManifests(project.store(), project.inputs_now())
    read = read_inputs(project.runs.events(run), manifests)
    case = _Case(project=project, begun=begun, record=record, read=read, asked=asked)
    found = Reproduction(run=run, status="checked", notes=[*read.notes])
    with case.code(found) as (root, tree, data):
        request = RerunRequest(
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
        found.conditions += case.conditions(request)
        if not asked.verify:
            return found
        if found.unmet and not asked.best_effort:
            found.status = "unmet"
            return found
        if begun.kind == "script":
            report = replay_script(request, begun, record)
        else:
            report = _rerun(request, begun, data)
        _take(report, found)
    return found


def _take(report: RerunReport, found: Reproduction) -> None:
    found.conditions += report.conditions
    found.tasks, found.outputs, found.message = report.tasks, report.outputs, report.message
    if report.status == "not run":
        found.status = "unmet"
    elif report.status != "finished":
        found.status = "failed"
    else:
        same = all(each.kind in (EQUAL, "close") for each in (*report.tasks, *report.outputs))
        found.status = "reproduced" if same else "different"


def _read(project: Project, run: str) -> tuple[RunStarted, MadeOf]:
    """The run's last start, and its provenance. Raises UsageError."""
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
        raise UsageError(f"run {run} never started", next="hooke runs")
    status = view_of(project.runs, run).status
    if status != "finished":
        raise UsageError(
            f"run {run} is {status}, so it has no {'complete ' if status == WITH_FAILURES else ''}results to compare",
            next=f"hooke show {run}" if status == "running" else f"hooke resume {run}",
        )
    if record is None:
        raise UsageError(
            f"run {run} has no record of its provenance",
            why="an older Hooke made the run, or the record could not be written (then its log says so)",
            fix="run the pipeline again",
        )
    return begun, record


def _no_run(name: str, event: SearchStarted | StudyStarted) -> UsageError:
    if isinstance(event, SearchStarted):
        return UsageError(
            f"{name} is a search; only its trials can be reproduced",
            fix="give the run id of a trial",
            next=f"hooke show {name}",
        )
    return UsageError(
        f"{name} is a scaling study of {event.pipeline!r}; measured times cannot be reproduced",
        fix="measure again with hooke measure",
        next="hooke runs",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    project: Project
    begun: RunStarted
    record: MadeOf
    read: ReadInputs
    """What its tasks read without declaring it."""
    asked: ReproduceOptions

    @contextmanager
    def code(self, found: Reproduction) -> Iterator[tuple[str, str, Path]]:
        """Yields the run's repository, the folder of its code now, and a scratch folder. Worktree and scratch folder are removed at the end."""
        repository, restored = self._repository(), False
        _sweep(repository)
        scratch = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(scratch / LOCK)
        lock.try_acquire()
        try:
            trouble = self._why_not(repository)
            if repository is None or trouble or self.asked.here:
                found.conditions += self._code_here(repository, trouble)
                tree = self.record.root
            else:
                tree = str(scratch / TREE)
                repository.restore(self.record.tree, Path(tree))
                restored = True
                found.conditions.append(_tree_condition(self.record.tree, self.record.tree))
                found.notes += self._since(repository)
                if self.record.left_out:
                    found.notes.append(
                        f"not restored, because too large for the tree: {', '.join(self.record.left_out)}"
                    )
                self._link_files(Path(tree))
            yield self.record.root, tree, scratch
        finally:
            if self.asked.keep:
                found.notes.append(f"kept: {scratch}")
                (scratch / LOCK).unlink()  # so that _sweep leaves it
            else:
                if restored and repository is not None:
                    repository.forget(scratch / TREE)
                shutil.rmtree(scratch, ignore_errors=True)
            lock.release()

    def conditions(self, request: RerunRequest) -> list[RunCondition]:
        """All conditions but those of the code."""
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
            *compared("seed", {"": str(record.seed)}, {"": str(self._seed(request))}),
            *compared("data", record.files, _files_now(record.files, request)),
            *read_conditions(
                self.read,
                root=self.project.root,
                moved=request.moved,
                environment=os.environ,
                secret=self.project.secret(),
            ),
        ]

    def _parameters(self) -> RunCondition:
        """The run's parameters, which the store may have evicted."""
        words = (
            [f"{name}={value}" for name, value in self.begun.shown.items()]
            or list(self.record.argv)
            or ["none"]
        )
        was, ref = " ".join(words), self.begun.arguments
        there = ref is None or self.project.store().keep([ref]) == [True]
        fix = "" if there else "the parameters were evicted: run the pipeline with them again"
        return RunCondition(kind="parameters", name="", was=was, now=was if there else "", fix=fix)

    def _repository(self) -> Repository | None:
        here = Repository.around(self.project.root)
        return here if here is not None else Repository.around(Path(self.record.root or "/nowhere"))

    def _why_not(self, repository: Repository | None) -> str:
        """Why the recorded tree cannot be restored; empty if it can."""
        if not self.record.tree:
            return self.record.trouble or "no tree was recorded"
        if repository is None:
            return f"{self.project.root} is no longer in a git repository"
        return "" if repository.has(self.record.tree) else "git no longer has the recorded tree"

    def _code_here(self, repository: Repository | None, trouble: str) -> list[RunCondition]:
        """The conditions of the current code: its edits, or that the recorded tree is unknown."""
        was = self.record.tree
        if trouble or repository is None:
            fix = "--best-effort runs the project's code as it is now" if not self.asked.here else ""
            return [
                RunCondition(kind="code", name="tree", was=was[:12] or "not recorded", now=trouble, fix=fix)
            ]
        now = repository.snapshot().tree
        if now == was:
            return [_tree_condition(was, now)]
        edits = self._edits(repository, now)
        if not edits:  # only data files changed, which are conditions of their own
            return [_tree_condition(was, was)]
        return [RunCondition(kind="code", name=edit.place, was=edit.was, now=edit.now) for edit in edits]

    def _edits(self, repository: Repository, now: str) -> list[Edit]:
        """The changes from the recorded tree to `now`, without the run's data files."""
        read = [
            absolute_path(each.name, self.project.root) for each in self.read.inputs if each.kind == "file"
        ]
        data = {
            str(Path(name).relative_to(self.record.root))
            for name in (*self.record.files, *read)
            if Path(name).is_relative_to(self.record.root)
        }
        edits = changed_lines(repository.differences(self.record.tree, now))
        return [
            edit for edit in edits if edit.place not in data and edit.place.rpartition(":")[0] not in data
        ]

    def _since(self, repository: Repository) -> list[str]:
        """A note on what changed in the project since; the recorded tree runs, not these changes."""
        now = repository.snapshot().tree
        places = [edit.place for edit in self._edits(repository, now)] if now != self.record.tree else []
        if not places:
            return []
        more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
        return [
            f"changed since the run, and not used: {', '.join(places[:MOST_PLACES])}{more} (--here uses them)"
        ]

    def _link_files(self, tree: Path) -> None:
        """Link the files that the run read into the tree, which lacks those that git ignores."""
        top = Path(self.record.root)

        def moved(path: Path) -> Path:
            return tree / path.relative_to(top)

        for name in self.record.files:
            if Path(name).is_relative_to(top):
                link(Path(name), moved(Path(name)))
        link_inputs(self.read, root=self.project.root, top=top, moved=moved)

    def _seed(self, request: RerunRequest) -> int:
        return Project.at(request.moved(self.project.root)).seed


def _sweep(repository: Repository | None) -> None:
    """Remove the folders of reproductions that were killed."""
    left = [
        folder
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")
        if os.path.exists(folder / LOCK) and not FileLock(folder / LOCK).taken()
    ]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)  # it may belong to another user
    if left and repository is not None:
        repository.prune()


def _tree_condition(was: str, now: str) -> RunCondition:
    return RunCondition(kind="code", name="tree", was=was[:12], now=now[:12])


def _files_now(files: Mapping[str, str], request: RerunRequest) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in files:
        try:
            found[name] = File(request.moved(Path(name))).__hooke_key__()
        except UsageError:
            found[name] = ""
    return found


def _rerun(request: RerunRequest, begun: RunStarted, scratch: Path) -> RerunReport:
    (scratch / REQUEST).write_bytes(msgspec.json.encode(request))
    folder = request.moved(Path(begun.folder))
    code = run_beside(
        python_module("hooke.running.reproduce.rerun_process", str(scratch)),
        folder=folder if folder.is_dir() else None,
        environment=os.environ | {"HOOKE_SINKS": "none"},
    )
    try:
        return msgspec.json.decode((scratch / REPORT).read_bytes(), type=RerunReport)
    except FileNotFoundError as error:
        raise HookeError(
            f"the process that reran {request.run} ended with exit code {code}",
            why="it wrote no report; its output is above",
            fix="use --keep to keep its folder, with journal and logs",
        ) from error
