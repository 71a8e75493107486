"""A graph's questions: who needs whom, what a run is for, how deep; and that it is plain data."""

import dataclasses
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke import pipeline, task
from hooke.pipeline.graph import Graph, Node, Use
from hooke.pipeline.trace import trace


@task
def source(value=0):
    return value


@task(cpus=2)
def join(*values, **more):
    return values, more


@task
def rows(n):
    return list(range(n))


@pipeline
def diamond():
    top = source()
    left, right = join(top), join(top)
    source(9)
    return join(left, right)


def node(number, *parents):
    return Node(id=number, task=source, uses=tuple(Use(parent) for parent in parents))


def graph_of(parents):
    return Graph(pipeline="p", nodes=tuple(node(i, *above) for i, above in enumerate(parents)))


class TestShape:
    def test_a_diamond(self):
        graph = trace(diamond)
        assert [graph.parents(i) for i in range(5)] == [(), (0,), (0,), (), (1, 2)]
        assert [graph.children(i) for i in range(5)] == [(1, 2), (4,), (4,), (), ()]
        assert graph.roots() == (3, 4)
        assert graph.depths() == (0, 1, 1, 0, 2)

    def test_an_empty_graph(self):
        graph = Graph(pipeline="p", nodes=())
        assert (graph.roots(), graph.depths(), graph.output_uses) == ((), (), ())
        assert graph.describe() == "p"

    def test_roots_are_outputs_and_what_nobody_uses(self):
        @pipeline
        def flow():
            first = source()
            second = join(first)
            join(second)
            return {"kept": [first["a"]]}

        graph = trace(flow)
        assert graph.roots() == (0, 2)
        assert graph.output_uses == (Use(0, ("a",)),)

    def test_uses_are_distinct(self):
        @pipeline
        def flow():
            first = source()
            return join(first, first, [first["a"], first["a"]], more=first[1:2], most=first[1:2])

        uses = trace(flow).nodes[1].uses
        assert set(uses) == {Use(0), Use(0, ("a",)), Use(0, (slice(1, 2),))}
        assert len(uses) == 3

    def test_uses_have_a_hash_even_with_slices(self):
        assert hash(Use(1, (slice(1, 2),))) == hash(Use(1, (slice(1, 2),)))
        assert Use(1, (slice(1, 2),)) != Use(1, (slice(1, 3),))
        assert len({Use(1), Use(1), Use(1, elementwise=True), Use(2)}) == 3

    @pytest.mark.needs("cpu")
    @given(st.lists(st.sets(st.integers(0, 30)), max_size=30))
    def test_against_their_definitions(self, wishes):
        parents = [sorted(p for p in wish if p < i) for i, wish in enumerate(wishes)]
        graph = graph_of(parents)
        for i, above in enumerate(parents):
            assert list(graph.parents(i)) == above
            assert list(graph.children(i)) == [c for c, of in enumerate(parents) if i in of]
            assert graph.depths()[i] == max([graph.depths()[p] + 1 for p in above], default=0)
        assert list(graph.roots()) == [i for i in range(len(parents)) if not any(i in of for of in parents)]
        text = graph.describe()
        assert all(f"#{i} " in text for i in range(len(parents)))


class TestNodes:
    def test_calls_give_their_arguments_back(self):
        @task
        def odd(a, /, b, *rest, c=3, **more):
            return a, b, rest, c, more

        @pipeline
        def flow():
            odd(1, 2, 4, 5, d=6)
            odd(1, b=2)

        first, second = trace(flow).nodes
        assert first.arguments == {"a": 1, "b": 2, "rest": (4, 5), "c": 3, "more": {"d": 6}}
        assert first.call_arguments() == ((1, 2, 4, 5), {"c": 3, "d": 6})
        args, kwargs = second.call_arguments()
        assert odd(*args, **kwargs) == odd(1, b=2)

    def test_kinds(self):
        @pipeline
        def flow():
            listed = rows(3)
            known = source.map([1, 2])
            in_step = source.map(known)
            dynamic = source.map(listed)
            follows = source.map(dynamic)
            return in_step, follows

        nodes = trace(flow).nodes
        assert [n.kind for n in nodes] == ["call", "map", "map", "map", "map"]
        assert [n.items for n in nodes] == [1, 2, 2, None, None]
        assert [n.is_dynamic for n in nodes] == [False, False, False, True, False]

    def test_where_is_the_calling_line(self):
        graph = trace(diamond)
        first = diamond.function.__code__.co_firstlineno
        assert graph.nodes[0].where.endswith(f"test_graph.py:{first + 2}")
        assert graph.nodes[4].where.endswith(f"test_graph.py:{first + 5}")

    def test_nothing_can_be_changed(self):
        graph = trace(diamond)
        with pytest.raises(dataclasses.FrozenInstanceError):
            graph.nodes = ()
        with pytest.raises(AttributeError, match="immutable"):
            graph.nodes[0].id = 3

    def test_nodes_are_compared_by_identity(self):
        import numpy

        assert Node(id=0, task=source, arguments={"a": numpy.ones(2)}) != Node(
            id=0, task=source, arguments={"a": numpy.ones(2)}
        )


class TestDescription:
    def test_a_diamond(self):
        lines = [line.split(" (")[0] for line in trace(diamond).describe().splitlines()]
        assert lines == [
            "diamond",
            "├─ #3 source",
            "└─ #4 join",
            "   ├─ #1 join",
            "   │  └─ #0 source",
            "   └─ #2 join",
            "      └─ #0 source",
        ]

    def test_maps_tell_their_columns_and_items(self):
        @pipeline
        def flow():
            return source.map(rows(3)), join.map([1, 2], [3, 4])

        text = trace(flow).describe()
        assert "#1 source.map over value: ? items" in text
        assert "#2 join.map over values[0], values[1]: 2 items" in text

    def test_shared_parts_are_drawn_once(self):
        @pipeline
        def flow():
            shared = join(source())
            return join(shared), join(shared)

        text = trace(flow).describe()
        assert text.count("#0 source") == 1
        assert text.count("(drawn above)") == 1

    def test_a_chain_longer_than_the_stack(self):
        graph = graph_of([[]] + [[i] for i in range(3000)])
        assert graph.describe().count("\n") == 3001
        assert graph.depths()[-1] == 3000


@pytest.mark.needs("cpu")
def test_a_graph_is_pure():
    forbidden = {"asyncio", "random", "select", "socket", "subprocess", "threading", "_thread_run"}
    code = "import sys; before = set(sys.modules); import hooke.pipeline.graph; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert not forbidden & set(done.stdout.split())


def test_a_node_without_promises_pickles():
    graph_node = Node(id=3, task=source, arguments={"value": 1})
    again = pickle.loads(pickle.dumps(graph_node))
    assert (again.id, again.task, again.arguments) == (3, source, {"value": 1})
