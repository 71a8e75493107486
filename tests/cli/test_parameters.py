import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from hooke.base.errors import UsageError
from hooke.cli.parameters import Parameters, convert, kind_shown
from hooke.keys.file import File
from hooke.pipeline.pipeline import pipeline


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


@dataclass
class Point:
    x: int
    y: float = 0.5


@pipeline
def delays(
    months: int,
    depth: int = 6,
    rate: float = 0.1,
    fast: bool = False,
    name: str = "a",
    *,
    where: Path = Path(),
) -> int:
    return months


@pipeline
def bare(n=5, flag=True, text="x", anything=None, /):
    return n


@pipeline
def open_ended(first: int, *numbers: int, **others: Any):
    return first


def parsed(made, *tokens):
    return Parameters(made, target="f.py").parse(tokens)


class TestParse:
    def test_values_are_what_the_annotations_say(self):
        tokens = "--months 3 --depth=-4 --rate 1e-3 --fast --name 7 --where a/b".split()
        args, params = parsed(delays, *tokens)
        assert args == ()
        assert params == {
            "months": 3,
            "depth": -4,
            "rate": 1e-3,
            "fast": True,
            "name": "7",
            "where": Path("a/b"),
        }

    @pytest.mark.parametrize(
        ("tokens", "value"),
        [
            (["--fast"], True),
            (["--no-fast"], False),
            (["--fast", "false"], False),
            (["--fast=no"], False),
            (["--fast", "--depth", "1"], True),
            (["--no-fast=true"], False),
        ],
    )
    def test_flags(self, tokens, value):
        assert parsed(delays, "--months", "1", *tokens)[1]["fast"] is value

    def test_dashes_and_underscores_are_one(self):
        @pipeline
        def job(test_months: int):
            return test_months

        assert parsed(job, "--test-months", "2") == parsed(job, "--test_months=2") == ((), {"test_months": 2})

    def test_positional_only_parameters_go_by_position(self):
        assert parsed(bare, "--n", "7", "--no-flag") == ((7, False), {})

    def test_stars(self):
        args, params = parsed(
            open_ended, "--first", "1", "--numbers", "[2, 3]", "--colour", "red", "--size", "4"
        )
        assert args == (1, 2, 3)
        assert params == {"colour": "red", "size": 4}

    def test_unknown_names_the_nearest_and_all(self):
        with pytest.raises(UsageError, match="no parameter --mnths") as caught:
            parsed(delays, "--mnths", "3")
        assert "did you mean --months?" in caught.value.fix
        assert "--rate NUMBER" in caught.value.fix

    def test_missing_names_it_and_the_command(self):
        with pytest.raises(UsageError, match="needs --months") as caught:
            parsed(delays)
        assert caught.value.next == "hooke run f.py --months INT"

    @pytest.mark.parametrize(
        ("tokens", "what"),
        [
            (["3"], "by name"),
            (["--months"], "needs a value"),
            (["--months", "x"], "whole number"),
            (["--months", "1", "--months", "2"], "twice"),
            (["--months", "1", "--rate", "nan"], "number"),
            (["--months", "1", "--fast", "perhaps"], "by name"),
            (["--months", "1", "--fast=perhaps"], "true or false"),
        ],
    )
    def test_what_is_wrong_is_said(self, tokens, what):
        with pytest.raises(UsageError, match=what):
            parsed(delays, *tokens)

    def test_help_says_kinds_and_defaults(self):
        rows = dict(Parameters(delays, target="f.py").rows())
        assert rows["--months INT"] == "required"
        assert rows["--fast true|false"] == "default: False"


class TestConvert:
    @pytest.mark.parametrize(
        ("text", "kind", "value"),
        [
            ("1_000", int, 1000),
            ("-2.5", float, -2.5),
            ("inf", float, float("inf")),
            ("a", Literal["a", 1], "a"),
            ("1", Literal["a", 1], 1),
            ("RED", Colour, Colour.RED),
            ("g", Colour, Colour.GREEN),
            ("none", int | None, None),
            ("3", int | None, 3),
            ("3", int | str, 3),
            ("x", int | str, "x"),
            ("x", str | None, "x"),
            ("[1, 2]", list[int], [1, 2]),
            ("[1, 2]", tuple[int, ...], (1, 2)),
            ('{"a": [0.5]}', dict[str, list[float]], {"a": [0.5]}),
            ('{"x": 1}', Point, Point(1)),
            ("[1]", None, [1]),
            ("1", None, 1),
            ("word", None, "word"),
            ("null", Any, None),
        ],
    )
    def test_good(self, text, kind, value):
        made = convert(text, kind, name="--x")
        assert made == value
        assert type(made) is type(value)

    @pytest.mark.parametrize(
        ("text", "kind", "what"),
        [
            ("1.5", int, "whole number"),
            ("b", Literal["a", "c"], "one of a, c"),
            ("BLUE", Colour, "RED, GREEN"),
            ("[1, 'x']", list[int], "JSON"),
            ('["x"]', list[int], r"`int`"),
            ("x", int | None, "whole number"),
            ("{}", Point, "x"),
            ("x", complex, "call run\\(\\) from Python"),
            ("absent.csv", File, "file does not exist"),
        ],
    )
    def test_bad(self, text, kind, what):
        with pytest.raises(UsageError, match=what) as caught:
            convert(text, kind, name="--x")
        assert str(caught.value).startswith(f"--x {text!r}")

    def test_files_are_keyed_by_content(self, tmp_path):
        (tmp_path / "a.csv").write_text("1")
        assert isinstance(convert(str(tmp_path / "a.csv"), File, name="--x"), File)

    @pytest.mark.parametrize(
        ("kind", "shown"),
        [
            (int, "INT"),
            (None, "VALUE"),
            (Literal["a", "b"], "a|b"),
            (Colour, "RED|GREEN"),
            (int | None, "INT"),
            (list[int], "JSON"),
            (int | str, "INT|TEXT"),
        ],
    )
    def test_kinds_are_shown_short(self, kind, shown):
        assert kind_shown(kind) == shown
