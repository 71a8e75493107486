"""What a registry of models tells: versions, and the files of each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hooke.base.errors import HookeError, UsageError

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


# --- What a model is called: `name`, `name@alias`, `name:3`.

_NAME = re.compile(r"\w[\w.-]*")
_ALIAS = re.compile(r"[\w-]+")
_RESERVED = re.compile(r"latest|[vV]\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionQuery:
    """Which version somebody means: that of an alias, that of a number, or the newest."""

    name: str
    alias: str = ""
    number: int | None = None

    def __str__(self) -> str:
        if self.alias:
            return f"{self.name}@{self.alias}"
        return self.name if self.number is None else f"{self.name}:{self.number}"


def parse_wanted(text: str) -> VersionQuery:
    """Raises UsageError for what is none of the three forms."""
    name, mark, rest = re.fullmatch(r"([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if _NAME.fullmatch(name):
        if not mark:
            return VersionQuery(name=name)
        if mark == "@" and _ALIAS.fullmatch(rest):
            return VersionQuery(name=name, alias=rest)
        if mark == ":" and re.fullmatch(r"[1-9][0-9]{0,9}", rest):
            return VersionQuery(name=name, number=int(rest))
    raise UsageError(
        f"{text!r} names no model",
        fix="write NAME (its newest version), NAME@ALIAS or NAME:VERSION, as in flights@champion or flights:3",
    )


def check_name(name: str) -> None:
    """Raises UsageError for what cannot be a model's name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"name={name!r} cannot be a model's name",
            fix="use letters, digits, '-', '_' and '.'; an alias is given as alias=",
        )


def check_alias(alias: str) -> None:
    """Raises UsageError for what cannot be an alias; MLflow reserves `latest` and `v1`."""
    if not _ALIAS.fullmatch(alias) or _RESERVED.fullmatch(alias):
        raise UsageError(
            f"alias={alias!r} cannot be an alias",
            fix="use letters, digits, '-' and '_', and not 'latest' or 'v1'",
        )


# --- What is asked of the process that registers a model, and what it says.


class PublishOrder(msgspec.Struct, frozen=True, kw_only=True):
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


class PublishResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. `error` are the fields of a HookeError, where that is what became of it."""

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
"""The alias that a version was registered to get if it is better."""


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
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


class ModelRegistry(Protocol):
    """Reads a registry as it is now: nothing is remembered between two calls. All raise HookeError where it does not answer."""

    def names(self) -> list[str]:
        """Of all models, sorted."""
        ...

    def versions(self, name: str) -> list[RegisteredVersion]:
        """Of one model, the newest first; empty where there is none of that name."""
        ...

    def fetch(self, version: RegisteredVersion, file: str, target: Path) -> None:
        """Write one of its files to `target`. `file` is a plain name."""
        ...


def find(registry: ModelRegistry, wanted: VersionQuery) -> RegisteredVersion:
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
            fix=f"its aliases: {', '.join(aliases) or 'none'}; its newest version is {versions[0].number}",
            next=f"hooke models show {wanted.name}",
        )
    numbers = ", ".join(str(each.number) for each in versions[:10])
    raise UsageError(
        f"model {wanted.name} has no version {wanted.number}",
        fix=f"it has {numbers}{' and older ones' if len(versions) > 10 else ''}",
        next=f"hooke models show {wanted.name}",
    )


def _no_model(registry: ModelRegistry, wanted: VersionQuery) -> UsageError:
    names = registry.names()
    near = get_close_matches(wanted.name, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"no model is called {wanted.name!r}",
        fix=f"{meant}registered: {', '.join(names[:20])}"
        if names
        else "none is registered yet: hooke.register(model, name)",
        next="hooke models ls",
    )


# --- Which version an alias belongs to, when it is to belong to the best.

RECENT_S = 60.0
"""How long before a version another may have been registered that is still on its way to the alias."""
MOST_ROUNDS = 50
"""Of moving an alias and looking again: each is one other process that moved it meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A metric, and whether less of it is better."""

    metric: str
    lower: bool = False

    def better(self, new: float, old: float) -> bool:
        """Whether `new` is better. An equal one is not; any number is better than NaN, which stands for none."""
        return math.isnan(old) > math.isnan(new) or (new < old if self.lower else new > old)

    def __str__(self) -> str:
        return f"-{self.metric}" if self.lower else self.metric


def parse_aim(text: str) -> Aim:
    """`auc`: more is better; `-loss`: less is. Raises UsageError."""
    metric = text.removeprefix("-")
    if not metric:
        raise UsageError(
            f"if_better={text!r} names no metric", fix="write 'auc', or '-loss' where less is better"
        )
    return Aim(metric=metric, lower=text.startswith("-"))


def elect(
    aim: Aim, alias: str, mine: RegisteredVersion, versions: Iterable[RegisteredVersion]
) -> RegisteredVersion:
    """Who should have the alias: who has it, unless one of those that want it now is better; of equals the oldest.

    Those are `mine` and what was registered for this alias about the same time. So all who register at once come to the
    same answer, in whatever order they look.
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
    """Bring an alias to the best: yields None to be sent all versions, and a version that is to get the alias.

    Returns who has it. It looks again after each move, since another may have moved it meanwhile: whoever moves it last
    looks last, and then all who want it are registered, so the best has it in the end.
    """
    for _ in range(MOST_ROUNDS):
        best = elect(aim, alias, mine, (yield None))
        if alias in best.aliases:
            return best
        yield best
    raise HookeError(
        f"the alias {alias} of {mine.name} is moved faster than it can be looked at",
        where=f"version {mine.number} is registered",
        fix="let fewer processes register at once",
    )


def holder_of(alias: str, versions: Iterable[RegisteredVersion]) -> RegisteredVersion | None:
    """The version that has the alias now."""
    return next((each for each in versions if alias in each.aliases), None)


def not_better(aim: Aim, mine: float, held: float, holder: RegisteredVersion) -> str:
    """The sentence for it."""
    relation = "equals" if mine == held else "is not better than"
    return f"{aim.metric} {mine:.6g} {relation} {held:.6g} of version {holder.number}"


def _competes(other: RegisteredVersion, mine: RegisteredVersion, alias: str) -> bool:
    return other.tags.get(WANTS) == alias and other.created_at > mine.created_at - RECENT_S
