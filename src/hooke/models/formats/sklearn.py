"""skops, for scikit-learn: a zip of arrays and a tree of types, of which only trusted ones are created."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hooke.base.errors import HookeError, UntrustedModel
from hooke.models.format import LoadOptions, Saved, versions_of

ADAPTERS = tuple(f"sklearn.externals.array_api_compat.{library}" for library in ("cupy", "dask", "torch"))
"""Packages in scikit-learn that import another library of arrays. They have no estimators."""


@contextmanager
def _no_adapters() -> Iterator[None]:
    """Packages of ADAPTERS that are not imported yet cannot be imported meanwhile.

    skops asks scikit-learn for all estimators, which imports each package of it, and with them PyTorch: 2 s and 480 MB.
    """
    held = [name for name in ADAPTERS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(held))  # type: ignore[arg-type] # None is documented: it makes an import fail
    try:
        yield
    finally:
        for name in held:
            del sys.modules[name]


with _no_adapters():
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException, UntrustedTypesFoundException

__all__ = ["SkopsFormat"]

FILE = "model.skops"
OWN = frozenset({"numpy", "scipy", "sklearn"})
"""Packages of scikit-learn's own types. skops trusts most of them, but not all, such as the trees of a forest."""


class SkopsFormat:
    """Types that skops does not trust are created only if the project trusts the model, or if the caller names the type."""

    def save(self, model: Any, folder: Path, terms: LoadOptions) -> Saved:
        """Save a model. Raises UntrustedModel with the types that are neither scikit-learn's nor in `terms.trust`."""
        try:
            skops.io.dump(model, folder / FILE)
        except (UnsupportedTypeException, AttributeError, TypeError) as error:
            raise _cannot(terms.label, error) from error
        needed = skops.io.get_untrusted_types(file=folder / FILE)
        foreign = [name for name in needed if name.partition(".")[0] not in OWN and name not in terms.trust]
        if foreign:
            raise _untrusted(terms, foreign, verb="hooke.register(...")
        try:
            skops.io.load(folder / FILE, trusted=needed)
        except Exception as error:  # constructors may raise anything
            raise _cannot(terms.label, error) from error
        versions = versions_of("scikit-learn", "skops", "numpy", "scipy")
        flavors: dict[str, Mapping[str, Any]] = {
            "sklearn": {
                "pickled_model": FILE,
                "sklearn_version": versions["scikit-learn"],
                "serialization_format": "skops",
                "skops_trusted_types": needed,
                "code": None,
            }
        }
        if hasattr(model, "predict"):
            flavors["python_function"] = {
                "loader_module": "mlflow.sklearn",
                "model_path": FILE,
                "predict_fn": "predict",
            }
        return Saved(details={"types": needed}, flavors=flavors, libraries=versions)

    def load(self, folder: Path, details: Mapping[str, Any], terms: LoadOptions) -> Any:
        """Load a model. Raises UntrustedModel with the names of untrusted types."""
        trusted = [*terms.trust, *(details["types"] if terms.known else ())]
        try:
            return skops.io.load(folder / FILE, trusted=trusted)
        except UntrustedTypesFoundException as error:  # raised before anything is created
            needed = skops.io.get_untrusted_types(file=folder / FILE)
            foreign = [name for name in needed if name not in trusted]
            raise _untrusted(
                terms, foreign, verb="hooke.load_model(...", next=f"hooke models trust {terms.label}"
            ) from error

    def predict(self, model: Any, rows: Any) -> Any:
        """The result of its `predict`."""
        return model.predict(rows)


def _untrusted(terms: LoadOptions, foreign: list[str], *, verb: str, next: str = "") -> UntrustedModel:
    return UntrustedModel(
        f"{terms.label} has types that are not trusted: {', '.join(foreign)}",
        why="creating an object of an unknown type can run any code",
        fix=f"if you trust them: {verb}, trust={[*terms.trust, *foreign]!r})",
        next=next,
    )


def _cannot(label: str, error: Exception) -> HookeError:
    return HookeError(
        f"skops does not support {label}",
        why=f"{type(error).__name__}: {error}",
        fix='define classes and functions at the top level of a module, or use register(..., format="pickle")',
    )
