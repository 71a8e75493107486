"""Which source an import runs: pinned modules as they were when a run began, all others as their files are now."""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import cache_from_source, decode_source, find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

import msgspec

__all__ = ["LARGEST", "PinnedModule", "import_edited", "import_pinned", "pin_modules"]


class PinnedModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module's name and the bytes of its source."""

    name: str
    file: str
    source: bytes
    package: bool = False


LARGEST = 1 << 20
"""Bytes: a larger file that only a function would import is data, and is not pinned."""
MOST = 4096
"""Of modules that are not imported yet, so many are pinned at most: a computed name may mean each of a folder."""


def pin_modules(own: Callable[[str], bool]) -> tuple[PinnedModule, ...]:
    """The modules whose source file is `own`, by name: the imported ones, those pinned already, and those that their functions would import.

    The last are found in the source of the others and of the script, and nothing is imported for that. A name computed at run time stands for each
    module of the package that it begins with, or beside the file. At most MOST of at most LARGEST bytes are pinned.

    A module whose `__file__` is not the absolute path of a file is not pinned: that of `torch.classes` is `_classes.py`, and below
    the working directory it would look like a file of the project. Raises OSError for a file that cannot be read.
    """
    found: dict[str, PinnedModule] = {}
    for name, module in list(sys.modules.items()):
        loader = getattr(module, "__loader__", None)
        if type(loader) is _Loader:
            found[name] = loader.kept
        elif name != "__main__" and _is_source(file := getattr(module, "__file__", None), own):
            source, package = Path(file).read_bytes(), hasattr(module, "__path__")
            found[name] = PinnedModule(name=name, file=file, source=source, package=package)
    imported = [found[name] for name in sorted(found)]
    return (*imported, *_Unimported(own).below([*_script(own), *imported]))


def _script(own: Callable[[str], bool]) -> Iterator[PinnedModule]:
    """The script, as the module of its package that it would be."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    file = os.path.abspath(file) if isinstance(file, str) else file
    if _is_source(file, own):
        name = f"{getattr(main, '__package__', '') or ''}.__main__".removeprefix(".")
        yield PinnedModule(name=name, file=file, source=Path(file).read_bytes())


# --- The modules that source would import later: found without running any.

_LATER = re.compile(rb"\n[ \t]+(?:from|import)\b|[:;][ \t]*(?:from|import)\b")
_IMPORTERS = ("import_module", "__import__", "resolve_name")


def _imports_later(source: bytes) -> bool:
    """Whether an imported module may import another one later. Its other imports are done."""
    return _LATER.search(source) is not None or any(name.encode() in source for name in _IMPORTERS)


class _Source(NamedTuple):
    """Where a module would come from: its file, if it has one, and the folders of its own modules, if it is a package."""

    file: str | None
    below: Sequence[str] | None


class _Unimported:
    """Finds modules of one's own that are not imported."""

    def __init__(self, own: Callable[[str], bool]) -> None:
        self._own = own
        self._sources: dict[str, _Source | None] = {}
        self._listed: set[tuple[str, str]] = set()
        """Folders and packages whose modules were listed."""

    def below(self, modules: Sequence[PinnedModule]) -> list[PinnedModule]:
        """Those that the source of imported `modules` would import, and those that these would."""
        found: dict[str, PinnedModule] = {}
        names = {each.name for each in modules}
        todo = [each for each in modules if _imports_later(each.source)]
        while todo and len(found) < MOST:
            for name in self._names(todo.pop()):
                new = None if name in names else self._module(name)
                names.add(name)
                if new is not None:
                    found[name] = new
                    todo.append(new)
        return [found[name] for name in sorted(found)]

    def _names(self, module: PinnedModule) -> Iterator[str]:
        for name in _imports(module):
            if not name.endswith("*"):
                yield name
                continue
            folder, package = _folder_of(module.file), name.removesuffix("*").removesuffix(".")
            if (folder, package) not in self._listed:
                self._listed.add((folder, package))
                yield from _beside(folder, package)

    def _module(self, name: str) -> PinnedModule | None:
        """The module, if it is one's own and not imported."""
        source = self._source(name) if name not in sys.modules else None
        file = source.file if source is not None else None
        if source is None or not _is_source(file, self._own) or os.path.getsize(file) > LARGEST:
            return None
        return PinnedModule(
            name=name, file=file, source=Path(file).read_bytes(), package=source.below is not None
        )

    def _source(self, name: str) -> _Source | None:
        if name not in self._sources:
            above, _, last = name.rpartition(".")
            found = self._source(above) if above and name not in sys.modules else None
            if not above or name in sys.modules:
                self._sources[name] = _top_source(name)
            else:
                self._sources[name] = _source_below(found.below or (), last) if found is not None else None
        return self._sources[name]


def _top_source(name: str) -> _Source | None:
    """The source of a module that is imported, or that is in no package."""
    try:
        spec = find_spec(name)  # which imports the packages above, and there are none
    except (ImportError, ValueError):
        return None
    below = spec.submodule_search_locations if spec is not None else None
    return _Source(spec.origin, list(below) if below is not None else None) if spec is not None else None


def _source_below(folders: Sequence[str], name: str) -> _Source | None:
    """The source of a module in one of a package's folders, by importlib's rules."""
    spaces = []
    for path in (os.path.join(folder, name) for folder in folders):
        if os.path.isfile(file := os.path.join(path, "__init__.py")):
            return _Source(file, [path])
        if os.path.isfile(f"{path}.py"):
            return _Source(f"{path}.py", None)
        if os.path.isdir(path):
            spaces.append(path)
    return _Source(None, spaces) if spaces else None


_IMPORT = re.compile(r"import(?=[ \t]*(\([^)]*\)|(?:[^\n;#\\]|\\\n)*))")
_BEFORE = re.compile(r"(?:.*[:;])?[ \t]*(?:from[ \t]+([.\w]+)[ \t]+|from[ \t]+(\.+))?")
"""What precedes `import` in its line."""
_CALL = re.compile(rf"(?:{'|'.join(_IMPORTERS)})\([ \t\n]*(?:(f?)([\"'])([^\"'{{\n]*)(\2[ \t\n]*[,)])?)?")


def _imports(module: PinnedModule) -> Iterator[str]:
    """The names of the modules that it may import, with the packages above them, and of attributes that may be modules.

    `package.*` stands for names that are computed. By regular expressions, since parsing takes twenty times as long: what only looks like
    an import, as in a docstring, costs a look for its file.
    """
    try:
        text = decode_source(module.source)
    except (SyntaxError, UnicodeDecodeError):
        return  # its import fails, too
    package = module.name if module.package else module.name.rpartition(".")[0]
    for name in {*_stated(text, package), *_called(text, package)}:
        parts = name.split(".")
        yield from (".".join(parts[: length + 1]) for length in range(len(parts)))


def _stated(text: str, package: str) -> Iterator[str]:
    for found in _IMPORT.finditer(text):
        before = _BEFORE.fullmatch(text, text.rfind("\n", 0, found.start()) + 1, found.start())
        if before is None:
            continue
        source = before[1] or before[2]
        above = _absolute(source, package) if source else ""
        for each in re.sub(r"#.*|[()\\*]", "", found[1]).split(","):
            name = (each.split() or [""])[0]
            yield f"{above}.{name}".strip(".")


def _called(text: str, package: str) -> Iterator[str]:
    if not any(name in text for name in _IMPORTERS):
        return
    for found in _CALL.finditer(text):
        name = _absolute((found[3] or "").partition(":")[0], package)
        yield name if found[4] and not found[1] else f"{name.rpartition('.')[0]}.*".removeprefix(".")


def _absolute(name: str, package: str) -> str:
    """The name, which is relative if it begins with dots; empty if it leads above all packages."""
    dots = len(name) - len(name.lstrip("."))
    above = package.split(".")
    if not dots or dots > len(above):
        return name if not dots else ""
    return ".".join([*above[: len(above) - dots + 1], name[dots:]]).strip(".")


def _folder_of(file: str) -> str:
    """The folder of a file, or the one above the packages that it is in."""
    folder = os.path.dirname(file)
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder = os.path.dirname(folder)
    return folder


def _beside(folder: str, package: str) -> Iterator[str]:
    """The names of the modules of a package in the folder, or of all modules and packages there."""
    below = os.path.join(folder, *package.split(".")) if package else folder
    for place, folders, files in os.walk(below):
        folders[:] = sorted(
            name for name in folders if os.path.exists(os.path.join(place, name, "__init__.py"))
        )
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.relpath(os.path.join(place, name), folder).removesuffix(".py")
                yield path.removesuffix("__init__").strip(os.sep).replace(os.sep, ".")


def _is_source(file: object, own: Callable[[str], bool]) -> TypeGuard[str]:
    """Whether it is the path of a source file that is one's own. Most modules are others': only then is the disk asked."""
    if not isinstance(file, str) or not own(file):
        return False
    return file.endswith(".py") and os.path.isabs(file) and os.path.isfile(file)


def import_pinned(modules: Iterable[PinnedModule]) -> None:
    """From now on this process imports the pinned source; tracebacks, and who reads it by `linecache`, see its lines.

    What was pinned before is not any more.
    """
    for finder in [each for each in sys.meta_path if isinstance(each, _Finder)]:
        sys.meta_path.remove(finder)
        for kept in finder.modules.values():
            linecache.cache.pop(kept.file, None)
    pinned = {each.name: each for each in modules}
    sys.meta_path.insert(0, _Finder(pinned))
    for kept in pinned.values():
        try:
            lines = decode_source(kept.source).splitlines(keepends=True)
        except (SyntaxError, UnicodeDecodeError):
            continue  # its import says so
        if lines and not lines[-1].endswith(
            "\n"
        ):  # as linecache does, so that `inspect.getsource` is everywhere the same
            lines[-1] += "\n"
        linecache.cache[kept.file] = (len(kept.source), None, lines, kept.file)  # None: not looked at anew


class _Finder(MetaPathFinder):
    def __init__(self, modules: Mapping[str, PinnedModule]) -> None:
        self.modules = modules

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002 - importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        kept = self.modules.get(fullname)
        if kept is None:
            return None
        below = [str(Path(kept.file).parent)] if kept.package else None
        return spec_from_file_location(
            fullname, kept.file, loader=_Loader(kept), submodule_search_locations=below
        )


class _Loader(SourceFileLoader):
    def __init__(self, kept: PinnedModule) -> None:
        super().__init__(kept.name, kept.file)
        self.kept = kept

    def path_stats(self, path: str) -> Mapping[str, object]:  # noqa: ARG002
        """Raise OSError, so that no cached bytecode of the changed file is used."""
        raise OSError

    def get_data(self, path: str) -> bytes:
        return self.kept.source if path == self.kept.file else super().get_data(path)


# --- An edit within the second, which Python may miss: it takes bytecode for that of a source of the same size and the same second.

TICK_S = 0.02
"""File systems write times in steps of up to 10 ms."""
_INSTALLED = (os.path.join(sys.prefix, "lib"), os.path.dirname(os.__file__))
"""Nobody edits modules there within a second."""
_path_stats = SourceFileLoader.path_stats


def import_edited() -> None:
    """From now on this process compiles a module anew whose source was written after its bytecode, and replaces that."""
    SourceFileLoader.path_stats = _stats_for_bytecode  # pyrefly: ignore[method-assign]


def _stats_for_bytecode(self: SourceFileLoader, path: str) -> Mapping[str, Any]:
    """As of `SourceFileLoader`, with a size that no bytecode has where the source is the newer of the two."""
    stats: Mapping[str, Any] = _path_stats(self, path)
    if path.startswith(_INSTALLED):
        return stats
    try:
        compiled = os.stat(cache_from_source(path)).st_mtime
    except (OSError, NotImplementedError):  # there is none, or this Python keeps none
        return stats
    return {**stats, "size": -1} if stats["mtime"] > compiled - TICK_S else stats
