"""`python -m hooke.engines.dask_main`: a Dask worker of ours. Its order comes by stdin, at whose end its driver is dead."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from typing import Any

import dask.config
from distributed import Security, Worker

__all__ = ["main"]


def main() -> None:
    """Serve until the scheduler or the driver ends it."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_follow_driver, daemon=True).start()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(_serve(order))


async def _serve(order: dict[str, Any]) -> None:
    dask.config.set({"distributed.worker.http.routes": []})
    worker = await Worker(
        order["scheduler"],
        name=order["name"],
        nthreads=order["threads"],
        memory_limit=order["memory"],
        host="127.0.0.1",
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        security=Security(require_encryption=True, **order["keys"]),
    )
    await worker.finished()


def _follow_driver() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
