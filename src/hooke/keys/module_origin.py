"""The origin of a module: the project, the standard library, or an installed distribution and its version."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooke.base.user_code import module_of_method

__all__ = ["PYTHON", "ModuleOrigin", "library_of_method", "origin_of", "project_root"]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}" + ("", " -O", " -OO")[sys.flags.optimize]
"""The version of Python and `-O`: bytecode and the standard library depend on the version, `assert` on `-O`."""

_MARKERS = (("hooke.toml",), ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".hg"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleOrigin:
    """`local` modules count by their code, others by `distribution` ("python": standard library) and `version`."""

    local: bool
    distribution: str = ""
    version: str = ""


LOCAL = ModuleOrigin(local=True)
STANDARD = ModuleOrigin(local=False, distribution="python", version=PYTHON)
OURS = ModuleOrigin(local=False, distribution="hooke")
"""Hooke itself, without a version: it does not change a task's call, so its upgrades must not change keys."""


def origin_of(module: str, file: str | None) -> ModuleOrigin:
    """The origin of a module by its name and its file (None: built in, or from a notebook or `exec`)."""
    return _origin(module.partition(".")[0], file and os.path.dirname(file))


def library_of_method(value: Any) -> str | None:
    """The module outside the project that offers a bound method as its function, if there is one.

    Such a method counts as the library's, because its object's state, such as that of a random generator, differs in
    each process.
    """
    module = module_of_method(value)
    if module is None or origin_of(module, getattr(sys.modules[module], "__file__", None)).local:
        return None
    return module


@functools.lru_cache(maxsize=4096)
def _origin(top: str, folder: str | None) -> ModuleOrigin:
    if top in {"hooke", __name__.partition(".")[0]}:
        return OURS
    if folder is None:
        known = top in sys.builtin_module_names or top in sys.stdlib_module_names
        return STANDARD if known and top != "__main__" else LOCAL
    folder = os.path.realpath(folder)
    root = next((root for root in _installed_roots() if _inside(folder, root)), None)
    if root is None and _inside(folder, *_library_roots()):
        return STANDARD
    if root is None:
        root = _target_root(top, folder)
    return (_distribution(top) or LOCAL) if root else LOCAL


def _inside(folder: str, *roots: str) -> bool:
    return any(folder == root or folder.startswith(root + os.sep) for root in roots)


@functools.lru_cache(maxsize=1)
def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({os.path.realpath(paths[name]) for name in ("stdlib", "platstdlib")})


@functools.lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths["purelib"], paths["platlib"], *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        roots.add(site.getusersitepackages())
    roots |= {path for path in sys.path if path.rstrip(os.sep).endswith(("site-packages", "dist-packages"))}
    return tuple(sorted((os.path.realpath(root) for root in roots), key=len, reverse=True))


def _target_root(top: str, folder: str) -> str | None:
    """The folder of a `pip install --target`, which has the package's metadata, or None."""
    root = Path(folder)
    while root.name and root.name != top and (root / "__init__.py").exists():
        root = root.parent
    root = root.parent if root.name == top else root
    try:
        names = os.listdir(root)
    except OSError:
        return None
    return str(root) if any(name.endswith((".dist-info", ".egg-info")) for name in names) else None


@functools.lru_cache(maxsize=4096)
def _distribution(top: str) -> ModuleOrigin | None:
    """The distribution of a top-level module; None if it is editable or there is none."""
    own = _find(top)
    # Several distributions may share a namespace package: then all of them count.
    names = [] if own else sorted(set(_by_module().get(top, ())))
    found = [own] if own else [each for name in names if (each := _find(name)) is not None]
    if not found or any(map(_editable, found)):
        return None
    title = "+".join(each.metadata["Name"] for each in found)
    return ModuleOrigin(local=False, distribution=title, version="+".join(each.version for each in found))


def _find(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


@functools.lru_cache(maxsize=1)
def _by_module() -> Mapping[str, list[str]]:
    # Takes half a second, so only for modules that are not named like their distribution.
    return importlib.metadata.packages_distributions()


def _editable(found: importlib.metadata.Distribution) -> bool:
    facts: dict[str, Any] = json.loads(found.read_text("direct_url.json") or "{}")
    return bool(facts.get("dir_info", {}).get("editable"))


@functools.lru_cache(maxsize=1024)
def project_root(file: str) -> str:
    """The project of a file: the nearest parent folder with hooke.toml, else with a project file, else its own folder."""
    above = [Path(os.path.realpath(file)).parent, *Path(os.path.realpath(file)).parent.parents]
    for names in _MARKERS:
        for folder in above:
            if any((folder / name).exists() for name in names):
                return str(folder)
    while (above[0] / "__init__.py").exists() and len(above) > 1:
        above.pop(0)
    return str(above[0])
