"""Arrays and frames by content: not by how they lie in memory, are chunked, sliced or what lies under a null."""

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hooke.base.errors import NotFingerprintable
from hooke.keys import fingerprint_value

DAY, NEXT = dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 2)
ONE, TWO = decimal.Decimal("1.2"), decimal.Decimal("3.1")


def same(a, b):
    return fingerprint_value(a) == fingerprint_value(b)


ARROW = {
    "int": pa.array([1, None, 3, 4]),
    "float": pa.array([1.5, None, float("inf"), 4]),
    "bool": pa.array([True, None, False, True]),
    "string": pa.array(["a", None, "ccc", ""]),
    "large string": pa.array(["a", None, "ccc", ""], pa.large_string()),
    "string view": pa.array(["a", None, "ccc", ""], pa.string_view()),
    "list": pa.array([[1], None, [], [2, None]]),
    "list of text": pa.array([["a", "b"], None, [], ["c", None]]),
    "struct": pa.array([{"a": 1}, None, {"a": None}, {"a": 4}]),
    "dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "decimal": pa.array([ONE, None, TWO, decimal.Decimal("0.0")]),
    "moments": pa.array([DAY, None, None, NEXT]),
    "map": pa.array([[("a", 1)], None, [], [("b", 2), ("c", 3)]], pa.map_(pa.string(), pa.int64())),
    "fixed list": pa.array([[1, 2], None, [3, 4], [5, None]], pa.list_(pa.int64(), 2)),
    "fixed bytes": pa.array([b"ab", None, b"cd", b"ef"], pa.binary(2)),
}


@pytest.mark.parametrize("name", ARROW)
def test_arrow_chunks_and_slices_do_not_count(name):
    array = ARROW[name]
    twice = pa.concat_arrays([array, array])
    assert same(twice.slice(4, 4), array)
    assert same(pa.chunked_array([array, array]), pa.chunked_array([twice.slice(0, 3), twice.slice(3, 5)]))
    assert same(pa.table({"x": pa.chunked_array([array, array])}), pa.table({"x": twice}))
    assert not same(array, twice.slice(1, 4))
    assert not same(array, twice)
    assert not same(array[0], array[1])


def test_arrow_types_names_and_metadata_count():
    table = pa.table({"x": [1, 2]})
    others = [
        pa.table({"y": [1, 2]}),
        pa.table({"x": pa.array([1, 2], pa.int32())}),
        table.replace_schema_metadata({"a": "b"}),
        table.to_batches()[0],
        table.schema,
        table["x"],
        table["x"].chunk(0),
        pa.array([], pa.int64()),
        pa.nulls(2),
    ]
    assert len({fingerprint_value(value) for value in [table, *others]}) == len(others) + 1


POLARS = {
    "int": pl.Series([1, None, 3]),
    "small int": pl.Series([1, None, 3], dtype=pl.Int8),
    "wide int": pl.Series([1, None, 2**100], dtype=pl.Int128),
    "float": pl.Series([1.5, None, float("inf")]),
    "bool": pl.Series([True, None, False]),
    "string": pl.Series(["a", None, "ccc"]),
    "bytes": pl.Series([b"a", None, b"cc"]),
    "list": pl.Series([[1], None, []]),
    "list of text": pl.Series([["a", "b"], [], [None]]),
    "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int64, 2)),
    "struct": pl.Series([{"a": 1, "b": "x"}, None, {"a": None, "b": "z"}]),
    "date": pl.Series([DAY.date(), None, NEXT.date()]),
    "moment": pl.Series([DAY, None, NEXT]),
    "duration": pl.Series([dt.timedelta(1), None, dt.timedelta(2)]),
    "time": pl.Series([dt.time(1), None, dt.time(2)]),
    "decimal": pl.Series([ONE, None, TWO]),
    "categorical": pl.Series(["a", None, "b"], dtype=pl.Categorical),
    "enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
}


@pytest.mark.parametrize("name", POLARS)
def test_polars_chunks_and_slices_do_not_count(name):
    series = POLARS[name]
    twice = pl.concat([series, series], rechunk=False)
    assert same(twice.slice(3, 3), series)
    assert same(twice, twice.rechunk())
    assert same(twice.to_frame(), twice.rechunk().to_frame())
    assert not same(series, twice.slice(1, 3))
    assert not same(series, series.alias("other"))


def test_polars_plans_key_by_what_they_say():
    frame = pl.DataFrame({"a": [1, 2]})
    assert same(pl.col("a") + 1, pl.col("a") + 1)
    assert not same(pl.col("a") + 1, pl.col("a") + 2)
    assert same(frame.lazy().select(pl.col("a").sum()), frame.lazy().select(pl.col("a").sum()))
    assert not same(frame.lazy().select(pl.col("a").sum()), frame.lazy().select(pl.col("a").max()))
    for plan in (pl.col("a").map_elements(abs), frame.lazy().map_batches(lambda batch: batch)):
        with pytest.raises(NotFingerprintable, match="Python function"):
            fingerprint_value(plan)


PANDAS = {
    "int": pd.Series([1, 2, 3]),
    "object": pd.Series([1, "a", None], dtype=object),
    "text": pd.Series(["a", None, "c"]),
    "python text": pd.Series(["a", None, "c"], dtype="string[python]"),
    "category": pd.Series(["a", "b", None], dtype="category"),
    "zoned": pd.Series(pd.date_range("2026", periods=3, tz="UTC")),
    "moment": pd.Series(pd.date_range("2026", periods=3)),
    "duration": pd.Series(pd.to_timedelta([1, 2, 3])),
    "period": pd.Series(pd.period_range("2026", periods=3, freq="D")),
    "interval": pd.Series(pd.interval_range(0, 3)),
    "masked int": pd.Series([1, None, 3], dtype="Int64"),
    "masked bool": pd.Series([True, None, False], dtype="boolean"),
    "sparse": pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    "arrow": pd.Series([1, None, 3], dtype="int64[pyarrow]"),
}


@pytest.mark.parametrize("name", PANDAS)
def test_pandas_by_labels_types_and_content(name):
    series = PANDAS[name]
    assert same(series, series.copy(deep=True))
    assert same(series.iloc[1:], series.iloc[1:].copy(deep=True))
    others = [series.iloc[::-1], series.rename("other"), series.head(2), series.to_frame(), pd.Index(series)]
    assert len({fingerprint_value(value) for value in [series, *others]}) == len(others) + 1


def test_pandas_frames_by_columns_and_index():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    indexed = frame.set_index(["a", "b"])
    assert same(frame, frame.copy())
    assert same(indexed.index[:1], frame.iloc[:1].set_index(["a", "b"]).index)
    others = [
        frame[["b", "a"]],
        indexed,
        frame.set_index("a"),
        frame.astype({"a": "int32"}),
        frame.T,
        pd.NA,
        pd.NaT,
    ]
    assert len({fingerprint_value(value) for value in [frame, *others]}) == len(others) + 1


@pytest.mark.needs("cpu")
def test_arrays_by_content_in_any_memory_order():
    array = np.arange(12).reshape(3, 4)
    assert same(array, np.asfortranarray(array))
    assert same(array.T, array.T.copy())
    assert same(array[:, ::2], array[:, ::2].copy())
    assert not same(array, array.T)
    assert not same(array, array.astype("i4"))
    assert not same(np.zeros(0), np.zeros((0, 1)))
    big = np.arange(6_000_000.0).reshape(2000, 3000)
    assert same(big, np.asfortranarray(big))


def test_padding_between_fields_does_not_count():
    kind = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    clean, dirty = np.zeros(3, dtype=kind), np.zeros(3, dtype=kind)
    dirty.view(np.uint8).reshape(3, 16)[:, 1:8] = 7
    assert same(clean, dirty)
    dirty["b"][1] = 2
    assert not same(clean, dirty)


def test_mapped_arrays_key_as_those_in_memory(tmp_path):
    array = np.arange(1000.0)
    np.save(tmp_path / "a.npy", array)
    assert same(np.load(tmp_path / "a.npy", mmap_mode="r"), array)


@pytest.mark.parametrize("make", [sp.csr_array, sp.csc_array, sp.coo_array, sp.lil_array, sp.dok_array])
def test_sparse_arrays_by_entries_not_by_what_was_computed(make):
    matrix = make(np.eye(3))
    before = fingerprint_value(matrix)
    matrix.sum()
    matrix.tocsr().has_sorted_indices  # noqa: B018 - SciPy remembers the answer in the matrix
    assert fingerprint_value(matrix) == before
    assert not same(matrix, make(2 * np.eye(3)))
    assert not same(matrix, make(np.eye(4)))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(n_estimators=3, random_state=0),
        HistGradientBoostingClassifier(max_iter=3, random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=2, random_state=0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_estimators_by_parameters_and_what_they_learned(model):
    x = np.random.default_rng(0).random((50, 3))
    y = (x[:, 0] > 0.5).astype(int)
    assert same(clone(model).fit(x, y), clone(model).fit(x, y))
    assert not same(clone(model), clone(model).fit(x, y))
    assert not same(clone(model).fit(x, y), clone(model).fit(x, 1 - y))
