"""Drives a map of N items with the production driver and an engine that computes nothing; prints what it took."""

import json
import re
import sys
import tempfile
from pathlib import Path

from hooke.base.clock import SystemClock
from hooke.journal.events import AttemptFinished, AttemptStarted, CapacityChanged
from hooke.journal.writer import Journal
from hooke.pipeline.engine import Capabilities
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.node_state import NodePlan
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner, RunnerParts
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace
from hooke.store.store import Store


def peak_bytes():
    """The most that this program held. `ru_maxrss` would count what its parent held when it forked."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@task
def one(x):
    return x


@task
def two(x):
    return x


@pipeline
def mapped(items):
    return two.map(one.map(range(items)))


class Instant:
    """Answers each attempt in the next wait; items take 20 us."""

    capabilities = Capabilities(name="instant", isolated=True, cancels=True, elastic=True)

    def __init__(self, ref):
        self.ref = ref
        self.calls = 0
        self.most_payload = 0
        self.events = [CapacityChanged(slots=8, cpus=8.0)]

    def submit(self, calls):
        for call in calls:
            self.answer(call)

    def answer(self, call):
        self.calls += 1
        self.most_payload = max(self.most_payload, len(call.payload))
        where = {"at": 1.0, "attempt": call.attempt, "node": call.node, "lo": call.lo, "hi": call.hi}
        items = call.hi - call.lo
        self.events += [AttemptStarted(**where), AttemptFinished(ref=self.ref, seconds=items * 2e-5, **where)]

    def wait(self, timeout_s):
        events, self.events = self.events, []
        return events

    def cancel(self, attempt):
        pass

    def scale(self, workers):
        pass

    def close(self):
        pass


def main(items):
    graph = trace(mapped, (items,))
    state = RunState(graph, [NodePlan() for _ in graph.nodes])
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store")
        engine = Instant(store.put([1]))
        with Journal.create(Path(folder), "driver", durable="none") as journal:
            events = []
            journal.observers.append(lambda event: events.append(type(event).__name__))
            parts = RunnerParts(
                run="scale",
                graph=graph,
                keys=GraphKeys(graph, run="scale"),
                state=state,
                engine=engine,
                store=store,
                journal=journal,
                clock=SystemClock(),
            )
            status = Runner(parts).run()
        size = journal.path.stat().st_size
    print(
        json.dumps(
            {
                "status": status,
                "calls": engine.calls,
                "events": len(events),
                "segments": sum(len(list(node.done)) for node in state.nodes),
                "journal_bytes": size,
                "payload_bytes": engine.most_payload,
                "peak_bytes": peak_bytes(),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
