"""A run of 500 tasks on pods, for `tests.kubernetes.storm`: its journal says what happened, and nothing that is durable runs again.

The driver is a process on the first node, and the store is an S3 server on a host of its own, so the second node can be drained and
cut off. Each task writes to a folder of its node when it begins and when it has ended, whatever becomes of its result.
"""

import json
import sys
import time
from collections import Counter
from typing import Any, ClassVar

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.storm import RECORDS, Storm, runs
from tests.kubernetes.test_runs import Driver, events, unended

from hooke.journal.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    BackendTrouble,
    NodePlanned,
    RunStarted,
    WorkerStarted,
    WorkerStopped,
)

__all__ = ["TASKS", "RunStorm"]

TASKS = 500
MARKS = "/var/tmp/marks"
FAILS = "node2"
"""The driver is on the other one."""
S3_PORT = 5000
READ_S = 0.4
"""How old what is known of the journal may be."""
JOB = f"""
import os, socket, time
from hooke import pipeline, task

def mark(what, x):
    with open(f"{MARKS}/{{what}}-{{socket.gethostname()}}", "a") as file:
        file.write(f"{{x}} {{time.time()}}\\n")

def told(what):
    try:
        os.unlink(f"{MARKS}/{{what}}")
    except FileNotFoundError:
        return False
    return True

def pace():
    with open("{MARKS}/pace") as file:
        return float(file.read())

def take_memory():
    with open("/proc/1/oom_score_adj", "w") as file:
        file.write("1000")
    # Many small ones: the pod's own program is the largest, so the kernel ends that and with it the pod.
    for _ in range(14):
        if os.fork() == 0:
            held = bytearray(os.urandom(1 << 20)) * 36
            time.sleep(30)
            os._exit(0)
    time.sleep(30)

@task(retries=9, observe=False)
def part(x, last):
    mark("began", x)
    until = time.monotonic() + pace()
    while not os.path.exists("{MARKS}/over") and (last or time.monotonic() < until):
        if told(f"greedy-{{socket.gethostname()}}"):  # also one of the last, which goes on
            take_memory()
        time.sleep(0.05)
    mark("ended", x)
    return x * x

@task
def total(parts):
    return sum(parts)

@pipeline
def parts(n: int = {TASKS}):
    # The last ones go on until the storm is over, so that there is work as long as it lasts.
    return total([part(x, x >= n - 20) for x in range(n)])
"""
BUCKET = """
import boto3, time
while True:
    try:
        boto3.client("s3").create_bucket(Bucket="hooke")
        break
    except Exception as error:
        time.sleep(0.2)
"""


def driver_killed(storm: Any) -> str:
    """The driver is killed, and the run is resumed at once."""
    lives = len(storm.starts())
    storm.driver.host.end(storm.process)
    code = storm.process.wait()
    storm.process.communicate()
    storm.start("resume", storm.run, "--json")
    storm.wait(lambda: len(storm.starts()) > lives)
    return f"its process ended with {code}, and another one resumed the run"


class RunStorm(Storm):
    """A run on three pods."""

    size = 3
    record = RECORDS / "kubernetes_run_storm.json"
    own_faults: ClassVar = {"driver killed": driver_killed}

    def __init__(self, cluster: Cluster, seed: int, *, long: bool = False) -> None:
        super().__init__(cluster, seed, long=long)
        host = cluster.lan.start("store")
        variables = {
            "AWS_ENDPOINT_URL": f"http://{host.address}:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with (cluster.logs / "store.log").open("wb") as log:
            server = [sys.executable, "-m", "moto.server", "-H", host.address, "-p", str(S3_PORT)]
            self._store = host, host.popen(server, stdout=log, stderr=log)
        host.run([sys.executable, "-c", BUCKET], env=variables)
        for node in cluster.nodes.values():
            node.run(["sh", "-c", f"mkdir -p {MARKS} && chown 65534:65534 {MARKS} && echo 1 > {MARKS}/pace"])
        self.driver = Driver(cluster, self.admin, self.namespace, claims=[MARKS], variables=variables)
        self.driver.put("job.py", JOB)
        self.driver.configure(workers=str(self.size), store="s3://hooke/results")
        self.run = ""
        self._read: list[Any] = []
        self._read_at = 0.0
        self.process: Any = None

    def __exit__(self, *error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.driver.host.end(self.process)
            self.process.communicate()
        host, server = self._store
        host.end(server)
        super().__exit__(*error)

    def start(self, *words: str) -> None:
        """`hooke WORDS` as the run's driver."""
        self.process = self.driver.start(*words)

    def begin(self) -> None:
        self.start("run", "job.py:parts", "--on", "pods", "--json")
        self.run = self.wait(lambda: "".join(unended(self.driver)))
        self.wait(self.whole)

    def spread(self, faults: int, seconds: float) -> None:
        """Have tasks take so long that those that are left last for all faults that are left."""
        left = max(TASKS - len(self._events(AttemptFinished)), 1)
        pace = min(max(self.size * faults * seconds / left, 0.2), 20.0)
        for node in self.cluster.nodes.values():
            node.path(f"{MARKS}/next").write_text(f"{pace:.2f}")
            node.path(f"{MARKS}/next").rename(node.path(f"{MARKS}/pace"))

    def end(self) -> dict[str, Any]:
        for node in self.cluster.nodes.values():
            node.path(f"{MARKS}/over").touch()
        printed, said = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, said
        assert json.loads(printed)["result"] == sum(x * x for x in range(TASKS))
        self.process, self._read_at = None, 0.0
        self.wait(lambda: not self.driver.left())
        return self._counts() | {"left_after_the_run": len(self.driver.left())}

    def _counts(self) -> dict[str, Any]:
        """How often what ran. Raises AssertionError where something durable ran again."""
        nodes = {
            each.node: int(each.shown["x"])
            for each in self._events(NodePlanned)
            if each.task.endswith("part")
        }
        done = {each.node: each for each in self._events(AttemptFinished) if each.node in nodes}
        began, ended = self._marks("began"), self._marks("ended")
        started = [each for each in self._events(AttemptStarted) if each.node in nodes]
        finished = Counter(each.node for each in self._events(AttemptFinished) if each.node in nodes)
        assert sorted(nodes.values()) == list(range(TASKS))
        assert finished == dict.fromkeys(nodes, 1)
        for each in started:
            assert each.at <= done[each.node].at, f"{each} began when its result was durable"
        for node, x in nodes.items():
            # More often than the journal has attempts, where nobody heard any more that one had begun.
            assert ended[x], f"{x} has a result and never ended"
            assert max(began[x]) <= done[node].at, f"{x} began when its result was durable"
        return {
            "tasks": TASKS,
            "attempts": len(started),
            "began": sum(map(len, began.values())),
            "ended": sum(map(len, ended.values())),
            "failed": dict(Counter(each.failure.kind for each in self._events(AttemptFailed))),
            "finished_twice": 0,
            "began_when_durable": 0,
            "drivers": len(self.starts()),
        }

    def _marks(self, what: str) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {x: [] for x in range(TASKS)}
        for node in self.cluster.nodes.values():
            for file in node.path(MARKS).glob(f"{what}-*"):
                for line in file.read_text().splitlines():
                    x, at = line.split()
                    found[int(x)].append(float(at))
        return found

    # -- what it says ------------------------------------------------------------------------------

    def _events(self, kind: Any, since: float = 0.0) -> list[Any]:
        if time.monotonic() > self._read_at + READ_S:
            self._read = sorted(events(self.driver, self.run, object), key=lambda each: each.at)
            self._read_at = time.monotonic()
        return [each for each in self._read if isinstance(each, kind) and each.at >= since]

    def starts(self) -> list[RunStarted]:
        """One for each driver."""
        return self._events(RunStarted)

    def _workers(self) -> dict[str, str]:
        """Worker -> its pod, of those that live."""
        there: dict[str, str] = {}
        for each in self._events(RunStarted | WorkerStarted | WorkerStopped):
            match each:
                case RunStarted():
                    there.clear()
                case WorkerStarted():
                    there[each.worker] = each.host
                case WorkerStopped():
                    there.pop(each.worker, None)
        return there

    def _busy(self) -> dict[str, int]:
        """Pod -> its attempts that run."""
        workers, running = self._workers(), {}
        for each in self._events(RunStarted | AttemptStarted | AttemptFinished | AttemptFailed):
            match each:
                case RunStarted():
                    running = {}
                case AttemptStarted():
                    running[each.attempt] = each.worker
                case _:
                    running.pop(each.attempt, None)
        return Counter(workers[worker] for worker in running.values() if worker in workers)

    def check(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            printed, said = self.process.communicate()
            raise AssertionError(f"the run ended while the storm goes on\n{printed}\n{said}")

    def whole(self) -> bool:
        names = {each["metadata"]["name"] for each in self.pods() if runs(each)}
        return len(names) == self.size and set(self._workers().values()) == names and bool(self._busy())

    def mark(self) -> float:
        return time.time()

    def said(self, since: float) -> list[str]:
        found = self._events(AttemptFailed | BackendTrouble | WorkerStopped, since)
        return [
            each.failure.said if isinstance(each, AttemptFailed)
            else each.cause if isinstance(each, WorkerStopped) else f"{each.about}: {each.message}"
            for each in found
        ]  # fmt: skip

    def victim(self) -> dict:
        """A pod with an attempt that runs."""
        return self.wait(self._victim)

    def _victim(self) -> dict | None:
        busy = self._busy()
        found = [each for each in self.pods() if each["metadata"]["name"] in busy and runs(each)]
        return self.chance.choice(sorted(found, key=lambda each: each["metadata"]["name"])) if found else None

    def node(self) -> str:
        """The second one, once a pod on it is busy."""
        if not self.pods_on(FAILS):
            self.admin.evict(self.victim()["metadata"]["name"], namespace=self.namespace)
        self.wait(lambda: self.whole() and self.pods_on(FAILS))
        return FAILS

    def take_memory(self, pod: dict) -> None:
        self.cluster.nodes[pod["spec"]["nodeName"]].path(f"{MARKS}/greedy-{pod['metadata']['name']}").touch()

    def says_gone(self, since: float, pod: dict) -> bool:
        """Whether none of the pod's workers counts any more."""
        name = pod["metadata"]["name"]
        stopped = {each.worker for each in self._events(WorkerStopped, since)}
        started = {each.worker for each in self._events(WorkerStarted) if each.host == name}
        return bool(started & stopped) and name not in self._workers().values()

    def says_memory(self, since: float, pod: dict) -> bool:
        return self.says_gone(since, pod) and any(
            each.failure.kind == "OutOfMemory" for each in self._events(AttemptFailed, since)
        )

    def says_cut_off(self, since: float, pods: list[dict]) -> bool:
        return all(self.says_gone(since, each) for each in pods) and self._goes_on(since)

    def is_healed(self, pods: list[dict]) -> bool:
        """Each works again, or is gone and has a successor."""
        return all(self.gone(each) or each["metadata"]["name"] in self._busy() for each in pods)

    def _goes_on(self, since: float) -> bool:
        """Whether results have become durable since; where all pods are on the node that fails, none can."""
        elsewhere = [each for each in self.pods() if each["spec"].get("nodeName") != FAILS]
        return not elsewhere or len(self._events(AttemptFinished, since)) >= 2

    def says_away(self, since: float) -> bool:
        """Pods and their driver need no control plane to go on."""
        return len(self._events(AttemptFinished, since)) >= 2

    def says_back(self, since: float) -> bool:
        return True
