"""Which anchors a trace shows: the code behind each task, and its inputs, against what the run planned."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from hooke.journal.events import CodeSeen, NodePlanned
from hooke.journal.view import RunView
from hooke.keys.explain import Change, explain
from hooke.keys.parts import CodePart
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.shown import shown
from hooke.project.reproducing.anchors import Anchor
from hooke.project.reproducing.verdicts import pairs

__all__ = ["modules_elsewhere", "planned_anchors"]

MOST_SHOWN = 80
BEFORE = 20
OURS = "hooke"


def planned_anchors(view: RunView, graph: Graph, keys: GraphKeys, *, seeded_alike: bool) -> list[Anchor]:
    """Those that are not met, each once."""
    found: dict[tuple[str, str], Anchor] = {}
    was = {number: node.planned.task for number, node in view.nodes.items()}
    now = {node.id: node.task.name for node in graph.nodes}
    same: dict[int, bool] = {}
    for pair in pairs(was, now):
        if pair.was is None or pair.now is None:
            there = "in the graph"
            anchor = Anchor(
                kind="code",
                name=f"task {pair.task}",
                was=there if pair.was is not None else "",
                now=there if pair.now is not None else "",
            )
            found.setdefault((anchor.kind, anchor.name), anchor)
            continue
        planned = view.nodes[pair.was].planned
        same[pair.was] = planned.key == keys[pair.now].key
        anchors = [*_code(planned, view.code, keys, pair.now)]
        if all(same.get(parent, True) for parent in planned.parents):
            inputs = list(_inputs(planned, graph, keys, pair.now))
            # The keys of a map's items have its code, its other inputs and the seed in them.
            code = {part.name: part.digest for part in keys[pair.now].code.parts}
            theirs = seeded_alike and code == planned.code and len(inputs) == 1
            anchors += [each for each in inputs if theirs or not each.name.endswith("(items=)")]
        for anchor in anchors:
            found.setdefault((anchor.kind, anchor.name), anchor)
    return list(found.values())


def _code(planned: NodePlanned, seen: Mapping[str, CodeSeen], keys: GraphKeys, node: int) -> Iterator[Anchor]:
    before = [_part(name, seen[digest]) for name, digest in planned.code.items() if digest in seen]
    for change in explain(before, keys[node].code.parts):
        if change.kind == "distribution":
            continue  # the installed versions are compared as a whole
        place = f" ({change.where})" if change.where else ""
        was, now = _around_the_difference(_side(change, "-"), _side(change, "+"))
        yield Anchor(kind="code", name=f"{change.kind} {change.name}{place}", was=was, now=now)


def _part(name: str, seen: CodeSeen) -> CodePart:
    return CodePart(name=name, kind=seen.kind, digest=seen.digest, where=seen.where, text=seen.text)


def _side(change: Change, sign: str) -> str:
    if change.what == ("added" if sign == "-" else "removed"):
        return ""
    lines = [line[1:].strip() for line in change.diff.splitlines() if line.startswith(sign)]
    return "; ".join(filter(None, lines)) or {"-": "other code", "+": "this code"}[sign]


def _around_the_difference(was: str, now: str) -> tuple[str, str]:
    """Both cut to one line, from a little before the first character that differs."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False))
    start = sum(1 for _ in alike) - BEFORE
    if start <= 0 or max(len(was), len(now)) <= MOST_SHOWN:
        start = 0
    cut = [("..." if start else "") + text[start:] for text in (was, now)]
    first, second = (text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..." for text in cut)
    return first, second


def _inputs(planned: NodePlanned, graph: Graph, keys: GraphKeys, node: int) -> Iterator[Anchor]:
    arguments = graph.nodes[node].arguments
    for name, key in planned.inputs.items():
        other = keys[node].inputs.get(name, "")
        if key == other:
            continue
        was = planned.shown.get(name, "")
        now = shown(arguments[name]) if name in arguments else ""
        if was.startswith("File("):
            continue  # the data files are compared by path
        if was == now:
            was, now = f"{was} {key[:8]}".strip(), f"{now} {other[:8]}".strip()
        yield Anchor(kind="data", name=f"{planned.task}({name}=)", was=was, now=now)


def modules_elsewhere(root: Path, tree: Path) -> list[Anchor]:
    """The modules that were imported from the repository itself though its tree was restored elsewhere."""
    if root == tree:
        return []
    found: list[Anchor] = []
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] in {OURS, "__main__"}:
            continue
        path = Path(file)
        if path.is_relative_to(root) and not path.is_relative_to(tree) and "site-packages" not in path.parts:
            found.append(
                Anchor(
                    kind="code",
                    name=f"module {name}",
                    was="of the restored tree",
                    now=file,
                    mend="it is installed editable: install it from the tree, or use --here",
                )
            )
    return found
