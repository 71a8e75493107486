"""What `import hooke` and `hooke --help` bring in, looked at from outside in fresh processes."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "asyncio", "blake3", "click", "cloudpickle", "cryptography", "fsspec", "msgspec", "multiprocessing", "numpy", "pandas", "polars",
    "psutil", "pyarrow", "rich", "s3fs", "sklearn", "torch",
}  # fmt: skip
HELP_HEAVY = HEAVY - {"click", "asyncio"}  # click is how --help is said


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    script = (
        f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_hooke_loads_nothing_heavy() -> None:
    assert not loaded_after("import hooke") & HEAVY


@pytest.mark.needs("cpu")
def test_help_loads_nothing_heavy() -> None:
    code = "from hooke.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code"
    assert not loaded_after(code) & HELP_HEAVY


@pytest.mark.needs("cpu")
def test_hooke_run_loads_no_server() -> None:
    assert not loaded_after("import hooke.cli.verbs.run") & {
        "asyncio",
        "http",
        "ssl",
        "numpy",
        "rich",
        "uvloop",
    }


@pytest.mark.needs("cpu")
def test_import_hooke_has_no_side_effect() -> None:
    code = (
        "import threading, os\n"
        "before = dict(os.environ), sorted(os.listdir('.')), threading.active_count()\n"
        "import hooke\n"
        "assert before == (dict(os.environ), sorted(os.listdir('.')), threading.active_count())"
    )
    loaded_after(code)


@pytest.mark.long
@pytest.mark.needs("processes")  # nine processes, most of which load the laws
@pytest.mark.parametrize(
    "name", ["task", "pipeline", "run", "Run", "measure", "Study", "plan", "Plan", "File"]
)
def test_public_names_are_reached_lazily(name: str) -> None:
    loaded_after(f"import hooke\nassert {name!r} in hooke.__all__ and {name!r} in dir(hooke)\nhooke.{name}")


@pytest.mark.needs("cpu")
def test_an_unknown_name_is_an_attribute_error() -> None:
    loaded_after(
        "import hooke\ntry:\n    hooke.nothing\nexcept AttributeError as e:\n    assert 'nothing' in str(e)"
    )


EXTRAS = {
    "PIL", "comet_ml", "cryptography", "dask", "distributed", "envoy", "fsspec", "hdrh", "httptools", "jinja2", "markupsafe", "mlflow", "neptune_api",
    "onnxruntime", "optuna", "pandas", "plotly", "polars", "prometheus_client", "pyarrow", "ray", "s3fs", "safetensors", "sklearn",
    "skops", "starlette", "tensorflow", "torch", "uvicorn", "uvloop", "watchfiles",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_every_verb_and_public_name_is_there_without_any_extra():
    """A missing extra is named when it is needed, and does not hide a verb's help."""
    code = f"""
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import hooke
from hooke.cli.entry import MADE_IN, VERBS

for verb in VERBS:
    importlib.import_module(MADE_IN.get(verb, f"hooke.cli.verbs.{{verb}}").partition(":")[0])
for name in hooke.__all__:
    getattr(hooke, name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
