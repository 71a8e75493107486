"""A process that writes to a shared store; started, and killed, by test_s3."""

import sys
import time

import numpy as np

from hooke.store.entries import Entry
from hooke.store.store import Store


def main(url, secret, near, who, rounds):
    store = Store.open(url, secret=secret.encode(), near=near)
    if who == "large":
        value = np.random.default_rng(0).standard_normal(8_000_000)
        print("uploading", flush=True)
        store.put(value)
        time.sleep(60)
    for number in range(int(rounds)):
        ref = store.put(np.full(30_000, number % 5))
        for key in (f"{number % 5:032x}", f"{who}{number:031x}"):
            store.commit(Entry(key=key, ref=ref, task="churn", run=who, seconds=1.0, at=time.time()))
        keys = number.to_bytes(16, "big")
        store.commit_items("f" * 32, keys, store.put([number]), task="churn", run=who, seconds=1.0)


main(*sys.argv[1:])
