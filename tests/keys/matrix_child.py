"""A fresh process that fingerprints one target per folder: reads jobs from standard input, writes keys as JSON."""

import contextlib
import importlib
import io
import json
import os
import sys

from hooke.keys import ValuePrinter, fingerprint_code, fingerprint_value
from hooke.keys.code_walk import EVERYTHING


def keys_of(target, weakened):
    """The key as it is, and as a walk that does not follow `weakened` would have it."""
    if callable(target) and not isinstance(target, Value):
        return fingerprint_code(target).key, fingerprint_code(target, follow=EVERYTHING - {weakened}).key
    blind = ValuePrinter(code=lambda _: b"").encode(target.value)
    return fingerprint_value(target.value), blind.hex()


class Value:
    """An input instead of a task."""

    def __init__(self, value):
        self.value = value


@contextlib.contextmanager
def from_module(folder, expression):
    """Import the project in a folder as if nothing had been imported before."""
    sys.path[:0] = [folder, f"{folder}/site-packages"]
    before = set(sys.modules)
    importlib.invalidate_caches()
    try:
        flights = importlib.import_module("flights")
        yield eval(expression, {"flights": flights, "Value": Value})
    finally:
        del sys.path[:2]
        for name in set(sys.modules) - before:
            if is_below(folder, sys.modules[name]):
                del sys.modules[name]


def is_below(folder, module):
    """Whether a module is one of the project's in a folder; libraries stay, because some load only once."""
    places = [vars(module).get("__file__"), *vars(module).get("__path__", ())]
    return any(isinstance(place, str) and place.startswith(folder + os.sep) for place in places)


@contextlib.contextmanager
def from_notebook(folder, expression):
    """Run a notebook's cells in IPython's own shell."""
    from IPython.core.interactiveshell import InteractiveShell

    with open(f"{folder}/cells.json", encoding="utf-8") as stream:
        cells = json.load(stream)
    main = sys.modules["__main__"]
    shell = InteractiveShell.instance()
    sys.modules["__main__"] = shell.user_module
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            shell.run_cell(cell, store_history=True).raise_error()
    try:
        yield eval(expression, shell.user_ns)
    finally:
        shell.reset(new_session=False)
        sys.modules["__main__"] = main


def main():
    """One answer a job, in order."""
    answers = []
    for job in json.load(sys.stdin):
        load = from_notebook if job["notebook"] else from_module
        with contextlib.redirect_stderr(io.StringIO()), load(job["folder"], job["expression"]) as target:
            answers.append(keys_of(target, job["weakened"]))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
