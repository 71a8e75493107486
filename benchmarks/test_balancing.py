"""Balanced batches beside the samplers of the installed peers: rows a CPU-second of the order and of batches, in one process."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hooke.data import Oversampled, Shuffled, Stratified, TokenBuckets, Weighted

ROWS, BATCH, TOKENS, COLUMNS = 4_000_000, 256, 16_384, 8
FEW = 200_000
"""Rows that the peers have, for they take long."""
REPEATS = 5


def rate(run: Callable[[], int]) -> float:
    """Rows a CPU-second of this process."""
    start = time.process_time()
    rows = run()
    return rows / (time.process_time() - start)


def count(batches: Iterator[object]) -> int:
    return sum(map(len, batches))


def test_balanced_batches_beside_the_peers() -> None:
    torch = pytest.importorskip("torch")
    chance = np.random.default_rng(0)
    table = chance.random((ROWS, COLUMNS))
    labels = chance.choice(10, ROWS, p=np.arange(1, 11) / 55)
    weights = chance.random(ROWS)
    lengths = np.clip(chance.lognormal(4, 0.9, ROWS), 4, 1000).astype(int)
    ours = {
        "plain": None,
        "Stratified": Stratified(labels),
        "Oversampled": Oversampled(labels),
        "Weighted": Weighted(weights),
        "TokenBuckets": TokenBuckets(lengths, TOKENS),
    }
    runs: dict[str, Callable[[], int]] = {}
    for name, balance in ours.items():
        data = Shuffled(table, seed=0, batch=None if name == "TokenBuckets" else BATCH, balance=balance)
        runs[name] = lambda data=data: count(data.batches())
        told = data.balance(ranks=4, lengths=lengths)
        print(f"\n{name}, 4 ranks\n{told}")

    def weighted_sampler() -> int:
        sampler = torch.utils.data.WeightedRandomSampler(torch.from_numpy(weights[:FEW]), FEW)
        batches = torch.utils.data.BatchSampler(sampler, BATCH, drop_last=False)
        return count(table[batch] for batch in batches)

    def folds() -> int:
        from sklearn.model_selection import StratifiedKFold

        split = StratifiedKFold(40, shuffle=True, random_state=0).split(labels[:FEW], labels[:FEW])
        return count(table[rows] for _, rows in split)

    def length_grouped() -> int:
        """Hugging Face's LengthGroupedSampler: sorted within random groups of 50 batches."""
        order, batches = np.random.default_rng(0).permutation(FEW), []
        for low in range(0, FEW, 50 * BATCH):
            group = sorted(order[low : low + 50 * BATCH].tolist(), key=lengths.__getitem__, reverse=True)
            batches += [group[at : at + BATCH] for at in range(0, len(group), BATCH)]
        sums = sum(int(lengths[batch].sum()) for batch in batches)
        padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
        length_grouped.padding = 1 - sums / padded
        return count(table[batch] for batch in batches)

    runs |= {
        "WeightedRandomSampler": weighted_sampler,
        "StratifiedKFold": folds,
        "by groups of 50": length_grouped,
    }
    rates: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        for name, run in runs.items():
            rates.setdefault(name, []).append(rate(run))
    base = np.median(rates["plain"])
    for name, each in rates.items():
        print(
            f"{name:22} {np.median(each) / 1e6:7.2f} M rows a CPU-second, {np.median(each) / base:.2f} of plain"
        )
    print(f"padding of batches sorted in groups of 50: {length_grouped.padding:.1%}")
