"""How like two values are: properties over nestings, and each kind of value once."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hooke.base.ref import FileRef
from hooke.keys.file import File
from hooke.running.reproduce.result_comparison import (
    CLOSE,
    DIFFERENT,
    EQUAL,
    LoadedResult,
    Tolerance,
    compare_results,
    compare_values,
)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(width=64)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
NESTINGS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9)


@pytest.mark.needs("cpu")
@given(NESTINGS)
def test_a_copy_is_bitwise_equal(value):
    assert compare_values(value, copy.deepcopy(value)).kind == EQUAL


@pytest.mark.needs("cpu")
@given(NESTINGS, NESTINGS, st.floats(0, 1), st.floats(0, 1))
def test_the_verdict_does_not_hang_on_the_order_where_values_are_equal_and_a_tolerance_only_helps(
    was, now, rtol, atol
):
    strict = compare_values(was, now)
    assert strict.kind in (EQUAL, DIFFERENT), "without a tolerance nothing is close"
    assert (strict.kind == EQUAL) == (compare_values(now, was).kind == EQUAL)
    lax = compare_values(was, now, Tolerance(rtol=rtol, atol=atol))
    assert lax.kind == EQUAL if strict.kind == EQUAL else lax.kind in (CLOSE, DIFFERENT)


@pytest.mark.needs("cpu")
@given(st.lists(NUMBERS, min_size=1, max_size=8), st.data())
def test_one_number_that_moved_is_found_in_lists_and_arrays(numbers, data):
    at = data.draw(st.integers(0, len(numbers) - 1))
    by = data.draw(st.floats(1e-3, 1e3))
    moved = [*numbers]
    moved[at] += by
    assume(moved[at] != numbers[at])
    gap = abs(moved[at] - numbers[at])
    for make in (list, np.array, lambda values: {"deep": (tuple(values),)}):
        found = compare_values(make(numbers), make(moved), Tolerance(atol=gap * 0.5))
        assert found.kind == DIFFERENT
        assert found.where.endswith(f"[{at}]")
        assert found.distance == pytest.approx(gap)
        assert compare_values(make(numbers), make(moved), Tolerance(atol=gap * 2)).kind == CLOSE


@pytest.mark.needs("cpu")
@given(NUMBERS, NUMBERS, st.floats(0, 1), st.floats(0, 10))
def test_numbers_are_close_as_numpy_says(was, now, rtol, atol):
    expected = bool(np.isclose(now, was, rtol=rtol, atol=atol))
    assert Tolerance(rtol=rtol, atol=atol).allows(was, now) == expected


def test_what_is_no_number_or_no_finite_one_is_close_to_itself_alone():
    lax = Tolerance(rtol=1.0, atol=1e300)
    assert lax.allows(math.nan, math.nan)
    assert lax.allows(math.inf, math.inf)
    assert not lax.allows(math.inf, -math.inf)
    assert not lax.allows(1.0, math.inf)
    assert not lax.allows(math.nan, 1.0)
    assert compare_values(np.array([math.inf]), np.array([-math.inf]), lax).kind == DIFFERENT
    assert compare_values(np.array([math.nan]), np.array([0.0]), lax).kind == DIFFERENT


@dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    weights: np.ndarray


class Plain:
    def __init__(self, bias: float) -> None:
        self.bias = bias
        self.me = self


@pytest.mark.parametrize(
    ("was", "now", "where"),
    [
        (1, 1.0, ""),
        (True, 1, ""),
        (0.0, -0.0, ""),
        (np.array([0.0]), np.array([-0.0]), "[0]"),
        ({"a": 1}, {"a": 1, "b": 2}, "['b']"),
        ([1, 2], [1, 2, 3], " (length)"),
        ({1, 2}, {1, 3}, ""),
        (np.array([1.0]), np.array([1.0], dtype="f4"), " (type)"),
        (np.array(["a", "b"]), np.array(["a", "c"]), "[1]"),
        (np.array([1, None], dtype=object), np.array([1, 2], dtype=object), "[1]"),
        (Slotted("a", np.zeros(2)), Slotted("a", np.array([0.0, 1.0])), ".weights[1]"),
        (Plain(1.0), Plain(2.0), ".bias"),
        (complex(1, 2), complex(1, 3), ""),
    ],
)
def test_what_differs_is_named(was, now, where):
    found = compare_values(was, now)
    assert (found.kind, found.where) == (DIFFERENT, where)
    assert str(found)


def test_a_zero_is_close_to_a_negative_one_where_there_is_a_tolerance():
    for was, now in ((0.0, -0.0), (np.array([1, 0j]), np.array([1, -0j]))):
        assert compare_values(was, now, Tolerance(atol=1e-12)).kind in (CLOSE, EQUAL)


def test_frames_and_tensors_are_compared_by_element():
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    for make in (polars.DataFrame, pandas.DataFrame, pyarrow.table):
        found = compare_values(make({"a": [1.0, 2.0]}), make({"a": [1.0, 2.5]}))
        assert (found.kind, found.where, found.distance) == (DIFFERENT, "['a'][1]", 0.5)
        assert (
            compare_values(make({"a": [1.0]}), make({"a": [1.0 + 1e-9]}), Tolerance(atol=1e-6)).kind == CLOSE
        )
        assert compare_values(make({"a": [1.0]}), make({"b": [1.0]})).kind == DIFFERENT
        assert compare_values(make({"a": ["x", None]}), make({"a": ["x", "y"]})).where == "['a'][1]"


def held(path, content, make=File):
    """A result with a file that had this content when it was stored; it is not on the disk."""
    file = File(path)
    file.key = content * 32
    file.result = FileRef(path=path, key=file.key)
    return LoadedResult({"file": make(path)}, [file])


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        (held("a.txt", "1"), held("a.txt", "1"), EQUAL),
        (held("a.txt", "1"), held("a.txt", "2"), DIFFERENT),
        (held("a.txt", "1"), held("b.txt", "1"), EQUAL),
        (held("a.txt", "1", Path), held("a.txt", "1", Path), EQUAL),
        (held("a.txt", "1", Path), held("a.txt", "2", Path), DIFFERENT),
        (held("a.txt", "1", Path), held("b.txt", "1", Path), DIFFERENT),
        (held("a.txt", "1"), held("a.txt", "1", Path), DIFFERENT),
    ],
)
def test_files_count_by_the_content_that_was_stored(was, now, kind):
    assert compare_results(was, now).kind == kind


def test_two_contents_of_a_file_are_named(tmp_path):
    found = compare_results(held("a.txt", "1"), held("a.txt", "2"))
    assert str(found) == "['file'] was a.txt with content 111111111111, is a.txt with content 222222222222"
    gone = compare_values(File(tmp_path / "a"), File(tmp_path / "b"))
    assert gone.kind == DIFFERENT, "nobody knows what was in them"
    assert str(compare_values(Path("a"), Path("b"))) == "it was a, is b"
