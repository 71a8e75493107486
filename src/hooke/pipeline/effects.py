"""What the run state is told and what it asks for: plans of nodes, effects for the runner, answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from hooke.journal.events import RetryPlanned

__all__ = ["Abandon", "Effect", "Finish", "Looked", "Lookup", "Plan", "Submit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the scheduler needs to know of a node beside its place in the graph."""

    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    retries: int = 0
    timeout_s: float | None = None
    ranks: int = 0
    """Of a gang: how many slots it takes at once, with cpus, memory and gpus for each. 0 for what is no gang."""
    repeatable: bool = True
    """Whether two attempts at the same items may run at once: not so where the task is declared impure."""
    expected_s: Mapping[int, float] = field(default_factory=dict)
    """Item -> seconds it took last time, where known."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Effect: find the node's results; answer with ItemsFound (and MapExpanded) events, then `looked(...)`."""

    node: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Effect: run these items as an attempt."""

    attempt: int
    node: int
    lo: int
    hi: int
    number: int
    expand: bool = False
    memory: int | None = None
    """Bytes that the attempt may use."""
    twin_of: int | None = None
    """The attempt at the same items that runs long; this one is the second, and the first result wins."""
    short: bool = False
    """Expected to end within milliseconds, so that it may wait in a worker behind others like it."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Effect: cancel an attempt. With `timed_out`, report it as failed for that."""

    attempt: int
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Effect: the run is over: `finished`, `failed` or `stopped`."""

    status: str


@dataclass(frozen=True, slots=True)
class Looked:
    """Answer to Lookup: all that was found has been said.

    `held`: another process computes it now, so look again a little later. With `attempt`, the answer
    is to a Submit, and withdraws it: the result was found, or is computed elsewhere, meanwhile.
    """

    node: int
    held: bool = False
    attempt: int | None = None


Effect: TypeAlias = Lookup | Submit | Abandon | Finish | RetryPlanned
