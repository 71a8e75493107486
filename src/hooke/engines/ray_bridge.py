"""`python -m hooke.engines.ray_bridge FD`: the process that holds a driver's connection to Ray, at whose end it ends all that is ours.

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
from pathlib import Path
from queue import Empty

import ray

from hooke.base.errors import HookeError, UsageError
from hooke.engines.channel import Channel
from hooke.engines.ray_head import Head
from hooke.engines.ray_hosts import Hosts, unfit
from hooke.engines.ray_messages import (
    Cancel,
    FromBridge,
    Open,
    Ship,
    ToBridge,
    Unfit,
    Up,
    Want,
    Withdraw,
    pack,
    unpack_for_bridge,
)

__all__ = ["main"]

LOOK_S = 0.5
NODES_EVERY_S = 2.0

ANSWER_S = 5.0
END_S = 10.0
"""What is not ended in order by then is killed."""


def main() -> int:
    """Serve until the driver closes its end, or is dead."""
    channel = Channel(int(sys.argv[1]))
    order = unpack_for_bridge(channel.receive())
    assert isinstance(order, Open)
    bridge = _Bridge(channel, order)
    threading.Thread(target=bridge.follow_driver, daemon=True).start()
    try:
        bridge.serve()
    finally:
        bridge.end()
    return 0


class _Bridge:
    def __init__(self, channel: Channel, order: Open) -> None:
        self._channel, self._order = channel, order
        self._head = Head(Path(order.folder)) if not order.address else None
        self._hosts = Hosts(
            order.session,
            order.probe,
            wanted=order.hosts,
            threads=order.threads,
            ours=self._head is not None,
            silent_s=order.silent_s,
        )
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Connect, then pass messages on."""
        try:
            self._connect()
        except HookeError as error:
            usage = isinstance(error, UsageError)
            self._say([Unfit(what=error.what, why=error.why, mend=error.mend, usage=usage)])
            return
        except Exception as error:  # noqa: BLE001 - Ray says nothing of what it may raise
            self._say([unfit(error, self._order.address)])
            return
        self._say([Up(address=self._order.address or "ray")])
        looked = nodes = 0.0
        while not self._ending.is_set():
            now = time.monotonic()
            if now - nodes >= NODES_EVERY_S:
                self._hosts.keep()
                nodes = now
            said: list[FromBridge] = []
            try:
                said += self._hosts.inbox.get(timeout=LOOK_S)()
                while True:
                    said += self._hosts.inbox.get_nowait()()
            except Empty:
                pass
            if now - looked >= LOOK_S:
                said += self._hosts.silent(now, every_s=LOOK_S)
                looked = now
            self._say(said)

    def follow_driver(self) -> None:
        """In a thread of its own: orders go to where Ray's answers come from, and the driver's end ends everything."""
        try:
            while True:
                order = unpack_for_bridge(self._channel.receive())
                self._hosts.inbox.put(lambda order=order: self._take(order))
        except (EOFError, OSError):
            pass
        self._ending.set()
        self._hosts.inbox.put(list)
        if not self._ended.wait(END_S):  # Ray waits for what does not answer
            self._kill()
            os._exit(1)

    def end(self) -> None:
        """End what is ours."""
        if self._head is None:
            self._hosts.close(END_S / 2)
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

    def _take(self, order: ToBridge) -> list[FromBridge]:
        match order:
            case Ship():
                self._hosts.ship(order.host, order.orders)
            case Cancel():
                self._hosts.cancel(order.host, order.attempt)
            case Withdraw():
                self._hosts.withdraw(order.host, order.attempts)
            case Want():
                gone = self._hosts.want(order.hosts, order.end)
                self._hosts.keep()
                return gone
            case Open():
                raise AssertionError("a bridge is opened once")
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
            mend="start one (`ray start --head --node-ip-address=127.0.0.1`), or correct the address",
        ) from error


if __name__ == "__main__":
    sys.exit(main())
