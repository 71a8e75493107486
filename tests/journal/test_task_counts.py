"""What the rows of a view count as events come is what a count of all nodes finds, and costs only the nodes that changed."""

from __future__ import annotations

import math
import random
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.journal.histories import ref

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    ItemsFound,
    ItemsSkipped,
    MapExpanded,
    NodePlanned,
    RetryPlanned,
    RunFinished,
    RunStarted,
    WorkerStopped,
)
from hooke.journal.run_view import CHAIN_NODE_S, CHAIN_SHARE, CHAIN_SMALL, RunView
from hooke.journal.task_view import GAP_S, TaskView
from hooke.progress.display import snapshot_of

BEGUN = RunStarted(at=100.0, run="r", pipeline="p", entry="f.py:p")
NODES = 7
ITEMS = 5
SECONDS = (0.0, 0.1, 0.25, 1.0, 3.7, 20.0)


# --- Histories of a small graph, more or less plausible: late and double answers, items and nodes that are not there.


class History:
    """Random events, with times that grow."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.graph = [self.node(number) for number in range(chance.randint(1, NODES))]
        self.began: list[dict] = []
        """What says which attempt it is, and at which items."""
        self.at = 100.0
        self.events = [BEGUN, *self.graph]
        for _ in range(chance.randrange(50)):
            self.at += chance.choice((0.0, 0.3, 2.0))
            self.events += self.next()

    def node(self, number: int) -> NodePlanned:
        chance = self.chance
        kind = chance.choice(("call", "map"))
        return NodePlanned(
            node=number,
            task=chance.choice("abc"),
            key=chance.choice("klmnop"),
            kind=kind,
            items=chance.choice((None, 0, 1, 2, 3, ITEMS)) if kind == "map" else 1,
            parents=tuple(chance.choices(range(number), k=chance.randrange(3))) if number else (),
        )

    def span(self) -> dict:
        lo, hi = sorted(self.chance.choices(range(ITEMS + 1), k=2))
        node = self.chance.randrange(NODES)
        if self.chance.random() < 0.5 and node < len(self.graph) and self.graph[node].kind == "call":
            lo, hi = 0, 1
        return {"node": node, "lo": lo, "hi": hi}

    def attempt(self) -> dict:
        """One that began, maybe of long ago, or sometimes one that did not."""
        if self.began and self.chance.random() < 0.9:
            return self.began[-self.chance.randint(1, min(5, len(self.began)))]
        return {**self.span(), "attempt": 1000}

    def next(self) -> list:
        chance = self.chance
        kinds = {self.start: 5, self.finish: 4, self.fail: 2, self.other: 4, self.again: 1}
        return [
            msgspec.structs.replace(event, at=self.at)
            for event in chance.choices(list(kinds), weights=kinds.values())[0]()
        ]

    def start(self) -> list:
        twin_of = None
        where = {**self.span(), "attempt": len(self.began) + 1}
        if self.began and self.chance.random() < 0.2:
            beside = self.attempt()
            where, twin_of = {**beside, "attempt": where["attempt"]}, beside["attempt"]
        self.began.append(where)
        expand = self.chance.random() < 0.1
        return [
            AttemptStarted(**where, worker=f"w{self.chance.randrange(3)}", twin_of=twin_of, expand=expand)
        ]

    def finish(self) -> list:
        where, chance = self.attempt(), self.chance
        expanded = MapExpanded(node=where["node"], items=chance.randint(0, ITEMS))
        return [
            AttemptFinished(
                **where,
                ref=ref(where["node"]),
                seconds=chance.choice(SECONDS),
                expanded=expanded if chance.random() < 0.2 else None,
                tainted=chance.random() < 0.2,
            )
        ]

    def fail(self) -> list:
        where, chance = self.attempt(), self.chance
        done = chance.randint(0, max(where["hi"] - where["lo"] - 1, 0))
        failure = Failure(kind="TaskError", message="no")
        kept = ref(where["node"]) if done else None
        failed = AttemptFailed(**where, failure=failure, done=done, ref=kept, seconds=chance.choice(SECONDS))
        span = {"node": where["node"], "lo": where["lo"] + done, "hi": where["hi"]}
        again = RetryPlanned(**span, number=2, due=0.0, reason="")
        # A run looks at them together, a display sometimes between them.
        return [failed, again] if chance.random() < 0.3 else [failed]

    def other(self) -> list:
        span, chance = self.span(), self.chance
        return [
            chance.choice(
                (
                    ItemsFound(**span, ref=ref(span["node"]), seconds=2.0),
                    ItemsFound(**span, ref=ref(span["node"]), source="journal"),
                    ItemsSkipped(**span, parent=0),
                    MapExpanded(node=span["node"], items=span["hi"]),
                    RetryPlanned(**span, number=2, due=0.0, reason=""),
                    CapacityChanged(slots=span["lo"], cpus=1.0),
                    WorkerStopped(worker=f"w{span['lo']}", cause="gone"),
                )
            )
        ]

    def again(self) -> list:
        """The run ends, is resumed, or a node is planned twice."""
        resumed = RunStarted(run="r", pipeline="p", entry="f.py:p", resumed=True)
        return self.chance.choice(
            (
                [RunFinished(status="failed")],
                [RunFinished(status="stopped"), resumed, *self.graph],
                [resumed, *self.graph],
                [self.chance.choice(self.graph)],
            )
        )


# --- The same figures, from all nodes at once.


class Anew:
    """A task's counts, each from all its nodes."""

    def __init__(self, view: RunView, task: TaskView) -> None:
        self.task = task
        self.nodes = [node for node in view.nodes.values() if node.task is task]
        self.firsts = [started for node in self.nodes for started in node.firsts]

    def sum(self, name: str) -> int:
        return sum(getattr(node, name) for node in self.nodes)

    @property
    def waiting(self) -> int | None:
        counts = [node.waiting_count for node in self.nodes]
        return None if None in counts else sum(counts)

    @property
    def state(self) -> str:
        settled = self.sum("settled_count")
        if any(node.running for node in self.nodes):
            return "running"
        if self.sum("failed_count"):
            return "failed"
        if any(node.skipped for node in self.nodes) and self.waiting == 0:
            return "partly" if settled else "skipped"
        if all(node.complete or not node.needed for node in self.nodes):
            whole = "cached" if self.sum("cached_count") and not self.sum("done_count") else "done"
            return whole if settled else "not needed"
        return "partly" if settled else "waiting"

    def work_s(self, now: float) -> float | None:
        waiting, mean, task = self.waiting, self.task.item_s, self.task
        running = [(each.hi - each.lo, now - each.at) for each in self.firsts]
        if waiting == 0 and not sum(items for items, _ in running):
            return 0.0
        if waiting is None or mean is None:
            return None
        late = [(items, for_s) for items, for_s in running if for_s > items * mean]
        timed = task._timed + sum(items for items, _ in late)
        mean = (task._timed_s + sum(for_s for _, for_s in late)) / timed
        return waiting * mean + sum(max(items * mean - for_s, 0.0) for items, for_s in running)

    def overdue_s(self, now: float) -> float:
        mean = self.task.item_s or 0.0
        return max((now - each.at - (each.hi - each.lo) * mean for each in self.firsts), default=0.0)

    def remaining_s(self, now: float) -> float | None:
        work, task = self.work_s(now), self.task
        if not work:
            return None if work is not None and self.overdue_s(now) > 0 else work
        busy = len(self.firsts)
        if task.ended_at is not None and now - task.ended_at <= GAP_S:
            busy += min(task._freed, self.waiting or 0)
        left = work / busy if busy else math.inf
        return None if left == math.inf or self.overdue_s(now) > left else left

    def row(self, now: float) -> dict:
        sizes = [node.items for node in self.nodes]
        return {
            "state": self.state,
            "kind": "map" if any(node.planned.kind == "map" for node in self.nodes) else "call",
            "nodes": len(self.nodes),
            "items": None if None in sizes else sum(sizes),
            "waiting": self.waiting,
            "running": self.sum("running_count"),
            "cached": self.sum("cached_count"),
            "done": self.sum("done_count"),
            "failed": self.sum("failed_count"),
            "skipped": sum(node.skipped.count for node in self.nodes),
            "attempts": self.sum("attempts"),
            "twins": self.sum("twins"),
            "twins_won": self.sum("twins_won"),
            "remaining_s": self.remaining_s(now),
        }


def run_row(view: RunView, now: float) -> dict:
    nodes = list(view.nodes.values())
    return {
        "items": sum(node.items or 0 for node in nodes),
        "waiting": sum(node.waiting_count or 0 for node in nodes),
        "running": sum(node.running_count for node in nodes),
        "cached": sum(node.cached_count for node in nodes),
        "done": sum(node.done_count for node in nodes),
        "failed": sum(node.failed_count for node in nodes),
        "remaining": remaining(view, now),
    }


def remaining(view: RunView, now: float) -> tuple | None:
    if view.status != "running":
        return None
    tasks = {name: Anew(view, task) for name, task in view.tasks.items()}
    works = {name: task.work_s(now) for name, task in tasks.items()}
    untimed = tuple(name for name, work in works.items() if work is None)
    slots = max(view.capacity.slots if view.capacity else 0, view.busy, 1)
    seconds = max(sum(work for work in works.values() if work) / slots, longest_chain_s(view, now))
    if max((task.overdue_s(now) for task in tasks.values()), default=0.0) > seconds:
        return (0.0, untimed) if untimed else None
    return seconds, untimed


def longest_chain_s(view: RunView, now: float) -> float:
    """Through the nodes that wait: one that has its results, or is not needed, waits for nothing."""
    ends: dict[int, float] = {}
    for number, node in sorted(view.nodes.items()):
        if node.complete or not node.needed:
            continue
        own = view.tasks[node.planned.task].item_s or 0.0
        if not node.waiting_count and node.firsts:
            own = max(0.0, own - (now - max(started.at for started in node.firsts)))
        ends[number] = own + max((ends.get(parent, 0.0) for parent in node.planned.parents), default=0.0)
    return max(ends.values(), default=0.0)


@pytest.mark.long
@pytest.mark.needs("cpu")
@given(st.integers(0, 2**64))
@settings(max_examples=400)
def test_rows_are_what_all_nodes_say(seed):
    chance = random.Random(seed)
    events = History(chance).events
    looks = chance.choice((0.1, 0.5, 1.0))
    view = RunView()
    for at, event in enumerate(events):
        view.apply(event)
        # Several events lie between two looks, as between two frames.
        if chance.random() > looks and at < len(events) - 1:
            continue
        now = view.last_at + 0.1 * (at % 4)
        for row, task in zip(view.rows(now), view.tasks.values(), strict=True):
            expected = Anew(view, task).row(now)
            assert {name: getattr(row, name) for name in expected} == expected
        expected, row = run_row(view, now), view.row(now)
        left = row.remaining and (row.remaining.seconds, row.remaining.untimed)
        wanted = expected.pop("remaining")
        # Equal sums of other orders differ in the last bit.
        assert left == (wanted and (pytest.approx(wanted[0], rel=1e-12), wanted[1]))
        assert {name: getattr(row, name) for name in expected} == expected


@pytest.mark.needs("cpu")
@given(st.integers(0, 2**64))
@settings(max_examples=200)
def test_a_view_for_rows_alone_says_what_one_of_all_nodes_says(seed):
    chance = random.Random(seed)
    whole, lean = RunView(), RunView()
    lean.only_rows = True
    for event in History(chance).events:
        node = whole.nodes.get(event.node) if hasattr(event, "node") else None
        late = node is not None and (isinstance(event, NodePlanned) or node.complete)
        if late or (isinstance(event, RunStarted) and whole.begun):  # a driver's view gets no such events
            continue
        for view in (whole, lean):
            view.apply(event)
        if chance.random() < 0.5:
            now = whole.last_at + 0.1
            assert snapshot_of(lean, now) == snapshot_of(whole, now)
        if isinstance(event, AttemptFinished) and node is not None and node.planned.kind == "call":
            assert (event.node in lean.nodes) == (not node.complete or bool(node.running))
    assert {number: node.level for number, node in lean.nodes.items()} == {
        number: node.level for number, node in whole.nodes.items() if number in lean.nodes
    }


def test_a_view_for_rows_alone_matches_nodes_by_their_own_keys_after_a_resume():
    view = RunView()
    view.only_rows = True
    resumed = RunStarted(run="r", pipeline="p", entry="f.py:p", resumed=True)
    for event in (
        BEGUN,
        *[NodePlanned(node=node, task="t", key=f"k{node}") for node in range(2)],
        AttemptStarted(node=0, attempt=1, lo=0, hi=1, worker="w"),
        resumed,
        *[NodePlanned(node=node, task="t", key=f"k{1 - node}") for node in range(2)],
    ):
        view.apply(event)
    assert [node.attempts for node in view.nodes.values()] == [0, 1]


# --- What it costs.


def calls_of(work) -> int:
    """How many calls of functions `work` makes."""
    made = 0

    def count(_frame, event, _what) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


def wide(nodes: int) -> RunView:
    """A run of `nodes` calls, half of which are done, and one that takes all their results."""
    view = RunView.fold([BEGUN, CapacityChanged(at=100.0, slots=2, cpus=2.0)])
    for number in range(nodes):
        view.apply(NodePlanned(at=100.0, node=number, task="each", key=str(number)))
    view.apply(NodePlanned(at=100.0, node=nodes, task="all", key="all", parents=tuple(range(nodes))))
    for number in range(nodes // 2):
        call(view, number)
    return view


def call(view: RunView, number: int, *, seconds: float = 1.0) -> None:
    span = {"node": number, "attempt": number, "lo": 0, "hi": 1, "worker": "w"}
    view.apply(AttemptStarted(**span, at=101.0))
    view.apply(AttemptFinished(**span, at=102.0, ref=ref(number), seconds=seconds))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("changed", [0, 3])
def test_a_snapshot_costs_what_changed_and_not_the_nodes(changed):
    costs = []
    for nodes in (200, 4000):
        view = wide(nodes)
        snapshot_of(view, 103.0)
        for number in range(nodes // 2, nodes // 2 + changed):
            call(view, number)
        costs.append(calls_of(lambda view=view: snapshot_of(view, 103.5)))
    assert costs[1] < costs[0] + 100


def test_the_longest_chain_of_a_large_graph_is_looked_for_now_and_then():
    nodes = 2 * CHAIN_SMALL
    view = RunView.fold(
        [
            BEGUN,
            CapacityChanged(at=100.0, slots=100, cpus=100.0),
            *[
                NodePlanned(at=100.0, node=n, task="step", key=str(n), parents=(n - 1,) if n else ())
                for n in range(nodes)
            ],
        ]
    )
    call(view, 0, seconds=2.0)
    assert view.remaining(102.0).seconds == pytest.approx((nodes - 1) * 2.0)
    call(view, 1, seconds=4.0)
    # Its nodes and their links to parents.
    again_s = 2 * nodes * CHAIN_NODE_S / CHAIN_SHARE
    assert view.remaining(102.0 + 0.9 * again_s).seconds == pytest.approx((nodes - 1) * 2.0)
    assert view.remaining(102.0 + again_s).seconds == pytest.approx((nodes - 2) * 3.0)
    # Time that went back tells nothing of how old it is.
    call(view, 2, seconds=3.0)
    assert view.remaining(102.0).seconds == pytest.approx((nodes - 3) * 3.0)


@pytest.mark.needs("cpu")
def test_the_longest_chain_is_looked_for_again_when_much_of_it_is_found_at_once():
    nodes = 8 * CHAIN_SMALL
    view = RunView.fold([BEGUN, CapacityChanged(at=100.0, slots=100, cpus=100.0)])
    for n in range(nodes):
        parents = (n - 1,) if 0 < n < nodes // 2 else ()
        view.apply(NodePlanned(at=100.0, node=n, task="step", key=str(n), parents=parents))
    call(view, 0, seconds=2.0)
    assert view.remaining(102.0).seconds == pytest.approx((nodes // 2 - 1) * 2.0)
    for n in range(1, nodes // 2):
        view.apply(ItemsFound(at=102.0, node=n, lo=0, hi=1, ref=ref(), source="cache"))
    assert view.remaining(102.1).seconds == pytest.approx(nodes // 2 * 2.0 / 100)


def test_a_chain_does_not_lead_through_a_node_that_has_its_result():
    view = RunView.fold(
        [
            BEGUN,
            CapacityChanged(slots=9, cpus=9.0),
            *[NodePlanned(node=n, task="step", key=str(n), parents=(n - 1,) if n else ()) for n in range(3)],
            NodePlanned(node=3, task="beside", key="3", parents=(0,)),
            NodePlanned(node=4, task="step", key="4"),
            ItemsFound(node=1, lo=0, hi=1, ref=ref(1)),
        ]
    )
    call(view, 4, seconds=2.0)
    # 0 waits for a worker, since 3 needs it; 2 has all that it needs, too.
    assert view.remaining(102.0).seconds == pytest.approx(2.0)
