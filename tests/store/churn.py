"""A process that writes to a store without end, the same keys and its own; started and killed by test_processes."""

import sys
import time

import numpy as np

from hooke.store.entries import Entry
from hooke.store.store import Store


def main(folder, who):
    store = Store.open(folder)
    number = 0
    while True:
        value = np.full(30_000, number % 7)
        ref = store.put(value)
        for key in (f"{number % 7:032x}", f"{who}{number:031x}"):
            store.commit(Entry(key=key, ref=ref, task="churn", run=who, seconds=1.0, at=time.time()))
        small = store.put([number])
        keys = number.to_bytes(16, "big")
        store.commit_items("f" * 32, keys, small, task="churn", run=who, seconds=1.0)
        number += 1
        print(number, flush=True)


main(sys.argv[1], sys.argv[2])
