"""Values of annotated parameters: from text, from plain values, and the check of those given in Python."""

import collections.abc
import enum
import os
import types
import typing
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import numpy as np
import pytest
from pydantic import BaseModel

import hooke
from hooke.base.annotations import (
    Unfit,
    annotations_of,
    check_arguments,
    from_plain,
    from_texts,
    is_flag,
    is_repeated,
    kind_of_default,
    kind_shown,
)
from hooke.base.errors import UsageError
from hooke.pipeline.arguments import bind_call, signature_of
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.trace import trace


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Split:
    size: int
    every: timedelta = timedelta(days=1)
    colours: list[Colour] = field(default_factory=list)


class Place(TypedDict):
    row: int


class Config(BaseModel):
    depth: int


UserId = NewType("UserId", int)
T = TypeVar("T")

GOOD = [
    ("2026-11-28", date, date(2026, 11, 28)),
    ("2026-11-28", datetime, datetime(2026, 11, 28)),
    ("2026-11-28 09:30", datetime, datetime(2026, 11, 28, 9, 30)),
    ("2026-11-28T09:30:05Z", datetime, datetime(2026, 11, 28, 9, 30, 5, tzinfo=UTC)),
    ("09:30", time, time(9, 30)),
    ("90s", timedelta, timedelta(seconds=90)),
    ("1h30m", timedelta, timedelta(minutes=90)),
    ("1h 30m", timedelta, timedelta(minutes=90)),
    ("-5m", timedelta, timedelta(minutes=-5)),
    ("10", timedelta, timedelta(seconds=10)),
    ("1e6", int, 1_000_000),
    ("0.10", Decimal, Decimal("0.10")),
    ("1/3", Fraction, Fraction(1, 3)),
    ("8c1c1f6e-0b3b-4a7e-9f3e-0d6f2b1c5a77", UUID, UUID("8c1c1f6e-0b3b-4a7e-9f3e-0d6f2b1c5a77")),
    ("5", UserId, 5),
    ("red", Colour, Colour.RED),
    ("g", Colour, Colour.GREEN),
    ("2", Level, Level.HIGH),
    ("None", date | None, None),
    ("2026-11-28", date | str, date(2026, 11, 28)),
    ("soon", date | str, "soon"),
    ("3", float | int, 3),
    ("1", bool | int, 1),
    ("yes", bool | int, True),
    ("a", str | list[str], "a"),
    ('["a"]', str | list[str], ["a"]),
    ("3", list[int], [3]),
    ("[1, 2]", list[int], [1, 2]),
    ("[]", list[int], []),
    ("[draft] a", list[str], ["[draft] a"]),
    ("[1, 2]", list[list[int]], [[1, 2]]),
    ('["90s"]', list[timedelta], [timedelta(seconds=90)]),
    ('{"a": "90s"}', dict[str, timedelta], {"a": timedelta(seconds=90)}),
    ('{"1": 2}', dict[int, int], {1: 2}),
    ('{"size": 2, "every": "2h", "colours": ["RED", "g"]}', Split, Split(2, timedelta(hours=2), [Colour.RED, Colour.GREEN])),
    ('{"row": 3}', Place, {"row": 3}),
    ('{"depth": 3}', Config, Config(depth=3)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "value"), GOOD)
def test_text_as_people_type_it(text, kind, value):
    made = from_texts([text], kind)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("texts", "kind", "value"),
    [
        (["1", "2"], list[int], [1, 2]),
        (["1", "2"], list[int] | None, [1, 2]),
        (["a", "b"], tuple[str, ...], ("a", "b")),
        (["1", "a"], tuple[int, str], (1, "a")),
        (["1", "2", "1"], set[int], {1, 2}),
        (["1", "2"], frozenset[int], frozenset({1, 2})),
        (["RED", "g"], collections.abc.Sequence[Colour], [Colour.RED, Colour.GREEN]),
        (["90s", "2m"], list[timedelta], [timedelta(seconds=90), timedelta(minutes=2)]),
        (["[1, 2]", "[3]"], list[list[int]], [[1, 2], [3]]),
        (["a", "b"], str | list[str], ["a", "b"]),
        (["1", "x"], list, [1, "x"]),
    ],
)
def test_repeated_options_are_one_value(texts, kind, value):
    assert is_repeated(kind)
    assert from_texts(texts, kind) == value


@pytest.mark.parametrize(
    ("texts", "kind", "said"),
    [
        (["28.11.2026"], date, "a date, such as 2026-11-28"),
        (["tomorrow"], datetime, "a date and a time, such as"),
        (["half an hour"], timedelta, "90s, 1h30m"),
        (["1.5"], int, "whole number"),
        (["blue"], Colour, "one of RED, GREEN, or a value: r, g"),
        (["1,2"], list[int], "repeat the option for several, or write JSON"),
        (["1", "x"], list[int], r"item 1 \('x'\): it must be a whole number"),
        (["1", "2", "3"], tuple[int, int], "2 values, not 3"),
        (["1"], tuple[int, int], "2 values: repeat the option"),
        (["x"], int | None, "whole number, or none"),
        (['{"size": "big"}'], Split, "size: it must be a whole number"),
        (['{"sise": 1}'], Split, "no field 'sise': did you mean size"),
        (["{}"], Split, "needs size"),
        (['{"depth": "deep"}'], Config, "Config refuses it"),
        (['{"a": "x"}'], dict[str, int], r"\['a'\]: it must be a whole number"),
        (["x"], np.ndarray, "call run\\(\\) from Python"),
    ],
)
def test_what_is_wrong_is_said(texts, kind, said):
    with pytest.raises(Unfit, match=said):
        from_texts(texts, kind)


@pytest.mark.parametrize(
    ("plain", "kind", "value"),
    [
        ("90s", timedelta, timedelta(seconds=90)),
        (90, timedelta, timedelta(seconds=90)),
        (date(2026, 11, 28), datetime, datetime(2026, 11, 28)),
        (1e6, int, 1_000_000),
        (3, float, 3.0),
        ("2", int, 2),
        (2, Level, Level.HIGH),
        (["1", 2], list[int], [1, 2]),
        ([1, 2], tuple[int, ...], (1, 2)),
        ({"size": 2, "every": 3600}, Split, Split(2, timedelta(hours=1))),
        (None, int | None, None),
        ("~", Path, Path.home()),
    ],
)
def test_values_of_toml_yaml_and_json(plain, kind, value):
    made = from_plain(plain, kind)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("plain", "kind", "said"),
    [
        (1.10, str, "put it in quotes"),
        (True, int, "whole number"),
        (1, bool, "bool, not int"),
        (float("nan"), float, "number"),
        (datetime(2026, 11, 28, 9), date, "date"),
        (3, list[int], "it must be a list"),
        (["ab"], list[list[str]], "it must be a list"),
        (None, int, "whole number"),
    ],
)
def test_plain_values_of_another_type_are_refused(plain, kind, said):
    with pytest.raises(Unfit, match=said):
        from_plain(plain, kind)


class Shape(enum.StrEnum):
    ROUND = "round"


class Log:
    """An object that may do what another class does."""


FITTING = [
    (np.int64(3), int),
    (True, int),
    (np.True_, int),
    (3, float),
    (np.float32(3), float),
    (Decimal("0.5"), float),
    (np.True_, bool),
    (1, bool),
    (np.int64(0), bool),
    (1, complex),
    (3, Decimal),
    (0.5, Fraction),
    (Path("a"), Path),
    ("a", Path),
    (hooke.File("a"), Path),
    ("a", os.PathLike),
    ("a", Path | None),
    (Path("a"), str),
    ("a", list[Path] | Path),
    (["a", Path("b")], list[Path]),
    (np.arange(3), collections.abc.Sequence[int]),
    (np.arange(3), list[int]),
    (range(3), list[int]),
    ((1, 2), list[int]),
    ({1: "a"}.keys(), list[int]),
    (deque([1]), list[int]),
    ({1, 2}, list[int]),
    ([1, 2], tuple[int, int]),
    ([1, 1], set[int]),
    ((each for each in [1]), list[int]),
    ("abc", collections.abc.Sequence[str]),
    ({"row": 1}, Place),
    (types.MappingProxyType({"row": 1}), Place),
    (types.MappingProxyType({"a": 1}), dict[str, int]),
    ([1, 2], list[int]),
    ([1, 2.5], np.ndarray),
    (2.5, np.ndarray),
    (len, collections.abc.Callable),
    (int, type[int]),
    (5, UserId),
    (5, T),
    ("x", "NotKnownHere"),
    ("a", Literal["a", "b"]),
    (np.int64(1), Literal[1, 2]),
    ("round", Shape),
    (1, Level),
    (Log(), Split),
    (np.datetime64("2026-11-28"), date),
    (None, int | None),
]  # fmt: skip
UNFIT = [
    ("3", int, "x takes int, not str: '3'", "pass 3"),
    ("abc", int, "x takes int, not str: 'abc'", "pass a value of that type, or change the annotation of x"),
    (3.0, int, "x takes int, not float: 3.0", "pass 3"),
    (2.5, int, "x takes int, not float: 2.5", "pass a value of that type"),
    ([1], int, "x takes int, not list", "pass a value"),
    ("1", float, "x takes float", "pass 1.0"),
    (None, float, "x takes float, not NoneType", r"pass a value, or annotate it as float | None"),
    (5, bool, "x takes bool, not int", "pass a value"),
    (0.0, bool, "x takes bool, not float", "pass a value"),
    ("no", bool, "x takes bool, not str: 'no'", "pass False"),
    (None, int, "x takes int, not NoneType", "pass a value, or annotate it as int | None"),
    (None, Path, "x takes Path, not NoneType", "pass a value"),
    (3, Path, "x takes Path, not int", "pass a value"),
    (3, str, "x takes str, not int: 3", "pass a value"),
    (["a"], str, "x takes str, not list", "pass a value"),
    (b"a", str, "x takes str, not bytes", "pass a value"),
    (3, list[int], r"x takes list\[int\], not int: 3", "pass a value"),
    ("ab", list[str], r"x takes list\[str\], not str: 'ab'", r"pass ['ab']"),
    ({"a": 1}, list[str], r"x takes list\[str\], not dict", "pass a value"),
    ([1, "b"], list[int], r"x\[1\] takes int, not str: 'b'", "pass a value"),
    (range(3), list[str], r"x\[0\] takes str, not int: 0", "pass a value"),
    ((1, None), list[int], r"x\[1\] takes int, not NoneType", "pass a value"),
    ({"k": "v"}, dict[str, int], r"x\['k'\] takes int", "pass a value"),
    ([("k", 1)], dict[str, int], r"x takes dict\[str, int\], not list", "pass a value"),
    ({1, "v"}, set[int], "an item of x takes int", "pass a value"),
    ((1,), tuple[int, int], r"x takes tuple\[int, int\]", "pass a value"),
    ("c", Literal["a", "b"], r"x takes Literal\['a', 'b'\]", "pass a value"),
    ("r", Colour, "x takes Colour, not str: 'r'", "pass <Colour.RED"),
    ("x", int | None, r"x takes int \| None, not str", "pass a value"),
    (date(2026, 1, 1), datetime, "x takes datetime, not date", "pass a value"),
    (90, timedelta, "x takes timedelta, not int", "pass datetime.timedelta(seconds=90)"),
    ([1], Place, "x takes Place", "pass a value"),
    ({"size": 2}, Split, "x takes Split, not dict", "pass Split(size=2"),
    ({"depth": 2}, Config, "x takes Config, not dict", "pass Config(depth=2)"),
    ("data.csv", hooke.File, "x takes File, not str: 'data.csv'", "pass File('data.csv')"),
    ("abc", np.ndarray, "x takes ndarray, not str", "pass a value"),
    (3, collections.abc.Callable, "x takes Callable, not int", "pass a value"),
]  # fmt: skip


def checked(value: Any, kind: Any) -> None:
    def job(x):
        return x

    job.__annotations__["x"] = kind
    signature = signature_of(job)
    check_arguments("pipeline 'job'", signature, {"x": kind}, bind_call("job", signature, (value,), {}))


@pytest.mark.parametrize(("value", "kind"), FITTING)
def test_what_fits_an_annotation(value, kind):
    checked(value, kind)


@pytest.mark.parametrize(("value", "kind", "said", "fix"), UNFIT)
def test_what_does_not_is_refused_by_name(value, kind, said, fix):
    with pytest.raises(UsageError, match=f"pipeline 'job': {said}") as refused:
        checked(value, kind)
    assert fix in refused.value.fix


RAN: list[str] = []


@pipeline
def body(x: int, *more: int, lazy: int = None, **others: float) -> list[Any]:  # noqa: RUF013 - a default always fits
    RAN.append("body")
    return [x, *more, lazy, others]


def test_nothing_runs_with_a_value_of_another_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RAN.clear()
    with pytest.raises(UsageError, match="pipeline 'body': x takes int, not str: 'text'"):
        hooke.run(body, x="text")
    with pytest.raises(UsageError, match=r"more\[1\] takes int"):
        trace(body, (1, 2, "3"))
    with pytest.raises(UsageError, match=r"others\['rate'\] takes float"):
        trace(body, (1,), {"rate": "high"})
    assert RAN == []
    assert not (tmp_path / ".hooke").exists()
    trace(body, (1, 2), {"rate": 1})
    assert RAN == ["body"]


@pipeline
def taken(
    path: Path, rows: list[int], rate: float, names: dict[str, int], when: Literal["a"] = "a"
) -> list[Any]:
    return [path, rows, rate, names, when]


def test_what_fits_arrives_as_it_was_passed():
    given = ("data.csv", range(3), np.int64(2), types.MappingProxyType({"a": 1}))
    output = trace(taken, given).output
    assert output == [*given, "a"]
    assert [type(each) for each in output[:4]] == [type(each) for each in given]


def test_annotations_that_cannot_be_evaluated_are_left_out():
    def job(x: "Unknown", y: int):  # noqa: F821 - on purpose
        return x, y

    job.__annotations__["y"] = int
    assert annotations_of(job) == {"y": int}


class Pair(NamedTuple):
    a: int


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (date, "DATE"),
        (timedelta, "DURATION"),
        (list[int], "INT ..."),
        (set[Colour], "RED|GREEN ..."),
        (tuple[int, str], "INT TEXT"),
        (list[list[int]], "JSON ..."),
        (list[int] | None, "INT ..."),
        (dict[str, int], "JSON"),
        (UserId, "INT"),
        (typing.Annotated[int, "of years"], "INT"),
    ],
)
def test_kinds_are_shown_short(kind, shown):
    assert kind_shown(kind) == shown


def test_flags_and_defaults():
    assert is_flag(bool) and is_flag(bool | None)
    assert not is_flag(int) and not is_flag(bool | int)
    assert [kind_of_default(each) for each in (1, (), Path("a"), date(2026, 1, 1), Colour.RED, None)] == [
        int, tuple, Path, date, Colour, None,
    ]  # fmt: skip
