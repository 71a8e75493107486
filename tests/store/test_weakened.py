"""The conformance suites find stores whose mechanisms are weakened, each by the guarantee that it breaks."""

import contextlib
import fcntl
import itertools
import threading
import time
from pathlib import Path

import fsspec
import pytest
from tests.fixtures.raw_disk import raw_disk  # noqa: F401 a fixture
from tests.store.places import DiskPlace, FolderPlace, MemoryPlace, RemotePlace

from hooke.base import background_fsync
from hooke.base.background_fsync import GroupSync
from hooke.store import claims, eviction, objects, store
from hooke.store.backends import folder, remote
from hooke.store.backends.folder import FolderBackend
from hooke.store.backends.memory import MemoryBackend
from hooke.store.backends.remote import RemoteBackend
from hooke.store.backends.remote_packs import MOST_SMALL, RemotePacks
from hooke.store.claims import LeaseClaims, RangeClaims
from hooke.store.packs import Packs
from hooke.store.store import Store
from hooke.testing import check_backend, check_durability, check_store
from hooke.testing.backend_suite import BACKEND_CHECKS
from hooke.testing.store_suite import DURABILITY_CHECKS, STORE_CHECKS

CHECKS = {check.__name__.strip("_"): check for check in (*BACKEND_CHECKS, *STORE_CHECKS, *DURABILITY_CHECKS)}


# --- Leases.


def a_renewal_and_a_release_at_once(patch):
    patch.setattr(
        LeaseClaims,
        "_file_lock",
        property(lambda _: contextlib.nullcontext(), lambda *_: None),
        raising=False,
    )


def a_claim_sleeps(patch):
    refused = LeaseClaims._refused

    def slowly(self, *args):
        time.sleep(0.001)
        return refused(self, *args)

    patch.setattr(LeaseClaims, "_refused", slowly)


def who_claims_looks_before_it_writes(patch):
    def look_and_write(self, wanted):
        refused = self._refused(set(wanted))
        self._write({key: each for key, each in wanted.items() if key not in refused})
        return refused

    patch.setattr(LeaseClaims, "_write_and_look", look_and_write)


def who_comes_first_by_name_waits_for_nobody(patch):
    """Though the other may not have seen it."""
    refused = LeaseClaims._refused

    def hasty(self, new):
        names = self._names
        self._names = lambda: [name for name in names() if name < self._name]
        try:
            return refused(self, new)
        finally:
            del self._names

    patch.setattr(LeaseClaims, "_refused", hasty)


def a_refusal_is_of_all_keys(patch):
    refused = LeaseClaims._refused
    patch.setattr(LeaseClaims, "_refused", lambda self, new: new if refused(self, new) else set())


def what_is_refused_stays_written(patch):
    def write_and_look(self, wanted):
        self._write(wanted, new=[*wanted])
        return self._refused({*wanted})

    patch.setattr(LeaseClaims, "_write_and_look", write_and_look)


def the_dead_hold_their_keys(patch):
    live = LeaseClaims._live

    def undying(self, name, view):
        return live(self, name, view) if view is None else claims._held_decoder.decode(view.data)

    patch.setattr(LeaseClaims, "_live", undying)


def what_the_dead_left_stays(patch):
    patch.setattr(claims, "_FORGOTTEN_LEASES", 10**6)


def who_has_slept_goes_on(patch):
    patch.setattr(LeaseClaims, "_until", property(lambda _: float("inf"), lambda *_: None), raising=False)


def a_release_removes_the_file(patch):
    def release_many(self, released, *, soon=False):
        with self._changed:
            for each in released:
                self._held.pop(each.key, None)
            self._changed.notify_all()
        self._backend.remove(self._name)

    patch.setattr(LeaseClaims, "release_many", release_many)


def what_is_released_soon_stays(patch):
    release_many = LeaseClaims.release_many
    patch.setattr(
        LeaseClaims,
        "release_many",
        lambda self, released, *, soon=False: None if soon else release_many(self, released),
    )


def what_is_released_soon_waits_for_a_claim(patch):
    patch.setattr(claims, "_LATE_S", 1e6)


def leases_are_not_renewed(patch):
    patch.setattr(LeaseClaims, "_renew_all", lambda _self: None)


def a_thread_of_leases_stays(patch):
    over = threading.Event()
    patch.setattr(LeaseClaims, "_renew", lambda _: over.wait(5))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("weaken", "check", "guarantee"),
    [
        (a_renewal_and_a_release_at_once, "a_release_during_a_renewal_frees_the_key", "does not bring"),
        (a_claim_sleeps, "expired_leases_are_taken_over_at_once", "never sleep"),
        (who_claims_looks_before_it_writes, "one_of_many_takes_an_expired_lease_over", "one gets it"),
        (who_claims_looks_before_it_writes, "one_of_two_in_each_others_midst_has_the_key", "one gets it"),
        (
            who_comes_first_by_name_waits_for_nobody,
            "one_of_two_in_each_others_midst_has_the_key",
            "one gets it",
        ),
        (a_refusal_is_of_all_keys, "many_keys_are_claimed_as_one_by_one", "refused alone"),
        (what_is_refused_stays_written, "many_keys_are_claimed_as_one_by_one", "left to others"),
        (the_dead_hold_their_keys, "expired_leases_are_taken_over_at_once", "is free"),
        (
            the_dead_hold_their_keys,
            "a_claim_whose_process_died_over_it_ends_with_its_lease",
            "does not block",
        ),
        (what_the_dead_left_stays, "a_claim_whose_process_died_over_it_ends_with_its_lease", "cleared away"),
        (who_has_slept_goes_on, "who_slept_longer_than_its_lease_looks_again", "that one's"),
        (a_release_removes_the_file, "many_keys_are_claimed_as_one_by_one", "others are not"),
        (what_is_released_soon_stays, "what_is_released_soon_is_free_soon", "takes along"),
        (what_is_released_soon_waits_for_a_claim, "what_is_released_soon_is_free_soon", "is free soon"),
        (leases_are_not_renewed, "held_leases_are_renewed", "is renewed"),
        (a_thread_of_leases_stays, "leases_leave_no_thread", "no thread"),
    ],
)
def test_leases(monkeypatch, weaken, check, guarantee):
    check_backend(MemoryBackend, only=CHECKS[check])
    weaken(monkeypatch)
    monkeypatch.setattr("hooke.testing.backend_suite.PATIENCE_S", 1.0)
    with pytest.raises(AssertionError, match=guarantee):
        check_backend(MemoryBackend, only=CHECKS[check])


# --- Names of a remote place that are written and read together.


def who_writes_together_does_not_see_it(patch):
    patch.setattr(
        RemoteBackend, "_read_packed", lambda self, names: self._packs.read_many(names) if names else {}
    )


def reads_come_in_another_order(patch):
    read_many = RemoteBackend.read_many
    patch.setattr(RemoteBackend, "read_many", lambda self, names: read_many(self, sorted(names)))


@pytest.mark.parametrize(
    ("weaken", "check", "guarantee"),
    [
        (who_writes_together_does_not_see_it, "writes_together", "sees what it wrote"),
        (reads_come_in_another_order, "reads_many", "read together"),
    ],
)
def test_many_names(monkeypatch, tmp_path, weaken, check, guarantee):
    count = itertools.count()

    def make():
        number = next(count)
        url = f"memory://hooke-weakened/{weaken.__name__}/{number}"
        return RemoteBackend(url, FolderBackend(tmp_path / str(number)))

    check_backend(make, only=CHECKS[check])
    weaken(monkeypatch)
    with pytest.raises(AssertionError, match=guarantee):
        check_backend(make, only=CHECKS[check])
    fsspec.filesystem("memory").rm(f"/hooke-weakened/{weaken.__name__}", recursive=True)


# --- Stores.


def runs_do_not_wait_for_evictions(patch):
    patch.setattr(store, "await_removals", lambda _claims: None)


def evictions_know_no_run(patch):
    patch.setattr(
        eviction, "_remove", lambda backend, piece, _: backend.remove(piece.name, unused_since=None)
    )


def lookups_are_no_use(patch):
    def size(self, name, _):
        packed = self._packs.find(name)
        if packed is not None:
            return packed.size
        try:
            return Path(self.path(name)).stat().st_size  # to read it would be a use to a file system
        except FileNotFoundError:  # evicted
            return None

    patch.setattr(FolderBackend, "_touch", size)


def what_went_before_its_use_was_noted_is_found(patch):
    patch.setattr(FolderBackend, "_touch", lambda *_: 1)
    patch.setattr(MemoryBackend, "_touch", lambda *_: 1)


def times_that_can_be_set_vouch_for_bytes(patch):
    patch.setattr(
        folder,
        "_stamp",
        lambda facts: folder._STAMP.pack(facts.st_dev, facts.st_ino, facts.st_mtime_ns, 0, facts.st_size),
    )


def what_was_checked_once_is_never_checked_again(patch):
    patch.setattr(objects, "_note", lambda digest, _: digest + bytes(16))


def small_objects_are_checked_once(patch):
    patch.setattr(objects, "ALWAYS_BYTES", 0)
    what_was_checked_once_is_never_checked_again(patch)


def commits_come_late(patch):
    """An entry is written with the next one."""
    commit, waiting = Store.commit, []

    def later(self, entry):
        for each in waiting:
            commit(self, each)
        waiting[:] = [entry]

    patch.setattr(Store, "commit", later)


def a_failed_lookup_is_remembered(patch):
    find, absent = Store.find, set()

    def remembering(self, key, counts=None):
        if (id(self), key) in absent:
            return None
        entry = find(self, key, counts)
        if entry is None:
            absent.add((id(self), key))
        return entry

    patch.setattr(Store, "find", remembering)


def what_is_merged_is_lost(patch):
    put = RemotePacks._put

    def without(self, records):
        if len(records) <= MOST_SMALL // 2:
            put(self, records)

    patch.setattr(RemotePacks, "_put", without)


def the_first_record_counts(patch):
    def learn(self, pack):
        for name, record in pack.records.items():
            self._index.setdefault(name, record)
            self._folders.setdefault(name.rpartition("/")[0] + "/", {})[name] = None

    patch.setattr(RemotePacks, "_learn", learn)


def removals_are_merged_away(patch):
    """Though an earlier record of the name lies in another pack."""
    rewrite = RemotePacks._rewrite

    def rewritten(self, names, **when):
        for name in names:
            records = {key: each for key, each in self._packs[name].records.items() if each.data is not None}
            self._packs[name] = self._packs[name]._replace(records=records)
        self._index.clear()
        for pack in self._packs.values():
            self._learn(pack)
        rewrite(self, names, **when)

    patch.setattr(RemotePacks, "_rewrite", rewritten)


def what_was_read_is_not_read_again(patch):
    """As if the time inside of `read_ahead` never ended."""

    @contextlib.contextmanager
    def as_of_now(self, _learnt=None):
        self._known.depth += 1
        yield self._known.learnt
        self._known.depth -= 1

    patch.setattr(remote.RemoteBackend, "as_of_now", as_of_now)


def a_turn_begins_as_the_one_before_ended(patch):
    @contextlib.contextmanager
    def refreshed(self):
        if self._listed is None:
            with self._lock:
                self._refresh()
        self._looking.depth += 1
        try:
            yield
        finally:
            self._looking.depth -= 1

    patch.setattr(Packs, "refreshed", refreshed)


def what_was_missing_stays_missing(patch):
    lacking = Packs.lacking

    def remembered(self, names):
        missing = self.__dict__.setdefault("missing", set())
        missing.update(itertools.compress(names, lacking(self, names)))
        return [name in missing for name in names]

    patch.setattr(Packs, "lacking", remembered)


def what_is_claimed_together_is_claimed_alone(patch):
    patch.setattr(
        Store, "claim_many", lambda self, keys: [claims.MemoryClaims(self._clock).claim(key) for key in keys]
    )


def a_release_ends_all_claims(patch):
    def release_many(self, _claims, *, soon=False):
        for each in list(self._held):
            self._held.discard(each)
            self._set(fcntl.F_UNLCK, each)

    patch.setattr(RangeClaims, "release_many", release_many)


def nobody_claims(patch):
    patch.setattr(Store, "claim", lambda _self, key: claims.MemoryClaims(_self._clock).claim(key))


FOLDER, SIGNED, MEMORY, REMOTE = "folder", "signed", "memory", "remote"
EVERYWHERE = (FOLDER, SIGNED, MEMORY, REMOTE)
WEAKENED_STORES = [
    (
        runs_do_not_wait_for_evictions,
        "a_run_that_begins_during_an_eviction_keeps_what_it_finds",
        "is not evicted",
        EVERYWHERE,
    ),
    (evictions_know_no_run, "what_a_live_run_finds_during_an_eviction_stays", "found", EVERYWHERE),
    (lookups_are_no_use, "what_a_live_run_finds_during_an_eviction_stays", "found", (FOLDER, SIGNED)),
    (
        what_went_before_its_use_was_noted_is_found,
        "a_result_that_goes_before_its_use_is_noted_is_not_found",
        "is not found",
        (FOLDER, SIGNED, MEMORY),
    ),
    (times_that_can_be_set_vouch_for_bytes, "no_flipped_bit_is_served", "never served", (FOLDER,)),
    (what_was_checked_once_is_never_checked_again, "no_flipped_bit_is_served", "never served", EVERYWHERE),
    (small_objects_are_checked_once, "no_flipped_bit_is_served", "never served", EVERYWHERE),
    (
        commits_come_late,
        "what_was_committed_before_a_release_is_found_after_the_next_claim",
        "who",
        EVERYWHERE,
    ),
    (
        a_failed_lookup_is_remembered,
        "what_was_committed_before_a_release_is_found_after_the_next_claim",
        "who",
        EVERYWHERE,
    ),
    (a_release_ends_all_claims, "claims_last_until_their_own_release", "ends no claim", (FOLDER, SIGNED)),
    (nobody_claims, "claims_end_at_once", "excludes", EVERYWHERE),
    (nobody_claims, "each_key_is_computed_once", "computed once", (FOLDER,)),
    (a_thread_of_leases_stays, "stores_leave_no_thread", "no thread", (REMOTE,)),
    (what_was_read_is_not_read_again, "what_is_asked_together_is_asked_now", "at the beginning", (REMOTE,)),
    *(
        (weaken, "what_is_asked_together_is_asked_now", "at the beginning", (FOLDER, SIGNED))
        for weaken in (a_turn_begins_as_the_one_before_ended, what_was_missing_stays_missing)
    ),
    (
        what_is_claimed_together_is_claimed_alone,
        "what_is_asked_together_is_asked_now",
        "excludes",
        EVERYWHERE,
    ),
]


@pytest.fixture
def places(tmp_path):
    """Kind -> how to make a new place."""
    count = itertools.count()
    secret = b"a secret of the project, derived"

    def remote():
        number = next(count)
        return RemotePlace(f"memory://hooke-weakened/{number}", tmp_path / f"hosts-{number}", secret)

    yield {
        FOLDER: lambda: FolderPlace(tmp_path / str(next(count))),
        SIGNED: lambda: FolderPlace(tmp_path / str(next(count)), secret),
        MEMORY: MemoryPlace,
        REMOTE: remote,
    }
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/hooke-weakened", recursive=True)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("weaken", "check", "guarantee", "kind"),
    [(weaken, check, why, kind) for weaken, check, why, kinds in WEAKENED_STORES for kind in kinds],
)
def test_stores(monkeypatch, places, weaken, check, guarantee, kind):
    weaken(monkeypatch)
    monkeypatch.setattr("hooke.testing.backend_suite.PATIENCE_S", 1.0)
    with pytest.raises(AssertionError, match=guarantee):
        check_store(places[kind], only=CHECKS[check])


# --- Durability.


def nothing_is_synced(patch):
    patch.setattr(background_fsync, "sync_path", lambda _: None)
    patch.setattr(background_fsync, "_sync_file_system", lambda _: True)


def what_others_wrote_is_not_synced(patch):
    sync = FolderBackend.sync
    patch.setattr(FolderBackend, "sync", lambda self, names=(), *, wait=True: sync(self, (), wait=wait))


def each_is_a_group(patch):
    init = FolderBackend.__init__
    patch.setattr(
        FolderBackend,
        "__init__",
        lambda self, root, *, durable="group", **options: init(
            self, root, durable="group" if durable == "each" else durable, **options
        ),
    )


def no_group_is_synced(patch):
    patch.setattr(GroupSync, "_sync_due", lambda _self: None)


def errors_are_swallowed(patch):
    sync_files, all_of_it = background_fsync.sync_files, background_fsync._sync_file_system

    def quietly(paths):
        with contextlib.suppress(OSError):
            sync_files(paths)

    def all_quietly(root):
        try:
            return all_of_it(root)
        except OSError:
            return True

    patch.setattr(background_fsync, "sync_files", quietly)
    patch.setattr(folder, "sync_files", quietly)
    patch.setattr(background_fsync, "_sync_file_system", all_quietly)


def errors_in_the_background_are_forgotten(patch):
    sync_due = GroupSync._sync_due

    def forgetful(self):
        sync_due(self)
        self._failed = None

    patch.setattr(GroupSync, "_sync_due", forgetful)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("weaken", "check", "guarantee"),
    [
        (nothing_is_synced, "each_result_is_on_the_disk_at_once", "survives"),
        (nothing_is_synced, "a_sync_covers_all_that_the_store_wrote", "survives"),
        (what_others_wrote_is_not_synced, "a_sync_covers_what_others_wrote", "survives"),
        (each_is_a_group, "each_result_is_on_the_disk_at_once", "survives"),
        (no_group_is_synced, "a_group_is_on_the_disk_soon", "soon synced"),
        (errors_are_swallowed, "each_write_that_is_not_confirmed_is_an_error", "does not confirm"),
        (errors_are_swallowed, "a_sync_that_is_not_confirmed_is_an_error", "does not confirm"),
        (errors_are_swallowed, "an_error_of_a_group_is_raised_later", "in the background"),
        (errors_in_the_background_are_forgotten, "an_error_of_a_group_is_raised_later", "in the background"),
    ],
)
def test_durability(monkeypatch, raw_disk, weaken, check, guarantee):  # noqa: F811
    weaken(monkeypatch)
    monkeypatch.setattr("hooke.testing.store_suite.PATIENCE_S", 2.0)
    with raw_disk.mounted(), pytest.raises(AssertionError, match=guarantee):
        check_durability(lambda: DiskPlace(raw_disk), only=CHECKS[check])
