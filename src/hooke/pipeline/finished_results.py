"""The results of a run: what they were made from, those that it had before its driver died, and how others find them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, pairwise

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import CorruptObject, HookeError, MissingObject
from hooke.base.intervals import Segment, SegmentMap, put_pieces, split
from hooke.base.observed import InputsNow, manifest_id, merged
from hooke.base.ref import ItemsMadeFrom, ItemsObserved, MadeFrom, Manifest, Observed, Ref
from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CallsFinished,
    CapacityChanged,
    Event,
    InputsChanged,
    ItemsFound,
    MapExpanded,
    NodePlanned,
    RunStarted,
)
from hooke.journal.writer import Journal
from hooke.keys.fingerprint_parts import combine
from hooke.pipeline.arguments import promises_in
from hooke.pipeline.graph import Graph, Need, Node, Use, need_of
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodeState
from hooke.pipeline.promise import MapPromise
from hooke.pipeline.slots import MOST_BEHIND
from hooke.store.entries import Counts, Entry
from hooke.store.store import Store

__all__ = [
    "Lineage",
    "Look",
    "Recovered",
    "RecoveredResults",
    "ResultWrites",
    "StoredManifests",
    "recover",
]

_log = logging.getLogger("hooke")


# --- Lineage: what the results of a run were made from besides what their keys name.

INLINE_BYTES = 4096
"""A manifest of some forty files goes into entries and events; a larger one is stored once, for thousands of chunks."""

MOST_NAMED = 8
"""Changed inputs that one event names."""

_decoder = msgspec.msgpack.Decoder(Manifest)


class StoredManifests:
    """The manifests in a store, and whether they hold now."""

    def __init__(self, store: Store, now: InputsNow) -> None:
        self._store = store
        self._now = now
        self._read: dict[str, Manifest] = {}

    def forget(self, observed: Iterable[ItemsObserved]) -> None:
        """Look at the inputs again from now on, because a task has ended, which may have written files."""
        self._now.forget(name for each in observed for name in each.wrote)

    def put(self, manifest: Manifest) -> Ref | None:
        """Store a manifest; None for an empty one. Raises StoreFull."""
        if not manifest:
            return None
        ref = self._store.put(msgspec.msgpack.encode(manifest), inline_bytes=INLINE_BYTES)
        self._read[ref.digest] = manifest
        return ref

    def get(self, ref: Ref | None) -> Manifest:
        """A stored manifest, empty for None. Raises MissingObject, CorruptObject."""
        if ref is None:
            return ()
        if ref.digest not in self._read:
            self._read[ref.digest] = _decoder.decode(self._store.get(ref))
        return self._read[ref.digest]

    def first_changed(self, ref: Ref | None) -> Observed | None:
        """The first input that is no longer the same; None if the manifest holds. Its name is empty if the manifest is lost."""
        try:
            return self._now.first_changed(self.get(ref))
        except (MissingObject, CorruptObject):  # then nobody knows what the result was made from
            return Observed(kind="file", name="")

    def hold(self, made_from: MadeFrom) -> bool:
        """Whether everything that a result was made from is still the same."""
        return not made_from.unsettled and self.first_changed(made_from.deep) is None


class Lineage:
    """What each result of a run was made from, as ranges of items; costs nothing where nothing was observed.

    A result counts if everything in its deep manifest is still the same. It also counts if what its own task read is
    the same and the results that it was computed from are those of this run, whatever these were made from.
    """

    def __init__(self, graph: Graph, states: Sequence[NodeState], store: Store, now: InputsNow) -> None:
        self._graph = graph
        self._states = states
        self.manifests = StoredManifests(store, now)
        self._pieces: dict[int, list[ItemsMadeFrom]] = {}
        self._lists: dict[int, MadeFrom] = {}
        self._made: dict[tuple[object, ...], MadeFrom] = {}
        self._sources: dict[int, _Sources] = {}
        self._changed: dict[int, InputsChanged] = {}

    def note(self, node: int, piece: ItemsMadeFrom) -> None:
        """Note what items of a node were made from."""
        put_pieces(self._pieces.setdefault(node, []), piece.lo, piece.hi, [piece])

    def note_list(self, node: int, made_from: MadeFrom | None) -> None:
        """Note what the list of a dynamic map was made from."""
        if made_from is not None:
            self._lists[node] = made_from

    # -- of results that this run computes ---------------------------------------------------------

    def of_attempt(
        self, node: int, lo: int, hi: int, observed: Sequence[ItemsObserved]
    ) -> tuple[ItemsMadeFrom, ...]:
        """What items `lo..hi` were made from, now that their attempt is over; those made from nothing else are left out."""
        if lo >= hi or (not observed and not self._has_lineage(self._graph.parents(node))):
            return ()
        # For all items of the attempt, so that it stays one piece: which of them wrote a file does not matter.
        written = tuple(
            Observed(kind="wrote", name=name)
            for name in sorted({name for each in observed for name in each.wrote})
            if not os.path.isabs(name)
        )
        sources = self._sources_of(node)
        constant = [made for need in sources.constant for made in self._of_need(need)]
        cuts = {lo, hi, *(at for each in observed for at in (each.lo, each.hi))}
        for parent in sources.elementwise:
            cuts.update(a for a, _, _ in split(self._pieces.get(parent, ()), lo, hi))
        if sources.in_items:
            cuts.update(range(lo, hi))
        found = []
        within = sorted(cut for cut in cuts if lo <= cut <= hi)
        for a, b in pairwise(within):
            above = [*constant, *self._of_item(node, sources, a)]
            own = [each for each in observed if each.lo <= a < each.hi]
            if written:
                own.append(ItemsObserved(lo=a, hi=b, inputs=written))
            made = self._make(node, own, above) if own or above else None
            if made is not None:
                found.append(ItemsMadeFrom(lo=a, hi=b, made_from=made))
        return tuple(_joined(found))

    def of_list(self, node: int, observed: Sequence[ItemsObserved]) -> MadeFrom | None:
        """What the list of a dynamic map was made from, now that it was read."""
        above = [made for need in self._sources_of(node).listed for made in self._of_need(need)]
        return self._make(node, observed, above, listed=True) if observed or above else None

    def renewed(self, node: int, made_from: MadeFrom, *, listed: bool = False) -> MadeFrom:
        """A found result's `made_from`; if it counts only by the results it was computed from, with what those were made from now."""
        if self.manifests.first_changed(made_from.deep) is None:
            return made_from
        sources = self._sources_of(node)
        needs = sources.listed if listed else sources.constant
        above = [made for need in needs for made in self._of_need(need)]
        own = [ItemsObserved(lo=0, hi=1, inputs=self.manifests.get(made_from.own))]
        return self._make(node, own, above, listed=listed) or MadeFrom(consumed=made_from.consumed)

    def _make(
        self, node: int, own: Sequence[ItemsObserved], above: Sequence[MadeFrom], *, listed: bool = False
    ) -> MadeFrom | None:
        mine = merged(each.inputs for each in own)
        task = self._graph.nodes[node].task.name
        mine_too = [f"{task}: {each.unsettled}" for each in own if each.unsettled]
        unsettled = next(iter([*mine_too, *(made.unsettled for made in above if made.unsettled)]), "")
        key = (node, listed, manifest_id(mine), tuple(made.id for made in above), unsettled)
        if key not in self._made:
            deep = merged([mine, *(self.manifests.get(made.deep) for made in above)])
            self._made[key] = MadeFrom(
                id=manifest_id(deep) if deep else "",
                own=self.manifests.put(mine),
                deep=self.manifests.put(deep),
                consumed=self._consumed(node, listed=listed) or "",
                unsettled=unsettled,
            )
        made = self._made[key]
        return made if made.deep is not None or unsettled else None

    def _has_lineage(self, nodes: Iterable[int]) -> bool:
        return bool(self._pieces or self._lists) and any(
            node in self._pieces or node in self._lists or self._has_lineage(self._list_makers(node))
            for node in nodes
        )

    def _of_item(self, node: int, sources: _Sources, item: int) -> Iterator[MadeFrom]:
        for parent in sources.elementwise:
            yield from self._at(parent, item)
        if sources.in_items:
            columns = [
                column[item]
                for column in self._graph.nodes[node].iterables
                if not isinstance(column, MapPromise)
            ]
            for need in _needs_in(self._graph, columns):
                yield from self._of_need(need)

    def _of_need(self, need: Need) -> list[MadeFrom]:
        if need.item is not None:
            return self._at(need.node, need.item)
        found = [piece.made_from for piece in self._pieces.get(need.node, ())]
        makers = [need.node]
        while makers:
            maker = makers.pop()
            if maker in self._lists:
                found.append(self._lists[maker])
            makers += self._list_makers(maker)
        return list(dict.fromkeys(found))

    def _list_makers(self, node: int) -> list[int]:
        """The maps whose items this one follows, if it has as many as a list that is read during the run."""
        each = self._graph.nodes[node]
        return [use.node for use in each.uses if use.elementwise] if each.items is None else []

    def _at(self, node: int, item: int) -> list[MadeFrom]:
        found = (made for _, _, made in split(self._pieces.get(node, ()), item, item + 1))
        return [made for made in found if made is not None]

    def _sources_of(self, node: int) -> _Sources:
        if node not in self._sources:
            self._sources[node] = _sources(self._graph, self._graph.nodes[node])
        return self._sources[node]

    def _consumed(self, node: int, *, listed: bool) -> str | None:
        """The digest of the results that a node is computed from; None if some are not there yet, or items differ in them."""
        sources = self._sources_of(node)
        if not listed and (sources.elementwise or sources.in_items):
            return None
        parts: list[str | int] = []
        for need in sources.listed if listed else sources.constant:
            state = self._states[need.node]
            lo, hi = (0, state.items) if need.item is None else (need.item, need.item + 1)
            if hi is None or not state.done.items.contains(lo, hi):
                return None
            for a, b, ref, start in state.done.cut(lo, hi):
                parts += [a, b, ref.digest, start]
        return combine("consumed", *parts)

    # -- of results that are stored or in the journal ----------------------------------------------

    def counts(self, node: int, *, listed: bool = False) -> Counts:
        """Whether a stored result of the node, or its stored list, counts now."""

        def counts(made_from: MadeFrom) -> bool:
            if self.manifests.hold(made_from):
                return True
            changed = self.manifests.first_changed(made_from.own)
            same = bool(made_from.consumed) and self._consumed(node, listed=listed) == made_from.consumed
            if changed is None and same:
                return True
            self._note_changed(node, changed)
            return False

        return counts

    def take_changed(self, node: int) -> InputsChanged | None:
        """Why stored results of the node did not count; None if there were none."""
        return self._changed.pop(node, None)

    def _note_changed(self, node: int, changed: Observed | None) -> None:
        before = self._changed.get(node) or InputsChanged(node=node)
        inputs = before.inputs
        if changed is not None and changed.name and len(inputs) < MOST_NAMED and changed not in inputs:
            inputs = (*inputs, changed)
        self._changed[node] = InputsChanged(
            node=node, inputs=inputs, upstream=before.upstream or changed is None
        )


class _Sources(msgspec.Struct, frozen=True, kw_only=True):
    """The results that a node is computed from: those for all items, those that item i takes item i of, those for its list.

    `in_items`: each item of a list that the pipeline gave may hold results of its own.
    """

    constant: tuple[Need, ...]
    elementwise: tuple[int, ...] = ()
    listed: tuple[Need, ...] = ()
    in_items: bool = False


def _sources(graph: Graph, node: Node) -> _Sources:
    constant = tuple(_needs_in(graph, list(node.arguments.values())))
    if node.kind == "call":
        return _Sources(constant=constant)
    elementwise = tuple(use.node for use in node.uses if use.elementwise)
    others = [need_of(graph, use) for use in node.uses if not use.elementwise]
    if node.is_dynamic:
        listed = _needs_in(graph, list(node.iterables))
        return _Sources(constant=constant, listed=tuple(listed))
    in_items = any(need not in constant for need in others) or any(
        not isinstance(column, MapPromise) and promises_in(column) for column in node.iterables if others
    )
    return _Sources(constant=constant, elementwise=elementwise, in_items=in_items)


def _needs_in(graph: Graph, value: object) -> Iterator[Need]:
    uses = dict.fromkeys(Use(promise.node, tuple(promise.path)) for promise in promises_in(value))
    return iter(dict.fromkeys(need_of(graph, use) for use in uses))


def _joined(pieces: Iterable[ItemsMadeFrom]) -> Iterator[ItemsMadeFrom]:
    """The pieces, with adjacent ones joined that were made from the same."""
    last: ItemsMadeFrom | None = None
    for piece in pieces:
        if last is not None and last.hi == piece.lo and last.made_from == piece.made_from:
            last = msgspec.structs.replace(last, hi=piece.hi)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


class Look(msgspec.Struct, kw_only=True):
    """A question to hosts where tasks run: which of the inputs of stored results are others there?"""

    asked_at: int
    """The `forgotten` of the inputs then."""
    nodes: list[int] = msgspec.field(default_factory=list)
    """They wait for the answer."""
    inputs: dict[Observed, None] = msgspec.field(default_factory=dict)
    calls: dict[int, Manifest] = msgspec.field(default_factory=dict)
    """Those that are not answered yet, by their numbers."""
    changed: list[Observed] = msgspec.field(default_factory=list)


# --- The results that a run had before its driver died, read from its journal by the keys of its nodes.

UNHEARD_PER_SLOT = 2 + 2 * MOST_BEHIND
"""Of an attempt that fails, those that follow are never heard of; as many may follow its retry before that begins."""


class RecoveredResults(msgspec.Struct, kw_only=True):
    """The results of a node in the journal."""

    segments: list[Segment] = msgspec.field(default_factory=list)
    pieces: list[ItemsMadeFrom] = msgspec.field(default_factory=list)
    """What they were made from, in order; other items were made from nothing but what their keys name."""
    expansion: MapExpanded | None = None

    def segments_now(self, manifests: StoredManifests) -> Iterator[tuple[Segment, MadeFrom | None]]:
        """The segments, and what they were made from, that are still right."""
        for lo, hi, ref, start in self.segments:
            for a, b, made_from in split(self.pieces, lo, hi):
                if made_from is None or manifests.hold(made_from):
                    yield (a, b, ref, start + a - lo), made_from


class Recovered(msgspec.Struct, kw_only=True):
    """Node key -> its known results. An edited node has another key, so it takes none of them."""

    known: dict[str, RecoveredResults] = msgspec.field(default_factory=dict)
    next_attempt: int = 1
    """Above every attempt that was submitted, including those that the journal may not know.

    For each slot these are: one that had not begun, those that waited behind it, and a second attempt that was
    abandoned before it began.
    """

    def lacking(self, calls: Mapping[int, str], store: Store) -> set[int]:
        """Which of these calls, by their keys, certainly have no result, neither here nor in the store: one look for all of them."""
        lacking = compress(calls.items(), store.lacking([*calls.values()]))
        return {node for node, key in lacking if key not in self.known}

    def has_list(self, key: str, now: MapExpanded) -> bool:
        """Whether the dynamic map with this key had the same list as `now`."""
        known = self.known.get(key)
        was = known.expansion.keys if known is not None and known.expansion is not None else None
        return was is not None and now.keys is not None and was.digest == now.keys.digest


def recover(events: Iterable[Event], *, tainted: bool = False) -> Recovered:
    """Fold a driver's journal. Nodes are matched by key, because an edit may have renumbered them.

    Results that depend on failed items count only with `tainted`, which shows the run as it ended.
    """
    past = _Past(tainted=tainted)
    for event in events:
        past.count(event)
        past.take(event)
    for key, segments in past.done.items():
        known = past.known.setdefault(key, RecoveredResults())
        known.segments, known.pieces = list(segments), past.pieces.get(key, [])
    return Recovered(
        known=past.known, next_attempt=past.last_attempt + UNHEARD_PER_SLOT * past.most_slots + 1
    )


class _Past(msgspec.Struct):
    known: dict[str, RecoveredResults] = msgspec.field(default_factory=dict)
    done: dict[str, SegmentMap] = msgspec.field(default_factory=dict)
    pieces: dict[str, list[ItemsMadeFrom]] = msgspec.field(default_factory=dict)
    keys: dict[int, str] = msgspec.field(default_factory=dict)
    last_attempt: int = 0
    most_slots: int = 0
    tainted: bool = False

    def count(self, event: Event) -> None:
        """Bound the number of attempts that were submitted."""
        match event:
            case AttemptStarted() | AttemptFinished() | AttemptFailed():
                self.last_attempt = max(self.last_attempt, event.attempt)
            case RunStarted():
                self.last_attempt += UNHEARD_PER_SLOT * self.most_slots
                self.most_slots = 0
            case CapacityChanged():
                self.most_slots = max(self.most_slots, event.slots)
            case _:
                pass

    def take(self, event: Event) -> None:
        """Keep finished results; tainted ones are to run again."""
        match event:
            case (
                AttemptFinished(tainted=True)
                | AttemptFailed(tainted=True)
                | ItemsFound(tainted=True)
                | MapExpanded(tainted=True)
            ) if not self.tainted:
                pass
            case NodePlanned():
                self.keys[event.node] = event.key
            case MapExpanded():
                self._expansion(event)
            case AttemptFinished(expanded=MapExpanded() as expansion):
                self._expansion(expansion)  # the driver may have died before it wrote an event of its own
            case ItemsFound(made_from=made_from):
                pieces = (
                    ()
                    if made_from is None
                    else (ItemsMadeFrom(lo=event.lo, hi=event.hi, made_from=made_from),)
                )
                self._note(event, event.hi, event.ref, pieces)
            case AttemptFinished():
                self._note(event, event.hi, event.ref, event.made_from)
            case AttemptFailed(ref=Ref() as ref):
                self._note(event, event.lo + event.done, ref, event.made_from)
            case _:
                pass

    def _expansion(self, event: MapExpanded) -> None:
        self.known.setdefault(self.keys[event.node], RecoveredResults()).expansion = event

    def _note(
        self,
        event: AttemptFinished | AttemptFailed | ItemsFound,
        hi: int,
        ref: Ref,
        pieces: Sequence[ItemsMadeFrom],
    ) -> None:
        """The last result of an item counts: it ran again after a resume if its inputs had changed."""
        key, lo = self.keys[event.node], event.lo
        start = event.start if isinstance(event, ItemsFound) else 0
        self.done.setdefault(key, SegmentMap()).replace(lo, hi, ref, start)
        if pieces or key in self.pieces:
            put_pieces(self.pieces.setdefault(key, []), lo, hi, pieces)


# --- Writes: what makes results visible to other runs.


class ResultWrites:
    """The writes of a run's results, to be made by whom and when it suits. They raise StoreFull."""

    def __init__(self, graph: Graph, keys: GraphKeys, store: Store, clock: Clock, *, run: str) -> None:
        self._graph = graph
        self._keys = keys
        self._store = store
        self._clock = clock
        self._run = run

    def of_attempt(
        self, event: AttemptFinished | AttemptFailed, ref: Ref, count: int
    ) -> Sequence[Callable[[], None]]:
        """Those of the first `count` items of an attempt, in the stored list `ref`; none of what only this run may use."""
        node = self._graph.nodes[event.node]
        if not node.task.resources.cache or not count or event.tainted:
            return ()
        pieces = event.made_from
        if node.kind == "call":
            made_from = pieces[0].made_from if pieces else None
            if made_from is not None and made_from.unsettled:
                return ()
            return (self.call(event.node, ref, event.seconds, made_from=made_from),)
        hi = event.lo + count
        return (self.items(event.node, event.lo, hi, ref, seconds=event.seconds, pieces=pieces),)

    def of_calls(self, event: CallsFinished) -> Callable[[], None]:
        """That of the calls of a group, which were made from nothing but what their keys name."""
        now, nodes, keys = self._clock.now(), self._graph.nodes, self._keys
        ended = zip(event.nodes, event.refs, event.seconds, strict=True)
        entries = [
            Entry(key=keys[at].key, ref=ref, task=nodes[at].task.name, run=self._run, seconds=seconds, at=now)
            for at, ref, seconds in ended
            if nodes[at].task.resources.cache
        ]
        return partial(self._store.commit_all, entries)

    # Many parameters: which items of which list, and the facts of their entry.
    def items(  # noqa: PLR0913
        self,
        node: int,
        lo: int,
        hi: int,
        ref: Ref,
        *,
        pieces: Sequence[ItemsMadeFrom],
        first: int = 0,
        seconds: float = 0.0,
    ) -> Callable[[], None]:
        """That of elements `first`.. of the stored list `ref` as items `lo..hi`, which took so many seconds together."""
        keys = self._keys.indexed(node)
        assert keys is not None
        off = first - lo
        return partial(
            self._store.commit_items,
            self._keys[node].recipe,
            keys[16 * lo : 16 * hi],
            ref,
            task=self._graph.nodes[node].task.name,
            run=self._run,
            seconds=seconds,
            pieces=[msgspec.structs.replace(piece, lo=piece.lo + off, hi=piece.hi + off) for piece in pieces],
            first=first,
        )

    # Many parameters: the facts of an entry, each a keyword.
    def call(
        self,
        node: int,
        ref: Ref,
        seconds: float,
        *,
        key: str | None = None,
        made_from: MadeFrom | None = None,
    ) -> Callable[[], None]:
        """That of a whole result, under the node's key if no other is given."""
        entry = Entry(
            made_from=made_from,
            key=key or self._keys[node].key,
            ref=ref,
            task=self._graph.nodes[node].task.name,
            run=self._run,
            seconds=seconds,
            at=self._clock.now(),
        )
        return partial(self._store.commit, entry)

    def remove_checkpoints(self, refs: Sequence[Ref], keys: Sequence[str], journal: Journal) -> None:
        """Remove the folders that nobody needs any more: first the results must survive a power loss."""
        self._store.sync(refs)
        if journal.durable != "none":
            journal.sync()
        try:
            self._store.checkpoints.remove(keys)
        except (HookeError, OSError) as error:  # the results are there, and a later sweep tries again
            _log.warning("checkpoint folders of finished tasks could not be removed: %s", error)
