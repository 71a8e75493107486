"""Objects: stores values in a backend, and reads them back with all checks."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

from hooke.base.errors import CorruptObject, HookeError, MissingObject, StoreError
from hooke.base.files import is_private, page_aligned_copy, write_all
from hooke.base.ref import Ref
from hooke.store.backend import Backend, ObjectSink, View, hidden_as, reaching
from hooke.store.codecs import (
    Damaged,
    Encoded,
    FileBytes,
    Layout,
    Reducer,
    digest_of,
    encode,
    encode_plain,
    load,
    read_layout,
    signed,
)
from hooke.store.entries import aside_of

__all__ = ["INLINE_BYTES", "Objects", "VerifiedObjects", "are_whole", "explain", "guilty_part", "name_of"]


# --- Large objects that this host has verified: its processes share a private file, so that not each hashes them.

ALWAYS_BYTES = 1 << 20
"""Objects up to this size are hashed at each read, which takes 0.2 ms at most."""

_VALID_S = 600.0
"""Then an object is hashed again: a disk can lose bits that no time stamp tells of."""

_RECORD = struct.Struct("<32s16sd")
"""Digest, digest of the stamp, and the time of the check (monotonic, so for all processes since the machine started)."""

_MOST_BYTES = 1 << 20
"""18,000 records, which take a worker 10 ms to read; then the file starts empty."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class VerifiedObjects:
    """Objects whose digest was checked: by digest, their stamp at that time, and the time.

    If an object's bytes may have changed since, its stamp differs, so it is checked again; as it is after a while and
    after a restart of the machine. Whoever can write to the records can have forged objects opened. So they lie in
    `folder`, which only this user can write to. Without one, or if others can, they stay in this process.
    """

    def __init__(self, folder: Path | None) -> None:
        boot = _BOOT_ID.read_text().strip() if folder is not None and _BOOT_ID.exists() else ""
        self._path = folder / f"verified-{boot}" if folder is not None and boot else None
        self._known: dict[bytes, float] = {}
        self._read = 0

    def has(self, digest: bytes, stamp: bytes) -> bool:
        """Whether the object was checked with this stamp, lately."""
        note = _note(digest, stamp)
        if self._is_recent(note):
            return True
        self._catch_up()
        return self._is_recent(note)

    def add(self, digest: bytes, stamp: bytes) -> None:
        """Record the check. A full disk raises nothing: the object is checked again later."""
        note, now = _note(digest, stamp), time.monotonic()
        self._keep(note, now)
        with suppress(OSError):
            self._append(_RECORD.pack(note[:32], note[32:], now))

    def _is_recent(self, note: bytes) -> bool:
        return 0 <= time.monotonic() - self._known.get(note, -_VALID_S) < _VALID_S

    def _keep(self, note: bytes, at: float) -> None:
        if len(self._known) > _MOST_BYTES // _RECORD.size:
            self._known.clear()
        self._known[note] = at

    def _append(self, record: bytes) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = self._open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if fd is None:
            return
        try:
            # An incomplete record (from a full disk) would shift all later ones, so it is cut off.
            size = os.fstat(fd).st_size
            if size % _RECORD.size or size > _MOST_BYTES:
                os.truncate(fd, size - size % _RECORD.size if size <= _MOST_BYTES else 0)
            write_all(fd, record)
        finally:
            os.close(fd)

    def _catch_up(self) -> None:
        try:
            fd = self._open(os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return
        if fd is None:
            return
        try:
            size = os.fstat(fd).st_size
            self._read = self._read if self._read <= size else 0  # it has started empty since
            data = os.pread(fd, size - self._read, self._read) if size > self._read else b""
        finally:
            os.close(fd)
        whole = len(data) - len(data) % _RECORD.size
        for digest, stamp, at in _RECORD.iter_unpack(data[:whole]):
            self._keep(digest + stamp, at)
        self._read += whole

    def _open(self, flags: int) -> int | None:
        """The file, if only this user can write to it and to its folder."""
        if self._path is None or not is_private(self._path.parent.stat()):
            return None
        fd = os.open(self._path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if is_private(os.fstat(fd)):
            return fd
        os.close(fd)
        return None


def _note(digest: bytes, stamp: bytes) -> bytes:
    return digest + blake3(stamp).digest(16)


# --- Finding the part of a value that cannot be stored, by pickling its parts.

_DEEPEST = 50
"""Levels of nesting that are searched."""


def explain(value: Any, error: Exception) -> StoreError:
    """The error for a value whose encoding raised `error`."""
    path, part = guilty_part(value)
    if isinstance(part, io.IOBase):
        return StoreError(
            f"a result cannot be stored: {path} is an open file ({getattr(part, 'name', type(part).__name__)})",
            where=path,
            why="an open file cannot leave its process",
            fix="close it, and return its path (hooke.File(path) keeps its content), or return what you read from it",
        )
    if isinstance(part, types.GeneratorType):
        return StoreError(
            f"a result cannot be stored: {path} is a generator",
            where=path,
            why="a result is stored and read many times, and a generator can be read only once",
            fix="return a list instead: list(...)",
        )
    kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
    return StoreError(
        f"a result cannot be stored: {path} is of type {kind}, which cannot be pickled",
        where=path,
        why=f"{type(error).__name__}: {error}",
        fix=f"return the plain data that the {type(part).__qualname__} is made from instead, "
        "or give the class that holds it a __reduce__ or a __getstate__ that leaves it out",
    )


def guilty_part(value: Any) -> tuple[str, Any]:
    """The path to the smallest part of `value` that cannot be encoded, such as `result["model"].lock`, and the part."""
    path, part = "result", value
    for _ in range(_DEEPEST):
        failing = next(((step, child) for step, child in _children(part) if not _encodes(child)), None)
        if failing is None:
            break
        path, part = path + failing[0], failing[1]
    return path, part


def _encodes(value: Any) -> bool:
    try:
        encode(value).write(_Nothing())
    except Exception:  # noqa: BLE001 a user's __reduce__ may raise anything
        return False
    return True


class _Nothing:
    def write(self, data: bytes | memoryview) -> int:
        return len(data)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield f"[{key!r}]", child
        yield from ((f".keys()[{at}]", key) for at, key in enumerate(value))
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{at}]", child) for at, child in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
    yield from _inside(value)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside a function or an object."""
    cells = getattr(value, "__closure__", None) or ()
    names = getattr(getattr(value, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, cells, strict=False):
        with suppress(ValueError):  # an empty cell
            yield f".<closure {name}>", cell.cell_contents
    if isinstance(value, type) or not isinstance(getattr(value, "__dict__", None), dict):
        return
    yield from ((f".{name}", child) for name, child in vars(value).items())


DECIDING_S = 5.0
"""How long to wait for an eviction's decision about an object; an eviction that was killed never decides."""

INLINE_BYTES = 64 * 1024
"""Objects up to this size are stored inside their reference: a file for each would cost more than the copies."""


def name_of(digest: str) -> str:
    """The name in a backend of the object with this digest (64 hex digits)."""
    return f"objects/{digest[:2]}/{digest}"


class _GuardedSink:
    """Knows whether writing failed, rather than producing what is written."""

    def __init__(self, sink: ObjectSink) -> None:
        self.failed = False
        self._sink = sink

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._sink.write(data)
        except BaseException:
            self.failed = True
            raise
        return len(data)


@contextmanager
def _encoding(value: Any, sink: _GuardedSink | None = None) -> Iterator[None]:
    """Raise StoreError, naming the part of `value`, if it cannot be encoded; failures of the sink pass through."""
    try:
        yield
    except (HookeError, MemoryError):
        raise
    except Exception as error:  # a user's __reduce__ or a library's own format may raise anything
        if sink is not None and sink.failed:
            raise
        raise explain(value, error) from error


def are_whole(backend: Backend, refs: Sequence[Ref]) -> list[bool]:
    """Whose objects, files included, exist with the sizes of their references. Marks them as used."""
    needed = [ref.objects() for ref in refs]
    sizes = iter(backend.touch([name_of(each.digest) for objects in needed for each in objects]))
    found = [[next(sizes) == each.size for each in objects] for objects in needed]
    return [all(each) for each in found]


class Objects:
    """The objects of a store. With a `secret` (32 bytes) they are signed, and only signed objects are opened.

    Objects of up to `inline_bytes` are stored inside their references. Records of what this host has verified lie
    in `near`, a folder of this user.
    """

    def __init__(
        self,
        backend: Backend,
        secret: bytes | None,
        *,
        inline_bytes: int = INLINE_BYTES,
        near: Path | None = None,
    ) -> None:
        self._inline_bytes = inline_bytes
        self._backend = backend
        self._secret = secret
        self._seen = VerifiedObjects(near)

    def put(self, value: Any, reduce: Reducer | None = None, *, inline_bytes: int | None = None) -> Ref:
        """See Store.put."""
        most = self._inline_bytes if inline_bytes is None else min(inline_bytes, self._inline_bytes)
        plain = encode_plain(value, self._secret) if reduce is None else None
        if plain is not None and len(plain[1]) <= most:
            return Ref(plain[0].hex(), len(plain[1]), plain[1])
        with _encoding(value):
            encoded = encode(value, reduce)
            if encoded.size <= most:
                digest, data = encoded.to_bytes(self._secret)
                if len(data) <= most:
                    return Ref(digest.hex(), len(data), data)
        return self._write(value, encoded)

    def put_file(self, fd: int) -> tuple[Ref, bytes]:
        """See Store.put_file."""
        hasher = blake3()
        value = FileBytes(fd, hasher)
        ref = self._write(value, encode(value))
        return ref, hasher.digest()

    def _write(self, value: Any, encoded: Encoded) -> Ref:
        digest, size = b"", 0

        def fill(sink: ObjectSink) -> str:
            nonlocal digest, size
            guarded = _GuardedSink(sink)
            with _encoding(value, guarded):
                digest, size = encoded.write(guarded, self._secret)
            return name_of(digest.hex())

        with reaching(self._backend.place):
            stamp = self._backend.write(fill, size=encoded.size)
        assert stamp is not None
        if size > ALWAYS_BYTES:
            self._seen.add(digest, stamp)
        return Ref(digest.hex(), size)

    def get(self, ref: Ref) -> Any:
        """See Store.get."""
        if ref.inline is not None:
            return load(self._open_inline(ref))
        try:
            return load(self._open(ref, self._read(ref)))
        except Damaged as error:
            return load(self._open_again(ref, error))

    def apart(self, ref: Ref) -> Ref:
        """See Store.apart."""
        if (data := ref.inline) is None:
            return ref
        name = name_of(ref.digest)

        def fill(sink: ObjectSink) -> str:
            sink.write(data)
            return name

        with reaching(self._backend.place):
            self._backend.write(fill, size=len(data))
        return Ref(ref.digest, ref.size, None, ref.files)

    def copy(self, ref: Ref, to: Backend) -> None:
        """See Store.copy."""
        data, name = self._read(ref).data, name_of(ref.digest)

        def fill(sink: ObjectSink) -> str:
            sink.write(data)
            return name

        with reaching(to.place):
            to.write(fill, size=len(data), exclusive=True)

    def seal(self, value: Any) -> bytes:
        """See Store.seal."""
        return encode(value).to_bytes(self._secret)[1]

    def unseal(self, data: bytes) -> Any:
        """See Store.unseal."""
        try:
            digest = read_layout(memoryview(data)).digest.hex()
        except Damaged as error:
            raise CorruptObject(f"sealed bytes are damaged: {error}") from error
        return self.get(Ref(digest, len(data), data))

    def check(self, digest: str) -> str:
        """Read the object and return what is wrong with it; empty if nothing is, or if the object is gone."""
        view = self._backend.read(name_of(digest), fresh=True)
        if view is None:
            return ""
        try:
            self._verified(Ref(digest, len(view.data)), view.data)
        except (Damaged, StoreError) as error:
            return str(error).partition("\n")[0]
        return ""

    def _read(self, ref: Ref, *, fresh: bool = False) -> View:
        name = name_of(ref.digest)
        with reaching(self._backend.place):
            view = self._backend.read(name, fresh=fresh)
            if view is None:
                self._until_decided(name)
                view = self._backend.read(name, fresh=fresh)
        if view is None:
            raise _missing(ref, self._backend.place)
        return view

    def _until_decided(self, name: str) -> None:
        """Wait until no eviction hides this object: it is there again, or gone."""
        deadline = time.monotonic() + DECIDING_S
        while time.monotonic() < deadline:
            if not any(stored.name.startswith(hidden_as(name)) for stored in self._backend.list("tmp/")):
                return
            time.sleep(0.001)

    def _open(self, ref: Ref, view: View) -> Layout:
        if self._secret is not None and not view.ours:
            # Its owner could change it after the check.
            return self._verified(ref, page_aligned_copy(view.data))
        if len(view.data) <= ALWAYS_BYTES:
            return self._verified(ref, view.data)
        layout = self._check(ref, read_layout(view.data))
        if not self._seen.has(layout.digest, view.stamp):
            _check_digest(layout)
            self._seen.add(layout.digest, view.stamp)
        return layout

    def _verified(self, ref: Ref, data: memoryview) -> Layout:
        layout = self._check(ref, read_layout(data))
        _check_digest(layout)
        return layout

    def _open_again(self, ref: Ref, damage: Damaged) -> Layout:
        """Read past the local copies. An object that is damaged in the store itself is moved aside."""
        try:
            return self._open(ref, self._read(ref, fresh=True))
        except Damaged:
            pass
        name, aside = name_of(ref.digest), aside_of(name_of(ref.digest))
        self._backend.remove(name, aside=aside)
        raise CorruptObject(
            f"a stored object is damaged: {damage}",
            where=f"{self._backend.place}/{name}",
            why="a disk fault, a power loss, or something else wrote to this file",
            fix=f"nothing to do: Hooke moved it to {aside}, and the next run computes it again",
            next="hooke cache verify",
        )

    def _open_inline(self, ref: Ref) -> Layout:
        data = memoryview(ref.inline or b"")
        try:
            layout = self._verified(ref, data)
        except Damaged as error:
            raise CorruptObject(
                f"a small result that is stored inside a reference is damaged: {error}",
                where=f"object {ref.digest[:16]}..., kept in a journal or in an entry of {self._backend.place}",
                fix="only this result is lost: run `hooke cache verify --remove`, then run the pipeline again",
                next="hooke cache verify",
            ) from error
        return read_layout(page_aligned_copy(data)) if layout.buffers else layout

    def _check(self, ref: Ref, layout: Layout) -> Layout:
        if layout.digest.hex() != ref.digest:
            raise Damaged(f"expected the object {ref.digest}, found {layout.digest.hex()}")
        if self._secret is not None and not signed(layout, self._secret):
            raise _unsigned(ref, self._backend.place)
        return layout


def _check_digest(layout: Layout) -> None:
    found = digest_of(layout)
    if found != layout.digest:
        raise Damaged(f"expected content of digest {layout.digest.hex()}, found {found.hex()}")


def _missing(ref: Ref, place: str) -> MissingObject:
    return MissingObject(
        f"the store does not hold the object {ref.digest}",
        where=place,
        why="it was evicted or removed, or the reference belongs to another store",
        fix="run again: Hooke computes the missing results",
        next="hooke cache ls",
    )


def _unsigned(ref: Ref, place: str) -> StoreError:
    return StoreError(
        f"cannot trust the object {ref.digest}: it is not signed with this project's secret",
        where=place,
        why="an object can hold code that runs when it is opened, so a shared store's objects need a valid signature",
        fix="give all projects that share this store the same secret, or use a store of your own",
    )
