"""How many seeds or trials a test plays: a sample in `make test`, more in `make test-all`, all in `make soak-campaigns`."""

import os
from typing import TypeVar

import pytest

__all__ = ["SIZE", "bound", "choose_size"]

SIZE = "HOOKE_TEST_SIZE"
"""The variable that says which size: `sample` (the default), `full` or `soak`."""


Size = TypeVar("Size", int, tuple[str, ...])


def choose_size(*, sample: Size, full: Size, soak: Size | None = None) -> Size:
    """The count, or the cases, for this session. `soak` is for what costs more than a session of all tests has; by default `full`.

    Raises UsageError if the variable has another value.
    """
    sizes = {"sample": sample, "full": full, "soak": full if soak is None else soak}
    chosen = os.environ.get(SIZE, "sample")
    if chosen not in sizes:
        raise pytest.UsageError(f"{SIZE}={chosen}: it is sample, full or soak")
    return sizes[chosen]


def bound(count: int) -> str:
    """What no failure in `count` independent cases proves, at 95 % confidence: the rule of three, exact."""
    return f"0 of {count:,} is under {100 * (1 - 0.05 ** (1 / count)):.2g} %"
