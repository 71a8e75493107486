"""What is asked of the process that registers a model, and what it says."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Done", "Order"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is saved in `folder`, to be registered in MLflow at `uri`."""

    uri: str
    root: str
    """The project's folder: MLflow's default place of artifacts is relative to it."""
    folder: str
    name: str
    alias: str
    if_better: str
    metrics: dict[str, float]
    tags: dict[str, str]
    flavors: dict[str, Any]
    libraries: dict[str, str]
    """Distributions that read the model, with their versions."""
    run_key: str
    """The run that the model comes from, as it is shipped; empty for none."""
    wait_s: float
    """How long to wait for that run to be shipped."""
    example: bytes
    """Pickled by the process that asks: input example and answer."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. `error` are the fields of a HookeError, where that is what became of it."""

    number: int | None = None
    moved: bool = False
    why: str = ""
    mlflow_run: str = ""
    error: dict[str, str] | None = None
