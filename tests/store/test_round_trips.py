"""What goes into a store comes out of it equal, whatever is nested in what."""

import dataclasses
import datetime as dt
import decimal
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.store.backends.memory import MemoryBackend
from hooke.store.store import Store

MEMORY = Store(MemoryBackend())


@dataclasses.dataclass
class Model:
    weights: object
    notes: dict


def same(one, two):
    """Deep equality that knows arrays and frames, NaN being equal to itself."""
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and repr(one.tolist()) == repr(two.tolist())
    if isinstance(one, pl.DataFrame | pl.Series):
        schema = (lambda x: x.schema) if isinstance(one, pl.DataFrame) else (lambda x: (x.name, x.dtype))
        return one.equals(two) and schema(one) == schema(two)
    if isinstance(one, pa.Table | pa.RecordBatch):
        return one.equals(two, check_metadata=True)
    if isinstance(one, pd.DataFrame):
        return one.equals(two) and list(one.dtypes) == list(two.dtypes)
    if isinstance(one, Model):
        return same(vars(one), vars(two))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return repr(one) == repr(two)


dtypes = st.sampled_from(["<f8", ">i4", "u1", "?", "<c16", "S3", "<U2", "M8[ns]", "i4,f8", "<f2"])


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    size = int(np.prod(shape)) if shape else 1
    raw = np.arange(size * 40, dtype=np.uint8)
    dtype = np.dtype(draw(dtypes))
    if dtype.kind in "SUMcf?":
        array = (np.arange(size) % 2).astype(dtype).reshape(shape)
    else:
        array = np.frombuffer(raw.tobytes()[: size * dtype.itemsize], dtype).reshape(shape)
    view = draw(st.sampled_from(["plain", "transposed", "reversed", "strided", "fortran"]))
    if view == "transposed":
        return array.T
    if view == "fortran":
        return np.asfortranarray(array)
    if array.ndim and view != "plain":
        return array[::-1] if view == "reversed" else array[::2]
    return array


@st.composite
def frames(draw):
    values = draw(st.lists(st.none() | st.integers(-9, 9), max_size=6))
    texts = [None if value is None else "x" * abs(value) * 3 for value in values]
    columns = {"number": values, "text": texts}
    kind = draw(st.sampled_from(["polars", "slice", "series", "arrow", "batch", "pandas"]))
    frame = pl.DataFrame(columns, schema={"number": pl.Int64, "text": pl.String})
    table = pa.table({"number": pa.array(values, pa.int64()), "text": pa.array(texts, pa.string())})
    match kind:
        case "polars":
            return frame
        case "slice":
            return frame[1:4]
        case "series":
            return frame["text"]
        case "arrow":
            return table.replace_schema_metadata({"k": "v"})[1:]
        case "batch":
            return table.combine_chunks().to_batches()[0] if values else table
        case _:
            return table.to_pandas()


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | arrays()
    | frames()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Model, weights=inner, notes=st.dictionaries(st.text(max_size=3), inner, max_size=2))
    ),
    max_leaves=8,
)


@pytest.mark.needs("cpu")
@settings(deadline=None, max_examples=100)
@given(values)
def test_any_nesting(value):
    assert same(MEMORY.get(MEMORY.put(value)), value)


@pytest.mark.needs("cpu")
@settings(deadline=None, max_examples=25)
@given(values)
def test_any_nesting_beside_a_large_part(tmp_path_factory, value):
    store = Store.open(tmp_path_factory.getbasetemp() / "nestings")
    large = {"value": value, "pad": np.arange(20_000.0), "bytes": b"x" * 70_000}
    ref = store.put(large)
    assert ref.inline is None
    assert same(store.get(ref), large)


def test_arrays_are_mapped_and_read_only(store):
    array = np.arange(1_000_000.0)
    ref = store.put({"deep": [array, array[::2], array.reshape(1000, 1000).T]})
    plain, strided, transposed = store.get(ref)["deep"]
    for found, expected in ((plain, array), (strided, array[::2]), (transposed, array.reshape(1000, 1000).T)):
        assert np.array_equal(found, expected)
        assert not found.flags.owndata
        assert not found.flags.writeable
        assert found.ctypes.data % 64 == 0
        assert in_mapped_object(store, ref, found)
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 1


def in_mapped_object(store, ref, array):
    """Whether the array's memory is a mapping of the object's file, as the kernel tells."""
    if sys.platform != "linux":
        return True
    address = array.ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, *_ = line.split()
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return ref.digest in line
    return False


def test_frames_lie_in_the_mapping(store):
    frame = pl.DataFrame(
        {"number": np.arange(200_000), "text": [f"a text of {at} that is long" for at in range(200_000)]}
    )
    ref = store.put([frame, frame["number"]])
    found, series = store.get(ref)
    assert found.equals(frame)
    assert in_mapped_object(store, ref, found["number"].to_numpy())
    assert in_mapped_object(store, ref, series.to_numpy())
    pandas = store.put(pd.DataFrame({"x": np.arange(100_000.0)}))
    assert in_mapped_object(store, pandas, store.get(pandas)["x"].to_numpy())
    table = store.put(pa.table({"x": np.arange(100_000.0)}))
    assert in_mapped_object(store, table, store.get(table)["x"].chunk(0).to_numpy())


def test_every_polars_type(store):
    day = dt.datetime.fromisoformat("2026-01-02T03:04")
    frame = pl.DataFrame(
        {
            "list": [[1, 2], []],
            "struct": [{"a": 1}, {"a": None}],
            "bytes": [b"x", None],
            "date": [day.date(), None],
            "time": [day.time(), None],
            "zoned": pl.Series([day, None]).dt.replace_time_zone("Europe/Berlin"),
            "span": [dt.timedelta(1), None],
            "decimal": [decimal.Decimal("1.23"), None],
            "null": [None, None],
            "bool": [True, None],
            "category": pl.Series(["a", "b"], dtype=pl.Categorical),
            "enum": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])),
            "array": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
        }
    )
    # Arrow has no type for this one, so the frame goes in Polars' own way.
    wide = frame.with_columns(pl.Series("wide", [2**100, None], dtype=pl.Int128))
    for value in (frame, wide, frame["zoned"], pl.DataFrame(), pl.DataFrame({"": [1]})):
        assert same(store.get(store.put(value)), value)
    assert same(store.get(store.put(wide.lazy())).collect(), wide)


def test_dictionaries_that_differ_by_chunk(store):
    table = pa.concat_tables(
        [pa.table({"c": pa.array(values).dictionary_encode()}) for values in (["a", "b"], ["z"])]
    )
    assert store.get(store.put(table)).to_pydict() == {"c": ["a", "b", "z"]}


def test_mapped_arrays_are_stored_by_value(store, tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.arange(100_000))
    ref = store.put(np.load(path, mmap_mode="r"))
    path.unlink()
    assert np.array_equal(store.get(ref), np.arange(100_000))


def test_equal_values_have_one_object(store):
    assert store.put(np.arange(50_000)).digest == store.put(np.arange(50_000)).digest
    assert store.usage().objects == 1


def test_small_values_are_inside_the_reference(store, tmp_path):
    ref = store.put({"a": np.arange(100), "f": pl.DataFrame({"x": [1]})})
    assert ref.inline is not None
    assert len(ref.inline) == ref.size
    assert not (tmp_path / "store" / "objects").exists()
    found = store.get(ref)["a"]
    assert found.ctypes.data % 64 == 0
    assert not found.flags.writeable


def test_a_value_in_use_outlives_its_object(store, tmp_path):
    ref = store.put(np.arange(100_000))
    found = store.get(ref)
    for path in (tmp_path / "store" / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    assert found.sum() == np.arange(100_000).sum()


@pytest.mark.needs("cpu")
def test_a_thousand_open_objects_need_no_descriptors(store):
    before = len(list_descriptors())
    refs = [store.put(np.full(10_000, at)) for at in range(300)]
    values = [store.get(ref) for ref in refs]
    assert all(value[0] == at for at, value in enumerate(values))
    assert len(list_descriptors()) - before < 20


def list_descriptors():
    import os

    return os.listdir("/dev/fd")
