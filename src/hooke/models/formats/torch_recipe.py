"""How a module is made again: its class by name and the arguments of its constructor, read off its attributes."""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch

__all__ = ["CannotRebuild", "build", "foreign_modules", "recipe_of"]

_NOT_KEPT = frozenset({"device", "dtype"})
"""Where a module lay and in what type: the weights say."""


class CannotRebuild(Exception):
    """Why a module cannot be made from a name and plain arguments."""


def recipe_of(module: torch.nn.Module) -> dict[str, Any]:
    """As JSON. Raises CannotRebuild, naming the argument that is not known."""
    kind = type(module)
    if "<" in kind.__qualname__:
        raise CannotRebuild(f"{kind.__qualname__} is defined inside a function, where no import finds it")
    recipe: dict[str, Any] = {"class": f"{kind.__module__}:{kind.__qualname__}"}
    if kind is torch.nn.Sequential:
        return recipe | {"children": [[name, recipe_of(child)] for name, child in module.named_children()]}
    arguments = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in _NOT_KEPT or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = _plain(name, getattr(module, name, _UNKNOWN))
        if value is not _UNKNOWN:
            arguments[name] = value
        elif parameter.default is parameter.empty:
            raise CannotRebuild(
                f"the constructor of {kind.__qualname__} takes {name!r}, which is no plain attribute of the module"
            )
    return recipe | {"arguments": arguments}


def build(recipe: Mapping[str, Any]) -> torch.nn.Module:
    """The module, with weights of no meaning. Raises CannotRebuild; whatever the constructor raises."""
    kind = _class(recipe["class"])
    if "children" in recipe:
        return torch.nn.Sequential(OrderedDict((name, build(child)) for name, child in recipe["children"]))
    made: torch.nn.Module = kind(**{name: _tuples(value) for name, value in recipe["arguments"].items()})
    return made


def foreign_modules(recipe: Mapping[str, Any]) -> list[str]:
    """Modules that would have to be imported to make it, PyTorch's own aside: an import runs code that a registry names."""
    modules = {module for name in _classes(recipe) if (module := name.partition(":")[0]) not in sys.modules}
    return sorted(module for module in modules if module.partition(".")[0] != "torch")


def _classes(recipe: Mapping[str, Any]) -> Iterator[str]:
    yield recipe["class"]
    for _, child in recipe.get("children", ()):
        yield from _classes(child)


class _Unknown:
    """In the place of a value that is not there."""


_UNKNOWN = _Unknown()


def _plain(name: str, value: Any) -> Any:
    if name == "bias" and (value is None or isinstance(value, torch.Tensor)):
        return value is not None
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        inner = [_plain("", each) for each in value]
        if _UNKNOWN not in inner:
            return {"tuple": inner} if isinstance(value, tuple) else inner
    return _UNKNOWN


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(map(_tuples, value["tuple"]))
    return [_tuples(each) for each in value] if isinstance(value, list) else value


def _class(reference: str) -> type[torch.nn.Module]:
    """A registry may have written the name: nothing but a kind of module is taken."""
    module, _, path = reference.partition(":")
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise CannotRebuild(f"{path} of {module} is not found: {error}") from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise CannotRebuild(f"{path} of {module} is no torch.nn.Module")
    return found
