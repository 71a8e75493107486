"""Balanced batches: by class, weight and length; the same for any number of ranks, resumed at any step."""

import itertools
import json
import pickle
import random
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import UsageError
from hooke.data import Oversampled, PackedFile, Shuffled, Stratified, TokenBuckets, Weighted, pack
from hooke.data.balance import _Cumulative, class_codes
from hooke.data.order import permuted_within

RANKS = (1, 2, 3, 4, 6, 8)
LABELS = np.arange(90) % 3
BALANCES = {
    "plain": lambda: None,
    "stratified": lambda: Stratified(LABELS),
    "oversampled": lambda: Oversampled(LABELS // 2),
    "weighted": lambda: Weighted(LABELS + 1),
    "tokens": lambda: TokenBuckets(LABELS + 1, 48),
}


def labels_of(chance, rows, classes):
    """Each class occurs, some more often than others."""
    weights = np.array([chance.random() ** 2 + 0.01 for _ in range(classes)])
    found = np.random.default_rng(chance.randrange(1 << 30)).choice(
        classes, rows - classes, p=weights / weights.sum()
    )
    return np.random.default_rng(0).permutation(np.concatenate([np.arange(classes), found]))


def global_batches(data, ranks, epoch=0, start=None):
    """The rows of each global batch, in order of their positions, from the parts of all ranks."""
    each = [data.batches(epoch, rank, ranks, start) for rank in range(ranks)]
    for parts in zip(*each, strict=True):
        rows = sum(map(len, parts))
        assert all(part.size for part in parts)
        assert {batches.rows for batches in each} == {rows}
        for part, batches in zip(parts, each, strict=True):
            assert batches.weight == pytest.approx(part.size * ranks / rows)
        first = each[0].step * data.batch
        row = np.empty(rows, np.int64)
        for rank, part in enumerate(parts):
            row[(rank - first) % ranks :: ranks] = part
        yield row


def of_one_order(make, rows, ranks, epoch):
    """Assert that these ranks meet the global order, and that it is resumed at any step."""
    alone = list(global_batches(make(), 1, epoch))
    shared = list(global_batches(make(), ranks, epoch))
    assert np.array_equal(np.concatenate(alone), np.concatenate(shared))
    assert all(
        np.array_equal(one, other) for one, other in zip(alone[: len(shared) - 1], shared, strict=False)
    )
    start = rows % (len(shared) + 1)
    rest = list(global_batches(make(), ranks, epoch, start))
    assert len(rest) == len(shared) - start
    assert all(np.array_equal(one, other) for one, other in zip(rest, shared[start:], strict=True))
    return alone


cases = st.fixed_dictionaries(
    {
        "rows": st.integers(8, 3000),
        "batch": st.integers(8, 200),
        "classes": st.integers(1, 8),
        "ranks": st.sampled_from(RANKS),
        "seed": st.integers(-(2**65), 2**65),
        "epoch": st.integers(0, 3),
    }
)


@pytest.mark.needs("cpu")
@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(0, 2**63))
def test_permutations_of_many_sizes_at_once_are_permutations(sizes, key):
    sizes = np.array(sizes)
    groups = np.repeat(np.arange(sizes.size), sizes)
    at = np.concatenate([np.arange(size) for size in sizes])
    found = permuted_within(at, sizes[groups], groups.astype(np.uint64) + np.uint64(key))
    for group, size in enumerate(sizes):
        assert np.array_equal(np.sort(found[groups == group]), np.arange(size))


@pytest.mark.needs("cpu")
def test_these_permutations_have_no_pattern():
    """As in test_order, of small and large groups: chi squared of the counts of (place, value)."""
    for size, cells, keys in ((80_000, 8, 20), (5, 5, 4000)):
        table = np.zeros((cells, cells))
        at, found = np.arange(size), 0.0
        for key in range(keys):
            to = permuted_within(at, np.full(size, size), np.full(size, key * 77 + 5, np.uint64))
            counts = np.histogram2d(at * cells // size, to * cells // size, bins=cells)[0]
            table += counts
            found += float(((counts - size / cells**2) ** 2).sum() / (size / cells**2)) / keys
        if size > cells:
            assert found == pytest.approx((cells - 1) ** 2, rel=0.15)
        else:  # each is a permutation of five: over all keys, each place gets each value alike
            expected = keys / cells
            assert ((table - expected) ** 2).sum() / expected < 2.5 * (cells - 1) ** 2


# --- By class.


@pytest.mark.needs("cpu")
@settings(max_examples=120, deadline=None)
@given(cases)
def test_a_stratified_epoch_has_each_row_once_and_each_batch_its_share_of_each_class(case):
    rows, batch, ranks = case["rows"], case["batch"], case["ranks"]
    labels = labels_of(random.Random(rows), rows, case["classes"])

    def make():
        return Shuffled(np.arange(rows), seed=case["seed"], batch=batch, balance=Stratified(labels))

    alone = of_one_order(make, rows, ranks, case["epoch"])
    assert np.array_equal(np.sort(np.concatenate(alone)), np.arange(rows))
    shares = np.bincount(labels) / rows
    full = rows // batch
    for row in alone:
        counts = np.bincount(labels[row], minlength=shares.size)
        assert (np.abs(counts - row.size * shares) < 1 + 1 / max(full, 1)).all()


def test_full_batches_differ_by_one_row_of_a_class_as_folds_of_scikit_learn_do():
    from sklearn.model_selection import StratifiedKFold

    labels = np.random.default_rng(3).choice(7, 4096, p=[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])
    data = Shuffled(np.arange(4096), seed=1, batch=128, balance=Stratified(labels))
    ours = [np.bincount(labels[row], minlength=7) for row in data.batches()]
    folds = StratifiedKFold(32, shuffle=True, random_state=1)
    theirs = [np.bincount(labels[row], minlength=7) for _, row in folds.split(labels, labels)]
    for counts in (ours, theirs):
        assert np.ptp(counts, axis=0).max() <= 1
    assert np.array_equal(np.sort(ours, axis=0), np.sort(theirs, axis=0))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_parts_are_stratified_where_ranks_divide_the_batch(ranks):
    labels = labels_of(random.Random(5), 5000, 5)
    data = Shuffled(np.arange(5000), seed=1, batch=200, balance=Stratified(labels))
    parts = [list(data.batches(0, rank, ranks)) for rank in range(ranks)]
    first = np.zeros(ranks)
    for step in range(25):
        counts = np.array([np.bincount(labels[each[step]], minlength=5) for each in parts])
        assert np.ptp(counts, axis=0).max() <= 1
        first += counts[:, counts.sum(axis=0).argmin()]
    assert np.ptp(first) < 15  # no rank has all rows of a rare class


def test_classes_may_be_named_in_any_order():
    labels = np.array(["a", "b", "c"] * 30)
    named = Stratified(labels, classes=["c", "a", "b", "a"])
    told = Shuffled(np.arange(90), seed=1, batch=30, balance=named).balance()
    assert told.classes == {"c": (10, 10, 10), "a": (10, 10, 10), "b": (10, 10, 10)}


def test_epochs_and_neighbours_differ():
    labels = np.repeat([0, 1], 5000)
    data = Shuffled(np.arange(10_000), seed=1, batch=100, balance=Stratified(labels))
    one, other = (np.concatenate(list(data.batches(epoch))) for epoch in (0, 1))
    assert (one == other).mean() < 0.01
    batches = [{*row.tolist()} for row in data.batches(0)]
    again = next(data.batches(1))
    assert max(len(batch & {*again.tolist()}) for batch in batches) < 10
    means = [row[labels[row] == 0].mean() for row in data.batches(0)]
    assert np.std(means) == pytest.approx(5000 / np.sqrt(12 * 50), rel=0.3)  # of 50 of a uniform distribution


@pytest.mark.needs("cpu")
def test_a_class_has_no_place_in_the_epoch():
    """Which batches hold one row more of a class, and how many the tail holds, is chance."""
    labels = np.repeat([0, 1], [330, 773])  # 33 and 77 in ten batches, and 3 in the tail
    more, tail = np.zeros(11), []
    for seed in range(100):
        batches = Shuffled(np.arange(1103), seed=seed, batch=110, balance=Stratified(labels)).batches()
        counts = np.array([(labels[row] == 0).sum() for row in batches])
        more[:10] += counts[:10] == counts[:10].max()
        tail.append(counts[10])
    assert {*tail} == {0, 1} and np.mean(tail) == pytest.approx(3 * 330 / 1103, abs=0.12)
    assert more[:10].min() > 0.4 * more[:10].max()


def test_classes_and_rounds_of_one_are_permuted_differently():
    """Rows at the same place of two classes, or of two rounds of a class, would be dealt to the same batch here."""
    labels = np.repeat([0, 1], 100)
    step_of = np.empty(200, int)
    for step, row in enumerate(
        Shuffled(np.arange(200), seed=1, batch=20, balance=Stratified(labels)).batches()
    ):
        step_of[row] = step
    assert (step_of[:100] == step_of[100:]).mean() < 0.3
    data = Shuffled(np.arange(1100), seed=1, batch=40, balance=Oversampled(np.repeat([0, 1], [1000, 100])))
    steps = [[] for _ in range(100)]
    for step, row in enumerate(data.batches()):
        for each in row[row >= 1000] - 1000:
            steps[each].append(step)
    assert {*map(len, steps)} == {10} and min(len({*each}) for each in steps) >= 5


@pytest.mark.needs("cpu")
@settings(max_examples=80, deadline=None)
@given(cases)
def test_oversampled_batches_hold_equally_many_of_each_class(case):
    rows, batch, ranks = case["rows"], case["batch"], case["ranks"]
    labels = labels_of(random.Random(rows), rows, case["classes"])
    sizes = np.bincount(labels)

    def make():
        return Shuffled(np.arange(rows), seed=case["seed"], batch=batch, balance=Oversampled(labels))

    alone = of_one_order(make, rows, ranks, case["epoch"])
    everything = np.concatenate(alone)
    assert everything.size == sizes.size * sizes.max()
    times = np.bincount(everything, minlength=rows)
    for label, size in enumerate(sizes):
        assert {*times[labels == label]} <= {sizes.max() // size, -(-sizes.max() // size)}
    for row in alone:
        counts = np.bincount(labels[row], minlength=sizes.size)
        assert (np.abs(counts - row.size / sizes.size) < 1 + 1 / max(everything.size // batch, 1)).all()


# --- By weight.


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("ranks", RANKS)
def test_weighted_draws_are_the_same_for_any_number_of_ranks(ranks):
    weights = np.random.default_rng(0).random(40_000) ** 3

    def make():
        return Shuffled(np.arange(40_000), seed=2, batch=96, balance=Weighted(weights))

    of_one_order(make, 40_000, ranks, 1)


@pytest.mark.needs("cpu")
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(0, 45))
def test_the_guide_table_finds_what_a_binary_search_finds(weights, shift):
    ends = np.cumsum(weights) << shift
    ends[-1] = 1 << 53
    draws = np.unique(np.concatenate([[0], ends - 1, ends, ends + 1]).clip(0, (1 << 53) - 1))
    assert np.array_equal(_Cumulative(ends).rows(draws), np.searchsorted(ends, draws, side="right"))


def chi_squared(counts, weights):
    expected = counts.sum() * weights / weights.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.needs("processes")
def test_rows_come_as_often_as_their_weights_say():
    """Chi squared of 999 degrees of freedom, whose standard deviation is 45: within five; and beside PyTorch's sampler."""
    weights = np.random.default_rng(1).random(1000) + 0.05
    data = Shuffled(np.arange(1000), seed=5, batch=100, balance=Weighted(weights))
    counts = np.zeros(1000)
    for epoch in range(200):
        counts += np.bincount(np.concatenate(list(data.batches(epoch))), minlength=1000)
    assert counts.sum() == 200_000
    assert abs(chi_squared(counts, weights) - 999) < 5 * np.sqrt(2 * 999)

    import torch

    sampler = torch.utils.data.WeightedRandomSampler(
        weights.tolist(), 200_000, generator=torch.Generator().manual_seed(5)
    )
    theirs = np.bincount(np.fromiter(sampler, np.int64), minlength=1000)
    assert abs(chi_squared(theirs, weights) - 999) < 5 * np.sqrt(2 * 999)


@pytest.mark.needs("cpu")
def test_draws_of_neighbours_are_independent():
    data = Shuffled(np.arange(8), seed=5, batch=1 << 13, balance=Weighted(np.ones(8)))
    draws = np.concatenate([next(data.batches(epoch)) for epoch in range(5000)])
    pairs = np.bincount(draws[:-1] * 8 + draws[1:], minlength=64)
    assert abs(chi_squared(pairs, np.ones(64)) - 63) < 5 * np.sqrt(2 * 63)


def test_a_row_of_weight_0_is_never_drawn():
    weights = np.array([0, 1, 0, 0, 2, 0])
    data = Shuffled(np.arange(6), seed=0, batch=6, balance=Weighted(weights))
    drawn = np.concatenate([next(data.batches(epoch)) for epoch in range(300)])
    counts = np.bincount(drawn, minlength=6)
    assert counts[[0, 2, 3, 5]].sum() == 0
    assert counts[4] / counts[1] == pytest.approx(2, rel=0.15)


def test_the_orders_are_what_they_were():
    """A checkpoint that is resumed by a later version meets the same rows."""
    labels = np.arange(50) % 3 % 2
    found = {
        type(balance).__name__: next(
            Shuffled(np.arange(50), seed=1, batch=8, balance=balance).batches()
        ).tolist()
        for balance in (
            Stratified(labels),
            Oversampled(labels),
            Weighted(labels + 1),
            TokenBuckets(labels + 1, 12),
        )
    }
    assert found == {
        "Stratified": [9, 17, 47, 12, 14, 19, 25, 13],
        "Oversampled": [5, 17, 29, 8, 40, 22, 49, 16],
        "Weighted": [41, 25, 28, 6, 33, 29, 26, 43],
        "TokenBuckets": [1, 19, 34, 46, 5, 8],
    }


# --- By length.


def lengths_of(chance, rows):
    """Of a few words, as texts have; or all equal, or of two lengths."""
    numbers = np.random.default_rng(chance.randrange(1 << 30))
    return chance.choice(
        [
            np.clip(numbers.lognormal(3.5, 0.8, rows), 1, 400).astype(int),
            np.full(rows, chance.randint(1, 50)),
            numbers.choice([3, 200], rows),
            numbers.integers(1, 30, rows),
        ]
    )


def token_parts(data, ranks, epoch=0, start=None):
    """The rows of each rank at each step."""
    each = [data.batches(epoch, rank, ranks, start) for rank in range(ranks)]
    for parts in zip(*each, strict=True):
        assert len({(batches.step, batches.rows, batches.tokens) for batches in each}) == 1
        assert each[0].rows == sum(map(len, parts))
        yield list(parts), each[0].tokens


def sets_of(batches):
    return [sorted(itertools.chain.from_iterable(part.tolist() for part in parts)) for parts, _ in batches]


token_cases = st.fixed_dictionaries(
    {
        "rows": st.integers(8, 3000),
        "tokens": st.integers(3200, 9000),
        "batch": st.sampled_from([None, 8, 64]),
        "multiple": st.sampled_from([1, 8, 12]),
        "ranks": st.sampled_from(RANKS),
        "seed": st.integers(0, 2**40),
        "epoch": st.integers(0, 3),
    }
)


def check_tokens(case):
    rows, ranks = case["rows"], case["ranks"]
    lengths = lengths_of(random.Random(rows + case["tokens"]), rows)

    def make():
        buckets = TokenBuckets(lengths, case["tokens"], multiple=case["multiple"])
        return Shuffled(np.arange(rows), seed=case["seed"], batch=case["batch"], balance=buckets)

    alone = list(token_parts(make(), 1, case["epoch"]))
    shared = list(token_parts(make(), ranks, case["epoch"]))
    ones, others = sets_of(alone), sets_of(shared)
    assert sorted(itertools.chain.from_iterable(others)) == list(range(rows))
    joined = len(ones) - len(others)
    assert joined in (0, 1) and ones[: len(others) - joined] == others[: len(others) - joined]
    assert len(others) == make().steps(ranks)
    start = case["seed"] % (len(shared) + 1)
    rest = list(token_parts(make(), ranks, case["epoch"], start))
    assert [[part.tolist() for part in parts] for parts, _ in rest] == [
        [part.tolist() for part in parts] for parts, _ in shared[start:]
    ]
    for (parts,), tokens in alone:
        own = lengths[parts]
        assert own.max() * own.size <= case["tokens"] and own.sum() == tokens
        assert case["batch"] is None or own.size <= case["batch"]
    for parts, _ in shared:
        sums = [int(lengths[part].sum()) for part in parts]
        assert max(sums) - min(sums) <= max(lengths[part].max() for part in parts)
        longest = max(int(lengths[part].max()) for part in parts)
        assert all(
            lengths[part].max() * part.size <= case["tokens"] / ranks + longest * (1 + joined)
            for part in parts
        )
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.needs("cpu")
@settings(max_examples=120, deadline=None)
@given(token_cases)
def test_token_buckets_have_each_row_once_in_the_same_batches_for_all_ranks_with_near_equal_work(case):
    check_tokens(case)


@pytest.mark.needs("cpu")
def test_token_buckets_pad_little_and_share_equally_where_plain_shuffling_does_not():
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 0.9, 50_000), 4, 1000).astype(int)
    data = Shuffled(np.arange(50_000), seed=0, balance=TokenBuckets(lengths, 16_384))
    told = data.balance(ranks=4)
    assert told.padding < 0.05 and told.plain.padding > 0.5
    assert told.tokens < 1.02
    assert told.plain.tokens > 1.1
    assert told.padded_tokens < 1.02
    assert told.plain.padded_tokens > 1.2
    totals = [sum(int(lengths[part].sum()) for part in data.batches(0, rank, 4)) for rank in range(4)]
    assert max(totals) < 1.001 * np.mean(totals)
    # The batches are nearly full.
    assert data.steps() * 16_384 * 0.85 < lengths.sum() / (1 - told.padding)


def test_batches_of_tokens_are_mixed_anew_in_each_epoch():
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 0.9, 20_000), 4, 1000).astype(int)
    data = Shuffled(np.arange(20_000), seed=0, balance=TokenBuckets(lengths, 8192))
    one, other = (list(data.batches(epoch)) for epoch in (0, 1))
    where = np.empty((2, 20_000), int)
    for number, batches in enumerate((one, other)):
        for step, row in enumerate(batches):
            where[number, row] = step
    together = np.array([np.bincount(where[1, row]).max() / row.size for row in one])
    assert together.mean() < 0.4 and np.sort(together)[-10:].mean() < 0.6
    means = [lengths[row].mean() for row in one]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.25  # long and short batches in no order


# --- Many random cases.


@pytest.mark.parametrize(
    "hundred", [0, *(pytest.param(n, marks=pytest.mark.needs("processes")) for n in range(1, 5))]
)
def test_five_hundred_random_cases_in_simulation(hundred):
    """Gangs that are stopped at any step and go on with another number of ranks, until the epoch is over: the same global batches."""
    for seed in range(100 * hundred, 100 * hundred + 100):
        chance = random.Random(seed)
        rows = chance.randint(16, 700)
        labels = labels_of(chance, rows, chance.randint(1, 5))
        kinds = [Stratified, Oversampled, lambda labels: Weighted(labels + 0.5)]
        if seed % 4 == 3:
            balance, batch = TokenBuckets(lengths_of(chance, rows), 3200), None
        else:
            balance, batch = kinds[seed % 4](labels), chance.randint(8, 64)
        simulate(chance, rows, {"seed": seed, "batch": batch, "balance": balance})


def simulate(chance, rows, options):
    gang = [Shuffled(np.arange(rows), **options) for _ in range(max(RANKS))]
    epoch = chance.randrange(4)
    alone = [sorted(row.tolist()) for row in gang[0].batches(epoch)]
    met, ranks, state = [], chance.choice(RANKS), gang[1].state_dict() | {"epoch": epoch}
    while state["epoch"] == epoch:
        for one in gang:
            one.load_state_dict(state)
        each = [gang[rank].batches(rank=rank, ranks=ranks) for rank in range(ranks)]
        until = min(chance.randint(1, 12), gang[0].steps(ranks) - len(met))
        parts = [[next(batches).tolist() for batches in each] for _ in range(until)]
        met += [sorted(itertools.chain.from_iterable(rows)) for rows in parts]
        state = gang[0].state_dict()
        assert all(one.state_dict() == state for one in gang[:ranks])
        # More ranks than a tail has rows take it together with the batch before it, so only these may have met that batch.
        if len(met) < gang[0].steps(max(RANKS)) - 1:
            ranks = chance.choice(RANKS)
    joined = len(alone) - len(met)
    assert joined in (0, 1)
    assert met[: len(met) - joined] == alone[: len(met) - joined]
    assert sorted(itertools.chain.from_iterable(met)) == sorted(itertools.chain.from_iterable(alone))


RANK_PROCESS = """
import json, pickle, sys
import numpy as np
from hooke.data import Shuffled

rank = int(sys.argv[2])
for rows, seed, batch, balance, gangs in pickle.load(open(sys.argv[1], "rb")):
    state, met = None, []
    for ranks, steps in gangs:  # another number of ranks goes on with the state that was written
        data = Shuffled(np.arange(rows), seed=seed, batch=batch, balance=balance)
        if state is not None:
            data.load_state_dict(json.loads(state))
        if rank < ranks:
            batches = data.batches(rank=rank, ranks=ranks)
            met.append([next(batches).tolist() for _ in range(steps)])
            state = json.dumps(data.state_dict())
        else:
            met.append([])
            state = json.dumps(data.state_dict() | {"step": data.state_dict()["step"] + steps})
    print(json.dumps(met), flush=True)
"""


@pytest.mark.needs("processes")
def test_twenty_random_cases_with_real_processes(tmp_path):
    """Four processes, each a rank; they meet what one process meets."""
    cases, expected = [], []
    for seed in range(20):
        chance = random.Random(1000 + seed)
        rows = chance.randint(600, 3000)
        labels, lengths = labels_of(chance, rows, 3), lengths_of(chance, rows)
        balance = [
            Stratified(labels),
            Oversampled(labels),
            Weighted(labels + 0.5),
            TokenBuckets(lengths, 3200),
        ][seed % 4]
        batch = chance.randint(8, 40)
        alone = Shuffled(np.arange(rows), seed=seed, batch=batch, balance=balance)
        first, second = chance.randint(1, 4), chance.randint(1, 4)
        stop = chance.randint(1, max(1, alone.steps(4) - 2))
        rest = chance.randint(0, max(0, alone.steps(4) - 1 - stop))
        cases.append((rows, seed, batch, balance, [(first, stop), (second, rest)]))
        expected.append([sorted(row.tolist()) for row in itertools.islice(alone.batches(), stop + rest)])
    path = tmp_path / "cases.pickle"
    path.write_bytes(pickle.dumps(cases))
    gang = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROCESS, path, str(rank)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(4)
    ]
    told = [
        [json.loads(line) for line in process.communicate(timeout=200)[0].splitlines()] for process in gang
    ]
    assert [process.returncode for process in gang] == [0] * 4
    for number, (case, batches) in enumerate(zip(cases, expected, strict=True)):
        met = []
        for part, (ranks, steps) in enumerate(case[-1]):
            each = [told[rank][number][part] for rank in range(ranks)]
            met += [sorted(itertools.chain.from_iterable(rows)) for rows in zip(*each, strict=True)]
            assert len(each[0]) == steps
        assert met == batches


# --- The report.


def test_the_report_is_what_the_batches_are():
    labels = np.random.default_rng(0).choice(["a", "b", "c"], 9000, p=[0.9, 0.08, 0.02])
    data = Shuffled(np.arange(9000), seed=0, batch=100, balance=Stratified(labels))
    told = data.balance(ranks=3)
    assert (told.ranks, told.steps) == (3, 90)
    assert told.rows == pytest.approx(34 / (100 / 3))
    counts = np.array([[(labels[row] == name).sum() for name in "abc"] for row in data.batches()])[:-1]
    for name, each in zip("abc", counts.T, strict=True):
        assert told.classes[name] == (each.min(), pytest.approx(each.mean()), each.max())
    low, _, high = told.classes["c"]
    assert high - low <= 1 and told.plain.classes["c"][2] - told.plain.classes["c"][0] >= 4
    assert str(told).splitlines()[0].split() == "90 steps, 3 ranks balanced plain shuffling".split()
    assert "rows of class 'c' a batch" in str(told)


def test_plain_batches_are_reported_with_the_labels_and_lengths_that_are_passed():
    data = Shuffled(np.arange(1000), seed=0, batch=10)
    told = data.balance(ranks=2, labels=np.arange(1000) % 40, lengths=np.arange(1000) + 1)
    assert told.plain is None and told.rows == 1 and len(told.classes) == 40
    parts = [list(data.batches(0, rank, 2)) for rank in (0, 1)]
    sums = np.array([[part.sum() + part.size for part in each] for each in parts])
    assert told.tokens == pytest.approx(sums.max(axis=0).sum() / sums.mean(axis=0).sum())
    tops = np.array([[(part.max() + 1) * part.size for part in each] for each in parts])
    assert told.padded_tokens == pytest.approx(tops.max(axis=0).sum() / tops.mean(axis=0).sum())
    assert told.padding == pytest.approx(1 - sums.sum() / tops.sum())
    assert "and 30 larger classes" in str(told) and "balanced" not in str(told)
    assert data.balance().classes == {}


# --- Files, and PyTorch's loader.


@pytest.mark.parametrize("kind", BALANCES)
def test_what_a_rank_will_read_is_told_before(kind):
    """And nothing else: a source may read it ahead."""
    plan = Shuffled(np.arange(90), seed=7, batch=16, balance=BALANCES[kind]())._plan
    told, read = [], []
    for part in plan.parts(1, 1, 2, 2, told.append):
        read += part.numbers.tolist()
        assert np.isin(part.numbers, np.concatenate(told)).all()
    assert read and set(read) <= set(np.concatenate(told).tolist()) <= {*range(90)}


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("kind", BALANCES)
def test_a_packed_file_has_the_same_balanced_batches(kind, warm, tmp_path):
    path = pack(np.arange(90), tmp_path / "rows.packed")
    options = {"seed": 7, "batch": 16, "memory": 1 << 16}
    data = Shuffled(PackedFile(path, warm=warm), **options, balance=BALANCES[kind]())
    again = Shuffled(np.arange(90), **options, balance=BALANCES[kind]())
    assert [row.tolist() for row in data.batches()] == [row.tolist() for row in again.batches()]


@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded, use of fork")
@pytest.mark.needs("processes")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", BALANCES)
def test_a_loader_of_pytorch_has_the_same_balanced_batches(kind, workers):
    from hooke.frameworks.torch import ShuffledLoader

    data = Shuffled(np.arange(90), seed=7, batch=16, balance=BALANCES[kind]())
    loader = ShuffledLoader(data, rank=1, ranks=2, num_workers=workers)
    batches = data.batches(0, 1, 2)
    for found, expected in zip(loader, batches, strict=True):
        assert found.data.tolist() == expected.tolist()
        assert found.tokens == batches.tokens and found.weight == batches.weight


# --- States, and what is wrong.


@pytest.mark.parametrize("kind", BALANCES)
def test_a_state_goes_on_where_it_was_taken(kind):
    make = BALANCES[kind]
    data = Shuffled(np.arange(90), seed=7, batch=16, balance=make())
    assert data.batch == 16 and (kind == "plain" or f"balance={type(make()).__name__})" in repr(data))
    batches = data.batches(epoch=2)
    done = [next(batches) for _ in range(3)]
    state = json.loads(json.dumps(data.state_dict()))
    assert len(json.dumps(state)) < 160
    again = Shuffled(np.arange(90), seed=7, batch=16, balance=make())
    again.load_state_dict(state)
    assert [row.tolist() for row in again.batches()] == [row.tolist() for row in batches]
    assert len(done) + again.steps() - 3 == data.steps()
    assert data.state_dict()["epoch"] == 3


@pytest.mark.parametrize(("there", "here"), list(itertools.permutations(BALANCES, 2)))
def test_a_state_of_another_kind_of_balance_is_refused(there, here):
    one, other = (
        Shuffled(np.arange(90), seed=7, batch=16, balance=BALANCES[kind]()) for kind in (there, here)
    )
    with pytest.raises(UsageError, match="the state is one of .*, and this data set has "):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (Stratified(LABELS), Stratified(LABELS[::-1]), "labels"),
        (Oversampled(LABELS), Oversampled(LABELS // 2), "labels"),
        (Weighted(LABELS + 1), Weighted(LABELS + 1.0001), "weights"),
        (TokenBuckets(LABELS + 1, 48), TokenBuckets(LABELS[::-1] + 1, 48), "lengths"),
        (
            TokenBuckets(LABELS + 1, 48),
            TokenBuckets(LABELS + 1, 48, multiple=5),
            "data: batch is 16, and here 15",
        ),
        (TokenBuckets(LABELS + 1, 48), TokenBuckets(LABELS + 1, 49), "data: tokens is 48, and here 49"),
    ],
)
def test_a_state_of_other_labels_or_weights_is_refused(one, other, what):
    data, again = (Shuffled(np.arange(90), seed=7, batch=16, balance=balance) for balance in (one, other))
    with pytest.raises(UsageError, match=f"the state is of other {what}"):
        again.load_state_dict(data.state_dict())


@pytest.mark.parametrize("longest", [(1 << 31) - 1, 1 << 31, 3 << 31, 1 << 62])
@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_lengths_may_be_as_large_as_numbers_of_64_bits(longest, kind):
    lengths = np.array([longest, 5, longest - 1, 7, longest // 2], kind)
    data = Shuffled(np.arange(5), seed=0, balance=TokenBuckets(lengths, longest))
    met = []
    for rows in data.batches():
        met += rows.tolist()
        assert rows.size * int(lengths[rows].max()) <= longest
    assert sorted(met) == list(range(5))
    assert data.balance().padding < 0.5


NAN = float("nan")
UNLABELLED = {
    "None": ["a", None, 3],
    "two NaN": np.array(["a", NAN, float("nan")], object),
    "a Decimal": [1, Decimal("NaN")],
    "NumPy text": np.array(["a", None], np.dtypes.StringDType(na_object=None)),
    "nullable numbers": pd.array([1, None], "Int64"),
    "nullable text": pd.array(["a", None], "string"),
    "text": pd.Series(["a", None], dtype="str"),
    "a category": pd.Categorical(["a", None]),
    "times": pd.Series([pd.Timestamp(0), pd.NaT], dtype=object),
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_a_row_without_a_label_is_named(kind):
    """Whatever stands for it: two NaN that are objects were two classes."""
    for make in (Stratified, Oversampled, lambda labels: class_codes(labels, len(labels))):
        with pytest.raises(UsageError, match="row 1 has no label"):
            make(UNLABELLED[kind])


def balanced(balance, rows=90, **options):
    return Shuffled(np.arange(rows), **({"seed": 0, "batch": 16, "balance": balance} | options))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Stratified(LABELS, classes=[0, 1, 2, 3]), "class 3 has no rows"),
        (lambda: Stratified(LABELS, classes=[0, 1]), "the label of row 2 is 2, which is not in classes"),
        (lambda: Stratified(["a", "b"], classes=["b", "a", "c"]), "class 'c' has no rows"),
        (lambda: Stratified([1.0, NAN]), "row 1 has no label"),
        (lambda: Stratified(np.array(["a", 3], object)), "the labels cannot be sorted"),
        (lambda: Stratified(np.ma.masked_equal([1, 2, 3], 2)), "the labels are a masked array"),
        (lambda: Stratified([[1], [1, 2]]), "the labels are no array"),
        (lambda: balanced(Stratified), "balance is <class"),
        (
            lambda: TokenBuckets(np.array([1, 1 << 63], np.uint64), 1 << 62),
            f"the length of row 1 is {1 << 63}",
        ),
        (lambda: TokenBuckets([1, 2], 1 << 63), f"tokens is {1 << 63}"),
        (lambda: Stratified(np.zeros((3, 2))), "the labels have the shape (3, 2)"),
        (lambda: Oversampled([]), "the labels have the shape (0,)"),
        (lambda: balanced(Stratified(LABELS[:80])), "80 labels for 90 rows"),
        (lambda: balanced(Oversampled(LABELS), rows=91), "90 labels for 91 rows"),
        (lambda: balanced(Stratified(np.arange(90))), "90 classes do not fit into a batch of 16 rows"),
        (lambda: balanced(Oversampled(np.arange(90))), "90 classes do not fit"),
        (lambda: balanced(Weighted(np.ones(80))), "80 weights for 90 rows"),
        (lambda: Weighted([1, NAN, 1]), "the weight of row 1 is nan"),
        (lambda: Weighted([1, 1, -2.5]), "the weight of row 2 is -2.5"),
        (lambda: Weighted([np.inf]), "the weight of row 0 is inf"),
        (lambda: Weighted([0, 0]), "all weights are 0"),
        (lambda: Weighted(["1"]), "the weights are of the type <U1"),
        (lambda: Stratified(np.array(["2026-01-01", "NaT"], "M8[D]")), "row 1 has no label: it is NaT"),
        (lambda: Weighted(3), "the weights have the shape ()"),
        (lambda: TokenBuckets([3, 9, 4], 8), "row 1 has 9 tokens, more than a batch of 8"),
        (lambda: TokenBuckets([3, 0, 4], 8), "the length of row 1 is 0"),
        (lambda: TokenBuckets([3, -1], 8), "the length of row 1 is -1"),
        (lambda: TokenBuckets([3, 1.5], 8), "the lengths are of the type float64"),
        (lambda: TokenBuckets([3], 8.5), "tokens is 8.5"),
        (lambda: TokenBuckets([3], 8, multiple=0), "multiple is 0"),
        (lambda: balanced(TokenBuckets(LABELS + 1, 48), rows=91), "90 lengths for 91 rows"),
        (
            lambda: balanced(TokenBuckets(LABELS + 1, 9)).batches(ranks=4),
            "3 rows cannot be shared by 4 ranks",
        ),
        (
            lambda: balanced(TokenBuckets([5], 48), rows=1).batches(ranks=2),
            "1 rows cannot be shared by 2 ranks",
        ),
        (
            lambda: balanced(TokenBuckets([5], 48), rows=1, drop_last=True),
            "1 rows are less than a batch of 8",
        ),
        (lambda: balanced(TokenBuckets(LABELS + 1, 48), batch=-2), "batch is -2"),
        (lambda: balanced(None).balance(labels=LABELS[:5]), "5 labels for 90 rows"),
        (lambda: balanced(None).balance(lengths=LABELS), "the length of row 0 is 0"),
        (lambda: balanced(None).balance(ranks=17), "16 rows cannot be shared by 17 ranks"),
        (lambda: balanced(Stratified(LABELS), batch=None), "batch is missing"),
        (lambda: balanced(None, batch=None), "only TokenBuckets does without"),
        (lambda: balanced(Weighted(LABELS), batch=0), "batch is 0"),
        (lambda: balanced(LABELS), "balance is array("),
        (lambda: balanced(Stratified(LABELS), drop_last=True, batch=100), "drop_last leaves nothing"),
        (
            lambda: balanced(Stratified(LABELS), batch=4).batches(ranks=6),
            "4 rows cannot be shared by 6 ranks",
        ),
        (lambda: balanced(Stratified(LABELS)).quality(), "with balance rows are drawn one by one"),
    ],
)
def test_what_is_wrong_is_said(make, what):
    with pytest.raises(UsageError) as caught:
        make()
    assert what in str(caught.value)
