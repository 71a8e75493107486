"""Rows of the cache matrix that must move: edits that can change the answer."""

import json

from tests.keys.matrix_rows import (
    EDITABLE,
    FROM_A_FOLDER,
    FROM_A_REPOSITORY,
    FROM_A_WHEEL,
    USERS_ESTIMATOR,
    USES_WEATHER,
    Row,
    called_by_name,
    edited,
    helper,
    installed,
    jitted,
    one,
    other,
    reinstalled,
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
