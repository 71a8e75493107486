"""The tests of a module: those that import it, themselves or through files of tests/, and those of the folder named like its own.

Imports are read from the syntax trees of tests/. A name of `hooke` or of another package that loads its names lazily counts as an
import of the module that has it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["TestGraph", "module_of"]


def module_of(path: str) -> str:
    """`hooke.store.claims` of src/hooke/store/claims.py."""
    return path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@dataclass(slots=True)
class TestGraph:
    """Which file of tests/ under `root` imports which module of `package`."""

    __test__ = False
    root: Path
    package: str = "hooke"
    _imports: dict[Path, set[str]] = field(default_factory=dict)
    _exports: dict[str, dict[str, str]] = field(default_factory=dict)

    def tests_of(self, path: str) -> list[str]:
        """Test files for a file of src/, relative to the root: direct importers, then indirect ones, then the folder's."""
        module = module_of(path)
        tests = sorted((self.root / "tests").rglob("test_*.py"))
        direct = [each for each in tests if module in self._imports_of(each)]
        indirect = [each for each in tests if module in self._reached(each)]
        found = dict.fromkeys(sorted(direct, key=lambda each: self._rank(each, path)))
        found.update(dict.fromkeys(sorted(indirect, key=lambda each: self._rank(each, path))))
        found.update(dict.fromkeys(self._same_folder(path)))
        return [each.relative_to(self.root).as_posix() for each in found]

    def _rank(self, test: Path, path: str) -> tuple[bool, bool, int, Path]:
        """Tests named like the module come first, then those of its folder, then those that import little."""
        own, folder = Path(path).stem, Path(path).parent.name
        return own not in test.stem, folder != test.parent.name, len(self._imports_of(test)), test

    def _same_folder(self, path: str) -> list[Path]:
        """The tests in the innermost folder of tests/ that is named like the module's."""
        folder = Path(*Path(path).parent.parts[2:])
        while folder.parts and not (self.root / "tests" / folder).is_dir():
            folder = folder.parent
        return sorted((self.root / "tests" / folder).rglob("test_*.py")) if folder.parts else []

    def _reached(self, test: Path) -> set[str]:
        """Modules of the package that a test imports, through other files of tests/ too."""
        seen, waiting, found = {test}, [test], set[str]()
        while waiting:
            names = self._imports_of(waiting.pop())
            found |= names
            for name in names:
                helper = self._file_of(name)
                if helper is not None and helper not in seen:
                    seen.add(helper)
                    waiting.append(helper)
        return found

    def _file_of(self, name: str) -> Path | None:
        """The file of a module of tests/."""
        if not name.startswith("tests."):
            return None
        file = self.root.joinpath(*name.split(".")).with_suffix(".py")
        return file if file.is_file() else None

    def _imports_of(self, file: Path) -> set[str]:
        if file not in self._imports:
            tree = ast.parse(file.read_bytes())
            self._imports[file] = set(self._read_imports(tree)) | set(self._conftests(file))
        return self._imports[file]

    def _conftests(self, file: Path) -> Iterator[str]:
        """The conftest.py of a test's folders, but not that of tests/ itself, which would make each test import the same."""
        if file.name != "conftest.py":
            for folder in file.relative_to(self.root).parents:
                if len(folder.parts) > 1 and (self.root / folder / "conftest.py").is_file():
                    yield ".".join((*folder.parts, "conftest"))

    def _read_imports(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=names):
                    for each in names:
                        yield each.name
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    for each in names:
                        yield from self._resolve(module, each.name)
                case ast.Attribute(value=ast.Name(id=self.package), attr=name):
                    yield from self._resolve(self.package, name)

    def _resolve(self, module: str, name: str) -> Iterator[str]:
        """The modules that `from module import name` imports."""
        yield module
        top = module.partition(".")[0]
        if top == "tests":
            yield f"{module}.{name}"
        elif top == self.package:
            if self._source(f"{module}.{name}") is not None:
                yield f"{module}.{name}"
            elif source := self._exports_of(module).get(name):
                yield source

    def _source(self, module: str) -> Path | None:
        place = self.root.joinpath("src", *module.split("."))
        return next(
            (each for each in (place / "__init__.py", place.with_suffix(".py")) if each.is_file()), None
        )

    def _exports_of(self, module: str) -> dict[str, str]:
        """The names that a package passes on, and their modules: from its imports, also those under `TYPE_CHECKING`."""
        if module not in self._exports:
            source = self._source(module)
            names: dict[str, str] = {}
            if source is not None and source.name == "__init__.py":
                for node in ast.walk(ast.parse(source.read_bytes())):
                    if isinstance(node, ast.ImportFrom) and node.module:
                        names.update({each.asname or each.name: node.module for each in node.names})
            self._exports[module] = names
        return self._exports[module]
