"""Limits of a replica: memory for request bodies, time and number of connections, and tries of a request that ends replicas."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mmap
import resource
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hooke.serving.problems import Problem

__all__ = [
    "BODY_LIMIT",
    "MOST_KEYS",
    "OVER_KEY_LIMIT",
    "SMALL_BODY",
    "SPARE_FILES",
    "BodyMemory",
    "ConnectionLimits",
    "KeyRates",
    "KeyTokens",
    "SecondTries",
    "TokenReservation",
    "body_memory_bytes",
]


BODY_LIMIT = 16 << 20
"""Bytes of one body; a batch of images fits."""
SMALL_BODY = 64 << 10
"""Bodies up to this size need no reservation: as much is read of each connection anyway, and connections are limited."""
PART = 8
"""The part of a replica's memory for bodies: 1 in so many. JSON numbers take eight times as much as Python objects."""
WAIT_S = 1.0
"""For room: a request takes milliseconds as a rule, and a proxy has other replicas."""
WAITING = 64
"""Requests that wait for room; of each up to 640 KB have arrived, in two reads of the event loop."""
CGROUP = Path("/sys/fs/cgroup")


def body_memory_bytes(*, memory_bytes: int | None = None, among: int = 1) -> int:
    """Bytes for bodies of a replica with so much memory, or else with its part, `among` several, of the free memory; one body always fits."""
    free = _free_bytes() // among
    return max(min(free, memory_bytes or free) // PART, BODY_LIMIT)


class BodyMemory:
    """A memory budget of `most` bytes, granted to bodies in order. Belongs to the event loop."""

    def __init__(self, most: int, *, wait_s: float = WAIT_S) -> None:
        self.most = most
        self.taken = 0
        self._wait_s = wait_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Reserve bytes, waiting a moment for them. Raises Problem (503) if there is no room soon."""
        if not self._waiting and self.taken + size <= self.most:
            self.taken += size
            return
        if len(self._waiting) >= WAITING:
            raise self._refusal()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give(size)  # it was granted at that moment
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove((size, turn))
                self._next()
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def give(self, size: int) -> None:
        """Release bytes."""
        self.taken -= size
        self._next()

    def _next(self) -> None:
        while self._waiting and self.taken + self._waiting[0][0] <= self.most:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.taken += size
                turn.set_result(None)

    def _refusal(self) -> Problem:
        said = f"{self.most} bytes of request bodies are in progress; try again when they are done"
        return Problem(503, said, retry_after_s=1, reason="room for bodies")


def _free_bytes() -> int:
    """Free memory of the machine, or of this process's control groups (a container, a systemd unit)."""
    free = psutil.virtual_memory().available
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # no limit: the file is missing, or holds "max"
            limit = int((group / "memory.max").read_text())
            free = min(free, limit - int((group / "memory.current").read_text()))
    return max(free, 0)


def _groups() -> list[Path]:
    """The own cgroup (v2), and those around it."""
    try:
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip()
    except OSError:
        return []
    return [CGROUP / own, *(CGROUP / own).parents[: len(Path(own).parts)]]


# --- Limits of connections.

SPARE_FILES = 256
"""File descriptors left for models, data and logs."""


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(64, min(4096, soft - SPARE_FILES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Time limits and number of connections."""

    head_s: float = 10.0
    """For the head of a request, once it began; phones on bad lines take seconds."""
    idle_s: float = 75.0
    """For the next request, and the first one; longer than a proxy keeps an idle connection, so that the proxy closes it."""
    stall_s: float = 30.0
    """For a client that does not read its answer."""
    head_bytes: int = 32 << 10
    """Bytes of request line and headers; browsers send 2 KiB, and proxies allow 8 to 64."""
    connections: int = field(default_factory=_most_connections)


# --- At most one more try for a request whose replica ended.

SLOTS, SLOT = 1 << 16, 16
"""Many times the requests that are tried again at once. If two share a slot, the later one is noted, and the other may get a third try."""


class SecondTries:
    """The requests in progress that were sent to a second replica, noted in a file that all replicas of a service map.

    The proxy tries a request again when its replica ends. A request that ends each replica it reaches would end all of them; so the
    second replica notes it before it begins and forgets it with the answer, and a third one that finds it noted refuses it. The proxy
    can't count these tries: it counts failed connections as well, which must not use them up. The file has its full size
    from the start, so a full disk changes nothing.
    """

    def __init__(self, path: Path) -> None:
        """Map the file. Raises OSError, and ValueError for a file of another size."""
        with path.open("r+b") as file:
            self._noted = mmap.mmap(file.fileno(), SLOTS * SLOT)

    @staticmethod
    def create(path: Path) -> None:
        """Make the file, unless it is there. Raises OSError."""
        if not path.exists() or path.stat().st_size != SLOTS * SLOT:
            path.write_bytes(bytes(SLOTS * SLOT))

    def unanswered(self, stream: bytes) -> bool:
        """Whether a second replica began this request and has not answered."""
        place, mark = self._place(stream)
        return self._noted[place] == mark

    def pass_on(self, stream: bytes) -> None:
        """This replica, the first one, refuses the request, and the proxy asks another: its try is not the second one."""
        place, mark = self._place(stream)
        self._noted[place] = _passed_on(mark)

    def take_over(self, stream: bytes) -> bool:
        """Whether the replica before this one passed the request on, rather than ended with it. Forgets that."""
        place, mark = self._place(stream)
        if self._noted[place] != _passed_on(mark):
            return False
        self._noted[place] = bytes(SLOT)
        return True

    def begin(self, stream: bytes) -> None:
        """This replica, the second one, begins the request."""
        place, mark = self._place(stream)
        self._noted[place] = mark

    def end(self, stream: bytes) -> None:
        """This replica has an answer."""
        place, mark = self._place(stream)
        if self._noted[place] == mark:
            self._noted[place] = bytes(SLOT)

    def _place(self, stream: bytes) -> tuple[slice, bytes]:
        mark = hashlib.blake2b(stream, digest_size=SLOT).digest()
        start = int.from_bytes(mark[:4]) % SLOTS * SLOT
        return slice(start, start + SLOT), mark


def _passed_on(mark: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in mark)


# --- Requests a second and tokens a minute of each API key.

MOST_KEYS = 512
_TIME = struct.Struct("=dd")
"""A time, and when it was written."""
_TIMES_BYTES = 2 * MOST_KEYS * _TIME.size
"""Of each key the time of its requests, then of each that of its tokens."""
MINUTE_S = 60.0
BEFORE_S = 120.0
"""What was written so long after now is of before the machine's start, when its clock began anew."""
OVER_KEY_LIMIT = "rate_limit_exceeded"
"""As OpenAI's clients know it."""


class KeyRates:
    """Limits the requests and the tokens of each key, over all replicas of a service: they map the same file. Without one it is for one process.

    The generic cell rate algorithm (ITU-T I.371): a request moves a key's time on by 1 / rate, and is refused if that is more
    than a second ahead; tokens do the same with a minute. Of replicas that write at the same moment only one counts: a whole request,
    or all tokens that it reserves, may be admitted too many.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Map the file. Raises OSError, and ValueError for a file of another size."""
        self._times: bytearray | mmap.mmap = bytearray(_TIMES_BYTES)
        self._lock = threading.Lock()
        if path is not None:
            with path.open("r+b") as file:
                self._times = mmap.mmap(file.fileno(), _TIMES_BYTES)

    @staticmethod
    def create(path: Path) -> None:
        """Make the file, unless it is there. Raises OSError."""
        if not path.exists() or path.stat().st_size != _TIMES_BYTES:
            path.write_bytes(bytes(_TIMES_BYTES))

    def wait_s(self, key: int, rate: int, now: float) -> float:
        """0 if the request of this key, by its number, is admitted; else the seconds until one would be.

        `now` is of the machine's monotonic clock, which all processes share.
        """
        return self._take(key, 1 / rate, now, window_s=1.0)

    def tokens(self, key: int, client: str, limit: int) -> KeyTokens:
        """The tokens a minute of this key."""
        return KeyTokens(self, key, client, limit)

    def take_tokens(self, key: int, seconds: float, now: float) -> float:
        """Move the time of a key's tokens on. As `wait_s`."""
        with self._lock:  # engines take them in a thread
            return self._take(MOST_KEYS + key, seconds, now, window_s=MINUTE_S)

    def move_tokens(self, key: int, seconds: float, now: float) -> None:
        """Move the time of a key's tokens on without asking, or back."""
        with self._lock:
            ahead = self._ahead(MOST_KEYS + key, now) + seconds
            self._write(MOST_KEYS + key, max(ahead, 0.0), now)

    def tokens_ahead_s(self, key: int, now: float) -> float:
        """How far the time of a key's tokens is ahead."""
        return self._ahead(MOST_KEYS + key, now)

    def _take(self, at: int, seconds: float, now: float, *, window_s: float) -> float:
        ahead = self._ahead(at, now) + seconds
        if ahead > window_s * (1 + 1e-9):
            return ahead - window_s
        self._write(at, ahead, now)
        return 0.0

    def _ahead(self, at: int, now: float) -> float:
        time, written = _TIME.unpack_from(self._times, at * _TIME.size)
        return max(0.0, time - now) if written - now < BEFORE_S else 0.0

    def _write(self, at: int, ahead: float, now: float) -> None:
        _TIME.pack_into(self._times, at * _TIME.size, now + ahead, now)


class KeyTokens:
    """The tokens a minute of one key, prompts and answers. What was not used for a minute is a burst of at most `limit`."""

    def __init__(self, rates: KeyRates, key: int, client: str, limit: int) -> None:
        self.limit = limit
        self._rates, self._key, self._client = rates, key, client
        self._token_s = MINUTE_S / limit

    def headers(self, now: float) -> dict[str, str]:
        """What is left, as OpenAI says it: limit, remaining tokens, and the time until all are there again."""
        ahead = self._rates.tokens_ahead_s(self._key, now)
        return {
            "x-ratelimit-limit-tokens": str(self.limit),
            "x-ratelimit-remaining-tokens": str(max(int((MINUTE_S - ahead) / self._token_s + 1e-6), 0)),
            "x-ratelimit-reset-tokens": f"{ahead:.3f}s",
        }

    def take(self, tokens: int, now: float) -> None:
        """Reserve tokens. Raises Problem: 429 if the minute has not so many left, 400 if none ever has."""
        if tokens > self.limit:
            said = f"up to {tokens} tokens are asked for, and the key of {self._client} has {self.limit} a minute: send a shorter prompt, or ask for fewer"
            raise Problem(400, said, reason="request_too_large", headers=self.headers(now))
        wait_s = self._rates.take_tokens(self._key, tokens * self._token_s, now)
        if wait_s:
            said = f"more than {self.limit} tokens a minute with the key of {self._client}; up to {tokens} are asked for; try again in {wait_s:.3g} s"
            raise Problem(429, said, retry_after_s=wait_s, reason=OVER_KEY_LIMIT, headers=self.headers(now))

    def move(self, tokens: int, now: float) -> None:
        """Take so many more without asking, or give them back if negative."""
        self._rates.move_tokens(self._key, tokens * self._token_s, now)


RESERVED_ANSWER = 256
"""Tokens that are reserved for an answer whose client does not say how many it may have, and again each time that it has used them."""


class TokenReservation:
    """Tokens of a key for one answer: `begin` takes them, in any thread, `go_on` takes more, and `end` returns what was not used.

    Several answers to one prompt pay for it once: all but the first have `with_prompt=False`.
    """

    def __init__(self, tokens: KeyTokens, *, with_prompt: bool = True) -> None:
        self._tokens = tokens
        self._with_prompt = with_prompt
        self._lock = threading.Lock()
        self._taken = 0
        self._ended = False

    def begin(self, prompt: int, most: int | None, now: float) -> None:
        """Reserve the prompt and the longest answer. Raises Problem as `KeyTokens.take`."""
        prompt = prompt if self._with_prompt else 0
        if most is None:
            most = max(min(RESERVED_ANSWER, self._tokens.limit - prompt), 1)
        with self._lock:
            if not self._ended:
                self._tokens.take(prompt + most, now)
                self._taken = prompt + most

    def go_on(self, prompt: int, answer: int, now: float) -> None:
        """The answer has so many tokens: what is above the reservation is owed at once, and later requests of the key wait for it."""
        used = answer + (prompt if self._with_prompt else 0)
        if used > self._taken:
            with self._lock:
                if not self._ended:
                    self._tokens.move(RESERVED_ANSWER, now)
                    self._taken += RESERVED_ANSWER

    def end(self, prompt: int, answer: int, now: float) -> None:
        """So many were used. Called once."""
        used = answer + (prompt if self._with_prompt else 0)
        with self._lock:
            self._ended = True
            self._tokens.move(used - self._taken, now)
