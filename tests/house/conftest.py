"""Where things lie, for the tests of the house itself."""

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
