"""Why a task ran or did not: compares its plan in one run with its plan in an earlier run.

Everything is read from journals: parts of the code with their texts, keys of arguments, and items
found in the cache. `explain` is pure; `why` reads a project's runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from hooke.base.errors import JournalError
from hooke.base.observed import describe
from hooke.journal.events import NodePlanned
from hooke.journal.run_folders import DRIVER, RunsFolder
from hooke.journal.run_view import RunView, view_of
from hooke.journal.segments import SUFFIX
from hooke.journal.task_view import NodeView
from hooke.keys.fingerprint_parts import CodeChange, CodePart, expansion_key
from hooke.keys.fingerprint_parts import explain as changes_between

__all__ = ["Cause", "Why", "dependents", "explain", "roots", "why"]

MOST_RUNS = 50
"""Earlier runs that are searched for the same task."""

MOST_MATCHED = 200
"""With more nodes of one task, nodes are matched in order instead of by similarity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One reason; `text` says it.

    `kind` is code (with its `change`), seed, argument, list (of a map), observed (a file or variable that it read changed), upstream
    (the result of `task` may have changed), first (no earlier run had it), uncached (`cache=False`), forced (`--force`), failures (items were left out, in
    this run or the earlier one), unsettled (the earlier result counted in its run only), gone (its result is no longer in the store),
    unfinished (the earlier run had no result either) or unknown.
    """

    kind: str
    text: str
    task: str = ""
    change: CodeChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The outcome of one graph node, and its causes. `compared` is the earlier run; empty if there is none.

    `outcome` is `cached`, `ran`, `partly cached`, `not needed` (every consumer's result was cached), `failed`,
    `running` or `waiting`. `ran` are the ranges of items that ran. A node that did not run has no causes. `unsettled`
    says why its results must not be reused; it is empty if they may.
    """

    node: int
    task: str
    outcome: str
    items: int | None
    ran: tuple[tuple[int, int], ...] = ()
    causes: tuple[Cause, ...] = ()
    compared: str = ""
    parents: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    unsettled: str = ""


def why(runs: RunsFolder, run: str, *, most_bytes: float = math.inf) -> list[Why]:
    """Every node of `run`, in the order of the graph, compared with earlier runs whose journals have at most `most_bytes`."""
    names = runs.names()
    older = names[names.index(run) + 1 :] if run in names else names
    return explain(view_of(runs, run), _readable(runs, older[:MOST_RUNS], most_bytes))


def explain(now: RunView, earlier: Iterable[RunView]) -> list[Why]:
    """Every node of `now` compared with the newest of `earlier` (newest first) in which its task had a result.

    Reads only as many of `earlier` as needed.
    """
    reference = _References(now, earlier)
    found = [_explain_node(node, now, *reference.of(node)) for _, node in sorted(now.nodes.items())]
    forced = now.begun.forced if now.begun is not None else ()
    return _with_forced(found, frozenset(forced)) if forced else found


def _with_forced(whys: list[Why], forced: frozenset[str]) -> list[Why]:
    """Forced nodes and those that use their results: that nothing else changed is no riddle then."""
    above: dict[int, str] = {}
    """Node -> the forced task that it is of, or that it uses."""
    found: list[Why] = []
    for each in whys:
        name = (
            each.task if each.task in forced else next((above[at] for at in each.parents if at in above), "")
        )
        if name:
            above[each.node] = name
        if name and each.outcome != "not needed":
            text = (
                "it was forced (--force)"
                if each.task == name
                else f"it uses {name}, which was forced (--force)"
            )
            causes = tuple(cause for cause in each.causes if cause.kind not in ("gone", "unfinished"))
            found.append(replace(each, causes=(Cause(kind="forced", text=text), *causes)))
        else:
            found.append(each)
    return found


def dependents(runs: RunsFolder, keys: Collection[str]) -> dict[str, str]:
    """Key -> task of the results, and lists of maps, that were made from those with `keys`, in the newest runs."""
    found: dict[str, str] = {}
    for view in _readable(runs, runs.names()[:MOST_RUNS]):
        below: set[int] = set()
        for number, node in sorted(view.nodes.items()):  # parents have lower numbers
            key = node.planned.recipe or node.planned.key
            mine = key in keys
            if not below.isdisjoint(node.planned.parents):
                below.add(number)
                if not mine:
                    found[key] = node.planned.task
                    if node.planned.recipe:
                        found[expansion_key(node.planned.key)] = node.planned.task
            elif mine:
                below.add(number)
    return found


def roots(whys: Iterable[Why], node: int) -> list[tuple[str, Cause]]:
    """The root causes why `node` ran, as (task, cause): its own causes, and those of the changed nodes upstream."""
    by_node = {each.node: each for each in whys}
    found: dict[tuple[str, str, str], tuple[str, Cause]] = {}
    todo, seen = [node], set[int]()
    while todo:
        number = todo.pop(0)
        if number in seen or number not in by_node:
            continue
        seen.add(number)
        each = by_node[number]
        for cause in each.causes:
            if cause.kind != "upstream":
                found.setdefault((each.task, cause.kind, cause.text), (each.task, cause))
        above = {cause.task for cause in each.causes if cause.kind == "upstream"}
        todo += [parent for parent in each.parents if parent in by_node and by_node[parent].task in above]
    return list(found.values())


def _journal_bytes(runs: RunsFolder, run: str) -> int:
    file = runs.folder(run) / f"{DRIVER}{SUFFIX}"
    return file.stat().st_size if file.exists() else 0


def _readable(runs: RunsFolder, names: Iterable[str], most_bytes: float = math.inf) -> Iterator[RunView]:
    for name in names:
        if _journal_bytes(runs, name) > most_bytes:
            continue
        try:
            yield view_of(runs, name)
        except JournalError:
            continue


class _References:
    """For each node of a run, the node of an earlier run to compare it with. Earlier runs are read when needed."""

    def __init__(self, now: RunView, earlier: Iterable[RunView]) -> None:
        self._now = now
        self._earlier = iter(earlier)
        self._read: list[RunView] = []
        self._pairs: dict[str, tuple[RunView | None, dict[int, NodeView]]] = {}

    def of(self, node: NodeView) -> tuple[RunView | None, NodeView | None]:
        """The earlier run and its node; None if there is none."""
        task = node.planned.task
        if task not in self._pairs:
            self._pairs[task] = self._matched(task)
        view, pairs = self._pairs[task]
        return view, pairs.get(node.planned.node)

    def _matched(self, task: str) -> tuple[RunView | None, dict[int, NodeView]]:
        mine = _nodes_of(self._now, task)
        fallback: RunView | None = None
        for view in self._views():
            theirs = _nodes_of(view, task)
            if not theirs or _function(theirs[0]) != _function(mine[0]):
                continue
            if any(node.settled_count or not node.needed for node in theirs):
                return view, _match(mine, theirs)
            fallback = fallback or view
        return fallback, _match(mine, _nodes_of(fallback, task)) if fallback is not None else {}

    def _views(self) -> Iterator[RunView]:
        yield from self._read
        for view in self._earlier:
            self._read.append(view)
            yield view


def _nodes_of(view: RunView, task: str) -> list[NodeView]:
    return [node for _, node in sorted(view.nodes.items()) if node.planned.task == task]


def _function(node: NodeView) -> str:
    """The qualified name of the task's function, which is the first part of its code. Tasks of different files differ."""
    return next(iter(node.planned.code), "")


def _match(mine: list[NodeView], theirs: list[NodeView]) -> dict[int, NodeView]:
    """Node -> the earlier node of the same task: the one with the same key, else the most similar one left."""
    by_key = {node.planned.key: node for node in theirs}
    pairs = {node.planned.node: by_key[node.planned.key] for node in mine if node.planned.key in by_key}
    taken = {node.planned.node for node in pairs.values()}
    left = [node for node in theirs if node.planned.node not in taken]
    for node in mine:
        if node.planned.node in pairs or not left:
            continue
        best = (
            left[0]
            if len(left) > MOST_MATCHED
            else max(left, key=lambda other: _similarity(node.planned, other.planned))
        )
        left.remove(best)
        pairs[node.planned.node] = best
    return pairs


def _similarity(mine: NodePlanned, theirs: NodePlanned) -> tuple[int, int, int]:
    same = sum(theirs.inputs.get(name) == key for name, key in mine.inputs.items())
    same_shown = sum(theirs.shown.get(name) == text for name, text in mine.shown.items())
    return int(mine.kind == theirs.kind), same, same_shown


def _explain_node(node: NodeView, now: RunView, then: RunView | None, old: NodeView | None) -> Why:
    planned = node.planned
    outcome = _outcome(node)
    ran = tuple(gap for lo, hi in node.results.items for gap in node.cached.gaps(lo, hi))
    causes = () if outcome in ("cached", "not needed") else tuple(_causes(node, now, then, old))
    return Why(
        node=planned.node,
        task=planned.task,
        outcome=outcome,
        items=node.items,
        ran=ran,
        causes=causes,
        compared=then.run if then is not None and old is not None else "",
        parents=planned.parents,
        notes=planned.notes,
        unsettled=node.unsettled,
    )


def _outcome(node: NodeView) -> str:
    if node.running:
        return "running"
    if node.failed_count:
        return "failed"
    if node.settled_count and (node.complete or node.skipped):
        if not node.cached_count:
            return "ran"
        return "partly cached" if node.done_count else "cached"
    if not node.needed or node.complete:
        return "not needed"
    return "waiting"


def _causes(node: NodeView, now: RunView, then: RunView | None, old: NodeView | None) -> Iterator[Cause]:
    planned = node.planned
    if not planned.cache:
        yield Cause(kind="uncached", text="it is declared cache=False, so it always runs")
        return
    observed = list(_observed_causes(node, now))
    if then is None or old is None:
        yield from observed or [Cause(kind="first", text="no earlier run had it")]
        return
    if observed and planned.key == old.planned.key:
        yield from observed
        return
    found = [*_code_causes(planned, now, old.planned, then), *_input_causes(node, now, old, then)]
    if planned.seed != old.planned.seed:
        found.insert(0, Cause(kind="seed", text=f"the seed was {old.planned.seed}, is {planned.seed}"))
    # The items' keys include the keys of code and constants, so a new key alone does not mean a new list.
    if (None not in (node.items, old.items) and node.items != old.items) or (
        not found and _columns(planned) != _columns(old.planned)
    ):
        found.append(Cause(kind="list", text=_list_text(node, old)))
    if found:
        yield from found
    else:
        yield _unseen_cause(node, then, old)


def _unseen_cause(node: NodeView, then: RunView, old: NodeView) -> Cause:
    """Why it ran although neither its code nor its inputs changed."""
    planned = node.planned
    if planned.key != old.planned.key:
        return Cause(
            kind="unknown", text=f"its key differs from run {then.run}, and the journals do not say why"
        )
    if old.tainted or old.tainted_list:
        return Cause(kind="failures", text=f"run {then.run} computed it without items that had failed")
    if left_out := old.failed.count + old.skipped.count:
        how = f"{left_out} of its {old.items} items failed or were skipped"
        return Cause(kind="failures", text=f"in run {then.run} {how}")
    if old.unsettled:
        return Cause(kind="unsettled", text=f"its result of run {then.run} counted in that run only")
    if node.tainted or node.tainted_list:
        return Cause(kind="failures", text="it was computed without items that had failed")
    if old.settled_count or not old.needed:
        return Cause(
            kind="gone",
            text=f"nothing changed since run {then.run}, but the result is no longer in the store (removed or evicted)",
        )
    return Cause(kind="unfinished", text=f"run {then.run} was {then.status} and had no result either")


def _code_causes(mine: NodePlanned, now: RunView, theirs: NodePlanned, then: RunView) -> Iterator[Cause]:
    for change in changes_between(_parts(theirs, then), _parts(mine, now)):
        place = f" ({change.where})" if change.where else ""
        yield Cause(kind="code", text=f"{change.kind} {change.name}{place} {change.what}", change=change)


def _observed_causes(node: NodeView, now: RunView) -> Iterator[Cause]:
    """Inputs that are others than those of its stored results, and tasks above that ran again."""
    inputs = dict.fromkeys((each.kind, each.name) for event in node.changed for each in event.inputs)
    first = {(each.kind, each.name): each for event in node.changed for each in event.inputs}
    for name in inputs:
        yield Cause(kind="observed", text=f"ran again: {describe(first[name])}")
    if any(event.upstream for event in node.changed):
        above = (now.nodes[parent] for parent in node.planned.parents if parent in now.nodes)
        for task in dict.fromkeys(parent.planned.task for parent in above if parent.done_count):
            text = f"it reads the result of {task}, which was made again"
            yield Cause(kind="upstream", text=text, task=task)


def _parts(planned: NodePlanned, view: RunView) -> Iterator[CodePart]:
    for name, digest in planned.code.items():
        seen = view.code.get(digest)
        yield CodePart(
            name=name,
            kind=seen.kind if seen is not None else "",
            digest=digest,
            where=seen.where if seen is not None else "",
            text=seen.text if seen is not None else "",
        )


def _input_causes(node: NodeView, now: RunView, old: NodeView, then: RunView) -> Iterator[Cause]:
    """Upstream tasks with new keys, and arguments that changed."""
    mine, theirs = node.planned, old.planned
    former = {then.nodes[parent].planned.key for parent in theirs.parents if parent in then.nodes}
    above = [now.nodes[parent].planned for parent in mine.parents if parent in now.nodes]
    changed = list(dict.fromkeys(parent.task for parent in above if parent.key not in former))
    for task in changed:
        text = f"it reads the result of {task}, which may have changed"
        if _same_results(task, now, then):
            text = (
                f"it reads the result of {task}, which was made again; its value is the same, "
                "but a key follows code and inputs, not values"
            )
        yield Cause(kind="upstream", text=text, task=task)
    for name in dict.fromkeys([*mine.inputs, *theirs.inputs]):
        if mine.inputs.get(name) == theirs.inputs.get(name):
            continue
        if (name in mine.shown or name in theirs.shown) and not (
            changed and "of task " in mine.shown.get(name, "")
        ):
            yield Cause(kind="argument", text=_argument_text(name, mine, theirs))


def _same_results(task: str, now: RunView, then: RunView) -> bool:
    """Whether the task has the same values in both runs, as far as their bytes tell."""
    mine, theirs = ([_digests(node) for node in _nodes_of(view, task)] for view in (now, then))
    return bool(mine) and all(mine) and mine == theirs


def _digests(node: NodeView) -> list[tuple[int, int, str, int]]:
    """Each range of items with the digest of its stored object; empty if the node is not complete."""
    if not node.complete:
        return []
    return [(lo, hi, ref.digest, start) for lo, hi, ref, start in node.results]


def _columns(planned: NodePlanned) -> dict[str, str]:
    """The inputs that a map maps over: those that differ between items."""
    return {name: key for name, key in planned.inputs.items() if name not in planned.shown}


def _list_text(node: NodeView, old: NodeView) -> str:
    if node.items != old.items and None not in (node.items, old.items):
        return f"its list has {node.items} items, and had {old.items}"
    return "the list that it maps over has other items"


def _argument_text(name: str, mine: NodePlanned, theirs: NodePlanned) -> str:
    if name not in theirs.inputs:
        return f"argument {name} is new: {mine.shown.get(name, '')}"
    if name not in mine.inputs:
        return f"argument {name} is gone"
    before, after = theirs.shown.get(name, "?"), mine.shown.get(name, "?")
    if before == after:
        return f"argument {name} has other content (shown as {after} both times)"
    return f"argument {name} was {before}, is {after}"
