"""Polars frames where pyarrow is not installed, and between hosts that have it and hosts that do not."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.needs("processes")

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
WITH = "import pyarrow\n"
MAKE = """
import polars as pl, sys
n = int(sys.argv[2])
frame = pl.DataFrame({"number": range(n), "text": [f"text number {at}" for at in range(n)],
                      "wide": pl.Series(range(n), dtype=pl.Int128 if int(sys.argv[3]) else pl.Int64),
                      "kind": pl.Series(["a"] * n, dtype=pl.Categorical)})
from hooke.store.store import Store, Entry
store = Store.open(sys.argv[1])
"""
PUT = """
ref = store.put({"frame": frame, "series": frame["text"]})
store.commit(Entry(key="k" * 32, ref=ref, task="t", run="r", seconds=1.0, at=0.0))
"""
GET = """
found = store.get(store.find("k" * 32).ref)
assert found["frame"].equals(frame) and found["frame"].schema == frame.schema
assert found["series"].equals(frame["text"]) and found["series"].name == "text"
"""


@pytest.mark.long
@pytest.mark.parametrize("wide", ["0", "1"])
@pytest.mark.parametrize("items", [3, 60_000])
@pytest.mark.parametrize(("writer", "reader"), [(WITHOUT, WITHOUT), (WITH, WITHOUT), (WITHOUT, WITH)])
def test_both_ways(tmp_path, writer, reader, items, wide):
    for code in (writer + MAKE + PUT, reader + MAKE + GET):
        command = [sys.executable, "-c", textwrap.dedent(code), tmp_path, str(items), wide]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_store_imports_no_library_of_the_values():
    code = (
        "import sys, hooke.store.store, hooke.store.codecs\n"
        "store = hooke.store.store.Store.open('/nonexistent')\n"
        "store.get(store.put({'a': [1, 2]}))\n"
        "heavy = {'numpy', 'polars', 'pandas', 'pyarrow', 'fsspec'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
