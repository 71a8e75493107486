"""Pieces of files as items of a map, and data sets that tasks return: nothing of them is stale."""

import os
import pickle
import random

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hooke import UsageError
from hooke.data import Shuffled, scan
from hooke.keys import fingerprint_value


def write(path, values, size=10):
    pq.write_table(pa.table({"n": values, "text": [str(each) for each in values]}), path, row_group_size=size)
    return path


def test_row_groups_are_read_one_by_one(tmp_path):
    write(tmp_path / "b.parquet", range(25))
    write(tmp_path / "a.parquet", range(100, 104))
    items = scan(tmp_path)
    assert [(each.file.path.name, each.number, each.rows) for each in items] == [
        ("a.parquet", 0, 4),
        ("b.parquet", 0, 10),
        ("b.parquet", 1, 10),
        ("b.parquet", 2, 5),
    ]
    again = [pickle.loads(pickle.dumps(each)) for each in items]
    assert again == items and all(len(pickle.dumps(each)) < 500 for each in items)
    assert again[2].read()["n"].to_pylist() == list(range(10, 20))
    assert again[3].read(["text"]).to_pydict() == {"text": ["20", "21", "22", "23", "24"]}
    with pytest.raises(UsageError, match=r"has no column 'x'(.|\n)*n, text"):
        items[0].read(["x"])
    assert scan([tmp_path / "b.parquet", tmp_path / "a.parquet"]) == items[1:] + items[:1]


@pytest.mark.parametrize("seed", range(40))
def test_ranges_hold_whole_lines(seed, tmp_path):
    chance = random.Random(seed)
    lines = [
        "é" * chance.choice([0, 1, 5, 200, 50_000 if seed % 8 == 0 else 3])
        for _ in range(chance.randint(1, 60))
    ]
    text = "\n".join(lines) + "\n" * (seed % 2)
    path = tmp_path / "lines.txt"
    path.write_text(text, encoding="utf-8")
    if not text:
        return
    size = chance.choice([1, 2, 30, 700, 10**6])
    pieces = [each.read() for each in scan(path, size=size)]
    assert b"".join(pieces) == text.encode()
    assert all(each.endswith(b"\n") for each in pieces[:-1]) and all(pieces)
    assert all(each.rstrip(b"\n").rfind(b"\n") < size for each in pieces)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: at / "none.txt", ["no file", "none.txt"]),
        (lambda at: (at / "a.csv.gz").write_bytes(b"x") and at / "a.csv.gz", ["a.csv.gz is compressed", "Parquet"]),
        (lambda at: at, ["there is nothing to read in"]),
        (lambda at: (at / "empty").touch() or at / "empty", ["there is nothing to read in"]),
        (lambda at: (at / "a.parquet").write_bytes(b"abc") and at, ["a.parquet cannot be read as Parquet"]),
    ],
)  # fmt: skip
def test_what_cannot_be_scanned_is_said(make, said, tmp_path):
    with pytest.raises(UsageError) as caught:
        scan(make(tmp_path))
    assert all(each in str(caught.value) for each in said)


def test_the_key_of_an_item_has_the_content_of_its_file(tmp_path):
    """Not its time: a file that is written again as it was is the same."""
    path, key = (
        write(tmp_path / "a.parquet", range(25)),
        lambda: [fingerprint_value(each) for each in scan(tmp_path)],
    )
    first = key()
    assert len(set(first)) == 3
    write(path, range(25))
    os.utime(path, (1, 1))
    assert key() == first
    write(path, range(1, 26))
    assert not set(key()) & set(first)


JOB = """
    from pathlib import Path
    import numpy as np
    from hooke import pipeline, task
    from hooke.data import Shuffled, pack, scan

    @task
    def total(piece) -> int:
        return sum(piece.read(["n"])["n"].to_pylist())

    @task
    def words(piece) -> int:
        return len(piece.read().split())

    @pipeline
    def totals(folder: str) -> list[int]:
        return total.map(scan(folder))

    @pipeline
    def counts(path: str) -> list[int]:
        return words.map(scan(path, size=20))

    @task
    def found(folder: str) -> list:
        return scan(folder)

    @pipeline
    def dynamic(folder: str) -> list[int]:
        return total.map(found(folder))

    @task
    def packed(folder: str) -> Path:
        return pack(folder, "numbers.packed")

    @task
    def epoch(data: Path, number: int) -> list[int]:
        return [n for batch in Shuffled(data, seed=1, batch=10).batches(number) for n in batch["n"].tolist()]

    @pipeline
    def trained(folder: str) -> tuple:
        data = packed(folder)
        return epoch(data, number=0), epoch(data, number=1)
"""


@pytest.mark.parametrize("on", ["serial", pytest.param("local:2", marks=pytest.mark.needs("processes"))])
@pytest.mark.parametrize("name", ["totals", "dynamic"])
def test_a_changed_file_is_read_again_and_no_other(name, on, workshop):
    workshop.write(JOB)
    folder = workshop.folder / "numbers"
    folder.mkdir()
    write(folder / "a.parquet", range(20))
    write(folder / "b.parquet", range(5))
    assert workshop.run(str(folder), name=name, on=on).result() == [45, 145, 10]
    again = workshop.run(str(folder), name=name, on=on)
    assert again.result() == [45, 145, 10] and not workshop.ran(again)
    write(folder / "b.parquet", range(6))
    changed = workshop.run(str(folder), name=name, on=on)
    assert changed.result() == [45, 145, 15] and workshop.ran(changed)["total"] == 1


@pytest.mark.long
@pytest.mark.parametrize("on", ["serial", pytest.param("local:2", marks=pytest.mark.needs("processes"))])
def test_lines_are_counted_again_when_a_file_grows(on, workshop):
    workshop.write(JOB)
    text = workshop.folder / "text.txt"
    text.write_text("one two\n" * 6)
    assert workshop.run(str(text), name="counts", on=on).result() == [6, 6]
    text.write_text("one two\n" * 7)
    assert workshop.run(str(text), name="counts", on=on).result() == [6, 6, 2]


@pytest.mark.parametrize("on", ["serial", pytest.param("local:2", marks=pytest.mark.needs("processes"))])
def test_a_task_converts_once(on, workshop):
    """The packed file is stored with the result: it is put back where it is gone, and made again where the files changed."""
    workshop.write(JOB)
    folder = workshop.folder / "numbers"
    folder.mkdir()
    write(folder / "a.parquet", range(1000), 300)
    first, second = workshop.run(str(folder), name="trained", on=on).result()
    assert sorted(first) == sorted(second) == list(range(1000)) != first != second
    (workshop.folder / "numbers.packed").unlink()
    workshop.edit("for n in batch", "for n in  batch")
    workshop.edit("batch=10)", "batch=20)")
    again = workshop.run(str(folder), name="trained", on=on)
    assert "packed" not in workshop.ran(again) and workshop.ran(again)["epoch"] == 2
    assert sorted(again.result()[0]) == list(range(1000))
    write(folder / "a.parquet", range(1001), 300)
    changed = workshop.run(str(folder), name="trained", on=on)
    assert "packed" in workshop.ran(changed) and sorted(changed.result()[0]) == list(range(1001))


READS = """
    from pathlib import Path
    import numpy as np
    from hooke import pipeline, task
    from hooke.data import Shuffled, pack

    @task
    def shuffled(path: str) -> int:
        return int(sum(batch.sum() for batch in Shuffled(path, seed=0, batch=10).batches()))

    @task
    def packed(folder: str) -> int:
        pack(folder, "images.packed")
        return sum(len(each) for batch in Shuffled("images.packed", seed=0, batch=10).batches() for each in batch["bytes"])

    @pipeline
    def both(folder: str, path: str) -> tuple:
        return packed(folder), shuffled(path)
"""


@pytest.mark.parametrize("on", ["serial", pytest.param("local:2", marks=pytest.mark.needs("processes"))])
def test_what_a_task_reads_by_name_is_an_input(on, workshop):
    """What `Shuffled` and `pack` open counts as what the task's own code opens. A file that they write is none of its inputs."""
    workshop.write(READS)
    images, path = workshop.folder / "images", workshop.folder / "rows.npy"
    images.mkdir()
    (images / "a").write_bytes(b"123")
    np.save(path, np.arange(100))

    def ran():
        run = workshop.run(str(images), str(path), name="both", on=on)
        return run.result(), sorted(workshop.ran(run))

    assert ran() == ((3, 4950), ["packed", "shuffled"])
    (workshop.folder / "beside").touch()
    assert ran() == ((3, 4950), [])
    np.save(path, np.arange(101))
    assert ran() == ((3, 5050), ["shuffled"])
    (images / "a").write_bytes(b"12345")
    assert ran() == ((5, 5050), ["packed"])
    (images / "b").write_bytes(b"1")
    assert ran() == ((6, 5050), ["packed"])
    assert ran() == ((6, 5050), [])


RESULTS = """
    import numpy as np, pandas as pd, polars as pl, pyarrow as pa
    from hooke import pipeline, task

    @task
    def made(kind: str):
        n = np.arange(300_000)
        return {
            "array": lambda: n, "small": lambda: n[:1000], "dict": lambda: {"n": n, "half": n / 2}, "list": lambda: n[:9999].tolist(),
            "pandas": lambda: pd.DataFrame({"n": n, "text": n.astype(str)}), "polars": lambda: pl.DataFrame({"n": n, "text": n.astype(str)}),
            "arrow": lambda: pa.table({"n": n, "text": n.astype(str)}), "blobs": lambda: [b"%d" % each for each in range(9999)],
        }[kind]()

    @task
    def each(number: int) -> int:
        return number

    @pipeline
    def result(kind: str):
        return made(kind)

    @pipeline
    def mapped(kind: str):
        return each.map(range(3000))
"""


@pytest.mark.needs("processes")
@pytest.mark.parametrize(
    "kind", ["array", "small", "dict", "list", "pandas", "polars", "arrow", "blobs", "map"]
)
@pytest.mark.parametrize("again", [False, True])
def test_what_a_task_returned_is_a_source(kind, again, workshop):
    """As it comes back from the store, mapped and read-only, in a run of its own and when it is found there."""
    workshop.write(RESULTS)
    value = workshop.run(kind, name="mapped" if kind == "map" else "result").result()
    if again:
        value = workshop.run(kind, name="mapped" if kind == "map" else "result").result()
    data = Shuffled(value, seed=0, batch=1000)
    rows = []
    for batch in data.batches():
        column = batch["n"] if kind in ("dict", "pandas", "polars", "arrow") else batch
        rows += map(int, column.to_pylist() if isinstance(batch, pa.Table) else column)
        if isinstance(batch, np.ndarray):
            batch += 1
    kinds = {
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "arrow": pa.Table,
        "dict": dict,
        "array": np.ndarray,
        "small": np.ndarray,
    }
    assert isinstance(batch, kinds.get(kind, list))
    assert sorted(rows) == list(range(len(data))) != rows
