"""What can be done with a result that does not exist yet, and what is said of the rest."""

import asyncio
import contextlib
import copy
import json
import math
import operator
import os
import pathlib
import pickle
from dataclasses import dataclass
from typing import NamedTuple

import cloudpickle
import numpy
import pytest

from hooke import TraceError, pipeline, task
from hooke.pipeline.promise import UNSUPPORTED, MapPromise, Promise
from hooke.pipeline.trace import trace


class Split(NamedTuple):
    train: list
    test: tuple[int, int]


@task
def score(value=0):
    return value


@task
def pair(value=0) -> tuple[int, tuple[str, float]]:
    return value, ("a", 1.0)


@task
def named() -> Split:
    return Split([1], (2, 3))


@task
def listed(value=0) -> "list[int]":
    return [value]


def traced(body):
    """The graph of a pipeline whose body is `body`. It is not linted: here only promises speak."""
    return trace(pipeline(name="flow")(lambda: body()))


def refused(body):
    """The error that `body` makes when it gets a promise."""

    @pipeline
    def flow():
        body(score())

    with pytest.raises(TraceError) as caught:
        trace(flow)
    return caught.value


OPERATIONS = {
    "bool": bool,
    "not": operator.not_,
    "if": lambda p: 1 if p else 2,
    "and": lambda p: p and 1,
    "assert": lambda p: asserted(p),
    "len": len,
    "iter": iter,
    "for": lambda p: [item + 1 for item in p],
    "list": list,
    "unpack": lambda p: unpacked(p),
    "sum": sum,
    "star": lambda p: max(*p),
    "reversed": reversed,
    "next": next,
    "in": lambda p: 1 in p,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "range": range,
    "list index": lambda p: [1, 2][p],
    "list times": lambda p: [1] * p,
    "round": round,
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "abs": abs,
    "neg": operator.neg,
    "pos": operator.pos,
    "invert": operator.invert,
    "str": str,
    "print": print,
    "format": format,
    "f-string": lambda p: f"{p:>10}",
    "percent": lambda p: "%s" % p,
    "bytes": bytes,
    "call": lambda p: p(1),
    "attribute": lambda p: p.shape,
    "method": lambda p: p.mean(),
    "set attribute": lambda p: setattr(p, "x", 1),
    "delete attribute": lambda p: delattr(p, "x"),
    "set item": lambda p: operator.setitem(p, 0, 1),
    "delete item": lambda p: operator.delitem(p, 0),
    "with": lambda p: contextlib.ExitStack().enter_context(p),
    "await": lambda p: asyncio.run(awaiting(p)),
    "fspath": os.fspath,
    "open": open,
    "Path": pathlib.Path,
    "divmod": lambda p: divmod(p, 2),
    "rdivmod": lambda p: divmod(2, p),
    "array": numpy.array,
    "asarray": numpy.asarray,
    "numpy mean": numpy.mean,
    "ufunc": lambda p: numpy.add(p, 1),
    "array plus": lambda p: numpy.ones(2) + p,
    "numpy scalar plus": lambda p: numpy.float64(1) + p,
    "zeros": numpy.zeros,
    "list in array": lambda p: numpy.array([p, p]),
    "sorted": lambda p: sorted([p, 1]),
    "max": lambda p: max(p, 1),
    "== None": lambda p: p == None,  # noqa: E711
    "!= None": lambda p: p != None,  # noqa: E711
    "list.index": lambda p: [1].index(p),
    "list in": lambda p: 1 in [p, p],
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy inside": lambda p: copy.deepcopy({"a": [p]}),
    "pickle": pickle.dumps,
    "cloudpickle": cloudpickle.dumps,
    "cloudpickle of a closure": lambda p: cloudpickle.dumps(lambda: p),
    "index by a promise": lambda p: p[p],
    "slice by a promise": lambda p: p[1:p],
    "index by an object": lambda p: p[object()],
    "index by a tuple": lambda p: p[0, 1],
    "index by a list": lambda p: p[["a", "b"]],
    "slice by text": lambda p: p["a":"b"],
    "dict": dict,
}
for _name in [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "lshift",
    "rshift",
    "and_",
    "or_",
    "xor",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
]:
    _operator = getattr(operator, _name)
    OPERATIONS[_name] = lambda p, do=_operator: do(p, 2)
    OPERATIONS["r" + _name] = lambda p, do=_operator: do(2, p)
for _name in [
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "imatmul",
    "ilshift",
    "irshift",
    "iand",
    "ior",
    "ixor",
]:
    _operator = getattr(operator, _name)
    OPERATIONS[_name] = lambda p, do=_operator: do(p, 2)


async def awaiting(promise):
    return await promise


def asserted(promise):
    assert promise


def unpacked(promise):
    one, two = promise


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_what_needs_the_value_says_task_line_and_mend(operation):
    error = refused(OPERATIONS[operation])
    assert error.what.startswith("pipeline 'flow' needs ")
    assert "of task 'score'" in error.what or "result of task 'score'" in error.what
    assert error.what.endswith("which does not exist yet")
    assert "test_promise.py:" in error.where
    assert "'score' was called at" in error.why
    assert error.fix


def test_every_refused_method_is_tried():
    def body():
        promise = score()
        for method, (needs, fix) in UNSUPPORTED.items():
            with pytest.raises(TraceError) as caught:
                getattr(Promise, method)(promise, None)
            assert needs in caught.value.what
            assert fix == caught.value.fix

    traced(body)


def test_the_whole_message():
    def body():
        result = score()
        if result > 0:  # this is the line that is shown
            return 1
        return 2

    with pytest.raises(TraceError) as caught:
        traced(body)
    line = body.__code__.co_firstlineno + 2
    file = caught.value.where.split(":")[0]
    assert file.endswith("test_promise.py")
    assert str(caught.value) == (
        "pipeline 'flow' needs a comparison (>) of the result of task 'score', which does not exist yet\n"
        f"  where: {file}:{line}: if result > 0:  # this is the line that is shown\n"
        "  why: a pipeline's body is run once, before its tasks, to draw the graph; "
        f"'score' was called at {file}:{line - 1}\n"
        "  fix: put it inside a task, or use .map to do it for each item of a list"
    )


def test_the_line_is_the_users_even_when_a_library_asks():
    error = refused(lambda p: json.dumps({"a": [math.sqrt(p)]}))
    assert "json.dumps" in error.where


def test_the_line_is_the_users_even_when_generated_code_asks():
    error = refused(lambda p: Config(p, []) == Config(1, []))
    assert "Config(p, []) == Config(1, [])" in error.where


def test_without_any_source_there_is_a_number():
    error = refused(eval("lambda p: len(p)"))
    assert "body(score())" in error.where  # the innermost line that can be shown


def test_parts_are_named():
    error = refused(lambda p: len(p["rows"][0][1:3][::2]))
    assert "the length of the part ['rows'][0][1:3][::2] of task 'score''s result" in error.what


@pytest.mark.parametrize(
    "name", ["shape", "node", "path", "items", "name", "_repr_html_", "__wrapped__", "__array_interface__"]
)
def test_attributes_raise_what_probing_tools_expect(name):
    def body():
        promise = score()
        assert not hasattr(promise, name)
        assert getattr(promise, name, "default") == "default"
        with pytest.raises(AttributeError):
            getattr(promise, name)
        with pytest.raises(TraceError, match=f"the attribute '{name}'"):
            getattr(promise, name)

    traced(body)


def test_attribute_errors_survive_pickling():
    error = refused(lambda p: p.shape)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, AttributeError)
    assert isinstance(again, TraceError)
    assert str(again) == str(error)


def test_repr_and_hash_are_allowed():
    def body():
        one, other = score(), score()
        assert repr(one) == "<result of task 'score', not run yet>"
        assert repr(one["a"][0]) == "<result of task 'score'['a'][0], not run yet>"
        assert f"{one!r}" == repr(one)
        assert len({one, other, one}) == 2
        assert {one: 1}[one] == 1

    traced(body)


def test_readers_of_the_graph_see_node_and_path():
    kept = []

    def body():
        kept.append(listed()["a"][1:3][0])
        return kept[0]

    graph = traced(body)
    assert (graph.output.node, graph.output.path) == (0, ("a", slice(1, 3), 0))
    assert kept[0].node == 0


class TestParts:
    def test_steps(self):
        def body():
            p = score()
            return [p["a"], p[b"a"], p[0], p[-1], p[1.5], p[None], p[True], p[1:2], p[:], p[numpy.int64(3)]]

        steps = [part.path[0] for part in traced(body).output]
        assert steps == ["a", b"a", 0, -1, 1.5, None, True, slice(1, 2), slice(None), 3]
        assert type(steps[-1]) is int

    def test_slices_of_slices(self):
        def body():
            return score()[numpy.int64(1) :][2]

        assert traced(body).output.path == (slice(1, None), 2)

    def test_fixed_tuples_unpack(self):
        def body():
            first, (name, weight) = pair()
            assert len(pair()) == 2
            return first, name, weight

        assert [part.path for part in traced(body).output] == [(0,), (1, 0), (1, 1)]

    def test_a_named_tuple_unpacks(self):
        def body():
            train, (one, two) = named()
            return train, one, two

        assert [part.path for part in traced(body).output] == [(0,), (1, 0), (1, 1)]

    def test_too_many_names(self):
        def body():
            one, two, three = pair()

        with pytest.raises(ValueError, match=r"not enough values to unpack \(expected 3, got 2\)"):
            traced(body)

    def test_other_results_do_not_unpack(self):
        def body():
            one, two = listed()

        with pytest.raises(TraceError, match="the items of the result of task 'listed'") as caught:
            traced(body)
        assert "-> tuple[A, B]" in caught.value.fix

    def test_a_part_beyond_the_annotation_has_no_shape(self):
        def body():
            return list(pair()[5])

        with pytest.raises(TraceError):
            traced(body)


class TestMaps:
    def test_static_maps_are_lists(self):
        def body():
            items = score.map(range(4))
            assert isinstance(items, MapPromise)
            assert len(items) == 4
            assert items
            assert not score.map([])
            listed_items = list(items)
            assert all(type(item) is Promise for item in listed_items)
            return {
                "iter": listed_items,
                "reversed": list(reversed(items)),
                "index": [items[0], items[-1], items[numpy.int64(2)]],
                "slice": items[1:3],
                "step": items[::-2],
                "star": [*items],
                "zip": [one for one, _ in zip(items, "abcd", strict=True)],
            }

        paths = {key: [p.path[0] for p in value] for key, value in traced(body).output.items()}
        assert paths == {
            "iter": [0, 1, 2, 3],
            "reversed": [3, 2, 1, 0],
            "index": [0, 3, 2],
            "slice": [1, 2],
            "step": [3, 1],
            "star": [0, 1, 2, 3],
            "zip": [0, 1, 2, 3],
        }

    def test_items_of_fixed_tuples_transpose(self):
        def body():
            firsts, seconds = zip(*pair.map([1, 2, 3]), strict=True)
            return firsts, seconds

        firsts, seconds = traced(body).output
        assert [p.path for p in firsts] == [(0, 0), (1, 0), (2, 0)]
        assert [p.path for p in seconds] == [(0, 1), (1, 1), (2, 1)]

    def test_out_of_range(self):
        with pytest.raises(IndexError, match=r"item 3 of score\.map, which has 3 items"):
            traced(lambda_body("score.map(range(3))[3]"))
        with pytest.raises(IndexError, match="item -4"):
            traced(lambda_body("score.map(range(3))[-4]"))

    def test_a_list_has_no_keys(self):
        with pytest.raises(TraceError, match="the item 'a'") as caught:
            traced(lambda_body("score.map(range(3))['a']"))
        assert "whole number" in caught.value.fix

    @pytest.mark.parametrize("operation", ["len(x)", "bool(x)", "list(x)", "reversed(x)", "[*x]", "1 in x"])
    def test_dynamic_maps_are_not(self, operation):
        with pytest.raises(TraceError, match="of task 'score'"):
            traced(lambda_body(f"(lambda x: {operation})(score.map(listed()))"))

    def test_dynamic_maps_say_what_to_do(self):
        with pytest.raises(TraceError) as caught:
            traced(lambda_body("len(score.map(listed()))"))
        assert "only at run time: pass the whole map to a task" in caught.value.fix

    def test_parts_of_dynamic_maps(self):
        def body():
            items = pair.map(listed())
            first, (name, _) = items[0]
            return first, name, items[-1], items[1:3]

        assert [p.path for p in traced(body).output] == [(0, 0), (0, 1, 0), (-1,), (slice(1, 3),)]

    def test_joining_says_how(self):
        for operation in ("x + [1]", "[1] + x", "x + x"):
            with pytest.raises(TraceError, match=r"arithmetic \(\+\)") as caught:
                traced(lambda_body(f"(lambda x: {operation})(score.map([1]))"))
            assert "[*one, *other]" in caught.value.fix

    def test_repr(self):
        def body():
            assert repr(score.map([1, 2])) == "<2 items of task 'score', not run yet>"
            assert repr(score.map(listed())) == "<items of task 'score', not run yet>"
            assert hash(score.map([1]))

        traced(body)

    @pytest.mark.parametrize("operation", ["x == [1]", "str(x)", "x.append(1)", "x(1)", "f'{x}'"])
    def test_the_rest_raises_as_for_any_result(self, operation):
        with pytest.raises(TraceError):
            traced(lambda_body(f"(lambda x: {operation})(score.map([1]))"))


def lambda_body(expression):
    return eval(f"lambda: {expression}", globals())


@dataclass
class Config:
    rows: object
    names: list


def test_a_dataclass_with_a_promise_is_made_but_not_copied():
    def body():
        config = Config(score(), ["a"])
        with pytest.raises(TraceError, match="a deep copy"):
            copy.deepcopy(config)
        return config

    assert isinstance(traced(body).output.rows, Promise)


def test_a_promise_that_outlives_its_pipeline_still_raises():
    kept = []
    traced(lambda: kept.append(score()))
    with pytest.raises(TraceError, match="pipeline 'flow' needs the length"):
        len(kept[0])


@pytest.mark.parametrize(
    "body",
    [lambda: ", ".join([score()]), lambda: json.dumps(score()), lambda: dict(**score())],
    ids=["join", "json", "**"],
)
def test_what_c_code_refuses_by_type_is_explained(body):
    with pytest.raises(TypeError, match="Promise") as caught:
        traced(body)
    assert "Move this line into a task" in caught.value.__notes__[0]


def test_other_type_errors_are_left_alone():
    with pytest.raises(TypeError) as caught:
        traced(lambda: len(3))
    assert not hasattr(caught.value, "__notes__")
