"""Several real processes on one store, killed at any moment."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hooke.store.store import Store

CHURN = Path(__file__).with_name("churn.py")
HOLD = """
import sys, time
from hooke.store.store import Store
store = Store.open(sys.argv[1])
claim = store.claim("k" * 32)
print("ours" if claim else "theirs", flush=True)
time.sleep(60)
"""


def start(*args):
    return subprocess.Popen([sys.executable, *map(str, args)], stdout=subprocess.PIPE, text=True)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = 0
    for line in process.stdout.read().splitlines():
        last = int(line) if line.isdigit() else last
    process.stdout.close()
    return last


@pytest.mark.long
@pytest.mark.needs("processes")
def test_two_writers_killed_again_and_again(tmp_path):
    """Each round two processes write, the same keys and their own; both die by SIGKILL at a random moment."""
    store = Store.open(tmp_path)
    done = {}
    for pause in (0.0, 0.013, 0.05, 0.021, 0.2, 0.037):
        writers = {who: start(CHURN, tmp_path, who) for who in "ab"}
        for writer in writers.values():
            writer.stdout.readline()
        time.sleep(pause)
        for who, writer in writers.items():
            done[who] = max(done.get(who, 0), kill(writer))
        check(store, done)
    report = store.verify()
    assert report.damaged == ()
    assert report.objects == 7
    assert report.records > 20


def check(store, done):
    """Nothing that was reported is lost, nothing is torn."""
    for who, count in done.items():
        for number in range(count):
            entry = store.find(f"{who}{number:031x}")
            assert entry is not None
            assert np.array_equal(store.get(entry.ref), np.full(30_000, number % 7))
        keys = b"".join(number.to_bytes(16, "big") for number in range(count))
        hits = store.find_items("f" * 32, keys)
        assert sum(hit.hi - hit.lo for hit in hits) == count
        assert all(store.get(hit.ref)[hit.start] == hit.lo for hit in hits if hit.hi == hit.lo + 1)
    for number in range(min(7, *done.values())):
        assert store.find(f"{number:032x}") is not None


@pytest.mark.needs("cpu")
def test_a_killed_process_frees_its_claim(tmp_path):
    store = Store.open(tmp_path)
    holder = start("-c", HOLD, tmp_path)
    assert holder.stdout.readline().strip() == "ours"
    assert store.claim("k" * 32) is None
    other = store.claim("j" * 32)
    assert other is not None
    kill(holder)
    claim = store.claim("k" * 32)
    assert claim is not None
    claim.release()
    other.release()


@pytest.mark.needs("cpu")
def test_claims_between_threads_and_stores_of_one_process(tmp_path):
    stores = [Store.open(tmp_path) for _ in range(4)]
    inside, most, rounds = 0, 0, 0
    lock = threading.Lock()

    def work(store):
        nonlocal inside, most, rounds
        until = time.monotonic() + 1
        while time.monotonic() < until:
            claim = store.claim("k" * 32)
            if claim is None:
                continue
            with lock:
                inside += 1
                most, rounds = max(most, inside), rounds + 1
            with lock:
                inside -= 1
            claim.release()
            claim.release()

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert rounds > 10


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hold_its_parents_claim(tmp_path):
    store = Store.open(tmp_path)
    claim = store.claim("k" * 32)
    child = os.fork()
    if not child:
        time.sleep(20)
        os._exit(0)
    try:
        assert Store.open(tmp_path).claim("k" * 32) is None
        claim.release()
        again = store.claim("k" * 32)
        assert again is not None
        again.release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
