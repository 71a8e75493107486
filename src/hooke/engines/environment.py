"""Whether a worker's Python and libraries are those of the driver: equal, or the difference in words."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping

from hooke.base.errors import EnvironmentMismatch
from hooke.keys.local import PYTHON

__all__ = ["check_environment", "versions_here"]


def versions_here(names: Collection[str]) -> dict[str, str]:
    """The version of each distribution in this process; empty where it is not installed. `python` is Python itself.

    Distributions that share a package are named together: `a+b`.
    """
    return {name: PYTHON if name == "python" else "+".join(map(_version, name.split("+"))) for name in names}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_environment(
    worker: str, wanted: Mapping[str, str], found: Mapping[str, str], *, allowed: Collection[str] = ()
) -> None:
    """Raise EnvironmentMismatch, which says each difference and how to mend it, where a worker has not what the driver has."""
    differing = [name for name in wanted if found.get(name) != wanted[name] and name not in allowed]
    if not differing:
        return
    install = " ".join(
        f"{part}=={version}"
        for name in differing
        if name != "python"
        for part, version in zip(name.split("+"), wanted[name].split("+"), strict=False)
    )
    insist = " ".join(f"--allow-mismatch {name}" for name in differing)
    mends = [f"there: pip install {install}"] if install else []
    if "python" in differing:
        mends.append(f"start the worker with Python {wanted['python']}")
    raise EnvironmentMismatch(
        f"the worker {worker} is not like this driver",
        why="\n".join(
            f"{name} is {wanted[name] or 'not installed'} here, and {found.get(name) or 'not installed'} there"
            for name in differing
        ),
        mend="; ".join(mends) + f"; or insist: {insist}",
    )
