"""Reads modules: by the attribute chain that code uses, as a whole if the module escapes, or all imported modules."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from blake3 import blake3
from msgspec.structs import replace

from hooke.keys.bytecode import Chain, Import, Reference, module_digest
from hooke.keys.code_walk import CodeWalk
from hooke.keys.fingerprint_parts import FingerprintPart
from hooke.keys.module_origin import ModuleOrigin, origin_of

__all__ = [
    "follow_chain",
    "global_part",
    "import_folder",
    "imports_any",
    "module_file",
    "module_title",
    "reach_imported",
    "reach_module",
    "reach_subclasses",
    "watch",
]

_OPENING = {
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "builtins.globals",
    "importlib.import_module",
    "importlib.__import__",
    "sys.modules",
    "pkgutil.resolve_name",
}
"""Names that can reach any module."""
_SESSION = frozenset({"In", "Out", "get_ipython", "exit", "quit", "open"})
"""IPython's own names in a notebook's namespace."""


def module_file(scope: Mapping[str, Any]) -> str:
    """The file of the module with this namespace; empty for notebooks and exec'd code."""
    return str(scope.get("__file__") or "")


def module_title(scope: Mapping[str, Any]) -> str:
    """The module's name for people; a script is named after its file, as if it were imported."""
    name, file = str(scope.get("__name__", "")), module_file(scope)
    if name == "__main__":
        return os.path.splitext(os.path.basename(file))[0] or "__main__"
    return name


def global_part(scope: Mapping[str, Any], name: str) -> FingerprintPart:
    """The part for the content of a module's global."""
    return FingerprintPart(kind="global", name=f"{module_title(scope)}.{name}", file=module_file(scope))


def module_origin(module: types.ModuleType) -> ModuleOrigin:
    """Where a module comes from."""
    return origin_of(module.__name__, getattr(module, "__file__", None))


def follow_chain(
    walk: CodeWalk, part: FingerprintPart, label: str, module: types.ModuleType, chain: Chain
) -> None:
    """An edge to the value of `module.a.b`, resolved without running code; to the whole module if the chain is ()."""
    origin = module_origin(module)
    if not origin.local:
        walk.foreign(part, label, module.__name__, origin)
        return
    if "modules" not in walk.follow:
        return
    if not chain:
        walk.note(
            f"{part.name} uses the module {module.__name__} as a value, so the key covers everything that it defines"
        )
        reach_module(walk, part, label, module)
        return
    name, rest = chain[0], chain[1:]
    if name in {"__loader__", "__spec__"}:  # a worker has one of its own
        return
    if name == "__dict__":
        reach_module(walk, part, label, module)
        return
    missing = object()
    value = vars(module).get(name, missing)
    if value is missing and "__getattr__" in vars(module):
        value = getattr(module, name, missing)
    label = f"{label}.{name}"
    if isinstance(value, types.ModuleType):
        follow_chain(walk, part, label, value, rest)
    elif value is not missing:
        walk.bind(part, label, value, made=global_part(vars(module), name), place=(id(vars(module)), name))
        if isinstance(value, type) and "__subclasses__" in rest:
            reach_subclasses(walk, part, label, value)


def reach_subclasses(walk: CodeWalk, part: FingerprintPart, label: str, kind: type) -> None:
    """Edges to the project's classes below a class, as far as they are imported."""
    below = sorted(type.__subclasses__(kind), key=lambda each: (each.__qualname__, each.__module__))
    for each in below:
        if origin_of(each.__module__, module_file(_scope_of(each)) or None).local:
            made = FingerprintPart(kind="global", name=f"{each.__module__}.{each.__qualname__}")
            walk.bind(part, f"{label} below", each, made=made)
        reach_subclasses(walk, part, label, each)


def _scope_of(kind: type) -> Mapping[str, Any]:
    return vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}


def reach_module(walk: CodeWalk, part: FingerprintPart, label: str, module: types.ModuleType) -> None:
    """An edge to a whole module: every definition in it, and those of the project modules that it holds."""
    origin = module_origin(module)
    if not origin.local:
        walk.foreign(part, label, module.__name__, origin)
        return

    def made() -> FingerprintPart:
        return FingerprintPart(kind="module", name=module_title(vars(module)), file=module_file(vars(module)))

    walk.place(part, label, walk.keep(module), made=made, fill=lambda new: _fill(walk, new, module))


def _fill(walk: CodeWalk, part: FingerprintPart, module: types.ModuleType) -> None:
    scope = vars(module)
    if part.file and not part.file.endswith((".py", ".pyc")):
        part.digest = _file_digest(part.file)
    for name in sorted(scope):
        if name.startswith("__") or (_is_session(scope) and (name.startswith("_") or name in _SESSION)):
            continue
        value = scope[name]
        if isinstance(value, types.ModuleType):
            reach_module(walk, part, f"global {name}", value)
        else:
            walk.bind(part, f"global {name}", value, made=global_part(scope, name), place=(id(scope), name))


def _is_session(scope: Mapping[str, Any]) -> bool:
    return "get_ipython" in scope


def _file_digest(file: str) -> bytes:
    with open(file, "rb") as stream:
        return blake3(stream.read()).digest()


# --- imports inside a body -------------------------------------------------------------------------


def reach_imported(walk: CodeWalk, part: FingerprintPart, found: Import, scope: Mapping[str, Any]) -> None:
    """Edges to the names that an import inside a function's body binds. Imports the module if it is project code."""
    name = found.module
    if found.level:
        name = importlib.util.resolve_name("." * found.level + name, str(scope.get("__package__") or ""))
    label = f"import {name}"
    origin = _origin_by_name(name)
    if origin is None:
        walk.note(f"{part.name} imports {name}, which is not installed, so the key covers only its name")
    elif not origin.local:
        walk.foreign(part, label, name, origin)
        _watch_names(walk, part, name, found)
    else:
        _reach_local(walk, part, label, found, name)


def _reach_local(walk: CodeWalk, part: FingerprintPart, label: str, found: Import, name: str) -> None:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - the task's own import would raise it too
        walk.note(
            f"{part.name} imports {name}, which cannot be imported here ({error}), so the key covers only its name"
        )
        return
    if found.top:
        module = sys.modules[name.partition(".")[0]]
    for chain in found.chains:
        if chain and chain[0] not in vars(module):
            _import_quietly(f"{module.__name__}.{chain[0]}")
        follow_chain(walk, part, label, module, chain)


def _import_quietly(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        return  # neither an attribute nor a submodule


def _origin_by_name(name: str) -> ModuleOrigin | None:
    """The origin of a module's top package, or of the first package below a namespace; None if it is not installed."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        package = ".".join(parts[:length])
        module = sys.modules.get(package)
        if module is not None:
            file, is_package = getattr(module, "__file__", None), hasattr(module, "__path__")
        else:
            try:
                spec = importlib.util.find_spec(package)
            except (ImportError, ValueError):
                return None
            if spec is None:
                return None
            file = spec.origin if spec.has_location else None
            is_package = spec.submodule_search_locations is not None
        if file or not is_package:
            return origin_of(package, file)
    return origin_of(parts[0], None)


def _watch_names(walk: CodeWalk, part: FingerprintPart, name: str, found: Import) -> None:
    for chain in found.chains:
        if (text := _READ_BY.get(".".join((name, *chain)))) is not None:
            walk.reads(text)
        if _is_opening(name.partition(".")[0] if found.top else name, chain):
            _open(walk, part, ".".join((name, *chain)), found.line)


# --- where static analysis fails -------------------------------------------------------------------


def watch(
    walk: CodeWalk, part: FingerprintPart, value: object, reference: Reference, scope: Mapping[str, Any]
) -> None:
    """Detect a reference that can reach any code. Then every project module imported so far is part of the key.

    A call that imports a module by a constant name is an import.
    """
    if (text := _READ_BY.get(_called(value, reference.chain))) is not None:
        walk.reads(text)
    elif reference.loads is not None and (called := _called(value, reference.chain)) in _IMPORTING:
        if "imports" in walk.follow:
            top = called == "builtins.__import__"
            reach_imported(walk, part, replace(reference.loads, top=top), scope)
    elif isinstance(value, types.ModuleType):
        if _is_opening(value.__name__, reference.chain):
            _open(walk, part, ".".join((reference.name, *reference.chain)), reference.line)
    elif not reference.fixed and value is getattr(builtins, reference.name):
        _open(walk, part, f"{reference.name}() with a computed name", reference.line)
    elif _qualified(value) in _OPENING:
        _open(walk, part, f"{reference.name}", reference.line)


_IMPORTING = frozenset({"importlib.import_module", "builtins.__import__"})
_READ_BY = {
    "inspect.getdoc": "__doc__",
    "inspect.signature": "__annotations__",
    "inspect.getfullargspec": "__annotations__",
    "inspect.get_annotations": "__annotations__",
    "typing.get_type_hints": "__annotations__",
    "inspect.getsource": "source",
    "inspect.getsourcelines": "source",
}
"""Functions -> what they read of code that they are given."""


def imports_any(value: object, reference: Reference) -> bool:
    """Whether a reference is to `import_module` or the like, with a name that is not constant."""
    return reference.loads is None and _called(value, reference.chain) in _IMPORTING


def _called(value: object, chain: Chain) -> str:
    if isinstance(value, types.ModuleType):
        return ".".join((value.__name__, *chain))
    return _qualified(value) if not chain else ""


def _qualified(value: object) -> str:
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return "sys.modules" if value is sys.modules else ""
    return f"{value.__module__}.{value.__qualname__}"


def _is_opening(module: str, chain: Chain) -> bool:
    return any(".".join((module, *chain[:length])) in _OPENING for length in range(1, len(chain) + 1))


def _open_session(walk: CodeWalk, part: FingerprintPart) -> None:
    """Add the definitions of a notebook or an interactive session, which have no source file."""
    scope = vars(sys.modules["__main__"])
    if module_file(scope):
        return
    for name, value in sorted(scope.items()):
        own = getattr(value, "__module__", None) == "__main__" and not (
            _is_session(scope) and name in _SESSION
        )
        if own and isinstance(value, types.FunctionType | type):
            walk.bind(part, f"session {name}", value, made=global_part(scope, name))


def _open(walk: CodeWalk, part: FingerprintPart, what: str, line: int) -> None:
    place = f"{os.path.basename(part.file) or '<code>'}:{line}"
    walk.note(
        f"{place}: {what} can reach any code, so the key covers the source of every project module imported so far"
    )
    _open_session(walk, part)
    found: dict[bytes, tuple[str, str]] = {}
    if "import" in what or "resolve_name" in what:
        found = {digest: (name, file) for name, file, digest in _importable(part.file)}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) if isinstance(module, types.ModuleType) else None
        if file and file.endswith(".py") and module_origin(module).local and (digest := module_digest(file)):
            found[digest] = (module_title(vars(module)), file)
    for digest, (name, file) in sorted(found.items()):
        walk.place(
            part,
            "imported so far",
            ("source", digest),
            made=lambda name=name, file=file, digest=digest: FingerprintPart(
                kind="module", name=f"{name} (source)", file=file, digest=digest
            ),
            fill=lambda _: None,
        )


def import_folder(file: str) -> str:
    """The folder that a module of the project is imported from: the one with its outermost package."""
    folder = os.path.dirname(file)
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder = os.path.dirname(folder)
    return folder


def _importable(file: str) -> Iterator[tuple[str, str, bytes]]:
    """Modules beside a file and in packages there and above, imported or not: a computed name may mean any of them."""
    folder = import_folder(file)
    for place, folders, files in os.walk(folder) if file else ():
        folders[:] = sorted(
            name for name in folders if os.path.exists(os.path.join(place, name, "__init__.py"))
        )
        for name in sorted(files):
            path = os.path.join(place, name)
            if name.endswith(".py") and (digest := module_digest(path)):
                yield os.path.relpath(path, folder).removesuffix(".py").replace(os.sep, "."), path, digest
