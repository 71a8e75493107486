"""The service that lets machines in: TLS 1.3, one line of JSON each way, little time and room for each who asks, and an end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError
from hooke.certificates.admission import (
    MOST_BYTES,
    Address,
    Admission,
    AdmissionRefused,
    Answer,
    Ask,
    AskJoin,
    Granted,
)
from hooke.certificates.authority import new_key, pem_of

__all__ = ["ANSWER_S", "MOST_AT_ONCE", "MOST_WRONG", "Told", "admit", "listen"]

ANSWER_S = 10.0
"""For the handshake, the question and the answer together."""

MOST_AT_ONCE = 32
"""Connections; who comes when there are so many waits until one has had its time."""

MOST_WRONG = 10
"""Tokens that never were any. Nobody guesses one; when somebody tries, no token is taken any more, and the one who started the service sees why."""

LOOK_S = 0.2

_ASK: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)

_NONSENSE = (
    OSError,
    EOFError,
    RecursionError,
    asyncio.LimitOverrunError,
    msgspec.DecodeError,
    UnicodeDecodeError,  # of bytes in a string that are no UTF-8: none of msgspec's own
)

_TRIED = f"{MOST_WRONG} wrong tokens were shown: somebody tries, and nobody is let in any more"
_FIND_OUT = "find out who, by the addresses above; then start it again"

Told = Callable[[str], None]


def listen(address: Address) -> socket.socket:
    """A socket that listens there. Raises HookeError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.create_server((address.host, address.port), family=family, backlog=MOST_AT_ONCE)
    except OSError as error:
        raise HookeError(
            f"nothing can listen on {address}",
            why=error.strerror or str(error),
            fix="give an address of this machine, and a port that is free: --listen 10.0.0.5:8788",
        ) from error
    listener.setblocking(False)
    return listener


def admit(admission: Admission, listener: socket.socket, *, until: float | None, tell: Told) -> int:
    """Let machines in until then, or, where that is None, while there is an open token; how many came.

    `tell` gets a line for each who came, was refused, or said nothing that is understood. After too many wrong tokens nobody joins any more:
    without `until` that raises HookeError, with it certificates are renewed until then. Raises HookeError, too, where the authority's files
    are damaged or cannot be written. The listener is closed in any case.
    """
    with listener:
        return asyncio.run(_Service(admission, tell).run(listener, until))


class _Service:
    def __init__(self, admission: Admission, tell: Told) -> None:
        self._admission = admission
        self._tell = tell
        self._came = 0
        self._handing_over = 0
        self._tls = _context(admission)
        self._broken: HookeError | None = None

    async def run(self, listener: socket.socket, until: float | None) -> int:
        accepting = asyncio.create_task(self._accept(listener))
        try:
            while not self._is_over(until):
                await asyncio.wait([accepting], timeout=LOOK_S)
                if accepting.done():
                    accepting.result()
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
        return self._came

    def _is_over(self, until: float | None) -> bool:
        if self._broken is not None:
            raise self._broken
        if until is None and self._is_tried:
            raise HookeError(_TRIED, fix=_FIND_OUT)
        if self._handing_over:
            return False  # its token is spent
        now = time.time()
        return now >= until if until is not None else not self._admission.tokens.open(now)

    @property
    def _is_tried(self) -> bool:
        return self._admission.wrong >= MOST_WRONG

    def _answer(self, ask: Ask, peer: str, serial: int | None) -> Answer:
        """What is said to who asks. Those who renew are not to suffer from one who tries tokens."""
        if isinstance(ask, AskJoin) and self._is_tried:
            return AdmissionRefused(
                why=_TRIED, fix="ask the one who runs `hooke fleet admit` to start it again"
            )
        before = self._is_tried
        answer = self._admission.answer(ask, now=time.time(), address=peer, shown=serial)
        if self._is_tried and not before:
            self._tell(f"{_TRIED}: {_FIND_OUT}")
        return answer

    async def _accept(self, listener: socket.socket) -> None:
        loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(MOST_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                try:
                    connection, peer = await loop.sock_accept(listener)
                except OSError as error:  # who connected is gone already, or there are no descriptors
                    self._tell(f"nobody could connect: {error}")
                    slots.release()
                    await asyncio.sleep(LOOK_S)
                    continue
                group.create_task(self._serve(connection, str(peer[0]))).add_done_callback(
                    lambda _: slots.release()
                )

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._exchange(connection, peer)
        except TimeoutError:
            self._tell(f"{peer}: asked for nothing within {ANSWER_S:g} s")
        except _NONSENSE as error:
            self._tell(f"{peer}: asked for nothing that is understood ({type(error).__name__})")
        except HookeError as error:
            self._broken = error
        finally:
            connection.close()

    async def _exchange(self, connection: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MOST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._tls,
            ssl_handshake_timeout=ANSWER_S,
            ssl_shutdown_timeout=1.0,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        handing_over = False
        try:
            ask = _ASK.decode(await reader.readuntil(b"\n"))
            shown = transport.get_extra_info("peercert") or {}
            serial = int(shown["serialNumber"], 16) if shown else None
            answer = self._answer(ask, peer, serial)
            handing_over = isinstance(answer, Granted)
            self._handing_over += handing_over
            self._note(ask, answer, peer)
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
            await reader.read(1)  # who asked hangs up first, and so has the answer
        finally:
            self._handing_over -= handing_over
            transport.abort()

    def _note(self, ask: Ask, answer: Answer, peer: str) -> None:
        match answer:
            case Granted():
                joined = isinstance(ask, AskJoin)
                self._came += joined
                how = "joined" if joined else "has a new certificate"
                self._tell(f"{answer.machine} at {peer} {how}")
            case AdmissionRefused():
                self._tell(f"{peer}: refused: {answer.why}")


def _context(admission: Admission) -> ssl.SSLContext:
    """Proves the authority's service to who asks; a certificate is looked at where one is shown."""
    authority = admission.authority
    key = new_key()
    now = time.time()
    pem = authority.certify_admission(key.public_key(), now=now, valid_s=authority.until - now)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    context.verify_mode = ssl.CERT_OPTIONAL
    with tempfile.TemporaryDirectory() as folder:  # for its owner alone; ssl reads keys from files only
        path = Path(folder) / "admission.pem"
        path.write_bytes(pem + pem_of(key))
        context.load_cert_chain(path)
    return context
