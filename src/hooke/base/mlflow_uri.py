"""The tracking URI of MLflow, and its filter for a run, without importing MLflow."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["RUN_TAG", "run_filter", "tracking_uri"]

RUN_TAG = "hooke.run_id"
"""The tag of a run in MLflow with its permanent key."""

_ODD = re.compile(r"[^\w.\-/ ]")


def tracking_uri(folder: Path, uri: str = "") -> str:
    """The URI from hooke.toml, with a relative SQLite file inside the project; by default `mlflow.db` in the project."""
    if not uri:
        return f"sqlite:///{folder / 'mlflow.db'}"
    scheme, file = "sqlite:///", uri.removeprefix("sqlite:///")
    return f"{scheme}{folder / file}" if uri.startswith(scheme) else uri


def run_filter(key: str) -> str:
    """MLflow's filter for the run with this key. It may match runs with similar keys, too: compare the tag `RUN_TAG`.

    MLflow's language has no escape for a quote, and takes a backslash before one for an escape.
    """
    pattern = _ODD.sub("_", key)
    return f"tags.`{RUN_TAG}` {'=' if pattern == key else 'LIKE'} '{pattern}'"
