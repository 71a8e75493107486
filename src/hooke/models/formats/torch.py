"""safetensors, for PyTorch: the weights as plain arrays, and how the module that takes them is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from hooke.base.errors import HookeError, UntrustedModel, UsageError
from hooke.models.format import Saved, Terms, versions_of
from hooke.models.formats.torch_recipe import CannotRebuild, build, foreign_modules, recipe_of

__all__ = ["SafetensorsFormat"]

FILE = "model.safetensors"


class SafetensorsFormat:
    """The class is kept by name (`module:qualname`) with its constructor's arguments, as far as the module shows them.

    Where it does not, the weights are kept all the same, and `load` wants a module to put them into.
    """

    def save(self, model: Any, folder: Path, terms: Terms) -> Saved:
        """Raises HookeError for a module whose state is more than tensors."""
        if not isinstance(model, torch.nn.Module):
            raise UsageError(
                f"{terms.label}: safetensors holds a torch.nn.Module, not {type(model).__name__}"
            )
        try:
            save_model(model, str(folder / FILE))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise HookeError(
                f"safetensors cannot hold {terms.label}",
                why=f"{type(error).__name__}: {error}",
                mend='its state must be tensors alone; or register(..., format="pickle")',
            ) from error
        recipe, why = _tried(model)
        notes = (
            (f"{why}; hooke.load_model({terms.label!r}, into=...) takes a module that you make",)
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

    def load(self, folder: Path, details: Mapping[str, Any], terms: Terms) -> Any:
        """The module, on the CPU and in `eval()`. Raises HookeError where it cannot be made, or takes other weights; UntrustedModel."""
        module = terms.into
        if module is None:
            module = _made(details, terms)
        elif not isinstance(module, torch.nn.Module):
            raise UsageError(f"into={type(module).__name__}: weights of PyTorch go into a torch.nn.Module")
        try:
            load_model(module, str(folder / FILE), device=_device(module))
        except RuntimeError as error:
            raise HookeError(
                f"the weights of {terms.label} do not fit {type(module).__qualname__}",
                why=str(error),
                mend="its code has changed since; load into a module of the old shape, with into=",
            ) from error
        return module.eval()

    def predict(self, model: Any, rows: Any) -> Any:
        """By calling it, without gradients and in `eval()`. Arrays of floats get the type of its weights; NumPy comes back."""
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
    """The recipe and no reason, or none and why not."""
    try:
        recipe = recipe_of(model)
        with torch.device("meta"):
            made = build(recipe)
    except CannotRebuild as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - the user's constructor may raise anything
        return None, f"{type(model).__qualname__} cannot be made again: {type(error).__name__}: {error}"
    ours, theirs = _shapes(model), _shapes(made)
    if ours != theirs:
        changed = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        return None, f"{type(model).__qualname__} made again has other weights: {', '.join(changed[:5])}"
    return recipe, ""


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _made(details: Mapping[str, Any], terms: Terms) -> torch.nn.Module:
    label = terms.label
    mend = f"make it yourself: hooke.load_model({label!r}, into=Net(...))"
    if details["recipe"] is None:
        raise HookeError(f"{label} has weights alone: {details['why']}", mend=mend)
    if not terms.known and (foreign := foreign_modules(details["recipe"])):
        raise UntrustedModel(
            f"{label} is made by classes of modules that are not imported here: {', '.join(foreign)}",
            why="this project does not know the model, and to import a module is to run it",
            mend="if you know them, import them before",
            next=f"hooke models trust {label}",
        )
    try:
        with torch.random.fork_rng(devices=[]):
            return build(details["recipe"])
    except CannotRebuild as error:
        raise HookeError(f"the module of {label} cannot be made", why=str(error), mend=mend) from error


def _device(module: torch.nn.Module) -> str:
    first = next(module.parameters(), None)
    return str(first.device) if first is not None else "cpu"
