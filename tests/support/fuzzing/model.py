"""What plain Python says of a random program, and what Hooke has to run for it: signatures of nodes, and a model of the store."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tests.support.fuzzing.programs import BROKEN, LIB, MAIN, MODULES, VALUES, Arg, Node, Program, parents

__all__ = ["Expected", "Signed", "Stored", "Truth", "digest", "expected", "forget", "plain", "signed"]


def forget() -> None:
    """Have the program's modules imported anew."""
    for name in (*MODULES, LIB):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


# --- What a node of the graph depends on.


def digest(*parts: object) -> str:
    """A short text that stands for nested parts."""
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Signed:
    """A node with its signature, and those of its items (one for a call). `items` of a dynamic map come from plain Python."""

    node: Node
    sign: str
    recipe: str
    items: list[str]
    cached: bool
    observed: bool
    """Whether it, or what it is made from, read something that it does not declare."""
    values: Any
    dynamic: bool
    """Whether its items are known only when a result is: its own list's, or that of a map that it goes over."""
    key: str
    """The signature without what was read in passing, as the store's keys are."""
    item_keys: list[str]

    @property
    def is_call(self) -> bool:
        return self.node.kind == "call"


@dataclass(slots=True, kw_only=True)
class Truth:
    """What plain Python says: the answer, or the error, and the values of all nodes and constants."""

    answer: Any = None
    error: str = ""
    nodes: Sequence[Any] = ()
    values: Mapping[str, str] = field(default_factory=dict)


def plain(program: Program, folder: Path) -> Truth:
    """Import the program anew and call it."""
    forget()
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(MAIN)
        values = {}
        for each in program.definitions.values():
            if each.kind in VALUES:
                value = getattr(importlib.import_module(each.module), each.name)
                values[each.name] = repr(sorted(value) if isinstance(value, frozenset) else value)
        nodes = list(program.each_value(vars(module)))
        try:
            return Truth(answer=module.job.function(), nodes=nodes, values=values)
        except ValueError as error:
            return Truth(error=str(error), nodes=nodes, values=values)
    finally:
        sys.path.remove(str(folder))
        forget()


def signed(program: Program, truth: Truth, run: str) -> list[Signed]:
    """The nodes with their signatures. `run` is part of what is not cached."""
    found: list[Signed] = []
    for at, node in enumerate(program.nodes):
        task = program.tasks[node.task]
        code = program.code(node.task, truth.values)
        run_only = () if task.cache else ("uncached", run, at)
        made = _signs(node, program, found, truth, (code, *seen(program, task.reads), *run_only), _result)
        keys = _signs(node, program, found, truth, (code, *run_only), _key)
        over = found[node.over] if node.over >= 0 else None
        found.append(
            Signed(
                node=node,
                sign=made.sign,
                recipe=made.recipe,
                items=made.items,
                cached=all(found[parent].cached for parent in parents(node)) and task.cache,
                observed=bool(task.reads) or any(found[each].observed for each in parents(node)),
                values=truth.nodes[at],
                dynamic=over is not None and (over.is_call or over.dynamic),
                key=keys.sign,
                item_keys=keys.items,
            )
        )
    return found


Of: TypeAlias = Callable[["Signed", int | None], object]
"""What a consumer has of a result, or of an item's."""


class _Signs(NamedTuple):
    sign: str
    recipe: str
    items: list[str]


def _signs(
    node: Node, program: Program, found: Sequence[Signed], truth: Truth, own: tuple[object, ...], of: Of
) -> _Signs:
    """The signatures of a node whose task has `own`, from `of` each result that it is made from."""
    args = [_sign_of(arg, program, found, of) for arg in node.args]
    if len(args) < (2 if node.kind == "call" else 1):
        args.append(("number", 0))  # the default of y
    recipe = digest(node.kind, args, *own)
    if node.kind == "call":
        return _Signs(recipe, recipe, [recipe])
    if node.over < 0:
        columns: object = node.numbers
        items = [digest(recipe, "number", number) for number in node.numbers]
    else:
        over = found[node.over]
        columns = of(over, None)
        if over.is_call:
            values = truth.nodes[node.over]
            items = [digest(recipe, "number", value) for value in ([] if values is BROKEN else values)]
        else:
            items = [digest(recipe, "item", of(over, item)) for item in range(len(over.items))]
            if not over.dynamic:
                columns = items  # of a map without items nothing is left
    return _Signs(digest("node", recipe, columns), recipe, items)


def _key(node: Signed, item: int | None = None) -> object:
    return node.key if item is None else node.item_keys[item]


def _result(node: Signed, item: int | None = None) -> object:
    """What a consumer's signature has of a result: how it was made, or, if something in passing was read for it, its key and value.

    A consumer keeps its result if what it is made from has changed, but not in its bytes.
    """
    if not node.observed or not node.cached:
        return node.sign if item is None else node.items[item]
    value = node.values if item is None or node.values is BROKEN else node.values[item]
    return (_key(node, item), "broken" if value is BROKEN else repr(value))


def seen(program: Program, reads: str) -> tuple[object, ...]:
    """What a task reads in passing."""
    files = program.files
    return {
        "": (),
        "file": ("file", files.get("seen.txt")),
        "absent": ("absent", "maybe.txt" in files),
        "listing": ("listing", *sorted(name for name in files if name.startswith("listed/"))),
        "variable": ("variable", program.variable),
    }[reads]


def _sign_of(arg: Arg, program: Program, found: Sequence[Signed], of: Of) -> object:
    if arg.kind == "parameter":
        return ("number", program.parameter)
    if arg.kind == "file":
        return ("file", program.files[f"data{arg.value}.txt"])
    if arg.kind == "nodes":
        return ("list", *(of(found[at], None) for at in arg.several))
    if arg.kind == "node":
        node = found[arg.value]
        if node.node.kind == "map" and arg.path:
            return ("result", of(node, arg.path[0]), arg.path[1:])
        return ("result", of(node, None), arg.path)
    return ("number", arg.value)


# --- What must run.


@dataclass(slots=True)
class Stored:
    """The model of a store: signatures of results and of the lists of dynamic maps, with the object that has each."""

    results: dict[str, str] = field(default_factory=dict)
    """Signature -> digest of the object."""
    lists: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    """A driver was killed, and may or may not have made these known."""
    keys: dict[str, list[str]] = field(default_factory=dict)
    """Key in the store -> signatures of the call, of the map's recipe, or (after "list ") of the map whose list it is: one for
    what it has read each time, the last one last."""
    recipes: dict[str, set[str]] = field(default_factory=dict)
    """Signature of a recipe -> its items."""


@dataclass(slots=True)
class Expected:
    must: set[str] = field(default_factory=set)
    may: set[str] = field(default_factory=set)


def expected(
    nodes: Sequence[Signed], returned: Sequence[int], stored: Stored, known: set[tuple[str, str]]
) -> Expected:
    """What a run must compute, and what it may compute besides. `known` are results of its own journal: of a node, of an item.

    A map is asked for as a whole, so the items that nobody needs may run, too, until its consumers are done.
    """
    found = Expected()
    sure: dict[int, set[int]] = {at: set(range(len(nodes[at].items))) for at in returned}
    """Node -> the items that somebody needs for certain."""
    asked = set(returned)
    for at in reversed(range(len(nodes))):
        if at not in asked:
            continue
        each = nodes[at]
        missing = {
            item
            for item, sign in enumerate(each.items)
            if sign not in stored.results and (each.sign, sign) not in known
        }
        certain = {item for item in missing & sure.get(at, set()) if each.items[item] not in stored.unsure}
        # The journal has the result of one of several equal items, and the driver died before that was stored for the others.
        missing.update(
            item
            for item, sign in enumerate(each.items)
            if sign not in stored.results and each.items.count(sign) > 1
        )
        found.must.update(each.items[item] for item in certain)
        found.may.update(each.items[item] for item in missing)
        has_list = _has_list(nodes, at, stored, known)
        if not missing and has_list is True:
            if each.observed:  # what it was made from may have to be computed to know that it still counts
                asked.update(parents(each.node))
            continue
        for parent, path in _uses(each.node):
            whole = set(range(len(nodes[parent].items)))
            if parent == each.node.over and nodes[parent].is_call:
                if has_list is True:
                    continue
                needed = {0} if has_list is False and at in sure else set()
            elif parent == each.node.over:
                needed = certain
            elif not certain:
                needed = set()
            else:
                needed = {path[0]} if path and not nodes[parent].is_call else whole
            asked.add(parent)
            if needed:
                sure.setdefault(parent, set()).update(needed)
    found.may -= found.must
    return found


def _uses(node: Node) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The nodes that this one uses, with the path to the part."""
    if node.over >= 0:
        yield node.over, ()
    for arg in node.args:
        if arg.kind == "node":
            yield arg.value, arg.path
        yield from ((at, ()) for at in arg.several)


def _has_list(nodes: Sequence[Signed], at: int, stored: Stored, known: set[tuple[str, str]]) -> bool | None:
    """Whether the items of a map are known without computing anything; None if that is not sure."""
    each = nodes[at]
    if not each.dynamic:
        return True
    if not nodes[each.node.over].is_call:
        return _has_list(nodes, each.node.over, stored, known)
    if each.sign in stored.lists or (each.sign, "list") in known:
        return True
    return None if each.observed or f"list {each.sign}" in stored.unsure else False
