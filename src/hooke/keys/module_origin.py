"""The origin of a module: the project, the standard library, or an installed distribution and its version."""

from __future__ import annotations

import functools
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from hooke.base.distributions import normal_name
from hooke.base.user_code import module_of_method

__all__ = ["PYTHON", "ModuleOrigin", "library_of_method", "origin_of", "project_root"]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}" + ("", " -O", " -OO")[sys.flags.optimize]
"""The version of Python and `-O`: bytecode and the standard library depend on the version, `assert` on `-O`."""

_MARKERS = (("hooke.toml",), ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".hg"))


class ModuleOrigin(msgspec.Struct, frozen=True, kw_only=True):
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
    return _origin(module.partition(".")[0], file)


def library_of_method(value: Any) -> str | None:
    """The module outside the project that offers a bound method as its function, if there is one.

    Such a method counts as the library's, because its object's state, such as that of a random generator, differs in
    each process.
    """
    module = module_of_method(value)
    if module is None or origin_of(module, getattr(sys.modules[module], "__file__", None)).local:
        return None
    return module


@functools.lru_cache(maxsize=16384)
def _origin(top: str, file: str | None) -> ModuleOrigin:
    if top in {"hooke", __name__.partition(".")[0]}:
        return OURS
    if not file:
        known = top in sys.builtin_module_names or top in sys.stdlib_module_names
        return STANDARD if known and top != "__main__" else LOCAL
    # The file itself may be a link into an installer's cache; its folder tells where it belongs.
    folder, name = os.path.split(file)
    folder = _real(folder)
    if top != "__main__":
        for root in _roots(top, folder, name):
            owner = _root(root).owner(os.path.join(folder, name)[len(root) :].lstrip(os.sep))
            if owner is not None:
                return owner
    return STANDARD if _is_standard(folder) else LOCAL


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


@functools.lru_cache(maxsize=4096)
def _is_standard(folder: str) -> bool:
    paths = sysconfig.get_paths()
    roots = [os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib")]
    return f"{folder}{os.sep}".startswith(tuple(roots)) and not _LIBRARIES.intersection(folder.split(os.sep))


# --- Installed distributions: those whose list of files, in the same folder, has the module's file.

_LIBRARIES = frozenset({"site-packages", "dist-packages"})


def _roots(top: str, folder: str, name: str) -> Iterator[str]:
    """The folders above a module's file that may be where its distribution was installed: the nearest first."""
    while name:
        if name.partition(".")[0] == top or os.path.basename(folder) in _LIBRARIES:
            yield folder
        folder, name = os.path.split(folder)


class _Root(msgspec.Struct, frozen=True):
    """A folder with the metadata of distributions that were installed into it."""

    folder: str
    metadata: tuple[str, ...]

    def owner(self, file: str) -> ModuleOrigin | None:
        """The distribution here that lists a file; LOCAL if it was installed as editable; None if there is none."""
        top = file.partition(os.sep)[0].partition(".")[0]
        for each in self._candidates(top):
            if file in _listed(self.folder, each):
                return _distribution(self.folder, each)
        return self._unlisted(top)

    def _candidates(self, top: str) -> Iterator[str]:
        """The metadata named after a top-level module, then the others that list files of it."""
        yield from _by_name(self.metadata).get(normal_name(top), ())
        yield from _by_top(self.folder, self.metadata).get(top, ())

    def _unlisted(self, top: str) -> ModuleOrigin | None:
        """The distribution of a system's package manager, which leaves out the list: by name, where only such things are.

        A project's own folder may have such metadata too (`*.egg-info` of a build): its code is the project's.
        """
        if os.path.basename(self.folder) not in _LIBRARIES:
            return None
        for name in self.metadata:
            if top in _claimed(self.folder, name) and not _listed(self.folder, name):
                return _distribution(self.folder, name)
        return None


@functools.lru_cache(maxsize=4096)
def _listed(folder: str, name: str) -> Mapping[str, str]:
    record = _text(folder, name, "RECORD")
    if record is not None:
        rows = (line.rsplit(",", 2) for line in record.splitlines())
        return {row[0].strip('"'): row[1] for row in rows if len(row) == 3}
    installed = _text(folder, name, "installed-files.txt") or ""
    return {os.path.normpath(os.path.join(name, each)): "" for each in installed.splitlines()}


def _root(folder: str) -> _Root:
    try:
        return _read_root(folder, os.stat(folder).st_mtime_ns)  # a notebook may install something
    except OSError:
        return _Root(folder, ())


@functools.lru_cache(maxsize=256)
def _read_root(folder: str, _mtime_ns: int) -> _Root:
    names = sorted(os.listdir(folder))
    return _Root(folder, tuple(name for name in names if name.endswith((".dist-info", ".egg-info"))))


@functools.lru_cache(maxsize=64)
def _by_name(metadata: tuple[str, ...]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in metadata:
        found.setdefault(normal_name(name.partition("-")[0]), []).append(name)
    return found


@functools.lru_cache(maxsize=64)
def _by_top(folder: str, metadata: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Top-level module -> the metadata that list files of it. Takes 50 ms for 400 distributions, and reads each list."""
    found: dict[str, list[str]] = {}
    for name in metadata:
        lines = (_text(folder, name, "RECORD") or "\n".join(_listed(folder, name))).split("\n")
        for top in {line.split("/", 1)[0] for line in lines}:
            found.setdefault(top.strip('"').partition(".")[0], []).append(name)
    return found


@functools.lru_cache(maxsize=4096)
def _claimed(folder: str, name: str) -> frozenset[str]:
    """Top-level modules that a distribution without a list of files says that it has."""
    claimed = (_text(folder, name, "top_level.txt") or "").split()
    return frozenset(claimed or [normal_name(name.partition("-")[0].removesuffix(".egg")).replace("-", "_")])


@functools.lru_cache(maxsize=4096)
def _distribution(folder: str, name: str) -> ModuleOrigin:
    """A distribution by its name and version; one from a folder, a file or a repository also by its files.

    Only an index promises that a version stays what it is. What conda installs comes from its channel, although its
    metadata name the folder where it was built. LOCAL for an editable one.
    """
    title, version = _named(folder, name)
    facts: dict[str, Any] = json.loads(_text(folder, name, "direct_url.json") or "{}")
    if facts.get("dir_info", {}).get("editable"):
        return LOCAL
    if facts and (_text(folder, name, "INSTALLER") or "").strip() != "conda":
        files = [
            f"{file},{digest}" for file, digest in _listed(folder, name).items() if _is_content(file, digest)
        ]
        if not files:
            return LOCAL
        version += " " + blake3("\n".join(sorted(files)).encode()).hexdigest(length=8)
    return ModuleOrigin(local=False, distribution=title, version=version)


def _named(folder: str, name: str) -> tuple[str, str]:
    """A distribution's name and version. `importlib.metadata` parses the whole page about it, and takes 6 ms to import."""
    said = _text(folder, name, "METADATA") or _text(folder, name, "PKG-INFO") or _text(folder, name, "") or ""
    fields: dict[str, str] = {}
    for line in said.partition("\n\n")[0].splitlines():
        field, colon, value = line.partition(":")
        if colon:
            fields.setdefault(field.lower(), value.strip())
    return fields.get("name", ""), fields.get("version", "")


def _is_content(file: str, digest: str) -> bool:
    """Whether a file of a distribution is its own, not written by the installer for this machine."""
    return bool(digest) and not file.startswith("..") and ".dist-info/" not in file


def _text(folder: str, name: str, file: str) -> str | None:
    try:
        return Path(folder, name, file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


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
