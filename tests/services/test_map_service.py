"""`map_service`: a table through a service's class, without serving, is what serving it would answer."""

import asyncio
import os
import random

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.serving.services import Item, Kinds, Rows

from hooke import HookeError, UsageError, map_service, pipeline, run, service, task
from hooke.testing import client


@service(max_batch=8)
class Shapes:
    """Takes rows in each way, and notes how many it got."""

    def setup(self, factor: float = 1.0):
        self.factor = factor
        self.calls: list[int] = []

    def table(self, rows: NDArray[np.float32], shift: float = 0.0) -> dict[str, np.ndarray]:
        self.calls.append(len(rows))
        return {"sum": rows.sum(axis=1) * self.factor + shift, "first": rows[:, 0]}

    def columns(self, month: list[int], name: list[str]) -> list[str]:
        return [f"{one}{month}" for one, month in zip(name, month, strict=True)]

    def records(self, items: list[Item]) -> list[float]:
        return [item.price for item in items]

    async def later(self, rows: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return rows[::-1]

    def counts(self, rows: list[int]) -> list[int]:
        return [len(rows)] * len(rows)

    def stream(self, rows: list[int]):
        yield rows


@service
class Single:
    """One request a call."""

    def greet(self, name: str, times: int = 1) -> str:
        return name * times


@pytest.fixture(scope="module")
def online():
    with client(Rows, scale=3.0) as made:
        yield made


@pytest.mark.needs("cpu")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=40))
def test_it_answers_what_the_service_answers(online, rows):
    found = map_service(Rows, [list(row) for row in rows], method="predict", scale=3.0)
    assert found.tolist() == online.post("/predict", {"rows": rows}).json()


@pytest.mark.needs("cpu")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.text(max_size=3) | st.integers(-9, 9) | st.none(), max_size=3), min_size=1, max_size=20
    )
)
def test_so_it_does_for_lists(online, rows):
    found = map_service(Rows, rows, method="listed", arguments={"mark": "x"}, scale=3.0)
    assert found == online.post("/listed", {"rows": rows, "mark": "x"}).json()


def test_a_list_may_hold_tuples_and_a_table_without_rows_has_no_dimensions():
    assert map_service(Rows, [("a", "b"), ("c", "d")], method="same").tolist() == [["a", "b"], ["c", "d"]]
    assert list(map_service(Rows, [], method="square")) == []
    assert list(map_service(Rows, np.array([]), method="square")) == []


@pytest.mark.needs("cpu")
def test_batches_are_whole_and_rows_stay_in_order():
    assert map_service(Shapes, list(range(20)), method="counts") == [8] * 16 + [4] * 4
    rows = np.arange(40.0).reshape(20, 2)
    found = map_service(Shapes, rows, method="table", arguments={"shift": 1.0}, factor=2.0)
    assert found["sum"].tolist() == (rows.sum(axis=1) * 2 + 1).tolist()
    assert found["first"].dtype == np.float32
    assert map_service(Shapes, [], method="counts") == []


def test_tables_of_polars_and_pandas():
    columns = {"month": [1, 2, 3], "name": ["a", "b", "c"]}
    for table in (columns, pl.DataFrame(columns), pd.DataFrame(columns)):
        assert map_service(Shapes, table, method="columns") == ["a1", "b2", "c3"]
    numbers = {"x": [1.0, 2.0], "y": [3.0, 4.0]}
    for table in (pl.DataFrame(numbers), pd.DataFrame(numbers)):
        assert map_service(Shapes, table, method="table")["sum"].tolist() == [4.0, 6.0]
    items = {"name": ["a", "b"], "price": [2.5, 3.5]}
    for table in (pl.DataFrame(items), pd.DataFrame(items)):
        assert map_service(Shapes, table, method="records") == [2.5, 3.5]


def test_async_methods_and_single_requests():
    assert map_service(Shapes, [1, 2, 3], method="later") == [3, 2, 1]
    assert map_service(Single, ["a", "b"]) == ["a", "b"]
    assert map_service(Single, ["a", "b"], arguments={"times": 2}) == ["aa", "bb"]
    assert map_service(Single, [{"name": "a", "times": 3}, {"name": "b"}]) == ["aaa", "b"]
    assert map_service(Kinds, [{"name": "a", "price": 2}], method="dataclass") == [Item("a", 2.0)]

    async def inside():
        return map_service(Shapes, [1, 2], method="later")

    assert asyncio.run(inside()) == [2, 1]


def test_the_row_that_is_to_blame_is_named():
    rows = np.ones((30, 2))
    rows[[13, 17]] = -1
    with pytest.raises(HookeError, match="Rows.predict raised ValueError: secret") as raised:
        map_service(Rows, rows, method="predict")
    assert raised.value.where == "row 13"
    with pytest.raises(HookeError, match="2 rows for 4") as raised:
        map_service(Rows, [1, 2, 3, 4], method="lost")
    assert raised.value.where == "rows 0 to 3"


@pytest.mark.parametrize(
    ("made", "data", "options", "said"),
    [
        (Shapes, [1], {}, "has several"),
        (Shapes, [1], {"method": "stream"}, "no method 'stream'"),
        (Shapes, [1], {"method": "count"}, "no method 'count'"),
        (Shapes, [["a"]], {"method": "table"}, "got text"),
        (Rows, [[1, "a"]], {"method": "same"}, "only numbers, only booleans, or only text"),
        (Rows, [[1, None]], {"method": "same"}, "only numbers, only booleans, or only text"),
        (Rows, np.array([1.0]), {"method": "square"}, "2 dimensions, got 1"),
        (Shapes, ["a"], {"method": "later"}, "Expected `int`"),
        (Shapes, {"month": [1]}, {"method": "columns"}, "name is missing"),
        (Shapes, {"month": [1], "name": ["a", "b"]}, {"method": "columns"}, "not equally long"),
        (Shapes, [[1.0]], {"method": "table", "arguments": {"shft": 1}}, "no 'shft' beside"),
        (Shapes, [[1.0]], {"method": "table", "facto": 1}, "takes no 'facto'"),
        (Item, [1], {}, "is not a service"),
    ],
)
def test_what_does_not_fit_is_said(made, data, options, said):
    with pytest.raises(UsageError, match=said) as refused:
        map_service(made, data, **options)
    assert refused.value.fix


@task
def numbers(n: int) -> pl.DataFrame:
    return pl.DataFrame({"x": np.arange(n) * 1.0, "y": np.ones(n)})


@task
def half(x: float) -> float:
    return x / 2


@service(max_batch=4)
class Drawn:
    """Draws by chance when it is set up, and in each batch; notes where it was set up."""

    def setup(self, noted: str):
        self.drawn = random.random()
        with open(noted, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")

    def draw(self, rows: list[int]) -> list[list]:
        return [[row, self.drawn, random.random()] for row in rows]


@pipeline
def drawn(n: int, noted: str):
    return map_service(Drawn, listed(n), noted=noted)


@task
def listed(n: int) -> list[int]:
    return list(range(n))


@pipeline
def scored(n: int):
    return map_service(Shapes, numbers(n), method="table", factor=half(4.0))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("n", [0, 1, 300])
def test_in_a_pipeline_it_is_tasks(n, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run(scored, n=n, on="serial")
    if n:
        assert made.result()["sum"].tolist() == [2.0 * (x + 1) for x in range(n)]
    else:
        assert made.result() == []


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("place", [{"on": "serial"}, {"on": "local", "workers": 2}])
def test_each_worker_sets_the_service_up_once_and_chance_does_not_depend_on_it(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noted = tmp_path / "noted"
    found = run(drawn, n=128, noted=str(noted), **place).result()
    pids = noted.read_text().split()
    assert len(pids) == len(set(pids)) <= place.get("workers", 1)
    assert [row for row, _, _ in found] == list(range(128))
    assert len({once for _, once, _ in found}) == 1
    draws = [draw for _, _, draw in found]
    assert len(set(draws)) == 128
    assert run(drawn, n=128, noted=str(noted), **place).result() == found
    assert noted.read_text().split() == pids, "nothing is set up for what is cached"
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")  # another project: nothing is cached
    assert run(drawn, n=128, noted=str(noted), on="serial").result() == found
