"""Packed files: what goes in comes out, in the order of the data in memory, or is refused with the place that is wrong."""

import itertools
import os
import pickle
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hooke import File, HookeError, UsageError
from hooke.data import PackedFile, Shuffled, pack, parquet_files

TIERS = [{"warm": True}, {"warm": False}, {"warm": False, "memory": 1}, {"warm": False, "memory": 100_000}]
"""Mapped; read with all blocks kept, with one, and with some."""


def same(one, other):
    """Equal values of equal types; a NaN equals itself."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def taken(source, rows):
    if isinstance(source, np.ndarray):
        return source[rows]
    if isinstance(source, dict):
        return {name: taken(column, rows) for name, column in source.items()}
    return [source[row] for row in rows]


# --- Random schemas.


def text(chance):
    return "".join(chance.choices("aé漢😀 \n", k=chance.choice([0, 0, 1, 3, 40])))


def blob(chance):
    return chance.randbytes(chance.choice([0, 1, 7, 100, 5000, 70_000 if chance.random() < 0.02 else 3]))


def or_null(make, chance):
    return lambda: None if chance.random() < 0.1 else make(chance)


def random_column(chance, rows):
    """An Arrow column, and how a batch shows it."""
    numbers = np.random.default_rng(chance.randrange(1 << 30))
    kind = chance.choice(
        [
            "number",
            "number",
            "float null",
            "truth",
            "text",
            "bytes",
            "day",
            "time",
            "lists",
            "vectors",
            "words",
        ]
    )
    if kind == "number":
        values = numbers.integers(0, 100, rows).astype(
            chance.choice(["i1", "u2", "i4", "u8", "f2", "f4", "f8"])
        )
        return pa.array(values), values
    if kind == "float null":
        values = numbers.random(rows)
        null = numbers.random(rows) < 0.2
        return pa.array(values, mask=null), np.where(null, np.nan, values)
    if kind == "truth":
        values = numbers.random(rows) < 0.5
        return pa.array(values), values
    if kind in ("text", "bytes"):
        given = [or_null(text if kind == "text" else blob, chance)() for _ in range(rows)]
        wide = chance.random() < 0.5
        types = (pa.large_string(), pa.string()) if kind == "text" else (pa.large_binary(), pa.binary())
        return pa.array(given, types[wide]), given
    if kind == "day":
        values = numbers.integers(0, 20_000, rows).astype("M8[D]")
        return pa.array(values), values
    if kind == "time":
        values = numbers.integers(0, 1 << 50, rows).astype("M8[us]")
        return pa.array(values, pa.timestamp("us", tz=chance.choice([None, "UTC"]))), values
    if kind == "lists":
        given = [
            None if chance.random() < 0.1 else numbers.integers(0, 9, chance.choice([0, 1, 20])).astype("i4")
            for _ in range(rows)
        ]
        return pa.array(
            [None if each is None else each.tolist() for each in given], pa.list_(pa.int32())
        ), given
    if kind == "vectors":
        values = numbers.random((rows, 3)).astype("f4")
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3), values
    given = [or_null(lambda c: c.choice(["red", "green"]), chance)() for _ in range(rows)]
    return pa.array(given, pa.string()).dictionary_encode(), given


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(n, marks=pytest.mark.needs("processes")) for n in range(4, 30))]
)
def test_random_tables_come_back(seed, tmp_path):
    chance = random.Random(seed)
    rows = chance.choice([1, 2, 40, 700, 3000])
    made = {f"c{number}": random_column(chance, rows) for number in range(chance.randint(1, 6))}
    table = pa.table({name: column for name, (column, _) in made.items()})
    expected = {name: shown for name, (_, shown) in made.items()}
    if chance.random() < 0.7:
        cuts = sorted({0, rows, *(chance.randint(0, rows) for _ in range(2))})
        paths = []
        for low, high in itertools.pairwise(cuts):
            paths.append(tmp_path / f"part-{low:05}.parquet")
            pq.write_table(
                table.slice(low, high - low), paths[-1], row_group_size=chance.choice([7, 500, 10**6])
            )
        source = paths if chance.random() < 0.5 else tmp_path
    else:
        source = table
    into = tmp_path / "out.packed"
    seen = []
    assert pack(source, into, progress=lambda done, of: seen.append((done, of))) == into
    assert seen[-1] == (rows, rows) and seen == sorted(seen)
    for tier in TIERS:
        data = PackedFile(into, **tier)
        assert len(data) == rows and data.columns == list(expected)
        for _ in range(5):
            at = np.array(chance.choices(range(rows), k=chance.choice([0, 1, 50, 2000])), np.int64)
            assert same(data.take(at), taken(expected, at))
        assert same(data.take(np.arange(rows)), expected)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(12))
def test_random_values_come_back(seed, tmp_path):
    chance = random.Random(seed)
    values = [(blob if seed % 2 else text)(chance) for _ in range(chance.choice([1, 30, 6000]))]
    given = iter(values) if seed % 3 else values
    for tier in TIERS:
        data = PackedFile(pack(given if seed % 3 == 0 else list(values), tmp_path / "v.packed"), **tier)
        at = np.array(chance.choices(range(len(values)), k=100))
        assert same(data.take(at), [values[row] for row in at])
        assert same(data.take(np.arange(len(values))), values)
    assert same(
        PackedFile(pack((each for each in values), tmp_path / "w.packed")).take(np.arange(len(values))),
        values,
    )


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "array",
    [
        np.arange(5000),
        np.arange(6000, dtype="f4").reshape(1000, 3, 2),
        np.arange(300, dtype=">i2"),
        np.array(["a", "bcd"] * 20),
        np.zeros((3, 400_000), "u1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("tier", TIERS, ids=str)
def test_arrays_come_back(array, tier, tmp_path):
    data = PackedFile(pack(array, tmp_path / "a.packed"), **tier)
    at = np.random.default_rng(0).integers(0, len(array), 200)
    assert same(data.take(at), array[at])


def test_a_structured_array_is_a_table_of_columns(tmp_path):
    array = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])
    assert same(
        PackedFile(pack(array, tmp_path / "a.packed")).take(np.array([1])),
        {"a": np.array([3], "i4"), "b": np.array([4.5])},
    )


@pytest.mark.parametrize("library", ["pandas", "polars", "dict"])
def test_tables_of_libraries_come_back(library, tmp_path):
    columns = {
        "n": np.arange(9000),
        "word": [f"w{n}" for n in range(9000)],
        "maybe": [None, b"", b"x"] * 3000,
    }
    source = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "dict": dict}[library](columns)
    assert same(PackedFile(pack(source, tmp_path / "t.packed"), warm=False).take(np.arange(9000)), columns)


def test_a_folder_of_files_keeps_their_names(tmp_path):
    for name in ("dogs/b.png", "cats/a.png", "cats/z/empty", ".hidden/no", "dogs/.DS_Store"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"" if "empty" in name else name.encode())
    data = PackedFile(pack(tmp_path / "images", tmp_path / "images.packed"))
    assert data.take(np.arange(3)) == {
        "path": ["cats/a.png", "cats/z/empty", "dogs/b.png"],
        "bytes": [b"cats/a.png", b"", b"dogs/b.png"],
    }
    some = [tmp_path / "images/dogs/b.png", tmp_path / "images/cats/a.png"]
    assert PackedFile(pack(some, tmp_path / "some.packed")).take(np.arange(2))["path"] == [
        each.as_posix() for each in some
    ]


# --- The order.


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("memory", [None, 50_000])
def test_the_order_is_that_of_the_data_in_memory_and_on_any_tier(warm, memory, tmp_path):
    array = np.arange(40_000).reshape(-1, 2)
    data = Shuffled(
        PackedFile(pack(array, tmp_path / "a.packed"), warm=warm), seed=3, batch=100, memory=memory
    )
    plain = Shuffled(array, seed=3, batch=100, memory=memory)
    if memory is None:
        assert data.layout == plain.layout
    else:
        assert data.layout.block == 2048  # blocks of 32 KiB, where the data exceed the memory
        plain.load_state_dict(data.state_dict())
    for ranks in (1, 3):
        for rank in range(ranks):
            both = data.batches(1, rank, ranks), plain.batches(1, rank, ranks)
            assert all(same(one, other) for one, other in zip(*both, strict=True))
    assert data.state_dict() == plain.state_dict()


def test_a_layout_does_not_depend_on_the_machine(tmp_path):
    """Ranks may be on several: one that maps the file and one that reads it must share an order."""
    path = pack([os.urandom(5000) for _ in range(2000)], tmp_path / "b.packed")
    layouts = [
        Shuffled(PackedFile(path, warm=warm), seed=0, batch=8, memory=1 << 20).layout
        for warm in (True, False, None)
    ]
    layouts.append(Shuffled(path, seed=0, batch=8, memory=1 << 20).layout)
    assert len(set(layouts)) == 1 and layouts[0].block == 4


@pytest.mark.parametrize("warm", [True, False])
def test_blobs_and_tables_are_shuffled_in_batches_of_lists_and_dicts(warm, tmp_path):
    values = [b"%d" % number for number in range(1003)]
    batches = list(
        Shuffled(PackedFile(pack(values, tmp_path / "v.packed"), warm=warm), seed=0, batch=10).batches()
    )
    assert all(isinstance(batch, list) for batch in batches) and [len(batch) for batch in batches] == [
        10
    ] * 100 + [3]
    read = list(itertools.chain.from_iterable(batches))
    assert sorted(read) == sorted(values) != read
    table = {"n": np.arange(1003), "text": [str(number) for number in range(1003)]}
    for batch in Shuffled(
        PackedFile(pack(table, tmp_path / "t.packed"), warm=warm), seed=0, batch=10
    ).batches():
        assert batch["text"] == [str(number) for number in batch["n"]]
        batch["n"] += 1  # a user's own, not a view of the file


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("batch", [4, 256])
def test_a_cold_epoch_reads_each_block_once(batch, tmp_path):
    """A window's blocks fit into the memory that it was planned for, also where it allows no larger window."""
    data = PackedFile(pack(np.zeros((100_000, 8)), tmp_path / "a.packed"), warm=False, memory=3 << 20)
    reads = []
    fill = data._records._file.fill
    data._records._file.fill = lambda at, into: (reads.append(at), fill(at, into))[1]
    for _ in Shuffled(data, seed=0, batch=batch, memory=3 << 20).batches():
        pass
    assert len(reads) == len(set(reads)) == data._blocks[0].count == 196


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("batch", [4, 256])
def test_a_cold_epoch_reads_each_value_once(batch, tmp_path):
    chance = random.Random(0)
    values = [bytes(chance.randint(4500, 5500)) for _ in range(5000)]
    data = PackedFile(pack(values, tmp_path / "v.packed"), warm=False, memory=4 << 20)
    reads = []
    fill = data._heap._file.fill
    data._heap._file.fill = lambda at, into: (reads.append(at), fill(at, into))[1]
    for _ in Shuffled(data, seed=0, batch=batch, memory=4 << 20).batches():
        pass
    heap = [at for at in reads if at < data.index.records_at]
    assert len(heap) == len(set(heap)) == data._blocks[1].count == 1250
    assert len(reads) - len(heap) == data._blocks[0].count == 20


def test_a_packed_file_is_opened_again_where_it_is_unpickled(tmp_path):
    path = pack([b"a", b"bc"], tmp_path / "v.packed")
    again = pickle.loads(pickle.dumps(PackedFile(path, warm=False)))
    assert again.take(np.array([1])) == [b"bc"] and not again.warm
    assert repr(again) == f"PackedFile({str(path)!r}, 2 rows, values)"


def written(path, values):
    """A file of `values` under the name of `path`, which says of what kind."""
    if path.suffix == ".parquet":
        return parquet(path, n=values)
    if path.suffix == ".npy":
        np.save(path, values)
        return path
    return pack(values, path)


@pytest.mark.parametrize("name", ["a.packed", "a.npy", "a.parquet", "opened"])
def test_what_is_unpickled_reads_the_same_file_or_none(name, tmp_path, monkeypatch):
    """Also from another folder than the one that the path was relative to when it was opened."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / ("a.packed" if name == "opened" else name), np.arange(1000))
    source = PackedFile(path.name) if name == "opened" else path.name
    data = Shuffled(source, seed=0, batch=10)
    monkeypatch.chdir(tmp_path / "other")
    state = pickle.dumps(data)
    again = pickle.loads(pickle.dumps(pickle.loads(state)))
    assert str(next(again.batches())) == str(next(data.batches()))
    os.utime(path, (1, 1) if path.suffix == ".packed" else None)
    if path.suffix == ".packed":
        pickle.loads(state)  # written again as it was
    for values in (np.arange(1, 1001), np.arange(999)):
        written(path, values)
        with pytest.raises(UsageError, match=rf"{path.name} is another file than"):
            pickle.loads(state)
    path.unlink()
    with pytest.raises(UsageError, match=path.name):
        pickle.loads(state)


@pytest.mark.needs("processes")
def test_processes_that_were_forked_do_not_share_the_memory_they_read_into(tmp_path):
    """Each has blocks at the same places of its memory. The rows of the first are still its own when the second has read others."""
    script = """
import os, sys
import numpy as np
from hooke.data import PackedFile, Shuffled, pack
path = pack([b"%06d" % number * 100 for number in range(3000)], sys.argv[1])
data = PackedFile(path, warm=False, memory=200_000)
one, other = np.arange(200), np.arange(2000, 2800)
before = data.take(one)
assert not (child := os.fork()) or os.waitpid(child, 0)[1] == 0
if not child:
    os._exit(data.take(other)[0] != b"002000" * 100)
assert data.take(one) == before

shuffled = Shuffled(PackedFile(path, warm=False, memory=200_000), seed=0, batch=10, memory=200_000)
mine, theirs = os.pipe()
child = os.fork()
read = [each for batch in shuffled.batches(0, start=int(not child), every=2) for each in batch]
if not child:
    os.write(theirs, b"".join(each[:6] for each in read))
    os._exit(0)
found = b"".join(each[:6] for each in read)
assert os.waitpid(child, 0)[1] == 0
found += os.read(mine, 100_000)
assert sorted(found[at:at + 6] for at in range(0, len(found), 6)) == [b"%06d" % number for number in range(3000)]
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "v.packed")], timeout=60, check=True)


# --- Damage.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    chance = random.Random(1)
    table = {
        "n": np.arange(3000),
        "text": [text(chance) for _ in range(3000)],
        "blob": [blob(chance) for _ in range(3000)],
    }
    sources = {"table": table, "array": np.arange(30_000), "values": [blob(chance) for _ in range(200)]}
    return {name: (source, pack(source, folder / name).read_bytes()) for name, source in sources.items()}


def shown(source, rows):
    return taken(
        {name: column for name, column in source.items()} if isinstance(source, dict) else source, rows
    )


@pytest.mark.needs("processes")
@pytest.mark.parametrize("tier", [{"warm": True}, {"warm": False, "memory": 60_000}], ids=str)
@pytest.mark.parametrize("kind", ["table", "array", "values"])
def test_a_damaged_byte_is_never_returned(kind, tier, whole, tmp_path):
    """Wherever it is; and it is named, unless nothing of its block is asked for."""
    source, data = whole[kind]
    rows = np.arange(len(source["n"] if kind == "table" else source))
    expected, refused = shown(source, rows), 0
    places = [
        0,
        15,
        40,
        len(data) - 1,
        len(data) - 20,
        len(data) - 40,
        *random.Random(2).sample(range(len(data)), 60),
    ]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path = tmp_path / "d.packed"
        path.write_bytes(damaged)
        with pytest.raises(HookeError, match="is damaged") as caught:
            PackedFile(path, **tier).take(rows)
        assert str(path) in str(caught.value)
        refused += "block " in caught.value.where
    assert refused > 30
    path.write_bytes(data)
    assert same(PackedFile(path, **tier).take(rows), expected)


@pytest.mark.parametrize("tier", [{"warm": True}, {"warm": False}], ids=str)
def test_what_is_not_damaged_can_be_read(tier, whole, tmp_path):
    source, data = whole["array"]
    path = tmp_path / "d.packed"
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    packed = PackedFile(path, **tier)
    assert same(packed.take(np.arange(4096, 30_000)), source[4096:])
    with pytest.raises(
        HookeError, match=r"block 0 of 8 of the records: 32(\.0)? KiB from byte 64, rows 0 and"
    ):
        packed.take(np.array([5000, 4095]))


@pytest.mark.parametrize("kind", ["table", "array", "values"])
def test_a_file_that_was_cut_off_is_refused(kind, whole, tmp_path):
    _, data = whole[kind]
    path = tmp_path / "d.packed"
    for size in [0, 1, 15, 16, 63, 64, 104, len(data) - 1, *random.Random(3).sample(range(len(data)), 20)]:
        path.write_bytes(data[:size])
        with pytest.raises(HookeError, match="is damaged"):
            PackedFile(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(HookeError, match="is damaged"):
        Shuffled(path, seed=0, batch=1)


def test_a_file_that_shrinks_while_it_is_read_is_refused(whole, tmp_path):
    path = tmp_path / "d.packed"
    path.write_bytes(whole["array"][1])
    data = PackedFile(path, warm=False)
    os.truncate(path, 100_000)
    with pytest.raises(HookeError, match="1632 of 32768 bytes are there"):
        data.take(np.arange(30_000))


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("values", ["numbers", "blobs in blocks", "blobs alone"])
@pytest.mark.parametrize("change", ["cut off", "written"])
def test_a_file_that_changes_after_an_epoch_is_refused(values, change, tmp_path):
    """A block that is read again is compared again."""
    made = {
        "numbers": np.arange(20_000),
        "blobs in blocks": [b"%06d" % number * 100 for number in range(2000)],
        "blobs alone": [b"%06d" % number * 8000 for number in range(20)],
    }
    path = pack(made[values], tmp_path / "d.packed")
    data = PackedFile(path, warm=False, memory=50_000)
    shuffled = Shuffled(data, seed=0, batch=100, memory=50_000)
    assert sum(len(batch) for batch in shuffled.batches(0)) == len(data)
    place = min(data.index.heap_at, data.index.records_at) + 100_000
    if change == "cut off":
        os.truncate(path, place)
    else:
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"\xff")
    with pytest.raises(HookeError, match=r"d\.packed is damaged"):
        for _ in shuffled.batches(1):
            pass


def test_text_that_is_not_utf_8_is_named(tmp_path, monkeypatch):
    """In a file that was packed before this was looked at."""
    monkeypatch.setattr(parquet_files, "_check_text", lambda *_: None)
    bad = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    path = pack(pa.table({"name": bad}), tmp_path / "a.packed")
    with pytest.raises(HookeError, match=r"column 'name' of .*a\.packed has text that is not UTF-8"):
        PackedFile(path).take([0, 1])


def test_a_file_of_a_later_version_is_not_guessed_at(whole, tmp_path):
    path = tmp_path / "d.packed"
    path.write_bytes(b"hooke packed 2\n\0" + whole["array"][1][16:])
    with pytest.raises(HookeError, match="not those of this format version 1"):
        Shuffled(path, seed=0, batch=1)


def test_rows_out_of_range_are_refused(tmp_path):
    data = PackedFile(pack(np.arange(10), tmp_path / "a.packed"))
    for row in (-1, 10):
        with pytest.raises(IndexError):
            data.take(np.array([3, row]))
    with pytest.raises(IndexError):
        data.take(np.array([1 << 63], np.uint64))


def test_rows_are_numbers(tmp_path):
    data = PackedFile(pack(np.arange(10) * 2, tmp_path / "a.packed"))
    assert data.take([3, 1]).tolist() == data.take((3, 1)).tolist() == [6, 2]
    assert data.take(np.array([3, 1], np.uint8)).tolist() == [6, 2] and data.take([]).size == 0
    for rows, said in [
        ([True, False], "flatnonzero"),
        ([1.0], "float64"),
        (3, "one dimension"),
        ([[1]], "shape"),
    ]:
        with pytest.raises(UsageError, match=said):
            data.take(rows)


# --- What is wrong is said.


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_a_file_with_other_columns_is_named_with_both_types(tmp_path):
    first = parquet(tmp_path / "a.parquet", x=[1], y=[2])
    for columns, said in [
        ({"x": [1.5], "y": [2]}, ["column 'x' is double in", "b.parquet", "and int64 in", "a.parquet"]),
        ({"x": [1]}, ["b.parquet has other columns than", "it lacks y"]),
        ({"x": [1], "y": [2], "z": [3]}, ["only it has z"]),
        ({"y": [1], "x": [2]}, ["another order"]),
        ({"x": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}, ["b.parquet has no rows"]),
    ]:
        other = parquet(tmp_path / "b.parquet", **columns)
        with pytest.raises(UsageError) as caught:
            pack([first, other], tmp_path / "out.packed")
        assert all(each in str(caught.value) for each in said), caught.value
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: parquet(at / "a.parquet", n=pa.array([1, None])), ["column 'n' has 1 nulls, and int64", "a.parquet, row group 0", "NaN"]),
        (lambda at: parquet(at / "a.parquet", n=[[1, None]]), ["column 'n' has 1 nulls"]),
        (lambda at: parquet(at / "a.parquet", n=[{"a": 1}]), ["column 'n' of", "a.parquet is struct<a: int64>", "lists of numbers"]),
        (lambda at: parquet(at / "a.parquet", n=[["a"]]), ["column 'n' of", "is list<"]),
        (lambda at: parquet(at / "a.parquet", n=pa.array([], pa.int64())), ["a.parquet has no rows"]),
        (lambda at: (at / "a.parquet").write_bytes(b"PAR1 no PAR1") and at / "a.parquet", ["a.parquet cannot be read as Parquet"]),
        (lambda at: at / "none.parquet", ["no file", "none.parquet"]),
        (lambda at: [at / "none.parquet"], ["no file", "none.parquet"]),
        (lambda at: at, ["has no files"]),
        (lambda at: [], ["no values to pack"]),
        (lambda at: iter([]), ["no values to pack"]),
        (lambda at: {}, ["no columns"]),
        (lambda at: {"a": [1], "b": [1, 2]}, ["different numbers of rows", "a: 1, b: 2"]),
        (lambda at: {"a": [[1], [1, 2]]}, ["column 'a' is no array"]),
        (lambda at: {"a": [1, None]}, ["column 'a' has the type object"]),
        (lambda at: {"a": ["x", b"y"]}, ["value 1 of column 'a' is a bytes, and the first is text"]),
        (lambda at: [b"x", "y"], ["value 1 is a str, and the first is bytes"]),
        (lambda at: [b"x", None], ["value 1 is a NoneType"]),
        (lambda at: ["x", "\udc80"], ["value 1 is text that has no UTF-8"]),
        (lambda at: np.ma.array([1, 2], mask=[0, 1]), ["the array is masked", ".filled("]),
        (lambda at: {"a": np.ma.array([1, 2], mask=[0, 1])}, ["column 'a' is masked"]),
        (lambda at: {"a": [np.ma.array([1, 2], mask=[0, 1])]}, ["column 'a' is masked"]),
        (lambda at: [1, 2], ["cannot pack a int"]),
        (lambda at: 7, ["cannot pack a int"]),
        (lambda at: b"abc", ["cannot pack a bytes"]),
        (lambda at: np.array(3), ["cannot pack an array of shape ()"]),
        (lambda at: np.zeros((3, 0)), ["cannot pack an array of shape (3, 0)"]),
        (lambda at: np.array([{}, {}]), ["the array has the type object"]),
        (lambda at: np.zeros(0), ["no rows to pack"]),
        (lambda at: pd.DataFrame({"a": [1, "x"]}), ["column 'a' of the table has the type object", "astype(str)"]),
        (lambda at: pa.table([[1], [2]], names=["a", "a"]), ["several columns 'a'"]),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_said(make, said, tmp_path):
    source = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        pack(source, tmp_path / "out.packed")
    assert all(each in str(caught.value) for each in said), caught.value
    assert sorted(tmp_path.iterdir()) == before


def test_folders_of_several_kinds_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data/a.parquet", n=[1])
    (tmp_path / "data/_SUCCESS").touch()
    assert len(PackedFile(pack(tmp_path / "data", tmp_path / "out.packed"))) == 1
    (tmp_path / "data/b.csv").touch()
    with pytest.raises(UsageError, match=r"b\.csv is not a Parquet file, but .*a\.parquet beside it is"):
        pack(tmp_path / "data", tmp_path / "out.packed")
    (tmp_path / "parts/year=2013").mkdir(parents=True)
    parquet(tmp_path / "parts/year=2013/a.parquet", n=[1])
    with pytest.raises(UsageError, match="year=2013"):
        pack(tmp_path / "parts", tmp_path / "out.packed")


def test_what_is_there_already_is_kept_unless_it_is_packed(tmp_path):
    into = tmp_path / "data"
    into.write_text("mine")
    with pytest.raises(UsageError, match="is there already, and is not a packed file"):
        pack([b"a"], into)
    assert into.read_text() == "mine"
    into.unlink()
    pack([b"a"], into)
    pack([b"b", b"c"], into)
    assert PackedFile(into).take(np.arange(2)) == [b"b", b"c"]
    with pytest.raises(UsageError, match="value 1 is a str"):
        pack([b"a", "b"], into)
    assert PackedFile(into).take(np.arange(2)) == [b"b", b"c"] and list(tmp_path.iterdir()) == [into]
    with pytest.raises(UsageError, match="is a folder"):
        pack([b"a"], tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        pack([b"a"], tmp_path / "no/data")


def test_a_damaged_row_group_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"n": np.random.default_rng(0).random(4000)}),
        path,
        row_group_size=1000,
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        pack(path, tmp_path / "out.packed")
    assert "row group 2" in caught.value.where and list(tmp_path.iterdir()) == [path]


@pytest.mark.needs("cpu")
def test_paths_say_how_to_be_read(tmp_path):
    small = parquet(tmp_path / "a.parquet", n=list(range(100)))
    batch = next(Shuffled(small, seed=0, batch=10).batches())
    assert isinstance(batch, pa.Table) and batch.num_rows == 10
    large = parquet(tmp_path / "b.parquet", n=np.random.default_rng(0).random(100_000))
    with pytest.raises(UsageError, match=r'hooke\.data\.pack\(".*b\.parquet", ".*b\.packed"\)'):
        Shuffled(large, seed=0, batch=10, memory=100_000)
    # Its one text is in the file once.
    same_text = parquet(tmp_path / "d.parquet", text=["x" * 1000] * 5000)
    assert same_text.stat().st_size < 50_000
    with pytest.raises(UsageError, match=r"takes 4.79 MiB in memory or more, and `memory` is 1.00 MiB"):
        Shuffled(same_text, seed=0, batch=10, memory=1 << 20)
    with pytest.raises(UsageError, match=r"is a folder(.|\n)*hooke\.data\.pack\("):
        Shuffled(tmp_path, seed=0, batch=10)
    (tmp_path / "c.csv").write_text("a\n1\n")
    packed = pack(small, tmp_path / "a.packed")
    assert (
        len(Shuffled(File(packed), seed=0, batch=10)) == len(Shuffled(str(packed), seed=0, batch=10)) == 100
    )
    with pytest.raises(UsageError, match="cannot open none.packed"):
        PackedFile("none.packed")
    with pytest.raises(UsageError, match="c.csv is not a .npy file, a Parquet file or a packed one"):
        Shuffled(tmp_path / "c.csv", seed=0, batch=10)


@pytest.mark.parametrize(
    "wrap", [lambda each: each, lambda each: {"a": each}, lambda each: {"a": [each, each]}], ids="atl"
)
def test_masked_arrays_are_not_shuffled_without_their_mask(wrap):
    with pytest.raises(UsageError, match=r"masked(.|\n)*\.filled\("):
        Shuffled(wrap(np.ma.array([1, 2, 3], mask=[0, 1, 0])), seed=0, batch=1)


# --- Whole or not at all.


PACKS = """
import sys
from pathlib import Path
from hooke.data import pack
def values():
    for number in range(int(sys.argv[2])):
        if number == 2000:
            print("under way", flush=True)
        yield bytes([number % 256]) * 10_000
pack(values(), sys.argv[1])
"""


def packer(into, count):
    return subprocess.Popen([sys.executable, "-c", PACKS, str(into), str(count)], stdout=subprocess.PIPE)


@pytest.mark.needs("cpu")
def test_a_killed_process_leaves_nothing_that_counts(tmp_path):
    into = tmp_path / "v.packed"
    process = packer(into, 10**9)
    assert process.stdout.readline() == b"under way\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not into.exists() and len(list(tmp_path.iterdir())) == 1  # under a hidden name
    pack([b"a"], into)
    assert list(tmp_path.iterdir()) == [into]


@pytest.mark.needs("processes")
def test_two_processes_at_a_time_leave_the_whole_file_of_one(tmp_path):
    into = tmp_path / "v.packed"
    both = [packer(into, 5000), packer(into, 5001)]
    for process in both:
        assert process.wait(120) == 0
        process.stdout.close()
    assert list(tmp_path.iterdir()) == [into]
    data = PackedFile(into)
    assert len(data) in (5000, 5001)
    assert data.take(np.array([4999]))[0] == bytes([4999 % 256]) * 10_000


@pytest.mark.parametrize("source", ["values", "table"])
def test_a_full_disk_leaves_nothing(source, small_disk):
    made = {
        "values": (bytes(10_000) for _ in range(100)),
        "table": {"n": np.arange(100_000), "text": ["x"] * 100_000},
    }
    with pytest.raises(HookeError) as caught:
        pack(made[source], small_disk / "v.packed")
    assert "v.packed cannot be written" in str(caught.value) and "free some space" in str(caught.value)
    assert not list(small_disk.iterdir())
    assert pack([b"a"], small_disk / "v.packed").exists()


@pytest.mark.long
@pytest.mark.needs("processes")
def test_memory_stays_bounded(tmp_path):
    """Row groups of 100 MB and 300 MB of values, in a process that uses less than 150 MB for them."""
    rows = 250_000
    table = pa.table({"n": np.random.default_rng(0).random(rows), "text": pa.array(["x" * 400] * rows)})
    with pq.ParquetWriter(
        tmp_path / "a.parquet", table.schema, compression="none", use_dictionary=False
    ) as writer:
        for _ in range(2):
            writer.write_table(table, row_group_size=rows)
    script = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from hooke.data import pack
folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pack(folder / "a.parquet", folder / "a.packed")
pack((bytes(100_000) for _ in range(3000)), folder / "v.packed")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert (tmp_path / "a.packed").stat().st_size > 200e6
    assert int(done.stdout) < 150_000, done.stdout  # KiB


@pytest.mark.needs("cpu")
def test_nothing_heavy_is_imported():
    script = (
        "import sys, hooke.data; print(sorted({'pyarrow', 'pandas', 'polars', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


# --- How the rows of a file are drawn.


def sorted_table(rows, *, text=4, wide=0):
    """Rows whose labels are sorted, with a short text and a wide column of numbers."""
    columns = {"i": np.arange(rows), "t": pa.array(["a" * text]).take(np.zeros(rows, np.int64))}
    if wide:
        columns["wide"] = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * wide, np.uint8)), wide)
    return pa.table(columns)


def variance_factor(data, rows):
    """The variance of batches' means over that of a perfect shuffle, of labels that change each 1,024 rows, as they are read."""
    signs = np.random.default_rng(3).choice([-1.0, 1.0], (rows // 1024 + 1, 64))
    means = np.array([signs[batch["i"] // 1024].mean(axis=0) for batch in data.batches(0)])
    return float(means.var(axis=0).mean() * data.batch)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("rows", "text", "wide", "batch"), [(600_000, 4, 0, 16), (40_000, 3, 1000, 16)])
def test_a_file_with_a_short_text_column_is_shuffled_as_well_as_its_numbers(
    rows, text, wide, batch, tmp_path, caplog
):
    path = pack(sorted_table(rows, text=text, wide=wide), tmp_path / "rows.packed")
    memory = 14 << 20
    assert path.stat().st_size > memory
    data = Shuffled(path, seed=1, batch=batch, memory=memory)
    assert not caplog.records
    assert data.quality().predicted <= 1.05
    assert variance_factor(data, rows) <= 1.1


@pytest.mark.needs("cpu")
def test_memory_that_is_too_small_for_a_good_shuffle_is_warned_of(tmp_path, caplog, monkeypatch):
    path = pack(sorted_table(300_000), tmp_path / "rows.packed")
    data = Shuffled(path, seed=1, batch=64, memory=1 << 20)
    quality = data.quality()
    assert quality.predicted == pytest.approx(quality.measured, rel=0.4)  # of 13 windows
    [record] = caplog.records
    assert f"{quality.predicted:.2f} times" in record.message
    enough = int(re.search(r"pass memory=(\d+)", record.message)[1])
    caplog.clear()
    assert Shuffled(path, seed=1, batch=64, memory=enough).quality().predicted <= 1.05
    assert not caplog.records
    monkeypatch.setenv("RANK", "1")
    Shuffled(path, seed=1, batch=64, memory=1 << 20)
    assert not caplog.records
