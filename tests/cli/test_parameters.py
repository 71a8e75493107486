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

    def test_lists_are_repeated_options(self):
        @pipeline
        def job(days: list[int], tags: set[str] = frozenset(), pair: tuple[int, str] | None = None, seen=()):
            return days

        tokens = "--days 1 --days=2 --tags a --tags a --pair 1 --pair b --seen 1 --seen x".split()
        assert parsed(job, *tokens)[1] == {"days": [1, 2], "tags": {"a"}, "pair": (1, "b"), "seen": (1, "x")}
        assert parsed(job, "--days", "[3, 4]")[1] == {"days": [3, 4]}
        with pytest.raises(UsageError, match="--days '1' 'x': item 1"):
            parsed(job, "--days", "1", "--days", "x")

    def test_an_optional_flag_needs_no_value(self):
        @pipeline
        def job(fast: bool | None = None):
            return fast

        for tokens, value in ((["--fast"], True), (["--no-fast"], False), (["--fast", "none"], None)):
            assert parsed(job, *tokens)[1] == {"fast": value}

    def test_values_that_go_to_the_stars_have_their_type(self):
        @pipeline
        def job(**rates: float):
            return rates

        assert parsed(job, "--a-b", "1", "--c=2.5")[1] == {"a_b": 1.0, "c": 2.5}
        with pytest.raises(UsageError, match="--a 'x': it must be a number"):
            parsed(job, "--a", "x")

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


class TestFile:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("p.toml", "months = 3\nrate = 1\nfast = true\nwhere = 'a'\n"),
            ("p.yaml", "months: 3\nrate: 1\nfast: yes\nwhere: a\n"),
            ("p.json", '{"months": "3", "rate": 1, "fast": true, "where": "a"}'),
        ],
    )
    def test_values_have_the_annotated_types_and_the_command_line_wins(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        given = Parameters(delays, target="f.py").parse(["--rate", "0.5"], tmp_path / name)[1]
        assert given == {"months": 3, "rate": 0.5, "fast": True, "where": Path("a")}
        assert type(given["rate"]) is float

    @pytest.mark.parametrize(
        ("name", "text", "what", "fix"),
        [
            ("p.toml", "mnths = 3", "no parameter mnths", "did you mean months?"),
            ("p.toml", "months = 3.5", r"months = 3\.5: it must be a whole number", ""),
            ("p.toml", "months = 3\nwhere = 1", "where = 1: ", ""),
            ("p.toml", "months =", "is not valid TOML", ""),
            ("p.yml", "a: b: c", "is not valid YAML", ""),
            ("p.json", "{", "is not valid JSON", ""),
            ("p.json", "[1]", "must hold parameters by name", ""),
            ("p.ini", "", r"ends in \.toml, \.yaml, \.yml or \.json", "rename"),
        ],
    )
    def test_what_is_wrong_names_the_file(self, tmp_path, name, text, what, fix):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=what) as refused:
            Parameters(delays, target="f.py").parse([], tmp_path / name)
        assert fix in refused.value.fix
        assert name in f"{refused.value}"

    def test_a_file_that_is_not_there_names_the_nearest(self, tmp_path):
        (tmp_path / "params.toml").write_text("")
        with pytest.raises(UsageError, match="No such file") as refused:
            Parameters(delays, target="f.py").parse([], tmp_path / "parms.toml")
        assert f"did you mean {tmp_path / 'params.toml'}?" in refused.value.fix

    def test_missing_ones_are_missing_from_both(self, tmp_path):
        (tmp_path / "p.yaml").write_text("# nothing\n")
        with pytest.raises(UsageError, match="needs --months"):
            Parameters(delays, target="f.py").parse(["--fast"], tmp_path / "p.yaml")


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
            ('["x"]', list[int], r"item 0 \('x'\): it must be a whole number"),
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
            (list[int], "INT ..."),
            (int | str, "INT|TEXT"),
        ],
    )
    def test_kinds_are_shown_short(self, kind, shown):
        assert kind_shown(kind) == shown
