"""Files as results: stored by content when a task returns them, put back where they were when they are needed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import InputChanged, UsageError
from hooke.base.files import make_folders, stamp_of, write_all, writing
from hooke.base.intervals import Segment
from hooke.base.observed import observed_file
from hooke.base.ref import FileRef, ItemsObserved, Ref
from hooke.keys.file import File, content_key, key_of_content, path_within, reduce_result
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.store.codecs import encode
from hooke.store.store import Store

__all__ = ["FileResults", "ProducedFiles", "named_inputs"]

_TRIES = 5
"""How often a file is looked at that something else is writing to."""

_BLOCK = 8 << 20
_PATH = type(Path())
_OWN = ".hooke"


def named_inputs(ref: Ref, root: Path, lo: int) -> tuple[ItemsObserved, ...]:
    """The files of a result whose content is not stored, as inputs: the result of items `lo...` counts only while they are the same."""
    found: list[ItemsObserved] = []
    for file in ref.files:
        if not file.digest:
            item = lo + file.item
            with suppress(OSError):  # it is gone again, as whoever needs it will say
                named = observed_file(file.path, str(root / file.path))
                found.append(ItemsObserved(lo=item, hi=item + 1, inputs=(named,)))
    return tuple(found)


class FileResults:
    """The files in results, for a process that works on the project in the folder `root`."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self._store = store

    # -- what a task returns -----------------------------------------------------------------------------

    def put(self, value: Any, *, since_ns: int, inputs: Sequence[File]) -> Ref:
        """Store a result with the content of the files that its task wrote since `since_ns`, or got from `inputs`.

        Raises what Store.put raises, and UsageError for a File that cannot be read.
        """
        taker = _Taker(self, inputs, since_ns=since_ns)
        ref = self._store.put(value, taker.reduce)
        return _with_files(ref, taker.files.values())

    def put_items(self, values: list[Any], *, keys: bytes, since_ns: int, inputs: Sequence[File]) -> Ref:
        """Store the results of a map's items as one list; see `put`. Raises UsageError if two items wrote one file.

        `keys` are those of the items, 16 bytes each, because a map can have the same item twice. They may be empty.
        """
        taker = _Taker(self, inputs, since_ns=since_ns)
        ref = self._store.put(values, taker.reduce)
        if not taker.files:
            return ref
        found: list[FileRef] = []
        owners: dict[str, bytes] = {}
        for item, value in enumerate(values):
            key = keys[16 * item : 16 * item + 16] or b"%d" % item
            for file in taker.files_of(value):
                if file.digest and not file.passed_on and owners.setdefault(file.path, key) != key:
                    raise _two_calls(file.path, "two items of a map returned it")
                found.append(msgspec.structs.replace(file, item=item))
        return _with_files(ref, found)

    def carry(self, value: Any, *, inputs: Sequence[File]) -> Ref:
        """Store a value that is made of other results, whose files it keeps as they are."""
        taker = _Taker(self, inputs, since_ns=None)
        ref = self._store.put(value, taker.reduce)
        return _with_files(ref, taker.files.values())

    def store_file(self, path: Path, name: str) -> FileRef:
        """Store the content of the project's file `name`. Raises UsageError while something writes to it, StoreError."""
        for _ in range(_TRIES):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                before = os.fstat(fd)
                ref, digest = self._store.put_file(fd)
                settled = stamp_of(before) == stamp_of(os.fstat(fd)) == stamp_of(os.stat(path))
            finally:
                os.close(fd)
            if settled:
                key, mode = key_of_content(digest), stat.S_IMODE(before.st_mode) & 0o777
                self._store.remember(_fact(name, key))
                return FileRef(path=name, key=key, digest=ref.digest, size=ref.size, mode=mode)
        raise UsageError(
            f"a result names the file {name}, which something still writes to",
            where=str(path),
            fix="close the file, and end the processes that write to it, before the task returns",
        )

    def knows(self, name: str, key: str) -> bool:
        """Whether this content was the result of a task for the project's file `name`."""
        return self._store.remembers(_fact(name, key))

    # -- what a task, or a caller, needs -----------------------------------------------------------------

    def provide(self, files: Iterable[File]) -> None:
        """See that the files that came from results have their content: put it back where it is missing or another result.

        Raises UsageError for content that no task wrote, which is never overwritten, and for two contents of one file;
        InputChanged for a file that is not stored; HookeError if a file cannot be written.
        """
        self._provide({str(file.path): file.result for file in files if file.result is not None}, files)

    def provide_stored(self, files: Iterable[FileRef]) -> None:
        """The same for files by reference, at their places in the project."""
        wanted: dict[str, FileRef] = {}
        for file in files:
            if wanted.setdefault(file.path, file).key != file.key:
                raise _two_calls(file.path, "two parts of the pipeline's result are this file")
        for file in wanted.values():
            self._see_to(self.root / file.path, file)

    def _provide(self, wanted: Mapping[str, FileRef], files: Iterable[File]) -> None:
        for file in files:
            if file.result is not None and wanted[str(file.path)].key != file.result.key:
                raise _two_calls(file.result.path, "two arguments of this call are this file")
        for path, stored in wanted.items():
            self._see_to(Path(path), stored)

    def _see_to(self, path: Path, file: FileRef) -> None:
        for _ in range(_TRIES):
            facts, now = self._look(path)
            if now == file.key:
                return
            if not file.digest:
                raise _not_stored(path, gone=now is None)
            if now is not None and not self.knows(file.path, now):
                raise _unknown_content(path, expected=file.key, found=now)
            if self._put_back(path, file, facts):
                return
        raise _unknown_content(path, expected=file.key, found="changing")

    def _look(self, path: Path) -> tuple[os.stat_result | None, str | None]:
        try:
            return os.stat(path), content_key(path)
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        except OSError as error:
            raise UsageError(
                f"{path} is a result of a task, and cannot be read",
                where=str(path.absolute()),
                why=str(error),
            ) from error

    def _put_back(self, path: Path, file: FileRef, facts: os.stat_result | None) -> bool:
        """Write the stored content; False if something else has written to the path meanwhile."""
        if path_within(path, self.root) != file.path:
            raise UsageError(
                f"{file.path} is a result of a task, and its folder now leads out of the project",
                where=str(path.absolute()),
                fix="put the folder back in place of the link",
            )
        content = self._store.get(Ref(file.digest, file.size))
        temporary = path.with_name(f".{path.name[:200]}.{os.urandom(6).hex()}.tmp")
        with writing("the file of a result", path):
            make_folders(path.parent)
            try:
                _write(temporary, content, file.mode)
                return _publish(temporary, path, facts)
            finally:
                temporary.unlink(missing_ok=True)


class ProducedFiles:
    """Which call wrote each file of the project in a run: only one, unless the result of one is made from that of the other.

    With several workers, what a call finds in a file that another writes may be the other's.
    """

    def __init__(self, graph: Graph, keys: GraphKeys) -> None:
        self._graph = graph
        self._keys = keys
        self._made: dict[str, tuple[int, str]] = {}

    def note(self, node: int, segment: Segment) -> None:
        """Note a segment of a node's results. Raises UsageError if an unrelated call wrote one of its files."""
        lo, hi, ref, start = segment
        for file in ref.files:
            if file.digest and not file.passed_on and start <= file.item < start + hi - lo:
                self._note(file.path, node, self._call(node, lo + file.item - start))

    def _note(self, path: str, node: int, call: str) -> None:
        other, other_call = self._made.get(path, (node, call))
        if call != other_call and not self._are_related(node, other):
            names = " and ".join(dict.fromkeys(self._graph.nodes[each].task.name for each in (other, node)))
            raise _two_calls(path, f"{names} returned it in this run, from two calls")
        self._made[path] = node, call

    def _call(self, node: int, item: int) -> str:
        """What makes two calls the same: equal code and arguments."""
        key = self._keys[node]
        items = self._keys.indexed(node) if self._graph.nodes[node].kind == "map" else None
        return key.key if items is None else key.recipe + items[16 * item : 16 * item + 16].hex()

    def _are_related(self, one: int, other: int) -> bool:
        """Whether one of two nodes uses the other's result."""
        if one == other:
            return False
        return one in self._graph.downstream([other]) or other in self._graph.downstream([one])


def _write(path: Path, content: memoryview, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for start in range(0, len(content), _BLOCK):
            write_all(fd, content[start : start + _BLOCK])
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _publish(temporary: Path, path: Path, facts: os.stat_result | None) -> bool:
    if facts is None and not path.is_symlink():
        with suppress(FileExistsError):
            os.link(temporary, path)
            return True
        return False
    if facts is not None:
        with suppress(FileNotFoundError):
            if stamp_of(os.stat(path)) != stamp_of(facts):
                return False
    temporary.replace(path)
    return True


class _Taker:
    """Reduces the files and paths of one result. With `since_ns` None it takes nothing from the disk."""

    def __init__(self, results: FileResults, inputs: Sequence[File], *, since_ns: int | None) -> None:
        self.files: dict[str, FileRef] = {}
        self._results = results
        self._since_ns = since_ns
        self._inputs = {
            str(file.path): _passed_on(file.result) if since_ns is not None else file.result
            for file in inputs
            if file.result is not None
        }
        self._found: dict[tuple[type, str], FileRef | None] = {}
        self._seen: dict[str, FileRef] = {}

    def reduce(self, value: Any) -> Any:
        kind = type(value)
        if kind is not File and kind is not _PATH:
            return NotImplemented
        asked = kind, os.fspath(value)
        if asked not in self._found:
            self._found[asked] = self._take(value)
        file = self._found[asked]
        if file is None:
            return NotImplemented
        if self.files.setdefault(file.path, file).key != file.key:
            raise _two_calls(file.path, "two parts of one result are this file")
        self._seen[file.path] = file
        return reduce_result(value, file)

    def files_of(self, value: Any) -> list[FileRef]:
        """The files in a part of the result."""
        self._seen = {}
        encode(value, self.reduce)
        return list(self._seen.values())

    def _take(self, value: File | Path) -> FileRef | None:
        carried = self._inputs.get(os.fspath(value))
        if self._since_ns is None:
            return carried
        if isinstance(value, File):
            return self._take_file(value.path, carried, self._since_ns)
        return self._take_path(value, carried, self._since_ns)

    def _take_file(self, path: Path, carried: FileRef | None, since_ns: int) -> FileRef:
        try:
            facts, key = os.stat(path), content_key(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if carried is not None and carried.key == key:
            return carried
        name = self._name(path)
        if name and (facts.st_ctime_ns >= since_ns or self._results.knows(name, key)):
            return self._store(path, name)
        shown = name or str(path.absolute())
        _check_name(shown)
        return FileRef(path=shown, key=key)

    def _take_path(self, path: Path, carried: FileRef | None, since_ns: int) -> FileRef | None:
        try:
            facts = os.stat(path)
        except (OSError, ValueError):
            return None
        name = self._name(path) if stat.S_ISREG(facts.st_mode) else ""
        if not name:
            return None
        if carried is not None and content_key(path) == carried.key:
            return carried
        return self._store(path, name) if facts.st_ctime_ns >= since_ns else None

    def _store(self, path: Path, name: str) -> FileRef:
        _check_name(name)
        return self._results.store_file(path, name)

    def _name(self, path: Path) -> str:
        name = path_within(path, self._results.root)
        return "" if name.split("/")[0] == _OWN else name


def _with_files(ref: Ref, files: Iterable[FileRef]) -> Ref:
    found = tuple(files)
    return msgspec.structs.replace(ref, files=found) if found else ref


def _passed_on(file: FileRef) -> FileRef:
    return msgspec.structs.replace(file, passed_on=True, item=0)


def _fact(name: str, key: str) -> bytes:
    return f"file\0{name}\0{key}".encode()


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"a result names the file {name!r}, which is not UTF-8", fix="give it another name"
        ) from None


def _unreadable(path: Path, error: OSError) -> UsageError:
    if isinstance(error, IsADirectoryError):
        return UsageError(
            f"a result names {path} as a hooke.File, and it is a folder",
            where=str(path.absolute()),
            fix="return a list of its files: [File(path) for path in folder.iterdir()]",
        )
    return UsageError(
        f"a result names the file {path}, which cannot be read",
        where=str(path.absolute()),
        why=str(error),
        fix="write the file before the task returns it, or return its path as text",
    )


def _unknown_content(path: Path, *, expected: str, found: str) -> UsageError:
    return UsageError(
        f"{path} is a result of a task, and has been overwritten by something else",
        where=str(path.absolute()),
        why=f"its content is {found[:12]}; the stored result is {expected[:12]}, and Hooke does not overwrite what no task wrote",
        fix="move the file away or delete it, then run again: the stored result is put back. "
        "Or have its task write it again: --force=TASK, or run(..., force=[TASK])",
    )


def _not_stored(path: Path, *, gone: bool) -> InputChanged:
    return InputChanged(
        f"{path} is a result of a task, and {'is gone' if gone else 'has changed'}",
        where=str(path.absolute()),
        why="only files that a task writes below the project's folder are stored; of others Hooke keeps the digest",
        fix="run again where the file is missing or changed: its task runs first. Or have the task write it below the project's folder",
    )


def _two_calls(path: str, why: str) -> UsageError:
    return UsageError(
        f"{path} is the result of two calls",
        why=why,
        fix="give each its own file, such as one named by the arguments: out-{month}.csv",
    )
