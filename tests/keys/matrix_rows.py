"""How rows of the cache matrix are made: small projects written twice, before and after an edit."""

import hashlib
import json
from dataclasses import dataclass, field


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


def write(folder, files, namespaces=()):
    """Write a project's files. Folders with modules are packages, except `namespaces`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.parent != folder and name.endswith(".py") and path.parent.name not in namespaces:
            (path.parent / "__init__.py").touch()
