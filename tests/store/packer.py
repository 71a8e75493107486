"""A process that commits small results, or merges packs, and says each number; started and killed by test_packs."""

import sys
import time

from hooke.store.entries import Entry
from hooke.store.store import Store


def main(folder, who, count, *merge):
    store = Store.open(folder, durable="none")
    for number in range(int(count)):
        if merge:
            store._backend.compact()
        else:
            for key in (f"{number:032x}", f"{who}{number:031x}"):
                made = Entry(key=key, ref=store.put([who, number]), task="t", run="r", seconds=1.0, at=0.0)
                store.commit(made)
            time.sleep(0.002)  # a thousand or so are enough to look for
        print(number, flush=True)


main(*sys.argv[1:])
