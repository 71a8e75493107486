"""Maps in a trace: what their items are, and in which step with others."""

import os

import numpy
import pytest
from tests.pipeline.traced import add, pair, rows, source, traced

from hooke import UsageError, task
from hooke.pipeline.graph import Use
from hooke.pipeline.promise import MapPromise


class TestMaps:
    @pytest.mark.parametrize(
        ("iterable", "kept"),
        [
            (range(3), range(3)),
            ([1, 2], [1, 2]),
            ((1, 2), (1, 2)),
            ({"a": 1}, ["a"]),
            ({"a": 1}.values(), [1]),
            ({"a": 1}.items(), [("a", 1)]),
            ("ab", ["a", "b"]),
            ((x for x in (1, 2)), [1, 2]),
            (map(str, (1, 2)), ["1", "2"]),
            ([], []),
        ],
        ids=["range", "list", "tuple", "dict", "values", "items", "text", "generator", "map", "empty"],
    )
    def test_iterables(self, iterable, kept):
        (node,) = traced(lambda: source.map(iterable)).nodes
        assert node.iterables == (kept,)
        assert type(node.iterables[0]) is type(kept)
        assert node.items == len(kept)
        assert node.columns == ("value",)

    def test_arrays_stay_arrays(self):
        array = numpy.arange(6).reshape(3, 2)
        (node,) = traced(lambda: source.map(array)).nodes
        assert node.iterables[0] is array
        assert node.items == 3

    def test_several_columns_and_constants(self):
        (node,) = traced(lambda: add.map([1, 2], (3, 4), [5, 6], scale=2)).nodes
        assert node.columns == ("one", "other", "rest[0]")
        assert node.arguments == {"scale": 2}
        assert [add(*item, **node.arguments) for item in zip(*node.iterables, strict=True)] == [18, 24]

    def test_defaults_are_constants(self):
        (node,) = traced(lambda: add.map([1, 2])).nodes
        assert node.arguments == {"other": 1, "scale": 1}

    def test_positional_only_defaults_are_left_to_the_function(self):
        @task
        def odd(a, b=2, /, **more):
            return a + b + sum(more.values())

        (node,) = traced(lambda: odd.map([1], c=3)).nodes
        assert node.arguments == {"c": 3}
        assert odd(1, **node.arguments) == 6

    def test_results_inside_items_and_constants(self):
        def body():
            first = source()
            return add.map([first, 2], other=[first["x"]])

        node = traced(body).nodes[1]
        assert set(node.uses) == {Use(0), Use(0, ("x",))}
        assert node.items == 2

    def test_a_generator_of_calls(self):
        graph = traced(lambda: source.map(source(i) for i in range(3)))
        assert [node.kind for node in graph.nodes] == ["call"] * 3 + ["map"]
        assert graph.nodes[3].uses == (Use(0), Use(1), Use(2))

    def test_in_step_with_a_known_map(self):
        graph = traced(lambda: add.map(source.map(range(3)), [1, 2, 3]))
        assert graph.nodes[1].uses == (Use(0, elementwise=True),)
        assert graph.nodes[1].items == 3
        assert isinstance(graph.nodes[1].iterables[0], MapPromise)

    def test_a_whole_map_beside_itself_in_step(self):
        def body():
            mapped = source.map(range(2))
            return add.map(mapped, [mapped, mapped], scale=mapped)

        assert set(traced(body).nodes[1].uses) == {Use(0), Use(0, elementwise=True)}

    def test_slices_of_a_known_map_are_lists_of_items(self):
        graph = traced(lambda: source.map(source.map(range(4))[1:3]))
        assert graph.nodes[1].uses == (Use(0, (1,)), Use(0, (2,)))
        assert graph.nodes[1].items == 2

    def test_a_tuple_of_known_length_is_known(self):
        node = traced(lambda: source.map(pair())).nodes[1]
        assert node.items == 2
        assert not node.is_dynamic
        assert node.uses == (Use(0, (0,)), Use(0, (1,)))

    def test_dynamic_maps(self):
        def body():
            listed = rows(3)
            dynamic = source.map(listed)
            same = add.map(dynamic, dynamic)
            follows = source.map(same)
            both = add.map(dynamic, follows)
            other = source.map(rows(4))
            return add.map(dynamic, other), add.map(dynamic, [1, 2]), add.map(listed, [1]), both

        nodes = traced(body).nodes
        shown = [(node.task.name, node.items, node.is_dynamic, node.uses) for node in nodes[1:]]
        assert shown == [
            ("source", None, True, (Use(0),)),
            ("add", None, False, (Use(1, elementwise=True),)),
            ("source", None, False, (Use(2, elementwise=True),)),
            ("add", None, False, (Use(1, elementwise=True), Use(3, elementwise=True))),
            ("rows", 1, False, ()),
            ("source", None, True, (Use(5),)),
            ("add", None, True, (Use(1), Use(6))),
            ("add", None, True, (Use(1),)),
            ("add", None, True, (Use(0),)),
        ]

    def test_known_lengths_must_agree(self):
        with pytest.raises(UsageError, match=r"add\.map got iterables of different lengths: 2, 3") as caught:
            traced(lambda: add.map([1, 2], source.map(range(3))))
        assert "test_trace_maps.py" in caught.value.where
        with pytest.raises(UsageError, match="different lengths: 2, 3"):
            traced(lambda: add.map([1, 2], rows(1), [1, 2, 3]))

    def test_a_map_needs_items(self):
        with pytest.raises(UsageError, match="got no items"):
            traced(lambda: source.map(value=[1]))
        with pytest.raises(UsageError, match="cannot be iterated"):
            traced(lambda: source.map(3))

    def test_a_map_is_bound_as_a_call(self):
        with pytest.raises(UsageError, match="task 'add' has no parameter 'scal'") as caught:
            traced(lambda: add.map([1], scal=2))
        assert "did you mean scale=?" in caught.value.fix
        with pytest.raises(UsageError, match="task 'source' takes 1 positional arguments, but got 2"):
            traced(lambda: source.map([1], [2]))
        with pytest.raises(UsageError, match="two values for its parameter 'one'"):
            traced(lambda: add.map([1], one=2))


@task
def fit(rows, rate: float = 0.1, *, columns=(), depth=3):
    return rows, rate, columns, depth


class TestListsAsKeywords:
    @pytest.mark.parametrize("more", [{"rate": [0.1, 0.2]}, {"depth": (1, 2)}, {"rate": numpy.ones(2)}])
    def test_a_value_for_each_item_is_warned_of_where_the_parameter_takes_one(self, more):
        [name] = more
        for call in (lambda: traced(lambda: fit.map([1, 2], **more)), lambda: fit.map([1, 2], **more)):
            with pytest.warns(UserWarning, match=f"keyword {name}, .*pass them by position") as heard:
                call()
            assert [os.path.abspath(each.filename) for each in heard] == [os.path.abspath(__file__)]

    @pytest.mark.parametrize("more", [{"columns": ["a", "b"]}, {"rate": [0.1, 0.2, 0.3]}, {"rate": 0.2}])
    @pytest.mark.filterwarnings("error")
    def test_other_lists_are_what_they_seem(self, more):
        traced(lambda: fit.map([1, 2], **more))
        assert len(fit.map([1, 2], **more)) == 2
