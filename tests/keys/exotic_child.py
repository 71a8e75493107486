"""Classes and functions that libraries make, fingerprinted before and after use: keys as JSON."""

import abc
import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import json
import operator
import threading
import typing
import weakref

import attrs
import msgspec
import numpy as np
import polars as pl
import pydantic

from hooke.base.errors import NotFingerprintable
from hooke.keys import fingerprint_code, fingerprint_value

T = typing.TypeVar("T")


class Color(enum.Enum):
    RED = 1
    GREEN = "g"

    def shade(self):
        return self.value


class Flags(enum.Flag):
    A = 1
    B = 2


class Pair(typing.NamedTuple):
    a: int = 1
    b: str = "x"


class Typed(typing.TypedDict):
    a: int


class Proto(typing.Protocol):
    def m(self) -> int: ...


class Box(typing.Generic[T]):
    x: T

    def get(self):
        return {1, 2, 3}


class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...


class Concrete(Abstract):
    __slots__ = ("a", "b")

    def __init__(self):
        self.a = 1
        self.b = {"x", "y", "z"}

    def f(self):
        return 1

    @property
    def p(self):
        return self.a


class Lazy:
    @functools.cached_property
    def slow(self):
        return 3


class Record(msgspec.Struct):
    a: int
    b: list[int] = []


class Model(pydantic.BaseModel):
    a: int = 1
    b: str = "x"
    c: list[int] = pydantic.Field(default_factory=list)

    @pydantic.field_validator("a")
    @classmethod
    def check(cls, x):
        return x


@pydantic.dataclasses.dataclass
class Checked:
    a: int = 3


@attrs.define
class Attributed:
    a: int = 1
    b: list = attrs.field(factory=list, validator=attrs.validators.instance_of(list))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    a: int = 1
    b: list = dataclasses.field(default_factory=list)


@functools.singledispatch
def many(x):
    return 0


@many.register
def _(x: int):
    return 1


@many.register
def _(x: str):
    return 2


@functools.lru_cache
def cached(x):
    return x + 1


@functools.total_ordering
class Ordered:
    def __lt__(self, other):
        return True


def deco(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return fn(*args) + 1

    return wrapper


@deco
def decorated(x):
    return x


@contextlib.contextmanager
def context():
    yield 1


@pydantic.validate_call
def validated(x: int) -> int:
    return x


class Meta(type):
    def __call__(cls, *args):
        return super().__call__(*args)


class WithMeta(metaclass=Meta):
    def recurse(self):
        return TABLE, WithMeta


LOCAL = threading.local()
WEAK = weakref.WeakKeyDictionary()
TABLE = {"a": decorated, "b": cached, "c": lambda x: x}
MEMBERS = {decorated, deco, many, cached}
EXPRESSION = pl.col("a") + 1
VECTOR = np.vectorize(lambda x: x)
GETTER = operator.itemgetter(1)
CHAIN = collections.ChainMap({"a": 1})


def uses_all():
    return LOCAL, WEAK, TABLE, MEMBERS, EXPRESSION, VECTOR, GETTER, CHAIN


OLDER = typing.Union[Model, None]  # noqa: UP007 - the older spelling makes an object of another type

INSTANCES = {
    "enum": Color.RED,
    "flags": Flags.A | Flags.B,
    "pair": Pair(),
    "concrete": Concrete(),
    "record": Record(1),
    "model": Model(),
    "checked": Checked(),
    "attributed": Attributed(),
    "frozen": Frozen(),
    "ordered": Ordered(),
    "meta": WithMeta(),
    "lazy": Lazy(),
    "box": Box(),
    "partial": functools.partial(decorated, 1),
    "expression": EXPRESSION,
    "vector": VECTOR,
    "getter": GETTER,
    "chain": CHAIN,
    "types": [list[int], int | None, OLDER, T],
}


def keys():
    """The key of every class and function here, and of every instance."""
    code = {name: value for name, value in globals().items() if callable(value) and not name.startswith("_")}
    own = {name: value for name, value in code.items() if getattr(value, "__module__", "") == __name__}
    found = {f"code {name}": fingerprint_code(value).key for name, value in own.items() if name != "keys"}
    for name, value in INSTANCES.items():
        try:
            found[f"value {name}"] = fingerprint_value(value)
        except NotFingerprintable as refused:
            found[f"value {name}"] = str(refused)
    return found


def use():
    """What ordinary use does to classes and functions: caches fill, registries grow, attributes appear."""
    many(1), many("x"), cached(3), decorated(1), validated(3), VECTOR([1]), INSTANCES["lazy"].slow
    isinstance(Concrete(), Abstract), issubclass(int, Abstract), Model(a=3).model_json_schema()
    typing.get_type_hints(Frozen)
    for value in INSTANCES.values():
        copy.copy(value)
    with context():
        pass


if __name__ == "__main__":
    before = keys()
    use()
    print(json.dumps({"before": before, "after": keys()}))
