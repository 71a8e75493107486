"""Hooke's extras from its package metadata, and which of their packages are installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = ["Extra", "extras"]

FOR_US = frozenset({"bench", "dev", "docs", "tests"})
"""Extras for the development of Hooke."""

_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;]*;.*\bextra\s*==\s*['"](?P<extra>[\w-]+)['"]""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An extra: its packages, each with the installed version or None."""

    name: str
    packages: dict[str, str | None]

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name, installed in self.packages.items() if installed is None]

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f'pip install "hooke[{self.name}]"'


def extras() -> list[Extra]:
    """The extras for users, by name."""
    found: dict[str, dict[str, str | None]] = {}
    for line in requires("hooke") or ():
        match = _REQUIREMENT.match(line)
        if match and match["extra"] not in FOR_US:
            found.setdefault(match["extra"], {})[match["name"]] = _installed(match["name"])
    return [Extra(name=name, packages=packages) for name, packages in sorted(found.items())]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
