"""Which stored results count if tasks read files that no key names: chains, maps, lists, resumes; with a real store and journal."""

import logging
import random
from types import SimpleNamespace

import msgspec
import pytest
from tests.support.campaigns import campaign

from hooke.base.observed import (
    InputsNow,
    as_unshared,
    first_changed,
    observed_file,
    observed_listing,
    observed_variable,
)
from hooke.base.ref import ItemsObserved, Manifest, Ref
from hooke.journal.events import (
    AttemptFinished,
    AttemptStarted,
    CapacityChanged,
    Failure,
    InputsChanged,
    NodePlanned,
)
from hooke.journal.reader import read
from hooke.journal.run_view import RunView
from hooke.journal.writer import Journal
from hooke.pipeline.calls import CallMaker
from hooke.pipeline.engine import LOOK, Capabilities
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.finished_results import Recovered, recover
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.references import pack, unpack
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import MOST_LOOKED_AT, Runner, RunnerParts
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace
from hooke.planning.remaining import Survey
from hooke.running.why import explain, roots
from hooke.store.entries import Entry
from hooke.store.store import Store
from hooke.testing.virtual_world import VirtualClock

logging.getLogger("observed_outside").held = SimpleNamespace()


def outside():
    """What tasks read, and have read. It hangs on an object of the standard library: the value of a global would be in their keys."""
    return logging.getLogger("observed_outside").held


def see(name):
    outside().read.append(("file", name))
    return (outside().folder / name).read_text()


@task
def load(name):
    return see(name)


@task
def constant(name):
    return see(name) and "always"


@task
def shout(text):
    return text.upper()


@task
def beside(text, name):
    return f"{text}+{see(name)}"


@task
def both(left, right):
    return f"{left}&{right}"


@task
def lines(name):
    return see(name).split()


@task
def joined(parts, mark=""):
    return "|".join(parts) + mark


@task
def flavour(name):
    outside().read.append(("variable", name))
    return outside().variables.get(name, "plain")


@task
def write(text):
    (outside().folder / "out" / "made").write_text(text)
    outside().wrote.append("out/made")
    return text


@task
def passed(text):
    return len(text)


@task
def read_after(_written):
    return see("out/made") + " read"


@task
def list_after(_written):
    outside().read.append(("listing", "out"))
    names = sorted(file.name for file in (outside().folder / "out").iterdir())
    return read_after.function(names)


@task(cache=False)
def fresh(text):
    return text


@pipeline
def chain():
    return shout(shout(load("a")))


@pipeline
def diamond():
    top = load("a")
    return both(shout(top), beside(top, "b"))


@pipeline
def mapped():
    return joined(shout.map(load.map(["a", "b", "c"])))


@pipeline
def over_constant():
    return joined(both.map(["x", "y"], right=constant("a")))


@pipeline
def dynamic():
    return joined(shout.map(beside.map(lines("list"), name="b")))


@pipeline
def each_its_own():
    return joined(shout.map([load("a"), load("b")]))


@pipeline
def cut_off():
    return shout(constant("a"))


@pipeline
def one_item():
    parts = load.map(["a", "b", "c"])
    return shout(parts[1])


@task
def count(names):
    return str([see(name) for name in names])


@pipeline
def over_many():
    return shout(shout(beside(count([f"many{number}" for number in range(120)]), "a")))


@pipeline
def by_way_of_a_file():
    return read_after(passed(write("one")))


@pipeline
def by_way_of_a_folder():
    return list_after(passed(write("one")))


@task
def copied(name):
    (outside().folder / "out" / "made").write_text(see(name))
    outside().wrote.append("out/made")
    return "copied"


@task
def alone():
    return see("out/made")


@pipeline
def beside_a_writer():
    return both(alone(), shout(read_after(copied("a"))))


@pipeline
def after_a_writer():
    made = copied("a")
    return both(read_after(made), shout(made))


@pipeline
def unread():
    return shout(write("one"))


@pipeline
def by_variable():
    return shout(flavour("FLAVOUR"))


@pipeline
def uncached():
    return shout(fresh(load("a")))


class ObservingEngine:
    """Runs each attempt at once, in pieces of one item, and says what its tasks read; two items an attempt at most."""

    capabilities = Capabilities(name="hand", isolated=False, cancels=True, elastic=True)

    def __init__(self, store, clock, folder, *, unshared=False):
        self.unshared = unshared
        self.looks = 0
        self.blind = False
        self.slow_until = ""
        """The task whose end the answer to the first look waits for."""
        self.held = []
        self.worker = AttemptRunner(name="hand", store=store, clock=clock)
        self.clock = clock
        self.folder = folder
        self.ran = []
        self.stop_after = None
        self.events = [CapacityChanged(slots=2, cpus=2.0)]

    def submit(self, calls):
        for call in calls:
            if self.stop_after is not None and len(self.ran) >= self.stop_after:
                raise KeyboardInterrupt
            self.events += self.answer(call)

    def answer(self, call):
        where = {"attempt": call.attempt, "node": call.node, "lo": call.lo, "hi": call.hi}
        if call.kind == LOOK:
            return self.hold([self.look(call, where)])
        self.ran += [call.image.name] * (call.hi - call.lo)
        observed = []

        def function(*args, **kwargs):
            outside().read.clear()
            outside().wrote.clear()
            result = call.image.function(*args, **kwargs)
            lo = call.lo + len(observed)
            observed.append(
                ItemsObserved(
                    lo=lo,
                    hi=lo + 1,
                    inputs=self.inputs(),
                    unsettled=outside().unsettled,
                    wrote=tuple(outside().wrote),
                )
            )
            return result

        work = WorkerCall(**where, kind=call.kind, function=function, payload=call.payload, shown=call.shown)
        event = self.worker.run(work)
        seen = tuple(each for each in observed if each.inputs or each.unsettled or each.wrote)
        seen = as_unshared(seen) if self.unshared else seen
        late, self.held = (self.held, []) if call.image.name == self.slow_until else ([], self.held)
        return [
            AttemptStarted(at=self.clock.now(), **where),
            msgspec.structs.replace(event, observed=seen),
            *late,
        ]

    def hold(self, answer):
        if not self.slow_until or self.looks > 1:
            return answer
        self.held = answer
        return []

    def look(self, call, where):
        assert self.unshared
        self.looks += 1
        if self.blind:
            return call.failed(self.clock.now(), Failure(kind="WorkerDied", message="was killed"))
        manifest = msgspec.msgpack.decode(call.payload, type=Manifest)
        changed = tuple(each for each in manifest if first_changed([each], root=self.folder, environment={}))
        return AttemptFinished(
            **where, ref=Ref("", 0, b""), observed=(ItemsObserved(lo=0, hi=1, inputs=changed),)
        )

    def inputs(self):
        found = [self.input(kind, name) for kind, name in dict.fromkeys(outside().read)]
        return tuple(sorted(found, key=lambda each: (each.kind, each.name)))

    def input(self, kind, name):
        if kind == "file":
            return observed_file(name, str(self.folder / name))
        if kind == "listing":
            return observed_listing(name, [file.name for file in (self.folder / name).iterdir()], ())
        return observed_variable(name, outside().variables.get(name))

    def wait(self, timeout_s):
        if not self.events:
            self.clock.time += timeout_s
        events, self.events = self.events, []
        return events

    def cancel(self, attempt):
        pass

    def scale(self, workers):
        pass

    def close(self):
        pass


class Place:
    """A project's folder with files, its store and its runs. If `unshared`, tasks run on a host that has the files, and the driver has others."""

    def __init__(self, folder, store=None, *, unshared=False):
        self.folder = self.seen = folder / "project"
        self.unshared = unshared
        self.blind = False
        self.slow_until = ""
        self.looks = 0
        if unshared:
            self.seen = folder / "driver"
            self.seen.mkdir()
            (self.seen / "a").write_text("of the driver")
        (self.folder / "out").mkdir(parents=True)
        self.store = store or folder / "store"
        self.runs = folder / "runs"
        self.count = 0
        self.events = []
        self.clock = VirtualClock()
        self.put(a="one", b="two", c="three", list="x y")

    def put(self, **texts):
        for name, text in texts.items():
            (self.folder / name).write_text(text)

    def run(self, wanted, *, resumed=False, stop_after=None, forced=(), status="finished"):
        """The tasks that ran, one name an item, and the result."""
        outside().folder = self.folder
        self.count += not resumed
        folder = self.runs / str(self.count)
        folder.mkdir(parents=True, exist_ok=True)
        recovered = recover(self.journalled()) if resumed else Recovered()
        store = Store.open(self.store, durable="none")
        graph = trace(wanted, ())
        keys = GraphKeys(graph, run=str(self.count))
        state = RunState(graph, [NodePlan() for _ in graph.nodes], first_attempt=recovered.next_attempt)
        engine = ObservingEngine(store, self.clock, self.folder, unshared=self.unshared)
        engine.stop_after, engine.blind, engine.slow_until = stop_after, self.blind, self.slow_until
        self.clock.time += 1.0
        with Journal.create(folder, "driver", durable="none", clock=self.clock) as journal:
            for node in graph.nodes:
                journal.append(
                    NodePlanned(
                        node=node.id,
                        task=node.task.name,
                        key=keys[node.id].key,
                        kind=node.kind,
                        items=node.items,
                        parents=graph.parents(node.id),
                    )
                )
            self.events = []
            journal.observers.append(self.events.append)
            parts = RunnerParts(
                run=str(self.count),
                graph=graph,
                keys=keys,
                state=state,
                engine=engine,
                store=store,
                journal=journal,
                clock=self.clock,
                inputs=InputsNow(root=self.seen, environment=outside().variables, unshared=self.unshared),
                recovered=recovered,
                forced=frozenset(graph.downstream([n.id for n in graph.nodes if n.task.name in forced])),
            )
            ended = Runner(parts).run()
            self.looks = engine.looks
        assert status in (None, ended)
        if ended != "finished":
            return engine.ran, None
        refer = CallMaker(graph, keys, state, store).refer
        return engine.ran, unpack(pack(graph.output, refer), store)

    def stored(self, wanted):
        """The store, and the keys of the pipeline's nodes."""
        return Store.open(self.store, durable="none"), GraphKeys(trace(wanted, ()), run="none")

    def plain(self, wanted):
        """What the pipeline gives as plain Python, without Hooke."""
        outside().folder = self.folder
        return wanted.function()

    def why(self):
        """The explanation of the last run."""
        folders = [self.runs / str(number) for number in range(self.count, 0, -1)]
        views = [
            RunView.fold(event for segment in read(folder) for event in segment.events) for folder in folders
        ]
        return explain(views[0], views[1:])

    def left(self, wanted):
        """Task -> items that a run would still have to do."""
        store, keys = self.stored(wanted)
        inputs = InputsNow(root=self.folder, environment=outside().variables)
        counts = {}
        for each in Survey(trace(wanted, ()), keys, store, {}, inputs).left:
            counts[each.task] = counts.get(each.task, 0) + (each.items or 0)
        return {task: count for task, count in counts.items() if count}

    def journalled(self):
        return [event for segment in read(self.runs / str(self.count)) for event in segment.events]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


CAMPAIGN = campaign(__name__)


@pytest.fixture(autouse=True)
def _nothing_moved():
    vars(outside()).update(folder=None, read=[], wrote=[], unsettled="", variables={})


@pytest.fixture(params=["here", "unshared"])
def place(request, tmp_path):
    return Place(tmp_path, unshared=request.param == "unshared")


EVERY = [
    (chain, "a", ["load", "shout", "shout"]),
    (diamond, "a", ["beside", "both", "load", "shout"]),
    (diamond, "b", ["beside", "both"]),
    (mapped, "b", ["joined", "load", "shout"]),
    (dynamic, "b", ["beside", "beside", "joined", "shout", "shout"]),
    (each_its_own, "b", ["joined", "load", "shout"]),
    (one_item, "b", ["load", "shout"]),
]


@pytest.mark.parametrize(("wanted", "name", "again"), EVERY, ids=lambda each: getattr(each, "name", None))
def test_what_was_made_from_a_changed_file_runs_and_counts_again_when_the_file_is_put_back(
    place, wanted, name, again
):
    _, first = place.run(wanted)
    assert place.run(wanted) == ([], first), "nothing changed"
    before = (place.folder / name).read_text()
    place.put(**{name: "changed"})
    ran, second = place.run(wanted)
    assert sorted(ran) == again
    assert second != first
    assert place.run(wanted) == ([], second), "nothing changed since"
    place.put(**{name: before})
    assert place.run(wanted) == ([], first), "the old file's results are still there"


def test_equal_results_upstream_keep_what_was_made_from_them(place):
    place.run(cut_off)
    place.put(a="changed")
    assert place.run(cut_off) == (["constant"], "ALWAYS")
    assert place.run(cut_off) == ([], "ALWAYS"), (
        "the found result was committed with what its input was made from now"
    )
    place.put(a="one")
    assert place.run(cut_off) == ([], "ALWAYS")


def test_equal_results_keep_the_items_that_take_them_as_a_constant(place):
    _, first = place.run(over_constant)
    place.put(a="changed")
    assert place.run(over_constant) == (["constant"], first)
    assert place.run(over_constant) == ([], first)


def test_a_variable_is_an_input_too(place):
    _, first = place.run(by_variable)
    outside().variables["FLAVOUR"] = "sweet"
    assert place.run(by_variable) == (["flavour", "shout"], "SWEET")
    outside().variables.clear()
    assert place.run(by_variable) == ([], first)


def test_a_list_with_other_items_keeps_the_results_of_those_that_it_had(place):
    place.run(dynamic)
    place.put(list="x y z")
    ran, result = place.run(dynamic)
    assert sorted(ran) == ["beside", "joined", "lines", "shout"]
    assert result == "X+TWO|Y+TWO|Z+TWO"
    place.put(list="y")
    assert place.run(dynamic)[1] == "Y+TWO"
    place.put(list="x y")
    assert place.run(dynamic) == ([], "X+TWO|Y+TWO")


def test_manifests_outlive_the_results_that_they_are_of(place):
    _, first = place.run(chain)
    store, keys = place.stored(chain)
    assert store.remove(keys[0].key)
    assert store.remove(keys[1].key)
    assert place.run(chain) == ([], first)
    place.put(a="changed")
    assert place.run(chain) == (["load", "shout", "shout"], "CHANGED")


def test_what_depends_on_an_uncached_task_runs_as_ever(place):
    assert place.run(uncached) == (["load", "fresh", "shout"], "ONE")
    assert place.run(uncached) == (["fresh", "shout"], "ONE")
    place.put(a="changed")
    assert place.run(uncached) == (["load", "fresh", "shout"], "CHANGED")


def test_sixteen_results_of_a_key_are_kept_and_the_oldest_goes(place):
    for wanted in (chain, mapped):
        texts = [f"text{number}" for number in range(17)]
        for text in texts:
            place.put(a=text)
            assert place.run(wanted)[0]
        for text in texts[1:]:
            place.put(a=text)
            assert place.run(wanted)[0] == [], text
        place.put(a=texts[0])
        assert place.run(wanted)[0]


def test_a_result_that_read_nothing_does_not_count_beside_a_later_one_that_did(place):
    store, keys = place.stored(chain)
    for node in range(3):
        entry = Entry(key=keys[node].key, ref=store.put("old"), task="", run="", seconds=1.0, at=0.0)
        store.commit(entry)
    assert place.run(chain) == ([], "old"), "as before inputs were observed"
    assert place.run(chain, forced=("load",)) == (["load", "shout", "shout"], "ONE")
    assert place.run(chain) == ([], "ONE")
    place.put(a="changed")
    assert place.run(chain) == (["load", "shout", "shout"], "CHANGED")


def test_items_that_read_nothing_do_not_count_beside_later_ones_that_did(place):
    store, keys = place.stored(mapped)
    old, names = store.put(["old", "old", "old"]), keys.indexed(0)
    store.commit_items(keys[0].recipe, names, old, task="load", run="", seconds=1.0)
    assert place.run(mapped)[1] == "OLD|OLD|OLD"
    place.run(mapped, forced=("load",))
    assert place.run(mapped) == ([], "ONE|TWO|THREE")
    place.put(b="changed")
    ran, result = place.run(mapped)
    assert (sorted(ran), result) == (["joined", "load", "shout"], "ONE|CHANGED|THREE")


def test_an_unsettled_result_is_used_in_its_run_and_by_no_other(place):
    outside().unsettled = "it read a, and changed it"
    for wanted in (chain, mapped, dynamic, cut_off):
        everything = place.run(wanted)
        assert place.run(wanted) == everything, wanted.name
    outside().unsettled = ""
    ran, result = place.run(chain)
    assert (ran, result) == (["load", "shout", "shout"], "ONE")
    assert place.run(chain) == ([], "ONE")


def test_a_resumed_run_runs_again_what_was_made_from_a_changed_file(place):
    ran, _ = place.run(chain, stop_after=2, status="stopped")
    assert ran == ["load", "shout"]
    assert place.run(chain, resumed=True, stop_after=2, status="finished") == (["shout"], "ONE")
    place.put(a="changed")
    assert place.run(chain, resumed=True) == (["load", "shout", "shout"], "CHANGED")
    place.put(a="third")
    assert place.run(chain, resumed=True) == (["load", "shout", "shout"], "THIRD")
    assert place.run(chain, resumed=True) == ([], "THIRD"), (
        "the last result of an item is the one that counts"
    )


def test_a_resumed_map_runs_the_items_again_whose_file_changed(place):
    place.run(mapped, stop_after=5, status="stopped")
    place.put(b="changed")
    ran, result = place.run(mapped, resumed=True)
    assert result == "ONE|CHANGED|THREE"
    assert "load" in ran
    assert len(ran) < 7
    assert place.run(mapped, resumed=True) == ([], result)


def test_a_resumed_run_reads_its_list_again_if_the_file_of_the_list_changed(place):
    place.run(dynamic, stop_after=3, status="stopped")
    place.put(list="y z")
    assert place.run(dynamic, resumed=True)[1] == "Y+TWO|Z+TWO"
    assert place.run(dynamic, resumed=True) == ([], "Y+TWO|Z+TWO")


def test_unsettled_results_are_not_recalled_by_a_resume(place):
    outside().unsettled = "it changed what it read"
    place.run(chain, stop_after=2, status="stopped")
    outside().unsettled = ""
    assert place.run(chain, resumed=True) == (["load", "shout", "shout"], "ONE")


def test_two_checkouts_share_a_store(tmp_path):
    (tmp_path / "left").mkdir()
    (tmp_path / "right").mkdir()
    left, right = Place(tmp_path / "left"), Place(tmp_path / "right", store=tmp_path / "left" / "store")
    first = left.run(mapped)[1]
    assert right.run(mapped) == ([], first), "files are named relative to the project"
    right.put(b="right")
    assert right.run(mapped)[1] == "ONE|RIGHT|THREE"
    assert left.run(mapped) == ([], first)
    assert right.run(mapped) == ([], "ONE|RIGHT|THREE")


def test_the_journal_says_which_input_changed(place):
    place.run(diamond)
    assert place.of(InputsChanged) == []
    place.put(b="changed")
    place.run(diamond)
    told = {
        (event.node, *(each.name for each in event.inputs), event.upstream)
        for event in place.of(InputsChanged)
    }
    assert told == {(2, "b", False), (3, True)}


@pytest.mark.parametrize("seed", range(5))
def test_damaged_records_and_manifests_make_tasks_run_again(place, seed):
    chance = random.Random(seed)
    place.put(list=" ".join(f"{number}" for number in range(300)))  # so that manifests are in objects, too
    names = {f"many{number}": "same" for number in range(120)}
    place.put(**names)
    wanted = chance.choice([chain, mapped, dynamic, over_many])
    first = place.run(wanted)[1]
    place.put(a="changed")
    second = place.run(wanted)[1]
    files = [
        file
        for file in place.store.rglob("*")
        if file.is_file() and (file.suffix == ".pack" or file.parts[-3] == "objects")
    ]
    assert files
    for file in chance.sample(files, k=max(1, len(files) // 3)):
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
    assert place.run(wanted)[1] == second
    place.put(a="one")
    assert place.run(wanted)[1] == first


@pytest.mark.parametrize("part", range(CAMPAIGN.tests))
def test_any_order_of_edits_kills_resumes_and_removals_gives_what_plain_python_gives(tmp_path, part):
    """Also: a run after a run runs nothing."""
    for seed in range(part, CAMPAIGN.size, CAMPAIGN.tests):
        folder = tmp_path / str(seed)
        folder.mkdir()
        play(Place(folder, unshared=seed % 2 == 1), seed)


def play(place, seed):
    chance = random.Random(seed)
    wanted = chance.choice([chain, diamond, mapped, over_constant, dynamic, each_its_own, one_item, cut_off])
    for _ in range(12):
        name = chance.choice("abc")
        match chance.choice(["edit", "edit", "list", "remove", "evict", "run", "kill"]):
            case "edit":
                place.put(**{name: chance.choice(["one", "two", "three"])})
            case "list":
                place.put(list=chance.choice(["x", "x y", "y x z"]))
            case "remove":
                store, keys = place.stored(wanted)
                store.remove(chance.choice([node.recipe for node in keys.nodes]))
            case "evict":
                Store.open(place.store).gc(chance.choice([0, 2000, 100_000]))
            case "kill":
                place.run(wanted, stop_after=chance.randrange(3), status=None)
                if chance.random() < 0.5:
                    place.put(**{name: chance.choice(["one", "two", "three"])})
                if chance.random() < 0.8:
                    assert place.run(wanted, resumed=True)[1] == place.plain(wanted)
                continue
            case _:
                pass
        assert place.run(wanted)[1] == place.plain(wanted), seed
        if chance.random() < 0.5:
            assert place.run(wanted) == ([], place.plain(wanted)), seed


def test_why_names_the_input_that_changed_and_what_was_made_from_it(place):
    place.run(diamond)
    place.put(a="changed")
    place.run(diamond)
    causes = {each.task: [cause.text for cause in each.causes] for each in place.why()}
    where = " on the workers' hosts" if place.unshared else ""
    assert causes == {
        "load": [f"ran again: a changed{where} (read, not declared)"],
        "shout": ["it reads the result of load, which was made again"],
        "beside": ["it reads the result of load, which was made again"],
        "both": [
            "it reads the result of shout, which was made again",
            "it reads the result of beside, which was made again",
        ],
    }
    roots_of_both = roots(place.why(), 3)
    assert [cause.text for _, cause in roots_of_both] == [f"ran again: a changed{where} (read, not declared)"]


def test_why_says_that_a_result_is_not_kept(place, caplog):
    outside().unsettled = "it read a, and changed it"
    place.run(chain)
    assert {each.task: each.unsettled for each in place.why()} == {
        "load": "load: it read a, and changed it",
        "shout": "shout: it read a, and changed it",
    }
    said = [record.message for record in caplog.records if "in this run only" in record.message]
    assert said == [
        "load: it read a, and changed it; its result is used in this run only",
        "shout: it read a, and changed it; its result is used in this run only",
    ]


def test_a_plan_counts_stored_results_only_if_their_inputs_are_the_same(place):
    place.run(dynamic)
    assert place.left(dynamic) == {}
    place.put(b="changed")
    assert place.left(dynamic) == {"beside": 2, "shout": 2, "joined": 1}
    place.put(b="two", list="x")
    assert place.left(dynamic)["lines"] == 1


def test_a_task_writes_again_what_another_reads_and_is_gone(place):
    for wanted in (by_way_of_a_file, by_way_of_a_folder):
        assert place.run(wanted)[1] == "one read"
        assert place.run(wanted) == ([], "one read")
        (place.folder / "out" / "made").unlink()
        ran, result = place.run(wanted)
        assert (ran, result) == (["write"], "one read"), (
            "its readers count again, because the file is as it was"
        )
        assert place.run(wanted) == ([], "one read")
        place.put(**{"out/made": "edited"})
        ran, result = place.run(wanted)
        assert result == "one read"
        assert place.run(wanted) == ([], "one read")
        (place.folder / "out" / "other").write_text("")


def test_a_file_that_nobody_reads_is_not_written_again(place):
    assert place.run(unread)[1] == "ONE"
    (place.folder / "out" / "made").unlink()
    assert place.run(unread) == ([], "ONE")


@pytest.fixture
def apart(tmp_path):
    return Place(tmp_path, unshared=True)


@pytest.mark.parametrize("wanted", [chain, diamond, mapped, dynamic, each_its_own, over_constant])
def test_a_cached_run_asks_a_worker_once_about_files_that_the_driver_does_not_see(apart, wanted):
    _, first = apart.run(wanted)
    assert apart.looks == 0, "there were no results"
    assert apart.run(wanted) == ([], first)
    assert apart.looks == 1
    outside().variables["FLAVOUR"] = "sweet"
    apart.run(by_variable)
    apart.run(by_variable)
    assert apart.looks == 0, "the driver knows the variables"


def test_many_files_are_looked_at_in_parts(apart):
    names = {f"many{number}": "same" for number in range(MOST_LOOKED_AT + 1)}
    apart.put(**names)

    @pipeline
    def each_of_many():
        return joined(load.map(sorted(names)))

    _, first = apart.run(each_of_many)
    assert apart.run(each_of_many) == ([], first)
    assert apart.looks == 2
    apart.put(many7="changed")
    assert sorted(apart.run(each_of_many)[0]) == ["joined", "load"]


def test_what_no_worker_can_look_at_runs_again(apart, caplog):
    _, first = apart.run(chain)
    apart.blind = True
    ran, again = apart.run(chain)
    assert ("load" in ran, again) == (True, first)
    assert (
        "no worker could look at a (WorkerDied: was killed): what was made from it runs again" in caplog.text
    )
    apart.blind = False
    assert apart.run(chain) == ([], first)


@pytest.mark.parametrize("wanted", [beside_a_writer, after_a_writer], ids=lambda each: each.name)
def test_an_answer_from_before_a_task_wrote_says_nothing_of_what_follows_that_task(apart, wanted):
    apart.put(**{"out/made": "one"})
    assert "one read" in apart.run(wanted)[1].lower()
    store, keys = apart.stored(wanted)
    for node in trace(wanted, ()).nodes:
        if node.task.name in ("shout", "both"):
            assert store.remove(keys[node.id].key)
    apart.put(a="two")
    apart.slow_until = "copied"
    ran, result = apart.run(wanted)
    assert "two read" in result.lower()
    assert "read_after" in ran
    apart.slow_until = ""
    assert "two read" in apart.run(wanted)[1].lower()


def test_a_file_that_is_gone_here_is_looked_for_where_tasks_run(tmp_path):
    """Whoever has read it: results of versions that did not note that, and of this machine."""
    here = Place(tmp_path)
    _, first = here.run(chain)
    (tmp_path / "again").mkdir()
    apart = Place(tmp_path / "again", store=here.store, unshared=True)
    (apart.seen / "a").unlink()
    assert apart.run(chain) == ([], first)
    assert apart.looks == 1
    (apart.seen / "a").write_text("of the driver")
    assert apart.run(chain) == (["load"], first), "what this machine has read, and has now, is compared here"
    assert apart.run(chain) == ([], first), "that was made on the other host"


def test_a_run_on_this_machine_compares_its_own_files(tmp_path):
    apart = Place(tmp_path, unshared=True)
    _, first = apart.run(chain)
    apart.folder, apart.unshared = apart.seen, False
    assert apart.run(chain)[1] == "OF THE DRIVER"
    apart.put(a="one")
    assert apart.run(chain) == ([], first), "equal files give equal results on any host"
