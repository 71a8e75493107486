"""`python -m hooke.engines.dask.worker_main`: a Dask worker that Hooke starts. Its options arrive on stdin; the end of stdin means that its driver is dead."""

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
    """Serve until the scheduler or the driver ends this worker."""
    # Unbuffered, since Python cannot exit while a thread waits in a buffered stream.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        order = json.loads(stdin.readline())
    sys.path[:] = order["path"]
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
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
