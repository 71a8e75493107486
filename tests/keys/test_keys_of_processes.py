"""Keys of one code in several processes and checkouts, edited while a process runs, installed by pip, or compiled."""

import os
import subprocess
import sys
import sysconfig

import pytest
from tests.keys.matrix_rows import write

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


@pytest.mark.needs("cpu")
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


@pytest.mark.needs("cpu")
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


@pytest.mark.long
@pytest.mark.needs("processes")
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

    assert edit(1) != edit(20), (
        "of another size: else Python itself runs what it compiled within the same second"
    )


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


@pytest.mark.needs("numba")
def test_numba_itself(tmp_path):
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


@pytest.mark.needs("c compiler")
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
