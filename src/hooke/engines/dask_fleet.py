"""A Dask cluster of this machine that outlives runs, for `hooke.Fleet`."""

from __future__ import annotations

from typing import Any

from distributed import Client

from hooke.engines.dask_cluster import close_cluster, local_cluster

__all__ = ["DaskFleet"]

WORKERS_S = 60.0


class DaskFleet:
    """Started when it is made, with all its workers. `at` is what the engine takes."""

    def __init__(self, *, workers: int, threads: int) -> None:
        """Raises HookeError where it cannot be started."""
        self.at = local_cluster(workers=workers, threads=threads)
        self._clients: list[Client] = []
        try:
            self.at.wait_for_workers(workers, timeout=WORKERS_S)
        except BaseException:
            self.close()
            raise

    def client(self) -> Client:
        """A client of the cluster, which becomes Dask's default; closed with the fleet."""
        made: Any = Client(self.at)
        self._clients.append(made)
        return made

    def close(self) -> None:
        """End the cluster."""
        for each in self._clients:
            each.close()
        close_cluster(self.at)
