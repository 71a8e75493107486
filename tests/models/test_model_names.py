"""What a model may be called, and how a version is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.errors import UsageError
from hooke.models.registry_protocol import VersionQuery, check_alias, check_name, parse_wanted


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("flights", VersionQuery(name="flights")),
        ("flights@champion", VersionQuery(name="flights", alias="champion")),
        ("late-flights.v2:3", VersionQuery(name="late-flights.v2", number=3)),
    ],
)
def test_the_three_forms(text, meant):
    assert parse_wanted(text) == meant
    assert str(meant) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "x@",
        "@champion",
        "a b@",
        "a b",
        "x:",
        "x:0",
        "x:-1",
        "x:one",
        "x@a:1",
        "x:1@a",
        "x@a b",
        "x/1",
        "../x",
        "x\n",
        "x@\n",
    ],
)
def test_anything_else_is_refused_with_the_forms(text):
    with pytest.raises(UsageError, match="NAME@ALIAS") as refused:
        parse_wanted(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a@b", "a:1", "a/b", "..", ".hidden"])
def test_a_name_is_letters(name):
    with pytest.raises(UsageError, match="is not a valid model name"):
        check_name(name)


@pytest.mark.parametrize("alias", ["latest", "LATEST", "v1", "V12", "a b", "a.b", "a@b"])
def test_what_mlflow_reserves_is_no_alias(alias):
    with pytest.raises(UsageError, match="is not a valid alias"):
        check_alias(alias)


@given(st.text(alphabet="ab1.-_@: /\n\u00e9", max_size=8))
def test_whatever_is_taken_is_said_back_as_it_was(text):
    try:
        wanted = parse_wanted(text)
    except UsageError:
        return
    assert str(wanted) == text
    check_name(wanted.name)
    assert not (wanted.alias and wanted.number)
