"""Hooke's own distribution (name, version, the commands that install it), and plug-ins of other distributions by entry points."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hooke.base.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["DISTRIBUTION", "HOOKE_VERSION", "Plugins", "install_command", "normal_name", "requirements"]


# --- Hooke's own distribution.

DISTRIBUTION = "hooke-ml"
"""The name in package indexes, where `hooke` is another project."""
HOOKE_VERSION = "0.1.0"
"""The version of this code. The build takes it from here, so it is right without installed metadata, too."""


def install_command(*extras: str, exact: bool = False, upgrade: bool = False) -> str:
    """The command that installs Hooke with `extras`: `exact` in this version, with `upgrade` in the newest one."""
    wanted = f"{DISTRIBUTION}[{','.join(extras)}]" if extras else DISTRIBUTION
    wanted += f"=={HOOKE_VERSION}" if exact else ""
    return f"pip install {'--upgrade ' if upgrade else ''}" + (f'"{wanted}"' if extras else wanted)


def normal_name(name: str) -> str:
    """The name of a distribution as all that compare names write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """What Hooke's metadata requires, one `Requires-Dist` each. Empty if Hooke runs from its source without being installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []


# --- Backends by name, from a table of Hooke's own and from entry points, imported only when they are loaded.


class Plugins:
    """Names of one kind of backend.

    `group` is the entry-point group of other distributions' plug-ins, `builtin` maps Hooke's own names to
    `"module:Class"`, and `extras` maps names that need an optional dependency to its extra. Hooke's own names win
    over entry points of the same name.
    """

    def __init__(
        self, group: str, builtin: Mapping[str, str], extras: Mapping[str, str] | None = None
    ) -> None:
        self.group = group
        self.builtin = dict(builtin)
        self.extras = dict(extras or {})

    @property
    def kind(self) -> str:
        """The kind of backend, from the group: `hooke.engines` -> `engine`."""
        return self.group.rpartition(".")[2].removesuffix("s")

    def names(self) -> list[str]:
        """All names, sorted, whether or not their dependencies are installed."""
        return sorted({*self.builtin, *(point.name for point in self._plugins())})

    def load(self, name: str) -> Any:
        """The object that `name` stands for.

        Raises MissingExtra (with the pip command) if a library is not installed, and UsageError if the name is
        unknown or the plug-in cannot be imported.
        """
        if name in self.builtin:
            return self._load_builtin(name)
        for point in self._plugins():
            if point.name == name:
                return self._load_plugin(point)
        raise UsageError(
            f"there is no {self.kind} named {name!r}", fix=f"valid names: {', '.join(self.names())}"
        )

    def _load_builtin(self, name: str) -> Any:
        module, _, attribute = self.builtin[name].partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            missing, extra = error.name or "", self.extras.get(name)
            # A missing module of Hooke itself is a bug, not something to install.
            if extra is None or missing.partition(".")[0] == "hooke":
                raise
            raise MissingExtra(
                f"the {self.kind} {name!r} needs {missing}, which is not installed",
                why=str(error),
                fix=install_command(extra),
            ) from error

    def _load_plugin(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            distribution = point.dist.name if point.dist is not None else "an installed package"
            raise UsageError(
                f"the {self.kind} {point.name!r} of {distribution} cannot be imported",
                where=f"entry point {point.value} in group {self.group}",
                why=f"{type(error).__name__}: {error}",
                fix=f"install the requirements of {distribution}, or use one of: {', '.join(self.names())}",
            ) from error

    def _plugins(self) -> Iterable[EntryPoint]:
        # Costs 10 ms to import, and `import hooke` reaches this module.
        from importlib.metadata import entry_points

        return entry_points(group=self.group)
