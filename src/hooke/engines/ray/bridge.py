"""`python -m hooke.engines.ray.bridge FD`: the process that holds a driver's connection to Ray, at whose end it ends all that is ours.

Ray ends the process that uses it where its head is gone, takes its signal handlers and writes to its terminal, and
reads its settings once; so it is not the driver's.
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
from hooke.engines.ray.actors import LOOK_S, RayHosts, Seat, failed, seat, unfit
from hooke.engines.ray.bridge_protocol import (
    Cancel,
    ConnectBridge,
    FromBridge,
    Open,
    Rest,
    Rested,
    Ship,
    Speak,
    ToBridge,
    Unfit,
    Up,
    Want,
    Withdraw,
    pack,
    unpack_for_bridge,
)
from hooke.engines.ray.head import Head
from hooke.processes.channel import Channel

__all__ = ["main"]

NODES_EVERY_S = 2.0

SPARE_S = 120.0
"""A process of Ray's for a host takes 3 s to start, and on a machine at a load of ten more than 30."""

ANSWER_S = 5.0
END_S = 10.0
"""What is not ended in order by then is killed."""


def main() -> int:
    """Serve until the driver closes its end, or is dead."""
    channel = Channel(int(sys.argv[1]))
    order = unpack_for_bridge(channel.receive())
    assert isinstance(order, ConnectBridge)
    bridge = _Bridge(channel, order)
    threading.Thread(target=bridge.follow_driver, daemon=True).start()
    try:
        bridge.serve()
    finally:
        bridge.end()
    return 0


class _Bridge:
    def __init__(self, channel: Channel, order: ConnectBridge) -> None:
        self._channel, self._order = channel, order
        self._head = None if order.address else Head(Path(order.folder), cpus=order.cpus)
        self._inbox: SimpleQueue[Callable[[], list[FromBridge]]] = SimpleQueue()
        self._hosts: RayHosts | None = None
        self._spare: list[Seat] = []
        self._ending = threading.Event()
        self._ended = threading.Event()

    def serve(self) -> None:
        """Connect, then pass messages on."""
        try:
            self._connect()
        except HookeError as error:
            usage = isinstance(error, UsageError)
            self._say([Unfit(what=error.what, why=error.why, fix=error.fix, usage=usage)])
            return
        except Exception as error:  # noqa: BLE001 - Ray says nothing of what it may raise
            self._say([unfit(error, self._order.address)])
            return
        self._say([Up(address=self._head.address if self._head else self._order.address)])
        try:
            self._pass_on()
        except Exception as error:  # noqa: BLE001 - this process leaves by `os._exit`, and its log goes with it
            self._say([failed(error)])

    def _pass_on(self) -> None:
        looked = nodes = 0.0
        while not self._ending.is_set():
            now = time.monotonic()
            said: list[FromBridge] = []
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
            self._say(said)

    def follow_driver(self) -> None:
        """In a thread of its own: orders go to where Ray's answers come from, and the driver's end ends everything."""
        try:
            while True:
                order = unpack_for_bridge(self._channel.receive())
                self._inbox.put(lambda order=order: self._take(order))
        except (EOFError, OSError):
            pass
        self._ending.set()
        self._inbox.put(list)
        if not self._ended.wait(END_S):  # Ray waits for what does not answer
            self._kill()
            os._exit(1)

    def end(self) -> None:
        """End what is ours."""
        if self._head is None:
            free = self._spare if self._hosts is None else self._hosts.close(END_S / 2)
            for each in free:
                ray.kill(each.actor)
            ray.shutdown()
        self._kill()
        self._ended.set()
        # Ray's library would wait for the processes that are gone.
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
            self._head.check_loopback()
        if self._order.spare:
            self._spare = [
                seat(f"spare-{number}", cpus=0, gpus=0.0, ours=True) for number in range(self._order.spare)
            ]
            ray.get([each.actor.ready.remote() for each in self._spare], timeout=SPARE_S)

    def _take(self, order: ToBridge) -> list[FromBridge]:
        if isinstance(order, Open):
            self._hosts = RayHosts(order, ours=self._order.ours, inbox=self._inbox, spare=self._spare)
            self._hosts.keep()
        hosts = self._hosts
        assert hosts is not None, "a run is opened before it asks for something"
        match order:
            case Ship():
                hosts.ship(order.host, order.orders)
            case Cancel():
                hosts.cancel(order.host, order.attempt)
            case Withdraw():
                hosts.withdraw(order.host, order.attempts)
            case Speak():
                hosts.speak(order.host, order.word)
            case Want():
                gone = hosts.want(order.hosts, order.end)
                return gone + hosts.keep()
            case Rest():
                self._spare = hosts.close(END_S / 2)
                self._hosts = None
                return [Rested()]
            case Open():
                pass
            case ConnectBridge():
                raise AssertionError("a bridge is started once")
        return []

    def _say(self, messages: list[FromBridge]) -> None:
        if not messages:
            return
        for message in messages:
            self._channel.hold(pack(message))
        try:
            self._channel.flush()
        except OSError:
            self._ending.set()

    def _kill(self) -> None:
        if self._head is not None:
            self._head.end()
        shutil.rmtree(self._order.folder, ignore_errors=True)


def _check_answers(address: str) -> None:
    """Ray would try for a minute, and then end this process. Raises HookeError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # `auto`, which is found by the processes of this machine
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
