"""A script that defines everything itself, as most begin: its functions and classes reach workers by value."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.heavy

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
