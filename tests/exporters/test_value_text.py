"""Values as text: what is written is read back, and references stand for stored values wherever they are."""

import dataclasses
import datetime
import enum
import math
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke import File
from hooke.base.errors import UsageError
from hooke.base.ref import Ref
from hooke.exporters.value_text import Construction, read_value, reference_text, stored_value, write_value
from hooke.pipeline.references import StoredValue


class Point(NamedTuple):
    x: int
    y: float = 0.5


@dataclasses.dataclass(frozen=True)
class Named:
    name: str
    points: tuple[Point, ...] = ()


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Counted:
    count: int = dataclasses.field(init=False, default=0)


def as_call(made: Construction) -> str:
    parts = [*map(written, made.args), *(f"{name}={written(value)}" for name, value in made.kwargs.items())]
    return f"{made.module}.{made.name}({', '.join(parts)})"


def written(value):
    return write_value(value, lambda _: None, as_call)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
)
OBJECTS = (
    st.builds(Point, st.integers(), st.floats(allow_nan=False))
    | st.builds(Named, st.text(), st.lists(st.builds(Point, st.integers(), st.just(0.25))).map(tuple))
    | st.just(Color.RED)
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9))
)
VALUES = st.recursive(
    SCALARS | OBJECTS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.text())
    ),
    max_leaves=12,
)


@pytest.mark.needs("cpu")
@given(VALUES)
def test_what_is_written_is_read_back(value):
    again = read_value(written(value))
    assert again == value and type(again) is type(value)


@pytest.mark.needs("cpu")
@given(VALUES.filter(lambda value: not {"(", "<"} & set(repr(value))))
def test_what_python_shows_of_plain_values_is_read(value):
    assert read_value(repr(value)) == value


DIGEST = "ab" * 32
STEPS = st.lists(
    st.text()
    | st.integers()
    | st.none()
    | st.booleans()
    | st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers(1, 5))
)


@pytest.mark.needs("cpu")
@given(st.integers(0, 10**9), STEPS)
def test_a_reference_is_a_text(size, path):
    text = reference_text(Ref(DIGEST, size), tuple(path))
    assert stored_value(text) == StoredValue(Ref(DIGEST, size), tuple(path)) == read_value(text)


def test_references_count_wherever_they_are():
    text = reference_text(Ref(DIGEST, 7))
    stored = StoredValue(Ref(DIGEST, 7))
    assert read_value(repr({"a": [text, 1], "b": (text + "['x']",)})) == {
        "a": [stored, 1],
        "b": (StoredValue(Ref(DIGEST, 7), ("x",)),),
    }
    assert read_value(repr(f" {text}")) == f" {text}", "a text that only contains one is a text"


def test_other_texts_that_are_values():
    assert math.isnan(read_value("nan")) and read_value("[inf, -inf]") == [math.inf, -math.inf]
    assert read_value("File('a.csv')") == File("a.csv") and read_value("Path('a')") == Path("a")
    assert written(File("a.csv")) == "hooke.File('a.csv')" and written(Path("a")) == "pathlib.Path('a')"


@pytest.mark.parametrize(
    "text",
    [
        "os.system('true')",
        "open('a')",
        "nothing.of.this(1)",
        f"{__name__}.Counted()()",
        "[1, 2",
        "word",
        "hooke:ab.1",
        f"hooke:{DIGEST}.1[",
        f"hooke:{DIGEST}.1[x]",
        "1 + 2",
        "lambda: 1",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError):
        read_value(text)


@pytest.mark.parametrize(
    "value", [object(), Counted(), len, datetime.datetime.now(datetime.UTC), {1: object()}]
)
def test_what_has_no_text_is_refused(value):
    with pytest.raises(UsageError, match="cannot be written as text"):
        written(value)
