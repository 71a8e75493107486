"""Random pipelines: what their graph gives, evaluated in order, is what calling them gives."""

import dataclasses
import inspect
from collections import OrderedDict, deque

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import pipeline, task
from hooke.base.errors import UsageError
from hooke.pipeline.arguments import CallBinder, bind_call, copy_nesting, promises_in, unbind
from hooke.pipeline.graph import Graph
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.promise import Promise
from hooke.pipeline.trace import SMALL, trace


@task
def total(*values, scale=1):
    return (sum(flat(values)) % 9973) * scale


@task
def split(value, parts=3) -> tuple[int, int, int]:
    return tuple(value + i for i in range(parts))


@task
def spread(value):
    return list(range(value % 5))


@task
def named(value):
    return {"value": value, "rows": [value, value + 1, value + 2]}


TASKS = [total, named, spread, split]


def flat(value):
    """The numbers in a nesting, in an order that is the nesting's own."""
    if isinstance(value, dict):
        value = [item for _, item in sorted(value.items())]
    if isinstance(value, (list, tuple, range)):
        return [number for item in value for number in flat(item)]
    return [value]


def evaluate(graph: Graph):
    """Run a graph's nodes in order, in the plainest way."""
    results = []
    for node in graph.nodes:
        if node.kind == "call":
            args, kwargs = node.call_arguments()
            results.append(node.task.function(*filled(args, results), **filled(kwargs, results)))
        else:
            columns = [filled(column, results) for column in node.iterables]
            keywords = filled(dict(node.arguments), results)
            items = [node.task.function(*item, **keywords) for item in zip(*columns, strict=True)]
            assert node.items in {None, len(items)}
            results.append(items)
    return filled(graph.output, results)


def filled(value, results):
    """A nesting with its promises replaced by results."""
    if isinstance(value, Promise):
        found = results[value.node]
        for step in value.path:
            found = found[step]
        return found
    if isinstance(value, (list, tuple)):
        return type(value)(filled(item, results) for item in value)
    if isinstance(value, dict):
        return {key: filled(item, results) for key, item in value.items()}
    return value


def check_uses(graph: Graph) -> None:
    """Each node uses exactly the nodes that its arguments hold, and only those before it."""
    for node in graph.nodes:
        held = promises_in([dict(node.arguments), list(node.iterables)])
        assert {use.node for use in node.uses} == {promise.node for promise in held}
        assert all(use.node < node.id for use in node.uses)


# A pipeline as data: a list of instructions over a growing list of values.
INSTRUCTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["call", "split", "part", "map", "map2", "dynamic", "items", "nest", "inner", "spread"]
        ),
        st.integers(0, 1000),
        st.integers(0, 1000),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=14,
)


def perform(instructions, start):
    """The body of a random pipeline. It takes a number or a list by the kind of instruction that made it."""
    numbers, lists, nests = [start, 3], [range(3)], []

    def number(i):
        return numbers[i % len(numbers)]

    def one_list(i):
        return lists[i % len(lists)]

    for kind, i, j, n in instructions:
        match kind:
            case "call":
                numbers.append(total(number(i), [number(j)], scale=n))
            case "split":
                first, _, last = split(number(i))
                numbers += [first, last]
            case "part":
                result = named(number(i))
                numbers += [result["value"], result["rows"][n % 3], total(result["rows"][1:])]
            case "map":
                lists.append(total.map([number(i), number(j), n], scale=number(j) if n > 2 else 2))
            case "map2":
                columns = total.map(range(n)), (i + k for k in range(n))
                lists.append(total.map(*columns))
            case "dynamic":
                lists.append(total.map(spread(number(i))))
            case "items":
                known = total.map(range(1, n + 2))
                numbers += [known[0], known[-1], *known[1:3]]
            case "nest":
                nests.append({"a": [number(i), (one_list(j),)], "b": {"c": number(j)}})
            case "inner":
                numbers.append(inner(number(i), n))
            case "spread":
                lists.append(total.map(one_list(i)))
    return {
        "last": numbers[-1],
        "all": tuple(numbers),
        "lists": [total(list_) for list_ in lists],
        "nests": nests,
    }


@pipeline
def inner(value, times):
    for _ in range(times):
        value = total(value, 1)
    return value


@pipeline
def random_pipeline(instructions, start):
    return perform(instructions, start)


def listed(value):
    """Ranges as lists: a map over a range gives a list either way."""
    if isinstance(value, (list, tuple)):
        return type(value)(listed(item) for item in value)
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return list(value) if isinstance(value, range) else value


@pytest.mark.long
@pytest.mark.needs("cpu")
@settings(max_examples=150, deadline=None)
@given(INSTRUCTIONS, st.integers(0, 100))
def test_traced_and_evaluated_is_as_called(instructions, start):
    graph = trace(random_pipeline, (instructions, start))
    check_uses(graph)
    assert listed(evaluate(graph)) == listed(random_pipeline(instructions, start))


@pytest.mark.needs("cpu")
@settings(max_examples=50, deadline=None)
@given(INSTRUCTIONS, st.integers(0, 100))
def test_every_node_is_needed_by_a_root(instructions, start):
    graph = trace(random_pipeline, (instructions, start))
    reached, waiting = set(), list(graph.roots())
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(graph.parents(node))
    assert reached == set(range(len(graph.nodes)))
    assert graph.describe() == trace(random_pipeline, (instructions, start)).describe()


NESTINGS = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=20,
)


@pytest.mark.needs("cpu")
@given(NESTINGS)
def test_a_copied_nesting_is_equal_and_shares_nothing_that_changes(value):
    copied = copy_nesting(value)
    assert copied == value
    assert type(copied) is type(value)
    assert not changeable(value) & changeable(copied)


def changeable(value):
    """Identities of the lists, dicts and sets in a nesting."""
    found = {id(value)} if isinstance(value, (list, dict, set)) else set()
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, (list, dict, tuple)):
        found |= {identity for item in inner for identity in changeable(item)}
    return found


@pytest.mark.needs("cpu")
@given(NESTINGS, st.integers(0, 3))
def test_promises_are_found_wherever_they_are_put(value, count):
    def body():
        promises = [total(i) for i in range(count)]
        nesting = value
        for promise in promises:
            nesting = [nesting, {"p": (promise,)}]
        assert {id(p) for p in promises_in(nesting)} == {id(p) for p in promises}
        return nesting

    graph = trace(pipeline(name="flow")(lambda: body()))  # not linted: it asks for identities
    assert {use.node for use in graph.output_uses} == set(range(count))


# --- Objects that the body changes between calls: each call gets them as they were then.


@dataclasses.dataclass
class Box:
    content: list
    count: int = 0


class Slotted:
    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content


LONG = 2 * SMALL
"""Long enough to be compared with earlier calls instead of copied for each."""


def changeable_objects():
    """Objects of all kinds, and for each a change of what it holds by a number."""
    inner = [1]
    box = Box([1, 2])
    return [
        ({"a": 1}, lambda it, n: it.update({"a": n})),
        (dict.fromkeys(range(LONG), 0), lambda it, n: it.update({n: n})),
        (dict.fromkeys(range(LONG), 0), lambda it, n: it.update({n: bool(n)})),
        ([0.0] * LONG, lambda it, n: it.__setitem__(n, -0.0)),
        ([[i] for i in range(LONG)], lambda it, n: it[n].append(n)),
        ([(i, {"deep": [[i]]}) for i in range(LONG)], lambda it, n: it[n][1]["deep"][0].append(n)),
        ({f"k{i}": {i} for i in range(LONG)}, lambda it, n: it["k1"].add(n)),
        ([inner, inner, *range(LONG)], lambda it, n: it[0].append(n)),
        (np.zeros(4), lambda it, n: it.__setitem__(0, n)),
        ([np.zeros(2), np.zeros(2)], lambda it, n: it[1].__setitem__(1, n)),
        (bytearray(b"ab"), lambda it, n: it.append(n)),
        (deque([1], maxlen=3), lambda it, n: it.append(n)),
        (OrderedDict(a=[1]), lambda it, n: it["a"].append(n)),
        (box, lambda it, n: it.content.append(n)),
        (Slotted([1]), lambda it, n: setattr(it, "content", [n])),
        ([Box([i]) for i in range(LONG)], lambda it, n: setattr(it[n], "count", n)),
        ({"box": Box([3]), "n": [1]}, lambda it, n: it["box"].content.append(n)),
        (pd.DataFrame({"x": [1, 2]}), lambda it, n: it.__setitem__(f"c{n}", n)),
        (
            pl.DataFrame({"x": [1, 2]}),
            lambda it, n: it.insert_column(0, pl.Series(f"c{n}{it.width}", [n, n])),
        ),
        ((1, [2], Box([3])), lambda it, n: it[1].append(n) or it[2].content.append(n)),
    ]


def as_text(value, *, aliases=True):
    """All that a value holds, and with `aliases` which of its parts are the same object."""
    return _text(value, {} if aliases else None)


def _text(value, known):
    if known is not None and isinstance(value, (list, dict, set, Box, Slotted)):
        if id(value) in known:
            return f"<{known[id(value)]}>"
        known[id(value)] = len(known)
    if isinstance(value, dict):
        return f"{type(value).__name__}{[(_text(k, known), _text(v, known)) for k, v in value.items()]}"
    if isinstance(value, (list, tuple, deque)):
        return f"{type(value).__name__}{[_text(each, known) for each in value]}"
    if isinstance(value, (set, frozenset)):
        return repr(sorted(value))
    if isinstance(value, (Box, Slotted)):
        return f"{type(value).__name__}({_text(value.content, known)}, {getattr(value, 'count', 0)})"
    if isinstance(value, np.ndarray):
        return repr(value.tolist())
    return value.to_dict(as_series=False).__repr__() if isinstance(value, pl.DataFrame) else repr(value)


@task
def seen(value, other=None):
    return as_text([value, other])


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["call", "both", "in a list", "map", "change"]),
        st.integers(0, 19),
        st.integers(0, 19),
    ),
    min_size=2,
    max_size=25,
)


@pipeline
def changing(steps):
    made = changeable_objects()
    results = []
    for what, i, n in steps:
        value, change = made[i]
        match what:
            case "call":
                results.append(seen(value))
            case "both":
                results.append(seen(value, made[n][0]))
            case "in a list":
                results.append(seen([value, n], {"same": value}))
            case "map":
                results.append(seen.map([1, 2], other=value))
            case "change":
                change(value, n)
    return results


@pytest.mark.long
@pytest.mark.needs("cpu")
@settings(max_examples=150, deadline=None)
@given(CHANGES)
def test_each_call_gets_its_arguments_as_they_were_when_it_was_made(steps):
    graph = trace(changing, (steps,))
    assert [given_to(node) for node in graph.nodes] == changing(steps)
    keys = GraphKeys(graph, run="r")
    contents = {}
    for node in graph.nodes:
        text = as_text([node.kind, dict(node.arguments)], aliases=False)
        assert contents.setdefault(keys[node.id].key, text) == text, "one key, two contents"


def given_to(node):
    """The result of a node without promises."""
    if node.kind == "call":
        args, kwargs = node.call_arguments()
        return node.task.function(*args, **kwargs)
    return [node.task.function(*row, **node.arguments) for row in zip(*node.iterables, strict=True)]


@pytest.mark.needs("cpu")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*range(1, 9), *range(10, 16), 17, 18]), st.integers(2, 19))
def test_an_object_that_did_not_change_is_one_argument_of_all_calls(i, n):
    steps = [
        ("call", i, 0),
        ("in a list", i, 1),
        ("call", i, 0),
        ("change", i, n),
        ("call", i, 0),
        ("call", i, 0),
    ]
    graph = trace(changing, (steps,))
    first, listed, second, third, fourth = (node.arguments["value"] for node in graph.nodes)
    assert first is second
    assert third is fourth
    assert listed[0] is first
    assert first is not third
    assert {id(first), id(third)} <= graph.shared.keys()


SIGNATURES = [
    inspect.signature(function)
    for function in (
        lambda: None,
        lambda a: None,
        lambda a, b=2, c=None: None,
        lambda a, /, b, c=3: None,
        lambda a=1, /, *, b, c=5: None,
        lambda *, c, a=1, b=2: None,
        lambda a, *b, c=1: None,
        lambda a, c=1, **b: None,
    )
]


def outcome(function, *arguments):
    """What it gives, in order, or what it says."""
    try:
        found = function(*arguments)
    except UsageError as error:
        return error.what, error.fix
    return list(found.items()) if isinstance(found, dict) else found


@pytest.mark.needs("cpu")
@given(
    signature=st.sampled_from(SIGNATURES),
    args=st.lists(st.integers(), max_size=4),
    kwargs=st.dictionaries(st.sampled_from("abcd"), st.integers(), max_size=4),
)
def test_a_prepared_signature_binds_and_unbinds_as_the_general_way(signature, args, kwargs):
    binder = CallBinder("task 't'", signature)
    bound = outcome(binder.bind, args, kwargs)
    assert bound == outcome(bind_call, "task 't'", signature, args, kwargs)
    if isinstance(bound, list):
        assert binder.unbind(dict(bound)) == unbind(signature, dict(bound))
