"""A service whose server waits for little, so that tests need not wait long: python patient.py TOKEN_FILE."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pydantic
from numpy.typing import NDArray
from tests.serving.services import Item, Kinds, Place, Rows

from hooke import service
from hooke.serving.auth import Auth
from hooke.serving.limits import ConnectionLimits
from hooke.serving.replica import Replica
from hooke.serving.server.serve import bind, serve
from hooke.serving.service import service_of


@service(max_batch=8, timeout="2s")
class Patient:
    """A method of each kind."""

    async def echo(self, x: list[float]) -> list[float]:
        return x

    def rows(self, rows: list[int]) -> list[int]:
        return rows

    def frozen(self) -> int:
        return gc.get_freeze_count()

    def large(self, n: int) -> str:
        return "x" * n

    def endless(self):
        while True:
            yield "x" * 1000


class Person(pydantic.BaseModel):
    """Strict: pydantic reads `false` as 0 elsewhere, which its own schema does not say."""

    model_config = pydantic.ConfigDict(strict=True)
    age: int


@service(max_batch=8, timeout="5s")
class Various:
    """A method of each kind that answers whatever fits it."""

    async def echo(self, x: list[float], y: str = "") -> list[float]:
        """On the event loop."""
        return x

    def array(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """In batches."""
        return rows

    def small(self, rows: NDArray[np.int8], scale: int | None = None) -> list:
        return rows.tolist()

    def listed(self, rows: list[Item]) -> list[Item]:
        return rows

    def place(self, place: Place) -> Place:
        return place

    def person(self, person: Person, others: dict[str, Person] | None = None) -> Person:
        return person

    def nothing(self) -> None:
        return None

    def stream(self, n: Annotated[int, msgspec.Meta(ge=0, le=20)]):
        yield from range(n)

    async def drip(self, words: list[str]):
        for word in words:
            yield word


def passed_on(app):
    """An ASGI application that does what the wrapped one does."""

    async def call(scope, receive, send):
        await app(scope, receive, send)

    return call


@service(max_batch=8, timeout="2s", middleware=passed_on)
class Wrapped(Patient):
    """The same behind ASGI's messages."""


KINDS = {"Various": Various, "Patient": Patient, "Wrapped": Wrapped, "Kinds": Kinds, "Rows": Rows}

if __name__ == "__main__":
    _, name, token, connections = sys.argv
    patience = ConnectionLimits(head_s=1.0, idle_s=2.0, stall_s=2.0, connections=int(connections))
    gate = Auth(token=Path(token).read_text().strip()) if token else Auth()
    replica = Replica(service_of(KINDS[name]), body_limit=1 << 20, auth=gate, connection_limits=patience)
    listening = bind(0)
    serve(replica, dict, listening, ready=lambda: print(listening.getsockname()[1], flush=True))
