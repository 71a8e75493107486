"""What a type checker sees through `@task` and `@pipeline`: the original signatures. Pyrefly checks a snippet.

Each line of the snippet that ends in `# -> type` must reveal that type, each that ends in `# error: kind`
must be refused so, and no other line may be.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hooke

pytest.importorskip("pyrefly")

PREAMBLE = '''
from collections.abc import Callable
from fractions import Fraction
from typing import Any, reveal_type

import hooke
from hooke import TraceError, UsageError, pipeline, task

@task
def plain(a: int, *, b: str = "x") -> list[float]:
    """Plain."""
    return [float(a)]

@task(cpus=2, memory="2GiB", gpus=0.5, retries=2, timeout="30m", cache=False, name="other")
def opts(a: int = 3, *rest: int, **more: str) -> int:
    return a

@task
def pair(n: int) -> tuple[int, str]:
    return n, str(n)

class Model:
    @task
    def predict(self, row: int, bias: int = 0) -> str:
        return str(row + bias)

    @task(cpus=2)
    def big(self, row: int) -> bytes:
        return bytes(row)

    @staticmethod
    @task
    def plain(row: int) -> str:
        return str(row)

    @pipeline
    def whole(self, n: int) -> str:
        return self.predict(n)

@pipeline
def flow(n: int = 3, *, depth: int) -> list[int]:
    return opts.map(range(n))

@pipeline(name="nightly")
def nightly(n: int) -> tuple[int, str]:
    number, text = pair(n)
    return opts(number), text

def helper(x: int, y: str = "") -> bool:
    return bool(x) and bool(y)

wrapped = task(cpus=2)(helper)
'''

REVEALED = """
reveal_type(plain)  # -> Task[[a: int, *, b: str = 'x'], list[float]]
reveal_type(plain(1, b="y"))  # -> list[float]
reveal_type(opts)  # -> Task[[a: int = 3, *rest: int, **more: str], int]
reveal_type(opts(1, 2, c="d"))  # -> int
reveal_type(opts.map(range(3)))  # -> list[int]
reveal_type(pair(1))  # -> tuple[int, str]
reveal_type(Model().predict)  # -> Task[[row: int, bias: int = 0], str]
reveal_type(Model().predict(1, bias=2))  # -> str
reveal_type(Model().predict.map([1, 2], bias=3))  # -> list[str]
reveal_type(Model.predict(Model(), 1))  # -> str
reveal_type(Model().big(1))  # -> bytes
reveal_type(Model.plain(1))  # -> str
reveal_type(Model().whole(1))  # -> str
reveal_type(flow)  # -> Pipeline[[n: int = 3, *, depth: int], list[int]]
reveal_type(flow(depth=2))  # -> list[int]
reveal_type(nightly(2))  # -> tuple[int, str]
reveal_type(wrapped)  # -> Task[[x: int, y: str = ''], bool]
reveal_type(task(gang=2)(helper)(1))  # -> bool
reveal_type(task(gang=2, results="all")(helper)(1))  # -> list[bool]
reveal_type(task(len))  # -> Task[[obj: Sized, /], int]
reveal_type(task(cpus=1)(Fraction.limit_denominator)(Fraction(1)))  # -> Fraction
reveal_type(plain.name)  # -> str
reveal_type(plain.resources.memory)  # -> int | None
function: Callable[[int], list[float]] = plain
composes: Callable[..., Any] = flow
error: type[hooke.HookeError] = hooke.OutOfMemory
"""

REFUSED = """
plain("a")  # error: bad-argument-type
plain(1, c=2)  # error: unexpected-keyword
plain()  # error: missing-argument
plain(1, "y")  # error: bad-argument-count
opts("a")  # error: bad-argument-type
Model().predict("a")  # error: bad-argument-type
Model().predict()  # error: missing-argument
flow(n="a", depth=1)  # error: bad-argument-type
flow(1)  # error: missing-argument
wrapped(1, 2)  # error: bad-argument-type
task(cpu=2)  # error: no-matching-overload
task(retries="2")  # error: no-matching-overload
pipeline(nam="x")  # error: unexpected-keyword
wrong: Callable[[str], int] = opts  # error: bad-assignment
hooke.xyzzy  # error: missing-attribute
"""


def checked(folder: Path, source: str) -> dict[int, list[str]]:
    """Line -> what pyrefly says there: `revealed type: ...` or `message [kind]`."""
    (folder / "snippet.py").write_text(source)
    (folder / "pyrefly.toml").write_text(
        'project-includes = ["snippet.py"]\npreset = "strict"\npython-version = "3.11"\n'
        f'search-path = ["{Path(hooke.__file__).parent.parent}"]\n'
    )
    options = [
        "--output-format",
        "min-text",
        "--min-severity",
        "info",
        "--python-interpreter-path",
        sys.executable,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pyrefly", "check", "-c", folder / "pyrefly.toml", *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=folder,
    )
    said: dict[int, list[str]] = {}
    for line in done.stdout.splitlines():
        if found := re.match(r"\s*(?:ERROR|INFO|WARN) \S*snippet\.py:(\d+):\S+ (.*)", line):
            said.setdefault(int(found[1]), []).append(found[2])
    assert said, done.stdout + done.stderr
    return said


@pytest.mark.needs("cpu")
def test_original_signatures_are_seen(tmp_path):
    source = PREAMBLE + REVEALED
    said = checked(tmp_path, source)
    for number, line in enumerate(source.splitlines(), 1):
        expected = [f"revealed type: {line.split('# -> ')[1]} [reveal-type]"] if "# -> " in line else []
        assert said.get(number, []) == expected, line


@pytest.mark.needs("cpu")
def test_wrong_calls_are_refused(tmp_path):
    source = PREAMBLE + REFUSED
    said = checked(tmp_path, source)
    for number, line in enumerate(source.splitlines(), 1):
        kinds = [re.search(r"\[([\w-]+)\]$", text)[1] for text in said.get(number, [])]
        assert kinds == ([line.split("# error: ")[1]] if "# error: " in line else []), (
            line,
            said.get(number),
        )


def test_the_package_says_that_it_is_typed():
    assert (Path(hooke.__file__).parent / "py.typed").exists()
