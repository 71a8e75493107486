"""Deliberate weakenings of the key, the store and the journal, each of which the fuzzer has to find."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hooke.base import observed
from hooke.journal.events import Event, NodePlanned
from hooke.keys import fingerprint
from hooke.keys.code_walk import EVERYTHING
from hooke.keys.file import File
from hooke.keys.fingerprint_parts import combine
from hooke.pipeline import node_keys
from hooke.pipeline.finished_results import Lineage, StoredManifests
from hooke.pipeline.runner import Runner
from hooke.running import driver
from hooke.store import map_index
from hooke.store.entries import Hit
from hooke.store.map_index import MapIndex
from hooke.store.store import Claim, Entry, Store

__all__ = ["WEAKENED", "Weaken", "Weakened"]

Weaken = Callable[[pytest.MonkeyPatch], None]

WRONG = frozenset({"stale", "wrong answer"})
NEEDLESS = frozenset({"needless"})


def _without(label: str) -> Weaken:
    """A key that does not follow what has this label."""

    def weaken(patch: pytest.MonkeyPatch) -> None:
        weak = functools.partial(fingerprint.fingerprint_code, follow=EVERYTHING - {label})
        patch.setattr(node_keys, "fingerprint_code", weak)

    return weaken


def files_by_name(patch: pytest.MonkeyPatch) -> None:
    """A file that is an input counts by its path."""
    noted = File.__hooke_key__

    def key(self: File) -> str:
        noted(self)  # so that workers take it for part of the key, and do not observe it
        return combine("file", str(self.path))

    patch.setattr(File, "__hooke_key__", key)


def items_by_place(patch: pytest.MonkeyPatch) -> None:
    """The items of a map count by their number instead of their value."""
    keys = node_keys.index_items

    def by_place(items: Any, *, label: str, **_: Any) -> bytes:
        return keys([(at,) for at, _ in enumerate(items)], label=label)

    patch.setattr(node_keys, "own_keys", lambda column: by_place(column, label=""))
    patch.setattr(node_keys, "index_items", by_place)


def lists_by_code(patch: pytest.MonkeyPatch) -> None:
    """The list of a dynamic map is found by the map's code, whatever the list is made from."""
    patch.setattr(Runner, "_expansion_key", lambda self, node: combine("list", self._parts.keys[node].recipe))


def the_evicted_is_there(patch: pytest.MonkeyPatch) -> None:
    """What is gone counts as there."""
    patch.setattr(Store, "keep", lambda _self, refs: [True] * len(refs))
    patch.setattr(map_index, "are_whole", lambda _backend, refs: [True] * len(refs))


def removing_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """A removed result is still found."""
    patch.setattr(Store, "remove", lambda _self, _key: True)


def the_next_item(patch: pytest.MonkeyPatch) -> None:
    """The store gives the neighbour of an item in its list."""
    find = MapIndex.find

    def neighbour(self: MapIndex, *args: Any) -> list[Hit]:
        return [hit._replace(start=max(hit.start - 1, 0)) for hit in find(self, *args)]

    patch.setattr(MapIndex, "find", neighbour)


def forgets_results(patch: pytest.MonkeyPatch) -> None:
    """Results of calls are never committed."""
    patch.setattr(Store, "commit", lambda _self, _entry: None)


def finds_the_tasks_last(patch: pytest.MonkeyPatch) -> None:
    """A call finds the last result of its task, whatever its key."""
    commit, find = Store.commit, Store.find

    def committed(self: Store, entry: Entry) -> None:
        commit(self, entry)
        last.setdefault(self.place, {})[entry.task] = entry.key

    def found(self: Store, key: str, *args: Any) -> Entry | None:
        entry = find(self, key, *args)
        if entry is None and len(last.get(self.place, {})) == 1:
            return find(self, *last[self.place].values(), *args)
        return entry

    last: dict[str, dict[str, str]] = {}
    patch.setattr(Store, "commit", committed)
    patch.setattr(Store, "find", found)
    patch.setattr(Store, "lacking", lambda _self, keys: [False] * len(keys))


def resumes_by_number(patch: pytest.MonkeyPatch) -> None:
    """A resumed run takes the results of a node by its number, although it was edited."""
    recover, recall = driver.recover, Runner._from_journal
    numbers: dict[int, Any] = {}

    def recovered(events: Iterator[Event]) -> Any:
        known = list(events)
        found = recover(known)
        numbers.clear()
        numbers.update(
            {each.node: found.known.get(each.key) for each in known if isinstance(each, NodePlanned)}
        )
        return found

    def from_journal(self: Runner, node: int) -> bool:
        if numbers.get(node) is not None:
            self._parts.recovered.known.setdefault(self._parts.keys[node].key, numbers[node])
        return recall(self, node)

    patch.setattr(driver, "recover", recovered)
    patch.setattr(Runner, "_from_journal", from_journal)


def _unchecked(kind: str) -> Weaken:
    """What a task read in passing counts as unchanged, if it is of this kind."""

    def weaken(patch: pytest.MonkeyPatch) -> None:
        holds = observed._holds
        patch.setattr(observed, "_holds", lambda each, *args: each.kind == kind or holds(each, *args))

    return weaken


def a_key_without_imports(patch: pytest.MonkeyPatch) -> None:
    """Nor does what was read tell: a module is an input of the attempt in which its worker imported it first, whichever that is."""
    _without("imports")(patch)
    _unchecked("file")(patch)


def manifests_of_one_task(patch: pytest.MonkeyPatch) -> None:
    """A result counts if what its own task read is the same, whatever its inputs were made from."""
    patch.setattr(
        StoredManifests,
        "hold",
        lambda self, made_from: not made_from.unsettled and self.first_changed(made_from.own) is None,
    )


def whatever_was_consumed(patch: pytest.MonkeyPatch) -> None:
    """Inputs that were made again count as the same bytes."""
    patch.setattr(Lineage, "_consumed", lambda _self, _node, *, listed: f"the same {listed}")


def manifests_never_hold(patch: pytest.MonkeyPatch) -> None:
    """What has a manifest is computed again."""
    patch.setattr(Lineage, "counts", lambda _self, _node, **_: lambda _made_from: False)


def nobody_claims(patch: pytest.MonkeyPatch) -> None:
    """Two drivers may compute one result."""

    class Free:
        def release(self) -> None:
            """Nothing is held."""

    def claim(_self: Store, _key: str) -> Claim:
        return Free()

    patch.setattr(Store, "claim", claim)
    patch.setattr(Store, "claim_many", lambda self, keys: [self.claim(key) for key in keys])


def comments_count(patch: pytest.MonkeyPatch) -> None:
    """The text of the file is part of the key."""
    code = fingerprint.fingerprint_code

    def by_text(function: Any) -> Any:
        found = code(function)
        text = Path(getattr(function, "function", function).__code__.co_filename).read_text()
        return type(found)(
            key=combine("text", found.key, text), parts=found.parts, notes=found.notes, foreign=found.foreign
        )

    patch.setattr(node_keys, "fingerprint_code", by_text)


class Weakened(NamedTuple):
    """A weakening, the kinds of faults as which it shows, and the seed to try first: its program showed it."""

    weaken: Weaken
    kinds: frozenset[str]
    seed: int


_KEY_WITHOUT = {
    "bodies": 1,
    "defaults": 82,
    "closures": 3,
    "globals": 0,
    "modules": 3,
    "members": 0,
    "values": 0,
    "instances": 3,
}
_GIVES_WRONG = {
    a_key_without_imports: 139,
    files_by_name: 8,
    items_by_place: 0,
    lists_by_code: 4,
    removing_does_nothing: 1,
    the_next_item: 12,
    finds_the_tasks_last: 1,
    resumes_by_number: 7,
    manifests_of_one_task: 84,
    whatever_was_consumed: 84,
}
_MANIFEST_WITHOUT = {"file": 16, "absent": 24, "listing": 0, "variable": 44}
_RUNS_NEEDLESSLY = {forgets_results: 1, nobody_claims: 1, comments_count: 5, manifests_never_hold: 5}


def _name(weaken: Weaken) -> str:
    return weaken.__name__.replace("_", " ")


WEAKENED: dict[str, Weakened] = {
    **{
        f"a key without {label}": Weakened(_without(label), WRONG, seed)
        for label, seed in _KEY_WITHOUT.items()
    },
    **{_name(weaken): Weakened(weaken, WRONG, seed) for weaken, seed in _GIVES_WRONG.items()},
    **{
        f"a manifest without {kind}": Weakened(_unchecked(kind), WRONG, seed)
        for kind, seed in _MANIFEST_WITHOUT.items()
    },
    "the evicted is there": Weakened(the_evicted_is_there, WRONG | {"error"}, 14),
    **{_name(weaken): Weakened(weaken, NEEDLESS, seed) for weaken, seed in _RUNS_NEEDLESSLY.items()},
}
"""Name -> the weakening."""
