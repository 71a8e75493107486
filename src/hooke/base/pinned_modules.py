"""Pinned modules: a process that starts later imports the source as it was pinned, even if the file has changed."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import decode_source, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import msgspec

__all__ = ["PinnedModule", "import_pinned", "pin_modules"]


class PinnedModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module's name and the bytes of its source."""

    name: str
    file: str
    source: bytes
    package: bool = False


def pin_modules(own: Callable[[Path], bool]) -> tuple[PinnedModule, ...]:
    """The imported modules whose source file is `own`, by name, and modules that are pinned already.

    A module whose `__file__` is not the absolute path of a file is not pinned: that of `torch.classes` is `_classes.py`, and below
    the working directory it would look like a file of the project. Raises OSError for a file that cannot be read.
    """
    found: list[PinnedModule] = []
    for name, module in sorted(sys.modules.items()):
        file, loader = getattr(module, "__file__", None), getattr(module, "__loader__", None)
        if isinstance(loader, _Loader):
            found.append(loader.kept)
        elif name != "__main__" and _is_source(file) and own(Path(file)):
            source = Path(file).read_bytes()
            found.append(
                PinnedModule(name=name, file=file, source=source, package=hasattr(module, "__path__"))
            )
    return tuple(found)


def _is_source(file: object) -> TypeGuard[str]:
    return isinstance(file, str) and file.endswith(".py") and os.path.isabs(file) and os.path.isfile(file)


def import_pinned(modules: Iterable[PinnedModule]) -> None:
    """From now on this process imports the pinned source, and tracebacks show its lines. What was pinned before is not any more."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    sys.meta_path.insert(0, _Finder({each.name: each for each in modules}))


class _Finder(MetaPathFinder):
    def __init__(self, modules: Mapping[str, PinnedModule]) -> None:
        self._modules = modules

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002 - importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        kept = self._modules.get(fullname)
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
        lines = decode_source(kept.source).splitlines(keepends=True)
        linecache.cache[kept.file] = (len(kept.source), None, lines, kept.file)  # None: not looked at anew

    def path_stats(self, path: str) -> Mapping[str, object]:  # noqa: ARG002
        """Raise OSError, so that no cached bytecode of the changed file is used."""
        raise OSError

    def get_data(self, path: str) -> bytes:
        return self.kept.source if path == self.kept.file else super().get_data(path)
