"""Placeholder until the checks are written."""

from __future__ import annotations
from typing import Any
from hooke.pipeline.pipeline import Pipeline

__all__ = ["lint"]


def lint(pipeline: Pipeline[..., Any]) -> None:
    """Check the body."""
