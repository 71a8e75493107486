"""How values are written in Envoy's configuration."""

from __future__ import annotations

from typing import Any

__all__ = ["CLUSTER", "METRICS_CLUSTER", "seconds", "typed"]

CLUSTER = "replicas"
"""Envoy's name for all replicas together."""
METRICS_CLUSTER = "metrics"
"""And for whoever tells what all of them counted."""


def typed(name: str, **fields: Any) -> dict[str, Any]:
    """A message of the type `envoy.NAME`."""
    return {"@type": f"type.googleapis.com/envoy.{name}", **fields}


def seconds(value: float) -> str:
    """A duration: 0.5 is `0.5s`."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"
