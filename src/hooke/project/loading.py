"""From `file.py:name` to the pipeline or service: the file is imported under its own name, so that workers can too."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hooke.base.errors import HookeError, NotFingerprintable, UsageError
from hooke.base.user_code import user_frames
from hooke.keys.fingerprint import fingerprint_code
from hooke.pipeline.pipeline import Pipeline

__all__ = ["PipelineEntry", "choose", "code_of", "entry_of", "file_of", "load_entry", "load_file", "loading"]


T = TypeVar("T")

_loading: ContextVar[str | None] = ContextVar("hooke_loading", default=None)


def loading() -> str | None:
    """The file that is being imported for its pipeline, if one is: `run()` must not be called then."""
    return _loading.get()


@dataclass(frozen=True, slots=True)
class PipelineEntry:
    """Where a pipeline is found again: a file and a name in it. `file` is None where there is none (a notebook)."""

    file: Path | None
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.file is not None else "pickle"


def entry_of(pipeline: Pipeline[..., Any]) -> PipelineEntry:
    """Where this pipeline is found again."""
    function = pipeline.function
    module = sys.modules.get(function.__module__)
    name = function.__qualname__
    file = getattr(module, "__file__", None)
    if (
        file is None
        or not os.path.isfile(file)
        or "<locals>" in name
        or getattr(module, name, None) is not pipeline
    ):
        return PipelineEntry(None, name)
    return PipelineEntry(Path(file).resolve(), name)


def load_entry(text: str) -> tuple[Pipeline[..., Any], Path]:
    """The pipeline of `file.py` (its only one) or `file.py:name`, and the file.

    Raises UsageError: no such file, an exception in it, no such pipeline, several and none named.
    """
    module, path, name = load_file(text, "pipeline")
    found = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    own = {key: value for key, value in found.items() if value.function.__module__ == module.__name__}
    fix = "mark a function that composes tasks with @pipeline"
    return choose(path, name, own or found, what="pipeline", fix=fix), path.resolve()


def load_file(text: str, what: str) -> tuple[ModuleType, Path, str]:
    """The module of `file.py` or `file.py:name`, its path as given, and the name. Raises UsageError, as `load_entry`."""
    path, name = file_of(text, what)
    return _import(path.resolve()), path, name


def file_of(text: str, what: str) -> tuple[Path, str]:
    """The path in `file.py` or `file.py:name`, as given, and the name. Raises UsageError where there is no such file."""
    file_text, _, name = text.partition(":")
    path = Path(file_text)
    if not path.is_file():
        raise UsageError(f"no file {file_text}", fix=_nearby(path, what), where=str(path.parent.resolve()))
    return path, name


def choose(path: Path, name: str, found: dict[str, T], *, what: str, fix: str) -> T:
    """The one of that name, or the only one. Raises UsageError with those that there are."""
    if not found:
        raise UsageError(f"{path} has no {what}", fix=fix)
    if name in found:
        return found[name]
    if name:
        raise UsageError(f"{path} has no {what} {name!r}", fix=f"it has: {', '.join(sorted(found))}")
    if len(found) > 1:
        names = ", ".join(sorted(found))
        raise UsageError(f"{path} has several {what}s: {names}", fix=f"name one: {path}:{min(found)}")
    return next(iter(found.values()))


def _nearby(path: Path, what: str) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    files = [file.name for file in path.parent.glob("*.py")]
    near = get_close_matches(path.name, files, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else f"give a Python file with a @{what} in it"


def _import(path: Path) -> ModuleType:
    if "." in path.stem:
        raise UsageError(
            f"{path} cannot be imported: the name of a module has no dot", fix="give the file another name"
        )
    root, dotted = _module_name(path)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    loaded = sys.modules.get(dotted)
    if loaded is not None:
        return _same_file(loaded, path, dotted)
    spec = importlib.util.find_spec(dotted)
    if spec is None or spec.origin is None or not os.path.samefile(spec.origin, path):
        raise UsageError(
            f"{path} cannot be imported as {dotted}: that name is taken by {spec.origin if spec else 'nothing'}",
            fix="give the file another name",
        )
    with _marked(path):
        return _imported(dotted, path)


def _imported(dotted: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except HookeError:
        raise
    except (Exception, SystemExit) as error:
        lines = user_frames("".join(traceback.format_exception(error)))
        raise UsageError(
            f"{path} cannot be imported: {type(error).__name__}: {error}", why="\n".join(lines)
        ) from error


def _same_file(module: ModuleType, path: Path, dotted: str) -> ModuleType:
    file = getattr(module, "__file__", None)
    if file is None or not os.path.samefile(file, path):
        raise UsageError(
            f"{path} cannot be imported as {dotted}: a module of that name is loaded from {file}",
            fix="give the file another name",
        )
    return module


def _module_name(path: Path) -> tuple[Path, str]:
    """The folder for sys.path and the dotted name: packages are those folders upwards that have an __init__.py."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


@contextmanager
def _marked(path: Path) -> Iterator[None]:
    token = _loading.set(str(path))
    try:
        yield
    finally:
        _loading.reset(token)


# --- What a service's code is, as a hash: whether what was measured of it was measured of this code.


def code_of(made_by: type) -> str:
    """A hash of the class and all that it reaches; empty where there is no honest one."""
    try:
        return fingerprint_code(made_by).key
    except NotFingerprintable:
        return ""
