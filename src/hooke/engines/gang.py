"""Gangs on any engine: the ranks' environment, their joint result, the messages about them, and the port where they meet.

A rank that fails breaks the connections of the other ranks, and their errors report only that. Such an echo is not blamed
while its cause may still arrive: a gang that knows only echoes waits `ECHO_S` for another rank's failure.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from hooke.base.observed import read_by_any
from hooke.base.ref import Ref
from hooke.base.this_process import MOST_RANKS
from hooke.journal.events import GANG_RESIZED, AttemptFailed, AttemptFinished, Failure, LogSpan
from hooke.pipeline.engine import Call
from hooke.pipeline.references import Element, StoredValue, pack

__all__ = [
    "ECHO_S",
    "GATHER",
    "BeginRanks",
    "EndRanks",
    "Gang",
    "GangCommand",
    "GatherResults",
    "PortKept",
    "RankAnswered",
    "RankLeaves",
    "RankNote",
    "RankRange",
    "RanksEnded",
    "RanksReady",
    "Rendezvous",
    "ResizeRanks",
    "StartRanks",
    "environment_of",
    "pack_command",
    "unpack_answer",
    "unpack_command",
]


GATHER = "gather"
"""The kind of call that joins the results of all ranks, on the worker of rank 0, so no value passes through the driver."""

ECHO_S = 1.0
"""Ten times what a failed task needs to pickle its exception and report it, on a busy machine."""

_RANK_INSIDE = "; read the rank inside the task: at the top of a module it differs from the driver's"

_ECHO = re.compile(
    r"Dist(Backend|Network|Store)?Error|Connection\w*Error|BrokenPipeError|EOFError"
    r"|closed by peer|reset by peer|connection (closed|reset|refused)|broken pipe|gloo|nccl|socket (timeout|closed)"
    r"|UnavailableError|UNAVAILABLE:|error received from peer|collective ops is aborted",  # of TensorFlow and JAX
    re.IGNORECASE,
)
"""Errors of a rank that lost its connection to another one."""


class Gang(msgspec.Struct):
    """The ranks of one attempt, and the answer of each."""

    call: Call
    finished: dict[int, AttemptFinished] = msgspec.field(default_factory=dict)
    failed: dict[int, AttemptFailed] = msgspec.field(default_factory=dict)
    """In the order in which they were reported."""
    gathered: Ref | None = None
    """The list of all results, once it is stored."""
    wanted: int = 0
    """Of an elastic gang: the ranks with which it is to go on from its next checkpoint; 0 if nothing was asked."""
    leaves: bool = False
    """Whether rank 0 ends at a checkpoint, to go on with another number of ranks. From then on no rank is to blame."""
    _echoes_until: float | None = None

    def heard(self, rank: int, answer: AttemptFinished | AttemptFailed, now: float) -> None:
        """Record that a rank has answered, or died. `now` is of a monotonic clock."""
        if isinstance(answer, AttemptFinished):
            self.finished[rank] = answer
            return
        self.failed[rank] = answer
        self.leaves = self.leaves or answer.resized
        if self._echoes_until is None:
            self._echoes_until = now + ECHO_S

    @property
    def is_done(self) -> bool:
        """Whether every rank has a result."""
        return len(self.finished) == self.call.gang

    def verdict(self, now: float) -> AttemptFailed | None:
        """The failure that ends the gang. None while there is none, or only echoes whose cause may still arrive."""
        if not self.failed:
            return None
        if self.leaves:  # rank 0 may still bring its checkpoint to the store
            return self._resized(self.failed[0]) if 0 in self.failed else None
        assert self._echoes_until is not None
        guilty = min(self.failed, key=lambda rank: _weight(self.failed[rank].failure))
        all_told = len(self.failed) + len(self.finished) == self.call.gang
        if _is_echo(self.failed[guilty].failure) and not all_told and now < self._echoes_until:
            return None
        return self._blamed(guilty)

    def result(self) -> AttemptFinished:
        """The answer of the gang, once it is done: the result of rank 0, or the list of all results."""
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
            checkpoints=tuple(dict.fromkeys(key for answer in answers for key in answer.checkpoints)),
            observed=read_by_any([answer.observed for answer in answers]),
            data=tuple(dict.fromkeys(each for answer in answers for each in answer.data)),
        )

    @property
    def to_gather(self) -> bytes:
        """The payload of a GATHER call: the ranks' results as a list; for a map, a list with this list as its one item."""
        refs = [self.finished[rank].ref for rank in range(self.call.gang)]
        if self.call.kind == "call":
            return pack([StoredValue(ref) for ref in refs], _no_promise)
        return pack([[Element(ref, 0) for ref in refs]], _no_promise)

    def _resized(self, answer: AttemptFailed) -> AttemptFailed:
        """The answer of a gang that has ended at a checkpoint, whatever its ranks said when they lost one another."""
        ranks = self.call.gang
        why = "others wait for room" if 0 < self.wanted < ranks else "there is room for more"
        failure = Failure(
            kind=GANG_RESIZED,
            message=f"its {_ranks(ranks)} ended at a checkpoint, to go on with {_ranks(self.wanted)}: {why}",
            arguments=answer.failure.arguments,
            ranks=ranks,
        )
        return msgspec.structs.replace(answer, failure=failure, done=0, ref=None, logs=tuple(self._logs()))

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
        """The failures of the other ranks so far."""
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


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _is_echo(failure: Failure) -> bool:
    """Whether another rank's end may be the cause. An abort counts: NCCL's watchdog aborts a process whose peer is gone."""
    if failure.kind == "WorkerDied":
        return failure.signal == signal.SIGABRT
    return failure.kind == "TaskError" and bool(_ECHO.search(f"{failure.error_type} {failure.message}"))


def _weight(failure: Failure) -> tuple[bool, bool]:
    """The lowest weight is to blame: a cause before an echo, a death before an error. Ties go to the first reported."""
    return _is_echo(failure), failure.kind == "TaskError"


def _short(message: str) -> str:
    first = message.strip().partition("\n")[0]
    return first if len(first) <= 120 else first[:117] + "..."


def _no_promise(promise: object) -> StoredValue:
    raise TypeError(f"the result of a rank contains a promise: {promise!r}")


# --- Messages between the driver and the hosts of a gang. `try_id` numbers the tries to run a gang.


class RankRange(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks `lo..hi` of a gang of `ranks`, all on one host."""

    try_id: int
    lo: int
    hi: int
    ranks: int
    most: int = 0
    """Of an elastic gang: how many ranks another attempt may have; 0 if it is not one."""


class StartRanks(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start the ranks, which meet at this port."""

    try_id: int
    address: str
    port: int


class BeginRanks(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All ranks are ready, on all hosts: hand each the call."""

    try_id: int


class ResizeRanks(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Tell rank 0 with how many ranks the gang is to go on from its next checkpoint; as many as it has: to stay as it is."""

    try_id: int
    ranks: int


class GatherResults(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Have rank 0 join the results of all ranks."""

    try_id: int
    payload: bytes


class EndRanks(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the ranks. RanksEnded follows when they have ended."""

    try_id: int
    cause: str


GangCommand: TypeAlias = StartRanks | BeginRanks | ResizeRanks | GatherResults | EndRanks


class PortKept(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="port_kept"):
    """The host of rank 0 reserves a port for the ranks."""

    try_id: int
    address: str
    port: int


class RanksReady(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="ranks_ready"):
    """The processes of all ranks of this host are ready."""

    try_id: int
    workers: list[str]
    """Their names, by rank."""


class RankLeaves(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="rank_leaves"):
    """Rank 0 has saved a checkpoint and ends, as it was asked to. Its answer follows."""

    try_id: int


class RankAnswered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="rank_answered"):
    """A rank has answered, has gathered the results, or has died."""

    try_id: int
    rank: int
    answer: bytes
    """A packed AttemptFinished or AttemptFailed."""


class RanksEnded(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="ranks_ended"):
    """No rank is left on this host."""

    try_id: int


RankNote: TypeAlias = PortKept | RanksReady | RankLeaves | RankAnswered | RanksEnded

_commands = msgspec.msgpack.Decoder(GangCommand)
_answers = msgspec.msgpack.Decoder(AttemptFinished | AttemptFailed)


def pack_command(command: GangCommand) -> bytes:
    """A command as bytes, for a host."""
    return msgspec.msgpack.encode(command)


def unpack_command(data: bytes) -> GangCommand:
    """The command that `pack_command` packed."""
    return _commands.decode(data)


def environment_of(rank: int, part: RankRange, meet: StartRanks) -> dict[str, str]:
    """The variables by which torch.distributed and other libraries connect ranks. The local ones count the ranks of a host."""
    elastic = {MOST_RANKS: str(part.most)} if part.most else {}
    return elastic | {
        "MASTER_ADDR": meet.address,
        "MASTER_PORT": str(meet.port),
        "RANK": str(rank),
        "WORLD_SIZE": str(part.ranks),
        "LOCAL_RANK": str(rank - part.lo),
        "LOCAL_WORLD_SIZE": str(part.hi - part.lo),
    }


def unpack_answer(data: bytes) -> AttemptFinished | AttemptFailed:
    """The answer that a worker packed."""
    return _answers.decode(data)


# --- The port where the ranks of a gang meet.


class Rendezvous:
    """A free port of this machine, reserved while this object is open, at which rank 0 can listen.

    It is bound with SO_REUSEADDR, and nothing listens at it. So the kernel gives it to no process that asks for any free
    port, and lets a process listen that asks for this one with SO_REUSEADDR, as servers do (torch, gRPC, Python's own).
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
        """Release the port; idempotent."""
        self._held.close()
