"""The tracking URI of MLflow, without importing MLflow."""

from __future__ import annotations

from pathlib import Path

__all__ = ["tracking_uri"]


def tracking_uri(folder: Path, uri: str = "") -> str:
    """The URI from hooke.toml, with a relative SQLite file inside the project; by default `mlflow.db` in the project."""
    if not uri:
        return f"sqlite:///{folder / 'mlflow.db'}"
    scheme, file = "sqlite:///", uri.removeprefix("sqlite:///")
    return f"{scheme}{folder / file}" if uri.startswith(scheme) else uri
