"""A replica as a process: prints its port, and serves until a signal. Run as a program."""

import asyncio
import sys

from hooke import service
from hooke.serving.replica import Replica
from hooke.serving.service import service_of
from hooke.serving.uvicorn.server import bind, serve


@service(timeout="5s", idempotent=True)
class Echo:
    async def echo(self, n: int, s: float = 0.0) -> int:
        await asyncio.sleep(s)
        return n

    async def size(self, text: str) -> int:
        return len(text)

    async def count(self, n: int, s: float):
        for i in range(n):
            yield i
            await asyncio.sleep(s)


if __name__ == "__main__":
    listening = bind(0)
    sys.exit(
        serve(
            Replica(service_of(Echo)),
            dict,
            listening,
            ready=lambda: print(listening.getsockname()[1], flush=True),
        )
    )
