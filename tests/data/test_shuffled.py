"""`Shuffled`: batches of the source's own kind, shared by ranks, resumed at any step; what is wrong is said."""

import itertools
import json
import pickle
import random
import tracemalloc
from collections import deque
from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hooke import UsageError
from hooke.data import Shuffled, TokenBuckets

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


@pytest.mark.needs("cpu")
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


@pytest.mark.parametrize("balance", [None, "tokens"])
def test_in_an_elastic_gang_the_batches_are_the_same_at_any_time(monkeypatch, balance):
    lengths = np.arange(131) % 7 + 1
    own = TokenBuckets(lengths, tokens=200) if balance else None
    data = Shuffled(np.arange(131), seed=0, batch=None if balance else 64, balance=own)
    monkeypatch.setenv("HOOKE_MOST_RANKS", "4")
    of = {
        ranks: [
            sorted(itertools.chain(*(part.tolist() for part in parts)))
            for parts in zip(*(data.batches(0, rank, ranks) for rank in range(ranks)), strict=True)
        ]
        for ranks in (1, 2, 3, 4)
    }
    assert all(rows == of[4] for rows in of.values())
    assert sorted(itertools.chain(*of[1])) == list(range(131))
    # One rank reads all but the last step, four go on: without the variable, the tail would be lost.
    last = data.steps(1) - 1
    rest = [batch for rank in range(4) for batch in data.batches(0, rank, 4, last)]
    assert sorted(itertools.chain(*(batch.tolist() for batch in rest))) == of[4][-1]


def test_an_elastic_gang_is_refused_batches_that_it_may_not_be_able_to_share(monkeypatch):
    monkeypatch.setenv("HOOKE_MOST_RANKS", "4")
    with pytest.raises(UsageError, match="3 rows cannot be shared by 4 ranks"):
        Shuffled(np.arange(9), seed=0, batch=3).batches(0, 0, 1)


def test_parts_are_equal_where_the_ranks_divide_the_batch():
    data = Shuffled(np.arange(6400), seed=0, batch=64)
    for ranks in (1, 2, 4, 8, 16, 32, 64):
        for rank in range(0, ranks, 3):
            batches = data.batches(0, rank, ranks)
            assert all(len(part) == 64 // ranks and batches.weight == 1 for part in batches)


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("processes")
def test_quality_is_predicted_and_measured():
    labels = np.repeat(np.arange(2000), 500)
    data = Shuffled(np.zeros((1_000_000, 16), np.float32), seed=0, batch=256)
    told = data.quality()
    assert told.predicted <= 1.055 and told.measured == pytest.approx(told.predicted, rel=0.1)
    assert data.quality(labels).measured <= 1.1
    names = np.array([f"class {number:04}" for number in range(2000)])[labels]
    assert data.quality(names) == data.quality(labels), "names are numbered in their order"
    assert str(told).startswith("VIF 1.0") and "perfect shuffle" in str(told)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Shuffled({"a": [1, 2], "b": [1]}, seed=0, batch=1), "different numbers of rows"),
        (lambda: Shuffled({}, seed=0, batch=1), "no columns"),
        (lambda: Shuffled({"a": [1], "b": 5}, seed=0, batch=1), "column 'b' is a single int"),
        (lambda: Shuffled({"a": [3, "x"]}, seed=0, batch=1), "row 0 of column 'a' has 3, which an array"),
        (lambda: Shuffled({"a": [b"x", b"y\0"]}, seed=0, batch=1), "would keep as b'y'"),
        (
            lambda: Shuffled({"a": [[1, 2], [3, "x"]]}, seed=0, batch=1),
            "row 0 of column 'a' has 1, which an array",
        ),
        (
            lambda: Shuffled({"a": (0.5, 2**53 + 1)}, seed=0, batch=1),
            "row 1 of column 'a' has 9007199254740993",
        ),
        (lambda: Shuffled({"a": {1, 2}}, seed=0, batch=1), "column 'a' is a single set"),
        (lambda: Shuffled({"a": [[1], [1, 2]]}, seed=0, batch=1), "column 'a' is no array"),
        (lambda: Shuffled([1, 2], seed=0, batch=1).quality([1.0, np.nan]), "the value of row 1 is nan"),
        (lambda: Shuffled([1, 2], seed=0, batch=1).quality(["a", None]), "row 1 has no label"),
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


def test_a_state_from_before_drop_last_goes_on():
    data = Shuffled(NUMBERS, seed=0, batch=64)
    state = data.state_dict() | {"step": 3}
    del state["drop_last"]
    data.load_state_dict(state)
    assert data.batches().step == 2


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


# --- What the order depends on.


class Longer(str):
    """Text that takes more memory than an equal one, as one does whose UTF-8 was asked for."""

    __slots__ = ()

    def __sizeof__(self):
        return 1000


def tables_alike():
    """Pairs of equal tables that lie in memory in different ways."""
    frame = {"number": NUMBERS, "text": [str(number % 7) * 9 for number in range(N)], "half": NUMBERS / 2}
    pandas, polars, arrow = pd.DataFrame(frame), pl.DataFrame(frame), pa.table(frame)
    looked_up = pd.DataFrame(frame)
    looked_up.loc[3]  # makes a lookup table of the index
    yield pandas, looked_up
    yield pandas, pandas.set_index(pd.Index([f"a long name {number}" for number in range(N)]))
    objects = pandas.astype({"text": object, "number": object})
    yield objects, objects.assign(text=[Longer(text) for text in frame["text"]])
    yield polars, pl.concat([polars[:500], polars[500:]], rechunk=False)
    yield polars, pl.concat([polars, polars])[N:]
    yield polars, polars.with_columns(text=pl.concat([polars["text"], polars["text"]])[:N])
    yield arrow, pa.concat_tables([arrow[:500], arrow[500:]])
    yield arrow, pa.concat_tables([arrow, arrow])[N:]
    valid = pa.array(NUMBERS, mask=np.arange(N) < 0)
    yield arrow, arrow.set_column(0, "number", pa.array([*NUMBERS.tolist(), None])[:N])
    yield arrow, arrow.set_column(0, "number", valid)
    coded = arrow["text"].combine_chunks().dictionary_encode()
    more = pa.DictionaryArray.from_arrays(coded.indices, [*coded.dictionary.to_pylist(), "w" * 100_000])
    yield arrow.set_column(1, "text", coded), arrow.set_column(1, "text", more)


def test_the_order_does_not_depend_on_how_a_table_lies_in_memory():
    """Ranks that made the same table in other ways would have orders of their own."""
    for one, other in tables_alike():
        pair = [Shuffled(table, seed=1, batch=2) for table in (one, other)]
        assert pair[0].layout == pair[1].layout
        assert len({data._source.row_bytes for data in pair}) == 1


@pytest.mark.parametrize("table", ["array", "dict", "pandas", "polars", "arrow"])
def test_the_size_of_a_row_of_numbers_is_that_of_its_types(table, tmp_path):
    data = Shuffled(sources(tmp_path)[table], seed=1, batch=2)
    assert data._source.row_bytes == (8 if table in ("array", "arrow") else 16)


def test_values_without_a_fixed_size_count_for_the_planner_what_their_types_say():
    kinds = [
        (pd.DataFrame({"a": pd.array([1, None], "Int16"), "b": ["x", "yy"]}), 2 + 64),
        (pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": pd.array(["x", "y"], "string")}), 128),
        (pd.DataFrame({"a": pd.arrays.SparseArray([1.0, 0.0])}), 64),
        (pl.DataFrame({"a": [[1], [2, 3]], "b": [True, False], "c": pl.Series([1, 2], dtype=pl.Int128)}), 81),
        (pa.table({"a": [[1], [2, 3]], "b": ["x", "y"], "c": [True, False]}), 128.125),
        (["x" * 1000, "y"], 64),
    ]
    for table, size in kinds:
        assert Shuffled(table, seed=1, batch=2)._source.row_bytes == size
        assert sum(len(batch) for batch in Shuffled(table, seed=1, batch=1).batches()) in (2, 2 * 1)


# --- More ranks than rows are left.


@pytest.mark.parametrize("options", [{"batch": 64}, {"balance": TokenBuckets(np.full(272, 2), 128)}])
def test_more_ranks_than_rows_are_left_begin_the_next_epoch_and_say_so(options, caplog):
    data = Shuffled(np.arange(272), seed=1, **options)
    first = data.batches()
    done = [next(first) for _ in range(4)]
    assert sum(map(len, done)) == 256 and data.state_dict()["step"] == 4
    state = data.state_dict()
    following = next(Shuffled(np.arange(272), seed=1, **options).batches(1, 2, 24)).tolist()
    for rank in (2, 0):
        again = Shuffled(np.arange(272), seed=1, **options)
        again.load_state_dict(state)
        batches = again.batches(rank=rank, ranks=24)
        assert again.state_dict() == state, "nothing was taken yet"
        batch = next(batches)
        assert rank != 2 or batch.tolist() == following
        assert (again.state_dict()["epoch"], again.state_dict()["step"]) == (1, 1)
    (record,) = caplog.records
    assert (
        record.getMessage()
        == "epoch 0 ends without its last 16 rows, which are fewer than the 24 ranks; 16 ranks or fewer can read them"
    )
    caplog.clear()
    few = Shuffled(np.arange(272), seed=1, **options)
    few.load_state_dict(state)
    assert [len(batch) for batch in few.batches(ranks=16)] == [1] and not caplog.records


@pytest.mark.parametrize("step", [4, 5])
def test_a_loop_over_the_epochs_of_the_state_leaves_an_epoch_without_batches(step):
    """Also with a state that was made at the very end of an epoch."""
    data = Shuffled(np.arange(272), seed=1, batch=64)
    ranks = 24 if step == 4 else 16
    data.load_state_dict(data.state_dict() | {"step": step})
    assert list(data.batches(epoch=0, ranks=ranks)) == []
    assert (data.state_dict()["epoch"], data.state_dict()["step"]) == (1, 0)
    data.load_state_dict(data.state_dict() | {"epoch": 0, "step": step})
    assert len(list(data.batches(ranks=ranks))) == data.steps(ranks)
    assert data.state_dict()["epoch"] == 2


# --- What is read.


class Lazy(Sequence):
    """Counts the rows that are read."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        assert isinstance(row, int), "a sequence need not have slices"
        self.read.append(row)
        return row


def test_a_sequence_is_read_batch_by_batch():
    lazy = Lazy(5000)
    batches = Shuffled(lazy, seed=0, batch=8).batches()
    assert lazy.read == [], "rows may be large, or other ones at each access"
    for number in range(1, 4):
        batch = next(batches)
        assert lazy.read[-8:] == batch and len(lazy.read) == 8 * number


def test_columns_that_are_lists_keep_their_values():
    columns = {
        "a": [1, 2.5, np.nan],
        "b": ["x", "", "yy"],
        "c": [None, 3, "z"],
        "d": [np.float32(0.1), 1, 2.0],
    }
    (batch,) = Shuffled(columns, seed=0, batch=3).batches()
    assert sorted(map(str, zip(*batch.values(), strict=True))) == sorted(
        map(str, zip(*(np.asarray(values) for values in columns.values()), strict=True))
    )


def test_a_sequence_without_slices_is_shuffled():
    rows = [row for batch in Shuffled(deque(range(100)), seed=0, batch=8).batches() for row in batch]
    assert sorted(rows) == list(range(100)) != rows


def odd_arrays(tmp_path):
    """Arrays whose rows do not lie one after another, or not where a processor wants them."""
    rows = np.arange(640_000.0).reshape(20_000, 32)
    np.save(tmp_path / "columns.npy", np.asfortranarray(rows))
    records = np.zeros(20_000, [("a", "i1"), ("b", "f8", 32)])
    records["b"] = rows
    wide = np.zeros((20_000, 64))
    wide[:, ::2] = rows
    return {
        "columns": np.load(tmp_path / "columns.npy", mmap_mode="r"),
        "strided": wide[:, ::2],
        "reversed": np.ascontiguousarray(rows[::-1])[::-1],
        "unaligned": records["b"],
        "swapped": rows.astype(">f8"),
    }


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("kind", ["columns", "strided", "reversed", "unaligned", "swapped"])
@pytest.mark.parametrize("in_dict", [False, True])
def test_a_batch_of_any_array_takes_the_memory_of_a_batch(kind, in_dict, tmp_path):
    array = odd_arrays(tmp_path)[kind]
    batches = Shuffled({"a": array} if in_dict else array, seed=0, batch=16).batches()
    next(batches)
    tracemalloc.start()
    try:
        read = [next(batches) for _ in range(100)]  # of several readings
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < array.nbytes / 4, "the whole array was copied"
    for batch in (each["a"] if in_dict else each for each in read):
        assert batch.flags.c_contiguous and np.array_equal(array[(batch[:, 0] // 32).astype(int)], batch)
