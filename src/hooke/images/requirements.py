"""Which installed distributions an image needs, by requirements as pip reads them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from typing import TYPE_CHECKING

from hooke.base.distributions import DISTRIBUTION, install_command, normal_name
from hooke.base.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from packaging.requirements import InvalidRequirement, Requirement

__all__ = ["wanted_packages"]


def _packaging() -> tuple[type[Requirement], type[InvalidRequirement]]:
    """Its classes, imported where they are used: exporters need only names from this folder. Raises MissingExtra."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError as error:
        raise MissingExtra(
            "images need packaging, which is not installed", why=str(error), fix=install_command("dask")
        ) from error
    return Requirement, InvalidRequirement


def wanted_packages(wanted: Iterable[str]) -> list[Distribution]:
    """The distributions that these requirements name here, Hooke among them, and all that they require, by name.

    Each is as in `pip install`: a name, with extras and bounds of versions. What a wanted extra requires has to be here; any other
    requirement that this environment lacks is another platform's, and is left out. Raises UsageError, for all that is wrong at once.
    """
    requirement, invalid = _packaging()
    here = {normal_name(each.name): each for each in reversed([*distributions()])}
    open_ones: list[tuple[Requirement, str]] = []
    wrong: list[UsageError] = []
    for text in (DISTRIBUTION, *wanted):
        try:
            asked = requirement(text)
        except invalid as error:
            why = str(error).partition("\n")[0]
            wrong.append(UsageError(f"--with {text!r}: {why}", fix='write it as for pip: --with "pandas>=2"'))
            continue
        trouble = _trouble(asked, here)
        wrong += [trouble] if trouble is not None else []
        open_ones += [(asked, text)] if trouble is None else []
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while open_ones:
        asked, text = open_ones.pop()
        name = normal_name(asked.name)
        if name not in here:
            if text:  # else it is another platform's
                wrong.append(
                    UsageError(
                        f"--with {text}: it requires {asked.name}, which is not installed here",
                        fix=_installs(text),
                    )
                )
            continue
        found[name] = here[name]
        for extra in ("", *asked.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                needed = _required(here[name], extra)
                open_ones += [(each, text if extra else "") for each in needed]
    if len(wrong) > 1:
        texts = [dict.fromkeys(getattr(each, name) for each in wrong) for name in ("what", "fix")]
        what, fix = map("; ".join, texts)
        raise UsageError(what, fix=fix)
    if wrong:
        raise wrong[0]
    return [found[name] for name in sorted(found)]


def _trouble(asked: Requirement, here: Mapping[str, Distribution]) -> UsageError | None:
    """What is wrong with a wanted requirement by itself."""
    if asked.url is not None:
        return UsageError(
            f"--with {asked}: packages come from this environment, and not from an address",
            fix=f"{_installs(str(asked))}, and then --with {asked.name}",
        )
    if normal_name(asked.name) not in here:
        return UsageError(
            f"{asked.name} is not installed here, so it cannot come into the image", fix=_installs(str(asked))
        )
    distribution = here[normal_name(asked.name)]
    if not asked.specifier.contains(distribution.version, prereleases=True):
        return UsageError(
            f"--with {asked}: {distribution.name} {distribution.version} is installed here, and the image gets what is",
            fix=_installs(str(asked)),
        )
    known = {normal_name(each) for each in distribution.metadata.get_all("Provides-Extra") or ()}
    strange = sorted(each for each in asked.extras if normal_name(each) not in known)
    if strange:
        return UsageError(
            f"--with {asked}: {distribution.name} has no extra {strange[0]!r}",
            fix=f"its extras: {', '.join(sorted(known))}" if known else "leave the brackets out",
        )
    return None


def _installs(wanted: str) -> str:
    return f"install it: {shlex.join([sys.executable, '-m', 'pip', 'install', wanted])}"


def _required(distribution: Distribution, extra: str) -> Iterator[Requirement]:
    """What it requires on this platform: without an extra, or for one alone."""
    requirement, _ = _packaging()
    for line in distribution.requires or ():
        each = requirement(line)
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            meant = not extra
        else:
            meant = bool(extra) and each.marker.evaluate({"extra": extra})
        if meant:
            yield each
