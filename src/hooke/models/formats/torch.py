"""safetensors, for PyTorch: the weights as plain arrays, and a recipe for the module that takes them."""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from hooke.base.errors import HookeError, UntrustedModel, UsageError
from hooke.models.format import LoadOptions, Saved, versions_of

__all__ = ["CannotRebuild", "SafetensorsFormat", "build", "foreign_modules", "recipe_of"]


# --- The recipe of a module: its class by name, and its constructor's arguments from its attributes.

_NOT_KEPT = frozenset({"device", "dtype"})
"""Arguments that the weights determine."""


class CannotRebuild(Exception):
    """A module cannot be rebuilt from its class name and plain arguments."""


def recipe_of(module: torch.nn.Module) -> dict[str, Any]:
    """The recipe in JSON values. Raises CannotRebuild, which names the unknown argument."""
    kind = type(module)
    if "<" in kind.__qualname__:
        raise CannotRebuild(f"{kind.__qualname__} is defined inside a function, so it cannot be imported")
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
                f"the constructor of {kind.__qualname__} takes {name!r}, which is not a plain attribute of the module"
            )
    return recipe | {"arguments": arguments}


def build(recipe: Mapping[str, Any]) -> torch.nn.Module:
    """The module, with arbitrary weights. Raises CannotRebuild, and what the constructor raises."""
    kind = _class(recipe["class"])
    if "children" in recipe:
        return torch.nn.Sequential(OrderedDict((name, build(child)) for name, child in recipe["children"]))
    made: torch.nn.Module = kind(**{name: _tuples(value) for name, value in recipe["arguments"].items()})
    return made


def foreign_modules(recipe: Mapping[str, Any]) -> list[str]:
    """Modules outside PyTorch that must be imported to build it. An import runs code that a registry names."""
    modules = {module for name in _classes(recipe) if (module := name.partition(":")[0]) not in sys.modules}
    return sorted(module for module in modules if module.partition(".")[0] != "torch")


def _classes(recipe: Mapping[str, Any]) -> Iterator[str]:
    yield recipe["class"]
    for _, child in recipe.get("children", ()):
        yield from _classes(child)


class _Unknown:
    """Marks a missing value."""


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
    """The class of that name, which must be a module class because a registry may have written the name."""
    module, _, path = reference.partition(":")
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise CannotRebuild(f"{path} of {module} is not found: {error}") from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise CannotRebuild(f"{path} of {module} is not a torch.nn.Module")
    return found


FILE = "model.safetensors"


class SafetensorsFormat:
    """Saves the class by name (`module:qualname`) with its constructor's arguments, as far as its attributes show them.

    Otherwise it saves only the weights, and `load` needs a module for them.
    """

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Save a module. Raises HookeError if its state has more than tensors."""
        if not isinstance(model, torch.nn.Module):
            raise UsageError(
                f"{terms.label}: safetensors holds a torch.nn.Module, not {type(model).__name__}"
            )
        try:
            save_model(model, str(folder / FILE))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise HookeError(
                f"safetensors does not support {terms.label}",
                why=f"{type(error).__name__}: {error}",
                fix='its state must consist of tensors; or use register(..., format="pickle")',
            ) from error
        recipe, why = _tried(model)
        notes = (
            (f"{why}; load it with hooke.load_model({terms.label!r}, into=...) and a module that you create",)
            if why
            else ()
        )
        flavors = {"python_function": {"loader_module": "hooke.models.pyfunc"}} if recipe else {}
        return Saved(
            details={"recipe": recipe, "why": why},
            flavors=flavors,
            libraries=versions_of("torch", "safetensors", "numpy"),
            notes=notes,
        )

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:
        """The module, on the CPU and in `eval()`. Raises HookeError if it cannot be built or the weights do not fit; UntrustedModel."""
        module = terms.into
        if module is None:
            module = _made(details, terms)
        elif not isinstance(module, torch.nn.Module):
            raise UsageError(f"into= needs a torch.nn.Module, not {type(module).__name__}")
        try:
            load_model(module, str(folder / FILE), device=_device(module))
        except RuntimeError as error:
            raise HookeError(
                f"the weights of {terms.label} do not fit {type(module).__qualname__}",
                why=str(error),
                fix="its code has changed; load into a module of the old shape with into=",
            ) from error
        return module.eval()

    def predict(self, model: Any, rows: Any) -> Any:
        """The result of calling it in `eval()` without gradients, as a NumPy array. Float arrays are converted to the type of its weights."""
        training, first = model.training, next(model.parameters(), None)
        given = rows if isinstance(rows, torch.Tensor) else torch.as_tensor(rows)
        if given is not rows and first is not None and given.is_floating_point():
            given = given.to(first)
        try:
            with torch.no_grad():
                answer = model.eval()(given)
        finally:
            model.train(training)
        return answer.cpu().numpy() if isinstance(answer, torch.Tensor) else answer


def _tried(model: torch.nn.Module) -> tuple[Any, str]:
    """(recipe, ""), or (None, why there is none)."""
    try:
        recipe = recipe_of(model)
        with torch.device("meta"):
            made = build(recipe)
    except CannotRebuild as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the user's constructor may raise anything
        return None, f"{type(model).__qualname__} cannot be rebuilt: {type(error).__name__}: {error}"
    ours, theirs = _shapes(model), _shapes(made)
    if ours != theirs:
        changed = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        return None, f"the rebuilt {type(model).__qualname__} has other weights: {', '.join(changed[:5])}"
    return recipe, ""


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _made(details: Mapping[str, Any], terms: LoadOptions) -> torch.nn.Module:
    label = terms.label
    fix = f"create it yourself: hooke.load_model({label!r}, into=Net(...))"
    if details["recipe"] is None:
        raise HookeError(f"{label} has only weights: {details['why']}", fix=fix)
    if not terms.known and (foreign := foreign_modules(details["recipe"])):
        raise UntrustedModel(
            f"{label} needs modules that are not imported: {', '.join(foreign)}",
            why="this project does not trust the model, and importing a module runs its code",
            fix="if you trust them, import them first",
            next=f"hooke models trust {label}",
        )
    try:
        with torch.random.fork_rng(devices=[]):
            return build(details["recipe"])
    except CannotRebuild as error:
        raise HookeError(f"the module of {label} cannot be built", why=str(error), fix=fix) from error


def _device(module: torch.nn.Module) -> str:
    first = next(module.parameters(), None)
    return str(first.device) if first is not None else "cpu"
