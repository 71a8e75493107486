"""Services that speak in tensors."""

import threading
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

from hooke import service


@service(max_batch=64, timeout="5s")
class Delay:
    """One method, batched, with a log of its calls."""

    def setup(self):
        self.calls: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def predict(self, rows: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.float64]:
        self.hold.wait(5)
        self.calls.append(len(rows))
        if (rows < 0).any():
            raise ValueError("secret")
        return rows.sum(axis=1) * scale


class Scored(TypedDict):
    label: list[str]
    score: NDArray[np.float32]


class Judged(TypedDict):
    total: NDArray[np.float64]
    name: list[str]


class Pair(NamedTuple):
    low: float
    high: np.ndarray[tuple[int, int], np.dtype[np.int8]]


@service(max_batch=4, timeout="5s")
class Columns:
    """Batched, with several outputs; what was asked of it decides which."""

    def judge(self, rows: NDArray[np.float64]) -> Judged:
        return {"total": rows.sum(axis=1), "name": [f"{row.sum():g}" for row in rows]}

    def uneven(self, rows: list[float]) -> dict:
        return {"rows": rows, "first": rows[:1]}

    def turning(self, rows: list[float]) -> dict:
        return {f"from {rows[0]:g}": rows}

    def none(self, rows: list[float]) -> dict:
        return {}


@service(timeout="5s")
class Forms:
    """Parameters and returned values of every form."""

    def arrays(self, a: np.ndarray, b: NDArray[np.int8]) -> tuple[np.ndarray, NDArray[np.int8]]:
        return a, b

    def same(self, x: Any) -> Any:
        return x

    def text(self, words: NDArray[np.str_]) -> list[str]:
        return [word.upper() for word in words.tolist()]

    def raw(self, parts: list[bytes], one: bytes = b"") -> list:
        return [part + one for part in parts]

    def scored(self, words: list[str]) -> Scored:
        return {"label": words, "score": np.float32([len(word) for word in words])}

    async def pair(self, x: float | None, how: Literal["a", "b"] = "a") -> Pair:
        return Pair(x or 0.0, np.int8([[1, 2]]))

    def floats(self, rows: list[list[float]]) -> list[float]:
        return [sum(row) // 1 for row in rows]

    def table(self, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> np.ndarray:
        return rows.sum(axis=1)

    def ragged(self, n: int) -> list:
        return [[1] * at for at in range(n)]

    def nothing(self, x: int, skip: dict | None = None) -> None:
        return None

    def wide(self, n: int) -> np.ndarray:
        return np.arange(n)

    def folded(self, x: dict) -> dict:
        return x

    def items(self, n: int):
        yield from range(n)


class Flight(msgspec.Struct):
    carrier: str
    delay: int
    wind: float | None = None
    late: bool = False
    seats: list[int] = []


class Scaled(msgspec.Struct):
    scale: float


@service(max_batch=8, timeout="5s")
class Tables:
    """Rows that are objects."""

    def predict(self, flights: list[Flight], scale: float = 1.0) -> list[str]:
        return [f"{one.carrier} {one.delay * scale} {one.wind} {one.late}" for one in flights]

    def twice(self, rows: list[Scaled], scale: float = 1.0) -> list[float]:
        return [row.scale * scale for row in rows]

    def two(self, rows: list[Flight], others: list[Scaled]) -> list[int]:
        return [1 for _ in rows]
