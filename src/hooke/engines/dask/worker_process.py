"""A Dask worker that Hooke starts: a process that ends with its driver and is started again if it dies.

Dask's own worker processes import the user's script again (multiprocessing's `spawn`), and do not report how they ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

import dask.config
from distributed import Security, Status, Worker
from distributed.deploy.spec import ProcessInterface

from hooke.engines.worker.script import module_path
from hooke.processes.start import python_module

__all__ = [
    "JOIN_S",
    "LIVED_S",
    "MOST_DEATHS",
    "POD_ADDRESS",
    "UNREACHED",
    "WorkerProcess",
    "in_a_row",
    "main",
]


MOST_DEATHS = 5
"""A worker may die by chance or by its task; after so many deaths in a row it is not started again."""

LIVED_S = 60.0
"""A death after a longer life does not count as one in a row."""

END_S = 3.0


class WorkerProcess(ProcessInterface):
    """A worker as Dask's `SpecCluster` handles it."""

    def __init__(
        self,
        scheduler: str,
        *,
        name: Any,
        threads: int,
        memory: int,
        keys: dict[str, str],
        devices: tuple[str, ...] = (),
    ) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self._order = {
            "scheduler": scheduler,
            "name": name,
            "threads": threads,
            "memory": memory,
            "keys": keys,
            "path": module_path(),
        }
        self._environment = dict(os.environ) | _threads_of_libraries()
        if devices:
            # Each device belongs to one worker. Workers that are added later have none.
            mine = devices[name :: len(devices)] if isinstance(name, int) else ()
            self._environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.codes: deque[tuple[int, int]] = deque(maxlen=64)
        """Pid and exit code (or minus the signal) of the processes that ended by themselves."""

    async def start(self) -> None:
        """Start the process, which joins the scheduler a moment later."""
        await self._launch()
        self._watch = asyncio.create_task(self._follow())
        await super().start()

    async def close(self) -> None:
        """End the process and its children."""
        if self._watch is not None:
            self._watch.cancel()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # it then ends itself and its children
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_S)
            _kill(self._process)
            await self._process.wait()
        await super().close()

    async def _launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *python_module("hooke.engines.dask.worker_process"),
            stdin=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the driver, which stops the run in order
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._order).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()

    async def _follow(self) -> None:
        deaths = 0
        while True:
            assert self._process is not None
            began = time.monotonic()
            self.codes.append((self._process.pid, await self._process.wait()))
            _kill(self._process)
            deaths = in_a_row(deaths, lived_s=time.monotonic() - began)
            if deaths == MOST_DEATHS:
                return
            await self._launch()


def in_a_row(deaths: int, *, lived_s: float) -> int:
    """The number of deaths in a row, after one more process died that had lived so long."""
    return 1 if lived_s >= LIVED_S else deaths + 1


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _threads_of_libraries() -> dict[str, str]:
    """The environment that Dask sets for its workers, each of which runs one task per thread."""
    return {
        name: str(value)
        for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items()
        if value is not None
    }


# --- The process itself, `python -m hooke.engines.dask.worker_process`. Its options arrive on stdin; the end of stdin means that its driver is dead.


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
    worker = await _worker(order, host="127.0.0.1")
    await worker.finished()


def _worker(order: dict[str, Any], *, host: str, death_timeout: float | None = None) -> Worker:
    dask.config.set({"distributed.worker.http.routes": []})
    return Worker(
        order["scheduler"],
        name=order["name"],
        nthreads=order["threads"],
        memory_limit=order["memory"],
        host=host,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        security=Security(require_encryption=True, **order["keys"]),
        death_timeout=death_timeout,
    )


def _follow_driver() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


# --- The same in a pod, `python -m hooke.engines.dask.worker_process ORDER`: the order names files with keys. SIGTERM means: finish, take no more, end.

POD_ADDRESS = "HOOKE_POD_IP"
"""The environment variable with the pod's address."""

JOIN_S = 45.0
"""How long a pod tries to reach its driver. It ends within a minute of its driver's death, also when it started after that."""

UNREACHED = 3
"""The exit code of a pod that did not reach it."""

LOOK_S = 0.2


def main_in_pod(order: dict[str, Any]) -> int:
    """Serve until the scheduler ends this worker or is gone, or the pod is to end and its work is done."""
    try:
        asyncio.run(_serve_pod(order))
    except TimeoutError:
        sys.stderr.write(f"the driver at {order['scheduler']} does not answer within {JOIN_S:g} s\n")
        return UNREACHED
    return 0


async def _serve_pod(order: dict[str, Any]) -> None:
    worker = _worker(order, host=os.environ[POD_ADDRESS], death_timeout=JOIN_S)
    ends = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ends.set)
    drained = asyncio.create_task(_drain_at(ends, worker))
    try:
        await worker
        await worker.finished()
    finally:
        drained.cancel()


async def _drain_at(ends: asyncio.Event, worker: Worker) -> None:
    await ends.wait()
    if worker.status != Status.running:
        await worker.close(reason="the pod ends")
        return
    # The scheduler and the driver learn it, and what has not begun here goes elsewhere.
    worker.status = Status.closing_gracefully
    while worker.state.executing or worker.state.long_running:  # noqa: ASYNC110 - Dask tells nobody when none is left
        await asyncio.sleep(LOOK_S)
    with contextlib.suppress(OSError):  # the driver may be gone
        await worker.scheduler.retire_workers(
            workers=[worker.address], close_workers=False, remove=False, stimulus_id="pod-ends"
        )
    await worker.close(reason="the pod ends")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main_in_pod(json.loads(sys.argv[1])))
    main()
