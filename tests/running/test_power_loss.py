"""What was called finished survives a power loss: real runs on a disk whose raw content is copied at random moments."""

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
from tests.support.campaigns import campaign

from hooke.base.ref import Ref
from hooke.journal.events import AttemptFinished, RunFinished
from hooke.project.folder import Project

ITEMS = 60
SIZE = 100_000
JOB = f"""
    import time
    from hooke import pipeline, task

    @task
    def block(item):
        time.sleep(0.05)
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
import json, sys
from hooke.journal.events import AttemptFinished
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import RunOrder, prepare

gate = int(sys.argv[1])
finished = 0

def say(event):
    global finished
    if isinstance(event, AttemptFinished):
        finished += 1
        inline = event.ref.inline is not None
        print(json.dumps([event.lo, event.hi, event.ref.digest, event.ref.size, inline]), flush=True)
        if finished == gate:
            print(json.dumps("gate"), flush=True)
            sys.stdin.readline()

project = Project.find(__import__("pathlib").Path.cwd())
pipeline, _ = load_entry("job.py")
driver = prepare(RunOrder(pipeline=pipeline, on="local", workers=2, observers=(say,)), project)
print(json.dumps(driver.run), flush=True)
print(json.dumps({"status": driver.drive()}), flush=True)
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
            env=os.environ | {"HOOKE_SINKS": "none", "PYTHONDONTWRITEBYTECODE": "1"},
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
            assert said[-1] == {"status": "finished"}, errors.read()
        return said, content


def install(disk, durable):
    (disk.folder / "job.py").write_text(textwrap.dedent(JOB))
    (disk.folder / "hooke.toml").write_text(f'[journal]\ndurable = "{durable}"\n')
    subprocess.run(["sync", "-f", str(disk.folder)], check=True)


def missing(folder, said):
    """What was said to be finished and is not on this disk: in the journal, and as a readable result."""
    project, lost = Project.find(folder), []
    run = next((each for each in said if isinstance(each, str) and each != "gate"), None)
    events = project.runs.events(run) if run in project.runs.names() else []
    journalled = {event.ref.digest: event.ref for event in events if isinstance(event, AttemptFinished)}
    store = project.store()
    for each in said:
        if isinstance(each, list):
            _lo, _hi, digest, size, inline = each
            ref = journalled.get(digest)
            kept = ref is not None and (inline or store.keep([Ref(digest, size)]) == [True])
            if not kept:
                lost.append(each)
            else:
                store.get(ref)
    if said and isinstance(said[-1], dict) and not any(isinstance(event, RunFinished) for event in events):
        lost.append(said[-1])
    return lost


def resumes(folder):
    """The run continues to the right answer; a new one has it where the disk knows of none, or it was finished."""
    runs = Project.find(folder).runs
    events = runs.events(runs.names()[0]) if runs.names() else []
    continues = bool(events) and not isinstance(events[-1], RunFinished)
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
    project = Project.find(folder)
    (finished,) = [
        event for event in project.runs.events(project.runs.names()[0]) if isinstance(event, RunFinished)
    ][-1:]
    assert finished.status == "finished"
    assert str(ANSWER) in done.stdout + done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize("durable", ["each", "group"])
def test_power_loss_at_random_moments_and_at_exit(raw_disk, durable):  # noqa: F811
    moments = campaign(__name__).size
    rng = random.Random(f"{durable} {moments}")
    copies = []
    with raw_disk.mounted():
        install(raw_disk, durable)
        machine = Machine(raw_disk)
        machine.until(lambda said: said)
        for _ in range(moments):
            time.sleep(rng.random() * 2 / moments)
            copies.append(machine.lose_power())
        copies.append(machine.end())
    for number, (said, content) in enumerate(copies):
        with raw_disk.mounted(content) as folder:
            lost = missing(folder, said)
            if durable == "each" or number == len(copies) - 1:
                assert lost == [], f"copy {number} of {len(copies)}"
            if number % 4 == 0:
                resumes(folder)


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
