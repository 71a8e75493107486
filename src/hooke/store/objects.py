"""Objects by reference: putting values into a backend and getting them back, checked."""

from __future__ import annotations

import time
from typing import Any

from hooke.base.errors import CorruptObject, MissingObject, StoreError
from hooke.base.ref import Ref
from hooke.store.backend import Backend, Sink, View, hidden_as
from hooke.store.decode import load
from hooke.store.encode import Encoded, encode
from hooke.store.entries import aside_of
from hooke.store.layout import Damaged, Layout, digest_of, read_layout, signed
from hooke.store.mapping import anonymous
from hooke.store.seen import Seen
from hooke.store.unpicklable import explain

__all__ = ["INLINE_BYTES", "Objects", "name_of"]

DECIDING_S = 5.0
"""How long an eviction may take to decide on an object, on a machine that is busy; one that was killed meanwhile never does."""

INLINE_BYTES = 64 * 1024
"""Objects up to this travel inside their reference: a file for each would cost more than the copies."""


def name_of(digest: str) -> str:
    """Where the object of this digest (64 hex digits) lies in a backend."""
    return f"objects/{digest[:2]}/{digest}"


class Objects:
    """The objects of a store. With a `secret` (32 bytes) it signs what it writes and opens only what that secret signed.

    Objects of up to `inline_bytes` travel inside their references.
    """

    def __init__(self, backend: Backend, secret: bytes | None, *, inline_bytes: int = INLINE_BYTES) -> None:
        self._inline_bytes = inline_bytes
        self._backend = backend
        self._secret = secret
        self._seen = Seen(backend.near)

    def put(self, value: Any) -> Ref:
        """See Store.put."""
        try:
            return self._put(encode(value))
        except StoreError:
            raise
        except Exception as error:  # whatever a user's __reduce__ or a library's own format raises
            raise explain(value, error) from error

    def _put(self, encoded: Encoded) -> Ref:
        if encoded.size <= self._inline_bytes:
            digest, data = encoded.to_bytes(self._secret)
            if len(data) <= self._inline_bytes:
                return Ref(digest.hex(), len(data), data)
        return self._write(encoded)

    def _write(self, encoded: Encoded) -> Ref:
        digest, size = b"", 0

        def fill(sink: Sink) -> str:
            nonlocal digest, size
            digest, size = encoded.write(sink, self._secret)
            return name_of(digest.hex())

        stamp = self._backend.write(fill, size=encoded.size)
        assert stamp is not None
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

    def check(self, digest: str) -> str:
        """What is wrong with the object after reading it in full; empty when nothing is, or when it is gone."""
        view = self._backend.read(name_of(digest), fresh=True)
        if view is None:
            return ""
        try:
            layout = self._check(Ref(digest, len(view.data)), read_layout(view.data))
            _check_digest(layout)
        except (Damaged, StoreError) as error:
            return str(error).partition("\n")[0]
        self._seen.add(layout.digest, view.stamp)
        return ""

    def _read(self, ref: Ref, *, fresh: bool = False) -> View:
        name = name_of(ref.digest)
        view = self._backend.read(name, fresh=fresh)
        if view is None:
            self._until_decided(name)
            view = self._backend.read(name, fresh=fresh)
        if view is None:
            raise _missing(ref, self._backend.place)
        return view

    def _until_decided(self, name: str) -> None:
        """Return when no eviction hides this object: it is there again, or gone."""
        deadline = time.monotonic() + DECIDING_S
        while time.monotonic() < deadline:
            if not any(stored.name.startswith(hidden_as(name)) for stored in self._backend.list("tmp/")):
                return
            time.sleep(0.001)

    def _open(self, ref: Ref, view: View) -> Layout:
        layout = self._check(ref, read_layout(view.data))
        if not self._seen.has(layout.digest, view.stamp):
            _check_digest(layout)
            self._seen.add(layout.digest, view.stamp)
        return layout

    def _open_again(self, ref: Ref, damage: Damaged) -> Layout:
        """Look past the copies near; what is damaged in the place itself is set aside."""
        try:
            return self._open(ref, self._read(ref, fresh=True))
        except Damaged:
            pass
        name, aside = name_of(ref.digest), aside_of(name_of(ref.digest))
        self._backend.remove(name, aside=aside)
        raise CorruptObject(
            f"a stored object is not what was written: {damage}",
            where=f"{self._backend.place}/{name}",
            why="a disk fault, a power loss, or something else wrote to this file",
            mend=f"nothing to do: it was set aside as {aside}, and the next run computes it again",
            next="hooke cache verify",
        )

    def _open_inline(self, ref: Ref) -> Layout:
        data = memoryview(ref.inline or b"")
        try:
            layout = self._check(ref, read_layout(data))
            _check_digest(layout)
        except Damaged as error:
            raise CorruptObject(
                f"a small result inside a reference is not what was written: {error}",
                where=f"object {ref.digest[:16]}..., kept in a journal or in an entry of {self._backend.place}",
                mend="nothing is lost but this result: `hooke cache verify --remove`, then run again",
                next="hooke cache verify",
            ) from error
        return read_layout(anonymous(data)) if layout.buffers else layout

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
        why="it was evicted or removed, or the reference comes from another store",
        mend="run again: what is missing is computed again",
        next="hooke cache ls",
    )


def _unsigned(ref: Ref, place: str) -> StoreError:
    return StoreError(
        f"refused to open the object {ref.digest}: it is not signed with this project's secret",
        where=place,
        why="objects of a shared store can hold code, so they are opened only with a valid signature",
        mend="give all projects that share this store the same secret, or use a store of your own",
    )
