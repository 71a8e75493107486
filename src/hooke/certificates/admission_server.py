"""The admission service: TLS 1.3, one line of JSON each way, and limits on the time and size of each request."""

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
    Admission,
    AdmissionRefused,
    Answer,
    Ask,
    AskJoin,
    Granted,
)
from hooke.certificates.authority import new_key, pem_of
from hooke.certificates.key_files import Address

__all__ = ["ANSWER_S", "MOST_AT_ONCE", "MOST_WRONG", "Say", "admit", "listen"]

ANSWER_S = 10.0
"""Time for the handshake, the request and the answer together."""

MOST_AT_ONCE = 32
"""Simultaneous connections; further ones wait."""

MOST_WRONG = 10
"""Unknown tokens. Nobody can guess one; after so many attempts the service accepts no token and reports why."""

LOOK_S = 0.2

_ASK: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)

_INVALID = (
    OSError,
    EOFError,
    RecursionError,
    asyncio.LimitOverrunError,
    msgspec.DecodeError,
    UnicodeDecodeError,  # invalid UTF-8 in a string, which msgspec does not wrap
)

_GUESSED = f"{MOST_WRONG} wrong tokens were shown: somebody may be guessing, so no machine can join now"
_FIND_OUT = "find out who, by the addresses above; then start it again"

Say = Callable[[str], None]
"""Takes a line for the user."""


def listen(address: Address) -> socket.socket:
    """A socket that listens on an address. Raises HookeError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.create_server((address.host, address.port), family=family, backlog=MOST_AT_ONCE)
    except OSError as error:
        raise HookeError(
            f"cannot listen on {address}",
            why=error.strerror or str(error),
            fix="pass an address of this machine and a free port: --listen 10.0.0.5:8788",
        ) from error
    listener.setblocking(False)
    return listener


def admit(admission: Admission, listener: socket.socket, *, until: float | None, say: Say) -> int:
    """Admit machines until `until`, or with None while a token is open; returns how many joined.

    `say` gets a line for each machine that joined, was refused, or sent nothing valid. After too many wrong tokens no machine can join:
    without `until` that raises HookeError, with it certificates are still renewed. Also raises HookeError where the authority's files
    are damaged or cannot be written. The listener is always closed.
    """
    with listener:
        return asyncio.run(_Service(admission, say).run(listener, until))


class _Service:
    def __init__(self, admission: Admission, say: Say) -> None:
        self._admission = admission
        self._say = say
        self._joined = 0
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
        return self._joined

    def _is_over(self, until: float | None) -> bool:
        if self._broken is not None:
            raise self._broken
        if until is None and self._too_many_wrong:
            raise HookeError(_GUESSED, fix=_FIND_OUT)
        if self._handing_over:
            return False  # it has used its token
        now = time.time()
        return now >= until if until is not None else not self._admission.tokens.open(now)

    @property
    def _too_many_wrong(self) -> bool:
        return self._admission.wrong >= MOST_WRONG

    def _answer(self, ask: Ask, peer: str, serial: int | None) -> Answer:
        """Answer a request. Wrong tokens of others do not stop renewals."""
        if isinstance(ask, AskJoin) and self._too_many_wrong:
            return AdmissionRefused(
                why=_GUESSED, fix="ask whoever runs `hooke fleet admit` to start it again"
            )
        before = self._too_many_wrong
        answer = self._admission.answer(ask, now=time.time(), address=peer, shown=serial)
        if self._too_many_wrong and not before:
            self._say(f"{_GUESSED}: {_FIND_OUT}")
        return answer

    async def _accept(self, listener: socket.socket) -> None:
        loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(MOST_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                try:
                    connection, peer = await loop.sock_accept(listener)
                except OSError as error:  # the client is gone already, or there are no descriptors
                    self._say(f"a connection failed: {error}")
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
            self._say(f"{peer}: no request within {ANSWER_S:g} s")
        except _INVALID as error:
            self._say(f"{peer}: invalid request ({type(error).__name__})")
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
            await reader.read(1)  # the client hangs up once it has the answer
        finally:
            self._handing_over -= handing_over
            transport.abort()

    def _note(self, ask: Ask, answer: Answer, peer: str) -> None:
        match answer:
            case Granted():
                joined = isinstance(ask, AskJoin)
                self._joined += joined
                how = "joined" if joined else "has a new certificate"
                self._say(f"{answer.machine} at {peer} {how}")
            case AdmissionRefused():
                self._say(f"{peer}: refused: {answer.why}")


def _context(admission: Admission) -> ssl.SSLContext:
    """TLS with a certificate of the authority for this service; client certificates are optional."""
    authority = admission.authority
    key = new_key()
    now = time.time()
    pem = authority.certify_admission(key.public_key(), now=now, valid_s=authority.until - now)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    context.verify_mode = ssl.CERT_OPTIONAL
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # readable by its owner alone; ssl reads keys only from files
        path = Path(folder) / "admission.pem"
        path.write_bytes(pem + pem_of(key))
        context.load_cert_chain(path)
    return context
