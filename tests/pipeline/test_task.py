"""A task is its function: same result, errors, signature, methods. Declarations are checked when they are made."""

import functools
import inspect
import io
import itertools
import operator
import pydoc
import traceback
from fractions import Fraction

import numpy
import pytest

from hooke import UsageError, pipeline, task
from hooke.pipeline.task import BoundTask, Resources, Task
from hooke.pipeline.trace import trace


@task
def double(value: int, *, by: int = 2) -> int:
    """Twice the value."""
    return value * by


@task(cpus=2, memory="2GiB", gpus=0.5, retries=3, timeout="30m", cache=False, name="big-one")
def big(value):
    return value


@task
def factorial(n: int) -> int:
    return 1 if n == 0 else n * factorial(n - 1)


class Model:
    """Tasks as methods of every sort."""

    def __init__(self, weight: int) -> None:
        self.weight = weight

    @task
    def predict(self, row: int, bias: int = 0) -> int:
        """A row's prediction."""
        return self.weight * row + bias

    @staticmethod
    @task
    def plain(row: int) -> int:
        return row + 1

    @task
    @staticmethod
    def static(row: int) -> int:
        return row + 2

    @classmethod
    @task
    def named(cls, row: int) -> tuple[str, int]:
        return cls.__name__, row

    @task
    @classmethod
    def made(cls, row: int) -> tuple[str, int]:
        return cls.__name__, row

    @property
    @task
    def size(self) -> int:
        return self.weight


class Adder:
    """A callable object with an attribute that a task has too."""

    name = "not the task's"

    def __init__(self, by: int) -> None:
        self.by = by
        self.resources = "the adder's own"

    def __call__(self, value: int) -> int:
        return value + self.by


class TestCalls:
    def test_a_task_is_its_function(self):
        assert double(3) == 6
        assert double(3, by=5) == 15
        assert double.function(3) == 6

    def test_its_errors_are_the_functions_own(self):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'value'"):
            double()
        with pytest.raises(TypeError, match="unexpected keyword argument 'bye'"):
            double(1, bye=2)

    def test_the_traceback_has_one_frame_more(self):
        def fails():
            raise LookupError("no such row")

        frames = {}
        for name, function in (("plain", fails), ("task", task(fails))):
            try:
                function()
            except LookupError as error:
                frames[name] = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames["task"][-1] == frames["plain"][-1] == "fails"
        assert len(frames["task"]) == len(frames["plain"]) + 1

    def test_recursion_is_plain(self):
        assert factorial(10) == 3628800

    def test_arguments_named_as_the_methods_own(self):
        @task
        def odd(self, function, name=0, *args, **kwargs):
            return self, function, name, args, kwargs

        assert odd(self=1, function=2) == (1, 2, 0, (), {})
        assert odd(1, 2, 3, 4, iterables=5) == (1, 2, 3, (4,), {"iterables": 5})


class TestLooks:
    def test_signature_docstring_names(self):
        assert inspect.signature(double) == inspect.signature(double.function)
        assert (double.__doc__, double.__name__, double.__module__) == (
            "Twice the value.",
            "double",
            __name__,
        )
        assert double.__wrapped__ is double.function
        assert double.__hooke_code__() is double.function

    def test_help_shows_the_function(self):
        text = pydoc.plain(pydoc.render_doc(double))
        assert "double(value: int, *, by: int = 2) -> int" in text
        assert "Twice the value." in text

    def test_repr_names_it(self):
        assert repr(double) == f"<task 'double' of {__name__}>"

    def test_marks_of_other_decorators_go_along(self):
        def marked():
            return 1

        marked.mark = "here"
        assert task(marked).mark == "here"

    def test_what_another_task_knows_of_itself_does_not(self):
        """`functools.wraps` copies the attributes of a task, and a library may give the wrapper its own signature."""

        @task
        def scaled(x, unit=1):
            return x * unit

        assert scaled.binder
        assert scaled.signature

        @functools.wraps(scaled)
        def by_two(x, unit=2):
            return scaled.function(x, unit)

        del by_two.__wrapped__
        other = task(name="by_two")(by_two)
        assert str(other.signature) == "(x, unit=2)"

        @pipeline
        def both():
            return [scaled(1), other(1)]

        assert [dict(node.arguments) for node in trace(both, ()).nodes] == [
            {"x": 1, "unit": 1},
            {"x": 1, "unit": 2},
        ]

    def test_a_callable_objects_state_does_not(self):
        adder = task(cpus=3)(Adder(2))
        assert adder(1) == 3
        assert adder.name == "Adder"
        assert adder.resources == Resources(cpus=3)


class TestMethods:
    def test_binds_as_the_function_does(self):
        model = Model(3)
        assert model.predict(2) == 6
        assert model.predict(2, bias=1) == 7
        assert Model.predict(model, 2) == 6
        assert isinstance(model.predict, BoundTask)
        assert isinstance(Model.predict, Task)
        assert not isinstance(Model.predict, BoundTask)

    def test_a_bound_task_looks_like_its_method(self):
        bound = Model(3).predict
        assert list(inspect.signature(bound).parameters) == ["row", "bias"]
        assert bound.__doc__ == "A row's prediction."
        assert bound.name == "Model.predict"
        assert bound.__hooke_code__() == bound.function

    def test_a_bound_task_maps_over_rows(self):
        assert Model(3).predict.map([1, 2], bias=1) == [4, 7]
        assert Model.predict.map([Model(1), Model(2)], [5, 5]) == [5, 10]

    def test_equal_as_methods_are(self):
        model = Model(3)
        assert model.predict == model.predict
        assert len({model.predict, model.predict}) == 1
        assert model.predict != Model(3).predict
        assert model.predict != "predict"

    @pytest.mark.parametrize("owner", [Model, Model(1)])
    def test_static_methods_in_both_orders(self, owner):
        assert owner.plain(1) == 2
        assert owner.static(1) == 3
        assert owner.static.map([1, 2]) == [3, 4]

    @pytest.mark.parametrize("owner", [Model, Model(1)])
    def test_class_methods_in_both_orders(self, owner):
        assert owner.named(1) == ("Model", 1)
        assert owner.made(1) == ("Model", 1)
        assert owner.made.map([1]) == [("Model", 1)]

    def test_a_property_of_a_task(self):
        assert Model(7).size == 7

    def test_a_foreign_bound_method_stays_bound_to_its_own(self):
        class Other:
            predict = task(Model(3).predict.function)
            upper = task("abc".upper)

        assert Other().predict(2) == 6
        assert Other().upper() == "ABC"


class TestMap:
    def test_is_a_list(self):
        assert double.map(range(3)) == [0, 2, 4]
        assert double.map([1, 2], by=10) == [10, 20]
        assert double.map(value for value in (1, 2)) == [2, 4]
        assert double.map([]) == []

    @pytest.mark.parametrize(
        "iterable",
        [(1, 2), range(1, 3), {1: "a", 2: "b"}, {1: "a", 2: "b"}.keys(), iter([1, 2]), numpy.array([1, 2])],
    )
    def test_over_any_iterable(self, iterable):
        assert double.map(iterable) == [2, 4]

    def test_zips_strictly(self):
        add = task(operator.add)
        assert add.map([1, 2], (3, 4)) == [4, 6]
        with pytest.raises(UsageError, match="add.map got iterables of different lengths: 2, 3"):
            add.map([1, 2], [1, 2, 3])

    def test_unequal_lengths_are_found_before_anything_runs(self):
        ran = []
        with pytest.raises(UsageError):
            task(lambda_like(ran)).map(iter([1, 2]), [1])
        assert ran == []

    def test_nothing_to_go_over(self):
        with pytest.raises(UsageError, match=r"double.map got no items\n"):
            double.map()
        with pytest.raises(UsageError, match=r"got no items, only the keyword 'value'") as caught:
            double.map(value=[1, 2])
        assert "task.map(items, same_for_all=1)" in caught.value.fix

    @pytest.mark.parametrize("value", [3, None, numpy.array(3), object])
    def test_what_cannot_be_iterated(self, value):
        with pytest.raises(UsageError, match="which cannot be iterated"):
            double.map(value)

    @pytest.mark.parametrize("endless", [itertools.count(), itertools.cycle([1]), itertools.repeat(1)])
    def test_what_never_ends(self, endless):
        with pytest.raises(UsageError, match="which never ends"):
            double.map(endless)

    def test_a_repeat_that_ends(self):
        assert double.map(itertools.repeat(4, 2)) == [8, 8]

    def test_an_iterables_own_error_is_kept(self):
        def broken():
            yield 1
            raise TypeError("the generator's own")

        with pytest.raises(TypeError, match="the generator's own") as caught:
            double.map(broken())
        assert not isinstance(caught.value, UsageError)

    def test_wrong_keywords_are_the_functions_own_error(self):
        with pytest.raises(TypeError, match="bye"):
            double.map([1], bye=1)


def lambda_like(ran):
    def note(*args):
        ran.append(args)

    return note


class TestForeignFunctions:
    def test_of_a_package(self):
        total = task(cpus=2)(numpy.sum)
        assert total([1, 2]) == 3
        assert (total.name, total.resources.cpus) == ("sum", 2)
        assert inspect.signature(total) == inspect.signature(numpy.sum)

    @pytest.mark.parametrize(
        ("function", "args", "result", "name"),
        [
            (max, (1, 2), 2, "max"),
            (numpy.add, (1, 2), 3, "add"),
            ("abc".upper, (), "ABC", "str.upper"),
            (Fraction, (1, 2), Fraction(1, 2), "Fraction"),
            (functools.partial(int, base=2), ("11",), 3, "int"),
            (functools.partial(functools.partial(max, 1), 2), (0,), 2, "max"),
            (Adder(1), (1,), 2, "Adder"),
            (operator.itemgetter(1), ("ab",), "b", "itemgetter"),
            (Model(2).predict.function, (2,), 4, "Model.predict"),
        ],
    )
    def test_callables_of_every_sort(self, function, args, result, name):
        declared = task(function)
        assert declared(*args) == result
        assert declared.name == name

    def test_a_task_may_be_declared_again(self):
        slow = task(cpus=4)(double)
        assert slow is not double
        assert (slow(2), slow.resources.cpus, slow.function) == (4, 4, double.function)
        assert task(cpus=4)(Model(3).predict)(2) == 6

    def test_a_lambda_with_a_name(self):
        assert task(name="double")(lambda value: 2 * value)(2) == 4

    def test_a_class_attribute_that_is_a_builtin_does_not_bind(self):
        class Holder:
            largest = task(max)

        assert Holder().largest(1, 2) == 2


class TestOptions:
    def test_all_of_them(self):
        assert big.name == "big-one"
        assert big.resources == Resources(
            cpus=2, memory=2 * 1024**3, gpus=0.5, retries=3, timeout_s=1800, cache=False
        )

    def test_defaults(self):
        assert double.resources == Resources()
        assert task()(lambda_like([])).resources == Resources(cpus=1, memory=None, gpus=0, retries=0)

    def test_units_are_optional(self):
        assert task(memory=1024, timeout=1.5)(max).resources == Resources(memory=1024, timeout_s=1.5)

    @pytest.mark.parametrize("option", ["cpus", "gpus"])
    @pytest.mark.parametrize("value", [-1, "2", True, float("nan"), float("inf"), None])
    def test_numbers(self, option, value):
        with pytest.raises(UsageError, match=f"{option}="):
            task(**{option: value})

    def test_no_cpus_at_all(self):
        with pytest.raises(UsageError, match="cpus=0") as caught:
            task(cpus=0)
        assert "a number above 0, such as cpus=1 or cpus=0.5" in str(caught.value)

    @pytest.mark.parametrize("value", [-1, 1.5, "1", True, None])
    def test_retries(self, value):
        with pytest.raises(UsageError, match="retries=") as caught:
            task(retries=value)
        assert "a whole number of 0 or more, such as retries=2" in str(caught.value)

    @pytest.mark.parametrize("value", ["2 gallons", "lots", 0, -5, 1.5, True, []])
    def test_memory(self, value):
        with pytest.raises(UsageError, match="memory") as caught:
            task(memory=value)
        assert "GiB" in str(caught.value)

    @pytest.mark.parametrize("value", ["soon", 0, -5, True, []])
    def test_timeout(self, value):
        with pytest.raises(UsageError, match="timeout") as caught:
            task(timeout=value)
        assert "30m" in str(caught.value)

    def test_cache(self):
        with pytest.raises(UsageError, match="cache='no'"):
            task(cache="no")

    def test_unknown_options_suggest_the_nearest(self):
        with pytest.raises(UsageError, match="@task has no option 'retry'") as caught:
            task(retry=2)
        assert "did you mean retries=?" in caught.value.fix
        assert (
            "valid options: cpus, memory, gpus, retries, timeout, cache, keep_checkpoints, gang, name, observe, results"
            in caught.value.fix
        )
        with pytest.raises(UsageError) as caught:
            task(xyzzy=2)
        assert "did you mean" not in caught.value.fix

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", "1st", 3, "a\n"])
    def test_names(self, name):
        with pytest.raises(UsageError, match="name="):
            task(name=name)(max)

    def test_a_function_and_options_at_once(self):
        with pytest.raises(UsageError) as caught:
            task(max, cpus=2)
        assert "task(cpus=2)(function)" in caught.value.fix


class TestWhatCannotBeATask:
    def test_async_functions(self):
        async def fetch():
            return 1

        async def stream():
            yield 1

        class Fetcher:
            async def __call__(self):
                return 1

        for function in (fetch, stream, Fetcher(), functools.partial(fetch)):
            with pytest.raises(UsageError, match="async function") as caught:
                task(function)
            assert "asyncio.run" in caught.value.fix

    def test_generators(self):
        def rows():
            yield 1

        with pytest.raises(UsageError, match="generator function 'rows'") as caught:
            task(rows)
        assert "return a list" in caught.value.fix

    @pytest.mark.parametrize("name", ["submit", "delay", "remote"])
    def test_calls_as_other_libraries_have_them(self, name):
        with pytest.raises(AttributeError, match=rf"the task 'add' has no {name}\(\); .* add\.map\(items\)"):
            getattr(task(name="add")(lambda x: x), name)
        assert not hasattr(task(name="add")(lambda x: x), name)

    def test_lambdas_without_a_name(self):
        with pytest.raises(UsageError, match="without a usable name: <lambda>") as caught:
            task(lambda: 1)
        assert 'task(name="double")(lambda x: 2 * x)' in caught.value.fix

    def test_names_with_other_letters_than_a_to_z(self):
        def size():
            return 1

        size.__qualname__ = "größe"
        with pytest.raises(UsageError, match="without a usable name: größe") as caught:
            task(size)
        assert "letters (a to z)" in caught.value.fix

    @pytest.mark.parametrize("value", ["fast", 3, [max], property(lambda self: 1)])
    def test_what_is_not_a_function(self, value):
        with pytest.raises(UsageError, match="which is not a function"):
            task(value)

    def test_a_pipeline(self):
        from hooke import pipeline

        @pipeline
        def whole():
            return 1

        with pytest.raises(UsageError, match="@task got <pipeline 'whole'"):
            task(whole)


def test_errors_are_one_screen():
    stream = io.StringIO()
    with pytest.raises(UsageError) as caught:
        task(cpu=2)
    print(caught.value, file=stream)
    assert stream.getvalue().splitlines()[0] == "@task has no option 'cpu'"
    assert [line.split(":")[0].strip() for line in stream.getvalue().splitlines()[1:]] == ["where", "fix"]
