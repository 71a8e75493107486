"""Runs calls of earlier runs again: one in this process, to debug it; a random sample in fresh workers, to audit the cache."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.errors import CorruptObject, HookeError, MissingObject, UsageError
from hooke.base.formats import first_line, format_seconds
from hooke.base.ref import FileRef, Ref
from hooke.journal.events import AttemptFailed, AttemptFinished, ItemsFound, ItemsSkipped, RunMadeOf
from hooke.journal.run_view import RunView, view_of
from hooke.keys.file import files_loaded
from hooke.keys.fingerprint import item_keys
from hooke.keys.fingerprint_parts import CHANCE, UNKEYED_WORDS, expansion_key, unkeyed_uses
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.engine import Call, EngineContext
from hooke.pipeline.file_results import FileResults
from hooke.pipeline.finished_results import Recovered, StoredManifests, recover
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import Submit
from hooke.pipeline.references import unpack
from hooke.pipeline.run_state import RunState
from hooke.processes.devices import cpus_here, devices_of_this_machine
from hooke.project.backends import BackendChoice, open_engine
from hooke.project.folder import Project
from hooke.running import provenance
from hooke.running.driver import plan_of
from hooke.running.reproduce.conditions import compared, libraries
from hooke.running.reproduce.result_comparison import EQUAL, LoadedResult, compare_results
from hooke.running.resume import reopen
from hooke.store.checkpoints import copied_checkpoint
from hooke.store.entries import Entry
from hooke.store.store import Store

__all__ = ["AuditReport", "AuditedResult", "Replay", "audit", "replay", "share_interval"]


# --- An earlier run, traced again.


@dataclass(slots=True, kw_only=True)
class _TracedRun:
    """An earlier run, traced again with the current code, with the results that its journal has."""

    view: RunView
    keys: GraphKeys
    state: RunState
    calls: CallMaker
    recovered: Recovered

    @classmethod
    def read(
        cls, project: Project, run: str, store: Store, *, into: Store, as_ended: bool = False
    ) -> _TracedRun:
        """The run, traced anew. Large arguments of its calls are stored in `into`; `as_ended` includes lists without their failed items.

        Raises UsageError, TraceError, and what the pipeline's body raises.
        """
        driver = reopen(project, run)
        keys = GraphKeys(driver.graph, run=run, seed=driver.seed)
        plans = [plan_of(node, {}, repeatable=False) for node in driver.graph.nodes]
        state = RunState(driver.graph, plans)
        past = cls(
            view=view_of(project.runs, run),
            keys=keys,
            state=state,
            calls=CallMaker(driver.graph, keys, state, into),
            recovered=recover(project.runs.events(run), tainted=as_ended),
        )
        past._restore(store)
        if as_ended:
            past._leave_out()
        return past

    def _restore(self, store: Store) -> None:
        for node in range(len(self.state.nodes)):
            known = self.recovered.known.get(self.keys[node].key)
            if known is None:
                continue
            if known.expansion is not None and self.state.nodes[node].items is None:
                self.state.apply(known.expansion)
                self.calls.expanded(known.expansion)
            if known.expansion is not None and known.expansion.keys is not None:
                self.keys.expanded(node, store.get(known.expansion.keys))
            for lo, hi, ref, start in known.segments:
                self.state.apply(_found(node, lo, hi, ref, start))

    def _leave_out(self) -> None:
        """Items that the run left out of lists are left out again."""
        for number, node in self.view.nodes.items():
            if (
                number < len(self.state.nodes)
                and self.keys[number].key == node.planned.key
                and self.state.graph.nodes[number].partial
            ):
                for lo, hi in (*node.failed, *node.skipped):
                    self.state.apply(ItemsSkipped(node=number, lo=lo, hi=hi, parent=number))


def _found(node: int, lo: int, hi: int, ref: Ref, start: int) -> ItemsFound:
    return ItemsFound(node=node, lo=lo, hi=hi, ref=ref, start=start, source="journal")


def _missing(state: RunState, node: int, lo: int) -> list[str]:
    """The tasks whose results this item needs and the run lacks."""
    missing = []
    for need in state.nodes[node].needs:
        parent = state.nodes[need.node]
        item = lo if need.elementwise else need.item
        there = parent.complete if item is None else parent.done.items.contains(item, item + 1)
        if not there:
            missing.append(parent.node.task.name)
    return missing


# --- One call, for debugging.


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A call to repeat: `function(*args, **kwargs)`. `shown` is the call as text."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shown: str
    checkpoints: Callable[[], AbstractContextManager[None]]
    """To surround the call: then its checkpoint folder is a copy."""


def replay(project: Project, run: str, task: str, *, item: int | None = None) -> Replay:
    """The call of `task` that failed in `run`, or that of `item`; the first call if none failed.

    The code is the current one; the inputs are those of the run. Raises UsageError if the run has no such task
    or item, or if an input is missing (its task never ran, was edited since, the result was evicted, or something else has
    written to its file).
    """
    store = project.store()
    past = _TracedRun.read(project, run, store, into=store, as_ended=True)
    node, lo = _which(past, run, task, item)
    if missing := _missing(past.state, node, lo):
        raise UsageError(
            f"inputs of {task} are missing: {', '.join(missing)}",
            where=f"run {run}",
            why="these tasks did not finish, or their code was edited since",
            next=f"hooke resume {run}",
        )
    call = past.calls.make(Submit(0, node, lo, lo + 1, 1))
    with files_loaded(project.root) as files:
        args, kwargs = _arguments(call.kind, call.payload, store)
    FileResults(project.root, store).provide(files)
    owner, key = call.checkpoints, call.keys
    if owner is not None and owner.item:
        key = item_keys(key, label=owner.recipe)
    return Replay(
        function=call.image.function,
        args=args,
        kwargs=kwargs,
        shown=f"{task}({call.shown})",
        checkpoints=lambda: (
            nullcontext() if owner is None else copied_checkpoint(store.checkpoints, owner, key)
        ),
    )


def _which(past: _TracedRun, run: str, task: str, item: int | None) -> tuple[int, int]:
    """The node and item of the task's failure, else of its first node."""
    view = past.view
    nodes = [number for number, node in view.nodes.items() if node.planned.task == task]
    if not nodes:
        raise UsageError(f"run {run} has no task {task!r}", fix=f"its tasks: {', '.join(view.tasks)}")
    failed = [number for number in nodes if view.nodes[number].failure is not None]
    node = (failed or nodes)[0]
    failure = view.nodes[node].failure
    lo = item if item is not None else (failure.lo + failure.done if failure is not None else 0)
    items = past.state.nodes[node].items
    if items is not None and not 0 <= lo < items:
        raise UsageError(f"{task} has no item {lo}", fix=f"valid: 0 to {items - 1}")
    return node, lo


def _arguments(kind: str, payload: bytes, store: Store) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if kind == "call":
        args, kwargs = unpack(payload, store)
        return tuple(args), kwargs
    constants, columns = unpack(payload, store)
    layout, items = unpack(columns, store)
    (row,) = items if layout == "rows" else zip(*items, strict=True)
    return tuple(row), unpack(constants, store)


# --- The audit: a random sample of the stored results, computed again in fresh workers, and compared by content.

DIFFERS, FAILED = "different", "failed"


def share_interval(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `count` in `of` were seen, by Wilson's score (1927); (0, 1) if none were seen."""
    from scipy.stats import binomtest  # half a second that a debugger need not wait

    if not of:
        return 0.0, 1.0
    low, high = binomtest(count, of).proportion_ci(confidence_level=0.95, method="wilson")
    return float(low), float(high)


class AuditedResult(msgspec.Struct, frozen=True, kw_only=True):
    """A stored result that was computed again. `outcome` is `equal`, `different`, or `failed`: the repetition raised or died."""

    task: str
    call: str
    """The call as text; with the number of the item, if it is one of a map."""
    key: str
    """The key under which the store has it; of a map, the key of all its items."""
    run: str
    """The run that computed it."""
    outcome: str
    difference: str = ""
    """Where the two results differ, or how the repetition failed."""
    causes: tuple[str, ...] = ()
    """What may have made the difference."""


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an audit. `str()` gives the report."""

    seed: int
    """Of the choice: with this seed, the same store gives the same sample."""
    stored: int
    """The number of results in the store, each map as one."""
    results: tuple[AuditedResult, ...] = ()
    skipped: dict[str, int] = {}
    """Reason -> the number of chosen results that could not be computed again, and were replaced by others."""

    @property
    def differing(self) -> tuple[AuditedResult, ...]:
        """The results whose repetition gave another value, or failed."""
        return tuple(each for each in self.results if each.outcome != EQUAL)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share of results that differ, among those that can be computed again."""
        return share_interval(len(self.differing), len(self.results))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for each in self.differing:
            yield f"{each.call}: {each.outcome}"
            yield f"    {each.difference}"
            yield from (f"    {cause}" for cause in each.causes)
            yield f"    stored by run {each.run} under {each.key[:12]}"
        for reason, count in self.skipped.items():
            yield f"not computed again: {count}, because {reason}"
        count, of, (low, high) = len(self.differing), len(self.results), self.interval
        share = f"{100 * count / of:.3g} %" if of else "nothing"
        yield (
            f"computed {of} of {self.stored} stored results again, and {count or 'none'} {'differ' if count != 1 else 'differs'}: "
            f"{share}, with 95 % confidence {100 * low:.2g} % to {100 * high:.2g} % (--seed {self.seed})"
        )


def audit(
    project: Project,
    *,
    sample: int = 20,
    seed: int | None = None,
    task: str = "",
    say: Callable[[str], None] = lambda _line: None,
) -> AuditReport:
    """Compute `sample` stored results again, chosen at random, in fresh workers on this machine, and compare them by content.

    Of a map, one item is chosen. The code is the current one, so only results that it would use are chosen, and of these only
    those whose inputs are stored. The store stays as it is, and the files of results are put back; whatever else a task writes, it
    writes again. What differs is computed once more, which tells chance from an input that changed. `say` gets a line before the
    work begins, and one for each result whose files could not be put back.

    Raises UsageError if the store has no result (of `task`), or none that can be computed again.
    """
    seed = random.SystemRandom().getrandbits(31) if seed is None else seed
    store = project.store()
    results: dict[str, list[Entry]] = {}
    manifests = StoredManifests(store, project.inputs_now())
    for entry in store.entries():
        if entry.made_from is None or manifests.hold(entry.made_from):
            results.setdefault(entry.key, []).append(entry)
    if task:
        results = {key: entries for key, entries in results.items() if entries[0].task == task}
    if not results:
        raise UsageError(
            f"{store.place} has no results" + (f" of a task {task!r}" if task else ""), next="hooke cache ls"
        )
    with tempfile.TemporaryDirectory(prefix="hooke-audit-") as folder:
        made = _Audit(project=project, store=store, folder=Path(folder), chance=random.Random(seed))  # noqa: S311 - no secret
        return made.audit(results, sample, seed, say)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """A stored result: element `index` of the list `ref` if it is an item of a map (`index` is None for a call)."""

    entry: Entry
    past: _TracedRun
    node: int
    call: Call
    index: int | None
    shown: str
    files: tuple[FileRef, ...]
    """Those that it reads, and those that it writes, as they are stored."""


class _NotAgainError(Exception):
    """Why a result cannot be computed again."""


class _NoResultError(Exception):
    """The entry is no task's result, but the list of a dynamic map."""


@dataclass(slots=True, kw_only=True)
class _Audit:
    project: Project
    store: Store
    folder: Path
    chance: random.Random
    scratch: Store = field(init=False)
    """Copies of the inputs, and the new results."""
    _files: FileResults = field(init=False)
    pasts: dict[str, _TracedRun | _NotAgainError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scratch = Store.open(self.folder / "store", secret=self.project.secret(), durable="none")
        self._files = FileResults(self.project.root, self.scratch)

    def audit(
        self, results: dict[str, list[Entry]], sample: int, seed: int, say: Callable[[str], None]
    ) -> AuditReport:
        skipped: Counter[str] = Counter()
        chosen, lists = self._choose(results, sample, skipped)
        if not chosen:
            raise UsageError(
                f"none of the {len(results)} stored results can be computed again",
                why="; ".join(f"{count}: {reason}" for reason, count in skipped.items()),
                fix="run the pipeline, then audit what it stored",
            )
        work = sum(each.entry.seconds / (each.entry.items or 1) for each in chosen)
        what = "1 result" if len(chosen) == 1 else f"{len(chosen)} results"
        say(f"computing {what} again, which took {format_seconds(work)}")
        verdicts = tuple(self._verdicts(chosen, skipped))
        for each in chosen:
            try:
                self._files.provide_stored(each.files)
            except HookeError as error:
                say(f"the files of {each.shown} could not be put back: {first_line(str(error))}")
        return AuditReport(
            seed=seed, stored=len(results) - lists, results=verdicts, skipped=dict(skipped.most_common())
        )

    # -- the choice ------------------------------------------------------------------------------------

    def _choose(
        self, results: dict[str, list[Entry]], sample: int, skipped: Counter[str]
    ) -> tuple[list[_Chosen], int]:
        """The sample, and how many entries are no results but lists of dynamic maps, as far as they were looked at."""
        keys, lists = sorted(results), 0
        self.chance.shuffle(keys)
        chosen: list[_Chosen] = []
        for key in keys:
            if len(chosen) == sample:
                break
            (entry,) = self.chance.choices(results[key], [each.items or 1 for each in results[key]])
            try:
                chosen.append(self._prepared(entry, len(chosen) + 1))
            except _NoResultError:
                lists += 1
            except _NotAgainError as error:
                skipped[str(error)] += 1
        return chosen, lists

    def _past(self, run: str) -> _TracedRun:
        """The run. Raises _NotAgainError if it cannot be read or traced."""
        if run not in self.pasts:
            try:
                self.pasts[run] = _TracedRun.read(self.project, run, self.store, into=self.scratch)
            except HookeError as error:
                self.pasts[run] = _NotAgainError(f"of run {run}: {first_line(str(error))}")
            except Exception as error:  # noqa: BLE001 - whatever the pipeline's body raises
                self.pasts[run] = _NotAgainError(
                    f"of run {run}: its pipeline raised {type(error).__name__}: {error}"
                )
        past = self.pasts[run]
        if isinstance(past, _NotAgainError):
            raise past
        return past

    def _prepared(self, entry: Entry, attempt: int) -> _Chosen:
        past = self._past(entry.run)
        node, lo, index = self._find(past, entry)
        _check_fits(past.state, node)
        if past.state.nodes[node].plan.least_ranks:
            raise _NotAgainError("its result depends on how many ranks its gang had, and when")
        if missing := _missing(past.state, node, lo):
            raise _NotAgainError(f"the results of {', '.join(missing)}, which it reads, are gone")
        try:
            call = past.calls.make(Submit(attempt, node, lo, lo + 1, 1))
            written = [file for file in entry.ref.files if index in (None, file.item)]
            files = (*past.calls.files, *written)
            self._lend(past, node, lo, call)
            self._lend_files(files)
        except MissingObject:
            raise _NotAgainError("results that it reads were evicted") from None
        except HookeError as error:
            raise _NotAgainError(first_line(str(error))) from error
        where = "" if index is None else f"[{lo}]"
        return _Chosen(
            entry=entry,
            past=past,
            node=node,
            call=call,
            index=index,
            shown=f"{entry.task}{where}({call.shown})",
            files=files,
        )

    def _find(self, past: _TracedRun, entry: Entry) -> tuple[int, int, int | None]:
        """The node, the item to compute, and the position of its result in the entry's list; 0 and None for a call.

        Raises _NotAgainError, _NoResultError.
        """
        edited = "the code, or an input, was edited since"
        nodes = [
            number for number, keys in enumerate(past.keys.nodes) if entry.key in (keys.key, keys.recipe)
        ]
        if not nodes:
            planned = [node.planned for node in past.view.nodes.values()]
            if any(entry.key == expansion_key(each.key) for each in planned):
                raise _NoResultError
            known = any(entry.key in (each.key, each.recipe) for each in planned)
            raise _NotAgainError(edited if known else "no journal of this project names it")
        if entry.items is None:
            return nodes[0], 0, None
        pieces = [
            (node, segment)
            for node in nodes
            if (known := past.recovered.known.get(past.keys[node].key)) is not None
            for segment in known.segments
            if segment[2].digest == entry.ref.digest
        ]
        if not pieces:
            raise _NotAgainError(edited)
        ((node, (lo, hi, _, start)),) = self.chance.choices(pieces, [hi - lo for _, (lo, hi, *_) in pieces])
        item = self.chance.randrange(lo, hi)
        return node, item, start + item - lo

    def _lend(self, past: _TracedRun, node: int, lo: int, call: Call) -> None:
        """Copy what the call reads into the scratch store, where its worker looks. Raises MissingObject."""
        refs = [Ref(digest, size) for digest, size in call.inputs.items()]
        expansion = past.calls.expansions.get(node)
        if expansion is not None:
            refs.append(expansion.blocks[lo // expansion.block])
        for ref in refs:
            self.store.copy(ref, self.scratch)

    def _lend_files(self, files: Sequence[FileRef]) -> None:
        """See that files of results have their content, and let the scratch store know it: workers put it back from there.

        Raises HookeError where something else has written to one: a repetition would lose that.
        """
        FileResults(self.project.root, self.store).provide_stored(files)
        for file in files:
            if file.digest:
                self._files.store_file(self.project.root / file.path, file.path)

    # -- computing again -------------------------------------------------------------------------------

    def _verdicts(self, chosen: Sequence[_Chosen], skipped: Counter[str]) -> Iterator[AuditedResult]:
        """Compare each; what differs is computed once more, by other workers."""
        first = self._compute(chosen)
        differing: dict[int, str] = {}
        for each in chosen:
            try:
                differing[each.call.attempt] = self._difference(each, first[each.call.attempt])
            except (MissingObject, CorruptObject):
                skipped["it was evicted or damaged meanwhile"] += 1
        second = self._compute([each for each in chosen if differing.get(each.call.attempt)])
        for each in chosen:
            attempt = each.call.attempt
            if attempt not in differing:
                continue
            if not differing[attempt]:
                yield _verdict(each, EQUAL)
                continue
            outcome = FAILED if isinstance(first[attempt], AttemptFailed) else DIFFERS
            causes = tuple(self._causes(each, first[attempt], second[attempt]))
            yield _verdict(each, outcome, differing[attempt], causes)

    def _compute(self, chosen: Sequence[_Chosen]) -> dict[int, AttemptFinished | AttemptFailed]:
        """Run the calls in new workers, in the folders of their runs. Attempt -> how it ended."""
        by_folder: dict[str, list[_Chosen]] = {}
        for each in chosen:
            begun = each.past.view.begun
            folder = (
                begun.folder if begun is not None and Path(begun.folder).is_dir() else str(self.project.root)
            )
            by_folder.setdefault(folder, []).append(each)
        ended: dict[int, AttemptFinished | AttemptFailed] = {}
        for folder, in_it in by_folder.items():
            ended |= self._compute_in(Path(folder), in_it)
        return ended

    def _compute_in(
        self, folder: Path, chosen: Sequence[_Chosen]
    ) -> dict[int, AttemptFinished | AttemptFailed]:
        context = EngineContext(
            run="audit",
            store=self.scratch,
            secret=self.project.secret(),
            logs=self.folder / "logs",
            clock=SystemClock(),
            folder=folder,
            root=self.project.root,
        )
        calls = [each.call for each in chosen]
        workers = max(1, min(cpus_here(), len(calls)), *(call.gang for call in calls))
        engine = open_engine(BackendChoice(name="local", engine="local", workers=(workers, workers)), context)
        ended: dict[int, AttemptFinished | AttemptFailed] = {}
        # Calls that work on files of the project run one by one: what one writes, another may read.
        together = [each.call for each in chosen if not each.files]
        apart = [[each.call] for each in chosen if each.files]
        try:
            for batch in [together, *apart] if together else apart:
                engine.submit(batch)
                while not all(call.attempt in ended for call in batch):
                    for event in engine.wait(0.25):
                        if isinstance(event, AttemptFinished | AttemptFailed):
                            ended[event.attempt] = event
        finally:
            engine.close()
        return ended

    # -- comparing -------------------------------------------------------------------------------------

    def _difference(self, chosen: _Chosen, event: AttemptFinished | AttemptFailed) -> str:
        """How the new result differs from the stored one; empty if it is equal. Raises MissingObject, CorruptObject."""
        if isinstance(event, AttemptFailed):
            return event.failure.said
        was, now = self._load(self.store, chosen.entry.ref), self._load(self.scratch, event.ref)
        if chosen.index is not None:
            was, now = was.part(chosen.index), now.part(0)
        found = compare_results(was, now)
        return "" if found.kind == EQUAL else str(found)

    def _load(self, store: Store, ref: Ref) -> LoadedResult:
        return LoadedResult.of(store, ref, self.project.root)

    def _causes(
        self,
        chosen: _Chosen,
        first: AttemptFinished | AttemptFailed,
        second: AttemptFinished | AttemptFailed,
    ) -> Iterator[str]:
        uses = unkeyed_uses(chosen.past.keys[chosen.node].code)
        if isinstance(first, AttemptFinished) and isinstance(second, AttemptFinished):
            once, again = self._load(self.scratch, first.ref), self._load(self.scratch, second.ref)
            same = compare_results(once, again).kind == EQUAL
        else:
            same = isinstance(first, AttemptFailed) and isinstance(second, AttemptFailed)
        if same:
            yield "two repetitions agree, so something that its key does not have changed since"
            yield from self._changed(chosen)
        else:
            yield "two repetitions differ, so it is not deterministic"
        kinds = [kind for kind in uses if kind != CHANCE or not same]
        for kind in kinds:
            yield f"{UNKEYED_WORDS[kind]}: {', '.join(uses[kind])}"
        if not kinds and not same:
            yield "its code uses no clock and no unseeded generator: look at threads, sets of texts, and libraries"

    def _changed(self, chosen: _Chosen) -> Iterator[str]:
        """What differs between the run's machine and environment, and those now."""
        events = self.project.runs.events(chosen.entry.run)
        record = next((event.record for event in events if isinstance(event, RunMadeOf)), None)
        if record is None:
            return
        was = provenance.read_kept(self.project.data, record.environment)
        for condition in (
            *compared("python", record.interpreter, provenance.interpreter()),
            *(libraries(was, provenance.installed()) if was is not None else ()),
            *compared("threads", record.threads, provenance.threads()),
            *compared("hardware", record.hardware, provenance.hardware()),
        ):
            if not condition.met:
                yield str(condition)


def _check_fits(state: RunState, node: int) -> None:
    """Raise _NotAgainError if this machine lacks what the task needs."""
    plan = state.nodes[node].plan
    if plan.gpus > len(devices_of_this_machine()):
        raise _NotAgainError("this machine lacks the GPUs")


def _verdict(
    chosen: _Chosen, outcome: str, difference: str = "", causes: tuple[str, ...] = ()
) -> AuditedResult:
    entry = chosen.entry
    return AuditedResult(
        task=entry.task,
        call=chosen.shown,
        key=entry.key,
        run=entry.run,
        outcome=outcome,
        difference=difference,
        causes=causes,
    )
