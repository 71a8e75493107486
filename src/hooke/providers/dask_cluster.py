"""Workers of a Dask cluster object as a fleet's machines: anything that has `scale` and a scheduler.

Dask starts workers by number and names them itself, so it has no tokens. Each launch is therefore recorded in the scheduler's metadata, where
every controller finds it, before more workers are requested. A new worker belongs to the oldest launch that has none yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from distributed import Client

from hooke.base.errors import UsageError
from hooke.machines.provider import Impossible, Machine, ProviderError, ProviderFacts, Unreachable

__all__ = ["DaskCluster"]

BOOK = "hooke-fleet"
"""The key of the fleet's records in the scheduler's metadata, which live as long as the scheduler."""

ANSWER_S = 10.0
START_S = 600.0
"""A worker that has not joined by then never will: long enough for a cloud machine and its image."""

_T = TypeVar("_T")


class _Launch(msgspec.Struct):
    token: str
    at: float
    worker: str = ""
    """The worker's name; empty until one has joined."""


class _Book(msgspec.Struct):
    tag: str
    launches: list[_Launch] = []
    others: list[str] = []
    """Workers that belong to no launch."""


class _Worker(msgspec.Struct, frozen=True):
    name: Any
    address: str
    retiring: bool
    busy: bool


class DaskCluster:
    """One fleet is one whole cluster: workers that existed before belong to it as well."""

    def __init__(
        self,
        tag: str,
        cluster: Any,
        *,
        logs: Path | None = None,  # noqa: ARG002 - every provider gets it
        usd_per_hour: float = 0.0,
    ) -> None:
        """`tag` is the fleet's. The output of workers is where the cluster puts it, not in `logs`.

        Raises UsageError where `cluster` is not a Dask cluster.
        """
        if not callable(getattr(cluster, "scale", None)) or not hasattr(cluster, "scheduler_address"):
            raise UsageError(
                f"a {type(cluster).__name__} is not a Dask cluster: it has no `scale`, or no scheduler",
                fix="return a Dask cluster, such as a KubeCluster, an EC2Cluster or a SLURMCluster",
            )
        # The scheduler knows every worker, so a new one is in the next list.
        self.facts = ProviderFacts(
            name="dask", usd_per_hour=usd_per_hour, visible_s=1.0, look_s=0.5, sure=True
        )
        self._tag = tag
        self._cluster = cluster
        self._connection: Client | None = None
        self._idle: dict[str, float] = {}
        """Address -> since when the worker was idle."""
        self._emptied: set[str] = set()
        """Addresses of retired workers whose results are elsewhere."""

    def launch(self, token: str) -> str:
        """Ask for one more worker."""

        def ask() -> str:
            book, workers = self._looked()
            book.launches.append(_Launch(token, time.time()))
            known = {launch.worker for launch in book.launches}
            book.others = [name for name in workers if name not in known]
            self._write(book)
            self._cluster.scale(self._asked(book, workers) + 1)
            return token

        return self._reached(ask)

    def list(self) -> Sequence[Machine]:
        """The scheduler's workers, and launches whose worker may still join."""

        def look() -> Sequence[Machine]:
            book, workers = self._looked()
            coming = [each for each in book.launches if not each.worker]
            starting = [self._machine(each.token, each.token, each.at, None) for each in coming]
            tokens = {each.worker: each for each in book.launches if each.worker}
            there = []
            for name, worker in workers.items():
                launch = tokens.get(name)
                if launch is None:
                    there.append(self._machine(name, "", 0.0, worker))
                else:
                    there.append(self._machine(launch.token, launch.token, launch.at, worker))
            return [*there, *starting]

        return self._reached(look)

    def retire(self, machine: str) -> None:
        """Have a worker finish its tasks, take no more, and move its results to others. A launch without a worker is withdrawn.

        Call it until the machine is listed as retired: the results of its last tasks move when these have ended.
        """

        def retire() -> None:
            book, workers = self._looked()
            worker = self._worker_of(machine, book, workers)
            if worker is None:
                self._withdraw_launch(machine, book, workers)
            elif worker.address not in self._emptied:
                self._client().retire_workers([worker.address], close_workers=False, remove=False)
                if worker.retiring and not worker.busy:  # its last results have been moved, too
                    self._emptied.add(worker.address)

        self._reached(retire)

    def release(self, machine: str) -> None:
        """End its worker."""

        def release() -> None:
            book, workers = self._looked()
            worker = self._worker_of(machine, book, workers)
            if worker is None:
                self._withdraw_launch(machine, book, workers)
            elif callable(getattr(self._cluster, "scale_down", None)):
                self._cluster.sync(self._cluster.scale_down, [worker.name])
            else:
                # Such a cluster decides which one goes: ideally that of the worker that has ended.
                self._client().retire_workers([worker.address], close_workers=True, remove=True)
                self._cluster.scale(max(self._asked(book, workers) - 1, 0))

        self._reached(release)

    def close(self) -> None:
        """Close the connection; the cluster and its workers stay."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- inside ------------------------------------------------------------------------------------

    def _client(self) -> Any:
        if self._connection is None:
            security = getattr(self._cluster, "security", None)
            self._connection = Client(
                self._cluster.scheduler_address, security=security, set_as_default=False, timeout=ANSWER_S
            )
        return self._connection

    def _reached(self, call: Callable[[], _T]) -> _T:
        """Call the cluster. Raises Unreachable where it does not answer, though it may have acted."""
        try:
            return call()
        except ProviderError:
            raise
        except Exception as error:
            self.close()
            raise Unreachable(
                f"the fleet's Dask cluster does not answer: {type(error).__name__}: {error}"
            ) from error

    def _looked(self) -> tuple[_Book, dict[str, _Worker]]:
        """The records, brought up to date, and the workers by name. Raises Impossible for another fleet's cluster."""
        client = self._client()
        stored = client.get_metadata([BOOK], None)
        book = _Book(self._tag) if stored is None else msgspec.json.decode(stored, type=_Book)
        if book.tag != self._tag:
            raise Impossible(
                f"the Dask cluster belongs to the fleet {book.tag}",
                fix="give each fleet a cluster of its own",
            )
        running = client.processing()
        # `scheduler_info` gives what the client's own thread asked for last: now and then for no workers at all.
        there = client.sync(client.scheduler.identity, n_workers=-1)
        found = {
            str(facts["name"]): _Worker(
                facts["name"], address, facts["status"] == "closing_gracefully", bool(running.get(address))
            )
            for address, facts in there["workers"].items()
        }
        before = msgspec.json.encode(book)
        self._assign(book, found)
        if stored is not None and msgspec.json.encode(book) != before:
            self._write(book)
        return book, found

    def _assign(self, book: _Book, found: dict[str, _Worker]) -> None:
        """Assign new workers to launches that wait for one; forget workers that are gone."""
        known = {launch.worker for launch in book.launches} | {*book.others}
        new = [name for name in found if name not in known]
        for launch in book.launches:
            if not launch.worker and new:
                launch.worker = new.pop(0)
        late = time.time() - START_S
        book.launches = [
            launch
            for launch in book.launches
            if launch.worker in found or (not launch.worker and launch.at > late)
        ]
        book.others = [name for name in book.others if name in found]

    def _write(self, book: _Book) -> None:
        self._client().set_metadata([BOOK], msgspec.json.encode(book).decode())

    def _asked(self, book: _Book, workers: dict[str, _Worker]) -> int:
        """How many workers the cluster was asked for: its own number where it has one."""
        plan = getattr(self._cluster, "plan", None)
        if plan is not None:
            return len(plan)
        return len(workers) + sum(not launch.worker for launch in book.launches)

    def _worker_of(self, machine: str, book: _Book, workers: dict[str, _Worker]) -> _Worker | None:
        launch = next((each for each in book.launches if each.token == machine), None)
        return workers.get(machine if launch is None else launch.worker)

    def _withdraw_launch(self, machine: str, book: _Book, workers: dict[str, _Worker]) -> None:
        """Withdraw a launch whose worker has not joined, if there is one of that name."""
        left = [each for each in book.launches if each.token != machine]
        if len(left) < len(book.launches):
            fewer = max(self._asked(book, workers) - 1, 0)
            book.launches = left
            self._write(book)
            self._cluster.scale(fewer)

    def _machine(self, name: str, token: str, at: float, worker: _Worker | None) -> Machine:
        if worker is None:
            return Machine(id=name, token=token, phase="starting", started_at=at)
        if worker.busy:
            self._idle.pop(worker.address, None)
            return Machine(id=name, token=token, started_at=at)
        since = self._idle.setdefault(worker.address, time.monotonic())
        phase = "retired" if worker.retiring and worker.address in self._emptied else "ready"
        return Machine(id=name, token=token, phase=phase, started_at=at, idle_s=time.monotonic() - since)
