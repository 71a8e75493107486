"""`python -m hooke.engines.ray.bridge FD`: the process that holds a driver's connection to Ray. When the driver ends, it ends everything that the run started.

It is a process of its own because Ray's library ends its process when Ray's head is gone, replaces signal handlers,
writes to the terminal, and reads its settings only once.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

import ray

from hooke.base.errors import HookeError, UsageError
from hooke.engines.ray import bridge_protocol as protocol
from hooke.engines.ray.actors import (
    LOOK_S,
    HostActor,
    HostActors,
    connection_lost,
    ray_unavailable,
    start_actor,
)
from hooke.engines.ray.head import Head
from hooke.processes.channel import Channel

__all__ = ["main"]

NODES_EVERY_S = 2.0

SPARE_S = 120.0
"""A Ray actor takes 3 s to start, and more than 30 s on a machine at a load of ten."""

ANSWER_S = 5.0
END_S = 10.0
"""Processes that have not ended by then are killed."""


def main() -> int:
    """Serve until the driver closes its end, or is dead."""
    channel = Channel(int(sys.argv[1]))
    order = protocol.unpack_for_bridge(channel.receive())
    assert isinstance(order, protocol.ConnectBridge)
    bridge = _Bridge(channel, order)
    threading.Thread(target=bridge.follow_driver, daemon=True).start()
    try:
        bridge.serve()
    finally:
        bridge.end()
    return 0


class _Bridge:
    def __init__(self, channel: Channel, order: protocol.ConnectBridge) -> None:
        self._channel, self._order = channel, order
        self._head = None if order.address else Head(Path(order.folder), cpus=order.cpus)
        self._inbox: SimpleQueue[Callable[[], list[protocol.FromBridge]]] = SimpleQueue()
        self._hosts: HostActors | None = None
        self._spare: list[HostActor] = []
        self._ending = threading.Event()
        self._ended = threading.Event()

    def serve(self) -> None:
        """Connect, then forward messages."""
        try:
            self._connect()
        except HookeError as error:
            self._send([_failed(error)])
            return
        except Exception as error:  # noqa: BLE001 - Ray does not document what it raises
            ours = self._head
            self._send(
                [_failed(ours.failure(str(error))) if ours else ray_unavailable(error, self._order.address)]
            )
            return
        self._send(
            [protocol.BridgeConnected(address=self._head.address if self._head else self._order.address)]
        )
        try:
            self._forward()
        except Exception as error:  # noqa: BLE001 - this process ends by `os._exit`, and its log ends with it
            self._send([connection_lost(error)])

    def _forward(self) -> None:
        looked = nodes = 0.0
        while not self._ending.is_set():
            now = time.monotonic()
            said: list[protocol.FromBridge] = []
            if now - nodes >= NODES_EVERY_S:
                if self._hosts is not None:
                    said += self._hosts.keep()
                nodes = now
            try:
                said += self._inbox.get(timeout=LOOK_S)()
                while True:
                    said += self._inbox.get_nowait()()
            except Empty:
                pass
            if now - looked >= LOOK_S:
                if self._hosts is not None:
                    said += self._hosts.silent(now)
                looked = now
            self._send(said)

    def follow_driver(self) -> None:
        """In a thread of its own: queue the driver's orders beside Ray's answers. The driver's end ends everything."""
        try:
            while True:
                order = protocol.unpack_for_bridge(self._channel.receive())
                self._inbox.put(lambda order=order: self._take(order))
        except (EOFError, OSError):
            pass
        self._ending.set()
        self._inbox.put(list)
        if not self._ended.wait(END_S):  # Ray waits for nodes that do not answer
            self._kill()
            os._exit(1)

    def end(self) -> None:
        """End the actors, and a Ray that this process started."""
        if self._head is None:
            free = self._spare if self._hosts is None else self._hosts.close(END_S / 2)
            for each in free:
                ray.kill(each.actor)
            ray.shutdown()
        self._kill()
        self._ended.set()
        # Ray's library would wait for processes that are gone.
        os._exit(0)

    def _connect(self) -> None:
        if self._head is not None:
            self._head.wait()
        else:
            _check_answers(self._order.address)
        ray.init(
            address=self._order.address or (self._head.address if self._head else None),
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
        if self._head is not None:
            self._head.release_ports()
            self._head.check_loopback()
        if self._order.spare:
            self._spare = [
                start_actor(f"spare-{number}", cpus=0, gpus=0.0, ours=True)
                for number in range(self._order.spare)
            ]
            ray.get([each.actor.ready.remote() for each in self._spare], timeout=SPARE_S)

    def _take(self, order: protocol.ToBridge) -> list[protocol.FromBridge]:
        if isinstance(order, protocol.OpenRun):
            self._hosts = HostActors(order, ours=self._order.ours, inbox=self._inbox, spare=self._spare)
            self._hosts.keep()
        hosts = self._hosts
        assert hosts is not None, "a run is opened first"
        match order:
            case protocol.CallHost():
                hosts.call(order)
            case protocol.SetHosts():
                gone = hosts.set_hosts(order.hosts, order.end)
                return gone + hosts.keep()
            case protocol.EndRun():
                self._spare = hosts.close(END_S / 2)
                self._hosts = None
                return [protocol.RunEnded()]
            case protocol.OpenRun():
                pass
            case protocol.ConnectBridge():
                raise AssertionError("a bridge is started once")
        return []

    def _send(self, messages: list[protocol.FromBridge]) -> None:
        if not messages:
            return
        for message in messages:
            self._channel.hold(protocol.pack(message))
        try:
            self._channel.flush()
        except OSError:
            self._ending.set()

    def _kill(self) -> None:
        if self._head is not None:
            self._head.end()
        shutil.rmtree(self._order.folder, ignore_errors=True)


def _failed(error: HookeError) -> protocol.BridgeFailed:
    return protocol.BridgeFailed(
        what=error.what, why=error.why, fix=error.fix, usage=isinstance(error, UsageError)
    )


def _check_answers(address: str) -> None:
    """Raise UsageError where nothing listens: Ray's library would try for a minute, then end this process."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # `auto`: Ray looks for a Ray on this machine
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no Ray answers at {address}",
            why=str(error),
            fix="start one (`ray start --head --node-ip-address=127.0.0.1`), or correct the address",
        ) from error


if __name__ == "__main__":
    sys.exit(main())
