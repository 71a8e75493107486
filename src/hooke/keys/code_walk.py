"""The walk over the code that a function reaches: parts in the order of discovery, and the edges between them.

Each object is one part however often it is reached, so recursion and cycles end. A part's digest covers its own
content; the key covers all digests and edges in order. Addresses, paths, line numbers and module names do not matter.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import pathlib
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from blake3 import blake3

from hooke.base.formats import short_plain
from hooke.keys.bytecode import listing, module_code, references
from hooke.keys.encoding import NoKey, compound, integer, raw, text
from hooke.keys.fingerprint_parts import CodePart, Edge, FingerprintPart, Key, frame
from hooke.keys.module_origin import PYTHON, ModuleOrigin, origin_of, project_root
from hooke.keys.object_encodings import code_within
from hooke.keys.value_walk import ValuePrinter

__all__ = ["EVERYTHING", "CodeWalk", "Reader"]

EVERYTHING = frozenset(
    {
        "bodies",
        "defaults",
        "closures",
        "globals",
        "modules",
        "imports",
        "wrapped",
        "members",
        "bases",
        "values",
        "instances",
        "distributions",
    }
)
"""What a walk follows. Tests remove entries to show that each row of the cache matrix needs its entry."""

Reader = Callable[["CodeWalk", FingerprintPart, str, Any], bool]
"""Adds the edge from a part to a piece of code under a label; False, without effect, for a value that is not code."""


class CodeWalk:
    """Builds one fingerprint. `reader` knows functions, classes and modules; `follow` is a subset of EVERYTHING."""

    def __init__(self, *, reader: Reader, follow: frozenset[str] = EVERYTHING) -> None:
        self.follow = follow
        self.notes: dict[str, None] = {}
        self.foreigners: dict[str, None] = {}
        self._reader = reader
        self._parts: list[FingerprintPart] = []
        self._places: dict[object, int] = {}
        self._alive: list[object] = []
        self._pending: deque[Callable[[], None]] = deque()
        self._texts: set[str] = set()
        self._described: list[tuple[FingerprintPart, Any]] = []
        self._told: set[tuple[str, int]] = set()

    # --- results -------------------------------------------------------------------------------

    def finish(self, root: FingerprintPart) -> Key:
        """Read everything that is reached, and return its key as seen from the root, which is not a part itself."""
        while self._pending or self._tell():
            if self._pending:
                self._pending.popleft()()
        hasher = blake3(b"code")
        for part in (root, *self._parts):
            edges = (compound(b"", [text(e.label), text(e.qualifier), integer(e.target)]) for e in part.edges)
            hasher.update(compound(part.kind.encode(), [raw(part.digest), *edges]))
        return hasher.hexdigest(length=16)

    def parts(self) -> tuple[CodePart, ...]:
        """The parts as users see them, each under a unique name: a function has its own, and a global that holds it another."""
        counts: dict[str, int] = {}
        shown = {
            id(part): _as_shown(part, counts)
            for part in sorted(self._parts, key=lambda part: part.kind == "global")
        }
        return tuple(shown[id(part)] for part in self._parts)

    # --- edges ---------------------------------------------------------------------------------

    def bind(
        self, part: FingerprintPart, label: str, value: object, *, made: FingerprintPart, place: object = None
    ) -> None:
        """An edge from a part to a value under a label: to its code, else to `made`, a part for its content.

        `place` identifies a value that several parts reach by one name, such as a global.
        """
        while (stand_in := getattr(type(value), "__hooke_code__", None)) is not None:
            value = stand_in(value)
        if not self._reader(self, part, label, value):
            place = place if place is not None else object()
            self.place(part, label, place, made=lambda: made, fill=lambda new: self._fill_value(new, value))
            self._alive.append((place, value))

    def place(
        self,
        part: FingerprintPart,
        label: str,
        place: object,
        *,
        made: Callable[[], FingerprintPart],
        fill: Callable[[FingerprintPart], None],
    ) -> None:
        """An edge to the part at a place. The first edge to a place creates the part; `fill` reads it later."""
        number = self._places.get(place)
        if number is None:
            new = made()
            number = self._places[place] = len(self._parts)
            self._parts.append(new)
            self._pending.append(lambda: fill(new))
        part.edges.append(Edge(label, "", number))

    def foreign(self, part: FingerprintPart, label: str, qualifier: str, origin: ModuleOrigin) -> None:
        """An edge to something of the standard library or a distribution, by its qualified name."""
        self.foreigners[qualifier] = None
        counted = origin.version if "distributions" in self.follow else ""
        title = f"{origin.distribution} {origin.version}".strip()

        def made() -> FingerprintPart:
            version = blake3(frame(origin.distribution) + frame(counted)).digest()
            return FingerprintPart(
                kind="distribution", name=origin.distribution, digest=version, text=lambda: title
            )

        self.place(part, label, ("distribution", origin.distribution), made=made, fill=lambda _: None)
        part.edges[-1] = Edge(label, qualifier, part.edges[-1].target)

    def python(self, part: FingerprintPart) -> None:
        """An edge to the version of Python, because bytecode and standard library depend on it."""
        self.foreign(part, "", "", ModuleOrigin(local=False, distribution="python", version=PYTHON))

    def keep(self, value: object) -> object:
        """Keep an object alive, so that no other object gets its identity; returns the identity."""
        self._alive.append(value)
        return id(value)

    def note(self, text: str) -> None:
        """Note, once, why the key covers more or less than static analysis would."""
        self.notes[text] = None

    # --- what code may read of other code --------------------------------------------------------

    def describe(self, part: FingerprintPart, code: Any) -> None:
        """A function or class of the project that is a part: what code reads of its text counts, too."""
        self._described.append((part, code))

    def reads(self, text: str) -> None:
        """Code reads the `__doc__`, `__annotations__` or `source` of functions and classes that the walk reaches."""
        self._texts.add(text)

    def _tell(self) -> bool:
        """Add what is read of the code that was reached, and say whether that was anything new."""
        before = len(self._told)
        for name in sorted(self._texts):
            for number, (part, code) in enumerate(self._described):
                if (name, number) not in self._told:
                    self._told.add((name, number))
                    made = FingerprintPart(kind="global", name=f"{part.name}.{name}", file=part.file)
                    self.bind(part, name, _text_of(code, name), made=made)
        return len(self._told) > before

    # --- values --------------------------------------------------------------------------------

    def encode(self, part: FingerprintPart, value: object) -> bytes:
        """A value's encoding. Code inside the value becomes edges of the part. Raises NoKey."""

        def code(target: object) -> bytes:
            if "instances" not in self.follow or not self._reader(self, part, "", target):
                return text("code")
            return compound(b"reach", [integer(len(part.edges)), text(part.edges[-1].qualifier)])

        return ValuePrinter(code=code, leaf=_leaf(part.file), shallow=_shallow).encode(value)

    def _fill_value(self, part: FingerprintPart, value: object) -> None:
        part.text = lambda: short_plain(value)
        if "values" not in self.follow:
            return
        before = len(part.edges)
        try:
            part.digest = blake3(self.encode(part, value)).digest()
        except (NoKey, RecursionError) as lack:
            del part.edges[before:]
            known = lack if isinstance(lack, NoKey) else NoKey(value, "it is nested too deeply")
            self._fill_opaque(part, value, known)

    def _fill_opaque(self, part: FingerprintPart, value: object, lack: NoKey) -> None:
        kind = type(value)
        part.kind = "opaque"
        part.text = lambda: f"<{kind.__qualname__}>"
        sources = [listing(code).digest for code in _sources(value, part.file)]
        part.digest = blake3(frame(kind.__qualname__) + b"".join(sources)).digest()
        for code in (kind, *code_within(value)):
            self._reader(self, part, "", code)
        path = part.name + "".join(reversed(lack.path))
        self.note(
            f"{path} cannot be hashed ({lack.why}), so the key covers its type, {kind.__qualname__}, "
            f"the project's code that it refers to, and the source of its whole module"
        )


def _text_of(code: Any, name: str) -> object:
    try:
        if name == "__annotations__":  # what they name, where they are texts
            with contextlib.suppress(Exception):  # they name what is not there
                return typing.get_type_hints(code, include_extras=True)
        return inspect.getsource(code) if name == "source" else getattr(code, name, None)
    except (OSError, TypeError, NameError):  # there is no source
        return None


def _sources(value: object, file: str) -> Iterator[types.CodeType]:
    """The code of the module that has a value, and of the project's modules that it was imported from."""
    seen: set[str] = set()
    waiting = [file]
    while waiting:
        here = waiting.pop()
        code = module_code(here) if here and here not in seen else None
        seen.add(here)
        if code is None:
            continue
        yield code
        package = next((vars(each).get("__package__") for each in _modules() if each.__file__ == here), "")
        for found in references(code).imports:
            name = "." * found.level + found.module
            module = sys.modules.get(importlib.util.resolve_name(name, package) if package else name)
            there = getattr(module, "__file__", None)
            if (
                there
                and any(each is value for each in vars(module).values())
                and origin_of(name, there).local
            ):
                waiting.append(there)


def _modules() -> Iterator[types.ModuleType]:
    return (each for each in list(sys.modules.values()) if getattr(each, "__file__", None))


def _shallow(target: object) -> bytes:
    """A piece of code without the code that it reaches: enough to sort the members of a set."""
    code = getattr(target, "__code__", None)
    name = str(getattr(target, "__qualname__", "") or getattr(target, "__name__", ""))
    return text(name) + raw(listing(code).digest if isinstance(code, types.CodeType) else b"")


def _as_shown(part: FingerprintPart, counts: dict[str, int]) -> CodePart:
    count = counts[part.name] = counts.get(part.name, 0) + 1
    where = ""
    if part.file:
        where = os.path.relpath(part.file, project_root(part.file)) if os.path.isabs(part.file) else part.file
        where += f":{part.line}" if part.line else ""
    return CodePart(
        name=part.name if count == 1 else f"{part.name} #{count}",
        kind=part.kind,
        digest=part.digest.hex()[:32],
        where=where,
        text=part.text(),
    )


def _leaf(file: str) -> Callable[[object], Key | None]:
    """Replaces paths inside the project by relative ones, so that another checkout has the same keys, and the environment by its name.

    What code looks up in the environment is an observed input.
    """
    root = project_root(file) if os.path.isabs(file) else ""

    def leaf(value: object) -> Key | None:
        if value is os.environ or value is os.environb:
            return "os.environ"
        if not root or not isinstance(value, str | pathlib.PurePath):
            return None
        path = str(value)
        if path != root and not path.startswith(root + os.sep):
            return None
        return f"{type(value).__name__} in the project: {path[len(root) :]}"

    return leaf
