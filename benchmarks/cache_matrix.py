"""The cache matrix of Hooke beside joblib, Prefect and Hamilton: which edits does each notice?

    python -m benchmarks.cache_matrix > matrix.md

Runs the edits of tests/keys/test_cache_matrix.py from the root of the repository, before and after in two fresh processes, and asks each tool as it is
installed whether it would run the task again: joblib by `check_call_in_cache` on a store that the first process filled,
Prefect by the key of `INPUTS + TASK_SOURCE`, Hamilton by its code version and data version, Hooke by its keys.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.keys.matrix_child import Value, from_module, from_notebook
from tests.keys.matrix_moves import MUST_MOVE
from tests.keys.matrix_rows import write
from tests.keys.matrix_stays import MUST_STAY

TOOLS = ("hooke", "joblib", "prefect", "hamilton")
NAMES = {"hooke": "Hooke", "joblib": "joblib", "prefect": "Prefect", "hamilton": "Hamilton"}
DISTRIBUTIONS = {"joblib": "joblib", "prefect": "prefect", "hamilton": "apache-hamilton"}


def take(value: object) -> object:
    """The task of the rows whose edit is in an input's class."""
    return value is not None


def hooke_key(task: Callable[..., Any], value: object, _: Path) -> str:
    """Code and input, as a graph node's key has them."""
    from hooke.keys import combine, fingerprint_code, fingerprint_value

    return combine("call", fingerprint_code(task).key, fingerprint_value(value))


def prefect_key(task: Callable[..., Any], value: object, _: Path) -> str:
    """The key of the policy that Prefect's documentation recommends for this."""
    from prefect import task as as_task
    from prefect.cache_policies import INPUTS, TASK_SOURCE

    context: Any = types.SimpleNamespace(task=as_task(task))
    return str((INPUTS + TASK_SOURCE).compute_key(context, {"x": value}, {}))


def hamilton_key(task: Callable[..., Any], value: object, _: Path) -> str:
    """A node's code version and its input's data version."""
    from hamilton.caching.fingerprinting import hash_value
    from hamilton.graph_types import hash_source_code

    return f"{hash_source_code(task, strip=True)} {hash_value(value)}"


def joblib_key(task: Callable[..., Any], value: object, store: Path) -> str:
    """The word same if the call is in the store already, else new; then it is put there."""
    from joblib import Memory

    cached = Memory(store, verbose=0).cache(task)
    for arguments in ((value,), ([1],), (1, "scale"), ([1], 1)):
        with contextlib.suppress(Exception):
            known = cached.check_call_in_cache(*arguments)
            cached(*arguments)
            return "same" if known else "new"
    raise TypeError(f"no arguments fit {task}")


KEYS = {"hooke": hooke_key, "joblib": joblib_key, "prefect": prefect_key, "hamilton": hamilton_key}


def child(side: str, folder: Path) -> None:
    """One process: all rows of one side, each tool's answer or its error."""
    answers: dict[str, dict[str, str]] = {}
    for name in (
        "joblib",
        "prefect.cache_policies",
        "hamilton.caching.fingerprinting",
        "hamilton.graph_types",
    ):
        importlib.import_module(
            name
        )  # else the loader, which forgets a row's modules, would forget these too
    for number, (name, row) in enumerate((MUST_MOVE | MUST_STAY).items()):
        place = folder / side / f"project{number}"
        write(place, row.shared | getattr(row, side), row.namespaces)
        opened = (from_notebook if row.notebook else from_module)(str(place), row.expression)
        with contextlib.redirect_stderr(io.StringIO()), opened as target:
            is_input = isinstance(target, Value)
            task, value = (take, target.value) if is_input else (target, 1)
            answers[name] = {tool: ask(tool, task, value, folder / "joblib" / str(number)) for tool in TOOLS}
    print(json.dumps(answers))


def ask(tool: str, task: Callable[..., Any], value: object, store: Path) -> str:
    """A tool's key, or its refusal."""
    try:
        return KEYS[tool](task, value, store)
    except Exception as error:  # noqa: BLE001 - a refusal is an answer
        return f"refused: {type(error).__name__}"


def verdict(tool: str, before: str, after: str, *, must_move: bool) -> str:
    """What the tool would do after the edit."""
    if "refused" in before or "refused" in after:
        return "refused"
    moved = after == "new" if tool == "joblib" else before != after
    if must_move:
        return "changed" if moved else "**STALE**"
    return "needless miss" if moved else "kept"


def table(before: dict[str, Any], after: dict[str, Any], must_move: dict[str, Any]) -> list[str]:
    """The Markdown table, with a row of totals."""
    versions = {tool: importlib.metadata.version(name) for tool, name in DISTRIBUTIONS.items()}
    heads = [f"{NAMES[tool]} {versions.get(tool, '')}".strip() for tool in TOOLS]
    lines = ["| edit | " + " | ".join(heads) + " |", "|---" * (len(TOOLS) + 1) + "|"]
    verdicts = {
        name: [
            verdict(tool, before[name][tool], after[name][tool], must_move=name in must_move)
            for tool in TOOLS
        ]
        for name in before
    }
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in verdicts.items()]
    columns = list(zip(*verdicts.values(), strict=True))
    for label in ("**STALE**", "needless miss", "refused"):
        lines.append(
            f"| *{label.strip('*')}, of {len(verdicts)}* | "
            + " | ".join(str(c.count(label)) for c in columns)
            + " |"
        )
    return lines


def main() -> None:
    """Both sides in processes of their own, then the table."""
    with tempfile.TemporaryDirectory() as name:
        sides = []
        for side, seed in (("before", "1"), ("after", "2")):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.cache_matrix", side, name],
                env=os.environ | {"PYTHONHASHSEED": seed, "PREFECT_LOGGING_LEVEL": "CRITICAL"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            sides.append(json.loads(done.stdout.splitlines()[-1]))
    print(*table(*sides, MUST_MOVE), sep="\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        child(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
