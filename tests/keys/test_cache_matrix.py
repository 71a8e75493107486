"""The cache matrix: every edit that can change an answer moves the key, and no other does.

Each row is a small project written twice, before and after an edit, and fingerprinted in two fresh processes. The rows
that must move are fingerprinted by a weakened walk too: it must not notice, or the row would prove nothing.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("matrix_child.py")


@dataclass(frozen=True)
class Row:
    """Files before and after an edit. `weakened` is what a walk must follow to notice; `expression` finds the target."""

    before: dict
    after: dict
    weakened: str = "bodies"
    expression: str = "flights.task"
    notebook: bool = False
    shared: dict = field(default_factory=dict)


def one(before, after, weakened="bodies", expression="flights.task", **shared):
    """A project of one edited module, flights.py, and others that stay as they are."""
    others = {f"{name}.py": text for name, text in shared.items()}
    return Row({"flights.py": before}, {"flights.py": after}, weakened, expression, shared=others)


def other(name, before, after, weakened, flights, **shared):
    """A project whose flights.py stays as it is while another file is edited."""
    others = {"flights.py": flights} | {f"{key}.py": text for key, text in shared.items()}
    return Row({name: before}, {name: after}, weakened, shared=others)


MUST_MOVE = {
    "body": one("def task(x): return x + 1", "def task(x): return x + 2"),
    "default": one("def task(x, n=1): return x + n", "def task(x, n=2): return x + n", "defaults"),
    "keyword default": one("def task(x, *, n=1): return x", "def task(x, *, n=2): return x", "defaults"),
    "helper": one(
        "def task(x): return scale(x)\ndef scale(x): return x * 2",
        "def task(x): return scale(x)\ndef scale(x): return x * 3",
        "globals",
    ),
    "helper of a helper": one(
        "def task(x): return outer(x)\ndef outer(x): return scale(x)\ndef scale(x): return x * 2",
        "def task(x): return outer(x)\ndef outer(x): return scale(x)\ndef scale(x): return x * 3",
        "globals",
    ),
    "global": one("N = 1\ndef task(x): return x + N", "N = 2\ndef task(x): return x + N", "globals"),
    "nested global": one(
        "N = {'a': [1, {2}]}\ndef task(x): return N",
        "N = {'a': [1, {3}]}\ndef task(x): return N",
        "values",
    ),
    "global inside a comprehension": one(
        "N = 1\ndef task(x): return [y + N for y in x]",
        "N = 2\ndef task(x): return [y + N for y in x]",
        "globals",
    ),
    "imported module": other(
        "shared.py",
        "def scale(x): return x * 2",
        "def scale(x): return x * 3",
        "modules",
        "import shared\ndef task(x): return shared.scale(x)",
    ),
    "imported name": other(
        "shared.py",
        "def scale(x): return x * 2",
        "def scale(x): return x * 3",
        "bodies",
        "from shared import scale\ndef task(x): return scale(x)",
    ),
    "what an imported module imports": other(
        "deep.py",
        "FACTOR = 2",
        "FACTOR = 3",
        "modules",
        "import shared\ndef task(x): return shared.scale(x)",
        shared="import deep\ndef scale(x): return x * deep.FACTOR",
    ),
    "module in a package": other(
        "pack/inner.py",
        "def f(x): return 1",
        "def f(x): return 2",
        "modules",
        "import pack.inner\ndef task(x): return pack.inner.f(x)",
    ),
    "module read by a computed name": other(
        "shared.py",
        "def scale(x): return x * 2",
        "def scale(x): return x * 3",
        "globals",
        "import shared\ndef task(x, name): return getattr(shared, name)(x)",
    ),
    "import inside the body": other(
        "shared.py",
        "def scale(x): return x * 2",
        "def scale(x): return x * 3",
        "imports",
        "def task(x):\n    import shared\n    return shared.scale(x)",
    ),
    "from-import inside the body": other(
        "shared.py",
        "def scale(x): return x * 2",
        "def scale(x): return x * 3",
        "imports",
        "def task(x):\n    from shared import scale as s\n    return s(x)",
    ),
    "closure's value": one(
        "def make(n):\n    def task(x): return x + n\n    return task\ntask = make(1)",
        "def make(n):\n    def task(x): return x + n\n    return task\ntask = make(2)",
        "closures",
    ),
    "method": one(
        "class Model:\n    def predict(self, x): return x + 1\ndef task(x): return Model().predict(x)",
        "class Model:\n    def predict(self, x): return x + 2\ndef task(x): return Model().predict(x)",
        "members",
    ),
    "inherited method": one(
        "class Base:\n    def predict(self, x): return 1\nclass Model(Base): pass\ndef task(x): return Model()",
        "class Base:\n    def predict(self, x): return 2\nclass Model(Base): pass\ndef task(x): return Model()",
        "bases",
    ),
    "class attribute": one(
        "class Model:\n    rate = 1\ndef task(x): return Model.rate",
        "class Model:\n    rate = 2\ndef task(x): return Model.rate",
        "members",
    ),
    "property": one(
        "class Model:\n    @property\n    def rate(self): return 1\ndef task(x): return Model().rate",
        "class Model:\n    @property\n    def rate(self): return 2\ndef task(x): return Model().rate",
        "members",
    ),
    "dataclass field": one(
        "from dataclasses import dataclass\n@dataclass\nclass Options:\n    n: int = 1\ndef task(x): return Options()",
        "from dataclasses import dataclass\n@dataclass\nclass Options:\n    n: int = 2\ndef task(x): return Options()",
        "members",
    ),
    "dataclass field factory": one(
        "from dataclasses import dataclass, field\n@dataclass\nclass O:\n    n: list = field(default_factory=lambda: [1])\n"
        "def task(x): return O()",
        "from dataclasses import dataclass, field\n@dataclass\nclass O:\n    n: list = field(default_factory=lambda: [2])\n"
        "def task(x): return O()",
        "members",
    ),
    "metaclass": one(
        "class Meta(type):\n    def __call__(cls): return 1\nclass M(metaclass=Meta): pass\ndef task(x): return M()",
        "class Meta(type):\n    def __call__(cls): return 2\nclass M(metaclass=Meta): pass\ndef task(x): return M()",
        "bases",
    ),
    "enum member": one(
        "import enum\nclass Way(enum.Enum):\n    UP = 1\ndef task(x): return Way.UP",
        "import enum\nclass Way(enum.Enum):\n    UP = 2\ndef task(x): return Way.UP",
        "members",
    ),
    "decorator": other(
        "wraps.py",
        "import functools\ndef add(fn):\n    @functools.wraps(fn)\n    def inner(x): return fn(x) + 1\n    return inner",
        "import functools\ndef add(fn):\n    @functools.wraps(fn)\n    def inner(x): return fn(x) + 2\n    return inner",
        "bodies",
        "from wraps import add\n@add\ndef task(x): return x",
    ),
    "function inside a decorator": one(
        "def add(fn):\n    def inner(x): return fn(x) + 1\n    return inner\n@add\ndef task(x): return x",
        "def add(fn):\n    def inner(x): return fn(x) + 1\n    return inner\n@add\ndef task(x): return x + 5",
        "closures",
    ),
    "decorator's argument": one(
        "def add(n):\n    def deco(fn):\n        def inner(x): return fn(x) + n\n        return inner\n    return deco\n"
        "@add(1)\ndef task(x): return x",
        "def add(n):\n    def deco(fn):\n        def inner(x): return fn(x) + n\n        return inner\n    return deco\n"
        "@add(2)\ndef task(x): return x",
        "closures",
    ),
    "functools.lru_cache": one(
        "import functools\n@functools.lru_cache\ndef f(x): return 1\ndef task(x): return f(x)",
        "import functools\n@functools.lru_cache\ndef f(x): return 2\ndef task(x): return f(x)",
        "values",
    ),
    "functools.singledispatch": one(
        "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return 1\n"
        "def task(x): return f(x)",
        "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return 2\n"
        "def task(x): return f(x)",
        "closures",
    ),
    "functools.partial": one(
        "import functools\ndef f(x, n): return x + n\ntask = functools.partial(f, n=1)",
        "import functools\ndef f(x, n): return x + n\ntask = functools.partial(f, n=2)",
        "values",
    ),
    "function of a partial": one(
        "import functools\ndef f(x, n): return x + n\ntask = functools.partial(f, n=1)",
        "import functools\ndef f(x, n): return x - n\ntask = functools.partial(f, n=1)",
        "instances",
    ),
    "nested function": one(
        "def task(x):\n    def inner(y): return y + 1\n    return inner(x)",
        "def task(x):\n    def inner(y): return y + 2\n    return inner(x)",
    ),
    "lambda in a table": one(
        "TABLE = {'a': lambda x: x + 1}\ndef task(x): return TABLE['a'](x)",
        "TABLE = {'a': lambda x: x + 2}\ndef task(x): return TABLE['a'](x)",
        "instances",
    ),
    "class of a global instance": one(
        "class M:\n    def predict(self): return 1\nMODEL = M()\ndef task(x): return MODEL.predict()",
        "class M:\n    def predict(self): return 2\nMODEL = M()\ndef task(x): return MODEL.predict()",
        "instances",
    ),
    "state of a global instance": one(
        "class M:\n    def __init__(self, n): self.n = n\nMODEL = M(1)\ndef task(x): return MODEL.n",
        "class M:\n    def __init__(self, n): self.n = n\nMODEL = M(2)\ndef task(x): return MODEL.n",
        "values",
    ),
    "bound method's object": one(
        "class M:\n    def __init__(self, n): self.n = n\n    def f(self, x): return self.n\ntask = M(1).f",
        "class M:\n    def __init__(self, n): self.n = n\n    def f(self, x): return self.n\ntask = M(2).f",
        "values",
    ),
    "class whose instance is an input": one(
        "class Model:\n    def predict(self, x): return 1",
        "class Model:\n    def predict(self, x): return 2",
        expression="Value(flights.Model())",
    ),
    "class whose instance is deep in an input": one(
        "class Model:\n    def predict(self, x): return 1",
        "class Model:\n    def predict(self, x): return 2",
        expression="Value({'models': [(1, flights.Model())]})",
    ),
    "dataclass whose instance is an input": one(
        "from dataclasses import dataclass\n@dataclass\nclass M:\n    a: int = 0\n    def f(self): return 1",
        "from dataclasses import dataclass\n@dataclass\nclass M:\n    a: int = 0\n    def f(self): return 2",
        expression="Value(flights.M(a=5))",
    ),
    "module that makes what cannot be hashed": one(
        "import threading\nLOCK = threading.Lock()\nSIZE = 1\ndef task(x):\n    with LOCK: return x",
        "import threading\nLOCK = threading.Lock()\nSIZE = 2\ndef task(x):\n    with LOCK: return x",
        "values",
    ),
    "notebook's cell": Row(
        {
            "cells.json": json.dumps(
                ["N = 1", "def scale(x): return x * 2", "def task(x): return scale(x) + N"]
            )
        },
        {
            "cells.json": json.dumps(
                ["N = 1", "def scale(x): return x * 3", "def task(x): return scale(x) + N"]
            )
        },
        weakened="globals",
        expression="task",
        notebook=True,
    ),
    "notebook's cell reached by a computed name": Row(
        {
            "cells.json": json.dumps(
                ["class A:\n  def f(self): return 1", "def task(x, y): return getattr(x, y)()"]
            )
        },
        {
            "cells.json": json.dumps(
                ["class A:\n  def f(self): return 2", "def task(x, y): return getattr(x, y)()"]
            )
        },
        weakened="globals",
        expression="task",
        notebook=True,
    ),
    "notebook's global": Row(
        {"cells.json": json.dumps(["N = 1", "def task(x): return x + N"])},
        {"cells.json": json.dumps(["N = 2", "def task(x): return x + N"])},
        weakened="globals",
        expression="task",
        notebook=True,
    ),
    "distribution's version": Row(
        {
            "site-packages/weather-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: weather\nVersion: 1.0\n"
        },
        {
            "site-packages/weather-1.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: weather\nVersion: 1.1\n"
        },
        weakened="distributions",
        shared={
            "flights.py": "import weather\ndef task(x): return weather.wind(x)",
            "site-packages/weather/__init__.py": "def wind(x): return x",
        },
    ),
    "version of a distribution that a helper imports in its body": Row(
        {
            "site-packages/climate-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: climate\nVersion: 1.0\n"
        },
        {
            "site-packages/climate-1.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: climate\nVersion: 1.1\n"
        },
        weakened="distributions",
        shared={
            "flights.py": "def load(x):\n    import climate\n    return climate.wind(x)\ndef task(x): return load(x)",
            "site-packages/climate/__init__.py": "def wind(x): return x",
        },
    ),
}

PLAIN = (
    "N = {'b', 'a', 'c'}\ndef scale(x):\n    return x * 2\ndef task(x, n=1):\n    return [scale(x), n, N]\n"
)

MUST_STAY = {
    "comments": one(PLAIN, PLAIN.replace("\n", "  # why\n")),
    "docstrings": one(
        "class M:\n    def f(self): return 1\ndef task(x): return M().f()",
        '"""Module."""\nclass M:\n    """Class."""\n    def f(self):\n        """Method."""\n        return 1\n'
        'def task(x):\n    """Function."""\n    return M().f()',
    ),
    "formatting": one(
        PLAIN,
        "N = {'b',\n  'a', \"c\"}\ndef scale(x): return (x\n  *  2)\ndef task(\n    x,\n    n=1,\n):\n    return [\n"
        "        scale( x ),\n        (n), N]\n",
    ),
    "formatting of conditions": one(
        "def task(x, y):\n    for i in x:\n        if i and (y or not i) and x:\n            continue\n    return x and y or i",
        "def task(x, y):\n    for i in x:\n        if (\n            i\n            and (\n                y\n                or not i\n"
        "            )\n            and x\n        ):\n            continue\n    return (\n        x\n        and y\n        or i\n    )",
    ),
    "blank lines": one(PLAIN, "\n\n\n" + PLAIN.replace("\n", "\n\n")),
    "unused neighbour": one(PLAIN, PLAIN + "\ndef unused(): return 1\nOTHER = 5\n"),
    "unused neighbour in an imported module": other(
        "shared.py",
        "def scale(x): return x * 2",
        "K = 1\ndef unused(): return K\ndef scale(x): return x * 2",
        "modules",
        "import shared\ndef task(x): return shared.scale(x)",
    ),
    "order of definitions": one(
        "class M:\n    def f(self): return 1\n    def g(self): return 2\ndef task(x): return M()",
        "class M:\n    def g(self): return 2\n    def f(self): return 1\ndef task(x): return M()",
    ),
    "annotations of a function": one("def task(x): return x", "def task(x: int) -> 'int': return x"),
    "where a function is defined": Row(
        {"flights.py": PLAIN, "shared.py": ""},
        {"flights.py": "from shared import task", "shared.py": PLAIN},
    ),
    "order of a notebook's cells": Row(
        {"cells.json": json.dumps(["N = 1", "def f(x): return x", "def task(x): return f(x) + N"])},
        {"cells.json": json.dumps(["def task(x): return f(x) + N", "def f(x): return x", "# note", "N = 1"])},
        expression="task",
        notebook=True,
    ),
}


def write(folder, files):
    """Write a project's files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.parent != folder and name.endswith(".py"):
            (path.parent / "__init__.py").touch()


def fingerprint(rows, folder, side, seed):
    """The keys of all rows on one side of the edit, from one fresh process with a hash seed of its own."""
    jobs = []
    for number, row in enumerate(rows):
        place = folder / side / f"project{number}"
        write(place, row.shared | getattr(row, side))
        job = {
            "folder": str(place),
            "expression": row.expression,
            "weakened": row.weakened,
            "notebook": row.notebook,
        }
        jobs.append(job)
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """For each row: (key, weakened key) before and after, in two processes, two checkouts and two hash seeds."""
    rows = MUST_MOVE | MUST_STAY
    folder = tmp_path_factory.mktemp("matrix")
    before = fingerprint(rows.values(), folder, "before", "1")
    after = fingerprint(rows.values(), folder, "after", "2")
    return dict(zip(rows, zip(before, after, strict=True), strict=True))


@pytest.mark.parametrize("row", MUST_MOVE)
def test_an_edit_that_can_change_the_answer_moves_the_key(keys, row):
    (before, _), (after, _) = keys[row]
    assert before != after


@pytest.mark.parametrize("row", MUST_MOVE)
def test_a_walk_that_does_not_follow_the_way_there_misses_the_edit(keys, row):
    (_, before), (_, after) = keys[row]
    assert before == after, f"the row {row!r} proves nothing about {MUST_MOVE[row].weakened!r}"


@pytest.mark.parametrize("row", MUST_STAY)
def test_an_edit_that_changes_no_answer_moves_no_key(keys, row):
    (before, _), (after, _) = keys[row]
    assert before == after


SCRIPT = """
import enum, pathlib, re
from dataclasses import dataclass
from hooke.keys import fingerprint_code, fingerprint_value
HERE = pathlib.Path(__file__).parent
DATA = str(HERE / "data")
PATTERN = re.compile("a+")
@dataclass
class Options:
    depth: int = 3
    names: frozenset = frozenset({"a", "b", "c"})
class Way(enum.Enum):
    UP = 1
def scale(x, options=Options()):
    return x * options.depth, __name__, __file__
def task(x):
    return scale(x), HERE, DATA, PATTERN, Way.UP, Options
def keys():
    return [fingerprint_code(task).key, fingerprint_value(Options()), fingerprint_value([Way.UP, task])]
if __name__ == "__main__":
    print(*keys())
"""


def run(folder, *arguments, seed="0"):
    """A fresh Python in a folder."""
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    return done.stdout.split()


def test_a_script_keys_as_the_same_file_imported_in_another_checkout_process_and_hash_seed(tmp_path):
    for name in ("one", "two/deeper"):
        write(tmp_path / name, {"job.py": SCRIPT, "hooke.toml": ""})
    as_script = run(tmp_path / "one", "job.py", seed="1")
    assert len(set(as_script)) == 3
    assert run(tmp_path / "one", "-c", "import job; print(*job.keys())", seed="2") == as_script
    assert run(tmp_path / "two/deeper", "-m", "job", seed="3") == as_script
    assert run(tmp_path, "two/deeper/job.py", seed="4") == as_script


BESIDE = """
import pathlib
from hooke.keys import fingerprint_code
DATA = str(pathlib.Path(__file__).parent) + "-data"
def task(x):
    return x, DATA
if __name__ == "__main__":
    print(fingerprint_code(task).key)
"""


def test_a_path_that_only_begins_as_the_project_s_counts_in_full(tmp_path):
    """`one/job-data` is beside `one/job`: another checkout finds other data there."""
    for name in ("one/job", "two/job"):
        write(tmp_path / name, {"job.py": BESIDE, "hooke.toml": ""})
    assert run(tmp_path, "one/job/job.py") != run(tmp_path, "two/job/job.py")


def test_an_edit_in_a_running_process_moves_the_key():
    scope = {"__name__": "__main__"}
    exec("N = 1\ndef task(x): return x + N", scope)
    from hooke.keys import fingerprint_code

    before = fingerprint_code(scope["task"]).key
    scope["N"] = 2
    changed = fingerprint_code(scope["task"]).key
    scope["N"] = 1
    assert changed != before
    assert fingerprint_code(scope["task"]).key == before
