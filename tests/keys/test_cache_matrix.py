"""The cache matrix: every edit that can change an answer moves the key, and no other does.

Each row is a small project written twice, before and after an edit, and fingerprinted in two fresh processes. The rows
that must move are fingerprinted by a weakened walk too: it must not notice, or the row would prove nothing.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
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
    namespaces: tuple = ()


def one(before, after, weakened="bodies", expression="flights.task", **shared):
    """A project of one edited module, flights.py, and others that stay as they are."""
    others = {f"{name}.py": text for name, text in shared.items()}
    return Row({"flights.py": before}, {"flights.py": after}, weakened, expression, shared=others)


def other(name, before, after, weakened, flights, **shared):
    """A project whose flights.py stays as it is while another file is edited."""
    others = {"flights.py": flights} | {f"{key}.py": text for key, text in shared.items()}
    return Row({name: before}, {name: after}, weakened, shared=others)


def installed(name, files, version="1.0", **metadata):
    """A distribution as pip leaves it in a folder of libraries; its list of files has their hashes."""
    where = f"site-packages/{name}-{version}.dist-info"
    rows = [
        f"{file},sha256={hashlib.sha256(text.encode()).hexdigest()},{len(text)}"
        for file, text in files.items()
    ]
    meta = {
        f"{where}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{where}/RECORD": "\n".join([*rows, *metadata.pop("record", []), f"{where}/RECORD,,", ""]),
    }
    others = {f"{where}/{file}": text for file, text in metadata.items()}
    return {f"site-packages/{file}": text for file, text in files.items()} | meta | others


USERS_ESTIMATOR = (
    "from sklearn.base import BaseEstimator\nclass M(BaseEstimator):\n    def __init__(self, n=1): self.n = n\n"
    "    def fit(self, x): return self\n    def predict(self, x): return NUMBER"
)
FROM_A_FOLDER = {"direct_url.json": json.dumps({"url": "file:///somewhere/weather", "dir_info": {}})}
FROM_A_WHEEL = {
    "direct_url.json": json.dumps({"url": "file:///weather-1.0-py3-none-any.whl", "archive_info": {}})
}
FROM_A_REPOSITORY = {
    "direct_url.json": json.dumps(
        {"url": "https://git/weather", "vcs_info": {"vcs": "git", "commit_id": "a"}}
    )
}
EDITABLE = {"direct_url.json": json.dumps({"url": "file:///src", "dir_info": {"editable": True}})}
USES_WEATHER = {"flights.py": "import weather\ndef task(x): return weather.wind(x)"}


def reinstalled(source):
    """An edited package that is installed again under the version that it had."""
    before, after = ({"weather/__init__.py": f"def wind(x): return x + {n}"} for n in (1, 2))
    return Row(
        installed("weather", before, **source),
        installed("weather", after, **source),
        "distributions",
        shared=USES_WEATHER,
    )


def helper(before, after, use="f(x)", weakened="globals"):
    """A project whose task calls what helpers.py makes; the edit is there."""
    return other("helpers.py", before, after, weakened, f"from helpers import f\ndef task(x): return {use}")


def edited(template, flights, weakened="globals", **shared):
    """A project whose helpers.py has NUMBER 1, then 2."""
    before, after = (template.replace("NUMBER", number) for number in "12")
    return other("helpers.py", before, after, weakened, flights, **shared)


def padded(source, flights, **shared):
    """A project whose helpers.py gets comments, and a neighbour that nothing reaches."""
    after = source.replace("\n", "  # why\n") + "\n\n\ndef neighbour(x): return 5\n"
    return other("helpers.py", source, after, "globals", flights, **shared)


def called_by_name(definition, made):
    """A project whose task calls an object that pickles as the name of a function in helpers.py, which is edited."""
    before = f"{definition}\ndef scale(x): return x * 2\nf = {made}"
    return helper(before, before.replace("* 2", "* 3"))


NUMBA = """
import functools, uuid
class Dispatcher:
    def __init__(self, function, options):
        functools.update_wrapper(self, function)
        self.py_func, self.targetoptions, self.locals = function, options, {}
        self.overloads, self._uuid, self._can_compile = {}, uuid.uuid4(), True
    def __call__(self, *arguments):
        self.overloads[tuple(map(type, arguments))] = object()
        return self.py_func(*arguments)
    def __reduce__(self):
        return rebuilt, (str(self._uuid), self.py_func.__module__, self.targetoptions)
def rebuilt(*facts): raise NotImplementedError
def njit(function=None, **options):
    return Dispatcher(function, options) if function else lambda each: Dispatcher(each, options)
"""
"""What numba's functions look like to a key: the real package is large. `test_numba_itself` takes it, if it is there."""


def jitted(before, after):
    """A project whose task calls a function that numba compiles."""
    calls = {"flights.py": "from helpers import f\ndef task(x): return f(x)"}
    shared = calls | installed("numba", {"numba/__init__.py": NUMBA})
    return Row(
        {"helpers.py": f"import numba\n{before}"},
        {"helpers.py": f"import numba\n{after}"},
        "globals",
        shared=shared,
    )


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
    "source tree with the metadata of a build beside it": Row(
        {"flights/__init__.py": "def task(x): return x + 1"},
        {"flights/__init__.py": "def task(x): return x + 2"},
        shared={
            "flights.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: flights\nVersion: 1.0\n",
            "flights.egg-info/SOURCES.txt": "flights/__init__.py\n",
            "flights.egg-info/top_level.txt": "flights\n",
        },
    ),
    "source tree of a package that is also installed": Row(
        {"flights/__init__.py": "def task(x): return x + 1"},
        {"flights/__init__.py": "def task(x): return x + 2"},
        shared=installed("flights", {"flights/__init__.py": "def task(x): return x + 1"}),
    ),
    "editable install of a flat layout": Row(
        {"flights/__init__.py": "def task(x): return x + 1"},
        {"flights/__init__.py": "def task(x): return x + 2"},
        shared=installed("flights", {}, record=["__editable__.flights-1.0.pth,,"], **EDITABLE)
        | {"flights-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: flights\nVersion: 1.0\n"},
    ),
    "editable install of a src layout": Row(
        {"src/weather/__init__.py": "def wind(x): return x + 1"},
        {"src/weather/__init__.py": "def wind(x): return x + 2"},
        "modules",
        shared=installed("weather", {}, record=["__editable__.weather-1.0.pth,,"], **EDITABLE)
        | {
            "flights.py": "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'src'))\n"
            "import weather\ndef task(x): return weather.wind(x)",
        },
    ),
    "package that was copied among the installed ones": Row(
        {"site-packages/weather/__init__.py": "def wind(x): return x + 1"},
        {"site-packages/weather/__init__.py": "def wind(x): return x + 2"},
        "modules",
        shared=USES_WEATHER | installed("weather-data", {"weather_data.py": ""}),
    ),
    "package reinstalled from a folder with the same version": reinstalled(FROM_A_FOLDER),
    "wheel reinstalled with the same version": reinstalled(FROM_A_WHEEL),
    "package reinstalled from a repository with the same version": reinstalled(FROM_A_REPOSITORY),
    "toolz.curry": helper(
        "import toolz\n@toolz.curry\ndef f(x, y): return x + y",
        "import toolz\n@toolz.curry\ndef f(x, y): return x - y",
    ),
    "argument of a toolz.curry": helper(
        "import toolz\n@toolz.curry\ndef g(x, y): return x + y\nf = g(1)",
        "import toolz\n@toolz.curry\ndef g(x, y): return x + y\nf = g(2)",
    ),
    "helper of a toolz.curry": helper(
        "import toolz\ndef h(x): return 1\n@toolz.curry\ndef f(x, y): return h(x)",
        "import toolz\ndef h(x): return 2\n@toolz.curry\ndef f(x, y): return h(x)",
    ),
    "toolz.compose": helper(
        "import toolz\ndef g(x): return x + 1\nf = toolz.compose(str, g)",
        "import toolz\ndef g(x): return x + 2\nf = toolz.compose(str, g)",
    ),
    "cachetools.cached": helper(
        "import cachetools\n@cachetools.cached(cachetools.TTLCache(9, 9))\ndef f(x): return 1",
        "import cachetools\n@cachetools.cached(cachetools.TTLCache(9, 9))\ndef f(x): return 2",
    ),
    "cachetools.cached with a lock": helper(
        "import cachetools, threading\n@cachetools.cached({}, lock=threading.Lock(), info=True)\ndef f(x): return 1",
        "import cachetools, threading\n@cachetools.cached({}, lock=threading.Lock(), info=True)\ndef f(x): return 2",
    ),
    "object that pickles as a global's name": called_by_name(
        "class By:\n    def __init__(self, g): self.g = g\n    def __call__(self, x): return self.g(x)\n"
        "    def __reduce__(self): return 'f'",
        "By(scale)",
    ),
    "state of an object that pickles as a global's name": helper(
        "class By:\n    def __init__(self, n): self.n = n\n    def __reduce__(self): return 'f'\nf = By(1)",
        "class By:\n    def __init__(self, n): self.n = n\n    def __reduce__(self): return 'f'\nf = By(2)",
        "f.n",
    ),
    "object with slots that pickles as a global's name": called_by_name(
        "class By:\n    __slots__ = ('g',)\n    def __init__(self, g): self.g = g\n"
        "    def __call__(self, x): return self.g(x)\n    def __reduce__(self): return 'f'",
        "By(scale)",
    ),
    "object that pickles as module:name": called_by_name(
        "class By:\n    def __init__(self, path): self.path = path\n    def __call__(self, x): return LOADED(self.path)(x)\n"
        "    def __reduce__(self): return By, (self.path,)\ndef LOADED(path): return None",
        "By('helpers:scale')",
    ),
    "object that pickles as a module and a name": called_by_name(
        "class By:\n    def __init__(self, *path): self.path = path\n    def __call__(self, x): return None\n"
        "    def __reduce__(self): return By, self.path",
        "By('helpers', 'scale')",
    ),
    "object whose state is a dotted name": called_by_name(
        "class By:\n    def __init__(self, path): self.path = path\n    def __call__(self, x): return None\n"
        "    def __getstate__(self): return {'path': self.path}",
        "By('helpers.scale')",
    ),
    "function of an object that pickles as a key of a registry": called_by_name(
        "class By:\n    def __init__(self, g): self.g = g\n    def __call__(self, x): return self.g(x)\n"
        "    def __reduce__(self): return str, ('fast',)",
        "By(scale)",
    ),
    "function of an object with a lock": called_by_name(
        "import threading\nclass By:\n    def __init__(self, g): self.g, self.lock = g, threading.Lock()\n"
        "    def __call__(self, x): return self.g(x)",
        "By(scale)",
    ),
    "function that numba compiles": jitted(
        "@numba.njit\ndef f(x): return x + 1", "@numba.njit\ndef f(x): return x + 2"
    ),
    "options of a function that numba compiles": jitted(
        "@numba.njit\ndef f(x): return x + 1", "@numba.njit(fastmath=True)\ndef f(x): return x + 1"
    ),
    "helper of a function that numba compiles": jitted(
        "@numba.njit\ndef g(x): return 1\n@numba.njit\ndef f(x): return g(x)",
        "@numba.njit\ndef g(x): return 2\n@numba.njit\ndef f(x): return g(x)",
    ),
    "type of a shared library's function": helper(
        "import ctypes\nf = ctypes.CDLL(None)\nf.abs.restype = ctypes.c_int",
        "import ctypes\nf = ctypes.CDLL(None)\nf.abs.restype = ctypes.c_long",
        "f.abs(x)",
    ),
    "function of a shared library": helper(
        "import ctypes\nf = ctypes.CDLL(None).abs", "import ctypes\nf = ctypes.CDLL(None).labs"
    ),
    "function that a C callback calls": helper(
        "import ctypes\n@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)\ndef f(x): return 1",
        "import ctypes\n@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)\ndef f(x): return 2",
    ),
    "field of a ctypes structure": helper(
        "import ctypes\nclass f(ctypes.Structure): _fields_ = [('a', ctypes.c_int)]",
        "import ctypes\nclass f(ctypes.Structure): _fields_ = [('a', ctypes.c_long)]",
    ),
    "implementation that another module registers with singledispatch": edited(
        "from kinds import f\n@f.register\ndef _(x: int): return NUMBER",
        "import helpers\nfrom kinds import f\ndef task(x): return f(x)",
        kinds="import functools\n@functools.singledispatch\ndef f(x): return 0",
    ),
    "method of functools.singledispatchmethod": edited(
        "import functools\nclass M:\n    @functools.singledispatchmethod\n    def f(self, x): return 0\n"
        "    @f.register\n    def _(self, x: int): return NUMBER",
        "from helpers import M\ndef task(x): return M().f(x)",
    ),
    "helper of a function with functools.lru_cache": edited(
        "import functools\ndef g(x): return NUMBER\n@functools.lru_cache(maxsize=9)\ndef f(x): return g(x)",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "function in a registry": edited(
        "from kinds import register\n@register\ndef f(x): return NUMBER",
        "import helpers\nfrom kinds import KNOWN\ndef task(x): return KNOWN['f'](x)",
        kinds="KNOWN = {}\ndef register(f):\n    KNOWN[f.__name__] = f\n    return f",
    ),
    "function that is registered with pluggy": edited(
        "import pluggy\n@pluggy.HookimplMarker('p')\ndef f(x): return NUMBER",
        "import helpers, kinds\nkinds.manager.register(helpers)\ndef task(x): return kinds.manager.hook.f(x=x)",
        kinds="import pluggy\nclass Spec:\n    @pluggy.HookspecMarker('p')\n    def f(self, x): pass\n"
        "manager = pluggy.PluginManager('p')\nmanager.add_hookspecs(Spec)",
    ),
    "method of an object that is registered with pluggy": edited(
        "import pluggy\nclass P:\n    @pluggy.HookimplMarker('p')\n    def f(self, x): return NUMBER",
        "import helpers, kinds\nkinds.manager.register(helpers.P())\ndef task(x): return kinds.manager.hook.f(x=x)",
        kinds="import pluggy\nmanager = pluggy.PluginManager('p')",
    ),
    "class in a registry of __init_subclass__": edited(
        "from kinds import Base\nclass One(Base):\n    def f(self): return NUMBER",
        "import helpers\nfrom kinds import Base\ndef task(x): return Base.known['One']().f()",
        kinds="class Base:\n    known = {}\n    def __init_subclass__(cls): Base.known[cls.__name__] = cls",
    ),
    "class found by __subclasses__": edited(
        "from kinds import Base\nclass One(Base):\n    def f(self): return NUMBER",
        "import helpers\nfrom kinds import Base\ndef task(x): return [each().f() for each in Base.__subclasses__()]",
        kinds="class Base: pass",
    ),
    "class found by __subclasses__ through a module": edited(
        "import kinds\nclass One(kinds.Base):\n    def f(self): return NUMBER",
        "import helpers, kinds\ndef task(x): return [each().f() for each in kinds.Base.__subclasses__()]",
        kinds="class Base: pass",
    ),
    "key of a TypedDict": edited(
        "import typing\nclass T(typing.TypedDict):\n    aNUMBER: int",
        "from helpers import T\ndef task(x): return T.__annotations__",
    ),
    "whether a TypedDict is total": edited(
        "import typing\nclass T(typing.TypedDict, total=NUMBER == 1):\n    a: int",
        "from helpers import T\ndef task(x): return T.__required_keys__",
    ),
    "field of a NamedTuple": edited(
        "import typing\nclass T(typing.NamedTuple):\n    a: int = NUMBER",
        "from helpers import T\ndef task(x): return T()",
    ),
    "method of an enum": edited(
        "import enum\nclass Way(enum.Enum):\n    UP = 1\n    def f(self): return NUMBER",
        "from helpers import Way\ndef task(x): return Way.UP.f()",
    ),
    "order of an enum": one(
        "import enum\nclass Way(enum.Enum):\n    UP = enum.auto()\n    DOWN = enum.auto()\ndef task(x): return Way(1)",
        "import enum\nclass Way(enum.Enum):\n    DOWN = enum.auto()\n    UP = enum.auto()\ndef task(x): return Way(1)",
        "members",
    ),
    "flag of an enum": edited(
        "import enum\nclass Way(enum.IntFlag):\n    UP = NUMBER",
        "from helpers import Way\ndef task(x): return Way.UP | 8",
    ),
    "module in a namespace package": Row(
        {"space/inner.py": "def f(x): return 1"},
        {"space/inner.py": "def f(x): return 2"},
        "modules",
        shared={"flights.py": "import space.inner\ndef task(x): return space.inner.f(x)"},
        namespaces=("space",),
    ),
    "module of a namespace package that a body imports": Row(
        {"space/inner.py": "def f(x): return 1"},
        {"space/inner.py": "def f(x): return 2"},
        "imports",
        shared={"flights.py": "def task(x):\n    from space import inner\n    return inner.f(x)"},
        namespaces=("space",),
    ),
    "module replaced by a package": Row(
        {"pack.py": "def f(x): return 1"},
        {"pack/__init__.py": "from .inner import f", "pack/inner.py": "def f(x): return 2"},
        "modules",
        shared={"flights.py": "import pack\ndef task(x): return pack.f(x)"},
    ),
    "package that a body imports, with another __init__": Row(
        {"pack/__init__.py": "from .one import f"},
        {"pack/__init__.py": "from .two import f"},
        "imports",
        shared={
            "flights.py": "def task(x):\n    import pack\n    return pack.f(x)",
            "pack/one.py": "def f(x): return 1",
            "pack/two.py": "def f(x): return 2",
        },
    ),
    "star import": edited("def f(x): return NUMBER", "from helpers import *\ndef task(x): return f(x)"),
    "star import of a star import": edited(
        "def f(x): return NUMBER",
        "from kinds import *\ndef task(x): return f(x)",
        kinds="from helpers import *",
    ),
    "name that a star import hides": Row(
        {"helpers.py": "A = 1"},
        {"helpers.py": "A = 1\ndef f(x): return 2"},
        "globals",
        shared={"flights.py": "def f(x): return 1\nfrom helpers import *\ndef task(x): return f(x)"},
    ),
    "importlib.import_module with a constant name": edited(
        "def f(x): return NUMBER",
        "import importlib\ndef task(x): return importlib.import_module('helpers').f(x)",
        "imports",
    ),
    "import_module with a constant name into a variable": edited(
        "def f(x): return NUMBER",
        "from importlib import import_module\ndef task(x):\n    found = import_module('helpers')\n    return found.f(x)",
        "imports",
    ),
    "__import__ with a constant name": edited(
        "def f(x): return NUMBER", "def task(x): return __import__('helpers').f(x)", "imports"
    ),
    "importlib.import_module at the top of a module": edited(
        "def f(x): return NUMBER",
        "import importlib\nfound = importlib.import_module('helpers')\ndef task(x): return found.f(x)",
    ),
    "import_module with a computed name of a module in a package": Row(
        {"pack/one.py": "def f(x): return 1"},
        {"pack/one.py": "def f(x): return 2"},
        "globals",
        shared={
            "flights.py": "import importlib\ndef task(x): return importlib.import_module(f'pack.{x}').f(x)",
            "pack/__init__.py": "",
        },
    ),
    "function that exec makes": edited(
        "exec('def f(x): return NUMBER')", "from helpers import f\ndef task(x): return f(x)"
    ),
    "helper of a function that exec makes": edited(
        "def g(x): return NUMBER\nexec('def f(x): return g(x)')",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "class from type()": edited(
        "M = type('M', (), {'f': lambda self: NUMBER})", "from helpers import M\ndef task(x): return M().f()"
    ),
    "base of a class from type()": edited(
        "class Base:\n    def f(self): return NUMBER\nM = type('M', (Base,), {})",
        "from helpers import M\ndef task(x): return M().f()",
    ),
    "default of an attrs class": edited(
        "import attrs\n@attrs.define\nclass M:\n    a: int = NUMBER",
        "from helpers import M\ndef task(x): return M()",
    ),
    "validator of an attrs class": edited(
        "import attrs\n@attrs.define\nclass M:\n    a: int = attrs.field(default=1)\n    @a.validator\n"
        "    def check(self, field, value): assert value < NUMBER",
        "from helpers import M\ndef task(x): return M()",
    ),
    "converter of an attrs class": edited(
        "import attrs\n@attrs.define\nclass M:\n    a: int = attrs.field(default=1, converter=lambda x: x + NUMBER)",
        "from helpers import M\ndef task(x): return M()",
    ),
    "default of a pydantic model": edited(
        "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = NUMBER",
        "from helpers import M\ndef task(x): return M()",
    ),
    "constraint of a pydantic model": edited(
        "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = pydantic.Field(default=5, gt=NUMBER)",
        "from helpers import M\ndef task(x): return M(a=x)",
    ),
    "validator of a pydantic model": edited(
        "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = 1\n    @pydantic.field_validator('a')\n"
        "    @classmethod\n    def check(cls, x): return x + NUMBER",
        "from helpers import M\ndef task(x): return M(a=x)",
    ),
    "configuration of a pydantic model": edited(
        "import pydantic\nclass M(pydantic.BaseModel):\n    model_config = {'strict': NUMBER == 1}\n    a: int = 1",
        "from helpers import M\ndef task(x): return M(a=x)",
    ),
    "class decorator with state": edited(
        "class Counted:\n    def __init__(self, f): self.f, self.calls = f, 0\n    def __call__(self, x):\n"
        "        self.calls += 1\n        return self.f(x)\n@Counted\ndef f(x): return NUMBER",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "argument of a decorator with state": edited(
        "class Times:\n    def __init__(self, n): self.n = n\n    def __call__(self, f): return lambda x: f(x) * self.n\n"
        "@Times(NUMBER)\ndef f(x): return x",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "method of an estimator of scikit-learn's kind": edited(
        "from sklearn.base import BaseEstimator\nclass M(BaseEstimator):\n    def __init__(self, n=1): self.n = n\n"
        "    def predict(self, x): return NUMBER",
        "from helpers import M\ndef task(x): return M().predict(x)",
    ),
    "estimator in a pipeline of scikit-learn": edited(
        "from sklearn.base import BaseEstimator\nclass M(BaseEstimator):\n    def __init__(self, n=1): self.n = n\n"
        "    def fit(self, x): return self\n    def predict(self, x): return NUMBER",
        "from sklearn.pipeline import make_pipeline\nfrom helpers import M\nsteps = make_pipeline(M())\n"
        "def task(x): return steps.fit(x)",
    ),
    "estimator of scikit-learn's kind as an input": Row(
        {"flights.py": USERS_ESTIMATOR.replace("NUMBER", "1")},
        {"flights.py": USERS_ESTIMATOR.replace("NUMBER", "2")},
        expression="Value(flights.M())",
    ),
    "forward of a torch module": edited(
        "import torch\nclass M(torch.nn.Module):\n    def forward(self, x): return x * NUMBER",
        "from helpers import M\ndef task(x): return M()(x)",
    ),
    "submodule of a torch module": edited(
        "import torch\nclass Inner(torch.nn.Module):\n    def forward(self, x): return x * NUMBER\n"
        "class M(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.inner = Inner()\n"
        "    def forward(self, x): return self.inner(x)\nmodel = M()",
        "from helpers import model\ndef task(x): return model(x)",
    ),
    "hook of a torch module": edited(
        "import torch\nmodel = torch.nn.Identity()\nmodel.register_forward_hook(lambda module, x, y: y * NUMBER)",
        "from helpers import model\ndef task(x): return model(x)",
    ),
    "weights of a torch module": edited(
        "import torch\nmodel = torch.nn.Linear(1, 1)\ntorch.nn.init.constant_(model.weight, NUMBER)\n"
        "torch.nn.init.constant_(model.bias, 0)",
        "from helpers import model\ndef task(x): return model(x)",
    ),
    "descriptor": edited(
        "class D:\n    def __get__(self, obj, kind): return NUMBER\nclass M: a = D()",
        "from helpers import M\ndef task(x): return M().a",
    ),
    "context manager": edited(
        "import contextlib\n@contextlib.contextmanager\ndef f(): yield NUMBER",
        "from helpers import f\ndef task(x):\n    with f() as found: return found",
    ),
    "generator function": edited(
        "def f(x):\n    yield NUMBER", "from helpers import f\ndef task(x): return list(f(x))"
    ),
    "coroutine": edited(
        "async def f(x): return NUMBER",
        "import asyncio\nfrom helpers import f\ndef task(x): return asyncio.run(f(x))",
    ),
    "module with __getattr__": edited(
        "def __getattr__(name):\n    if name != 'f': raise AttributeError(name)\n    return NUMBER",
        "import helpers\ndef task(x): return helpers.f",
    ),
    "function that a module's __getattr__ finds": edited(
        "def hidden(x): return NUMBER",
        "import kinds\ndef task(x): return kinds.f(x)",
        kinds="import helpers\ndef __getattr__(name):\n    if name != 'f': raise AttributeError(name)\n    return helpers.hidden",
    ),
    "class that is returned by a function": edited(
        "def make():\n    class M:\n        def f(self): return NUMBER\n    return M\nM = make()",
        "from helpers import M\ndef task(x): return M().f()",
    ),
    "function set on a class": edited(
        "class M: pass\nM.f = lambda self: NUMBER", "from helpers import M\ndef task(x): return M().f()"
    ),
    "operator that a mixin brings": edited(
        "class Mixin:\n    def __add__(self, other): return NUMBER\nclass M(Mixin, int): pass",
        "from helpers import M\ndef task(x): return M() + x",
    ),
    "abstract class's method": edited(
        "import abc\nclass Base(abc.ABC):\n    @abc.abstractmethod\n    def f(self): return NUMBER\n"
        "class M(Base):\n    def f(self): return super().f()",
        "from helpers import M\ndef task(x): return M().f()",
    ),
    "generic class": edited(
        "import typing\nT = typing.TypeVar('T')\nclass M(typing.Generic[T]):\n    def f(self): return NUMBER",
        "from helpers import M\ndef task(x): return M[int]().f()",
    ),
    "alias of a generic class": edited(
        "import typing\nT = typing.TypeVar('T')\nclass M(typing.Generic[T]):\n    def f(self): return NUMBER\nA = M[int]",
        "from helpers import A\ndef task(x): return A().f()",
    ),
    "relative import inside the body": Row(
        {"pack/inner.py": "def f(x): return 1"},
        {"pack/inner.py": "def f(x): return 2"},
        "imports",
        "flights.pack.job.task",
        shared={
            "flights.py": "import pack.job",
            "pack/job.py": "def task(x):\n    from .inner import f\n    return f(x)",
        },
    ),
    "match statement": edited(
        "A = NUMBER", "import helpers\ndef task(x):\n    match x:\n        case helpers.A: return 1"
    ),
    "function found in a module's __dict__": edited(
        "def f(x): return NUMBER", "import helpers\ndef task(x): return helpers.__dict__['f'](x)"
    ),
    "docstring that is read": edited(
        "def f(x):\n    'prompt NUMBER'", "from helpers import f\ndef task(x): return f.__doc__"
    ),
    "docstring of a class that is read": edited(
        "class M:\n    'prompt NUMBER'\nALL = [M]",
        "from helpers import ALL\ndef task(x): return [getattr(each, '__doc__') for each in ALL]",
    ),
    "docstring that inspect reads": edited(
        "def f(x):\n    'prompt NUMBER'",
        "import inspect\nfrom helpers import f\ndef task(x): return inspect.getdoc(f)",
    ),
    "docstring that a helper reads": edited(
        "def f(x):\n    'prompt NUMBER'",
        "from helpers import f\ndef text(g): return g.__doc__\ndef task(x): return text(f)",
    ),
    "comment in source that is read": edited(
        "def f(x):\n    return 1  # NUMBER",
        "from inspect import getsource\nfrom helpers import f\ndef task(x): return getsource(f)",
    ),
    "annotation of a function that is read": edited(
        "import typing\ndef f(x: typing.Annotated[int, NUMBER]): return x",
        "import typing\nfrom helpers import f\ndef task(x): return typing.get_type_hints(f, include_extras=True)",
    ),
    "what the annotations of a class name, as texts, that are read": edited(
        "T = NUMBER",
        "import typing\nfrom models import M\ndef task(x): return typing.get_type_hints(M, include_extras=True)",
        models="from __future__ import annotations\nimport typing, helpers\nclass M:\n    i: typing.Annotated[int, helpers.T]",
    ),
    "annotation of a function whose signature is read": edited(
        "def f(x: (int, str)[NUMBER - 1]): return x",
        "from inspect import signature\nfrom helpers import f\ndef task(x): return signature(f).parameters['x'].annotation(x)",
    ),
    "method of an object with a lock from another module": other(
        "helpers.py",
        "import threading\nclass Client:\n    def __init__(self): self.lock = threading.Lock()\n    def get(self): return 1",
        "import threading\nclass Client:\n    def __init__(self): self.lock = threading.Lock()\n    def get(self): return 2",
        "values",
        "from helpers import Client\nclient = Client()\ndef task(x): return client.get()",
    ),
    "state of an object with a lock from another module": helper(
        "import threading\nclass C:\n    def __init__(self, n): self.n, self.lock = n, threading.Lock()\nf = C(1)",
        "import threading\nclass C:\n    def __init__(self, n): self.n, self.lock = n, threading.Lock()\nf = C(2)",
        "f.n",
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
    "docstring of what inspect does not read": padded(
        "def f(x): return x",
        "import inspect\nfrom helpers import f\ndef task(x): return inspect.isfunction(f)",
    ),
    "comments and docstrings beside a function whose signature is read": other(
        "helpers.py",
        "def f(x: int): return x",
        "def f(x: int):\n    'Doc.'\n    return x  # why\ndef g(x: int): return x",
        "globals",
        "import inspect\nfrom helpers import f\ndef task(x): return inspect.signature(f)",
    ),
    "address of a shared library and functions of it that were used": helper(
        "import ctypes\nf = ctypes.CDLL(None)\ng = 1", "import ctypes\nf = ctypes.CDLL(None)\nf.abs\ng = 2"
    ),
    "neighbour of a ctypes structure": helper(
        "import ctypes\nclass f(ctypes.Structure): _fields_ = [('a', ctypes.c_int)]",
        "import ctypes\nclass f(ctypes.Structure): _fields_ = [('a', ctypes.c_int)]\ng = 1",
    ),
    "docstring of a function that numba compiles": jitted(
        "@numba.njit\ndef f(x): return x + 1", "@numba.njit\ndef f(x):\n    'Doc.'\n    return x + 1"
    ),
    "comments beside a registered implementation of singledispatch": padded(
        "from kinds import f\n@f.register\ndef _(x: int): return 1",
        "import helpers\nfrom kinds import f\ndef task(x): return f(x)",
        kinds="import functools\n@functools.singledispatch\ndef f(x): return 0",
    ),
    "comments beside a function with functools.lru_cache": padded(
        "import functools\n@functools.lru_cache\ndef f(x): return 1",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "comments beside a function in a registry": padded(
        "from kinds import register\n@register\ndef f(x): return 1",
        "import helpers\nfrom kinds import KNOWN\ndef task(x): return KNOWN['f'](x)",
        kinds="KNOWN = {}\ndef register(f):\n    KNOWN[f.__name__] = f\n    return f",
    ),
    "comments beside a class in a registry of __init_subclass__": padded(
        "from kinds import Base\nclass One(Base):\n    def f(self): return 1",
        "import helpers\nfrom kinds import Base\ndef task(x): return Base.known['One']().f()",
        kinds="class Base:\n    known = {}\n    def __init_subclass__(cls): Base.known[cls.__name__] = cls",
    ),
    "comments beside a method of an object that is registered with pluggy": padded(
        "import pluggy\nclass P:\n    @pluggy.HookimplMarker('p')\n    def f(self, x): return 1",
        "import helpers, kinds\nkinds.manager.register(helpers.P())\ndef task(x): return kinds.manager.hook.f(x=x)",
        kinds="import pluggy\nmanager = pluggy.PluginManager('p')",
    ),
    "neighbour in a module that is imported by a constant name": padded(
        "def f(x): return 1", "import importlib\ndef task(x): return importlib.import_module('helpers').f(x)"
    ),
    "neighbour in a module that a star imports": padded(
        "def f(x): return 1", "from helpers import *\ndef task(x): return f(x)"
    ),
    "neighbour in a namespace package": Row(
        {"space/inner.py": "def f(x): return 1", "space/other.py": ""},
        {"space/inner.py": "def f(x): return 1\nA = 2", "space/other.py": "A = 3"},
        shared={"flights.py": "import space.inner, space.other\ndef task(x): return space.inner.f(x)"},
        namespaces=("space",),
    ),
    "module that became a package with the same function": Row(
        {"pack.py": "def f(x): return 1"},
        {"pack/__init__.py": "from .inner import f", "pack/inner.py": "def f(x): return 1"},
        shared={"flights.py": "import pack\ndef task(x): return pack.f(x)"},
    ),
    "comments beside a TypedDict": padded(
        "import typing\nclass T(typing.TypedDict):\n    a: int",
        "from helpers import T\ndef task(x): return T",
    ),
    "comments beside an enum": padded(
        "import enum\nclass Way(enum.IntFlag):\n    UP = 1",
        "from helpers import Way\ndef task(x): return Way.UP | 8",
    ),
    "comments beside a function that exec makes": padded(
        "exec('def f(x): return 1')", "from helpers import f\ndef task(x): return f(x)"
    ),
    "comments beside a class from type()": padded(
        "M = type('M', (), {'f': lambda self: 1})", "from helpers import M\ndef task(x): return M().f()"
    ),
    "comments beside an attrs class": padded(
        "import attrs\n@attrs.define\nclass M:\n    a: int = attrs.field(default=1, converter=lambda x: x)",
        "from helpers import M\ndef task(x): return M()",
    ),
    "comments beside a pydantic model": padded(
        "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = pydantic.Field(default=5, gt=1)\n"
        "    @pydantic.field_validator('a')\n    @classmethod\n    def check(cls, x): return x",
        "from helpers import M\ndef task(x): return M(a=x)",
    ),
    "comments beside a class decorator with state": padded(
        "class Counted:\n    def __init__(self, f): self.f, self.calls = f, 0\n    def __call__(self, x):\n"
        "        self.calls += 1\n        return self.f(x)\n@Counted\ndef f(x): return 1",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "comments beside an estimator of scikit-learn's kind": padded(
        USERS_ESTIMATOR.replace("NUMBER", "1"),
        "from sklearn.pipeline import make_pipeline\nfrom helpers import M\nsteps = make_pipeline(M())\n"
        "def task(x): return steps.fit(x)",
    ),
    "comments beside a torch module": padded(
        "import torch\nclass M(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.inner = torch.nn.Linear(1, 1)\n    def forward(self, x): return self.inner(x)\n"
        "torch.manual_seed(1)\nmodel = M()\nmodel.register_forward_hook(lambda module, x, y: y)",
        "from helpers import model\ndef task(x): return model(x)",
    ),
    "comments beside a toolz.curry and a cache of cachetools": padded(
        "import cachetools, toolz\n@toolz.curry\ndef f(x, y): return x\n@cachetools.cached(cachetools.TTLCache(9, 9))\n"
        "def g(x): return x",
        "from helpers import f, g\ndef task(x): return f(x), g(x)",
    ),
    "comments beside an object that pickles as module:name": padded(
        "class By:\n    def __init__(self, path): self.path = path\n    def __call__(self, x): return None\n"
        "    def __reduce__(self): return By, (self.path,)\ndef scale(x): return 1\nf = By('helpers:scale')",
        "from helpers import f\ndef task(x): return f(x)",
    ),
    "comments beside a class found by __subclasses__": padded(
        "from kinds import Base\nclass One(Base):\n    def f(self): return 1",
        "import helpers\nfrom kinds import Base\ndef task(x): return [each().f() for each in Base.__subclasses__()]",
        kinds="class Base: pass",
    ),
    "comments in a module that a computed name may import": one(
        "import importlib\ndef task(x): return importlib.import_module(x).f(x)",
        "# why\nimport importlib\ndef task(x): return importlib.import_module(x).f(x)",
    ),
    "neighbour of what an object names": called_by_name(
        "class By:\n    def __init__(self, path): self.path = path\n    def __call__(self, x): return None\n"
        "    def __reduce__(self): return By, (self.path,)\ndef other(x): return 1",
        "By('helpers:other')",
    ),
    "module that only a logger names": other(
        "helpers.py",
        "import logging\nlog = logging.getLogger(__name__)\ndef unused(x): return 1",
        "import logging\nlog = logging.getLogger(__name__)\ndef unused(x): return 2",
        "values",
        "from helpers import log\ndef task(x): return log.info(x)",
    ),
    "what an installer writes for its machine": Row(
        installed(
            "weather", {"weather/__init__.py": ""}, record=["../../bin/wind,sha256=a,9"], **FROM_A_FOLDER
        ),
        installed(
            "weather", {"weather/__init__.py": ""}, record=["../../bin/wind,sha256=b,9"], **FROM_A_FOLDER
        ),
        shared=USES_WEATHER,
    ),
    "another file in a package from an index": Row(
        installed("weather", {"weather/__init__.py": ""}),
        installed("weather", {"weather/__init__.py": "", "weather/tides.py": ""}),
        shared=USES_WEATHER,
    ),
    "package from a channel of conda": Row(
        installed("weather", {"weather/__init__.py": ""}, **FROM_A_FOLDER, INSTALLER="conda\n"),
        installed("weather", {"weather/__init__.py": "A = 1"}, **FROM_A_FOLDER, INSTALLER="conda\n"),
        shared=USES_WEATHER,
    ),
}


def write(folder, files, namespaces=()):
    """Write a project's files. Folders with modules are packages, except `namespaces`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.parent != folder and name.endswith(".py") and path.parent.name not in namespaces:
            (path.parent / "__init__.py").touch()


def fingerprint(rows, folder, side, seed):
    """The keys of all rows on one side of the edit, from one fresh process with a hash seed of its own."""
    jobs = []
    for number, row in enumerate(rows):
        place = folder / side / f"project{number}"
        write(place, row.shared | getattr(row, side), row.namespaces)
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


def is_heavy(row):
    """Whether a row's project imports a library that takes seconds to import."""
    return any(name in text for text in (row.before | row.shared).values() for name in ("torch", "sklearn"))


def named(rows):
    """The rows' names as parameters, the heavy ones marked."""
    return [pytest.param(name, marks=[pytest.mark.heavy] * is_heavy(row)) for name, row in rows.items()]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A row's (key, weakened key) before and after, in two processes, two checkouts and two hash seeds."""

    @functools.cache
    def computed(heavy):
        rows = {name: row for name, row in (MUST_MOVE | MUST_STAY).items() if is_heavy(row) == heavy}
        folder = tmp_path_factory.mktemp("matrix")
        before = fingerprint(rows.values(), folder, "before", "1")
        after = fingerprint(rows.values(), folder, "after", "2")
        return dict(zip(rows, zip(before, after, strict=True), strict=True))

    return lambda name: computed(is_heavy((MUST_MOVE | MUST_STAY)[name]))[name]


@pytest.mark.parametrize("row", named(MUST_MOVE))
def test_an_edit_that_can_change_the_answer_moves_the_key(keys, row):
    (before, _), (after, _) = keys(row)
    assert before != after


@pytest.mark.parametrize("row", named(MUST_MOVE))
def test_a_walk_that_does_not_follow_the_way_there_misses_the_edit(keys, row):
    (_, before), (_, after) = keys(row)
    assert before == after, f"the row {row!r} proves nothing about {MUST_MOVE[row].weakened!r}"


@pytest.mark.parametrize("row", named(MUST_STAY))
def test_an_edit_that_changes_no_answer_moves_no_key(keys, row):
    (before, _), (after, _) = keys(row)
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


BACKEND = """
import pathlib, zipfile
METADATA = "Metadata-Version: 2.1\\nName: rain\\nVersion: 1.0\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: here\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
SOURCE = pathlib.Path("src") if pathlib.Path("src").is_dir() else pathlib.Path(".")
def wheel(folder, files):
    files |= {"rain-1.0.dist-info/METADATA": METADATA, "rain-1.0.dist-info/WHEEL": WHEEL}
    files["rain-1.0.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in files)
    with zipfile.ZipFile(pathlib.Path(folder, "rain-1.0-py3-none-any.whl"), "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return "rain-1.0-py3-none-any.whl"
def build_wheel(folder, *_):
    return wheel(folder, {f"rain/{path.name}": path.read_text() for path in SOURCE.glob("rain/*.py")})
def build_editable(folder, *_):
    return wheel(folder, {"__editable__.rain.pth": str(SOURCE.absolute())})
"""
BUILD = '[project]\nname = "rain"\nversion = "1.0"\n[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]'
KEY_OF_RAIN = """
import site, sys
site.addsitedir(sys.argv[1])
import rain
from hooke.keys import fingerprint_code
print(fingerprint_code(rain.task).key)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("layout", [".", "src"])
@pytest.mark.parametrize("options", [[], ["--editable"]], ids=["installed", "editable"])
def test_what_pip_installs_from_a_folder_is_never_stale(tmp_path, layout, options):
    project, libraries = tmp_path / "project", tmp_path / "libraries"
    write(project, {"backend.py": BACKEND, "pyproject.toml": BUILD})

    def edit(number):
        write(project / layout, {"rain/__init__.py": f"def task(x): return x + {number}"})
        if number == 1 or not options:
            command = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--upgrade"]
            run(project, *command, "--target", str(libraries), *options, ".")
        # As the folder's own script would find it: its folder comes first.
        there = project / layout if options else tmp_path
        return run(there, "-c", KEY_OF_RAIN, str(libraries))

    assert edit(1) != edit(2)


WITH_NUMBA = """
import json, sys
import numba, numpy
from hooke.keys import fingerprint_code
@numba.njit
def plain(x): return x + NUMBER
@numba.njit(fastmath=True)
def fast(x): return plain(x)
@numba.njit("float64(float64)")
def declared(x): return x + NUMBER
@numba.vectorize
def vector(x): return x + NUMBER
@numba.guvectorize(["void(float64[:], float64[:])"], "(n)->(n)")
def general(x, out):
    for i in range(len(x)):
        out[i] = x[i] + NUMBER
@numba.cfunc("float64(float64)")
def from_c(x): return x + NUMBER
@numba.stencil
def stencil(x): return x[0] + NUMBER
@numba.experimental.jitclass([("n", numba.int64)])
class Compiled:
    def __init__(self, n): self.n = n
    def f(self): return self.n + NUMBER
names = ("plain", "fast", "declared", "vector", "general", "from_c", "stencil", "Compiled")
ALL = {name: globals()[name] for name in names}
keys = {name: fingerprint_code(value).key for name, value in ALL.items()}
plain(1), plain(1.5), fast(1), declared(2.0), vector(3), general(numpy.arange(3.0)), stencil(numpy.arange(4.0)), Compiled(2).f()
assert {name: fingerprint_code(value).key for name, value in ALL.items()} == keys
print(*(f"{name}={key}" for name, key in keys.items()))
"""


@pytest.mark.heavy
def test_numba_itself(tmp_path):
    pytest.importorskip("numba", reason="it is too large for the tests' extra")
    sides = {}
    for name, number in (("one", "1"), ("same", "1"), ("other", "2")):
        write(tmp_path / name, {"job.py": WITH_NUMBA.replace("NUMBER", number)})
        sides[name] = dict(each.split("=") for each in run(tmp_path / name, "job.py"))
    assert sides["one"] == sides["same"]
    assert not set(sides["one"].items()) & set(sides["other"].items())


EXTENSION = """
#include <Python.h>
int twice(int x) { return NUMBER * x; }
static PyObject *call(PyObject *self, PyObject *x) { return PyLong_FromLong(NUMBER * PyLong_AsLong(x)); }
static PyMethodDef methods[] = {{"call", call, METH_O, ""}, {NULL}};
static struct PyModuleDef made = {PyModuleDef_HEAD_INIT, "built", "", -1, methods};
PyMODINIT_FUNC PyInit_built(void) { return PyModule_Create(&made); }
"""
USES_EXTENSION = """
import ctypes, pathlib
import built
library = ctypes.CDLL(str(pathlib.Path(__file__).parent / "built.so"))
def by_module(x): return built.call(x)
def by_import(x):
    from built import call
    return call(x)
def by_library(x): return library.twice(x)
if __name__ == "__main__":
    from hooke.keys import fingerprint_code
    print(*(fingerprint_code(each).key for each in (by_module, by_import, by_library)))
"""


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_c_extension_and_a_shared_library_that_are_built_again_in_place_move_the_key(tmp_path):
    write(tmp_path, {"job.py": USES_EXTENSION})

    def build(number):
        write(tmp_path, {"built.c": EXTENSION.replace("NUMBER", number)})
        include = sysconfig.get_path("include")
        command = ["cc", "-shared", "-fPIC", "-undefined", "dynamic_lookup"]
        command = command if sys.platform == "darwin" else command[:3]
        subprocess.run([*command, f"-I{include}", "-o", "built.so", "built.c"], cwd=tmp_path, check=True)
        return run(tmp_path, "job.py")

    one, two = build("2"), build("3")
    assert not set(one) & set(two)
    assert build("2") == one
