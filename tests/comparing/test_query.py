"""The conditions of `hooke runs --where`, in a small language of their own."""

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import UsageError
from hooke.comparing.query import (
    FIELDS,
    GROUPS,
    AllOf,
    AnyOf,
    Condition,
    RunQuery,
    holds,
    parse_condition,
    parse_where,
)

operators = st.sampled_from(["=", "==", "!=", "<", "<=", ">", ">="])
odd = "ab.é /<>=!'\n\t0-6_#é\u2028"
names = st.text(odd + '"', min_size=1).map(str.strip).filter(bool)
texts = st.text(odd + "`")
conditions = st.one_of(
    st.builds(Condition, group=st.sampled_from(GROUPS), name=names, operator=operators, value=texts),
    st.builds(Condition, group=st.sampled_from(FIELDS), name=st.just(""), operator=operators, value=texts),
)


@pytest.mark.needs("cpu")
@given(conditions)
@settings(deadline=None)
def test_what_is_written_is_read_back(condition):
    assert parse_condition(str(condition)) == condition


@given(st.text(odd + "psgtam."))
@settings(max_examples=40, deadline=None)
def test_any_other_text_is_refused_as_an_error_of_the_user(text):
    with contextlib.suppress(UsageError):
        condition = parse_condition(text)
        assert parse_condition(str(condition)).group in (*GROUPS, *FIELDS)


@pytest.mark.needs("cpu")
@given(st.floats(allow_nan=False), st.floats(allow_nan=False), operators)
@settings(deadline=None)
def test_numbers_are_compared_as_numbers(left, right, operator):
    condition = Condition(group="metrics", name="x", operator=operator, value=repr(right))
    expected = eval(f"left {'==' if operator == '=' else operator} right", {}, {"left": left, "right": right})
    assert holds(condition, [left]) == holds(condition, [repr(left)]) == expected


@pytest.mark.parametrize(
    ("text", "group", "name", "operator", "value"),
    [
        ("params.depth>6", "params", "depth", ">", "6"),
        (" params . depth >= 6 ", "params", "depth", ">=", "6"),
        ("params.learning rate<1e-3", "params", "learning rate", "<", "1e-3"),
        ("metrics.val/auc.max>0.9", "metrics", "val/auc.max", ">", "0.9"),
        ("params.`a>b`=x", "params", "a>b", "=", "x"),
        ('tags.note="salt and pepper"', "tags", "note", "=", "salt and pepper"),
        ("status=finished", "status", "", "=", "finished"),
        ("pipeline != demo", "pipeline", "", "!=", "demo"),
        ('tags.empty=""', "tags", "empty", "=", ""),
    ],
)
def test_conditions_as_they_are_typed(text, group, name, operator, value):
    assert parse_condition(text) == Condition(group=group, name=name, operator=operator, value=value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("param.depth>6", "did you mean params.depth?"),
        ("stat=failed", "did you mean status?"),
        ("params>6", "params needs a name"),
        ("status.x=1", "status takes no name"),
        ("params.depth", "one comparison"),
        ("params.depth>", "has no value"),
        ("params.a>1 and params.b<2", "is not valid"),
        ("tags.a=x and y", "more than one comparison"),
        ("", "one comparison"),
    ],
)
def test_what_cannot_be_read_says_how_it_is_written(text, said):
    with pytest.raises(UsageError) as caught:
        parse_condition(text)
    assert said in str(caught.value)


def test_several_values_fit_if_one_does_and_none_never():
    deep = parse_condition("params.depth>6")
    assert holds(deep, ["2", "10"])
    assert not holds(deep, ["2", "6"])
    assert not holds(deep, [])
    assert not holds(parse_condition("params.depth!=6"), [])
    assert not holds(parse_condition("metrics.loss<=1"), [math.nan])
    assert holds(parse_condition("params.kind<=b"), ["a"])


def test_text_is_neither_above_nor_below_a_number():
    for condition in ("params.steps<5", "params.steps>=5", "metrics.loss>1"):
        assert not holds(parse_condition(condition), ["(2, 8)", "all", math.nan])
    assert not holds(parse_condition("params.kind>a"), ["5"])
    assert holds(parse_condition("params.kind!=5"), ["all"])


A, B, C = (parse_condition(text) for text in ("params.a>1", "tags.b=x", "status=failed"))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("params.a>1", A),
        ("((params.a>1))", A),
        ("params.a>1 and tags.b=x", AllOf((A, B))),
        ("params.a>1 or tags.b=x and status=failed", AnyOf((A, AllOf((B, C))))),
        ("(params.a>1 or tags.b=x) and (status=failed)", AllOf((AnyOf((A, B)), C))),
        ("(params.a>1)or(tags.b=x)", AnyOf((A, B))),
        ("tags.b in (x)", AnyOf((B,))),
        ("status in [failed, lost]", AnyOf((C, parse_condition("status=lost")))),
        (
            "tags.b not in (y, 'z, or so')",
            AllOf(tuple(map(parse_condition, ("tags.b!=y", "tags.b!='z, or so'")))),
        ),
        ("tags.b='this or that'", parse_condition("tags.b='this or that'")),
        ("tags.`a or b`=x", parse_condition("tags.`a or b`=x")),
        ("params.size=(2, 8)", parse_condition("params.size=(2, 8)")),
        ("tags.b=in (x)", parse_condition("tags.b=in (x)")),
        ("params.order=1", parse_condition("params.order=1")),
    ],
)
def test_conditions_are_joined_by_words_outside_of_quotes(text, parsed):
    assert parse_where(text) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("status=fnished", "did you mean finished? valid: running, finished, finished with failures, failed"),
        ("status!=fail", "did you mean failed?"),
        ("status in (failed, done)", "valid: running"),
        ("params.a>1 and stat=failed", "did you mean status?"),
        ("tags.a=x and y", "the condition 'y' is not valid"),
        ("status in failed", "write a list: status in (one, other)"),
        ("status in ()", "write a list: status in (one, other)"),
        ("params.a>1 or", "a comparison is missing"),
        ("", "a comparison is missing"),
        ("metrics.auc>high", "a metric is a number, and 'high' is not"),
        ("(params.a>1", "is not valid"),
    ],
)
def test_a_query_says_what_is_valid(text, said):
    with pytest.raises(UsageError) as caught:
        RunQuery.of(text)
    assert said in str(caught.value)
