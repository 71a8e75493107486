"""Readers and writers that open files by code of their own, which Python doesn't see: their functions say which paths they get.

A library is wrapped when a task, or a module of the user's, imports it. The wrapped function stands for itself in keys and pickles.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hooke.pipeline.observation import note_missing, note_path, note_processes

__all__ = ["AfterImport", "noting_missing", "watch_libraries"]


class AfterImport:
    """A module finder that finds nothing itself: it calls `then` with one of the modules `names` as soon as that is imported."""

    def __init__(self, names: Container[str], then: Callable[[ModuleType], None]) -> None:
        self._names = names
        self._then = then
        self._looking: set[str] = set()

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the later finders, whose loader calls `then`."""
        if name not in self._names or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.discard(name)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._then(module)

        loader.exec_module = exec_module


_POLARS = (
    "read_avro read_csv read_csv_batched read_delta read_excel read_ipc read_ipc_schema read_ipc_stream read_json read_lines "
    "read_ndjson read_ods read_parquet read_parquet_metadata read_parquet_schema scan_csv scan_delta scan_ipc scan_lines "
    "scan_ndjson scan_parquet"
)

_DUCKDB_FILES = "read_csv read_json read_parquet from_csv_auto from_parquet from_arrow"
_DUCKDB_SQL = "sql query execute executemany from_query query_df"

_FUNCTIONS: dict[str, str] = {
    "polars": _POLARS,
    "pyarrow": "memory_map input_stream",
    "pyarrow.csv": "read_csv open_csv",
    "pyarrow.dataset": "dataset parquet_dataset",
    "pyarrow.feather": "read_feather read_table",
    "pyarrow.json": "read_json open_json",
    "pyarrow.orc": "read_table",
    "pyarrow.parquet": "read_metadata read_pandas read_schema read_table",
    "duckdb": f"{_DUCKDB_FILES} {_DUCKDB_SQL} connect",
    "safetensors": "safe_open",
    "safetensors.numpy": "load_file",
    "safetensors.torch": "load_file load_model safe_open",
}
"""Module -> functions whose first argument is a path, a list of paths, a folder or a pattern (of DuckDB: or SQL that names such)."""

_CLASSES: dict[str, str] = {
    "pyarrow.orc": "ORCFile.__init__",
    "pyarrow.parquet": "ParquetFile.__init__ ParquetDataset.__init__",
    "pyarrow.parquet.core": "ParquetFile.__init__ ParquetDataset.__init__",
    "h5py": "File.__init__",
    "duckdb": " ".join(f"DuckDBPyConnection.{name}" for name in f"{_DUCKDB_FILES} {_DUCKDB_SQL}".split()),
}
"""Module -> methods whose first argument after `self` is one."""

_WRITERS: dict[str, str] = {
    "polars": " ".join(
        [
            f"DataFrame.write_{name}"
            for name in ["avro", "csv", "ipc", "ipc_stream", "json", "ndjson", "parquet"]
        ]
        + [f"LazyFrame.sink_{name}" for name in ["csv", "ipc", "ndjson", "parquet"]]
    ),
    "pyarrow.parquet": "ParquetWriter.__init__",
    "pyarrow.parquet.core": "ParquetWriter.__init__",
}
"""Module -> methods whose first argument after `self` is the file that they write."""

_SUBCLASSED: dict[str, str] = {
    "pyarrow": "OSFile.__init__",
    "pyarrow.fs": "LocalFileSystem.open_input_file LocalFileSystem.open_input_stream",
}
"""Module -> methods of classes written in C, which a subclass of the same name must have."""

_STARTERS: dict[str, str] = {"joblib.parallel": "Parallel.__call__", "multiprocessing.util": "spawnv_passfds"}
"""Module -> what gives work to Python processes that are not forked."""

_WATCHED = _FUNCTIONS.keys() | _CLASSES.keys() | _WRITERS.keys() | _SUBCLASSED.keys() | _STARTERS.keys()


class _Wrapped:
    """A function that notes the paths that it gets. It counts and travels as the function itself."""

    def __init__(self, module: str, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._place = module, name
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _note(self._function, args, kwargs)
        return self._function(*args, **kwargs)

    def __hooke_code__(self) -> Callable[..., Any]:
        return self._function

    def __reduce__(self) -> tuple[Any, ...]:
        return _named, self._place

    def __repr__(self) -> str:
        return repr(self._function)


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_PATHS = (
    "source",
    "sources",
    "file",
    "path",
    "path_or_paths",
    "where",
    "input_file",
    "filename",
    "name",
    "database",
    "file_glob",
)


def _note(function: Any, args: Sequence[Any], kwargs: dict[str, Any], mode: str | None = None) -> None:
    """`mode`: that in which the function always opens the file; None if an argument may say it."""
    values = [*args[:1], *(kwargs[name] for name in _PATHS if name in kwargs)]
    mode = mode or _mode(args, kwargs)
    if _is_duckdb(function) and getattr(function, "__name__", "") == "connect":
        mode = "r" if kwargs.get("read_only") else "a"
    for value in values:
        for path in _quoted(value) if isinstance(value, str) and _is_duckdb(function) else [value]:
            note_path(path, mode)


_MODE = re.compile(r"r|rb|r\+b?|rb\+|[wxa]b?|w-")


def _mode(args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """The mode in which the first argument is opened."""
    for value in (*args[1:2], kwargs.get("mode")):
        if isinstance(value, str) and _MODE.fullmatch(value):
            return value
    return "r"


def _is_duckdb(function: Any) -> bool:
    return (
        str(getattr(function, "__module__", "") or getattr(function, "__objclass__", "")).find("duckdb") >= 0
    )


_QUOTED = re.compile(r"'((?:[^']|'')+)'|\"([^\"]+)\"")


def _quoted(text: str) -> Iterator[str]:
    """What SQL may mean as a file: the text itself, and each part of it in quotation marks."""
    if " " not in text.strip():
        yield text
    for match in _QUOTED.finditer(text):
        yield (match[1] or match[2]).replace("''", "'")


def _wrap(module: ModuleType) -> None:
    name = module.__name__
    for function in _FUNCTIONS.get(name, "").split():
        found = getattr(module, function, None)
        if callable(found) and not isinstance(found, _Wrapped):
            setattr(module, function, _Wrapped(name, function, found))
    for places, mode in ((_CLASSES, None), (_WRITERS, "w")):
        for place in places.get(name, "").split():
            owner, _, method = place.partition(".")
            _wrap_method(getattr(module, owner, None), method, mode)
    for place in _STARTERS.get(name, "").split():
        owner, _, method = place.rpartition(".")
        _wrap_starter(getattr(module, owner) if owner else module, method)
    for place in _SUBCLASSED.get(name, "").split():
        owner, _, method = place.partition(".")
        kind = getattr(module, owner, None)
        if kind is not None:
            setattr(module, owner, _subclassed(kind, method))


def _wrap_method(kind: Any, name: str, mode: str | None) -> None:
    method = getattr(kind, name, None)
    if method is None or hasattr(method, "__hooke_wrapped__"):
        return

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        _note(method, args, kwargs, mode)
        return method(self, *args, **kwargs)

    wrapped.__hooke_wrapped__ = method  # type: ignore[attr-defined]
    setattr(kind, name, wrapped)


def _wrap_starter(owner: Any, name: str) -> None:
    starter = getattr(owner, name, None)
    if starter is None or hasattr(starter, "__hooke_wrapped__"):
        return

    @functools.wraps(starter)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        note_processes()
        return starter(*args, **kwargs)

    wrapped.__hooke_wrapped__ = starter  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


class _Same(type):
    """The class of a stand-in: objects of the original are its instances, too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__mro__[1])

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.__mro__[1])


def _subclassed(kind: Any, method: str) -> Any:
    if not isinstance(kind, _Same):
        kind = _Same(
            kind.__name__, (kind,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        )
    inherited = getattr(kind, method)

    def wrapped(self: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        note_path(path, _mode((path, *args), kwargs))
        if method == "__init__":
            return None  # `__cinit__` has it already
        return inherited(self, path, *args, **kwargs)

    setattr(kind, method, wrapped)
    return kind


_after_import: Any = AfterImport(_WATCHED, _wrap)


def watch_libraries() -> None:
    """Wrap the readers of libraries, now or when they are imported; once a process."""
    if _after_import in sys.meta_path:
        return
    sys.meta_path.insert(0, _after_import)
    for name in _WATCHED:
        if name in sys.modules:
            _wrap(sys.modules[name])


# --- What is not there: `os.path.exists`, `glob` and others ask by `os.stat`, of which Python tells nothing.

_plain_stat: Any = os.stat
_plain_lstat: Any = os.lstat


@functools.wraps(_plain_stat)
def _stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
    """`os.stat` while an attempt runs: says what is not there, which `os.path.exists` and `glob` ask for."""
    try:
        found: os.stat_result = _plain_stat(path, *args, **options)
    except (FileNotFoundError, NotADirectoryError):
        note_missing(path)
        raise
    return found


@functools.wraps(_plain_lstat)
def _lstat(path: Any, *args: Any, **options: Any) -> os.stat_result:
    try:
        found: os.stat_result = _plain_lstat(path, *args, **options)
    except (FileNotFoundError, NotADirectoryError):
        note_missing(path)
        raise
    return found


for _supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
    _supported.update(
        new for new, plain in ((_stat, _plain_stat), (_lstat, _plain_lstat)) if plain in _supported
    )


def noting_missing(*, on: bool) -> None:
    """Whether `os.stat` and `os.lstat` say what is not there."""
    os.stat, os.lstat = (_stat, _lstat) if on else (_plain_stat, _plain_lstat)
