"""What a task reads is recorded: by each reader, in each kind of process, charged to the code that keeps it, and nothing else."""

from __future__ import annotations

import configparser
import csv
import fileinput
import functools
import glob
import importlib
import json
import linecache
import multiprocessing
import os
import pickle
import pydoc
import shutil
import sqlite3
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.clock import SystemClock
from hooke.base.observed import first_changed
from hooke.base.ref import ItemsObserved, Observed
from hooke.journal.events import AttemptFailed, AttemptFinished
from hooke.keys.file import File
from hooke.keys.fingerprint import fingerprint_code
from hooke.pipeline.execute import AttemptRunner, WorkerCall
from hooke.pipeline.isolation import KEY_BYTES
from hooke.pipeline.observed_events import PathRules, ReadEvent, settle
from hooke.pipeline.references import pack
from hooke.store.store import Store

Inputs = list[tuple[str, str]]


class Place:
    """A project's folder, and a worker for it."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        self.worker = AttemptRunner(name="w", store=Store.open(store), clock=SystemClock())
        self.worker.observe(PathRules(str(root)))

    def run(
        self, function: Callable[..., Any], *args: Any, observe: bool = True, **variables: str | None
    ) -> AttemptFinished | AttemptFailed:
        return self._run(
            "call", function, pack((list(args), {}), _no_promise), 1, observe=observe, variables=variables
        )

    def run_map(self, function: Callable[..., Any], items: Sequence[Any]) -> AttemptFinished | AttemptFailed:
        columns = pack(("columns", [list(items)]), _no_promise)
        data = pack((pack({}, _no_promise), columns), _no_promise)
        return self._run("map", function, data, len(items), keys=bytes(KEY_BYTES * len(items)))

    def _run(
        self, kind: str, function: Callable[..., Any], payload: bytes, hi: int, **more: Any
    ) -> AttemptFinished | AttemptFailed:
        call = WorkerCall(
            attempt=1, node=0, kind=kind, lo=0, hi=hi, function=function, payload=payload, shown="", **more
        )
        return self.worker.run(call)

    def observed(self, function: Callable[..., Any], *args: Any, **variables: str | None) -> ItemsObserved:
        answer = self.run(function, *args, **variables)
        assert isinstance(answer, AttemptFinished), answer
        return answer.observed[0] if answer.observed else ItemsObserved(lo=0, hi=1)

    def inputs(self, function: Callable[..., Any], *args: Any, **variables: str | None) -> Inputs:
        observed = self.observed(function, *args, **variables)
        assert not observed.unsettled
        return short(observed)


def _no_promise(promise: Any) -> Any:
    raise AssertionError(promise)


def short(observed: ItemsObserved) -> Inputs:
    return [(each.kind, each.name) for each in observed.inputs]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "d.csv").write_text("a,b\n1,2\n")
    (root / "d.json").write_text('[{"a": 1}]')
    (root / "d.jsonl").write_text('{"a": 1}\n')
    (root / "d.ini").write_text("[x]\ny = 1\n")
    for name in "ab":
        (root / "data" / f"{name}.txt").write_text(name)
    monkeypatch.chdir(root)
    made = Place(root, tmp_path / "store")
    yield made
    made.worker.forget()


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


CSV = [("file", "d.csv")]
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


def test_files_that_the_code_names_count_where_joblib_runs_it(place: Place) -> None:
    pytest.importorskip("joblib")

    def by_joblib(path: str) -> None:
        from joblib import Parallel, delayed

        assert Parallel(n_jobs=2)(delayed(len)(each) for each in (path, "d.ini")) == [5, 5]

    wanted = [("file", "d.csv"), ("file", "d.ini")]
    for _ in range(2):  # joblib keeps its processes
        found = place.inputs(by_joblib, "d.csv")
        assert [each for each in found if each[0] == "file"] == wanted


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


# --- Absent files, own writes, and changes.


def test_a_failed_open_counts_as_absent(place: Place) -> None:
    def look() -> None:
        for name in ("none.yaml", "none/none.yaml"):
            with pytest.raises(FileNotFoundError):
                Path(name).read_text()
        with pytest.raises(FileNotFoundError):
            os.listdir("nowhere")

    assert place.inputs(look) == [
        ("absent", "none.yaml"),
        ("absent", "none/none.yaml"),
        ("absent", "nowhere"),
    ]


def test_a_look_for_a_file_that_is_not_there_counts_as_absent(place: Place) -> None:
    def look() -> None:
        assert not os.path.exists("none.yaml")
        assert not Path("none.csv").is_file()
        assert not glob.glob("da*/none.txt")
        assert os.path.exists("d.csv")

    assert place.inputs(look) == [
        ("absent", "data/none.txt"),
        ("absent", "none.csv"),
        ("absent", "none.yaml"),
        ("listing", "."),
    ]


def _look_and_make() -> None:
    if not os.path.exists("made/below"):
        os.makedirs("made/below")
    if not Path("own.txt").exists():
        subprocess.run("echo x > own.txt", shell=True, check=True)
    Path("own.txt").read_text()


def test_a_line_that_linecache_reads_for_the_task_counts(place: Place) -> None:
    assert place.inputs(lambda: linecache.getline("d.csv", 1)) == CSV


def _make_and_read() -> None:
    Path("own.txt").write_text("x")
    Path("own.txt").read_text()


def _replace_and_read() -> None:
    Path("own.tmp").write_text("x")
    os.replace("own.tmp", "d.csv")
    Path("d.csv").read_text()


def _make_folder_and_list() -> None:
    os.makedirs("made/below", exist_ok=True)
    Path("made/below/x").write_text("x")
    os.listdir("made/below")
    os.listdir("made")


def _append() -> None:
    with open("d.csv", "a") as stream:
        stream.write("3,4\n")


@pytest.mark.parametrize(
    ("function", "wrote"),
    [
        (_look_and_make, ("made", "made/below", "own.txt")),
        (_make_and_read, ("own.txt",)),
        (_replace_and_read, ("d.csv",)),
        (_make_folder_and_list, ("made", "made/below", "made/below/x")),
        (_append, ("d.csv",)),
    ],
)
def test_own_writes_are_no_inputs(place: Place, function: Callable[[], None], wrote: tuple[str, ...]) -> None:
    observed = place.observed(function)
    assert (observed.inputs, observed.unsettled, observed.wrote) == ((), "", wrote)


def test_what_is_removed_through_an_open_folder_is_not_taken_for_a_file_of_the_same_name(
    place: Place,
) -> None:
    (place.root / "old" / "below").mkdir(parents=True)
    for name in ("old/d.csv", "old/below/d.json"):
        (place.root / name).write_text("")

    def clean() -> None:
        open("d.csv").close()
        shutil.rmtree("old")

    observed = place.observed(clean)
    assert (short(observed), observed.unsettled) == (CSV, "")


def test_a_file_that_is_cut_while_it_is_open_does_not_stop_the_recording(place: Place) -> None:
    def cut() -> None:
        with Path("d.csv").open() as _, Path("out.txt").open("w") as out:
            out.write("more than is kept")
            out.flush()
            os.ftruncate(out.fileno(), 4)
            os.truncate(out.fileno(), 2)

    observed = place.observed(cut)
    assert not observed.unsettled
    assert short(observed) == [("file", "d.csv")]
    assert observed.wrote == ("out.txt",)


def test_an_existing_folder_does_not_become_the_attempts_own(place: Place) -> None:
    def read() -> None:
        os.makedirs("data", exist_ok=True)
        open("data/a.txt").close()

    assert place.inputs(read) == [("file", "data/a.txt")]


def _count_up() -> None:
    text = Path("d.csv").read_text()
    Path("d.csv").write_text(f"{text}x")


def _update() -> None:
    with open("d.csv", "r+") as stream:
        stream.read()
        stream.write("5,6\n")


def _look_for_memo_and_make() -> None:
    with pytest.raises(FileNotFoundError):
        Path("memo").read_text()
    Path("memo").write_text("x")


def _read_and_remove() -> None:
    Path("d.csv").read_text()
    os.remove("d.csv")


def _append_and_read() -> None:
    _append()
    Path("d.csv").read_text()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_count_up, "it read d.csv and then changed it"),
        (_update, "it read d.csv and then changed it"),
        (_look_for_memo_and_make, "it looked for memo and then made it"),
        (_read_and_remove, "it read d.csv and then removed it"),
        (_append_and_read, "it changed d.csv and then read it"),
    ],
)
def test_what_is_read_and_then_changed_makes_the_result_unsettled(
    place: Place, function: Callable[[], None], why: str
) -> None:
    assert place.observed(function).unsettled == why


def test_a_file_that_changes_under_the_task_makes_it_unsettled(place: Place) -> None:
    def read() -> None:
        Path("d.csv").read_text()
        subprocess.run([sys.executable, "-c", "open('d' + '.csv', 'a').write('z')"], check=True)

    assert place.observed(read).unsettled == "d.csv changed while the task ran"


def test_a_listing_leaves_out_what_the_task_writes_there_before_and_after(place: Place) -> None:
    def convert() -> None:
        Path("data/before.out").write_text("")
        for name in os.listdir("data"):
            Path(f"data/{name}.out").write_text("")

    observed = place.observed(convert)
    assert first_changed(observed.inputs, root=place.root, environment={}) is None
    again = place.observed(convert)
    assert ("listing", "data") in short(again)
    Path("data/c.txt").write_text("")
    assert first_changed(observed.inputs, root=place.root, environment={}) is not None


# --- What never counts.


def test_imports_and_code_do_not_count(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("imported_by_task.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(place.root))

    def load() -> int:
        import imported_by_task  # type: ignore[import-not-found]

        return int(imported_by_task.VALUE)

    fingerprint_code(load)  # as each worker does, which imports what the key covers
    assert place.inputs(load) == []


def test_a_traceback_does_not_read_an_input(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("raises_later.py").write_text("def fail():\n    raise ValueError('x')\n")
    monkeypatch.syspath_prepend(str(place.root))
    module: Any = importlib.import_module("raises_later")

    def explain() -> str:
        import traceback

        try:
            module.fail()
        except ValueError:
            return traceback.format_exc()
        return ""

    assert place.inputs(explain) == []


NEVER = [
    ".hooke/runs/x",
    ".venv/lib/x",
    "env/lib/x",
    "__pycache__/x.pyc",
    ".git/config",
    "mlruns/0/meta.yaml",
    "lib/site-packages/x",
    "wandb/x",
    "mlflow.db",
    ".cache/x",
]


@pytest.mark.parametrize("name", NEVER)
def test_environments_caches_and_stores_do_not_count(place: Place, name: str) -> None:
    (place.root / name).parent.mkdir(parents=True, exist_ok=True)
    (place.root / name).write_text("")
    if name.startswith("env/"):
        (place.root / "env" / "pyvenv.cfg").write_text("")
    assert place.inputs(lambda: open(name).close()) == []


def test_devices_temporary_files_and_the_interpreter_do_not_count(place: Place) -> None:
    def read() -> None:
        open("/proc/self/status").close()
        open("/dev/null").close()
        open(os.__file__).close()
        with tempfile.NamedTemporaryFile() as file:
            open(file.name).close()

    assert place.inputs(read) == []


def test_a_declared_file_is_in_the_key_and_does_not_count(place: Place) -> None:
    file = File("d.csv")
    file.__hooke_key__()
    assert place.inputs(lambda given: Path(given).read_text(), file) == []


def test_a_task_that_is_not_to_be_observed_is_not(place: Place) -> None:
    answer = place.run(lambda: open("d.csv").close(), observe=False)
    assert answer.observed == ()


@dataclass(frozen=True, slots=True)
class Settings:
    folder: Path


def test_files_elsewhere_count_where_an_argument_a_variable_or_the_code_names_them(
    place: Place, tmp_path: Path
) -> None:
    other = Path(os.path.expanduser("~")) / f"hooke-test-{os.getpid()}"
    for home in (other, tmp_path / "elsewhere"):  # the second is below the folder for temporary files
        home.mkdir()
        try:
            (home / "x.txt").write_text("x")
            _check_files_elsewhere(place, home)
        finally:
            shutil.rmtree(home)

    def in_temporary(folder: str, rest: str) -> None:
        open(os.path.join(folder, rest.replace("+", "/"))).close()

    (tmp_path / "x.txt").write_text("x")
    rest = os.path.relpath(tmp_path / "x.txt", tempfile.gettempdir()).replace("/", "+")
    assert place.inputs(in_temporary, tempfile.gettempdir(), rest) == []


def _check_files_elsewhere(place: Place, home: Path) -> None:
    def by_argument(path: str) -> None:
        open(path).close()

    def in_folder(folder: str) -> None:
        open(os.path.join(folder, "x.txt")).close()

    def unnamed(parts: tuple[str, str]) -> None:
        open(os.path.join("/", parts[0].replace("+", "/"), parts[1] + ".txt")).close()

    named = [("file", str(home / "x.txt"))]
    assert place.inputs(by_argument, str(home / "x.txt")) == named
    assert place.inputs(in_folder, str(home)) == named

    def in_settings(settings: Any) -> None:
        open(os.path.join(str(settings.folder), "x.txt")).close()

    def in_variable() -> None:
        open(os.path.join(os.environ["DATA_DIR"], "x.txt")).close()

    assert place.inputs(in_settings, Settings(folder=home)) == named
    assert place.inputs(in_settings, SimpleNamespace(folder=str(home))) == named
    assert place.inputs(in_variable, DATA_DIR=str(home)) == [*named, ("variable", "DATA_DIR")]
    assert place.inputs(unnamed, (str(home)[1:].replace("/", "+"), "x")) == []


# --- Variables.


def _alias() -> Any:
    return ALIAS["HOOKED_MODE"]


ALIAS = os.environ
MODE = [("variable", "HOOKED_MODE")]
VARIABLES: dict[str, tuple[Callable[[], Any], Inputs]] = {
    "[]": (lambda: os.environ["HOOKED_MODE"], MODE),
    "get": (lambda: os.environ.get("HOOKED_MODE"), MODE),
    "getenv": (lambda: os.getenv("HOOKED_MODE"), MODE),
    "in": (lambda: "HOOKED_MODE" in os.environ, MODE),
    "an alias taken before": (_alias, MODE),
    "not set": (lambda: os.getenv("HOOKED_NONE", "x"), [("variable", "HOOKED_NONE")]),
    "a copy": (lambda: os.environ.copy()["HOOKED_MODE"], []),
    "dict": (lambda: dict(os.environ)["HOOKED_MODE"], []),
    "unpacked": (lambda: {**os.environ}["HOOKED_MODE"], []),
    "merged": (lambda: (os.environ | {"x": "y"})["HOOKED_MODE"], []),
    "items": (lambda: len(list(os.environ.items())), []),
    "read after a copy": (lambda: (os.environ.copy(), os.environ["HOOKED_MODE"])[1], MODE),
    "inherited": (lambda: subprocess.run(["true"], check=True).returncode, []),
    "as bytes": (lambda: os.environb[b"HOOKED_MODE"], MODE),
    "as bytes, by getenvb": (lambda: os.getenvb(b"HOOKED_MODE"), MODE),
    "expandvars": (lambda: os.path.expandvars("$HOOKED_MODE/x"), MODE),
    "a template": (lambda: string.Template("$HOOKED_MODE").substitute(os.environ), MODE),
    "a chain of maps": (lambda: ChainMap({}, os.environ)["HOOKED_MODE"], MODE),
    "by a library": (pydoc.getpager, []),
    "of the process": (
        lambda: (os.environ["PATH"], os.getenv("RANK"), os.getenv("CUDA_VISIBLE_DEVICES")),
        [],
    ),
}


@pytest.mark.parametrize("reader", VARIABLES)
def test_variables(place: Place, reader: str) -> None:
    function, expected = VARIABLES[reader]
    assert place.inputs(function, HOOKED_MODE="fast") == expected


def test_the_drivers_values_are_used_and_set_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKED_MODE", "of the worker")
    answer = place.run(lambda: os.environ["HOOKED_MODE"], HOOKED_MODE="of the driver")
    assert isinstance(answer, AttemptFinished)
    assert place.worker.store.get(answer.ref) == "of the driver"
    assert os.environ["HOOKED_MODE"] == "of the worker"
    manifest = answer.observed[0].inputs
    assert first_changed(manifest, root=place.root, environment={"HOOKED_MODE": "of the driver"}) is None
    assert first_changed(manifest, root=place.root, environment={}) is not None


def test_what_the_task_sets_itself_is_no_input(place: Place) -> None:
    def set_and_read() -> str:
        os.environ["HOOKED_MODE"] = "mine"
        return os.environ["HOOKED_MODE"]

    assert place.inputs(set_and_read, HOOKED_MODE="fast") == []


def test_a_secret_is_noted_without_its_value(place: Place) -> None:
    observed = place.observed(lambda: os.environ["HOOKED_TOKEN"], HOOKED_TOKEN="hunter2")
    assert observed.inputs == (Observed(kind="variable", name="HOOKED_TOKEN"),)
    assert first_changed(observed.inputs, root="/", environment={"HOOKED_TOKEN": "rotated"}) is None


# --- Threads, forks, memos, items.


def _read_in_thread() -> None:
    thread = threading.Thread(target=lambda: open("d.csv").close())
    thread.start()
    thread.join()


def _read_in_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Path.read_text, [Path("d.csv"), Path("d.json")]))


def _read_in_child() -> None:
    child = os.fork()
    if not child:
        open("d.csv").close()
        os.listdir("data")
        os.environ.get("HOOKED_MODE")
        os._exit(0)
    os.waitpid(child, 0)


def _write_in_child() -> None:
    child = os.fork()
    if not child:
        Path("own.txt").write_text("x")
        os._exit(0)
    os.waitpid(child, 0)
    Path("own.txt").read_text()


def test_threads_of_the_task_count(place: Place) -> None:
    assert place.inputs(_read_in_thread) == CSV
    assert place.inputs(_read_in_pool) == [("file", "d.csv"), ("file", "d.json")]


def test_other_threads_of_the_drivers_process_do_not(place: Place) -> None:
    wanted, done = threading.Event(), threading.Event()

    def other() -> None:
        wanted.wait(30)
        open("d.json").close()
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def task() -> None:
        wanted.set()
        assert done.wait(30)

    assert place.inputs(task) == []
    thread.join()


def test_forked_children_report(place: Place) -> None:
    expected = [("file", "d.csv"), ("listing", "data"), ("variable", "HOOKED_MODE")]
    assert place.inputs(_read_in_child, HOOKED_MODE="x") == expected
    assert place.observed(_write_in_child).inputs == ()
    assert place.inputs(lambda: None) == []


@functools.lru_cache
def _kept() -> str:
    return Path("d.csv").read_text()


@functools.lru_cache
def _kept_by_name(name: str) -> str:
    return Path(name).read_text()


_model: str | None = None


def _lazy() -> str:
    global _model  # noqa: PLW0603
    if _model is None:
        _model = Path("d.csv").read_text()
    return _model


_table: dict[str, str] = {}


def _filled(name: str) -> str:
    if name not in _table:
        _table[name] = _plain_read(name)
    return _table[name]


def _plain_read(name: str) -> str:
    return Path(name).read_text()


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    global _model  # noqa: PLW0603
    yield
    _kept.cache_clear()
    _kept_by_name.cache_clear()
    _table.clear()
    _model = None


def _uses_kept() -> str:
    return _kept()


def _uses_lazy() -> str:
    return _lazy()


@pytest.mark.parametrize(
    ("first", "then"),
    [(_kept, _uses_kept), (_lazy, _uses_lazy), (lambda: _filled("d.csv"), lambda: _filled("d.csv"))],
)
def test_what_a_function_keeps_is_an_input_of_those_that_reach_it(
    place: Place, first: Callable[[], str], then: Callable[[], str]
) -> None:
    assert place.inputs(first) == CSV
    assert place.inputs(then) == CSV  # it opened nothing
    assert place.inputs(lambda: 1) == []


def test_a_cache_that_gives_a_task_nothing_gives_it_no_input(place: Place) -> None:
    assert place.inputs(lambda: _kept_by_name("d.csv")) == CSV
    assert place.inputs(lambda: _kept_by_name("d.json")) == [("file", "d.json")]


def test_a_reader_that_keeps_nothing_is_charged_to_nobody_else(place: Place) -> None:
    assert place.inputs(lambda: _plain_read("d.csv")) == CSV
    assert place.inputs(lambda: _plain_read("d.json")) == [("file", "d.json")]


def test_what_is_kept_and_has_changed_makes_a_later_task_of_the_process_unsettled(place: Place) -> None:
    place.inputs(_kept)
    time.sleep(0.01)
    Path("d.csv").write_text("another\n")
    assert "d.csv changed" in place.observed(_uses_kept).unsettled


def test_a_module_that_reads_while_it_is_imported_is_charged(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("reads_on_import.py").write_text(
        "from pathlib import Path\nTEXT = Path('d.csv').read_text()\ndef text():\n    return TEXT\ndef other():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(place.root))

    def imports() -> str:
        import reads_on_import  # type: ignore[import-not-found]

        return str(reads_on_import.text())

    assert place.inputs(imports) == [*CSV, ("file", "reads_on_import.py")]
    module: ModuleType = importlib.import_module("reads_on_import")
    assert place.inputs(module.text) == CSV
    assert place.inputs(lambda: 1) == []


def _item(number: int) -> str:
    return Path(f"data/{'ab'[number]}.txt").read_text() if number < 2 else ""


def _keeping_item(number: int) -> str:
    return _kept() if number >= 1 else ""


def test_each_item_of_a_map_has_its_own(place: Place) -> None:
    answer = place.run_map(_item, [0, 0, 1, 2, 0])
    assert [(each.lo, each.hi, short(each)) for each in answer.observed] == [
        (0, 2, [("file", "data/a.txt")]),
        (2, 3, [("file", "data/b.txt")]),
        (4, 5, [("file", "data/a.txt")]),
    ]


def test_items_after_one_that_filled_a_cache_have_read_the_same(place: Place) -> None:
    answer = place.run_map(_keeping_item, [0, 1, 2, 3])
    assert [(each.lo, each.hi, short(each)) for each in answer.observed] == [(1, 4, CSV)]


def _fails_late(number: int) -> str:
    if number == 2:
        raise ValueError(number)
    return _item(number)


def test_a_failed_attempt_says_what_its_finished_items_read(place: Place) -> None:
    answer = place.run_map(_fails_late, [0, 1, 2, 0])
    assert isinstance(answer, AttemptFailed)
    assert [(each.lo, each.hi) for each in answer.observed] == [(0, 1), (1, 2)]


def test_more_than_a_thousand_files_are_one_tree_per_folder(place: Place) -> None:
    for number in range(1001):
        Path(f"data/{number}").write_text(str(number))

    def read_all() -> None:
        for number in range(1001):
            open(f"data/{number}").close()

    observed = place.observed(read_all)
    assert short(observed) == [("tree", "data")]
    assert first_changed(observed.inputs, root=place.root, environment={}) is None
    Path("data/500").write_text("x")
    assert first_changed(observed.inputs, root=place.root, environment={}) is not None


def test_a_manifest_holds_until_its_file_changes_and_again_when_it_is_put_back(place: Place) -> None:
    manifest = place.observed(lambda: open("d.csv").close()).inputs
    assert first_changed(manifest, root=place.root, environment={}) is None
    Path("d.csv").write_text("another")
    assert first_changed(manifest, root=place.root, environment={}) is not None
    Path("d.csv").write_text("a,b\n1,2\n")
    assert first_changed(manifest, root=place.root, environment={}) is None


def test_a_result_is_pickled_by_a_wrapped_reader_as_itself(place: Place) -> None:
    pl = pytest.importorskip("polars")
    assert pickle.loads(pickle.dumps(pl.read_csv)) is pl.read_csv


# --- Rules, as properties.

NAMES = st.sampled_from(["a", "data", ".hooke", "__pycache__", "x.csv", "site-packages", "tmp", ".env"])


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_path_below_the_project_counts_unless_a_part_of_it_never_does(parts: list[str]) -> None:
    rules = PathRules("/nowhere/project")
    never = {".hooke", "__pycache__", "site-packages"}
    assert rules.counts("/".join(["/nowhere/project", *parts])) == never.isdisjoint(parts)
    assert not rules.counts("/".join(["/nowhere/other", *parts]))


KINDS = st.sampled_from(["read", "truncate", "change", "list", "handed", "remove"])


@given(st.lists(st.tuples(KINDS, st.integers(0, 2), st.sampled_from(["x", "y"])), max_size=8))
def test_a_file_that_is_truncated_first_is_never_an_input(events: list[tuple[str, int, str]]) -> None:
    rules = PathRules("/nowhere/project")
    made = [ReadEvent(1, item, kind, f"/nowhere/project/{name}", (1, 1, 1, 1)) for kind, item, name in events]
    settled = settle([event for event in made if event.kind != "list"], rules)
    firsts: dict[str, str] = {}
    for event in made:
        if event.kind != "list":
            firsts.setdefault(event.name, event.kind)
    for path, kind in firsts.items():
        if kind == "truncate":
            assert ("file", path) not in settled.inputs


def test_a_folder_of_a_thousand_files_that_is_removed_afterwards_makes_the_result_unsettled(
    place: Place,
) -> None:
    for number in range(1001):
        Path(f"data/{number}").write_text(str(number))

    def read_and_remove() -> None:
        for number in range(1001):
            open(f"data/{number}").close()
        subprocess.run(["rm", "-r", "data"], check=True)

    assert "removed while the task ran" in place.observed(read_and_remove).unsettled
