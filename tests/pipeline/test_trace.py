"""Tracing: which nodes a body gives, what is kept of its arguments, and which errors it makes."""

import collections
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import pytest
from tests.pipeline.traced import add, source, traced

from hooke import TraceError, UsageError, pipeline, task
from hooke.pipeline.graph import Use
from hooke.pipeline.promise import Promise
from hooke.pipeline.task import ACTIVE
from hooke.pipeline.trace import trace


class Model:
    def __init__(self, weight):
        self.weight = weight

    @task
    def predict(self, row, bias=0):
        return self.weight * row + bias


@dataclass
class Config:
    rows: object
    nested: list = field(default_factory=list)


Point = collections.namedtuple("Point", "x y")


class TestCalls:
    def test_nothing_runs(self):
        ran = []
        note = task(name="note")(ran.append)

        def body(n):
            note(n)
            return note.map(range(n))

        graph = traced(body, 3)
        assert ran == []
        assert [node.kind for node in graph.nodes] == ["call", "map"]

    def test_arguments_are_bound_with_defaults(self):
        graph = traced(lambda: add(1, 2, 3, scale=4))
        assert graph.nodes[0].arguments == {"one": 1, "other": 2, "rest": (3,), "scale": 4}
        graph = traced(lambda: add(other=5, one=1))
        assert graph.nodes[0].arguments == {"one": 1, "other": 5, "rest": (), "scale": 1}

    def test_each_call_names_its_line_however_often_the_line_runs(self):
        def body():
            for _ in range(2):
                first = source()
                second = source()
            return first, second

        lines = [int(node.where.rpartition(":")[2]) for node in traced(body).nodes]
        start = body.__code__.co_firstlineno
        assert lines == [start + 2, start + 3] * 2

    def test_the_output_may_be_any_nesting(self):
        def body():
            first = source(1)
            return {"a": [first, 2], "b": (first["x"], Config(first)), 3: None}

        graph = traced(body)
        assert graph.output[3] is None
        assert graph.output["a"][1] == 2
        assert graph.output_uses == (Use(0), Use(0, ("x",)))

    def test_plain_outputs(self):
        assert traced(lambda: 3).output == 3
        assert traced(lambda: None).nodes == ()

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda p: [p],
            lambda p: (1, p),
            lambda p: {"a": p},
            lambda p: {p: 1},
            lambda p: {1, p},
            lambda p: frozenset({p}),
            lambda p: Config(p),
            lambda p: Config(1, nested=[{"a": (p,)}]),
            lambda p: Point(p, 2),
            lambda p: collections.OrderedDict(a=p),
            lambda p: collections.defaultdict(list, a=[p]),
            lambda p: [[[[[p]]]]],
            lambda p: [1] * 1000 + [p],
        ],
        ids=range(13),
    )
    def test_promises_are_found_in_nestings(self, wrap):
        graph = traced(lambda: source(wrap(source())))
        assert graph.nodes[1].uses == (Use(0),)

    def test_nestings_that_contain_themselves_end(self):
        def body():
            loop = [source()]
            loop.append({"loop": loop})
            return source(loop)

        kept = traced(body).nodes[1].arguments["value"]
        assert kept[1]["loop"] is kept

    def test_foreign_functions_without_a_signature(self):
        smallest = task(name="smallest")(min)
        graph = traced(lambda: smallest(source(), 2, key=abs))
        assert graph.nodes[1].call_arguments()[1] == {"key": abs}
        assert graph.nodes[1].uses == (Use(0),)

    def test_a_method_has_its_instance_as_an_argument(self):
        model = Model(3)
        graph = traced(lambda: model.predict(source()))
        assert graph.nodes[1].task is Model.predict
        assert graph.nodes[1].arguments["self"] is model
        assert graph.nodes[1].arguments["bias"] == 0

    def test_a_map_of_a_method(self):
        model = Model(3)
        graph = traced(lambda: model.predict.map([1, 2], bias=4))
        (node,) = graph.nodes
        assert node.columns == ("row",)
        assert node.arguments == {"bias": 4}
        assert node.task.function(2, **node.arguments) == 10


class TestArgumentsAreAsTheyWere:
    def test_what_the_body_changes_later_is_not_seen(self):
        def body():
            items, by_name, inner = [1], {"a": 1}, [5]
            nested = (1, [inner], {"k": inner})
            source([items, by_name, nested, {1}])
            source.map(items)
            for changed in (items, inner):
                changed.append(source())
            by_name["b"] = 2
            return items

        graph = traced(body)
        assert graph.nodes[0].arguments["value"] == [[1], {"a": 1}, (1, [[5]], {"k": [5]}), {1}]
        assert graph.nodes[1].iterables == ([1],)
        assert graph.nodes[1].items == 1
        assert len(graph.output) == 2

    def test_sharing_is_kept(self):
        def body():
            inner = [[1]]
            return source({"a": inner, "b": inner})

        kept = traced(body).nodes[0].arguments["value"]
        assert kept["a"] is kept["b"]

    def test_objects_that_are_no_nesting_are_kept_as_they_are(self):
        array, config = numpy.ones(3), Config(1)
        graph = traced(lambda: source([array, config]))
        kept = graph.nodes[0].arguments["value"]
        assert kept[0] is array
        assert kept[1] is config

    def test_an_object_that_is_changed_later_is_given_as_it_was(self):
        def body():
            array, config, rows = numpy.ones(3), Config(1), [numpy.zeros(1), numpy.zeros(1)]
            source([array, config])
            source.map(rows)
            array[0], config.rows = 5, 2
            rows[1][0] = 7
            source([array, config])

        graph = traced(body)
        first, second = (graph.nodes[at].arguments["value"] for at in (0, 2))
        assert first[0].tolist() == [1, 1, 1]
        assert second[0].tolist() == [5, 1, 1]
        assert (first[1].rows, second[1].rows) == (1, 2)
        assert [row.tolist() for row in graph.nodes[1].iterables[0]] == [[0], [0]]

    def test_connected_objects_stay_connected(self):
        def body():
            model = Config([1])
            holder = Config(model)
            source([model, holder])
            model.rows.append(2)
            source([model, holder])

        first, second = (node.arguments["value"] for node in traced(body).nodes)
        assert first[1].rows is first[0]
        assert first[0].rows == [1]
        assert second[1].rows is second[0]
        assert second[0].rows == [1, 2]

    def test_an_object_too_large_to_copy_must_not_be_changed(self):
        def body(change):
            array = numpy.zeros(9 << 20)
            source(array)
            array[-1] = change

        assert traced(lambda: body(0)).nodes[0].arguments["value"].nbytes > 64 << 20
        with pytest.raises(TraceError, match=r"task 'source' got .* ndarray that the pipeline changed after"):
            traced(lambda: body(1))

    def test_what_cannot_be_pickled_is_no_error_yet(self):
        lock = threading.Lock()
        assert traced(lambda: source([lock, 1])).nodes[0].arguments["value"][0] is lock


class TestBindingErrors:
    @pytest.mark.parametrize(
        ("args", "kwargs", "what", "fix"),
        [
            ((), {}, "pipeline 'flow' lacks a value for its parameter 'depth'", "(months=12, *, depth)"),
            (
                (),
                {"dept": 2, "depth": 1},
                "pipeline 'flow' has no parameter 'dept'",
                "did you mean depth=? its parameters",
            ),
            (
                (),
                {"xyzzy": 2, "depth": 1},
                "pipeline 'flow' has no parameter 'xyzzy'",
                "its parameters are (months=12",
            ),
            (
                (1, 2),
                {"depth": 1},
                "pipeline 'flow' takes 1 positional arguments, but got 2",
                "its parameters",
            ),
            (
                (1,),
                {"depth": 1, "months": 2},
                "two values for its parameter 'months'",
                "once, by position or by name",
            ),
        ],
    )
    def test_of_a_pipeline(self, args, kwargs, what, fix):
        def flow(months: int = 12, *, depth: int):
            return source(months + depth)

        with pytest.raises(UsageError) as caught:
            trace(pipeline(flow), args, kwargs)
        assert what in caught.value.what
        assert fix in caught.value.fix

    def test_of_a_task_names_the_line(self):
        with pytest.raises(UsageError, match="task 'source' has no parameter 'valeu'") as caught:
            traced(lambda: source(valeu=1))
        assert "source(valeu=1)" in caught.value.where
        assert caught.value.fix == "did you mean value=? its parameters are (value=0)"

    def test_several_missing(self):
        needs = task(name="needs")(lambda a, b, c: None)
        with pytest.raises(UsageError, match="lacks a value for its parameters 'a', 'c'"):
            traced(lambda: needs(b=1))

    def test_positional_only_by_name(self):
        sharp = task(name="sharp")(lambda a, /: a)
        with pytest.raises(UsageError, match="has no parameter 'a'"):
            traced(lambda: sharp(a=1))


class TestContext:
    def test_nested_pipelines_are_inlined(self):
        @pipeline
        def inner(n):
            return [source(i) for i in range(n)]

        @pipeline
        def outer():
            first, second = inner(2)
            return add(first, second)

        graph = trace(outer)
        assert [node.task.name for node in graph.nodes] == ["source", "source", "add"]
        assert graph.pipeline == "outer"
        assert graph.nodes[2].uses == (Use(0), Use(1))

    def test_nested_pipelines_bind_with_clear_errors(self):
        @pipeline
        def inner(n):
            return n

        with pytest.raises(UsageError, match="pipeline 'inner' has no parameter 'm'"):
            traced(lambda: inner(m=1))

    def test_a_recursive_pipeline(self):
        @pipeline
        def chain(n, value):
            return value if n == 0 else chain(n - 1, source(value))

        graph = trace(chain, (5, 1))
        assert graph.depths() == (0, 1, 2, 3, 4)

    def test_helper_functions_of_the_body_trace_too(self):
        def helper(n):
            return source(n)

        graph = traced(lambda: helper(1))
        assert (
            graph.nodes[0].where.startswith("tests/pipeline/test_trace.py:")
            or "test_trace" in graph.nodes[0].where
        )

    def test_an_error_leaves_no_trace_active(self):
        class Own(Exception):
            pass

        def body():
            source()
            raise Own

        with pytest.raises(Own):
            traced(body)
        assert ACTIVE.get() is None
        assert source(3) == 3
        with pytest.raises(TraceError):
            traced(lambda: bool(source()))
        assert source(3) == 3

    def test_threads_of_the_body_run_tasks_for_real(self):
        results = []

        def body():
            thread = threading.Thread(target=lambda: results.append(source(3)))
            thread.start()
            thread.join()
            return source(4)

        assert len(traced(body).nodes) == 1
        assert results == [3]

    def test_traces_in_threads_do_not_mix(self):
        graphs = {}

        def body(n):
            for _ in range(n):
                source()
                time.sleep(0)

        threads = [
            threading.Thread(target=lambda n=n: graphs.update({n: traced(body, n)})) for n in (20, 30, 40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {n: len(graph.nodes) for n, graph in graphs.items()} == {20: 20, 30: 30, 40: 40}

    def test_a_run_inside_a_body_is_refused(self):
        inner = pipeline(name="inner")(lambda: source())
        with pytest.raises(TraceError, match="pipeline 'inner' was run inside the body") as caught:
            traced(lambda: trace(inner))
        assert "call it as a plain function" in caught.value.fix
        assert len(traced(lambda: inner()).nodes) == 1

    def test_a_promise_of_another_trace(self):
        kept = []
        traced(lambda: kept.append(source()))
        for use in (
            lambda: source(kept),
            lambda: source.map(kept),
            lambda: kept,
            lambda: source.map(kept[0]),
        ):
            with pytest.raises(TraceError, match="from another trace") as caught:
                traced(use)
            assert "do not keep results in globals" in caught.value.fix

    @pytest.mark.parametrize(
        "make",
        [lambda: (i for i in [source()]), lambda: map(str, [1]), lambda: iter([source()])],
        ids=range(3),
    )
    def test_what_can_be_read_once_is_not_returned(self, make):
        with pytest.raises(TraceError, match="which can be read only once") as caught:
            traced(make)
        assert caught.value.fix == "return a list: list(...)"

    def test_the_same_pipeline_traces_again_and_alike(self):
        flow = pipeline(name="flow")(lambda n: source.map(range(n)))
        first, second = trace(flow, (3,)), trace(flow, (3,))
        assert first.describe() == second.describe()
        assert first.nodes[0] is not second.nodes[0]


class TestSize:
    """Bounds are some ten times what a quiet core takes: they catch a wrong order of growth only."""

    @pytest.mark.needs("cpu")
    def test_a_million_plain_items(self):
        items = list(range(1_000_000))
        started = time.thread_time()
        graph = traced(lambda: (source(items), source.map(items)))
        assert time.thread_time() - started < 2
        assert graph.nodes[1].items == 1_000_000

    def test_a_range_stays_a_range(self):
        started = time.thread_time()
        (node,) = traced(lambda: source.map(range(10**12))).nodes
        assert time.thread_time() - started < 0.5
        assert node.iterables == (range(10**12),)
        assert node.items == 10**12

    @pytest.mark.needs("cpu")
    def test_many_nodes(self):
        def body():
            results = [source(i) for i in range(2_000)]
            for _ in range(3):
                results = [add(result) for result in results]
            return add(*results)

        started = time.thread_time()
        graph = traced(body)
        assert time.thread_time() - started < 8
        assert len(graph.nodes) == 8_001
        assert len(graph.parents(8_000)) == 2_000

    def test_items_of_a_large_map_are_made_when_asked(self):
        graph = traced(lambda: source.map(range(10**9))[5])
        assert type(graph.output) is Promise
        assert graph.output.path == (5,)


HELPER = "def helper(step, x):\n    return step(x)\n"


def test_equal_lines_of_two_files_are_places_of_their_own(tmp_path):
    helpers = []
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(HELPER)
        found = {}
        exec(compile(HELPER, str(tmp_path / name), "exec"), found)
        helpers.append(found["helper"])

    @task
    def same(x):
        return x

    @pipeline
    def both():
        return [helper(same, number) for number, helper in enumerate(helpers)]

    assert [Path(node.where.partition(":")[0]).name for node in trace(both, ()).nodes] == ["one.py", "two.py"]
