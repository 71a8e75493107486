"""What a task reads is recorded whichever reader it uses: the standard library, other libraries, another process."""

from __future__ import annotations

import configparser
import csv
import fileinput
import glob
import importlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.observed_project import CSV, Inputs, Place, short

# --- Readers.


def _write_db() -> None:
    with sqlite3.connect("d.db") as connection:
        connection.execute("create table t(a)")
    connection.close()


def _read_db() -> Any:
    connection = sqlite3.connect("d.db")
    try:
        return connection.execute("select * from t").fetchall()
    finally:
        connection.close()


def _read_descriptor() -> bytes:
    descriptor = os.open("d.csv", os.O_RDONLY)
    try:
        return os.read(descriptor, 10)
    finally:
        os.close(descriptor)


def _read_csv() -> list[list[str]]:
    with open("d.csv", newline="") as stream:
        return list(csv.reader(stream))


def _load_json() -> Any:
    with open("d.json") as stream:
        return json.load(stream)


def _config() -> str:
    parser = configparser.ConfigParser()
    parser.read("d.ini")
    return parser["x"]["y"]


def _lines() -> list[str]:
    with fileinput.input("d.csv") as stream:
        return list(stream)


PLAIN: dict[str, tuple[Callable[[], Any], Inputs]] = {
    "open": (lambda: open("d.csv").close(), CSV),
    "open, absolute": (lambda: open(os.path.abspath("d.csv")).close(), CSV),
    "open, bytes": (lambda: open(b"d.csv").close(), CSV),
    "open, binary": (lambda: open("d.csv", "rb").close(), CSV),
    "read_text": (lambda: Path("d.csv").read_text(), CSV),
    "os.open": (_read_descriptor, CSV),
    "csv": (_read_csv, CSV),
    "json": (_load_json, [("file", "d.json")]),
    "configparser": (_config, [("file", "d.ini")]),
    "fileinput": (_lines, CSV),
    "shutil.copy to a temporary folder": (
        lambda: shutil.copy("d.csv", os.path.join(tempfile.gettempdir(), f"hooke-{os.getpid()}")),
        CSV,
    ),
    "through a link": (lambda: open("data/../d.csv").close(), CSV),
    "os.listdir": (lambda: os.listdir("data"), [("listing", "data")]),
    "os.scandir": (lambda: [each.name for each in os.scandir("data")], [("listing", "data")]),
    "os.walk": (lambda: list(os.walk("data")), [("listing", "data")]),
    "iterdir": (lambda: [str(each) for each in Path("data").iterdir()], [("listing", "data")]),
    "glob": (lambda: glob.glob("data/*.txt"), [("listing", "data")]),
    "Path.glob": (lambda: [str(each) for each in Path("data").glob("*.txt")], [("listing", "data")]),
    "a glob that finds nothing": (lambda: glob.glob("none.txt"), [("absent", "none.txt")]),
}


@pytest.mark.parametrize("reader", PLAIN)
def test_readers_of_the_standard_library(place: Place, reader: str) -> None:
    function, expected = PLAIN[reader]
    assert place.inputs(function) == expected


def test_a_database_in_a_file_counts(place: Place) -> None:
    _write_db()
    assert place.inputs(_read_db) == [("file", "d.db")]
    assert place.inputs(lambda: sqlite3.connect("file:d.db?mode=ro", uri=True).close()) == [("file", "d.db")]
    assert place.inputs(lambda: sqlite3.connect("file:x.db?mode=memory", uri=True).close()) == []


def _pandas(make: str, read: str, name: str, **options: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def write() -> None:
        frame = pytest.importorskip("pandas").DataFrame({"a": [1, 2]})
        getattr(frame, make)(name)

    def reader() -> int:
        import pandas as pd

        return len(getattr(pd, read)(name, **options))

    return write, reader


def _numpy(
    write: Callable[[Any], Any], read: Callable[[Any], Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def reader() -> None:
        import numpy as np

        read(np)

    return lambda: write(pytest.importorskip("numpy")), reader


def _save(np: Any) -> None:
    with open("x.bin", "wb") as stream:
        np.save(stream, np.arange(3))


def _polars(make: str, read: str, *, lazy: bool = False) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def write() -> None:
        getattr(pytest.importorskip("polars").DataFrame({"a": [1, 2]}), make)("x.bin")

    def reader() -> int:
        import polars as pl

        found = getattr(pl, read)("x.bin")
        return len(found.collect() if lazy else found)

    return write, reader


def _arrow(
    read: Callable[[Any], Any], *, make: str = "parquet"
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def write() -> None:
        pa = pytest.importorskip("pyarrow")
        table = pa.table({"a": [1, 2]})
        if make == "csv":
            Path("x.bin").write_text("a\n1\n")
        elif make == "json":
            Path("x.bin").write_text('{"a": 1}\n')
        else:
            module = importlib.import_module(f"pyarrow.{make}")
            (module.write_feather if make == "feather" else module.write_table)(table, "x.bin")

    def reader() -> None:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.dataset
        import pyarrow.feather
        import pyarrow.fs
        import pyarrow.json
        import pyarrow.parquet

        read(pa)

    return write, reader


def _duck(query: Callable[[Any], Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def reader() -> None:
        import duckdb

        query(duckdb)

    def write() -> None:
        pytest.importorskip("duckdb")
        Path("x.bin").write_text("a\n1\n")

    return write, reader


def _write_h5() -> None:
    with pytest.importorskip("h5py").File("x.bin", "w") as file:
        file["a"] = [1, 2]


def _read_h5() -> int:
    import h5py

    with h5py.File("x.bin", "r") as file:
        return len(file["a"])


def _write_tensors() -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("safetensors.numpy").save_file({"a": np.zeros(2)}, "x.bin")


def _load_tensors() -> int:
    from safetensors.numpy import load_file

    return len(load_file("x.bin"))


def _open_tensors() -> int:
    from safetensors import safe_open

    with safe_open("x.bin", "np") as file:
        return len(file.keys())


LIBRARIES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "pandas.read_csv": _pandas("to_csv", "read_csv", "x.bin"),
    "pandas.read_csv, pyarrow": _pandas("to_csv", "read_csv", "x.bin", engine="pyarrow"),
    "pandas.read_json": _pandas("to_json", "read_json", "x.bin"),
    "pandas.read_pickle": _pandas("to_pickle", "read_pickle", "x.bin"),
    "pandas.read_parquet": _pandas("to_parquet", "read_parquet", "x.bin"),
    "pandas.read_feather": _pandas("to_feather", "read_feather", "x.bin"),
    "numpy.load": _numpy(lambda np: _save(np), lambda np: np.load("x.bin")),
    "numpy.load, mapped": _numpy(lambda np: _save(np), lambda np: np.load("x.bin", mmap_mode="r")),
    "numpy.fromfile": _numpy(lambda np: np.arange(3).tofile("x.bin"), lambda np: np.fromfile("x.bin")),
    "numpy.memmap": _numpy(lambda np: np.arange(3).tofile("x.bin"), lambda np: np.memmap("x.bin", mode="r")),
    "numpy.loadtxt": _numpy(lambda np: np.savetxt("x.bin", np.arange(3)), lambda np: np.loadtxt("x.bin")),
    "polars.read_csv": _polars("write_csv", "read_csv"),
    "polars.scan_csv": _polars("write_csv", "scan_csv", lazy=True),
    "polars.read_parquet": _polars("write_parquet", "read_parquet"),
    "polars.scan_parquet": _polars("write_parquet", "scan_parquet", lazy=True),
    "polars.read_ipc": _polars("write_ipc", "read_ipc"),
    "polars.scan_ipc": _polars("write_ipc", "scan_ipc", lazy=True),
    "polars.read_ndjson": _polars("write_ndjson", "read_ndjson"),
    "polars.scan_ndjson": _polars("write_ndjson", "scan_ndjson", lazy=True),
    "polars.read_json": _polars("write_json", "read_json"),
    "polars.read_avro": _polars("write_avro", "read_avro"),
    "pyarrow.csv.read_csv": _arrow(lambda pa: pa.csv.read_csv("x.bin"), make="csv"),
    "pyarrow.csv.open_csv": _arrow(lambda pa: pa.csv.open_csv("x.bin").read_all(), make="csv"),
    "pyarrow.json.read_json": _arrow(lambda pa: pa.json.read_json("x.bin"), make="json"),
    "pyarrow.parquet.read_table": _arrow(lambda pa: pa.parquet.read_table("x.bin")),
    "pyarrow.parquet.ParquetFile": _arrow(lambda pa: pa.parquet.ParquetFile("x.bin").read()),
    "pyarrow.parquet.read_schema": _arrow(lambda pa: pa.parquet.read_schema("x.bin")),
    "pyarrow.dataset": _arrow(lambda pa: pa.dataset.dataset("x.bin").to_table()),
    "pyarrow.feather": _arrow(lambda pa: pa.feather.read_table("x.bin"), make="feather"),
    "pyarrow.memory_map": _arrow(lambda pa: pa.memory_map("x.bin").read()),
    "pyarrow.OSFile": _arrow(lambda pa: pa.OSFile("x.bin").read()),
    "pyarrow.input_stream": _arrow(lambda pa: pa.input_stream("x.bin").read()),
    "pyarrow.fs": _arrow(lambda pa: pa.fs.LocalFileSystem().open_input_file("x.bin").read()),
    "duckdb.sql": _duck(lambda duckdb: duckdb.sql("select * from read_csv('x.bin')").fetchall()),
    "duckdb.read_csv": _duck(lambda duckdb: duckdb.read_csv("x.bin").fetchall()),
    "duckdb connection": _duck(
        lambda duckdb: duckdb.connect().execute("select * from read_csv('x.bin')").fetchall()
    ),
    "h5py": (_write_h5, _read_h5),
    "safetensors.load_file": (_write_tensors, _load_tensors),
    "safetensors.safe_open": (_write_tensors, _open_tensors),
}


def _arrow_file(mode: str) -> Callable[[], None]:
    def write() -> None:
        import pyarrow as pa

        with pa.OSFile("x.bin", mode=mode) as file:
            file.write(b"new")

    return write


def _pandas_parquet() -> None:
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet("x.bin")


def _read_back(write: Callable[[Any], Any], read: str) -> Callable[[], None]:
    def write_and_read() -> None:
        import polars as pl

        write(pl)
        getattr(pl, read)("x.bin")

    return write_and_read


def _arrow_read_back() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), "x.bin")
    pq.read_table("x.bin")


WRITERS: dict[str, tuple[str, Callable[[], None]]] = {
    "pandas.to_parquet": ("pandas", _pandas_parquet),
    "pyarrow.OSFile": ("pyarrow", _arrow_file("w")),
    "pyarrow.OSFile, binary": ("pyarrow", _arrow_file("wb")),
    "h5py": ("h5py", _write_h5),
    "pyarrow.parquet.write_table": ("pyarrow", _arrow_read_back),
    "polars.write_csv": (
        "polars",
        _read_back(lambda pl: pl.DataFrame({"a": [1]}).write_csv("x.bin"), "read_csv"),
    ),
    "polars.write_parquet": (
        "polars",
        _read_back(lambda pl: pl.DataFrame({"a": [1]}).write_parquet(file="x.bin"), "read_parquet"),
    ),
    "polars.sink_parquet": (
        "polars",
        _read_back(lambda pl: pl.LazyFrame({"a": [1]}).sink_parquet("x.bin"), "read_parquet"),
    ),
}


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("before", ["absent", "there"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_library_writes_by_code_of_its_own_is_no_input(place: Place, writer: str, before: str) -> None:
    library, write = WRITERS[writer]
    pytest.importorskip(library)
    if before == "there":
        Path("x.bin").write_bytes(b"old")
    observed = place.observed(write)
    assert not observed.unsettled
    assert [each for each in short(observed) if each[0] != "variable"] == []
    assert observed.wrote == ("x.bin",)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("reader", LIBRARIES)
def test_readers_of_libraries(place: Place, reader: str) -> None:
    write, read = LIBRARIES[reader]
    write()
    assert place.inputs(read) == [("file", "x.bin")]


def test_a_pattern_of_a_library_is_a_listing_and_its_files(place: Place) -> None:
    pl = pytest.importorskip("polars")
    for name in "ab":
        pl.DataFrame({"a": [1]}).write_csv(f"data/{name}.csv")
    expected = [("file", "data/a.csv"), ("file", "data/b.csv"), ("listing", "data")]
    assert place.inputs(lambda: len(pl.read_csv("data/*.csv"))) == expected


# --- Files that another process reads.


def test_files_in_the_command_of_another_process_count(place: Place) -> None:
    assert (
        place.inputs(lambda: subprocess.run(["cat", "d.csv"], check=True, capture_output=True).stdout) == CSV
    )
    assert (
        place.inputs(
            lambda: subprocess.run("cat 'd.csv'", shell=True, check=True, capture_output=True).stdout
        )
        == CSV
    )
    assert place.inputs(lambda: os.system("cat --number d.csv > /dev/null")) == CSV


def test_files_that_arguments_and_texts_in_the_code_name_count_for_another_process(place: Place) -> None:
    reads = "import sys; print(open(sys.argv[1] + '.csv').read(), open('d.json').read())"

    def by_text() -> None:
        names = "d.json"  # a text in the code
        assert names
        subprocess.run([sys.executable, "-c", reads, "d"], check=True, capture_output=True)

    def by_argument(path: str) -> None:
        subprocess.run([sys.executable, "-c", "pass", "d"], check=True, capture_output=True)

    assert ("file", "d.json") in place.inputs(by_text)
    assert place.inputs(by_argument, "d.ini") == [("file", "d.ini")]


@pytest.mark.needs("cpu")
def test_files_that_the_code_names_count_where_joblib_runs_it(place: Place) -> None:
    pytest.importorskip("joblib")
    from joblib.externals.loky import get_reusable_executor

    def by_joblib(path: str) -> None:
        from joblib import Parallel, delayed

        assert Parallel(n_jobs=2)(delayed(len)(each) for each in (path, "d.ini")) == [5, 5]

    wanted = [("file", "d.csv"), ("file", "d.ini")]
    for _ in range(2):  # joblib keeps its processes
        found = place.inputs(by_joblib, "d.csv")
        assert [each for each in found if each[0] == "file"] == wanted
    get_reusable_executor().shutdown()


def test_files_that_an_argument_names_count_for_spawned_processes(place: Place) -> None:
    def spawn(path: str) -> None:
        process = multiprocessing.get_context("spawn").Process(target=len, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == 0

    assert place.inputs(spawn, "d.csv") == [("file", "d.csv")]


def test_what_another_process_writes_is_no_input(place: Place) -> None:
    Path("out.txt").write_text("of an earlier run")

    def sort() -> None:
        subprocess.run(["sort", "d.csv", "-o", "out.txt"], check=True)

    observed = place.observed(sort)
    assert short(observed) == CSV
    assert observed.wrote == ("out.txt",)

    def sort_and_read() -> None:
        sort()
        Path("out.txt").read_text()

    observed = place.observed(sort_and_read)
    assert not observed.unsettled
    assert short(observed) == CSV
    assert observed.wrote == ("out.txt",)

    def read_and_sort() -> None:
        Path("out.txt").read_text()
        sort()

    assert place.observed(read_and_sort).unsettled == "out.txt changed while the task ran"
