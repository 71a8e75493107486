"""The hosts of a run as the gang coordinator uses them: ranks are placed by `Placement` and ordered over the transport."""

from __future__ import annotations

from collections.abc import Callable

from hooke.engines.gang import GangCommand, RankRange
from hooke.engines.remote.placement import Peer, Placement
from hooke.engines.remote.worker_protocol import AttemptOrder, Transport
from hooke.pipeline.engine import Call

__all__ = ["GangHosts"]


class GangHosts:
    """Fulfils `gang_coordinator.RankHosts`."""

    def __init__(
        self,
        transport: Transport,
        placement: Placement,
        order: Callable[[Peer, Call, RankRange], AttemptOrder],
    ) -> None:
        """`order` makes the order of a part. It raises HookeError where the function cannot travel."""
        self.free = placement.take_gang
        self._transport = transport
        self._placement = placement
        self._order = order

    def place(self, call: Call, try_id: int) -> dict[str, range] | None:
        """Order ranks from hosts that have room for all of them."""
        chosen = self._placement.choose_for_gang(call)
        if chosen is None:
            return None
        parts: dict[str, range] = {}
        orders: list[tuple[str, AttemptOrder]] = []
        lo = 0
        for peer, ranks in chosen:
            part = RankRange(try_id=try_id, lo=lo, hi=lo + ranks, ranks=call.gang)
            orders.append((peer.address, self._order(peer, call, part)))
            parts[peer.address] = range(lo, lo + ranks)
            lo += ranks
        self._placement.put_gang(call, chosen)
        for address, order in orders:
            self._transport.ship(address, [order])
        return parts

    def speak(self, address: str, attempt: int, command: GangCommand) -> None:
        """Send a command to a host that was given ranks of the attempt."""
        self._transport.speak(address, attempt, command)

    def cancel(self, address: str, attempt: int) -> None:
        """Have a host end its ranks of an attempt."""
        self._transport.cancel(address, attempt)

    def stored(self, digest: str, address: str) -> None:
        """A gang's result was written there."""
        if peer := self._placement.peers.get(address):
            self._placement.stored(digest, peer)
