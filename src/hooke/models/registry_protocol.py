"""The protocol of a model registry; names, versions, and the choice of an alias's best version."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import did_you_mean

__all__ = [
    "CODE",
    "DIGEST",
    "FORMAT",
    "METRICS",
    "RUN",
    "SIZE",
    "WANTS",
    "Aim",
    "ModelRegistry",
    "PublishOrder",
    "PublishResult",
    "RegisteredVersion",
    "VersionQuery",
    "check_alias",
    "check_name",
    "elect",
    "find",
    "holder_of",
    "not_better",
    "parse_aim",
    "parse_wanted",
    "settling",
]


# --- References to models: `name`, `name@alias`, `name:3`.

_NAME = re.compile(r"\w[\w.-]*")
_ALIAS = re.compile(r"[\w-]+")
_RESERVED = re.compile(r"latest|[vV]\d+", re.IGNORECASE)


class VersionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A reference to a version: by alias, by number, or the newest."""

    name: str
    alias: str = ""
    number: int | None = None

    def __str__(self) -> str:
        if self.alias:
            return f"{self.name}@{self.alias}"
        return self.name if self.number is None else f"{self.name}:{self.number}"


def parse_wanted(text: str) -> VersionQuery:
    """Parse a reference. Raises UsageError."""
    name, mark, rest = re.fullmatch(r"([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if _NAME.fullmatch(name):
        if not mark:
            return VersionQuery(name=name)
        if mark == "@" and _ALIAS.fullmatch(rest):
            return VersionQuery(name=name, alias=rest)
        if mark == ":" and re.fullmatch(r"[1-9][0-9]{0,9}", rest):
            return VersionQuery(name=name, number=int(rest))
    raise UsageError(
        f"{text!r} is not a valid model reference",
        fix="write NAME (its newest version), NAME@ALIAS or NAME:VERSION, such as flights@champion or flights:3",
    )


def check_name(name: str) -> None:
    """Raise UsageError for an invalid model name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"name={name!r} is not a valid model name",
            fix="use letters, digits, '-', '_' and '.'; give an alias with alias=",
        )


def check_alias(alias: str) -> None:
    """Raise UsageError for an invalid alias; MLflow reserves `latest` and `v1`."""
    if not _ALIAS.fullmatch(alias) or _RESERVED.fullmatch(alias):
        raise UsageError(
            f"alias={alias!r} is not a valid alias",
            fix="use letters, digits, '-' and '_', and not 'latest' or 'v1'",
        )


# --- The request to the registering process, and its result.


class PublishOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A model saved in `folder`, to register in MLflow at `uri`."""

    uri: str
    root: str
    """The project's folder, to which MLflow's default artifact folder is relative."""
    folder: str
    name: str
    alias: str
    if_better: str
    metrics: dict[str, float]
    tags: dict[str, str]
    flavors: dict[str, Any]
    libraries: dict[str, str]
    """Distributions needed to read the model, with their versions."""
    run_key: str
    """The key of the model's run in trackers; empty if there is none."""
    wait_s: float
    """How long to wait until that run is in MLflow."""
    example: bytes
    """The pickled input example and prediction."""


class PublishResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of registering. `error` has the fields of a HookeError, if one was raised."""

    number: int | None = None
    moved: bool = False
    why: str = ""
    mlflow_run: str = ""
    error: dict[str, str] | None = None


CODE, DIGEST, FORMAT, METRICS, RUN, SIZE = (
    "hooke.code",
    "hooke.digest",
    "hooke.format",
    "hooke.metrics",
    "hooke.run_id",
    "hooke.size_bytes",
)
WANTS = "hooke.wants"
"""The alias that a version should get if it is better."""


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model. Hooke's facts are in its tags, which are empty if it was not registered by Hooke."""

    name: str
    number: int
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = {}
    mlflow_run: str = ""
    """MLflow's id of its run."""
    location: str = ""
    """The folder or URI of its files."""
    created_at: float = 0.0
    """Seconds since the epoch, by the registry's clock."""

    @property
    def label(self) -> str:
        """The reference for `load_model`."""
        return f"{self.name}:{self.number}"

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return self.tags.get(DIGEST, "")

    @property
    def metrics(self) -> dict[str, float]:
        """Its metrics when it was registered."""
        try:
            found = json.loads(self.tags.get(METRICS, "{}"))
            return {str(name): float(value) for name, value in found.items()}
        except (ValueError, TypeError, AttributeError):
            return {}  # an invalid tag, for example edited by hand


class ModelRegistry(Protocol):
    """Reads a registry; nothing is cached between calls. All methods raise HookeError if it does not answer."""

    def names(self) -> list[str]:
        """The names of all models, sorted."""

    def versions(self, name: str) -> list[RegisteredVersion]:
        """The versions of one model, the newest first; empty if there is no such model."""

    def fetch(self, version: RegisteredVersion, file: str, target: Path) -> None:
        """Write one of its files to `target`. `file` is a plain name."""


def find(registry: ModelRegistry, wanted: VersionQuery) -> RegisteredVersion:
    """The referenced version. Raises UsageError with the valid ones."""
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
            fix=f"valid: {', '.join(aliases) or 'none'}; its newest version is {versions[0].number}",
            next=f"hooke models show {wanted.name}",
        )
    numbers = ", ".join(str(each.number) for each in versions[:10])
    raise UsageError(
        f"model {wanted.name} has no version {wanted.number}",
        fix=f"valid: {numbers}{' and older ones' if len(versions) > 10 else ''}",
        next=f"hooke models show {wanted.name}",
    )


def _no_model(registry: ModelRegistry, wanted: VersionQuery) -> UsageError:
    names = registry.names()
    return UsageError(
        f"no model is called {wanted.name!r}",
        fix=f"{did_you_mean(wanted.name, names)}registered: {', '.join(names[:20])}"
        if names
        else "none is registered yet: hooke.register(model, name)",
        next="hooke models ls",
    )


# --- The alias of the best version.

RECENT_S = 60.0
"""A version registered this long before another may still be competing for the alias."""
MOST_ROUNDS = 50
"""Limit of rounds of moving an alias and checking again; each extra round means that another process moved it."""


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """A metric, and whether lower is better."""

    metric: str
    lower: bool = False

    def better(self, new: float, old: float) -> bool:
        """Whether `new` is better. An equal value is not; any number is better than NaN, which means no value."""
        return math.isnan(old) > math.isnan(new) or (new < old if self.lower else new > old)

    def __str__(self) -> str:
        return f"-{self.metric}" if self.lower else self.metric


def parse_aim(text: str) -> Aim:
    """`auc`: higher is better; `-loss`: lower is better. Raises UsageError."""
    metric = text.removeprefix("-")
    if not metric:
        raise UsageError(
            f"if_better={text!r} names no metric", fix="write 'auc', or '-loss' if lower is better"
        )
    return Aim(metric=metric, lower=text.startswith("-"))


def elect(
    aim: Aim, alias: str, mine: RegisteredVersion, versions: Iterable[RegisteredVersion]
) -> RegisteredVersion:
    """The version that should have the alias: the current holder, unless a competing version is better; the oldest among equals.

    Competing versions are `mine` and those registered for this alias at about the same time. So all processes that register at once reach the
    same result, in any order.
    """
    listed = sorted(versions, key=lambda each: each.number)
    wanting = [each for each in listed if each.number == mine.number or _competes(each, mine, alias)]
    best = holder_of(alias, listed)
    for each in wanting:
        value = each.metrics.get(aim.metric, math.nan)
        if best is None or aim.better(value, best.metrics.get(aim.metric, math.nan)):
            best = each
    assert best is not None
    return best


def settling(
    aim: Aim, alias: str, mine: RegisteredVersion
) -> Generator[RegisteredVersion | None, Sequence[RegisteredVersion], RegisteredVersion]:
    """Move an alias to the best version: yields None to receive all versions, or the version that must get the alias.

    Returns the final holder. It checks again after each move, because another process may have moved it: the process that moves it last
    also checks last, and then all competing versions are registered, so the best one has it in the end.
    """
    for _ in range(MOST_ROUNDS):
        best = elect(aim, alias, mine, (yield None))
        if alias in best.aliases:
            return best
        yield best
    raise HookeError(
        f"the alias {alias} of {mine.name} keeps moving while it is checked",
        where=f"version {mine.number} is registered",
        fix="register from fewer processes at once",
    )


def holder_of(alias: str, versions: Iterable[RegisteredVersion]) -> RegisteredVersion | None:
    """The version that has the alias; None if there is none."""
    return next((each for each in versions if alias in each.aliases), None)


def not_better(aim: Aim, mine: float, held: float, holder: RegisteredVersion) -> str:
    """Why the alias does not move."""
    relation = "equals" if mine == held else "is not better than"
    return f"{aim.metric} {mine:.6g} {relation} {held:.6g} of version {holder.number}"


def _competes(other: RegisteredVersion, mine: RegisteredVersion, alias: str) -> bool:
    return other.tags.get(WANTS) == alias and other.created_at > mine.created_at - RECENT_S
