"""Where things lie, for the tests of the house itself."""

import ast
import gc
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def sources(root: Path) -> list[Path]:
    """Every Python file that is shipped."""
    return sorted((root / "src" / "hooke").rglob("*.py"))


@pytest.fixture(scope="package")
def trees(sources: list[Path]) -> dict[Path, ast.Module]:
    """Their syntax trees. To parse them takes seconds, so all tests that look at them run in one process.

    They are millions of objects that stay to the end, so the garbage collector need not walk them again and again.
    """
    gc.disable()
    parsed = {path: ast.parse(path.read_text("utf-8")) for path in sources}
    gc.enable()
    gc.freeze()
    return parsed


@pytest.fixture(scope="package")
def nodes(trees: dict[Path, ast.Module]) -> dict[Path, list[ast.AST]]:
    """All nodes of each tree."""
    return {path: list(ast.walk(tree)) for path, tree in trees.items()}
