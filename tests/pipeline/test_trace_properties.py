"""Random pipelines: what their graph gives, evaluated in order, is what calling them gives."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import pipeline, task
from hooke.pipeline.arguments import copy_nesting, promises_in
from hooke.pipeline.graph import Graph
from hooke.pipeline.promise import Promise
from hooke.pipeline.trace import trace


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


@settings(max_examples=150, deadline=None)
@given(INSTRUCTIONS, st.integers(0, 100))
def test_traced_and_evaluated_is_as_called(instructions, start):
    graph = trace(random_pipeline, (instructions, start))
    check_uses(graph)
    assert listed(evaluate(graph)) == listed(random_pipeline(instructions, start))


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
