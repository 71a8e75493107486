"""A service of the protocol behind a real socket of this process, and OpenAI's own client."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import openai
import pytest
from tests.serving.openai.paged_model import Paged
from tests.serving.openai.scripted_model import Scripted

from hooke.serving.auth import ApiKey, Auth
from hooke.serving.limits import ConnectionLimits
from hooke.serving.replica import Replica
from hooke.serving.server.connection import Connections, keep_looking
from hooke.serving.server.serve import bind
from hooke.serving.service import service_of

TOKEN = "t" * 32


@dataclass
class Served:
    replica: Replica
    address: str

    @property
    def model(self) -> Paged:
        return self.replica.made

    def client(self, token: str = TOKEN, **more) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=token, max_retries=0, timeout=60, **more)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.address}/v1", api_key=TOKEN, max_retries=0, timeout=60)


@contextmanager
def served(
    made: type = Paged,
    *,
    keys: tuple[ApiKey, ...] = (),
    connection_limits: ConnectionLimits | None = None,
    version: str = "",
    **setup,
) -> Iterator[Served]:
    auth = Auth(hosts=frozenset({"127.0.0.1"}), token=TOKEN, keys=keys)
    replica = Replica(service_of(made), auth=auth, connection_limits=connection_limits)
    replica.version = version
    listening = bind(0)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        await replica.start(lambda: setup)
        connections = Connections(replica.serve, replica.connection_limits, replica.refused)
        watching.append(loop.create_task(keep_looking(connections)))
        return await loop.create_server(connections.make, sock=listening), connections

    async def end(server, connections):
        watching[0].cancel()
        replica.drain()
        server.close()
        await connections.end(1, at_once=lambda: True)
        replica.close()
        waits = asyncio.all_tasks() - {asyncio.current_task()}  # one waits for further requests
        for task in waits:
            task.cancel()
        if waits:
            await asyncio.wait(waits, timeout=1)

    server, watching = None, []
    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(300)
        yield Served(replica, f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        if server is not None:
            asyncio.run_coroutine_threadsafe(end(*server), loop).result(30)
        listening.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def paged() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture(scope="module")
def scripted() -> Iterator[Served]:
    with served(Scripted) as made:
        yield made


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """Of the service that the module's SERVED names; without it, of `paged`."""
    service: Served = request.getfixturevalue(getattr(request.module, "SERVED", "paged"))
    with service.client() as made:
        yield made
