"""Classes whose instances the tests fingerprint: one of each kind that people write."""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec


class Way(enum.Enum):
    UP = 1
    DOWN = "down"


class Leg(NamedTuple):
    origin: str
    miles: object


@dataclass
class Flight:
    number: object
    legs: object = ()
    tags: set = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Wind:
    speed: object
    gusts: object = None


class Plane(msgspec.Struct):
    tail: object
    seats: object = 0


class Airport:
    """A plain class with a dict."""

    def __init__(self, code, runways):
        self.code = code
        self.runways = runways

    def __eq__(self, other):
        return vars(self) == vars(other)

    __hash__ = None


class Slotted:
    """A plain class with slots, one of which may be empty."""

    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Miles(float):
    """A subclass of a builtin."""


class Route(list):
    """A subclass of a container, with a dict."""
