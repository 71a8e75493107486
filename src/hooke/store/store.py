"""The store: values by content, and results by recipe key."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import msgspec
from blake3 import blake3

from hooke.base.background_fsync import Durability
from hooke.base.clock import Clock, SystemClock
from hooke.base.distributions import Plugins
from hooke.base.errors import StoreError, UsageError
from hooke.base.files import is_private
from hooke.base.intervals import split
from hooke.base.ref import ItemsMadeFrom, MadeFrom, Ref
from hooke.store.backend import Backend, Batching, Gathering, KeepsOpen, Learnt, Packing, Refreshing
from hooke.store.checkpoints import (
    ABANDONED_S,
    CHECKPOINTS,
    CheckpointFolders,
    CheckpointRecord,
    Snapshots,
)
from hooke.store.claims import (
    BatchedClaims,
    Claim,
    Claims,
    FileClaims,
    LeaseClaims,
    ListedClaims,
    MemoryClaims,
    RangeClaims,
    has_range_locks,
)
from hooke.store.codecs import Reducer
from hooke.store.entries import MOST_VARIANTS, Counts, Entry, Hit, Records, refs_of
from hooke.store.eviction import (
    EvictionReport,
    StoreSurvey,
    StoreUsage,
    VerifyReport,
    await_removals,
    clear_abandoned,
    evict,
    measure,
    survey,
    verify,
)
from hooke.store.map_index import MapIndex
from hooke.store.objects import INLINE_BYTES, Objects, are_whole, name_of

__all__ = [
    "BACKENDS",
    "Claim",
    "Entry",
    "EvictionReport",
    "Hit",
    "Ref",
    "Store",
    "StoreParts",
    "StoreUsage",
    "VerifyReport",
    "open_place",
]


# --- Opening a store: from its URL to a backend and matching claims.

BACKENDS = Plugins(
    "hooke.stores",
    {
        "folder": "hooke.store.backends.folder:FolderBackend",
        "memory": "hooke.store.backends.memory:MemoryBackend",
        "remote": "hooke.store.backends.remote:RemoteBackend",
    },
    {"remote": "remote"},
)


class StoreParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a Store."""

    backend: Backend
    claims: Claims
    live: ListedClaims
    checkpoints: Path
    """The folder of checkpoint folders on this host."""


def open_place(
    url: str | PathLike[str], *, secret: bytes | None, near: Path, clock: Clock, durable: Durability
) -> StoreParts:
    """The parts of the store at `url`; see Store.open."""
    text = os.fspath(url)
    scheme, mark, path = text.partition("://")
    if not mark or scheme == "file":
        return _folder(Path(path if mark else text), durable, shared=secret is not None)
    if secret is None:
        raise _no_secret(text)
    return _remote(text, near, clock)


def _folder(folder: Path, durable: Durability, *, shared: bool) -> StoreParts:
    mode = 0o777 if shared else 0o755
    if not shared:
        _check_own(folder)
    backend: Backend = BACKENDS.load("folder")(folder, durable=durable, folder_mode=mode)
    claims: Claims = (
        RangeClaims(folder / "claims.lock", folder_mode=mode)
        if has_range_locks()
        else FileClaims(folder / "claims", folder_mode=mode)
    )
    live = FileClaims(folder / "live", folder_mode=mode)
    # In a shared folder each user has a folder: a checkpoint is not signed, and can hold code that runs when it is loaded.
    own = folder / CHECKPOINTS / f"user-{os.getuid()}" if shared else folder / CHECKPOINTS
    return StoreParts(backend=backend, claims=claims, live=live, checkpoints=own.absolute())


def _check_own(folder: Path) -> None:
    """Raise UsageError if other users can write to the folder of a store without a secret."""
    try:
        facts = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    # Root trusts the owner, whose code it runs anyway, such as in a container.
    if is_private(facts) or (os.geteuid() == 0 and not facts.st_mode & 0o022):
        return
    raise _no_secret(
        str(folder),
        because="other users can write to it",
        own=f"or make it your own: `chmod -R go-w {folder}` as its owner",
    )


def _remote(url: str, near: Path, clock: Clock) -> StoreParts:
    scheme = url.partition("://")[0]
    # A plug-in named like the scheme takes precedence over fsspec.
    remote = BACKENDS.load(scheme if scheme in set(BACKENDS.names()) - BACKENDS.builtin.keys() else "remote")
    _make_private(near)
    copies: Any = BACKENDS.load("folder")(
        near / blake3(url.encode()).hexdigest(16), durable="none", packed=False
    )
    backend: Backend = remote(url, copies)
    locks = FileClaims(near / "leases", folder_mode=0o700)
    return StoreParts(
        backend=backend,
        claims=LeaseClaims(backend, "claims", clock, locks=locks),
        live=LeaseClaims(backend, "live", clock, locks=locks),
        checkpoints=near / CHECKPOINTS / blake3(url.encode()).hexdigest(16),
    )


def _make_private(folder: Path) -> None:
    """Create the folder. Raises StoreError if other users can write to it, because copies there are checked only once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder.stat()):
        raise StoreError(
            f"other users can write to {folder}, the folder for copies of a remote store",
            why="Hooke checks a copy only once",
            fix=f"run `chmod 700 {folder}` as its owner, or name another folder",
        )


def _no_secret(url: str, *, because: str = "", own: str = "or use a folder of your own") -> UsageError:
    shared = f"{because}, and " if because else ""
    return UsageError(
        f"the store {url} needs a secret, and none is given",
        why=f"{shared}a result can hold code that runs when it is opened, so a shared store's results must be signed",
        fix="give the store a secret of at least 16 bytes that all its users share (`secret_file` under [store] in "
        'hooke.toml), such as the output of `python -c "import secrets; print(secrets.token_hex(32))"`, '
        + own,
    )


_EVICTION = "0" * 32
"""The claim of a running eviction, so that there is only one at a time; no recipe has this key."""
MANY_RECORDS = 20_000
"""Of more than these, a list shows the newest without reading them all, which takes a second."""

_decoder = msgspec.msgpack.Decoder(Entry)


class Store:
    """Objects, and entries that map recipe keys to objects. Safe to use from all threads and processes at once.

    `Store.open` makes one; the constructor takes the parts, for simulations and tests: `Store(MemoryBackend())`.
    `secret` is 32 bytes. Claims stay within the process unless given. Values of up to `inline_bytes` are stored
    inside their references. In `near`, a folder of this user, lie records of what this host has verified.
    """

    # Many parameters: the parts of a store, each a keyword with a default.
    def __init__(  # noqa: PLR0913
        self,
        backend: Backend,
        *,
        claims: Claims | None = None,
        live: ListedClaims | None = None,
        secret: bytes | None = None,
        clock: Clock | None = None,
        inline_bytes: int = INLINE_BYTES,
        near: Path | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock or SystemClock()
        self._claims = claims or MemoryClaims(self._clock)
        # Asked once: to ask whether a protocol is fulfilled takes longer than a claim.
        self._batching = backend if isinstance(backend, Batching) else None
        self._gathering = backend if isinstance(backend, Gathering) else None
        self._refreshing = backend if isinstance(backend, Refreshing) else None
        self._batched_claims = self._claims if isinstance(self._claims, BatchedClaims) else None
        self._live = live or MemoryClaims(self._clock)
        self._secret = secret
        self._objects = Objects(backend, secret, inline_bytes=inline_bytes, near=near)
        self._records = Records(backend, secret)
        self._items = MapIndex(backend, self._records)
        is_folder = checkpoints is None or checkpoints.is_relative_to(backend.place)
        snapshots = None if is_folder else Snapshots(backend, self._records)
        self.checkpoints = CheckpointFolders(checkpoints, snapshots)
        """The folders of `hooke.checkpoint_dir()`."""

    @staticmethod
    def open(
        url: str | PathLike[str],
        *,
        secret: bytes | None = None,
        near: str | PathLike[str] | None = None,
        clock: Clock | None = None,
        durable: Durability = "group",
    ) -> Store:
        """The store at `url`: a folder (made when something is first written), or an fsspec URL such as `s3://bucket/x`.

        With `secret` (at least 16 bytes) the store signs everything that it writes, and opens only what is signed.
        `near` is a private folder for records of verified objects and for copies of a remote store's objects, by
        default `hooke-<user id>` in the folder for temporary files. `durable` says when what this process writes into a folder survives a power loss: within a
        second ("group"; call `sync` before the process ends), before `put` returns ("each"), or eventually ("none").
        Raises UsageError for a URL or a folder to which others can write, if there is no secret (objects can hold
        code), MissingExtra.
        """
        clock, derived = clock or SystemClock(), _derived(secret)
        folder = Path(near) if near is not None else Path(gettempdir()) / f"hooke-{os.getuid()}"
        place = open_place(url, secret=derived, near=folder, clock=clock, durable=durable)
        return Store(
            place.backend,
            claims=place.claims,
            live=place.live,
            secret=derived,
            clock=clock,
            near=folder,
            checkpoints=place.checkpoints,
        )

    @property
    def place(self) -> str:
        """Its location, in the form that `open` takes."""
        return self._backend.place

    # -- objects ---------------------------------------------------------------------------------------

    def put(self, value: Any, reduce: Reducer | None = None, *, inline_bytes: int | None = None) -> Ref:
        """Store `value`. When this returns, the value survives the death of any process (unless it is inside the Ref).

        `reduce` gives the reduction (see `object.__reduce__`) of parts of the caller's own types, NotImplemented for others.
        `inline_bytes` is as in the constructor, for this value. Raises StoreError naming the part that cannot be pickled, StoreFull,
        and the HookeErrors of `reduce`.
        """
        return self._objects.put(value, reduce, inline_bytes=inline_bytes)

    def put_file(self, fd: int) -> tuple[Ref, bytes]:
        """Store the bytes of an open file as an object of their own; returns it and their BLAKE3 digest.

        `get` gives them as a read-only view of the mapped object. No more than a few MiB are in memory at a time.
        Raises StoreError and StoreFull.
        """
        return self._objects.put_file(fd)

    def get(self, ref: Ref) -> Any:
        """The value. Its arrays and frames are read-only and lie in the mapped object, so any size opens equally fast.

        The first read of an object on a host, and the first after its file changed, checks all its bytes.
        Raises MissingObject, CorruptObject (the object is then moved aside), StoreError for a wrong signature, and
        errors of unpickling (ModuleNotFoundError if a class cannot be imported).
        """
        return self._objects.get(ref)

    def apart(self, ref: Ref) -> Ref:
        """The same object, stored by itself if it is inside its reference: then digest and size are enough to find it. Raises StoreFull."""
        return self._objects.apart(ref)

    def copy(self, ref: Ref, to: Store) -> None:
        """Copy the object into another store with the same secret, byte for byte. Raises MissingObject, StoreFull."""
        if ref.inline is None:
            self._objects.copy(ref, to._backend)

    def seal(self, value: Any) -> bytes:
        """`value` as bytes, signed as the store's objects are. Nothing is written. Raises the exceptions of pickling it."""
        return self._objects.seal(value)

    def unseal(self, data: bytes) -> Any:
        """The value of bytes from `seal`. Raises CorruptObject, StoreError for a wrong signature, and errors of unpickling."""
        return self._objects.unseal(data)

    def sync(self, refs: Sequence[Ref] = (), *, wait: bool = True) -> None:
        """Return when `refs`, and all that this store wrote, survive a power loss; without `wait`, begin with that.

        Other processes of this host may have written the refs. Raises StoreError if the disk does not confirm it.
        """
        self._backend.sync([name_of(each.digest) for ref in refs for each in ref.objects()], wait=wait)

    def close_files(self) -> None:
        """Close the files that are open between two calls: who still refers to the store may never use it again. It stays usable."""
        for part in (self._backend, self._claims):
            if isinstance(part, KeepsOpen):
                part.close_files()

    def keep(self, refs: Sequence[Ref]) -> list[bool]:
        """Which of the objects exist. They are marked as used now, so that eviction spares them while a run is live.

        An object of another size counts as missing: a power loss may leave a file empty.
        """
        return are_whole(self._backend, refs)

    # -- results by key --------------------------------------------------------------------------------

    def find(self, key: str, counts: Counts | None = None) -> Entry | None:
        """The entry of a recipe; None if there is none or its object is gone. Marks both as used.

        Of results that were made from observed inputs it is the newest that `counts`; without that, none does.
        """
        name = _entry_name(key)
        content = self._records.read(name)
        if content is None:
            return None
        if self._backend.notes_use and self._backend.touch([name]) == [None]:
            return None  # an eviction was faster
        entry = _decoder.decode(content)
        for each in entry.variants:
            counted = each.made_from is None or (counts is not None and counts(each.made_from))
            if counted and all(self.keep(refs_of(each))):
                return each
        return None

    def lacking(self, keys: Sequence[str]) -> list[bool]:
        """Inside of `read_ahead`: whether `find` certainly has nothing for each key, whatever counts; False if it must be asked."""
        if self._refreshing is None:
            return [False] * len(keys)
        return self._refreshing.lacking([_entry_name(key) for key in keys])

    def commit(self, entry: Entry) -> None:
        """Make `find(entry.key)` return `entry`, in all processes. Raises StoreFull.

        If it was made from observed inputs, the key's results from others stay, the newest 15. Of two processes that
        commit one key at once, which a claim prevents, one may lose its result.
        """
        name = _entry_name(entry.key)
        if entry.made_from is not None:
            former = self._records.read(name)
            variants = _decoder.decode(former).variants if former is not None else []
            older = [
                each
                for each in variants
                if each.made_from is not None and each.made_from.id != entry.made_from.id
            ]
            entry = msgspec.structs.replace(entry, older=tuple(older[: MOST_VARIANTS - 1]))
        self._records.write(name, msgspec.msgpack.encode(entry))

    def commit_all(self, entries: Iterable[Entry]) -> None:
        """Commit entries whose results were made from nothing but what their keys name. Raises StoreFull."""
        encode = msgspec.msgpack.Encoder().encode
        for entry in entries:
            self._records.write(_entry_name(entry.key), encode(entry))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, what this thread commits is kept, and at the end it is written at once, for others to find. Raises StoreFull."""
        looked = self._batching.as_of_now() if self._batching is not None else nullcontext()
        with looked, self._gathering.together() if self._gathering is not None else nullcontext():
            yield

    @property
    def takes_long(self) -> bool:
        """Whether a request takes so long that a scheduler should not wait for it."""
        return self._batching is not None

    @contextmanager
    def read_ahead(self, keys: Iterable[str], learnt: Learnt | None = None) -> Iterator[Learnt | None]:
        """Inside, this thread finds the results of these keys, and items, as they are now, with requests for all of them together.

        What it commits inside it finds, what others do it may not. A folder is looked at once, and does not need the keys.
        With what another thread has `learnt`, it finds them as they were then, without a request.
        """
        if self._batching is None:
            with self._refreshing.refreshed() if self._refreshing is not None else nullcontext():
                yield None
            return
        with self._batching.as_of_now(learnt) as known:
            contents = self._records.read_many([_entry_name(key) for key in keys])
            entries = [_decoder.decode(content) for content in contents if content is not None]
            self.keep([ref for entry in entries for each in entry.variants for ref in refs_of(each)])
            yield known

    def learn(self, keys: Iterable[str]) -> Learnt | None:
        """What `read_ahead` learns of the keys, for another thread; None where nobody need ask before."""
        if self._batching is None:
            return None
        with self.read_ahead(keys) as learnt:
            return learnt

    def find_items(self, recipe: str, keys: bytes, counts: Counts | None = None) -> list[Hit]:
        """Which of a map's items are stored: `keys` holds 16 bytes per item. Hits are in order and as few as possible.

        Marks the objects as used. An item whose object is gone is not found. `counts` is as in `find`.
        """
        return self._items.find(recipe, keys, counts)

    # Many parameters: the facts of an entry, each a keyword.
    def commit_items(  # noqa: PLR0913
        self,
        recipe: str,
        keys: bytes,
        ref: Ref,
        *,
        task: str,
        run: str,
        seconds: float,
        pieces: Sequence[ItemsMadeFrom] = (),
        first: int = 0,
    ) -> None:
        """Make `find_items` find element `first` + i of the stored list `ref` under key `keys[16 * i : 16 * i + 16]`.

        `seconds` is the time of all items together. `pieces` are ranges of elements that were made from observed inputs;
        those that are unsettled are not committed. Raises StoreFull.
        """
        at, items = self._clock.now(), len(keys) // 16
        entry = Entry(key=recipe, ref=ref, task=task, run=run, seconds=seconds, at=at, items=items)
        if not pieces and not first:
            self._items.commit(entry, keys)
            return
        parts = [
            (
                msgspec.structs.replace(
                    entry, items=hi - lo, seconds=seconds * (hi - lo) / items, made_from=made_from
                ),
                lo,
            )
            for lo, hi, made_from in split(pieces, first, first + items)
            if made_from is None or not made_from.unsettled
        ]
        if parts:
            self._items.commit_pieces(recipe, parts, keys, first)

    def claim(self, key: str) -> Claim | None:
        """Claim `key` for computing; None, at once, while another process, thread or store has the claim.

        The claim ends with `release()` or with this process (on a remote store: a minute later).
        """
        return self._claims.claim(key)

    def claim_many(self, keys: Sequence[str]) -> list[Claim | None]:
        """What `claim` gives for each key, in as few round trips as the claims allow."""
        if self._batched_claims is not None:
            return self._batched_claims.claim_many(keys)
        return [self.claim(key) for key in keys]

    def release(self, claims: Sequence[Claim], *, soon: bool = False) -> None:
        """Release claims that this store gave, in as few round trips as they allow.

        With `soon`, where that takes a request, it returns before they are free, which they are within a second: the next claim
        or release takes them along.
        """
        if self._batched_claims is not None:
            self._batched_claims.release_many(claims, soon=soon)
            return
        for claim in claims:
            claim.release()

    # -- facts -----------------------------------------------------------------------------------------

    def remember(self, fact: bytes) -> None:
        """Make `remembers(fact)` true, in all processes, until nothing has asked for it for 90 days. Raises StoreFull."""
        name = self._fact(fact)
        if self._backend.touch([name]) == [None]:
            self._backend.write(lambda _: name)

    def remembers(self, fact: bytes) -> bool:
        """Whether the fact was given to `remember`; with a secret, by somebody who has it."""
        return self._backend.touch([self._fact(fact)]) != [None]

    def _fact(self, fact: bytes) -> str:
        hasher = blake3(key=self._secret) if self._secret is not None else blake3()
        digest = hasher.update(b"hooke fact\0" + fact).hexdigest()
        return f"facts/{digest[:2]}/{digest}"

    # -- housekeeping ----------------------------------------------------------------------------------

    @contextmanager
    def live(self, run: str) -> Iterator[None]:
        """Inside, eviction spares everything that was written, found or kept since the start. Waits for a batch of its removals.

        Raises StoreError if the run is already live.
        """
        claim = self._live.claim(run)
        if claim is None:
            raise StoreError(
                f"the run {run} is already live",
                where=self.place,
                fix="wait for it, or stop it",
                next=f"hooke stop {run}",
            )
        try:
            await_removals(self._claims)
            yield
        finally:
            claim.release()

    def entries(self) -> Iterator[Entry]:
        """All entries, in no order. A committed piece of a map is one entry, with `items` set."""
        return (entry for _, entry in self._entries())

    def newest(self, results: int) -> tuple[list[Entry], int] | None:
        """The entries of so many recipe keys that were written last, and about how many records there are.

        It takes the same time for any size of the store. None if the store is so small, or of such a kind, that `entries` will do.
        """
        backend = self._backend
        about = backend.about() if isinstance(backend, Packing) else 0
        if not isinstance(backend, Packing) or about < max(MANY_RECORDS, 10 * results):
            return None
        found: dict[str, list[Entry]] = {}
        for name in backend.newest(("keys/", "items/")):
            key = name.split("/")[1 if name.startswith("items/") else 2]
            if key in found:
                continue
            if name.startswith("items/"):
                found[key] = [entry for _, entry in self._items.entries(key)]
            elif (content := self._records.read(name)) is not None:
                found[key] = _decoder.decode(content).variants
            if len(found) == results:
                break
        return [entry for entries in found.values() for entry in entries], about

    def usage(self) -> StoreUsage:
        """How much the store holds."""
        return measure(self._backend, self._entries(), checkpoints=self.checkpoints.used_bytes())

    def survey(self, max_bytes: int | None, tell: Callable[[int], None] = lambda _: None) -> StoreSurvey:
        """What the store holds, and what `gc` would remove now. It reads all records and lists all names, and calls `tell` with their number so far."""
        return survey(
            self._backend,
            self._entries(),
            most=max_bytes,
            live=self._live,
            checkpoints=self.checkpoints.used_bytes(),
            tell=tell,
        )

    def clear_checkpoints(self, *, run: str = "", abandoned: bool = False) -> int:
        """Remove checkpoint folders whose result was stored after their last use, unless they are kept; returns how many.

        With `run`, which has finished, also those of its tasks with `cache=False`. With `abandoned` also those that nobody has
        used for 30 days, unless they are kept and have a result. Folders that an attempt has now stay.
        """

        def is_over(record: CheckpointRecord, used_at: float) -> bool:
            old = abandoned and used_at < self._clock.now() - ABANDONED_S
            if record.owner.kept:
                return old and self._stored_at(record, any_inputs=True) is None
            if not record.owner.cached and record.owner.run == run:
                return True
            stored_at = self._stored_at(record, any_inputs=False)
            return old or (stored_at is not None and stored_at >= record.opened_at)

        return self.checkpoints.sweep(is_over, snapshots=abandoned)

    def _stored_at(self, record: CheckpointRecord, *, any_inputs: bool) -> float | None:
        """When the newest result of a folder's key was stored; of an item infinite, for it is not known. None without a result."""
        if record.owner.item:
            found = self.find_items(
                record.owner.recipe,
                bytes.fromhex(record.owner.indexed or record.key),
                _any_inputs if any_inputs else None,
            )
            return math.inf if found else None
        content = self._records.read(_entry_name(record.key))
        variants = _decoder.decode(content).variants if content is not None else []
        return max((each.at for each in variants if all(self.keep(refs_of(each)))), default=None)

    def gc(self, max_bytes: int) -> EvictionReport:
        """Evict the least valuable results (recompute seconds per byte) until at most `max_bytes` are left.

        Everything that a live run wrote, found or kept stays. Objects without an entry go first. Room inside of packs is
        freed, too. Raises StoreError while another eviction runs.
        """
        claim = self._claims.claim(_EVICTION)
        if claim is None:
            raise StoreError("another eviction is running", where=self.place, fix="wait for it to end")
        try:
            clear_abandoned(self._backend, now=self._clock.now())
            entries = list(self._entries())
            report = evict(self._backend, entries, most=max_bytes, live=self._live, claims=self._claims)
            gone = {piece.name for piece in report.evicted}
            touched = [
                entry for _, entry in entries if any(name_of(ref.digest) in gone for ref in refs_of(entry))
            ]
            for recipe in {entry.key for entry in touched if entry.items}:
                self._items.prune(recipe)
            for key in {entry.key for entry in touched if not entry.items}:
                self._prune(key)
            if isinstance(self._backend, Packing):
                self._backend.compact()
        finally:
            claim.release()
        return report

    def verify(self, *, remove: bool = False) -> VerifyReport:
        """Read everything and report damage. With `remove`, damaged objects are moved aside, to be computed again."""
        return verify(self._backend, self._objects, self._records, remove=remove)

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        for name, content in self._records.each(stored.name for stored in self._backend.list("keys/")):
            for entry in _decoder.decode(content).variants:
                yield name, entry
        yield from self._items.entries()

    def _prune(self, key: str) -> None:
        """Drop those of a key's results whose objects are gone, unless a process is computing it."""
        claim = self._claims.claim(key)
        if claim is None:
            return
        try:
            content = self._records.read(_entry_name(key))
            variants = _decoder.decode(content).variants if content is not None else []
            there = [each for each in variants if all(self.keep(refs_of(each)))]
            if there and len(there) < len(variants):
                left = msgspec.structs.replace(there[0], older=tuple(there[1:]))
                self._records.write(_entry_name(key), msgspec.msgpack.encode(left))
        finally:
            claim.release()

    def remove(self, key: str) -> bool:
        """Remove the result, or all items, of a recipe, and its checkpoints; returns whether there were results.

        Objects stay until `gc`.
        """
        self.checkpoints.remove_of([key])
        names = [_entry_name(key), *(stored.name for stored in self._backend.list(f"items/{key}/"))]
        return sum(self._backend.remove(name) for name in names) > 0


def _any_inputs(_made_from: MadeFrom) -> bool:
    return True


def _entry_name(key: str) -> str:
    return f"keys/{key[:2]}/{key}"


def _derived(secret: bytes | None) -> bytes | None:
    if secret is None:
        return None
    if len(secret) < 16:
        raise UsageError(
            f"the store's secret has {len(secret)} bytes",
            fix='give at least 16 random bytes, such as the output of `python -c "import secrets; print(secrets.token_hex(32))"`',
        )
    return blake3(secret, derive_key_context="hooke store 2026-11-25 signatures").digest()
