"""What is the same for a gang on every engine: its ranks' environment, and what their answers come to. Pure: no clock, no process.

A rank that fails breaks the connections of the others, whose errors tell of nothing but that. Such an echo is not
blamed while the cause may still come: a gang of which only echoes are known is given `ECHO_S` to name another rank.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from hooke.base.ref import Ref
from hooke.journal.events import AttemptFailed, AttemptFinished, Failure, LogSpan
from hooke.pipeline.engine import Call
from hooke.pipeline.references import Element, StoredValue, pack

__all__ = [
    "ECHO_S",
    "GATHER",
    "BeginRanks",
    "Disband",
    "Disbanded",
    "Gang",
    "Gather",
    "Meet",
    "Met",
    "Mustered",
    "RankAnswered",
    "RankNote",
    "RankRange",
    "Rendezvous",
    "Word",
    "environment_of",
    "pack_word",
    "unpack_word",
]


GATHER = "gather"
"""The kind of work that joins what the ranks returned, on the worker of rank 0: values do not pass through the driver."""

ECHO_S = 1.0
"""Ten times what a failed task needs to pickle its exception and to be heard, on a machine that does other things too."""

_RANK_INSIDE = "; read the rank inside the task: at a module's top it differs from the driver's"

_ECHO = re.compile(
    r"Dist(Backend|Network|Store)?Error|Connection\w*Error|BrokenPipeError|EOFError"
    r"|closed by peer|reset by peer|connection (closed|reset|refused)|broken pipe|gloo|nccl|socket timeout",
    re.IGNORECASE,
)
"""Errors of a rank that has lost another one."""


def environment_of(
    rank: int,
    ranks: int,
    *,
    address: str,
    port: int,
    local_rank: int | None = None,
    local_ranks: int | None = None,
) -> dict[str, str]:
    """The variables by which torch.distributed and others find one another; on one machine the local ones are the same."""
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank if local_rank is None else local_rank),
        "LOCAL_WORLD_SIZE": str(ranks if local_ranks is None else local_ranks),
    }


@dataclass(slots=True)
class Gang:
    """The ranks of one attempt, and what came of each."""

    call: Call
    finished: dict[int, AttemptFinished] = field(default_factory=dict)
    failed: dict[int, AttemptFailed] = field(default_factory=dict)
    """In the order in which they were heard of."""
    gathered: Ref | None = None
    """The list of all results, once it is stored."""
    _echoes_until: float | None = None

    def heard(self, rank: int, answer: AttemptFinished | AttemptFailed, now: float) -> None:
        """A rank has answered, or died. `now` is of a clock that does not jump."""
        if isinstance(answer, AttemptFinished):
            self.finished[rank] = answer
            return
        self.failed[rank] = answer
        if self._echoes_until is None:
            self._echoes_until = now + ECHO_S

    @property
    def is_done(self) -> bool:
        """Whether every rank has a result."""
        return len(self.finished) == self.call.gang

    def verdict(self, now: float) -> AttemptFailed | None:
        """The failure that ends the gang; None while there is none, or only echoes that may be of a rank not heard of yet."""
        if not self.failed:
            return None
        assert self._echoes_until is not None
        guilty = min(self.failed, key=lambda rank: _weight(self.failed[rank].failure))
        all_told = len(self.failed) + len(self.finished) == self.call.gang
        if _is_echo(self.failed[guilty].failure) and not all_told and now < self._echoes_until:
            return None
        return self._blamed(guilty)

    def result(self) -> AttemptFinished:
        """What the gang gives, once it is done: the result of rank 0, or what was gathered of all."""
        first, answers = self.finished[0], self.finished.values()
        peaks = [answer.peak_bytes for answer in answers if answer.peak_bytes is not None]
        return msgspec.structs.replace(
            first,
            at=max(answer.at for answer in answers),
            ref=first.ref if self.gathered is None else self.gathered,
            seconds=max(answer.seconds for answer in answers),
            cpu_s=sum(answer.cpu_s for answer in answers),
            peak_bytes=max(peaks, default=None),
            logs=tuple(self._logs()),
        )

    @property
    def to_gather(self) -> bytes:
        """What work of the kind GATHER is given: the ranks' results as a list; of a map a list for its one item."""
        refs = [self.finished[rank].ref for rank in range(self.call.gang)]
        if self.call.kind == "call":
            return pack([StoredValue(ref) for ref in refs], _no_promise)
        return pack([[Element(ref, 0) for ref in refs]], _no_promise)

    def _blamed(self, guilty: int) -> AttemptFailed:
        answer = self.failed[guilty]
        failure = msgspec.structs.replace(
            answer.failure,
            message="; ".join([answer.failure.message, *self._others(guilty)]),
            rank=guilty,
            ranks=self.call.gang,
            fix=answer.failure.fix + (_RANK_INSIDE if answer.failure.kind == "EnvironmentMismatch" else ""),
        )
        return msgspec.structs.replace(answer, failure=failure, done=0, ref=None, logs=tuple(self._logs()))

    def _others(self, guilty: int) -> Iterator[str]:
        """What else has failed by now."""
        mine = self.failed[guilty].failure
        for rank, answer in sorted(self.failed.items()):
            other = answer.failure
            if rank == guilty:
                continue
            if (other.kind, other.message) == (mine.kind, mine.message):
                yield f"rank {rank} likewise"
            elif _is_echo(other):
                yield f"rank {rank} lost its peer"
            else:
                yield f"rank {rank} failed too: {_short(other.message)}"

    def _logs(self) -> Iterator[LogSpan]:
        for rank in range(self.call.gang):
            answer = self.finished.get(rank) or self.failed.get(rank)
            if answer is not None and answer.log is not None:
                yield answer.log


def _is_echo(failure: Failure) -> bool:
    """Whether another rank's end may be its cause. A process that aborts is: NCCL's watchdog ends one so whose peer is gone."""
    if failure.kind == "WorkerDied":
        return failure.signal == signal.SIGABRT
    return failure.kind == "TaskError" and bool(_ECHO.search(f"{failure.error_type} {failure.message}"))


def _weight(failure: Failure) -> tuple[bool, bool]:
    """The least is to blame: not an echo, and a death before an error; of equals the one heard of first."""
    return _is_echo(failure), failure.kind == "TaskError"


def _short(message: str) -> str:
    first = message.strip().partition("\n")[0]
    return first if len(first) <= 120 else first[:117] + "..."


def _no_promise(promise: object) -> StoredValue:
    raise TypeError(f"no promise is in what ranks returned: {promise!r}")


# --- What a driver and the hosts of a gang tell one another. Each word and note names the muster that it is about: one try to begin a gang.


class RankRange(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks `lo..hi` of a gang of `ranks`, which are for one host."""

    muster: int
    lo: int
    hi: int
    ranks: int


class Meet(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start the ranks: this is where they are to meet."""

    muster: int
    address: str
    port: int


class BeginRanks(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All ranks are there, on all hosts: each is given the call."""

    muster: int


class Gather(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Have rank 0 join what all have returned."""

    muster: int
    payload: bytes


class Disband(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the ranks; Disbanded follows when they have ended."""

    muster: int
    cause: str


Word: TypeAlias = Meet | BeginRanks | Gather | Disband


class Met(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="met"):
    """The host of rank 0 keeps a port for them."""

    muster: int
    address: str
    port: int


class Mustered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="mustered"):
    """The processes of all ranks of this host are ready."""

    muster: int
    workers: list[str]
    """Their names, by rank."""


class RankAnswered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="rank_answered"):
    """A rank has answered, has gathered, or died."""

    muster: int
    rank: int
    answer: bytes
    """A packed AttemptFinished or AttemptFailed."""


class Disbanded(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="disbanded"):
    """No rank of it is left on this host."""

    muster: int


RankNote: TypeAlias = Met | Mustered | RankAnswered | Disbanded

_words = msgspec.msgpack.Decoder(Word)


def pack_word(word: Word) -> bytes:
    """A word, for a host."""
    return msgspec.msgpack.encode(word)


def unpack_word(data: bytes) -> Word:
    """What `pack_word` packed."""
    return _words.decode(data)


# --- A port for the ranks of a gang to meet at, kept for them until they are done.


class Rendezvous:
    """A free port of this machine that nobody else is given while this is open, and that rank 0 can listen at.

    It is bound here with SO_REUSEADDR and nobody listens at it. So the kernel gives it to no one who asks for any
    port, and lets one listen who asks for this one, with SO_REUSEADDR as servers do (torch, gRPC and Python's own).
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self._held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((address, 0))
        self.port: int = self._held.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the port; idempotent."""
        self._held.close()
