"""A replica as a process: prints its port, and serves until a signal. Run as a program: `echoes.py [GATE [BYTES]]`."""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np

from hooke import service
from hooke.serving.replica import Replica
from hooke.serving.server.serve import bind, serve
from hooke.serving.service import service_of


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


@service(timeout="60s", idempotent=True, max_batch=8)
class Held:
    """Answers once the file GATE exists; GATE.begun says that a batch has begun."""

    def total(self, rows: np.ndarray) -> np.ndarray:
        gate = Path(sys.argv[1])
        gate.with_suffix(".begun").touch()
        while not gate.exists():
            time.sleep(0.01)
        return rows.sum(axis=1)

    async def echo(self, n: int) -> int:
        return n


if __name__ == "__main__":
    listening = bind(0)
    replica = Replica(service_of(Held if len(sys.argv) > 1 else Echo))
    replica.pass_on(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    sys.exit(
        serve(
            replica,
            dict,
            listening,
            ready=lambda: print(listening.getsockname()[1], flush=True),
        )
    )
