"""Pipelines: plain Python when called, checked when declared."""

import copy
import functools
import inspect
import pydoc
import subprocess
import sys

import pytest

import hooke
from hooke import UsageError, pipeline, task
from hooke.pipeline.pipeline import RESERVED, Pipeline
from hooke.pipeline.trace import trace


@task
def square(value):
    return value * value


@pipeline
def squares(n: int = 3, *extra: int, start: int = 0, **more: int) -> list[int]:
    """Squares from a start."""
    return square.map([*range(start, start + n), *extra, *more.values()])


class Study:
    def __init__(self, n):
        self.n = n

    @pipeline
    def whole(self, start=0):
        return square.map(range(start, self.n))

    @staticmethod
    @pipeline
    def plain(n):
        return square(n)


class TestCalls:
    def test_plain_python(self):
        assert squares() == [0, 1, 4]
        assert squares(2, 10, start=1, last=5) == [1, 4, 100, 25]

    def test_errors_are_the_functions_own(self):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            pipeline(lambda_named())()

    def test_branches_work_outside_a_run(self):
        @pipeline
        def flow(n):
            return "large" if square(n) > 10 else "small"

        assert [flow(2), flow(4)] == ["small", "large"]

    def test_a_debugger_steps_into_body_and_task(self, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(
            "from hooke import pipeline, task\n"
            "@task\ndef double(n):\n    result = 2 * n\n    return result\n"
            "@pipeline\ndef flow(n):\n    return double(n)\n"
            "flow(21)\n"
        )
        commands = "b 4\nc\nn\np 'seen', result\nup\nup\np 'caller', n\nq\n"
        debugger = [sys.executable, "-m", "pdb", script]
        done = subprocess.run(
            debugger, input=commands, capture_output=True, text=True, timeout=180, check=False
        )
        assert "('seen', 42)" in done.stdout
        assert "('caller', 21)" in done.stdout

    def test_all_arguments_reach_the_trace(self):
        graph = trace(squares, (2, 10), {"start": 1, "last": 5})
        assert graph.nodes[0].iterables == ([1, 2, 10, 5],)


class TestLooks:
    def test_signature_docstring_names(self):
        assert inspect.signature(squares) == inspect.signature(squares.function)
        assert (squares.__doc__, squares.name, squares.__module__) == (
            "Squares from a start.",
            "squares",
            __name__,
        )
        assert squares.__hooke_code__() is squares.function
        assert repr(squares) == f"<pipeline 'squares' of {__name__}>"

    def test_help_shows_the_function(self):
        text = pydoc.plain(pydoc.render_doc(squares))
        assert "squares(n: int = 3, *extra: int, start: int = 0, **more: int) -> list[int]" in text

    def test_copies_are_itself(self):
        assert copy.copy(squares) is copy.deepcopy(squares) is squares


class TestMethods:
    def test_bind_as_functions_do(self):
        study = Study(3)
        assert study.whole() == [0, 1, 4]
        assert Study.whole(study, 1) == [1, 4]
        assert Study.plain(3) == study.plain(3) == 9
        assert isinstance(Study.whole, Pipeline)

    def test_trace_as_functions_do(self):
        graph = trace(Study(3).whole, (1,))
        assert graph.nodes[0].iterables == (range(1, 3),)
        assert graph.pipeline == "Study.whole"
        with pytest.raises(UsageError, match="has no parameter 'begin'"):
            trace(Study(3).whole, (), {"begin": 1})


class TestDeclarations:
    def test_with_a_name(self):
        assert pipeline(name="nightly")(squares.function).name == "nightly"
        assert pipeline()(squares.function).name == "squares"
        assert pipeline(name="short")(lambda: 1)() == 1

    @pytest.mark.parametrize("name", RESERVED)
    @pytest.mark.parametrize("form", ["{}", "a, {}=1", "*, {}", "{}, /", "*{}", "**{}"])
    def test_reserved_parameters(self, name, form):
        space = {}
        exec(f"def flow({form.format(name)}): pass", space)
        with pytest.raises(UsageError, match=f"pipeline 'flow' has the parameter '{name}'") as caught:
            pipeline(space["flow"])
        assert f"rename it, for example to {name}_" in caught.value.fix
        assert (
            "reserved names: on, workers, wait, progress, deadline, budget, catalog, allow_mismatch"
            in caught.value.fix
        )

    def test_names_of_measure_are_free(self):
        @pipeline
        def flow(repeats, task):
            return repeats, task

        assert flow(1, 2) == (1, 2)

    def test_async_bodies(self):
        async def flow():
            return 1

        with pytest.raises(UsageError, match="@pipeline got the async function .*flow"):
            pipeline(flow)

    def test_generators(self):
        def flow():
            yield 1

        with pytest.raises(UsageError, match="@pipeline got the generator function"):
            pipeline(flow)

    def test_lambdas_without_a_name(self):
        with pytest.raises(UsageError, match="without a usable name") as caught:
            pipeline(lambda: 1)
        assert "pipeline(name=" in caught.value.fix

    @pytest.mark.parametrize("name", ["", "a b", "a/b", 3])
    def test_names(self, name):
        with pytest.raises(UsageError, match="name="):
            pipeline(name=name)(squares.function)

    @pytest.mark.parametrize("value", ["nightly", 3, squares, square], ids=str)
    def test_what_is_not_a_function(self, value):
        with pytest.raises(UsageError, match="@pipeline got"):
            pipeline(value)

    def test_unknown_options(self):
        with pytest.raises(TypeError, match="nam"):
            pipeline(nam="x")

    def test_a_partial(self):
        assert pipeline(functools.partial(squares.function, 2))() == [0, 1]


class TestTheRootPackage:
    @pytest.mark.needs("cpu")
    def test_the_decorator_is_not_hidden_by_the_folder(self):
        code = "import hooke.pipeline.engine, hooke.pipeline.trace; from hooke import pipeline; print(callable(pipeline))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        assert done.stdout.strip() == "True"

    def test_public_names(self):
        assert hooke.__all__ == sorted(hooke.__all__)
        assert set(hooke.__all__) <= set(dir(hooke))
        assert hooke.UsageError is UsageError
        with pytest.raises(AttributeError, match="has no attribute 'xyzzy'"):
            hooke.xyzzy  # noqa: B018

    def test_every_error_is_there(self):
        from hooke.base import errors

        assert set(errors.__all__) <= set(hooke.__all__)
        assert all(getattr(hooke, name) is getattr(errors, name) for name in errors.__all__)

    def test_the_surface_is_light(self):
        heavy = {
            "asyncio", "blake3", "click", "cloudpickle", "msgspec", "numpy", "pandas", "polars", "psutil", "pyarrow",
            "rich", "subprocess", "threading_run",
        }  # fmt: skip
        code = (
            "import sys\nfrom hooke import task, pipeline, UsageError\n"
            "@task(memory='2GiB', timeout='1m')\ndef f(x): return x\n"
            "@pipeline\ndef p(n): return f.map(range(n))\n"
            "assert p(2) == [0, 1]\n"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        assert not heavy & set(done.stdout.split())


def lambda_named():
    def needs(value):
        return value

    return needs
