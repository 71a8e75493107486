"""What a registry of models tells: versions, and the files of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import msgspec

from hooke.base.errors import UsageError
from hooke.models.names import Wanted

__all__ = ["CODE", "DIGEST", "FORMAT", "METRICS", "RUN", "SIZE", "WANTS", "Registry", "Version", "find"]

CODE, DIGEST, FORMAT, METRICS, RUN, SIZE = (
    "hooke.code",
    "hooke.digest",
    "hooke.format",
    "hooke.metrics",
    "hooke.run_id",
    "hooke.size_bytes",
)
WANTS = "hooke.wants"
"""The alias that a version was registered to get if it is better."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model. What Hooke notes of it lies in its tags: empty where it was registered by other means."""

    name: str
    number: int
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = {}
    mlflow_run: str = ""
    """MLflow's id of the run that it comes from."""
    location: str = ""
    """Where its files lie: a folder or an URI."""
    created_at: float = 0.0
    """Seconds since the epoch, by the registry's clock."""

    @property
    def label(self) -> str:
        """As `load_model` takes it."""
        return f"{self.name}:{self.number}"

    @property
    def digest(self) -> str:
        """That of its manifest."""
        return self.tags.get(DIGEST, "")

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured of it when it was registered."""
        try:
            found = json.loads(self.tags.get(METRICS, "{}"))
            return {str(name): float(value) for name, value in found.items()}
        except (ValueError, TypeError, AttributeError):
            return {}  # a tag that somebody wrote by hand


class Registry(Protocol):
    """Reads a registry as it is now: nothing is remembered between two calls. All raise HookeError where it does not answer."""

    def names(self) -> list[str]:
        """Of all models, sorted."""
        ...

    def versions(self, name: str) -> list[Version]:
        """Of one model, the newest first; empty where there is none of that name."""
        ...

    def fetch(self, version: Version, file: str, target: Path) -> None:
        """Write one of its files to `target`. `file` is a plain name."""
        ...


def find(registry: Registry, wanted: Wanted) -> Version:
    """The version that is meant. Raises UsageError with what there is instead."""
    versions = registry.versions(wanted.name)
    if not versions:
        raise _no_model(registry, wanted)
    if not wanted.alias and wanted.number is None:
        return versions[0]
    for version in versions:
        if wanted.alias in version.aliases or version.number == wanted.number:
            return version
    if wanted.alias:
        aliases = sorted(f"{alias} (version {each.number})" for each in versions for alias in each.aliases)
        raise UsageError(
            f"model {wanted.name} has no alias {wanted.alias!r}",
            mend=f"its aliases: {', '.join(aliases) or 'none'}; its newest version is {versions[0].number}",
            next=f"hooke models show {wanted.name}",
        )
    numbers = ", ".join(str(each.number) for each in versions[:10])
    raise UsageError(
        f"model {wanted.name} has no version {wanted.number}",
        mend=f"it has {numbers}{' and older ones' if len(versions) > 10 else ''}",
        next=f"hooke models show {wanted.name}",
    )


def _no_model(registry: Registry, wanted: Wanted) -> UsageError:
    names = registry.names()
    near = get_close_matches(wanted.name, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"no model is called {wanted.name!r}",
        mend=f"{meant}registered: {', '.join(names[:20])}"
        if names
        else "none is registered yet: hooke.register(model, name)",
        next="hooke models ls",
    )
