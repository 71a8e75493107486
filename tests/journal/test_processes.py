"""Real processes: killed writers, forks, followers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.journal.histories import call_event

from hooke.base.errors import JournalError
from hooke.journal.events import StopRequested
from hooke.journal.reader import follow, read
from hooke.journal.segments import frame, header
from hooke.journal.writer import Journal

WRITE_AND_TELL = """
import os, sys
from pathlib import Path
from hooke.journal.events import WorkerStopped
from hooke.journal.writer import Journal
journal = Journal.create(Path(sys.argv[1]), sys.argv[2], durable=sys.argv[3])
first, last = int(sys.argv[4]), int(sys.argv[5])
for number in range(first, last):
    journal.append(WorkerStopped(at=float(number), worker=sys.argv[2], cause="x" * (number % 300), exit_code=number))
    os.write(1, b"%d\\n" % number)
journal.close()
"""


def writer(folder, segment="driver", durable="group", first=1, last=10**9) -> subprocess.Popen[bytes]:
    args = [sys.executable, "-c", WRITE_AND_TELL, folder, segment, durable, first, last]
    return subprocess.Popen([str(arg) for arg in args], stdout=subprocess.PIPE)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("durable", ["group", "each", "none"])
def test_kill_9_loses_no_returned_event(tmp_path, durable):
    numbers = []
    for lap in range(4):
        process = writer(tmp_path, durable=durable, first=len(numbers) + 1)
        told = [process.stdout.readline()]
        time.sleep(0.02 * lap)
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().split(b"\n")
        process.wait()
        process.stdout.close()
        returned = [int(line) for line in told if line.strip()]
        (segment,) = read(tmp_path)
        numbers = [event.exit_code for event in segment.events]
        # The last event may be written and not yet told; the kernel may end its write at a page's edge.
        assert numbers == list(range(1, len(numbers) + 1))
        assert returned[-1] <= len(numbers) <= returned[-1] + 1
        assert segment.torn is None or len(numbers) == returned[-1]


@pytest.mark.needs("cpu")
def test_each_forked_process_has_a_segment_of_its_own(tmp_path):
    code = """
import os, sys
from pathlib import Path
from hooke.journal.events import StopRequested
from hooke.journal.writer import Journal
journal = Journal.create(Path(sys.argv[1]), "driver")
journal.append(StopRequested(at=1.0, by="parent"))
silent = os.fork()
if silent == 0:
    os._exit(0)
child = os.fork()
if child == 0:
    journal.append(StopRequested(at=2.0, by="child"))
    assert journal.segment == f"driver-{os.getpid()}", journal.segment
    grandchild = os.fork()
    if grandchild == 0:
        journal.append(StopRequested(at=3.0, by="grandchild"))
        journal.close()
        os._exit(0)
    os.waitpid(grandchild, 0)
    journal.append(StopRequested(at=4.0, by="child"))
    journal.close()
    print(child, grandchild, flush=True)
    os._exit(0)
os.waitpid(silent, 0)
status = os.waitpid(child, 0)[1]
assert status == 0, status
journal.append(StopRequested(at=5.0, by="parent"))
journal.close()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=180, check=False
    )
    assert run.returncode == 0, run.stderr
    by = {segment.name: [event.by for event in segment.events] for segment in read(tmp_path)}
    assert next(iter(by)) == "driver"
    assert sorted(by.values()) == [["child", "child"], ["grandchild"], ["parent", "parent"]]
    assert by["driver"] == ["parent", "parent"]


@pytest.mark.needs("cpu")
def test_a_fork_while_another_thread_appends_does_not_hang(tmp_path):
    code = """
import os, sys, threading
from pathlib import Path
from hooke.journal.events import StopRequested
from hooke.journal.writer import Journal
journal = Journal.create(Path(sys.argv[1]), "driver")
stop = threading.Event()
def write():
    while not stop.is_set():
        journal.append(StopRequested(at=1.0, by="thread"))
threading.Thread(target=write).start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        journal.append(StopRequested(at=2.0, by="child"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    segments = read(tmp_path)
    assert sum(len(segment.events) for segment in segments if segment.name != "driver") == 20
    assert {event.by for event in segments[0].events} == {"thread"}


@pytest.mark.needs("cpu")
def test_a_child_does_not_keep_the_parents_segment_locked(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from hooke.journal.events import StopRequested
from hooke.journal.writer import Journal
journal = Journal.create(Path(sys.argv[1]), "driver")
journal.append(StopRequested(at=1.0, by="parent"))
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
    os.close(1)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    with pytest.raises(JournalError, match="another process is writing"):
        Journal.create(tmp_path, "driver")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    try:
        with Journal.create(tmp_path, "driver") as journal:
            journal.append(StopRequested(at=2.0, by="resumed"))
    finally:
        os.kill(child, signal.SIGKILL)
    assert [event.by for event in read(tmp_path)[0].events] == ["parent", "resumed"]


# -- following ---------------------------------------------------------------------------------------


@pytest.mark.needs("cpu")
def test_two_followers_see_all_events_of_several_processes(tmp_path):
    folder = tmp_path / "run"
    done = threading.Event()
    seen = {name: [] for name in "ab"}

    def watch(name: str) -> None:
        seen[name].extend(follow(folder, stop=done.is_set, poll_s=0.01))

    followers = [threading.Thread(target=watch, args=(name,)) for name in seen]
    for follower in followers:
        follower.start()
    first = writer(folder, "driver", last=300)
    time.sleep(0.1)
    second = writer(folder, "worker-1", last=200)
    for process in (first, second):
        process.communicate(timeout=180)
        assert process.returncode == 0
    done.set()
    for follower in followers:
        follower.join()
    for events in seen.values():
        for name, last in (("driver", 300), ("worker-1", 200)):
            assert [event.exit_code for event in events if event.worker == name] == list(range(1, last))
        assert len(events) == 498


def test_events_that_arrive_together_come_by_time(tmp_path):
    for name, times in (("a", (1.0, 4.0, 6.0)), ("b", (2.0, 3.0, 7.0))):
        with Journal.create(tmp_path, name) as journal:
            for at in times:
                journal.append(StopRequested(at=at, by=name))
    followed = list(follow(tmp_path, stop=lambda: True))
    assert [event.at for event in followed] == [1.0, 2.0, 3.0, 4.0, 6.0, 7.0]
    assert {event.by for event in follow(tmp_path, segments=["b"], stop=lambda: True)} == {"b"}


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path):
    polls = iter([False, False, True])
    assert list(follow(tmp_path / "later", stop=lambda: next(polls), poll_s=0.001)) == []


def test_a_record_in_progress_is_waited_for(tmp_path):
    """The writer's bytes come one by one, and once it cuts what it had begun, as on a full disk."""
    import msgspec

    path = tmp_path / "driver.journal"
    one, two = (frame(msgspec.msgpack.encode(call_event(number))) for number in (1, 2))
    seen = []
    raw = header() + one
    writes = [raw[: at + 1] for at in range(len(raw))] + [raw + two[:-5], raw, raw + two]
    steps = iter([*writes, None])

    def turn() -> bool:
        step = next(steps)
        if step is None:
            return True
        path.write_bytes(step)
        return False

    seen.extend(follow(tmp_path, stop=turn, poll_s=0))
    assert seen == [call_event(1), call_event(2)]


def test_a_follower_tells_what_came_before_damage(tmp_path):
    with Journal.create(tmp_path, "driver") as journal:
        for number in range(1, 4):
            journal.append(call_event(number))
    raw = journal.path.read_bytes()
    at = raw.index(b"\xf6HK\n", raw.index(b"\xf6HK\n") + 1)
    journal.path.write_bytes(raw[:at] + b"?" + raw[at + 1 :])
    seen = []
    with pytest.raises(JournalError, match="damaged in the middle"):
        seen.extend(follow(tmp_path, stop=lambda: True))
    assert seen == [call_event(1)]


@pytest.mark.needs("cpu")
def test_an_idle_follower_sleeps(tmp_path):
    with Journal.create(tmp_path, "driver"):
        deadline = time.monotonic() + 0.5
        before = time.thread_time()
        list(follow(tmp_path, stop=lambda: time.monotonic() > deadline))
        assert time.thread_time() - before < 0.1
