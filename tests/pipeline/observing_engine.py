"""Tasks that say what they read, pipelines of them, an engine that reports it, and a project to run them in, with a real store and journal."""

import logging
from types import SimpleNamespace

import msgspec

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
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace
from hooke.planning.remaining import Survey
from hooke.running.why import explain
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
