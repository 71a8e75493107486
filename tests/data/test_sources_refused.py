"""Files and tables that cannot be packed as they are: nothing of them is left out or changed without a word, and memory is bounded."""

import datetime
import errno
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hooke import HookeError, UsageError
from hooke.data import PackedFile, Shuffled, pack, packing, parquet_files, scan


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def everything(path):
    data = PackedFile(path)
    return data.take(np.arange(len(data)))


# --- Values stay what they are.


@pytest.mark.parametrize(
    "values",
    [
        [3, "x"],
        [[1, 2], [3, "x"]],
        [(1 << 53) + 1, 0.5],
        [[(1 << 53) + 1, 0.5]],
        [1, b"x"],
        [np.datetime64("2024-01-01"), 3],
        pd.Series([1, "x"], dtype=object),
    ],
    ids=str,
)
def test_values_that_an_array_would_change_are_refused(values, tmp_path):
    with pytest.raises(UsageError, match="column 'a'"):
        pack({"a": values}, tmp_path / "a.packed")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([True, 2], [1, 2]),
        ([1 << 63, -1], [2.0**63, -1.0]),
        ([1, float("inf"), 1e300], [1.0, float("inf"), 1e300]),
        ([True, False], [True, False]),
        ([[1, 2], (3, 4)], [[1, 2], [3, 4]]),
        ([np.arange(2), [3, 4]], [[0, 1], [3, 4]]),
        ([np.float32(1), 2], [1.0, 2.0]),
        ([1 << 63], [1 << 63]),
        ([["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]]),
        (range(3), [0, 1, 2]),
        (np.array(["a", "b"], np.dtypes.StringDType()), ["a", "b"]),
    ],
    ids=str,
)
def test_values_of_one_type_are_packed(values, found, tmp_path):
    kept = everything(pack({"a": values}, tmp_path / "a.packed"))["a"]
    assert (kept if isinstance(kept, list) else kept.tolist()) == found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"a": 5}, "column 'a' is a int"),
        ({"a": "text"}, "column 'a' is a str"),
        ({"a": {1, 2}}, "column 'a' is a set"),
        ({"a": np.array(3)}, "column 'a' is a ndarray"),
        ({"a": np.zeros((5, 0))}, r"column 'a' of shape \(5, 0\)"),
        ({"a": [[], []]}, r"column 'a' of shape \(2, 0\)"),
        ({"a": np.zeros(3, "V4")}, "no bytes of its own"),
        (np.array(["a"], np.dtypes.StringDType()), "no bytes of its own"),
        ({1: [1, 2]}, "the column 1 has a name that is a int"),
        ({"\udc80": [1, 2]}, "the name of a column is text that has no UTF-8"),
        (np.zeros(2, [("\udc80", "i4")]), "the name of a column is text that has no UTF-8"),
    ],
    ids=ascii,
)
def test_columns_are_named_values_of_a_size(source, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        pack(source, tmp_path / "a.packed")
    assert not list(tmp_path.iterdir())


# --- Tables of pandas.


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 6], name="id")), "index of the table, id, is no column"),
        (pd.DataFrame({"a": [1, 2]}, index=["x", "y"]), r"reset_index\(\)"),
        (pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)])), r"reset_index\(\)"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns 'a'"),
        (pd.DataFrame({"b": [1, 1], "a": pd.arrays.SparseArray([0, 1])}), "column 'a' of the table has the type Sparse"),
        (pd.DataFrame({"a": [1 << 70, 1]}), "column 'a' of the table has the type object"),
        (pd.DataFrame({"a": [1j, 2]}), "column 'a' of the table has the type complex128"),
    ],
    ids=range(7),
)  # fmt: skip
def test_what_arrow_cannot_take_of_a_table_is_named(table, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        pack(table, tmp_path / "a.packed")


def test_rows_of_a_table_that_were_chosen_are_packed(tmp_path):
    """Their index is only where they were."""
    table = pd.DataFrame({"a": [1, 2, 3]})
    assert everything(pack(table[table.a > 1], tmp_path / "a.packed"))["a"].tolist() == [2, 3]


def test_times_of_a_day_are_told_from_what_can_be_packed(tmp_path):
    with pytest.raises(UsageError, match="numbers, truth values, dates, timestamps and durations"):
        pack(pa.table({"a": [datetime.time(1, 2)]}), tmp_path / "a.packed")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), "shared"], ids=str)
def test_text_that_is_not_utf_8_is_not_packed(kind, tmp_path):
    plain = pa.array([b"good", b"\xff\xfe"] * 5).view(pa.string())
    column = plain.dictionary_encode() if kind == "shared" else plain.cast(kind)
    parquet(tmp_path / "a.parquet", n=[1] * 10, name=plain)
    for source in (tmp_path / "a.parquet", pa.table({"name": column})):
        with pytest.raises(UsageError, match=r"column 'name' has text that is not UTF-8") as caught:
            pack(source, tmp_path / "a.packed")
    assert os.listdir(tmp_path) == ["a.parquet"]
    with pytest.raises(UsageError) as caught:
        pack(tmp_path / "a.parquet", tmp_path / "a.packed")
    assert caught.value.where.endswith("a.parquet, row group 0")


# --- Folders.


def test_links_to_folders_are_followed(tmp_path):
    """Twice to the same folder, too, but not in a circle."""
    for name in ("data/1", "elsewhere/2", "elsewhere/deep/3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for link in ("one", "other"):
        (tmp_path / "data" / link).symlink_to(tmp_path / "elsewhere")
    into = tmp_path / "a.packed"
    assert everything(pack(tmp_path / "data", into))["path"] == [
        "1",
        "one/2",
        "one/deep/3",
        "other/2",
        "other/deep/3",
    ]
    assert len(scan(tmp_path / "data")) == 5
    (tmp_path / "elsewhere/deep/back").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="deep/back is a link to a folder that it is in"):
        pack(tmp_path / "data", into)
    (tmp_path / "elsewhere/deep/back").unlink()
    (tmp_path / "elsewhere/gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match="one/gone is a link to nothing"):
        pack(tmp_path / "data", into)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "data/locked").mkdir(parents=True)
    (tmp_path / "data/a").write_bytes(b"a")
    plain = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match="cannot read the folder .*locked"):
        pack(tmp_path / "data", tmp_path / "a.packed")


@pytest.mark.parametrize("through", ["data", "link"])
def test_a_packed_file_in_its_folder_is_none_of_its_rows(through, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for name in ("a", "b"):
        (tmp_path / "data" / name).write_bytes(name.encode())
    into = tmp_path / through / "all.packed"
    for _ in range(2):
        assert everything(pack(tmp_path / "data", into))["path"] == ["a", "b"]


def test_the_log_of_a_delta_table_is_none_of_its_rows(tmp_path):
    table = tmp_path / "table"
    (table / "_delta_log").mkdir(parents=True)
    (table / "_delta_log/0000.json").write_text("{}\n")
    parquet(table / "_delta_log/0010.checkpoint.parquet", txn=[1])
    parquet(table / "part-0.parquet", n=[1, 2])
    assert [each.file.path.name for each in scan(table)] == ["part-0.parquet"]
    assert everything(pack(table, tmp_path / "a.packed"))["n"].tolist() == [1, 2]


def test_files_are_known_as_parquet_by_what_they_begin_with(tmp_path):
    (tmp_path / "data").mkdir()
    path = parquet(tmp_path / "data/part-0", n=[1, 2])
    named = parquet(tmp_path / "data/part-1.parquet", n=[3])
    for source, rows in [
        (tmp_path / "data", [1, 2, 3]),
        (path, [1, 2]),
        ([str(path)], [1, 2]),
        ([named, path], [3, 1, 2]),
    ]:
        assert everything(pack(source, tmp_path / "a.packed"))["n"].tolist() == rows
    assert len(scan(tmp_path / "data")) == 2
    assert Shuffled(path, seed=0, batch=1).kind == "pyarrow.Table"


def test_names_of_files_are_not_packed_as_text(tmp_path):
    names = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for name in names:
        with open(name, "wb") as stream:
            stream.write(b"image")
    with pytest.raises(UsageError, match=r"2 names of files(.|\n)*Path\(name\)(.|\n)*iter\(names\)"):
        pack(names, tmp_path / "a.packed")
    assert everything(pack(iter(names), tmp_path / "a.packed")) == names
    assert everything(pack([*names, "other"], tmp_path / "a.packed")) == [*names, "other"]


def test_folders_in_a_list_and_wide_text_are_not_scanned(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UsageError, match="img is a folder in a list"):
        scan([tmp_path / "img", tmp_path / "a.txt"])
    for encoding in ("utf-16", "utf-16-be", "utf-32", "utf-32-be"):
        (tmp_path / "wide.txt").write_text("\ufeff" * encoding.endswith("be") + "a\nb\n", encoding)
        with pytest.raises(UsageError, match=r"wide.txt is text in UTF-16 or UTF-32"):
            scan(tmp_path / "wide.txt")
    (tmp_path / "marked.txt").write_text("a\nb\n", "utf-8-sig")
    assert len(scan(tmp_path / "marked.txt", size=1)) == 2


# --- Errors that are not those of the file that is written.


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "the network is gone"), ConnectionResetError(), KeyError("x")]
)
@pytest.mark.parametrize("of", ["source", "progress"])
def test_an_error_of_the_source_remains_itself(error, of, tmp_path):
    def values():
        yield b"a" * 5_000_000
        if of == "source":
            raise error

    def progress(*_):
        if of == "progress":
            raise error

    with pytest.raises(type(error)) as caught:
        pack(values(), tmp_path / "a.packed", progress=progress)
    assert caught.value is error and not list(tmp_path.iterdir())


def test_an_error_of_the_disk_at_the_end_is_named(tmp_path, monkeypatch):
    """When the file gets its name, too."""

    def replace(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(HookeError, match="a.packed cannot be written"):
        pack([b"a"], tmp_path / "a.packed")
    assert not list(tmp_path.iterdir())


MANY = """
import os, resource, sys
from pathlib import Path
import pyarrow.parquet
from hooke import UsageError
from hooke.data import pack
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
assert pack(folder / "parts", folder / "a.packed").exists()
kept = []
try:
    while True:
        kept.append(os.open(folder, os.O_RDONLY))
except OSError:
    os.close(kept.pop())
try:
    pyarrow.parquet.ParquetFile  # a folder takes the last descriptor while it is listed
    kept.append(os.open(folder, os.O_RDONLY))
    pack([folder / "parts/0.parquet", folder / "parts/1.parquet"], folder / "b.packed")
except UsageError as error:
    print(error)
"""


@pytest.mark.needs("cpu")
def test_more_parts_than_descriptors_are_packed(tmp_path):
    (tmp_path / "parts").mkdir()
    for number in range(100):
        parquet(tmp_path / f"parts/{number}.parquet", n=[number])
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "0.parquet cannot be opened: too many files are open" in done.stdout
    assert len(PackedFile(tmp_path / "a.packed")) == 100


def test_a_file_that_is_written_while_it_is_packed_is_refused(tmp_path):
    files = [parquet(tmp_path / f"{number}.parquet", n=list(range(10))) for number in range(2)]

    def progress(*_):
        parquet(files[1], n=list(range(11)))

    with pytest.raises(UsageError, match=r"1.parquet was written while it was being packed"):
        pack(files, tmp_path / "a.packed", progress=progress)


# --- Memory.


def largest_block(path):
    return int(np.diff(PackedFile(path)._blocks[1].places).max())


@pytest.mark.needs("cpu")
def test_the_first_values_do_not_decide_alone_what_a_block_is(tmp_path):
    values = [b""] * 4096 + [bytes([number % 256]) * 100_000 for number in range(600)]
    assert largest_block(pack(iter(values), tmp_path / "a.packed")) < 4 << 20
    assert everything(tmp_path / "a.packed") == values
    assert largest_block(pack(values, tmp_path / "a.packed")) < 256 << 10
    table = {"n": np.arange(len(values)), "blob": values}
    assert largest_block(pack(table, tmp_path / "a.packed")) < 256 << 10
    table["blob"] = [None if number % 7 == 0 else value for number, value in enumerate(values)]
    pack(pa.table(table), tmp_path / "a.packed")
    assert largest_block(tmp_path / "a.packed") < 4 << 20
    assert everything(tmp_path / "a.packed")["blob"] == table["blob"]


@pytest.mark.needs("cpu")
def test_blocks_of_values_are_bounded(tmp_path, monkeypatch):
    """By what is more than one value."""
    monkeypatch.setattr(packing, "MOST_BLOCK_BYTES", 1 << 20)
    tiny = [b"x"] * 70_000
    large = [b"y" * 5_000_000]
    assert everything(pack(iter(tiny + large), tmp_path / "a.packed")) == tiny + large
    with pytest.raises(UsageError, match=r"larger than those before(.|\n)*mix the rows"):
        pack(iter(tiny + [b"y" * 50_000] * 100), tmp_path / "b.packed")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("stored", ["plain", "shared"])
@pytest.mark.parametrize("at", ["file", "memory"])
def test_batches_are_sized_by_what_they_take_decoded(stored, at, tmp_path):
    """A text that is in the file once takes its size for each row."""
    text = pa.array(["x" * 10_000] * 6000)
    table = pa.table({"n": np.arange(6000), "text": text.dictionary_encode() if stored == "shared" else text})
    if at == "file":
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=4000)
        source = parquet_files.ParquetFile(tmp_path / "a.parquet")
    else:
        source = parquet_files.InMemory(table)
    batches = [batch for _, batch in source.batches()]
    assert max(batch.num_rows for batch in batches) * 10_000 <= 2 * parquet_files.BATCH_BYTES
    assert len(batches) < 30
    assert [n for batch in batches for n in batch["n"].to_pylist()] == list(range(6000))


@pytest.mark.needs("cpu")
def test_batches_follow_rows_that_grow_and_shrink(tmp_path):
    sizes = [10] * 50_000 + [20_000] * 2000 + [10] * 50_000
    table = pa.table({"n": np.arange(len(sizes)), "text": pa.array(["x" * size for size in sizes])})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=40_000, use_dictionary=False)
    batches = [batch for _, batch in parquet_files.ParquetFile(tmp_path / "a.parquet").batches()]
    assert [n for batch in batches for n in batch["n"].to_pylist()] == list(range(len(sizes)))
    assert max(batch.nbytes for batch in batches) <= 2 * parquet_files.BATCH_BYTES and len(batches) < 200
    pack(tmp_path / "a.parquet", tmp_path / "a.packed")
    assert [len(each) for each in everything(tmp_path / "a.packed")["text"]] == sizes
