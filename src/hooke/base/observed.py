"""What a task read: files, folders' listings and environment variables that it did not declare, and data sets.

A manifest holds where everything in it has the same content as when it was read. Paths below the project's folder are relative
to it, so a manifest holds in another checkout and on another host, too. Nothing here knows tasks or stores.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec
from blake3 import blake3

from hooke.base.files import content_digest, is_young, stamp_of
from hooke.base.ref import DataSetRead, ItemsObserved, Manifest, Observed

__all__ = [
    "FRESH_NS",
    "DataSetsRead",
    "InputsNow",
    "StoredPart",
    "absolute_path",
    "as_unshared",
    "describe",
    "first_changed",
    "is_left_out",
    "is_secret",
    "manifest_id",
    "merged",
    "name_of",
    "note_data_set",
    "note_result",
    "observed_file",
    "observed_listing",
    "observed_tree",
    "observed_variable",
    "read_by_any",
    "renew_results",
]

FRESH_NS = 2_000_000_000
"""A file that is younger may change again without another size or time: it is read, and its times are not kept."""

# --- Does a manifest still hold?


def first_changed(
    manifest: Iterable[Observed],
    *,
    root: str | Path,
    environment: Mapping[str, str],
    secret: bytes | None = None,
) -> Observed | None:
    """The first input that differs from when it was read; None if the manifest holds.

    `root` is the project's folder, `environment` the driver's variables, and `secret` that of the store. Files are compared by
    size and times first, and read only where these say nothing. A file that can't be read has changed.
    """
    for observed in manifest:
        if not _holds(observed, str(root), environment, secret):
            return observed
    return None


def describe(observed: Observed, *, root: str | Path | None = None) -> str:
    """What a changed input is, as the reason why a task runs again. With `root`, a file that is missing now is said to be gone."""
    name = observed.name
    if observed.kind == "variable":
        return f"environment variable {name} changed"
    if observed.kind == "wrote":
        return f"{name}, which it writes and another task reads, is gone or changed"
    gone = root is not None and not os.path.lexists(absolute_path(name, root))
    shown = f"{name.rstrip('/')}/" if observed.kind in ("listing", "tree") else name
    where = " on the workers' hosts" if observed.unshared else ""
    if gone and observed.kind != "absent":
        return f"{shown} is gone (read, not declared)"
    if observed.kind == "absent":
        return f"{name} exists now{where} (the task looked for it, and there was none)"
    if observed.kind == "listing":
        return f"the files in {shown} are others{where} (listed, not declared)"
    if observed.kind == "tree":
        return f"files in {shown} changed{where} (read, not declared)"
    return f"{name} changed{where} (read, not declared)"


def _holds(observed: Observed, root: str, environment: Mapping[str, str], secret: bytes | None) -> bool:
    name = observed.name
    if observed.kind == "variable":
        now = observed_variable(name, environment.get(name), secret)
        return now.digest == observed.digest or is_secret(name)
    path = absolute_path(name, root)
    try:
        if observed.kind == "absent":
            return not os.path.lexists(path)
        if observed.kind == "file":
            return _file_holds(observed, path)
        if observed.kind == "listing":
            return _listing_digest(path, observed.own) == observed.digest
        if observed.stats and _stats_of(path, observed.own) == observed.stats:
            return True
        return _tree_digest(path, observed.own) == observed.digest
    except OSError:
        return False


def _file_holds(observed: Observed, path: str) -> bool:
    facts = os.stat(path)
    if observed.size != facts.st_size:
        return False
    known = (observed.mtime_ns, observed.ctime_ns) == (facts.st_mtime_ns, facts.st_ctime_ns)
    return (known and not _is_fresh(facts)) or _digest_of(path) == observed.digest


# --- Manifests together, and checked together.


def merged(manifests: Iterable[Manifest]) -> Manifest:
    """One manifest of all inputs, sorted. An input that was read with two contents stays twice: it holds no more."""
    found = {_content_of(each): each for manifest in manifests for each in manifest}
    return tuple(found[key] for key in sorted(found))


_Content: TypeAlias = tuple[str, str, str, tuple[str, ...], bool]


def _content_of(observed: Observed) -> _Content:
    """What it was, and on whose disk, without times."""
    return observed.kind, observed.name, observed.digest, observed.own, observed.unshared


def as_unshared(observed: Iterable[ItemsObserved]) -> tuple[ItemsObserved, ...]:
    """What was read on a host that does not share the files of the driver's machine."""
    return tuple(
        msgspec.structs.replace(
            each,
            inputs=tuple(
                one if one.kind == "variable" else msgspec.structs.replace(one, unshared=True)
                for one in each.inputs
            ),
        )
        for each in observed
    )


def manifest_id(manifest: Manifest) -> str:
    """The digest of names and contents, without times."""
    parts = (
        f"{each.kind}\0{each.name}\0{each.digest}\0{each.own}" + ("\0unshared" if each.unshared else "")
        for each in manifest
    )
    return blake3("\0\0".join(parts).encode(errors="surrogateescape")).hexdigest(length=16)


class InputsNow:
    """The inputs as they are now. What was found is remembered until `forget`, so that results with common inputs check them once.

    If tasks run on hosts that may not share this machine's files (`unshared`), what this process finds here says nothing of files that
    such a host has read, or that are not here. These are `unknown` until a worker has looked at them (`looked_at`). What is unknown
    counts as changed meanwhile.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        environment: Mapping[str, str],
        secret: bytes | None = None,
        unshared: bool = False,
    ) -> None:
        self._root = root
        self._environment = environment
        self._secret = secret
        self._same: dict[_Content, bool] = {}
        self._unshared = unshared
        self.unknown: dict[Observed, None] = {}
        """Inputs that were looked for since `take_unknown`, and that a worker has to look at."""
        self.forgotten = 0
        """How often `forget` was called."""
        self.variables: set[str] = set()
        """The variables in the manifests that were looked at: what tasks may read again."""
        self._wanted: set[str] = set()
        """Files that some result was made from, and that are gone or others now, and folders."""

    def forget(self, wrote: Iterable[str] = ()) -> None:
        """Look again from now on: a task has ended, which may have written files, `wrote` among them."""
        self._same.clear()
        self.forgotten += 1
        self._wanted.difference_update(wrote)

    def first_changed(self, manifest: Manifest) -> Observed | None:
        """The first input that differs from when it was read; None if the manifest holds.

        A file that a task wrote differs if it is gone or changed and a result that was looked up before was made from it: then the
        task has to write it again.
        """
        self.variables.update(each.name for each in manifest if each.kind == "variable")
        unknown: dict[Observed, None] = {}
        for each in manifest:
            same = self._is_same(each)
            if same is None:
                unknown[each] = None
            elif not same:
                if each.kind != "variable":
                    self._wanted.add(each.name)
                return msgspec.structs.replace(each, unshared=self._is_elsewhere(each))
        self.unknown |= unknown
        return next(iter(unknown), None)

    def take_unknown(self) -> Manifest:
        """The inputs that a worker has to look at, of the manifests since the last call."""
        taken = tuple(self.unknown)
        self.unknown.clear()
        return taken

    def looked_at(self, inputs: Iterable[Observed], changed: Iterable[Observed]) -> None:
        """A worker has looked at these inputs: all but the `changed` ones are the same where tasks run."""
        self._same |= {_content_of(each): True for each in inputs}
        self._same |= {_content_of(each): False for each in changed}

    def _is_same(self, observed: Observed) -> bool | None:
        """None if only a worker can tell."""
        if observed.kind == "wrote":
            return observed.name not in self._wanted and not self._is_lacking(observed.name)
        key = _content_of(observed)
        if key not in self._same:
            if self._is_elsewhere(observed):
                return None
            changed = first_changed(
                (observed,), root=self._root, environment=self._environment, secret=self._secret
            )
            self._same[key] = changed is None
        return self._same[key]

    def _is_elsewhere(self, observed: Observed) -> bool:
        """Whether an input is a file of the hosts where tasks run, which this process cannot see."""
        if not self._unshared or observed.kind in ("variable", "wrote"):
            return False
        return observed.unshared or (
            observed.kind != "absent" and not os.path.lexists(absolute_path(observed.name, self._root))
        )

    def _is_lacking(self, name: str) -> bool:
        """Whether a file is gone of a folder that a result was made from."""
        above = {str(folder) for folder in PurePosixPath(name).parents}
        return not self._wanted.isdisjoint(above) and not os.path.lexists(absolute_path(name, self._root))


# --- How an input is noted.


def observed_file(name: str, path: str) -> Observed:
    """A regular file as it is now. Raises OSError."""
    before = os.stat(path)
    digest = _digest_of(path)
    facts = os.stat(path)
    if stamp_of(before) != stamp_of(facts) or _is_fresh(facts):
        return Observed(kind="file", name=name, digest=digest, size=facts.st_size)
    return Observed(
        kind="file",
        name=name,
        digest=digest,
        size=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        ctime_ns=facts.st_ctime_ns,
    )


def observed_listing(name: str, names: Iterable[str], own: Iterable[str]) -> Observed:
    """A folder that had these names when it was listed; `own` are those that the attempt wrote, before or after that."""
    mine = tuple(sorted(set(own)))
    return Observed(kind="listing", name=name, digest=_names_digest(names, mine), own=mine)


def observed_tree(name: str, path: str, own: Iterable[str]) -> Observed:
    """All files directly in a folder, as they are now, but for the attempt's own. Raises OSError."""
    mine = tuple(sorted(set(own)))
    before = _stats_of(path, mine)
    digest = _tree_digest(path, mine)
    settled = before == _stats_of(path, mine)
    return Observed(kind="tree", name=name, digest=digest, own=mine, stats=before if settled else "")


def observed_variable(name: str, value: str | None, secret: bytes | None = None) -> Observed:
    """A variable with this value, None if it is not set. The digest is keyed with the store's secret, if it has one."""
    if value is None or is_secret(name):
        return Observed(kind="variable", name=name)
    hasher = blake3(derive_key_context="hooke 2026 observed variable")
    hasher.update(secret or b"").update(b"\0" + name.encode() + b"\0")
    hasher.update(value.encode(errors="surrogateescape"))
    return Observed(kind="variable", name=name, digest=hasher.hexdigest(length=16))


def _digest_of(path: str) -> str:
    return content_digest(path, age_ns=FRESH_NS)[:16].hex()


def _is_fresh(facts: os.stat_result) -> bool:
    return is_young(facts, FRESH_NS)


def _names_digest(names: Iterable[str], own: Iterable[str]) -> str:
    counted = sorted({name for name in names if not _is_hidden(name)}.difference(own))
    return blake3("\0".join(counted).encode(errors="surrogateescape")).hexdigest(length=16)


def _listing_digest(path: str, own: Iterable[str]) -> str:
    return _names_digest(os.listdir(path), own)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _tree_files(path: str, own: Iterable[str]) -> list[tuple[str, str, os.stat_result]]:
    """(name, path, facts) of the files directly in a folder, by name."""
    left = set(own)
    with os.scandir(path) as entries:
        found = [
            (each.name, each.path, each.stat())
            for each in entries
            if not _is_hidden(each.name) and each.name not in left and each.is_file()
        ]
    return sorted(found)


def _tree_digest(path: str, own: Iterable[str]) -> str:
    hasher = blake3()
    for name, file, _ in _tree_files(path, own):
        hasher.update(f"{name}\0{_digest_of(file)}\0".encode(errors="surrogateescape"))
    return hasher.hexdigest(length=16)


def _stats_of(path: str, own: Iterable[str]) -> str:
    """The digest of the names, sizes and times in a folder; empty where a file is too young for that to say anything."""
    files = _tree_files(path, own)
    if any(_is_fresh(facts) for _, _, facts in files):
        return ""
    hasher = blake3()
    for name, _, facts in files:
        hasher.update(f"{name}\0{stamp_of(facts)[:3]}\0".encode(errors="surrogateescape"))
    return hasher.hexdigest(length=16)


def read_by_any(ranks: Iterable[Iterable[ItemsObserved]]) -> tuple[ItemsObserved, ...]:
    """What the items of a gang's attempt read, in any of its ranks."""
    found: dict[int, list[ItemsObserved]] = {}
    for each in (each for rank in ranks for each in rank):
        for item in range(each.lo, each.hi):
            found.setdefault(item, []).append(each)
    return tuple(
        ItemsObserved(
            lo=item,
            hi=item + 1,
            inputs=tuple(sorted({one for each in parts for one in each.inputs}, key=_order)),
            unsettled=next((each.unsettled for each in parts if each.unsettled), ""),
            wrote=tuple(sorted({name for each in parts for name in each.wrote})),
        )
        for item, parts in sorted(found.items())
    )


def _order(observed: Observed) -> tuple[str, ...]:
    return observed.kind, observed.name, observed.digest


# --- Data sets of which rows are read: who opens them says so, wherever the reading goes on.

_reading: ContextVar[DataSetsRead | None] = ContextVar("hooke_data_sets_read", default=None)
_process: list[DataSetsRead] = []
"""Those of the process, of which the last one counts: threads of a task inherit no context variable."""
_DEEPEST = 4
_MOST_PARTS = 1000
"""Values that are looked at for one that is a part of a result."""


class StoredPart(NamedTuple):
    """A value that was loaded from the store: the elements `start..start+count` of stored lists, one list, at `path`.

    A stored object as a whole is one piece that begins with -1.
    """

    value: Any
    pieces: tuple[tuple[str, int, int], ...]
    """Digest of the stored object, start and count."""
    path: tuple[Any, ...] = ()

    def part(self, inside: tuple[Any, ...]) -> tuple[str, str, str]:
        """The stored object with what is at a place in this value, the digest of that, and where it is there."""
        path = self.path + inside
        if path and (len(self.pieces) > 1 or self.pieces[0][2] > 1):
            at, path = path[0], path[1:]
            for stored, start, count in self.pieces:
                if at < count:
                    return stored, _digest_at(f"{stored}[{start + at}]"), _subscripts(path)
                at -= count
        stored, start, _ = self.pieces[0]
        if start < 0:
            return stored, stored[:32], _subscripts(path)
        return stored, _digest_at(" ".join(map(str, self.pieces))), _subscripts(path)


class DataSetsRead:
    """Inside, collects the data sets that are read, each once, and calls `told` with each."""

    __slots__ = ("_found", "_keys", "_renewed", "_results", "_token", "_told")

    def __init__(self, told: Callable[[DataSetRead], None] | None = None) -> None:
        self._told = told
        self._keys: set[object] = set()
        self._found: dict[DataSetRead, None] = {}
        self._results: list[StoredPart] = []
        self._renewed: int | None = None
        """How many of them are the same for all items of the attempt."""
        self._token: Token[DataSetsRead | None] | None = None

    def __enter__(self) -> Self:
        self.open()
        self._token = _reading.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _reading.reset(self._token)
        self.close()

    def open(self) -> None:
        """Collect what all threads of the process read from now on that are not within another one."""
        _process.append(self)

    def close(self) -> None:
        """Collect no more."""
        _process.remove(self)

    @property
    def found(self) -> tuple[DataSetRead, ...]:
        """What was read so far."""
        return tuple(self._found)

    @property
    def results(self) -> tuple[StoredPart, ...]:
        """The results of tasks that were loaded."""
        return tuple(self._results)

    def loaded(self, results: Iterable[StoredPart]) -> None:
        """These results of tasks were loaded, now or by an earlier attempt of the process."""
        self._results += results

    def renew(self, copies: Iterable[tuple[Any, Any]]) -> None:
        """The next item of a map begins: what only the one before it had is gone. It gets `copies` of values, each after its original."""
        if self._renewed is None:
            self._renewed = len(self._results)
        del self._results[self._renewed :]
        for value, copy in copies:
            self._results += [each._replace(value=copy) for each in self._results if each.value is value]

    def note(self, key: object, describe: Callable[[], DataSetRead], value: Any) -> None:
        """See `note_data_set`."""
        if key in self._keys:
            return
        self._keys.add(key)
        data_set = describe()
        for each in self._results if value is not None else ():
            if (inside := _path_to(value, each.value)) is not None:
                result, digest, part = each.part(inside)
                data_set = msgspec.structs.replace(data_set, result=result, digest=digest, part=part)
                break
        if data_set not in self._found:
            self._found[data_set] = None
            if self._told is not None:
                self._told(data_set)


def note_data_set(key: object, describe: Callable[[], DataSetRead], value: Any = None) -> None:
    """Rows of a data set are read: that of `key`, which `describe` describes when it is new. `value`: the rows, if they are in memory.

    Nobody may ask, as outside of tasks and runs.
    """
    reading = _reading.get() or (_process[-1] if _process else None)
    if reading is not None:
        reading.note(key, describe, value)


def note_result(result: StoredPart) -> None:
    """A value was loaded from the store."""
    reading = _reading.get()
    if reading is not None:
        reading.loaded([result])


def renew_results(copies: Iterable[tuple[Any, Any]] = ()) -> None:
    """See `DataSetsRead.renew`."""
    reading = _reading.get()
    if reading is not None:
        reading.renew(copies)


def _path_to(value: Any, whole: Any) -> tuple[Any, ...] | None:
    """Where a value is in nested dicts, lists and tuples; empty if it is all of it, None if it is not in it."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(whole, ())]
    seen = 0
    while waiting and seen < _MOST_PARTS:
        each, path = waiting.pop()
        seen += 1
        if each is value:
            return path
        if len(path) < _DEEPEST and type(each) in (dict, list, tuple):
            inside: Iterable[tuple[Any, Any]] = each.items() if isinstance(each, dict) else enumerate(each)
            waiting += [(part, (*path, name)) for name, part in itertools.islice(inside, _MOST_PARTS)]
    return None


def _subscripts(path: tuple[Any, ...]) -> str:
    return "".join(f"[{name!r}]" for name in path)


def _digest_at(place: str) -> str:
    return blake3(place.encode()).hexdigest(length=16)


# --- Names of paths and of variables.


def name_of(path: str, root: str) -> str:
    """The name of an absolute path in a manifest: relative to the project's folder if below it."""
    below = path.removeprefix(root.rstrip(os.sep) + os.sep)
    if path == root:
        return "."
    return below.replace(os.sep, "/")


def absolute_path(name: str, root: str | Path) -> str:
    """The path that a name in a manifest means in the project's folder `root`."""
    return os.path.normpath(os.path.join(root, name))


_SECRET = re.compile(r"TOKEN(?!S|IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|APIKEY|_KEY$|_KEY_ID$")

_LEFT_OUT = re.compile(
    r"(?:_|PATH|HOME|USER|USERNAME|LOGNAME|SHELL|SHLVL|TERM|COLUMNS|LINES|DISPLAY|PWD|OLDPWD|TMPDIR|TEMP|TMP|HOSTNAME"
    r"|EDITOR|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV|XDG_\w+|SSH_\w+|PYTEST_CURRENT_TEST|PYTEST_XDIST_\w+"
    # Which process of a group this is, and on which devices and threads it runs.
    r"|(?:LOCAL_|NODE_|GROUP_|ROLE_)?RANK|(?:LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|MASTER_ADDR|MASTER_PORT|SLURM_\w+|OMPI_\w+|PMIX?_\w+"
    r"|CUDA_\w+|NVIDIA_VISIBLE_DEVICES|(?:HIP|ROCR|GPU)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL"
    r"|\w+_NUM_THREADS|(?:VECLIB_MAXIMUM|POLARS_MAX|NUMEXPR_MAX)_THREADS|TF_NUM_\w+_THREADS|LOKY_MAX_CPU_COUNT|PYTHON_CPU_COUNT"
    # Those of Hooke, and what it or a cluster sets in workers.
    r"|HOOKE_\w+|MLFLOW_\w+|RAY_\w+|DASK_\w+)"
)


def is_secret(name: str) -> bool:
    """Whether a variable is one whose value must be kept nowhere, such as HF_TOKEN. A rotated one changes no result."""
    return _SECRET.search(name.upper()) is not None


def is_left_out(name: str) -> bool:
    """Whether a variable describes this process or machine, not an input, such as PATH or RANK: it is not observed."""
    return _LEFT_OUT.fullmatch(name) is not None
