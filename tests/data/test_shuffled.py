"""`Shuffled`: batches of the source's own kind, shared by ranks, resumed at any step; what is wrong is said."""

import itertools
import json
import pickle
import random

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hooke import UsageError
from hooke.data import Shuffled

N = 1003
NUMBERS = np.arange(N)


def sources(tmp_path):
    np.save(tmp_path / "rows.npy", NUMBERS)
    frame = {"number": NUMBERS, "half": NUMBERS / 2}
    return {
        "array": NUMBERS,
        "file": tmp_path / "rows.npy",
        "dict": frame,
        "pandas": pd.DataFrame(frame),
        "polars": pl.DataFrame(frame),
        "arrow": pa.concat_tables([pa.table({"number": NUMBERS[:500]}), pa.table({"number": NUMBERS[500:]})]),
        "list": [str(number) * 3 for number in NUMBERS],
    }


def numbers_of(batch):
    if isinstance(batch, list):
        return [int(each[: len(each) // 3]) for each in batch]
    return list(map(int, np.asarray(batch if isinstance(batch, np.ndarray) else batch["number"])))


@pytest.mark.parametrize("kind", ["array", "file", "dict", "pandas", "polars", "arrow", "list"])
def test_batches_are_of_the_sources_kind_and_in_one_order(kind, tmp_path):
    source = sources(tmp_path)[kind]
    data = Shuffled(source, seed=1, batch=64)
    batches = list(data.batches())
    kinds = {type(batch) for batch in batches}
    assert kinds == {np.ndarray if kind == "file" else type(source)}
    rows = list(itertools.chain.from_iterable(map(numbers_of, batches)))
    assert sorted(rows) == NUMBERS.tolist() != rows
    if kind not in ("list",):  # rows of another size may be planned otherwise
        assert [len(numbers_of(batch)) for batch in batches] == [64] * 15 + [43]


def together(data, ranks, epoch=0):
    """The rows of each global batch as the ranks had them, and the weights of their parts."""
    each = [data.batches(epoch, rank, ranks) for rank in range(ranks)]
    steps, weights = [], []
    for parts in zip(*each, strict=True):
        row = [None] * sum(map(len, parts))
        first = len(list(itertools.chain.from_iterable(steps)))
        for rank, part in enumerate(parts):
            row[(rank - first) % ranks :: ranks] = part.tolist()
        steps.append(row)
        weights.append([batches.weight for batches in each])
        assert {batches.rows for batches in each} == {len(row)} and len(
            {batches.step for batches in each}
        ) == 1
        for part, weight in zip(parts, weights[-1], strict=True):
            assert weight == pytest.approx(len(part) * ranks / len(row))
    return steps


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("batch", [64, 50, 9])
def test_any_number_of_ranks_meets_the_same_rows_in_the_same_order(ranks, batch):
    alone = together(Shuffled(NUMBERS, seed=4, batch=batch), 1, epoch=2)
    shared = together(Shuffled(NUMBERS, seed=4, batch=batch), ranks, epoch=2)
    assert list(itertools.chain(*alone)) == list(itertools.chain(*shared))
    assert [row for row in map(sorted, alone)][: len(shared) - 1] == [row for row in map(sorted, shared)][:-1]
    assert all(len(row) >= ranks for row in shared)


def test_a_tail_smaller_than_the_ranks_joins_the_batch_before_it():
    data = Shuffled(np.arange(131), seed=0, batch=64)
    assert data.steps(ranks=3) == 3 and data.steps(ranks=4) == 2
    assert [len(row) for row in together(data, 4)] == [64, 67]
    assert [len(row) for row in together(Shuffled(np.arange(131), seed=0, batch=64, drop_last=True), 4)] == [
        64,
        64,
    ]


def test_parts_are_equal_where_the_ranks_divide_the_batch():
    data = Shuffled(np.arange(6400), seed=0, batch=64)
    for ranks in (1, 2, 4, 8, 16, 32, 64):
        for rank in range(0, ranks, 3):
            batches = data.batches(0, rank, ranks)
            assert all(len(part) == 64 // ranks and batches.weight == 1 for part in batches)


def test_random_cases_are_resumed_exactly():
    for seed in range(120):
        chance = random.Random(seed)
        rows = chance.choice([1, 5, 63, 64, 65, 997, 5000])
        batch = chance.randint(1, 80)
        drop_last = rows >= batch and chance.random() < 0.3
        data = Shuffled(np.arange(rows), seed=seed, batch=batch, drop_last=drop_last)
        ranks = chance.randint(1, min(8, batch, rows))
        rank, epoch = chance.randrange(ranks), chance.randrange(3)
        everything = [part.tolist() for part in data.batches(epoch, rank, ranks)]
        assert len(everything) == data.steps(ranks)
        start = chance.randint(0, len(everything))
        assert [part.tolist() for part in data.batches(epoch, rank, ranks, start)] == everything[start:]


@pytest.mark.parametrize("every", [1, 2, 3, 20])
def test_processes_that_read_in_turn_have_the_same_batches(every, tmp_path):
    """Each from its own copy, as another process gets it."""
    np.save(tmp_path / "rows.npy", NUMBERS)
    data = Shuffled(tmp_path / "rows.npy", seed=0, batch=64)
    assert len(pickle.dumps(data)) < 4000, "the rows are read from the file"
    turns = []
    for number in range(every):
        own = pickle.loads(pickle.dumps(data))
        batches = own.batches(0, 1, 3, min(number, data.steps(3)), every)
        turns.append([(batches.step, rows.tolist()) for rows in batches])
    whole = [rows.tolist() for rows in data.batches(0, 1, 3)]
    found = sorted(batch for turn in turns for batch in turn)
    assert found == list(enumerate(whole))


def test_a_state_goes_on_where_it_was_taken():
    """Also in a data set that was given less memory, whose own order would be another; and across the end of an epoch."""
    data = Shuffled(np.arange(100_000), seed=9, batch=500)
    batches = data.batches(epoch=3)
    for _ in range(150):
        next(batches)
    state = json.loads(json.dumps(data.state_dict()))
    assert (state["epoch"], state["step"]) == (3, 150)
    rest = [part.tolist() for part in batches]
    assert (data.state_dict()["epoch"], data.state_dict()["step"]) == (4, 0)
    again = Shuffled(np.arange(100_000), seed=9, batch=500, memory=1 << 16)
    assert again.layout != data.layout
    again.load_state_dict(state)
    assert [part.tolist() for part in again.batches()] == rest
    assert next(again.batches()).tolist() == next(data.batches(epoch=4)).tolist()


def test_a_batch_that_was_read_ahead_is_not_yet_done():
    data = Shuffled(np.arange(1000), seed=0, batch=10)
    batches = data.batches()
    next(batches)
    assert data.state_dict()["step"] == 1


def test_quality_is_predicted_and_measured():
    labels = np.repeat(np.arange(2000), 500)
    data = Shuffled(np.zeros((1_000_000, 16), np.float32), seed=0, batch=256)
    told = data.quality()
    assert told.predicted <= 1.055 and told.measured == pytest.approx(told.predicted, rel=0.1)
    assert data.quality(labels).measured <= 1.1
    assert str(told).startswith("VIF 1.0") and "perfect shuffle" in str(told)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Shuffled({"a": [1, 2], "b": [1]}, seed=0, batch=1), "different numbers of rows"),
        (lambda: Shuffled({}, seed=0, batch=1), "no columns"),
        (lambda: Shuffled([], seed=0, batch=1), "no rows"),
        (lambda: Shuffled(np.float64(3), seed=0, batch=1), "cannot shuffle a float64"),
        (lambda: Shuffled(np.array(3), seed=0, batch=1), "without dimensions"),
        (lambda: Shuffled(b"text", seed=0, batch=1), "cannot shuffle a bytes"),
        (lambda: Shuffled("nowhere.npy", seed=0, batch=1), "no file nowhere.npy"),
        (lambda: Shuffled(__file__, seed=0, batch=1), "is not a .npy file"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=0), "batch is 0"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=2000, drop_last=True), "drop_last leaves nothing"),
        (lambda: Shuffled(NUMBERS, seed=0.5, batch=1), "seed is 0.5"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=True), "batch is True"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=1, memory=-1), "memory is -1"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=4).batches(ranks=8), "4 rows cannot be shared by 8 ranks"),
        (
            lambda: Shuffled(NUMBERS[:3], seed=0, batch=64).batches(ranks=4),
            "3 rows cannot be shared by 4 ranks",
        ),
        (lambda: Shuffled(NUMBERS, seed=0, batch=64).batches(rank=2, ranks=2), "rank is 2, of 2 ranks"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=64).batches(start=17), "start is 17, of 16 steps"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=64).batches(epoch=-1), "epoch is -1"),
        (lambda: Shuffled(NUMBERS, seed=0, batch=64).quality(NUMBERS[:5]), "5 values for 1003 rows"),
        (
            lambda: Shuffled(NUMBERS, seed=0, batch=64).load_state_dict({"epoch": 1}),
            "not a state of Shuffled",
        ),
    ],
)
def test_what_is_wrong_is_said(make, what):
    with pytest.raises(UsageError) as caught:
        make()
    assert what in str(caught.value)


@pytest.mark.parametrize("change", ["rows", "seed", "batch"])
def test_a_state_of_other_data_is_refused(change):
    data = Shuffled(NUMBERS, seed=0, batch=64)
    state = data.state_dict()
    state[change] += 1
    with pytest.raises(UsageError, match=f"the state is of other data: {change} is"):
        data.load_state_dict(state)


def test_a_damaged_state_is_refused():
    data = Shuffled(NUMBERS, seed=0, batch=64)
    with pytest.raises(UsageError, match="step is '7'"):
        data.load_state_dict(data.state_dict() | {"step": "7"})


def test_rows_of_a_pandas_table_are_taken_by_their_place():
    """A slice of one whose index are floats would be by label."""
    table = pd.DataFrame({"number": NUMBERS}, index=NUMBERS[::-1] / 2)
    rows = [number for batch in Shuffled(table, seed=0, batch=10).batches() for number in batch["number"]]
    assert sorted(rows) == NUMBERS.tolist()


def test_a_damaged_file_is_refused(tmp_path):
    np.save(tmp_path / "rows.npy", NUMBERS)
    whole = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "rows.npy").write_bytes(whole[:500])
    with pytest.raises(UsageError, match="cannot be read as an array"):
        Shuffled(tmp_path / "rows.npy", seed=0, batch=1)
