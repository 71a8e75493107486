"""What a task asks of the place that runs it, as declared in `@task(...)`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypedDict

from hooke.base.errors import UsageError
from hooke.base.units import parse_bytes, parse_seconds
from hooke.base.user_code import user_place

__all__ = ["Options", "Resources", "parse_resources"]


class Options(TypedDict, total=False):
    """The options of `@task`.

    `cpus`: threads that the task may use (1). `memory`: its limit, `"2GiB"` or bytes (none).
    `gpus`: devices, or a share of one (0). `retries`: how often a failed task runs again (0).
    `timeout`: `"30m"` or seconds for one attempt (none). `cache`: whether other runs may reuse
    its results (True). `gang`: how many processes run it together, each a rank (none).
    `name`: shown instead of the function's own name. Beside them `results`, of a gang: `"rank0"` or `"all"`.
    """

    cpus: float
    memory: str | int | None
    gpus: float
    retries: int
    timeout: str | float | None
    cache: bool
    gang: int | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one attempt of a task needs: cpus (threads), memory (bytes), gpus, and its policy. Of a gang: each rank."""

    cpus: float = 1
    memory: int | None = None
    gpus: float = 0
    retries: int = 0
    timeout_s: float | None = None
    cache: bool = True
    gang: int = 0
    """How many ranks it has; 0 for a task that is no gang."""
    results: str = "rank0"
    """Of a gang: `rank0`, what rank 0 returned, or `all`, the list of what each rank returned."""

    @property
    def ranks(self) -> int:
        """Processes that one attempt takes."""
        return max(1, self.gang)


def parse_resources(options: Mapping[str, Any]) -> Resources:
    """Check the options of `@task` and convert their units.

    Raises UsageError for an unknown option (with the nearest valid one) and for a value out of range.
    """
    _refuse_unknown(options)
    gang = _gang(options.get("gang"))
    return Resources(
        cpus=_number("cpus", options.get("cpus", 1), above_zero=True),
        memory=_memory(options.get("memory")),
        gpus=_number("gpus", options.get("gpus", 0)),
        retries=_retries(options.get("retries", 0)),
        timeout_s=_timeout(options.get("timeout")),
        cache=_cache(options.get("cache", True)),
        gang=gang,
        results=_results(options.get("results", "rank0"), gang),
    )


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    valid = [*Options.__annotations__, "results"]
    for option in options:
        if option not in valid:
            near = get_close_matches(option, valid, n=1)
            meant = f"did you mean {near[0]}=? " if near else ""
            raise UsageError(
                f"@task has no option {option!r}",
                where=str(user_place()),
                fix=f"{meant}valid options: {', '.join(valid)}",
            )


def _number(option: str, value: object, *, above_zero: bool = False) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and (value > 0 or (value == 0 and not above_zero)):
        return value
    least = "above 0" if above_zero else "of 0 or more"
    raise _wrong(option, value, f"a number {least}, such as {option}=1 or {option}=0.5")


def _retries(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _wrong("retries", value, "a whole number of 0 or more, such as retries=2")


def _memory(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            size = parse_bytes(value)
        except UsageError as error:
            raise _unreadable("memory", error) from None
        if size > 0:
            return size
    raise _wrong("memory", value, 'a size above 0, such as memory="2GiB", or a number of bytes')


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            seconds = parse_seconds(value)
        except UsageError as error:
            raise _unreadable("timeout", error) from None
        if seconds > 0:
            return seconds
    raise _wrong("timeout", value, 'a time above 0, such as timeout="30m", or a number of seconds')


def _cache(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong("cache", value, "cache=True or cache=False")


def _gang(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise _wrong(
        "gang", value, "a whole number of 1 or more, such as gang=4: so many processes run it together"
    )


def _results(value: object, gang: int) -> str:
    if value not in ("rank0", "all"):
        raise _wrong(
            "results", value, 'results="rank0" (what rank 0 returns) or results="all" (a list, by rank)'
        )
    if value == "all" and not gang:
        raise _wrong("results", value, "gang= too, such as gang=4: only a gang has results of several ranks")
    return str(value)


def _wrong(option: str, value: object, valid: str) -> UsageError:
    return UsageError(f"@task got {option}={value!r}", where=str(user_place()), fix=f"give {valid}")


def _unreadable(option: str, error: UsageError) -> UsageError:
    return UsageError(
        f"@task got a wrong {option}: {error.what}", where=str(user_place()), why=error.why, fix=error.fix
    )
