"""What must not grow: opening is flat in size, a digest is computed once per host."""

import subprocess
import sys

import numpy as np
import pytest

from hooke.base.errors import CorruptObject

OPEN = """
import re, sys
import numpy
from hooke.store.store import Ref, Store

def touched():
    return int(re.search(r"RssFile:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

store = Store.open(sys.argv[1])
before = touched()
value = store.get(Ref(sys.argv[2], int(sys.argv[3])))
opened = touched()
total = value.sum()
print(opened - before, touched() - before, total)
"""


@pytest.mark.needs("cpu")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_touches_nothing_and_another_process_of_this_host_need_not_hash(store, tmp_path):
    ref = store.put(np.zeros(12_500_000))
    command = [sys.executable, "-c", OPEN, tmp_path / "store", ref.digest, str(ref.size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opened, summed, total = map(float, done.stdout.split())
    assert total == 0
    assert opened < 4, "MiB of the file in memory after opening: hashing it would touch its 95"
    assert summed > 90, "and reading it touches them, so the figure above means something"


def test_a_file_that_was_touched_since_is_hashed_again(store, tmp_path):
    ref = store.put(np.zeros(50_000))
    store.get(ref)
    (path,) = (path for path in (tmp_path / "store" / "objects").rglob("*") if path.is_file())
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(200_000)
        file.write(b"\x01")
    with pytest.raises(CorruptObject):
        store.get(ref)
