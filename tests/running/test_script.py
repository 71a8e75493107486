"""A script that defines everything itself, as most begin: its functions and classes reach workers by value."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.needs("processes")

CLASSES = """
    import functools, multiprocessing, sys
    from dataclasses import dataclass, field
    from hooke import pipeline, run, task

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        tags: list = field(default_factory=list)

    class Pair:
        __slots__ = ("one", "two")

    class Model:
        def __init__(self, depth):
            self.depth = depth

        @functools.cached_property
        def twice(self):
            return 2 * self.depth

    def squared(x):
        return x * x

    @task
    def point(x):
        return Point(x)

    @task
    def model(x):
        return Model(x)

    @task
    def pair():
        made = Pair()
        made.one = made.two = 5
        return made

    @task
    def used(p, m, word):
        return isinstance(p, Point) and isinstance(m, Model) and (p.x, m.twice, word)

    @task
    def pooled(method):
        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.map(squared, [1, 2])

    @pipeline
    def job(word):
        return used(point(1), model(2), word), point(3), pair()

    @pipeline
    def pools():
        return pooled.map(["fork", "spawn"])

    @task
    def failing():
        raise ValueError("on purpose")

    @pipeline
    def fails():
        return failing()
"""


def start(folder, name, last):
    script = folder / name
    guarded = 'if __name__ == "__main__":\n    ' + last
    script.write_text(textwrap.dedent(CLASSES) + guarded, encoding="utf-8")
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180, check=False)


def test_classes_of_a_script_are_the_same_in_every_worker_and_every_run(tmp_path):
    """In the second run the points come from the store, where the first one put them."""
    last = (
        "u, p, q = run(job, sys.argv[0][-4:]).result(); print(u, p, q.two, type(p) is Point, type(q) is Pair)"
    )
    for name in ("a.py", "b.py"):
        done = start(tmp_path, name, last)
        assert done.stdout == f"(1, 4, '{name}') Point(x=3, tags=[]) 5 True True\n", done.stderr


def test_a_task_of_a_script_may_start_processes_of_its_own(tmp_path):
    done = start(tmp_path, "pools.py", "print(run(pools).result())")
    assert done.stdout == "[[1, 4], [1, 4]]\n", done.stderr


def test_a_failure_shows_the_line_of_the_script(tmp_path):
    done = start(tmp_path, "fails.py", "run(fails)")
    assert 'fails.py", line' in done.stderr
    assert 'raise ValueError("on purpose")' in done.stderr
    assert "dynamic" not in done.stderr


KINDS = """
class M:
    def __init__(self, n):
        self.n = n

    def method(self, x):
        return self.n * x

    def __call__(self, x):
        return self.n + x

    @classmethod
    def made(cls, x):
        return cls(x).n

    @staticmethod
    def plain(x):
        return x

def scaled(k, x):
    return k * x
"""

CALLABLES = """
import ctypes, functools, operator
import cachetools, numpy, toolz
import kinds
from hooke import pipeline, run, task

FACTOR = 2

def scaled(k, x):
    return FACTOR * k * x

class Sub(kinds.M):
    __slots__ = ("other",)

    def method(self, x):
        return super().method(x) + FACTOR

class ByName:
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)

    def __reduce__(self):
        return self.function.__qualname__

@ByName
def named(x):
    return FACTOR * x

@toolz.curry
def curried(k, x):
    return FACTOR * k * x

@functools.lru_cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@functools.singledispatch
def dispatched(x):
    return None

@dispatched.register
def _(x: int):
    return FACTOR * x

@cachetools.cached(cachetools.TTLCache(9, 9))
def timed(x):
    return FACTOR * x

library = ctypes.CDLL(None)
library.labs.restype, library.labs.argtypes = ctypes.c_long, [ctypes.c_long]
absolute = library.abs

def helpers(x):
    return library.labs(-x), absolute(-x), named(x), curried(3)(x), fibonacci(x), dispatched(x), timed(x)

CALLED = [
    functools.partial(scaled, 3), functools.partial(kinds.scaled, 3), functools.partial(functools.partial(kinds.M(3))),
    Sub(3).method, kinds.M(3).method, Sub(3), kinds.M(3), Sub.made, kinds.M.made, kinds.M.plain,
    named, curried(3), fibonacci, timed, helpers, toolz.compose(abs, curried(3)),
    cachetools.cached({})(functools.partial(scaled, 3)), operator.methodcaller("bit_length"), (5).__add__, abs,
]
TASKS = [task(name=f"t{number}")(each) for number, each in enumerate(CALLED)]

@pipeline
def all_of_them():
    return [(each(4), each.map([5, 6])) for each in TASKS]

if __name__ == "__main__":
    ran = run(all_of_them)
    assert ran.result() == [(each(4), [each(5), each(6)]) for each in CALLED], ran.result()
    print(*sorted({row.state for row in ran.tasks()}))
"""


def test_whatever_can_be_called_is_a_task_whose_code_the_worker_finds_unchanged(tmp_path):
    """Partials, bound methods, instances, and objects that pickle as a name, of a module and of the script."""
    (tmp_path / "kinds.py").write_text(KINDS, encoding="utf-8")
    (tmp_path / "job.py").write_text(CALLABLES, encoding="utf-8")
    for states in ("done", "cached"):
        done = subprocess.run(
            [sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout == f"{states}\n", done.stderr
