"""What happened to paths and variables in an attempt, and what follows: its items' inputs, and why one is not certain.

Which paths count: regular files below the project, but for environments, caches and Hooke's own; elsewhere those that an argument or a
text in the code names. A file that the attempt made first is its own, and no input. One that it read and then changed, or that
changed meanwhile, makes the result unsettled.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.files import Stamp, stamp_of
from hooke.base.observed import name_of, observed_file, observed_listing, observed_tree
from hooke.base.ref import ItemsObserved, Observed
from hooke.base.user_code import HOOKE_FOLDER
from hooke.keys.reached_code import ReachedCode

__all__ = ["AttemptRecord", "PathRules", "ReadEvent", "Settled", "settle"]

MOST_FILES = 1000
"""An item that reads more files notes one digest per folder instead."""


def _stamp_now(path: str) -> Stamp | None:
    """A file's stamp now; None if there is none."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


class ReadEvent(msgspec.Struct, frozen=True, array_like=True):
    """One thing that happened to a path or a variable in an item.

    `kind` is `read`, `handed` (its name was given to another process), `list`, `truncate` (or create), `change` (written from
    within), `remove` or `variable`. `stamp` is the file's just before; None if there was none.
    """

    attempt: int
    item: int
    kind: str
    name: str
    stamp: Stamp | None = None
    names: tuple[str, ...] = ()
    digest: str = ""
    at: int = 0
    """By the monotonic clock, which is the same for all processes of a machine."""


class AttemptRecord(msgspec.Struct, kw_only=True, eq=False):
    """What has happened in an attempt, or, without one, in the process."""

    rules: PathRules
    number: int
    reach: ReachedCode = msgspec.field(default_factory=ReachedCode)
    lo: int = 0
    done: Sequence[Any] = ()
    """The results so far: their number tells the item."""
    others: frozenset[int] = frozenset()
    """Threads that are not the attempt's."""
    baseline: Mapping[bytes, bytes] | None = None
    """The environment before the attempt: a variable that differs was set by the attempt itself."""
    arguments: Callable[[int], Iterable[Any]] = lambda _: ()
    events: dict[tuple[int, str, str], tuple[ReadEvent, tuple[types.CodeType, ...]]] = msgspec.field(
        default_factory=dict
    )
    variables: set[str] = msgspec.field(default_factory=set)
    """Values of variables that were looked up: they may name files."""
    hits: dict[types.CodeType, int] = msgspec.field(default_factory=dict)
    imported: set[str] = msgspec.field(default_factory=set)
    """Files of modules that the attempt loaded and the key does not have."""
    trouble: str = ""
    stale: str = ""
    """What the process keeps in memory for this function and is not so any more."""

    @property
    def item(self) -> int:
        """The item that runs now."""
        return self.lo + len(self.done)


# --- Which paths count.

_NEVER = frozenset(
    {
        ".cache", ".eggs", ".git", ".hg", ".hooke", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache",
        ".svn", ".tox", ".venv", "__pycache__", "conda-meta", "dist-packages", "mlartifacts", "mlruns", "node_modules",
        "site-packages", "wandb",
    }
)  # fmt: skip
"""Folders below a project that hold no inputs: environments, caches, what Hooke and trackers store."""

_CACHES = (
    *("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME", "MPLCONFIGDIR"),
    *("NUMBA_CACHE_DIR", "PIP_CACHE_DIR", "UV_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"),
)
"""Variables that name folders of caches."""


def _temporary_folders() -> Iterator[str]:
    yield from ("/tmp", "/var/tmp", tempfile.gettempdir())  # noqa: S108 - what is there does not count


def _special_folders() -> Iterator[str]:
    """Folders with the interpreter, libraries, caches and devices."""
    yield from ("/proc", "/sys", "/dev", "/run", sys.prefix, *sysconfig.get_paths().values())
    if sys.base_prefix not in ("/usr", "/usr/local"):
        yield sys.base_prefix
    home = os.path.expanduser("~")
    yield from (
        os.path.join(home, name) for name in (".cache", ".matplotlib", ".config/matplotlib", ".keras")
    )
    yield from filter(None, map(os.environ.get, _CACHES))
    yield HOOKE_FOLDER


class PathRules:
    """Which paths are inputs, for the project in the folder `root`. `secret` is that of the store."""

    def __init__(
        self,
        root: str,
        secret: bytes | None = None,
        *,
        unshared: bool = False,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        """`unshared`: this host does not share the files of the driver's machine.

        `copies`: folder here -> that of the driver's project, relative to it, which it is a copy of.
        """
        self.root = os.path.abspath(root)
        self.secret = secret
        self.unshared = unshared
        self._copies = dict(copies or {})
        self._copies |= {os.path.realpath(folder): name for folder, name in self._copies.items()}
        self.copied: set[Observed] = set()
        """Inputs that were read in a copy, which never changes."""
        self._roots = {self.root, os.path.realpath(root), *self._copies}
        special = _with_real(_special_folders())
        self.temporary = _with_real(_temporary_folders())
        """Folders whose files count only if they, or a folder below, are named."""
        inside = (
            each for each in special | self.temporary if any(_below(each, root) for root in self._roots)
        )
        self._inside = tuple(f"{each}/" for each in inside)
        self._outside = tuple(f"{each}/" for each in special)
        self._known: dict[str, bool] = {}

    def exclude(self, folder: Path) -> None:
        """Nothing below this folder is an input."""
        self._inside += (f"{folder}/", f"{os.path.realpath(folder)}/")
        self._outside += (f"{folder}/", f"{os.path.realpath(folder)}/")

    def is_below(self, path: str) -> bool:
        """Whether a path lies in the project."""
        return self._root_of(path) is not None

    def name(self, path: str) -> str:
        """Its name in a manifest."""
        root = self._root_of(path) or self.root
        name = name_of(path, root)
        return os.path.normpath(f"{self._copies[root]}/{name}") if root in self._copies else name

    def noted(self, observed: Observed, path: str) -> Observed:
        """An input, with what the driver has to know of the place where it was read."""
        if self._copies and self._root_of(path) in self._copies:
            self.copied.add(observed)
            return observed
        return msgspec.structs.replace(observed, unshared=True) if self.unshared else observed

    def _root_of(self, path: str) -> str | None:
        return next((each for each in self._roots if path == each or _below(path, each)), None)

    def counts(self, path: str) -> bool:
        """Whether a path below the project is an input if it is read."""
        folder, name = os.path.split(path)
        if path in self._roots:
            return True
        if name in _NEVER or name.endswith((".pyc", ".pyo")) or name.startswith("mlflow.db"):
            return False
        if folder not in self._known:
            self._known[folder] = self._folder_counts(folder)
        return self._known[folder] and not f"{path}/".startswith(self._inside)

    def may_be_named(self, path: str) -> bool:
        """Whether a path outside the project is an input if it is read and named by an argument or by a text in the code."""
        if f"{path}/".startswith(self._outside):
            return False
        return _NEVER.isdisjoint(path.split("/"))

    def _folder_counts(self, folder: str) -> bool:
        root = self._root_of(folder)
        if root is None:
            return False
        while folder != root:
            folder, name = os.path.split(folder)
            if name in _NEVER or name.endswith((".egg-info", ".dist-info")):
                return False
            if os.path.lexists(os.path.join(folder, name, "pyvenv.cfg")):
                return False
        return True


def _with_real(folders: Iterable[str]) -> frozenset[str]:
    """Folders, also as they are without links."""
    return frozenset(path.rstrip("/") for each in folders for path in (each, os.path.realpath(each)))


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


# --- From events to inputs.


class Settled(msgspec.Struct, kw_only=True):
    """The inputs of an attempt, before they are put together by item."""

    inputs: dict[tuple[str, str], Observed] = msgspec.field(default_factory=dict)
    """(kind of event, name) -> the input."""
    read_by: dict[tuple[str, str], set[int]] = msgspec.field(default_factory=dict)
    wrote: dict[int, set[str]] = msgspec.field(default_factory=lambda: defaultdict(set))
    unsettled: dict[int, str] = msgspec.field(default_factory=dict)

    def items(self, lo: int, hi: int, kept: Mapping[Observed, int]) -> tuple[ItemsObserved, ...]:
        """By items `lo..hi`, equal neighbours together. `kept`: an input that the process kept in memory -> the first item that has it."""
        inputs: dict[int, dict[Observed, None]] = defaultdict(dict)
        for key, readers in self.read_by.items():
            for item in readers:
                inputs[item][self.inputs[key]] = None
        for observed, first in kept.items():
            for item in range(max(lo, first), hi):
                inputs[item][observed] = None
        found: list[ItemsObserved] = []
        for item in sorted({*inputs, *self.wrote, *self.unsettled}):
            if not lo <= item < hi:
                continue
            manifest = tuple(
                sorted(inputs.get(item, ()), key=lambda each: (each.kind, each.name, each.digest))
            )
            here = ItemsObserved(
                lo=item,
                hi=item + 1,
                inputs=manifest,
                unsettled=self.unsettled.get(item, ""),
                wrote=tuple(sorted(self.wrote.get(item, ()))),
            )
            last = found[-1] if found else None
            if (
                last is not None
                and msgspec.structs.replace(here, lo=last.lo, hi=last.hi) == last
                and last.hi == item
            ):
                found[-1] = msgspec.structs.replace(last, hi=item + 1)
            else:
                found.append(here)
        return tuple(found)


class _Folding:
    def __init__(self, rules: PathRules, declared: Iterable[str]) -> None:
        self.rules = rules
        self.settled = Settled()
        self._declared = frozenset(declared)
        self._stamps: dict[str, Stamp | None] = {}
        self._given: set[str] = set()
        self._readers: dict[str, set[int]] = defaultdict(set)
        self._own: set[str] = set()
        self._changed: set[str] = set()
        self._listings: dict[str, tuple[str, ...]] = {}
        self._listed_by: dict[str, set[int]] = defaultdict(set)

    def add(self, event: ReadEvent) -> None:
        """Fold one event; they come in their order."""
        getattr(self, f"_{event.kind}")(event)

    def _variable(self, event: ReadEvent) -> None:
        key = ("variable", event.name)
        observed = Observed(kind="variable", name=event.name, digest=event.digest)
        self.settled.inputs.setdefault(key, observed)
        self.settled.read_by.setdefault(key, set()).add(event.item)

    def _read(self, event: ReadEvent) -> None:
        path = event.name
        if path in self._declared or self._is_own(path):
            return
        if path in self._given and event.stamp != self._stamps[path]:
            self._output(path)
            return
        self._given.discard(path)
        self._stamps.setdefault(path, event.stamp)
        self._readers[path].add(event.item)
        if path in self._changed:
            self._spoil(path, "it changed {} and then read it")

    def _handed(self, event: ReadEvent) -> None:
        path = event.name
        if path in self._declared or self._is_own(path):
            return
        if path not in self._stamps:
            self._given.add(path)
            self._stamps[path] = event.stamp
        self._readers[path].add(event.item)

    def _list(self, event: ReadEvent) -> None:
        if self._is_own(event.name):
            return
        if event.stamp is None:
            self._read(event)
            return
        self._listings.setdefault(event.name, event.names)
        self._listed_by[event.name].add(event.item)

    def _truncate(self, event: ReadEvent) -> None:
        path = event.name
        self._wrote(event)
        if path in self._stamps and path not in self._given:
            self._readers[path].add(event.item)
            self._spoil(
                path,
                "it read {} and then changed it"
                if self._stamps[path]
                else "it looked for {} and then made it",
            )
        else:
            self._forget(path)
            self._own.add(path)

    def _change(self, event: ReadEvent) -> None:
        path = event.name
        self._wrote(event)
        if not self._is_own(path):
            self._changed.add(path)
            if path in self._stamps:
                self._readers[path].add(event.item)

    def _remove(self, event: ReadEvent) -> None:
        path = event.name
        if self._is_own(path):
            self.settled.wrote[event.item].discard(self.rules.name(path))
        elif path in self._stamps:
            self._readers[path].add(event.item)
            self._spoil(path, "it read {} and then removed it")
        else:
            self._own.add(path)

    def _wrote(self, event: ReadEvent) -> None:
        self.settled.wrote[event.item].add(self.rules.name(event.name))

    def _is_own(self, path: str) -> bool:
        if not self._own:
            return False
        while len(path) > 1:
            if path in self._own:
                return True
            path = os.path.dirname(path)
        return False

    def _spoil(self, path: str, why: str) -> None:
        for item in self._readers[path]:
            self.settled.unsettled.setdefault(item, why.format(self.rules.name(path)))

    def _forget(self, path: str) -> None:
        self._stamps.pop(path, None)
        self._given.discard(path)
        self._readers.pop(path, None)

    def finish(self) -> Settled:
        """Digest what was read, and look whether it is as it was."""
        self._forget_outputs()
        trees = self._trees()
        for path, stamp in self._stamps.items():
            folder = os.path.dirname(path)
            whole = self._readers[path] & trees.get(folder, set())
            alone = self._readers[path] - whole
            if alone:
                self._input(("file", path), self._observed(path, stamp), alone)
            self._look_again(path, stamp)
        for folder, items in trees.items():
            self._input(("tree", folder), self._observed_tree(folder), items)
        for path, names in self._listings.items():
            observed = observed_listing(self.rules.name(path), names, self._own_in(path))
            self._input(("listing", path), observed, self._listed_by[path])
        return self.settled

    def _input(self, key: tuple[str, str], observed: Observed, items: set[int]) -> None:
        self.settled.inputs[key] = self.rules.noted(observed, key[1])
        self.settled.read_by[key] = set(items)

    def _observed(self, path: str, stamp: Stamp | None) -> Observed:
        name = self.rules.name(path)
        if stamp is None:
            return Observed(kind="absent", name=name)
        try:
            return observed_file(name, path)
        except OSError:  # it is gone, or was never readable: `_look_again` says so
            return Observed(kind="file", name=name)

    def _observed_tree(self, folder: str) -> Observed:
        name = self.rules.name(folder)
        try:
            return observed_tree(name, folder, self._own_in(folder))
        except OSError:  # so are its files, of which `_look_again` has said so
            return Observed(kind="tree", name=name)

    def _look_again(self, path: str, stamp: Stamp | None) -> None:
        now = _stamp_now(path)
        if now == stamp:
            return
        if stamp is None:
            why = "{} appeared while the task ran"
        elif now is None:
            why = "{} was removed while the task ran"
        else:
            why = (
                "it read {} and then changed it" if path in self._changed else "{} changed while the task ran"
            )
        self._spoil(path, why)

    def _forget_outputs(self) -> None:
        for path in [each for each in self._given if _stamp_now(each) != self._stamps[each]]:
            self._output(path)

    def _output(self, path: str) -> None:
        """A file whose name another process got, and that changed since, is what that process wrote."""
        for item in self._readers[path]:
            self.settled.wrote[item].add(self.rules.name(path))
        self._forget(path)
        self._own.add(path)

    def _trees(self) -> dict[str, set[int]]:
        """Folder -> the items that read so many files that it counts as a whole for them."""
        counts: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for path, stamp in self._stamps.items():
            for item in self._readers[path] if stamp is not None else ():
                counts[item][os.path.dirname(path)] += 1
        found: dict[str, set[int]] = defaultdict(set)
        for item, folders in counts.items():
            if sum(folders.values()) > MOST_FILES:
                for folder in folders:
                    found[folder].add(item)
        return dict(found)

    def _own_in(self, folder: str) -> set[str]:
        below = [path.removeprefix(f"{folder}/") for path in self._own if _below(path, folder)]
        return {each.split("/")[0] for each in below}


def settle(events: Iterable[ReadEvent], rules: PathRules, declared: Iterable[str] = ()) -> Settled:
    """The inputs that follow from events, in their order. `declared`: paths whose content is in the key."""
    folding = _Folding(rules, declared)
    for event in events:
        folding.add(event)
    return folding.finish()
