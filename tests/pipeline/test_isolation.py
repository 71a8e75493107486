"""Chance that repeats: the same numbers whatever ran before, wherever it runs, however its library came to be imported."""

import math
import os
import random
import subprocess
import sys
import threading
import warnings
from random import gauss

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.keys.fingerprint import fingerprint_code
from hooke.pipeline.calls import touches_nothing_global
from hooke.pipeline.isolation import (
    ProcessState,
    ReachedNames,
    SeededAttempt,
    seed_from,
)

KEYS = st.binary(min_size=16, max_size=16)


def draws() -> tuple[float, float]:
    return random.random(), float(np.random.rand())


@pytest.mark.needs("cpu")
@given(KEYS, KEYS, st.integers(0, 5))
def test_what_is_drawn_follows_from_the_key_alone(key, other, before):
    with SeededAttempt(restored=True):
        seed_from(other)
        for _ in range(before):
            random.gauss(0, 1)
            np.random.randn()
        seed_from(key)
        first = draws()
        seed_from(other)
        another = draws()
        seed_from(key)
        assert draws() == first
        assert (another == first) == (key[:8] == other[:8])


def test_a_process_of_somebody_elses_has_its_own_chance_back():
    random.seed(3)
    np.random.seed(3)
    expected = draws()
    random.seed(3)
    np.random.seed(3)
    with SeededAttempt(restored=True):
        seed_from(bytes(16))
        draws()
    assert draws() == expected


LATE = """
import sys
from random import gauss
from hooke.pipeline.isolation import seed_from, SeededAttempt
assert "numpy.random" not in sys.modules
with SeededAttempt(restored=False):
    seed_from(b"0123456789abcdef")
    import numpy as np
    first = np.random.rand()
    seed_from(b"0123456789abcdef")
    print(np.random.rand() == first, len(sys.meta_path))
print(len(sys.meta_path))
"""


@pytest.mark.needs("cpu")
def test_a_library_that_the_call_imports_is_seeded_as_soon_as_it_is_there():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    same, inside, outside = done.stdout.split()
    assert same == "True"
    assert int(outside) == int(inside) - 1


def doubled(x: int) -> int:
    return math.ceil(x) * 2


def module_draw(x: int) -> float:
    return x + random.random()


def bound_draw(x: int) -> float:
    return x + gauss(0, 1)


def numpy_draw(x: int) -> float:
    return float(np.random.rand())


def late_draw(x: int) -> float:
    import random as chances

    return chances.random()


def hidden_draw(x: int) -> float:
    return __import__("random").random()


def indirect_draw(x: int) -> float:
    return module_draw(x)


@pytest.mark.needs("processes")
def test_only_what_surely_draws_nothing_is_left_unseeded():
    assert touches_nothing_global(fingerprint_code(doubled), [2, "text"], [range(3), [1, 2.0]])
    for draws_some in (module_draw, bound_draw, numpy_draw, late_draw, hidden_draw, indirect_draw):
        assert not touches_nothing_global(fingerprint_code(draws_some), [], [range(3)]), draws_some
    assert not touches_nothing_global(fingerprint_code(doubled), [module_draw], [range(3)]), (
        "an argument may draw"
    )
    assert not touches_nothing_global(fingerprint_code(doubled), [], [[1, module_draw]])
    assert not touches_nothing_global(fingerprint_code(doubled), [], [object()]), (
        "a list that does not exist yet"
    )


# --- The state of the process.


LAZY = """
import os
os.environ["SET_ON_IMPORT"] = "yes"
"""


def test_what_a_module_sets_while_it_is_imported_stays(tmp_path, monkeypatch):
    (tmp_path / "lazy_module_with_a_setting.py").write_text(LAZY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("SET_ON_IMPORT", raising=False)

    def task():
        import lazy_module_with_a_setting  # noqa: F401

        os.environ["SET_BY_THE_CALL"] = "yes"

    state = ProcessState(alone=True)
    with state.watched():
        state.call(task)
        state.call(task)
        assert os.environ["SET_ON_IMPORT"] == "yes"
        assert "SET_BY_THE_CALL" not in os.environ and b"SET_BY_THE_CALL" not in os.environb
    assert os.environ["SET_ON_IMPORT"] == "yes"
    del os.environ["SET_ON_IMPORT"]


def test_what_a_call_sets_beside_its_first_import_of_a_module_does_not_stay(tmp_path, monkeypatch):
    (tmp_path / "module_with_filters.py").write_text(
        "import warnings\nwarnings.filterwarnings('ignore', message='by the module')\n"
        "with warnings.catch_warnings():\n    warnings.simplefilter('error')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path, found = list(sys.path), []

    def task():
        import module_with_filters  # noqa: F401

        sys.path.insert(0, str(tmp_path / "lib"))
        sys.path.append("/somewhere/site-packages/vendored")
        warnings.simplefilter("always", BytesWarning)
        found.append(len(warnings.filters))

    with warnings.catch_warnings():
        state, before = ProcessState(alone=True), list(warnings.filters)
        with state.watched():
            state.call(task)
            state.call(task)
        after = list(warnings.filters)
    assert sys.path == [*path, "/somewhere/site-packages/vendored"]
    assert [each[1].pattern for each in after if each not in before] == ["by the module"]
    assert found[0] == found[1] == len(after) + 1


def test_children_see_the_variables_that_were_set_back(monkeypatch):
    monkeypatch.setenv("KEPT", "before")

    def task():
        os.environ["KEPT"] = "changed"
        os.environ["NEW"] = "new"

    state = ProcessState(alone=True)
    with state.watched():
        state.call(task)
        seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "KEPT=before" in seen and not any(line.startswith("NEW=") for line in seen)


def test_a_call_that_raises_leaves_nothing_either(tmp_path):
    def task():
        os.chdir(tmp_path)
        raise KeyError("x")

    state, folder = ProcessState(alone=True), os.getcwd()
    with state.watched(), pytest.raises(KeyError):
        state.call(task)
    assert os.getcwd() == folder


def test_a_folder_that_the_call_removed_is_left(tmp_path):
    def task():
        os.chdir(tmp_path)
        tmp_path.rmdir()

    state, folder = ProcessState(alone=True), os.getcwd()
    with state.watched():
        state.call(task)
    assert os.getcwd() == folder


def test_in_another_thread_of_the_users_process_nothing_is_set_back():
    done = []

    def run():
        state = ProcessState(alone=False)
        with state.watched():
            done.append(state.call(lambda: os.environ.get("OF_THE_PROGRAM")))
            os.environ["OF_THE_PROGRAM"] = "set meanwhile"

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert os.environ.pop("OF_THE_PROGRAM") == "set meanwhile"


# --- Names that a call binds anew.


def module_of(source: str, tmp_path, name: str):
    import importlib.util

    file = tmp_path / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = """
import json
from collections import Counter

COUNT = 0
TABLE = {"a": 1}
ROWS = [1, 2]
MODEL = None
CACHE = {}

class Scale:
    def of(self, x):
        return 2 * x

def helper(x):
    return x + COUNT

def task(how):
    global COUNT, MODEL, TABLE
    if how == "count":
        COUNT += 1
    if how == "table":
        TABLE["b"] = 2
        ROWS.append(3)
    if how == "other table":
        TABLE = {}
    if how == "fill":
        MODEL = MODEL or object()
        CACHE["x"] = MODEL
    if how == "method":
        Scale.of = lambda self, x: 3 * x
    if how == "library":
        json.dumps = str
    if how == "helper":
        globals()["helper"] = abs
    return helper(1), Scale().of(1), json.dumps([1])
"""


@pytest.mark.parametrize("how", ["count", "table", "other table"])
def test_globals_that_a_call_changes_are_set_back(tmp_path, how):
    module = module_of(NAMES, tmp_path, "names_back")
    state = ProcessState(alone=True)
    state.names = ReachedNames(module.task)
    table, rows = module.TABLE, module.ROWS
    with state.watched():
        state.call(module.task, how)
        state.call(module.task, "")
    assert (module.COUNT, module.TABLE, module.ROWS) == (0, {"a": 1}, [1, 2])
    assert module.TABLE is table and module.ROWS is rows
    assert state.names.replaced() == ""


def test_what_was_none_or_empty_may_be_filled(tmp_path):
    module = module_of(NAMES, tmp_path, "names_filled")
    state = ProcessState(alone=True)
    state.names = ReachedNames(module.task)
    with state.watched():
        state.call(module.task, "fill")
        first = module.MODEL
        state.call(module.task, "fill")
    assert first is not None and module.MODEL is first and {"x": first} == module.CACHE


@pytest.mark.parametrize(("how", "name"), [("method", "of"), ("library", "dumps"), ("helper", "helper")])
def test_code_that_a_call_replaces_is_noticed(tmp_path, monkeypatch, how, name):
    import json

    monkeypatch.setattr(json, "dumps", json.dumps)  # to have it back
    module = module_of(NAMES, tmp_path, "names_replaced")
    names = ReachedNames(module.task)
    module.task("")
    assert names.replaced() == ""
    module.task(how)
    assert names.replaced() == name
