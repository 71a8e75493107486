"""What a fingerprint of code says besides its key: parts, notes, refusals; and what needs no source."""

import ast
import functools
import importlib
import json
import linecache
import logging
import pathlib
import pickle
import re
import subprocess
import sys
import sysconfig
import threading
import types

import cloudpickle
import pytest

from hooke.base.errors import HookeError, NotFingerprintable
from hooke.keys import File, bytecode, combine, explain, fingerprint_code, fingerprint_value
from hooke.keys.bytecode import listing

EXOTIC = pathlib.Path(__file__).with_name("exotic_child.py")


def module(source, name="made", **extra):
    """A module of the project from source text, without a file."""
    scope = {"__name__": name, **extra}
    exec(source, scope)
    return types.SimpleNamespace(**scope)


def test_a_function_and_the_cache_around_it_are_two_parts():
    """By one name, an edit would have been seen in only one of them: workers and `cache why` compare parts by name."""
    source = "import functools\n@functools.lru_cache\ndef kept(x): return x + {}\ndef task(x): return kept(x)"
    before, after = (
        {part.name: part.digest for part in parts}
        for parts in (fingerprint_code(module(source.format(n)).task).parts for n in (1, 2))
    )
    assert len(before) == len(fingerprint_code(module(source.format(1)).task).parts)
    assert [name for name in before if before[name] != after[name]] == ["made.kept"]


def test_parts_name_what_is_reached():
    made = module(
        "import json\nN = 3\nclass M:\n    rate = 2\ndef scale(x): return json.dumps(x * N)\n"
        "def make(k):\n    def task(x, n=1): return scale(x), M, k\n    return task\ntask = make(5)"
    )
    found = fingerprint_code(made.task)
    kinds = {part.name: part.kind for part in found.parts}
    assert found.parts[0].name == "made.make.<locals>.task"
    assert kinds["made.scale"] == "function"
    assert kinds["made.M"] == "class"
    assert kinds["made.N"] == kinds["made.M.rate"] == "global"
    assert kinds["made.make.<locals>.task(n=)"] == "default"
    assert kinds["made.make.<locals>.task.<closure>.k"] == "closure"
    assert kinds["python"] == "distribution"
    assert found.notes == ()


def test_names_of_parts_are_unique():
    made = module("def make(k):\n    return lambda: k\nTABLE = [make(1), make(2)]\ndef task(): return TABLE")
    names = [(part.kind, part.name) for part in fingerprint_code(made.task).parts]
    assert len(set(names)) == len(names)


def test_recursion_and_cycles_end():
    made = module(
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
        "TABLE = {'a': even}\nTABLE['self'] = TABLE\nclass Node:\n    def make(self): return Node, TABLE, even\n"
        "def task(n): return Node, even(n)"
    )
    assert fingerprint_code(made.task).key == fingerprint_code(made.task).key


def test_what_cannot_be_hashed_counts_by_its_type_and_says_so():
    made = module("def task(): return LOCK", LOCK=threading.Lock())
    found = fingerprint_code(made.task)
    assert [part.kind for part in found.parts if part.name == "made.LOCK"] == ["opaque"]
    assert "LOCK" in found.notes[0]


@pytest.mark.needs("processes")
@pytest.mark.parametrize(
    "body",
    [
        "getattr(json, x)", "getattr(x, 'a' + x)", "eval(x)", "exec(x)", "globals()[x]", "__import__(x)", "sys.modules[x]",
        "importlib.import_module(x)", "getattr(x, x, 1)",
    ],
)  # fmt: skip
def test_dynamic_reach_takes_all_project_modules_and_names_the_line(body):
    made = module(f"import json, importlib, sys\n\ndef task(x):\n    return {body}")
    found = fingerprint_code(made.task)
    assert "<code>:4" in found.notes[0] or "<string>:4" in found.notes[0]
    assert any(part.name.endswith("(source)") for part in found.parts)


@pytest.mark.needs("processes")
def test_modules_that_dynamic_reach_takes_are_compiled_once_until_they_change(tmp_path, monkeypatch):
    """Each call of a process that has a thousand modules took seconds, in each task and each run."""
    file = tmp_path / "reached_by_chance.py"
    file.write_text("X = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, file.stem, importlib.import_module(file.stem))
    task = module("def task(x):\n    return eval(x)").task
    before = fingerprint_code(task).key
    compiled = []
    module_code = bytecode.module_code
    monkeypatch.setattr(bytecode, "module_code", lambda path: (compiled.append(path), module_code(path))[1])
    assert fingerprint_code(task).key == before
    assert str(file) not in compiled
    file.write_text("X = 22")
    linecache.checkcache(str(file))
    assert fingerprint_code(task).key != before
    assert str(file) in compiled


@pytest.mark.parametrize(
    "body", ["getattr(x, 'a')", "getattr(f(x), 'a', f(1))", "hasattr(x, 'a')", "x.getattr(x)"]
)
def test_a_constant_name_is_no_dynamic_reach(body):
    assert fingerprint_code(module(f"def f(x): return x\ndef task(x): return {body}").task).notes == ()


def test_a_stand_in_is_replaced_by_what_it_stands_for():
    class Task:
        def __init__(self, function):
            self.function = function

        def __hooke_code__(self):
            return self.function

    plain = module("def scale(x): return x * 2\ndef task(x): return scale(x)")
    wrapped = module("def task(x): return scale(x)", scale=Task(plain.scale))
    assert fingerprint_code(Task(plain.task)).key == fingerprint_code(plain.task).key
    assert fingerprint_code(wrapped.task).key == fingerprint_code(plain.task).key


def test_the_part_of_a_partial_is_named_after_it_whether_a_task_stands_for_it_or_not():
    made = module(
        "import functools\nfrom hooke import task\ndef f(x, n): return x\np = functools.partial(f, n=1)"
    )
    parts = [fingerprint_code(each).parts for each in (made.task(made.p), made.p)]
    assert parts[0] == parts[1]


def test_a_look_at_a_class_s_annotations_does_not_move_its_key():
    made = module("class M:\n    def f(self): return 1")
    before = fingerprint_code(made.M).key
    assert made.M.__annotations__ == {}
    assert fingerprint_code(made.M).key == before


def test_loggers_count_by_name_and_patterns_by_text():
    def keyed(log, pattern):
        return fingerprint_code(module("def task(): return LOG, P", LOG=log, P=pattern).task).key

    first = keyed(logging.getLogger("a"), re.compile("x"))
    logging.getLogger("a").setLevel(logging.ERROR)
    assert keyed(logging.getLogger("a"), re.compile("x")) == first
    assert keyed(logging.getLogger("b"), re.compile("x")) != first
    assert keyed(logging.getLogger("a"), re.compile("x", re.IGNORECASE)) != first


def test_use_does_not_move_a_key():
    source = (
        "import functools, abc\n@functools.lru_cache\ndef cached(x): return x\n"
        "@functools.singledispatch\ndef many(x): return 0\n@many.register\ndef _(x: int): return 1\n"
        "class A(abc.ABC):\n    @functools.cached_property\n    def slow(self): return 1\n"
        "ONE = A()\ndef task(x): return cached(x), many(x), ONE"
    )
    made = module(source)
    before = fingerprint_code(made.task).key
    made.task(1)
    assert made.ONE.slow == isinstance(1, made.A) + 1
    assert fingerprint_code(made.task).key == before


def test_use_of_a_cached_or_curried_function_does_not_move_a_key():
    made = module(
        "import cachetools, threading, toolz\n@cachetools.cached(cachetools.TTLCache(9, 9), lock=threading.Lock(), info=True)\n"
        "def timed(x): return x\n@toolz.memoize\ndef kept(x): return x\n@toolz.curry\ndef add(x, y): return x + y\n"
        "def task(x): return timed(x), kept(x), add(x)(1)"
    )
    before = fingerprint_code(made.task).key
    assert made.task(1) == made.task(1) == (1, 1, 2)
    assert fingerprint_code(made.task).key == before


def test_callables_of_every_kind_have_keys_of_their_own():
    made = module(
        "class M:\n    def f(self): return 1\n    @staticmethod\n    def s(): return 1\n    @classmethod\n"
        "    def c(cls): return 1\n    def __call__(self): return 1\ndef f(): return 1"
    )
    partials = [functools.partial(made.f), functools.partial(made.f, 1), functools.partial(made.f, a=1)]
    kinds = [
        made.f,
        made.M,
        made.M(),
        made.M().f,
        made.M.s,
        made.M.c,
        *partials,
        len,
        print,
        int,
        str.upper,
        json.dumps,
    ]
    assert len({fingerprint_code(kind).key for kind in kinds}) == len(kinds)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_libraries_classes_are_stable_across_processes_hash_seeds_and_use():
    def lines(seed):
        done = subprocess.run(
            [sys.executable, str(EXOTIC)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed} | ENV,
        )
        return json.loads(done.stdout)

    first = lines("1")
    assert first["before"] == first["after"] == lines("2")["before"]
    assert len(set(first["before"].values())) == len(first["before"])


@pytest.mark.long
@pytest.mark.needs("processes")
def test_reformatting_the_standard_library_moves_no_key():
    moved, total = [], 0
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("[a-h]*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))
                and ast.get_docstring(node) is not None
            ):
                body[:1] = [] if len(body) > 1 else [ast.Pass()]
        there = zip(codes(compiled(source)), codes(compiled(ast.unparse(tree))), strict=True)
        for before, after in there:
            total += 1
            if listing(before).digest != listing(after).digest:
                moved.append(f"{path.name}: {before.co_qualname}")
    assert total > 2000
    assert moved == []


def compiled(source):
    return compile(source, "any", "exec", dont_inherit=True)


def codes(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def test_explain_shows_the_difference():
    before = fingerprint_code(module("N = 1\ndef scale(x): return x\ndef task(x): return scale(x) + N").task)
    after = fingerprint_code(
        module("N = 2\nK = 1\ndef scale(x): return x\ndef task(x): return scale(x) + N + K").task
    )
    changes = {change.name: change for change in explain(before.parts, after.parts)}
    assert {name: change.what for name, change in changes.items()} == {
        "made.task": "changed",
        "made.N": "changed",
        "made.K": "added",
    }
    assert "-1" in changes["made.N"].diff
    assert "+2" in changes["made.N"].diff
    assert [change.what for change in explain(after.parts, before.parts)] == ["changed", "changed", "removed"]
    assert explain(before.parts, before.parts) == []


def test_refusals_name_the_path_the_type_and_the_mend(tmp_path):
    class Rows:
        def __init__(self, columns):
            self.columns = columns

    class Column:
        def __init__(self, lock):
            self.lock = lock

    rows = Rows([1, 2, 3, Column(threading.Lock())])
    with pytest.raises(NotFingerprintable) as refused:
        fingerprint_value(rows, where="rows")
    assert refused.value.where == "rows, part .columns[3].lock"
    assert "_thread.lock" in str(refused.value)
    assert "__hooke_key__" in refused.value.fix


class Addressed:
    def __reduce__(self):
        return Addressed, (f"<object at {hex(id(self))}>",)


class Broken:
    def __reduce__(self):
        raise RuntimeError("no")


@pytest.mark.needs("cpu")
def test_no_key_is_made_up():
    with open(__file__, encoding="utf-8") as stream:
        made_up = [
            stream,
            (n for n in range(3)),
            iter([1]),
            map(abs, [1]),
            threading.Thread(),
            threading.local(),
            object(),
            Addressed(),
            Broken(),
            sys._getframe(),
        ]
        for value in made_up:
            with pytest.raises(NotFingerprintable):
                fingerprint_value({"a": [value]})


@pytest.mark.needs("cpu")
def test_depth_has_an_end():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotFingerprintable, match="too deeply"):
        fingerprint_value(deep)
    while deep:
        deep = deep.pop()


def test_a_leaf_stands_for_what_it_names():
    promise = object()

    def keyed(name):
        return fingerprint_value([1, promise], leaf=lambda value: name if value is promise else None)

    assert keyed("a") == keyed("a") != keyed("b")


def test_own_keys_are_taken():
    class Own:
        def __init__(self, key):
            self.key = key
            self.lock = threading.Lock()

        def __hooke_key__(self):
            return self.key

    one, two = combine("own", 1), combine("own", 2)
    assert fingerprint_value(Own(one)) == fingerprint_value(Own(one)) != fingerprint_value(Own(two))


def test_files_key_by_content(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("a,b")
    two.write_text("a,b")
    before = fingerprint_value(File(one))
    assert fingerprint_value([File(one)]) == fingerprint_value([File(two)])
    assert fingerprint_value(one) != fingerprint_value(two) != before
    one.write_text("a,c")
    assert fingerprint_value(File(one)) != before
    assert pathlib.Path(File(one)).read_text() == "a,c"
    with pytest.raises(HookeError, match="cannot read"):
        fingerprint_value(File(tmp_path / "none.csv"))


ENV = {
    name: value for name, value in __import__("os").environ.items() if name in {"PATH", "PYTHONPATH", "HOME"}
}


@pytest.mark.needs("cpu")
def test_a_class_that_came_by_value_has_the_key_of_the_class_that_it_is():
    """A worker keys the items of a list that a task returned: by what cloudpickle made of the script's classes."""
    made = module(
        "import dataclasses\n@dataclasses.dataclass\nclass Point:\n"
        "    x: int\n    tags: list = dataclasses.field(default_factory=list)\n"
        "    def __lt__(self, other): return False\n"
    )
    child = "import pickle, sys; from hooke.keys import fingerprint_code as code; "
    child += "print(code(pickle.loads(sys.stdin.buffer.read())).key)"
    data = cloudpickle.dumps(made.Point)
    done = subprocess.run([sys.executable, "-c", child], input=data, capture_output=True, check=True)
    key = fingerprint_code(made.Point).key
    assert done.stdout.decode().strip() == key
    made.Point.__lt__ = lambda self, other: True
    assert fingerprint_code(made.Point).key != key


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("line", "touch"),
    [
        ("from random import shuffle as it", "random.shuffle([1, 2])"),
        ("from random import random as it", "random.random()"),
        ("from multiprocessing import get_context as it", "multiprocessing.get_context()"),
    ],
)
def test_what_a_library_offers_as_a_function_is_that_library_s_whatever_state_it_is_in(line, touch):
    script = (
        "import multiprocessing, random\n"
        "from hooke.keys import fingerprint_code, fingerprint_value\n"
        f"{line}\n"
        "def task(): return it\n"
        "def keys(): return fingerprint_code(task).key, fingerprint_value(it)\n"
        "before = keys()\n"
        f"{touch}\n"
        "assert keys() == before\n"
        "print([part.name for part in fingerprint_code(task).parts])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_bound_method_of_the_project_s_own_counts_what_its_object_holds():
    source = "class Meter:\n    def __init__(self): self.n = 0\n    def read(self): return self.n\nmeter = Meter()\nread = meter.read\ndef task(): return read()"
    one, other = module(source), module(source)
    other.meter.n = 1
    assert fingerprint_code(one.task).key != fingerprint_code(other.task).key


def test_what_a_library_offers_is_pickled_by_its_name():
    from random import shuffle

    from hooke.store.by_value import dumps

    assert pickle.loads(dumps(shuffle)) == shuffle
    assert len(dumps(shuffle)) < 200, "not the state of chance"
