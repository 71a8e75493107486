"""Rows of the cache matrix that must stay: edits that change no answer."""

import json

from tests.keys.matrix_rows import (
    FROM_A_FOLDER,
    USERS_ESTIMATOR,
    USES_WEATHER,
    Row,
    called_by_name,
    helper,
    installed,
    jitted,
    one,
    other,
    padded,
)

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
