import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hooke.cli.drive import result_json, result_text


@dataclass
class Point:
    x: int
    y: float


class Bare:
    pass


class Broken:
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


class TestText:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "None"),
            (3, "3"),
            (0.25, "0.25"),
            ("two\nlines", "two\nlines"),
            ("", ""),
            ([1, 2], "[1, 2]"),
            ({}, "{}"),
            ({"a": 1, "bb": "x"}, "{'a': 1, 'bb': 'x'}"),
            (Point(1, 2.0), "Point(x=1, y=2.0)"),
            ({"p": Point(1, 2.0), "text": "x"}, "p     Point(x=1, y=2.0)\ntext  x"),
            (np.float64(0.5), "0.5"),
        ],
    )
    def test_short_values_are_said_as_python_does(self, value, text):
        assert result_text(value) == text

    def test_frames_show_themselves_below_their_names(self):
        lines = result_text({"scores": pl.DataFrame({"a": [1]}), "n": 1}).splitlines()
        assert lines[0] == "scores"
        assert all(line.startswith("  ") for line in lines[1:-1])
        assert lines[-1] == "n       1"

    def test_big_things_are_shown_by_shape(self):
        assert result_text(np.zeros((1000, 3000))).splitlines()[0] == "ndarray(1000, 3000)"
        assert len(result_text(list(range(1000))).splitlines()) == 21
        assert len(result_text({"model": "x" * 5000 + "\n"}).splitlines()) == 1

    def test_no_repr_breaks_it(self):
        assert "Bare" in result_text(Bare())
        assert "Broken" in result_text({"x": Broken()})


class TestJson:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (float("nan"), None),
            ({1: (2, 3)}, {"1": [2, 3]}),
            ({"b", "a"}, ["a", "b"]),
            (Point(1, 2.0), {"x": 1, "y": 2.0}),
            (np.int64(3), 3),
            (np.arange(3), [0, 1, 2]),
            (np.zeros((1000, 1000)), "ndarray(1000, 1000)"),
            (pl.DataFrame({"a": [1, 2]}), [{"a": 1}, {"a": 2}]),
            (Path("a/b"), "a/b"),
            (datetime.date(2013, 1, 2), "2013-01-02"),
        ],
    )
    def test_known(self, value, expected):
        made = result_json(value)
        assert made == expected
        json.dumps(made, allow_nan=False)

    def test_unknown_is_text(self):
        assert "Bare" in result_json([Bare()])[0]
