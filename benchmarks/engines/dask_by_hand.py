"""The same work given to Dask by hand."""

from __future__ import annotations

from typing import Any

from benchmarks.engines import work
from benchmarks.engines.noops import noop
from distributed import Client

__all__ = ["DaskByHand"]


class DaskByHand:
    def __init__(self, client: Client) -> None:
        self._client = client

    def flights(self, months: int) -> dict[str, Any]:
        """Dask's futures for promises."""

        def go(each: Any, *args: Any, **kwargs: Any) -> Any:
            return self._client.submit(each.function, *args, pure=False, **kwargs)

        return self._client.gather(work.flights(go, months))

    def noops(self, many: int) -> list[int]:
        return self._client.gather(self._client.map(noop.function, range(many), pure=False))
