"""What was called finished survives a power loss: real runs on a disk whose raw content is copied at random moments.

With `durable = "each"` all of it does. With "group" the driver syncs the store and the journal in the background. A
result is safe once a sync of each that began after it was called finished has ended. What is not is the last group.
"""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from tests.fixtures.raw_disk import raw_disk  # noqa: F401 a fixture
from tests.support.sizes import choose_size

from hooke.base.ref import Ref
from hooke.journal.events import AttemptFinished, RunFinished
from hooke.project.folder import Project

MOMENTS = choose_size(sample=4, full=4, soak=40)
ITEMS = 60
SIZE = 100_000
BLOCK_S = "HOOKE_TEST_BLOCK_S"  # variables of Hooke are no inputs of tasks
JOB = f"""
    import os, time
    from hooke import pipeline, task

    @task
    def block(item):
        time.sleep(float(os.environ.get("{BLOCK_S}", "0")))
        return bytes([item]) * {SIZE}

    @task
    def total(blocks):
        return sum(block[0] * len(block) for block in blocks)

    @pipeline
    def job():
        return total(block.map(range({ITEMS})))
"""
ANSWER = SIZE * sum(range(ITEMS))
DRIVE = """
import json, os, sys, threading
from hooke.base.background_fsync import GroupSync
from hooke.journal.events import AttemptFinished
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import RunOrder, prepare

gate = int(sys.argv[1])
finished = 0
lock = threading.Lock()
sync_marked = GroupSync._sync_marked

def tell(what):
    with lock:
        print(json.dumps(what), flush=True)

def say(event):
    global finished
    if isinstance(event, AttemptFinished):
        inline = event.ref.inline is not None
        tell([event.lo, event.hi, event.ref.digest, event.ref.size, inline])
        finished += 1
        if finished == gate:
            tell("gate")
            sys.stdin.readline()

def say_synced(self):
    before, files = finished, [os.path.basename(path) for path in list(self._paths)]
    sync_marked(self)
    if self._failed is None and files:
        tell({"synced": files, "said_before": before})

GroupSync._sync_marked = say_synced
project = Project.find(__import__("pathlib").Path.cwd())
pipeline, _ = load_entry("job.py")
driver = prepare(RunOrder(pipeline=pipeline, on="local", workers=2, observers=(say,)), project)
tell(driver.run)
tell({"status": driver.drive()})
"""


class Machine:
    """A run on the disk: what it has said so far, and copies of the disk."""

    def __init__(self, disk, *, gate=0):
        self.disk = disk
        self.said = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVE, str(gate)],
            cwd=disk.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"HOOKE_SINKS": "none", "PYTHONDONTWRITEBYTECODE": "1", BLOCK_S: "0.1"},
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self._rest = b""

    def listen(self):
        """Everything that was said until now."""
        data = self._rest
        while piece := self.process.stdout.read():
            data += piece
        lines = data.split(b"\n")
        self._rest = lines.pop()
        self.said += [json.loads(line) for line in lines]
        return list(self.said)

    def until(self, wanted):
        deadline = time.monotonic() + 100
        while not wanted(self.listen()):
            assert time.monotonic() < deadline, self.said
            time.sleep(0.005)
        return list(self.said)

    def lose_power(self):
        """What had been said, and the raw disk shortly after."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            said = self.listen()
            return said, self.disk.copy()
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self):
        """The run goes on to its end, and the power fails as the process exits."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(100)
        said, content = self.listen(), self.disk.copy()
        with self.process.stdout, self.process.stderr as errors:
            assert {"status": "finished"} in said, errors.read()
        return said, content


def install(disk, durable):
    (disk.folder / "job.py").write_text(textwrap.dedent(JOB))
    (disk.folder / "hooke.toml").write_text(f'[journal]\ndurable = "{durable}"\n')
    subprocess.run(["sync", "-f", str(disk.folder)], check=True)


def finished(said):
    return [each for each in said if isinstance(each, list)]


def ended(said):
    return [each for each in said if "status" in each]


def safe(said):
    """What was said to be finished before the last group: a sync of the store and one of the journal cover it."""
    digests = {digest for _lo, _hi, digest, _size, inline in finished(said) if not inline}
    syncs = [(set(each["synced"]), each["said_before"]) for each in said if "synced" in each]
    stored = max((before for files, before in syncs if files & digests), default=0)
    journalled = max((before for files, before in syncs if "driver.journal" in files), default=0)
    return finished(said)[: min(stored, journalled)]


def events_of(project, said):
    run = next((each for each in said if isinstance(each, str) and each != "gate"), None)
    return list(project.runs.events(run)) if run in project.runs.names() else []


def missing(folder, said):
    """What was said to be finished and is not on this disk: in the journal, and as a readable result."""
    project, lost = Project.find(folder), []
    events = events_of(project, said)
    journalled = {event.ref.digest: event.ref for event in events if isinstance(event, AttemptFinished)}
    store = project.store()
    for each in finished(said):
        _lo, _hi, digest, size, inline = each
        ref = journalled.get(digest)
        kept = ref is not None and (inline or store.keep([Ref(digest, size)]) == [True])
        if not kept:
            lost.append(each)
        else:
            store.get(ref)
    if not any(isinstance(event, RunFinished) for event in events):
        lost += ended(said)
    return lost


def resumes(folder):
    """The run continues to the right answer; a new one has it where the disk knows of none, or it was finished."""
    project = Project.find(folder)
    runs = project.runs
    events = list(runs.events(runs.names()[0])) if runs.names() else []
    continues = bool(events) and not any(isinstance(event, RunFinished) for event in events)
    there = [event for event in events if isinstance(event, AttemptFinished)]
    kept = project.store().keep([event.ref for event in there])
    command = ["resume"] if continues else ["run", "job.py", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "hooke", *command],
        check=False,
        cwd=folder,
        env=os.environ | {"HOOKE_SINKS": "none", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = list(runs.events(runs.names()[0]))
    assert [event.status for event in events if isinstance(event, RunFinished)][-1] == "finished"
    assert str(ANSWER) in done.stdout + done.stderr
    if continues:
        before = {event.attempt for event in there}
        again = [each for each in events if isinstance(each, AttemptFinished) and each.attempt not in before]
        for event, is_kept in zip(there, kept, strict=True):
            overlap = any(
                each.node == event.node and each.lo < event.hi and event.lo < each.hi for each in again
            )
            assert not (is_kept and overlap), "what the disk has is not computed again"


@pytest.mark.needs("processes")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("durable", ["each", "group"])
def test_power_loss_at_random_moments_and_at_exit(raw_disk, durable):  # noqa: F811
    moments = MOMENTS
    rng = random.Random(f"{durable} {moments}")
    copies, counts = [], []
    with raw_disk.mounted():
        install(raw_disk, durable)
        machine = Machine(raw_disk)
        machine.until(lambda said: said)
        for _ in range(moments - 1):
            time.sleep(rng.random() * 4 / moments)
            copies.append(machine.lose_power())
        machine.until(
            lambda said: durable == "each" or safe(said)
        )  # at one moment at least, a group has ended
        copies += [machine.lose_power(), machine.end()]
    for number, (said, content) in enumerate(copies):
        with raw_disk.mounted(content) as folder:
            lost = missing(folder, said)
            exact = durable == "each" or number == len(copies) - 1
            promised = [*finished(said), *ended(said)] if exact else safe(said)
            assert [each for each in lost if each in promised] == [], f"copy {number} of {len(copies)}"
            counts.append((len(finished(said)), len(promised), len(lost)))
            resumes(folder)
    print(f"{durable}: (finished, of them promised, lost) at each moment: {counts}")


@pytest.mark.needs("cpu")
def test_a_group_is_on_the_disk_while_the_run_goes_on(raw_disk):  # noqa: F811
    """Workers write the results, and the driver, which lives longer, syncs them."""
    with raw_disk.mounted():
        install(raw_disk, "group")
        machine = Machine(raw_disk, gate=5)
        said = machine.until(lambda said: "gate" in said)
        deadline = time.monotonic() + 20  # a group takes a second; the kernel by itself takes thirty
        while True:
            with raw_disk.looked_at(raw_disk.copy()) as folder:
                if not (lost := missing(folder, said)):
                    break
            assert time.monotonic() < deadline, lost
        machine.end()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("durable", ["each", "group"])
def test_a_disk_that_confirms_nothing_ends_no_run_as_finished(raw_disk, durable):  # noqa: F811
    with raw_disk.mounted():
        install(raw_disk, durable)
        machine = Machine(raw_disk, gate=3)
        machine.until(lambda said: "gate" in said)
        raw_disk.break_down()
        out, errors = machine.process.communicate(timeout=100)
        assert machine.process.returncode != 0
        assert b"the disk did not confirm" in errors
        assert b"status" not in out
