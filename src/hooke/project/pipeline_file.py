"""Loads a pipeline or service from `file.py:name`. The file is imported under its module name, so that workers can import it, too."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from hooke.base.errors import HookeError, NotFingerprintable, UsageError
from hooke.base.formats import did_you_mean
from hooke.base.pinned_modules import import_edited
from hooke.base.user_code import shorten_path, user_frames
from hooke.keys.fingerprint import fingerprint_code
from hooke.pipeline.failures import missing_module_fix
from hooke.pipeline.pipeline import Pipeline

__all__ = [
    "PipelineEntry",
    "check_call",
    "check_not_importing",
    "choose",
    "code_of",
    "entry_of",
    "file_of",
    "load_entry",
    "load_file",
]


T = TypeVar("T")

_loading: ContextVar[str | None] = ContextVar("hooke_loading", default=None)


class PipelineEntry(msgspec.Struct, frozen=True):
    """Where to find a pipeline again: a file and a name in it. `file` is None for a pipeline of a notebook."""

    file: Path | None
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.file is not None else "pickle"


def check_call(caller: str, pipeline: object) -> None:
    """Raise UsageError for an argument that is not a pipeline, and for a call while a file is imported for its pipeline."""
    if not isinstance(pipeline, Pipeline):
        raise UsageError(
            f"{caller}() takes a pipeline, not {type(pipeline).__name__} {getattr(pipeline, '__name__', '')}".rstrip(),
            fix="decorate the function that calls the tasks with @pipeline",
        )
    check_not_importing(caller)


def check_not_importing(caller: str) -> None:
    """Raise UsageError for a call while a file is imported for its pipeline."""
    if (file := _loading.get()) is not None:
        raise UsageError(
            f"{file} calls {caller}() while it is being imported",
            fix='put the call under `if __name__ == "__main__":`',
        )


def entry_of(pipeline: Pipeline[..., Any]) -> PipelineEntry:
    """Where to find this pipeline again."""
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
    """The pipeline of `file.py:name` or `package.module:name`, or the only one of `file.py` or `package.module`, and the file.

    Raises UsageError if there is no such file, module or pipeline, if importing the file fails, or if it has several and none is named.
    """
    module, path, name = load_file(text, "pipeline")
    found = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    own = {key: value for key, value in found.items() if value.function.__module__ == module.__name__}
    fix = "write @pipeline (from hooke import pipeline) above the function that calls the tasks"
    return choose(path, name, own or found, what="pipeline", fix=fix), path.resolve()


_importing = threading.RLock()
"""A second thread would find the module of a file that the first one still imports, without its pipelines."""


def load_file(text: str, what: str) -> tuple[ModuleType, Path, str]:
    """The module of `file.py` or `file.py:name`, its path as given, and the name. Raises UsageError as `load_entry` does."""
    path, name = file_of(text, what)
    import_edited()
    with _importing:
        return _import(path.resolve()), path, name


def file_of(text: str, what: str) -> tuple[Path, str]:
    """The path in `file.py` or `file.py:name`, as given, or of the module in `package.module:name`, and the name.

    Raises UsageError if there is no such file or module, or if a package of the module cannot be imported.
    """
    file_text, _, name = text.partition(":")
    path = Path(file_text)
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise UsageError(f"{path} is a folder", fix=_inside_folder(path, what), where=str(path.resolve()))
    if not path.is_file() and _MODULE.fullmatch(file_text) and path.suffix != ".py":
        return _file_of_module(file_text, what), name
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise UsageError(
            f"{file_text} is a folder", fix=_inside_folder(path, what), where=str(path.resolve())
        )
    if not path.is_file():
        raise UsageError(f"no file {file_text}", fix=_nearby(path, what), where=str(path.parent.resolve()))
    if path.suffix != ".py":
        raise UsageError(f"{file_text} is not a Python file", fix=_as_python(path, what))
    return path, name


_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _file_of_module(dotted: str, what: str) -> Path:
    """The source of a module that can be imported from the working directory.

    Raises UsageError if there is no such module, or no source of it, or if a package of it cannot be imported.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(dotted)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{dotted}.".startswith(f"{error.name}."):
            spec = None
        else:
            lines = user_frames("".join(traceback.format_exception(error)))
            raise UsageError(
                f"a package of {dotted} cannot be imported: {type(error).__name__}: {error}",
                why="\n".join(lines),
            ) from error
    if spec is None:
        raise UsageError(
            f"no module {dotted}, and no file of this name",
            where=here,
            fix=_nearby_module(dotted)
            or f"give a Python file with a @{what} in it, or a module that can be imported here",
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise UsageError(
            f"{dotted} is not a module with Python source",
            fix=f"name the module in it that has the {what}: {dotted}.MODULE"
            if spec.submodule_search_locations
            else "",
        )
    path = Path(spec.origin)
    if _module_name(path.resolve())[1] != dotted:
        raise UsageError(
            f"{dotted} cannot be run as a module: a folder above {path.name} has no __init__.py",
            fix=f"add an empty __init__.py, or run the file: {path}",
        )
    return path


def _nearby_module(dotted: str) -> str:
    """The module that may be meant, or its file where a project with `src` has it, which only installing makes importable."""
    package, _, name = dotted.rpartition(".")
    folder = Path(*package.split("."))
    if near := get_close_matches(name, [file.stem for file in folder.glob("*.py")], n=1):
        return f"did you mean {package}{'.' * bool(package)}{near[0]}?"
    path = Path("src", *dotted.split(".")).with_suffix(".py")
    return f"run the file, {path}, or install the project: pip install -e ." if path.is_file() else ""


def choose(path: Path, name: str, found: dict[str, T], *, what: str, fix: str) -> T:
    """The object of that name, or the only one. Raises UsageError with the valid names."""
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


def _inside_folder(path: Path, what: str) -> str:
    """Which of a folder's files is meant, by the decorator that they use."""
    mark = re.compile(rf"^\s*@(\w+\.)*{what}\b", re.MULTILINE)
    marked = [each for each in sorted(path.glob("*.py")) if mark.search(each.read_text("utf-8", "replace"))]
    found = ", ".join(map(str, marked[:MOST_NAMED]))
    return (
        f"name one of its files with a @{what}: {found}"
        if found
        else f"give a Python file with a @{what} in it"
    )


MOST_NAMED = 5
"""Files that an error names."""


def _as_python(path: Path, what: str) -> str:
    if path.suffix == ".ipynb":
        return f"move the {what} into a .py file, which the notebook can import"
    return f"give a file that ends in .py and has a @{what}"


def _import(path: Path) -> ModuleType:
    if "." in path.stem:
        raise UsageError(f"{path} cannot be imported: a module name has no dot", fix="rename the file")
    root, dotted = _module_name(path)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    loaded = sys.modules.get(dotted)
    if loaded is not None:
        return _same_file(loaded, path, dotted)
    spec = importlib.util.find_spec(dotted)
    if spec is None or spec.origin is None or not os.path.samefile(spec.origin, path):
        raise UsageError(
            f"{path} cannot be imported as {dotted}: this name belongs to {spec.origin if spec else 'nothing'}",
            fix="rename the file",
        )
    with _marked(path):
        return _imported(dotted, path)


def _imported(dotted: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except HookeError:
        raise
    except (Exception, SystemExit) as error:
        if (damaged := _damaged_bytecode(error)) is not None:
            Path(damaged).unlink(missing_ok=True)
            return _imported(dotted, path)
        lines = user_frames("".join(traceback.format_exception(error)))
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        raise UsageError(
            f"{path} cannot be imported: {type(error).__name__}: {error}",
            why="\n".join(lines),
            fix=missing_module_fix(missing) if missing else _fix_of_import(error),
        ) from error


_NO_SUCH_NAME = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def _fix_of_import(error: BaseException) -> str:
    """How to correct code that raised while it was imported."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"correct line {error.lineno} of {shorten_path(str(error.filename))}"
    text = str(error)
    if isinstance(error, ImportError) and "partially initialized module" in text:
        return (
            "two modules import each other: move one of the imports into the function that needs it, "
            "or what both need into a third module"
        )
    if isinstance(error, ImportError) and (lacking := _NO_SUCH_NAME.match(text)):
        module = sys.modules.get(lacking[2])
        meant = did_you_mean(lacking[1], getattr(module, "__all__", dir(module)))
        return meant.rstrip() or f"import a name that {lacking[2]} has"
    return "correct the file; nothing has run yet"


def _damaged_bytecode(error: BaseException) -> str | None:
    """The file in `__pycache__` because of which an import failed, if it did: Python keeps what a full disk has cut short, and fails from then on."""
    if not isinstance(error, EOFError | ValueError):
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_compile_bytecode" and "importlib" in frame.f_code.co_filename:
            found: str | None = frame.f_locals.get("bytecode_path")
            return (
                found
                if found is not None and os.path.exists(found) and os.access(Path(found).parent, os.W_OK)
                else None
            )
    return None


def _same_file(module: ModuleType, path: Path, dotted: str) -> ModuleType:
    file = getattr(module, "__file__", None)
    if file is None or not os.path.samefile(file, path):
        raise UsageError(
            f"{path} cannot be imported as {dotted}: a module of this name is already loaded from {file}",
            fix="rename the file",
        )
    return module


def _module_name(path: Path) -> tuple[Path, str]:
    """The folder for sys.path, and the dotted name: parent folders with an __init__.py are packages."""
    parts, folder = [path.stem], path.parent
    if path.name == "__init__.py":  # the module is the package itself
        parts.pop()
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


# --- The hash of a service's code, which tells whether a measurement was made with the current code.


def code_of(made_by: type) -> str:
    """A hash of the class and everything it reaches; empty if no reliable hash is possible."""
    try:
        return fingerprint_code(made_by).key
    except NotFingerprintable:
        return ""
