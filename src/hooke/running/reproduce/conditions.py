"""The conditions of a run's results: as the run recorded them, and as they are now. Pure but for `modules_elsewhere`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import msgspec

from hooke.base.formats import short_repr
from hooke.base.user_code import is_users
from hooke.journal.events import CodeSeen, NodePlanned
from hooke.journal.run_view import RunView
from hooke.keys.fingerprint_parts import CodeChange, CodePart, explain
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.running.reproduce.result_comparison import pairs

__all__ = [
    "Edit",
    "RunCondition",
    "changed_lines",
    "compared",
    "condition",
    "libraries",
    "modules_elsewhere",
    "planned_conditions",
]


# --- Conditions that the record names.


class RunCondition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a run's results. `kind` is code, python, library, data, variable, parameters, seed, threads or hardware.

    `was` and `now` are short text, empty if there was or is nothing.
    """

    kind: str
    name: str
    was: str
    now: str
    fix: str = ""

    @property
    def met(self) -> bool:
        """Whether it is unchanged."""
        return self.was == self.now

    def __str__(self) -> str:
        name = f"{self.kind} {self.name}".strip()
        if self.met:
            return f"{name}: {self.was}"
        return f"{name}: was {self.was or 'not there'}, is {self.now or 'not there'}"


FIXES = {
    "code": "leave --here out to run the recorded tree",
    "data": "restore the original file",
    "hardware": "run it on such a machine, or with --best-effort",
    "library": "pip install {name}=={was}",
    "python": "use this Python version",
    "seed": "set `[run] seed` in hooke.toml, or HOOKE_SEED, to {was}",
    "threads": "export {name}={was}",
    "variable": "set {name} as it was",
}


def compared(kind: str, was: Mapping[str, str], now: Mapping[str, str]) -> list[RunCondition]:
    """A condition for each name: first those of the run, then the new ones."""
    names = dict.fromkeys((*was, *now))
    return [condition(kind, name, was.get(name, ""), now.get(name, "")) for name in names]


def libraries(was: Mapping[str, str], now: Mapping[str, str]) -> list[RunCondition]:
    """A condition for each distribution of the run. Distributions installed since cannot have affected the results."""
    return [condition("library", name, version, now.get(name, "")) for name, version in was.items()]


def condition(kind: str, name: str, was: str, now: str) -> RunCondition:
    """A condition with the fix for its kind."""
    fix = FIXES.get(kind, "").format(name=name, was=was)
    if kind == "data" and not was:
        fix = "move it away"
    if kind in ("threads", "variable") and not was:
        fix = f"unset {name}"
    if kind == "library" and was.endswith(" (editable)"):
        fix = f"check out this version of {name}"
    return RunCondition(kind=kind, name=name, was=was, now=now, fix="" if was == now else fix)


_HUNK = re.compile(r"@@ -\d+(?:,\d+)? \+(?P<line>\d+)(?:,\d+)? @@")


class Edit(NamedTuple):
    """A changed place: `file:line` on the new side, and the first differing line of each side."""

    place: str
    was: str
    now: str


def changed_lines(diff: str) -> list[Edit]:
    """The changed places of a unified diff without context. A file that is deleted, binary or has another mode is one place."""
    return [
        edit for part in re.split(r"^(?=diff --git )", diff, flags=re.MULTILINE)[1:] for edit in _edits(part)
    ]


def _edits(part: str) -> Iterator[Edit]:
    """The edits of one file's diff: header lines, then hunks."""
    first, *lines = part.splitlines()
    file = first.rpartition(" b/")[2]
    hunks = [at for at, line in enumerate(lines) if _HUNK.match(line)]
    if not hunks or any(line.startswith("deleted file mode") for line in lines[: hunks[0]]):
        gone = any(line.startswith("deleted file mode") for line in lines)
        yield Edit(file, "as it was", "gone" if gone else "changed")
        return
    for at, end in zip(hunks, (*hunks[1:], len(lines)), strict=True):
        found = _HUNK.match(lines[at])
        assert found is not None
        was, now = (
            next((line[1:] for line in lines[at + 1 : end] if line.startswith(sign)), "") for sign in "-+"
        )
        if was.strip() != now.strip():
            was, now = was.strip(), now.strip()
        yield Edit(f"{file}:{found['line']}", was or "no line", now or "no line")


MOST_SHOWN = 80
BEFORE = 20
OURS = "hooke"


def planned_conditions(
    view: RunView, graph: Graph, keys: GraphKeys, *, seeded_alike: bool
) -> list[RunCondition]:
    """The unmet conditions that only a trace shows: the code and the inputs of each task. Each is listed once."""
    found: dict[tuple[str, str], RunCondition] = {}
    was = {number: node.planned.task for number, node in view.nodes.items()}
    now = {node.id: node.task.name for node in graph.nodes}
    same: dict[int, bool] = {}
    for pair in pairs(was, now):
        if pair.was is None or pair.now is None:
            there = "in the graph"
            lacking = RunCondition(
                kind="code",
                name=f"task {pair.task}",
                was=there if pair.was is not None else "",
                now=there if pair.now is not None else "",
            )
            found.setdefault((lacking.kind, lacking.name), lacking)
            continue
        planned = view.nodes[pair.was].planned
        same[pair.was] = planned.key == keys[pair.now].key
        differing = [*_code(planned, view.code, keys, pair.now)]
        if all(same.get(parent, True) for parent in planned.parents):
            inputs = list(_inputs(planned, graph, keys, pair.now))
            # The keys of a map's items include its code, its other inputs and the seed.
            code = {part.name: part.digest for part in keys[pair.now].code.parts}
            theirs = seeded_alike and code == planned.code and len(inputs) == 1
            differing += [each for each in inputs if theirs or not each.name.endswith("(items=)")]
        for each in differing:
            found.setdefault((each.kind, each.name), each)
    return list(found.values())


def _code(
    planned: NodePlanned, seen: Mapping[str, CodeSeen], keys: GraphKeys, node: int
) -> Iterator[RunCondition]:
    before = [_part(name, seen[digest]) for name, digest in planned.code.items() if digest in seen]
    for change in explain(before, keys[node].code.parts):
        if change.kind == "distribution":
            continue  # installed versions are compared separately
        place = f" ({change.where})" if change.where else ""
        was, now = _around_the_difference(_side(change, "-"), _side(change, "+"))
        yield RunCondition(kind="code", name=f"{change.kind} {change.name}{place}", was=was, now=now)


def _part(name: str, seen: CodeSeen) -> CodePart:
    return CodePart(name=name, kind=seen.kind, digest=seen.digest, where=seen.where, text=seen.text)


def _side(change: CodeChange, sign: str) -> str:
    if change.what == ("added" if sign == "-" else "removed"):
        return ""
    lines = [line[1:].strip() for line in change.diff.splitlines() if line.startswith(sign)]
    return "; ".join(filter(None, lines)) or {"-": "other code", "+": "this code"}[sign]


def _around_the_difference(was: str, now: str) -> tuple[str, str]:
    """Both texts shortened to one line that begins shortly before the first difference."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False))
    start = sum(1 for _ in alike) - BEFORE
    if start <= 0 or max(len(was), len(now)) <= MOST_SHOWN:
        start = 0
    cut = [("..." if start else "") + text[start:] for text in (was, now)]
    first, second = (text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..." for text in cut)
    return first, second


def _inputs(planned: NodePlanned, graph: Graph, keys: GraphKeys, node: int) -> Iterator[RunCondition]:
    arguments = graph.nodes[node].arguments
    for name, key in planned.inputs.items():
        other = keys.inputs(node).get(name, "")
        if key == other:
            continue
        was = planned.shown.get(name, "")
        now = short_repr(arguments[name]) if name in arguments else ""
        if was.startswith("File("):
            continue  # data files are compared by path
        if was == now:
            was, now = f"{was} {key[:8]}".strip(), f"{now} {other[:8]}".strip()
        yield RunCondition(kind="data", name=f"{planned.task}({name}=)", was=was, now=now)


def modules_elsewhere(root: Path, tree: Path) -> list[RunCondition]:
    """A condition for each module that was imported from the original repository although its tree was restored elsewhere."""
    if root == tree:
        return []
    found: list[RunCondition] = []
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] in {OURS, "__main__"}:
            continue
        path = Path(file)
        if is_users(file) and path.is_relative_to(root) and not path.is_relative_to(tree):
            found.append(
                RunCondition(
                    kind="code",
                    name=f"module {name}",
                    was="from the restored tree",
                    now=file,
                    fix="the package is installed as editable: install it from the tree, or use --here",
                )
            )
    return found
