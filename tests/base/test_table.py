"""Lists and dicts that are tables: what they were before, and text, HTML and frames."""

import pickle
import sys
from datetime import UTC, datetime

import pytest

from hooke.base.errors import MissingExtra, UsageError
from hooke.base.table import MOST_ROWS, TableDict, TableKind, TableList, fields_by_name

NUMBERS = TableKind(one="number", columns={"n": int, "half": lambda n: n / 2}, label=str)
WORDS = TableKind(one="word", columns={"word": str}, text=lambda word: f"- {word}")


def numbers(count: int) -> TableList[int]:
    return TableList(range(count), kind=NUMBERS)


class TestLists:
    def test_it_is_the_list_that_it_was(self):
        found = numbers(3)
        assert found == [0, 1, 2]
        assert isinstance(found, list)
        assert found[1] == 1
        assert [*found, 3] == [0, 1, 2, 3]
        assert pickle.loads(pickle.dumps(found)) == [0, 1, 2]

    def test_a_part_of_it_is_a_table_too(self):
        assert numbers(5)[1:3].columns() == {"n": [1, 2], "half": [0.5, 1.0]}

    @pytest.mark.parametrize(
        ("found", "line"),
        [
            (numbers(0), "<no numbers>"),
            (numbers(1), "<1 number: 0>"),
            (numbers(5), "<5 numbers: 0, 1, 2 and 2 more>"),
            (TableList(["a"] * 2000, kind=WORDS), "<2,000 words>"),
            (TableList(["a\nb"], kind=TableKind(one="word", columns={}, label=str)), "<1 word: a b>"),
        ],
    )
    def test_its_repr_is_one_line(self, found, line):
        assert repr(found) == line

    def test_print_shows_its_rows(self):
        assert str(numbers(0)) == "<no numbers>"
        assert str(numbers(2)) == "n  half\n0  0\n1  0.5"
        assert str(TableList(["a", "b"], kind=WORDS)) == "- a\n- b"

    def test_a_notebook_shows_the_first_rows_escaped(self):
        page = TableList(["<b>"] * (MOST_ROWS + 3), kind=WORDS)._repr_html_()
        assert page.count("&lt;b&gt;") == MOST_ROWS
        assert "<b>" not in page
        assert page.endswith("<div>and 3 more</div>")

    def test_a_notebook_looks_at_no_rows_that_it_does_not_show(self):
        taken = []
        kind = TableKind(one="row", columns={"at": taken.append})
        for found in (TableList(range(500), kind=kind), TableDict(dict.fromkeys("a" * 3), kind=kind)):
            assert found._repr_html_()
        assert len(taken) == MOST_ROWS + 1

    def test_moments_and_nothing_are_text(self):
        kind = TableKind(one="row", columns={"at": lambda each: each})
        page = TableList([datetime(2026, 1, 2, 12, tzinfo=UTC), None], kind=kind)._repr_html_()
        assert "2026-01-0" in page
        assert "None" not in page


class TestDicts:
    def test_a_row_for_each_name(self):
        found = TableDict({"a": 1, "b": 2}, kind=TableKind(one="parameter", columns={"value": int}))
        assert found == {"a": 1, "b": 2}
        assert repr(found) == "{'a': 1, 'b': 2}"
        assert found.columns() == {"parameter": ["a", "b"], "value": [1, 2]}
        assert pickle.loads(pickle.dumps(found)) == {"a": 1, "b": 2}


class TestFrames:
    @pytest.mark.parametrize("kind", ["pandas", "polars"])
    def test_of_either_library(self, kind):
        frame = numbers(3).to_frame(kind)
        assert type(frame).__module__.partition(".")[0] == kind
        assert frame["half"].to_list() == [0.0, 0.5, 1.0]

    @pytest.mark.parametrize(
        ("values", "polars"),
        [([1, 0.5], [1.0, 0.5]), (["auto", 3], ["auto", "3"]), ([None, 0.5, "x"], [None, "0.5", "x"])],
    )
    def test_a_column_may_have_several_types(self, values, polars):
        found = TableList(values, kind=TableKind(one="row", columns={"value": lambda each: each}))
        assert len(found.to_frame()) == len(values)
        assert found.to_frame("polars")["value"].to_list() == polars

    def test_of_no_rows_have_the_columns(self):
        assert list(numbers(0).to_frame().columns) == ["n", "half"]

    def test_of_another_library_are_refused(self):
        with pytest.raises(UsageError, match="valid: pandas, polars"):
            numbers(1).to_frame("arrow")

    def test_without_the_library_the_other_one_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingExtra) as error:
            numbers(1).to_frame()
        assert error.value.fix == "to_frame('polars'), or pip install pandas; columns() gives plain lists"


def test_columns_of_attributes():
    (value,) = fields_by_name("real").values()
    assert value(2) == 2
