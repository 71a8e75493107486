"""Where MLflow is, said without importing it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["tracking_uri"]


def tracking_uri(folder: Path, uri: str = "") -> str:
    """What hooke.toml names, a relative SQLite file being one of the project; else MLflow's own default there."""
    if not uri:
        return f"sqlite:///{folder / 'mlflow.db'}"
    scheme, file = "sqlite:///", uri.removeprefix("sqlite:///")
    return f"{scheme}{folder / file}" if uri.startswith(scheme) else uri
