"""Services for the tests."""

import asyncio
import threading
import time
from dataclasses import dataclass

import msgspec
import numpy as np
import pydantic
from numpy.typing import NDArray

from hooke import Temporary, UsageError, service


@dataclass
class Item:
    name: str
    price: float = 1.0


class Place(msgspec.Struct):
    city: str
    items: list[Item] = []


class Person(pydantic.BaseModel):
    age: int


class Keyed(pydantic.BaseModel):
    key: pydantic.SecretStr


UNSET = object()


@service(max_batch=8, timeout="5s")
class Rows:
    """Batched, with a log of its calls; rows below zero are refused by raising."""

    def setup(self, scale: float = 2.0):
        self.scale = scale
        self.calls: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def predict(self, rows: NDArray[np.float64]) -> np.ndarray:
        self.hold.wait(5)
        self.calls.append(len(rows))
        if (rows < 0).any():
            raise ValueError("secret")
        return rows.sum(axis=1) * self.scale

    def same(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def square(self, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray:
        return rows**2

    def listed(self, rows: list, mark: str = "") -> list:
        return [[row, mark] for row in rows]

    async def later(self, rows: list[int]) -> list[int]:
        await asyncio.sleep(0.001)
        if 13 in rows:
            raise UsageError("13 is not served", fix="take another")
        return rows

    async def cancels(self, rows: list[int]) -> list[int]:
        if 13 in rows:
            raise asyncio.CancelledError
        return rows

    def keyed(self, rows: list[int], who: Keyed) -> list:
        self.hold.wait(5)
        return [[row, who.key.get_secret_value()] for row in rows]

    def unset(self, rows: list[int], way: int = UNSET) -> list:  # type: ignore[assignment]
        return [row if way is UNSET else row * way for row in rows]

    def lost(self, rows: list[int]) -> list[int]:
        return [row for row in rows if row % 2 == 0]

    def optional(self, rows: list[int], weights: list[int] | None = None) -> list:
        return [[row, weights] for row in rows]

    def pair(self, rows: list[int], weights: list[int]) -> tuple:
        return rows, weights


@service(timeout="5s")
class Kinds:
    """One request a call, of every kind of type."""

    async def dataclass(self, item: Item) -> Item:
        return item

    def struct(self, place: Place) -> Place:
        return place

    def model(self, person: Person) -> Person:
        return person

    def many(self, people: list[Person]) -> int:
        return sum(person.age for person in people)

    def whole(self, rows: NDArray[np.int8]) -> str:
        return str(rows.dtype)

    def floats(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows

    def plain(self, a: int, b: str = "x", *, c: dict[str, list[int]] | None = None) -> list:
        return [a, b, c]

    def thread(self) -> str:
        return threading.current_thread().name

    def nothing_of_json(self) -> object:
        return object()

    def busy(self):
        raise Temporary("it is being trained", delay_s=2.5)

    def leaves(self):
        raise SystemExit(3)

    def count(self, n: int):
        for i in range(n):
            if i == 3:
                raise UsageError("three is too many")
            yield {"i": i}

    async def drip(self, n: int):
        for i in range(n):
            await asyncio.sleep(0.001)
            yield i

    @staticmethod
    def not_served():
        return 1

    def _nor_this(self):
        return 1


@service(timeout="5s")
class Endless:
    """Streams that wait for nothing and do not end."""

    def setup(self):
        self.ended: list[str] = []

    def plain(self):
        try:
            while True:
                yield "x" * 1000
        finally:
            self.ended.append("plain")

    async def waitless(self):
        try:
            while True:
                yield "x" * 1000
        finally:
            self.ended.append("waitless")


@service(timeout="100ms")
class Slow:
    """Takes as long as it is told."""

    def sleep(self, s: float) -> float:
        time.sleep(s)
        return s

    async def wait(self, s: float) -> float:
        await asyncio.sleep(s)
        return s

    async def drip(self, s: float):
        yield 0
        await asyncio.sleep(s)
        yield 1
