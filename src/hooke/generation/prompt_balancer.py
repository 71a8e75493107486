"""Which replica answers a request: by what clients ask, and by what replicas report some times a second. Pure.

Between two reports a replica's load is what it reported, and the estimated tokens of what was sent to it since. Prompts are cut into blocks of
BLOCK bytes of their JSON text, as nobody here has the model's tokenizer: how many tokens a byte has is learned from the reports.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from hooke.generation.prefix_router import PrefixRouter
from hooke.generation.step_speeds import StepSpeeds
from hooke.generation.token_scheduler import ASSUMED_ANSWER, TokenLoad

__all__ = [
    "BLOCK",
    "SHORTEST",
    "AskedPrompt",
    "BalancerFacts",
    "PromptBalancer",
    "read_prompt",
    "with_unseen",
]

BLOCK = 512
"""Bytes."""
SHORTEST = 128
"""Bytes: the first block is cut there, and once more, as there are short prompts, too."""
SPEEDS_EVERY_S = 0.5
EXPIRE_S = 10.0
"""A request that no replica has named for so long was refused, or its client has gone."""
IDLE_S = 1.0
"""And one that was sent so long before a report of a replica that has nothing to do, or that names no requests."""
MOST_SESSIONS = 1 << 16
MOST_BLOCKS = 1 << 19
"""Of all replicas together: some 100 MB."""
MOST_NAMED = 1024
"""Of a prompt: half a MiB."""
FIRST_BLOCKS = 1 << 12
"""Of a replica that has not reported its memory."""
MOST_ANSWERS, MOST_TEXTS = 128, 2048
"""As in `serving/openai/messages.py`: a replica refuses more, so more is no load."""
MOST_SIZE = 1 << 26
"""Bytes of a body."""
MOST_TOKENS = 1 << 20
"""Of a request, for the account of its replica: what clients write must not decide where all others go."""
MOST_OPEN = 1 << 16
"""Requests that were sent and not named yet."""
CROWDED = 2.0
"""Times the mean load. A session leaves a replica that has more, and in which requests wait."""
NEARLY = 0.1
"""The part by which a replica's memory may seem to change before its copy does."""
LEARNED = 1e7
"""Bytes of prompts; older ones count half."""
RECENT = 100
"""Answers whose lengths count."""


# --- What a client asks.


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPrompt:
    """What is known of a request before any replica has it."""

    blocks: Sequence[Hashable] = ()
    size: int = 0
    """Bytes of its prompt."""
    tokens: int | None = None
    """Of its prompt, where it is tokens."""
    answers: int = 1
    most: int | None = None
    """Tokens of each answer."""
    session: str = ""
    identity: str = ""
    """By which replicas report that they have it."""
    version: str = ""
    """`new` or `old` if it names a version."""


_NOTHING = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    model: str = ""
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    prompt_cache_key: str | None = None


_read_body = msgspec.json.Decoder(_Body).decode
_PROMPT = re.compile(rb'"(?:messages|prompt|input)"\s*:\s*')
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')


def read_prompt(
    body: bytes, *, whole: int = 0, session: str = "", identity: str = "", version: str = ""
) -> AskedPrompt:
    """The prompt of a body, or of the first part of one that has `whole` bytes. A body that can't be read has none: a replica says what is wrong with it."""
    try:
        found = _read_body(body)
    except (msgspec.DecodeError, RecursionError):
        begins, model = _PROMPT.search(body), _MODEL.search(body)
        text = body[begins.end() :] if begins is not None else b""
        named = model[1].decode(errors="replace") if model is not None else ""
        found = _Body(model=named, messages=msgspec.Raw(text))
    messages = bytes(found.messages)
    text = messages or bytes(found.prompt) or bytes(found.input)
    listed = b"" if messages or text[:1] != b"[" else text[1:].lstrip()[:1]
    is_tokens = listed.isdigit()
    several = min(text.count(b'",') + 1, MOST_TEXTS) if listed == b'"' else 1
    most = (found.max_completion_tokens, found.max_tokens, found.max_output_tokens)
    size = len(text) + max(min(whole, MOST_SIZE) - len(body), 0)
    return AskedPrompt(
        blocks=with_unseen(_blocks(text, found.model), size // BLOCK),
        size=size,
        tokens=text.count(b",") + 1 if is_tokens else None,
        answers=min(max(found.n or 1, 1), MOST_ANSWERS) * several,
        most=next((min(each, MOST_TOKENS) for each in most if each is not None and each > 0), None),
        session=session or found.prompt_cache_key or "",
        identity=identity,
        version=version,
    )


def _blocks(text: bytes, model: str) -> list[Hashable]:
    """The names of the full blocks of a prompt: each depends on all before it."""
    names: list[Hashable] = []
    name = hash(model)
    begins = 0
    for ends in (SHORTEST, 2 * SHORTEST, *range(BLOCK, len(text) + 1, BLOCK)):
        if ends > len(text):
            break
        name = hash((name, text[begins:ends]))
        names.append(name)
        begins = ends
    return names


def with_unseen(names: list[Hashable], blocks: int) -> list[Hashable]:
    """The names of the blocks that were seen, and of those behind them: what has begun alike for so long probably goes on alike."""
    unseen = min(blocks, MOST_NAMED) - len(names)
    return [*names, *((names[-1], at) for at in range(unseen))] if names and unseen > 0 else names


# --- What was sent, and what replicas say.


class BalancerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the balancer has done so far."""

    prompts: int = 0
    blocks: int = 0
    """Of these prompts."""
    known: int = 0
    """Blocks that should have been where their prompts went."""
    spilled: int = 0
    """Prompts that went to another replica than that with most of their beginnings, which had too much to do."""
    moved: int = 0
    """Sessions that left their replica: it has ended, or had too much to do."""
    unread: int = 0
    """Bodies that could not be read for a reason that nobody expected; they went as those without a prompt."""
    slowest: float = 1.0
    """The speed of the slowest replica beside the fastest."""


@dataclass(slots=True, eq=False)
class _Sent:
    identity: int | None
    replica: str
    tokens: int
    size: int
    """Bytes of its prompt, to learn from; 0 if it is tokens, or there are several."""
    at: float
    session: int | None
    then: str
    """Where the front tries it again; empty without another replica."""
    open: bool = True


@dataclass(slots=True)
class _Known:
    """What is known of a replica."""

    held: int = 0
    """Tokens of what it has reported."""
    sent: OrderedDict[int, _Sent] = field(default_factory=OrderedDict)
    """What was sent and not reported, by number."""
    sent_tokens: int = 0
    blocks: int = FIRST_BLOCKS
    last: TokenLoad | None = None
    names_requests: bool = False
    waiting: int = 0


class PromptBalancer:
    """Replicas by their names. All times are seconds of one monotonic clock; its memory is bounded whatever clients send."""

    def __init__(self, router: PrefixRouter | None = None) -> None:
        self.router = router or PrefixRouter()
        self.expected_answer = float(ASSUMED_ANSWER)
        """Tokens."""
        self._bytes, self._tokens = 4_000.0, 1_000.0
        """Of prompts lately: at first four bytes a token."""
        self._speeds = StepSpeeds()
        self._timed = 0.0
        self._replicas: dict[str, _Known] = {}
        self._new: frozenset[str] = frozenset()
        self._share: float | None = None
        self._drawn = 0.0
        self._sessions: OrderedDict[int, str] = OrderedDict()
        self._all_sent: deque[tuple[int, _Sent]] = deque()
        self._by_identity: dict[int, deque[tuple[int, _Sent]]] = {}
        self._last = 0
        self._prompts = self._blocks = self._hits = self._spilled = self._moved = 0

    @property
    def tokens_per_byte(self) -> float:
        """Of prompts."""
        return self._tokens / self._bytes

    def facts(self) -> BalancerFacts:
        """What it has done."""
        return BalancerFacts(
            prompts=self._prompts,
            blocks=self._blocks,
            known=self._hits,
            spilled=self._spilled,
            moved=self._moved,
            slowest=min((self.router.speed(name) for name in self._replicas), default=1.0),
        )

    def publish(self, names: Collection[str], *, new: Iterable[str] = (), share: float | None = None) -> None:
        """Send to these only. `share`: the part of the requests for those that are `new`; None: each gets as much as any other."""
        for gone in [name for name in self._replicas if name not in names]:
            self._forget(gone)
        for name in names:
            if name not in self._replicas:
                self._replicas[name] = _Known()
                self.router.add(name, self._most_blocks(FIRST_BLOCKS, len(names)))
        self._new, self._share = frozenset(new) & frozenset(names), share
        for name, known in self._replicas.items():
            self._resize(name, known)

    def report(
        self,
        name: str,
        load: TokenLoad | None,
        now: float,
        *,
        taken: Sequence[tuple[str, int]] = (),
        open_calls: int = 0,
    ) -> None:
        """What a replica has to do. `taken` are requests that this counts and the last report did not, and the tokens of their prompts.

        `open_calls` counts where `load` is None.
        """
        known = self._replicas.get(name)
        for identity, tokens in taken:
            self._named(identity, name, tokens)
        if known is None:
            return
        known.names_requests |= bool(taken)
        nothing = not (load.running or load.waiting if load is not None else open_calls)
        if nothing or not known.names_requests:
            while known.sent and (first := next(iter(known.sent.items())))[1].at <= now - IDLE_S:
                self._drop(*first)
        if load is None:
            known.held = round(open_calls * (self.expected_answer + self._mean_prompt()))
        else:
            known.held, known.waiting = load.held_tokens, load.waiting
            self._learn(name, known, load, now)
        self.router.set_load(name, known.held + known.sent_tokens)

    def choose(self, asked: AskedPrompt, now: float) -> tuple[str, ...]:
        """The replica that it goes to, and the one after it if that can't be reached; none if there is no replica."""
        self._expire(now - EXPIRE_S)
        among = self._among(asked)
        stays = self._stays(asked.session, among)
        tokens = self._estimate(asked)
        routed = self.router.route(asked.blocks, tokens, among=among, stays=stays)
        if routed is None:
            return ()
        chosen = [str(each) for each in (routed.replica, routed.then) if each is not None]
        self._note(asked, chosen, tokens, now)
        if asked.session:
            self._settle(hash(asked.session), chosen[0])
        self._prompts += 1
        self._blocks += len(asked.blocks)
        self._hits += routed.known
        self._spilled += routed.spilled
        return tuple(chosen)

    # -- who may get it ----------------------------------------------------------------------------

    def _among(self, asked: AskedPrompt) -> Sequence[str] | None:
        """Those of the version that it names or draws; all (None) if that has none."""
        if not self._new or len(self._new) == len(self._replicas):
            return None
        old = [name for name in self._replicas if name not in self._new]
        if asked.version in ("new", "old"):
            return list(self._new) if asked.version == "new" else old
        if self._share is None:
            return None
        if asked.session:  # a session stays with its version
            return list(self._new) if hash((asked.session,)) % 10_000 < 10_000 * self._share else old
        self._drawn += self._share
        if self._drawn < 1.0 - 1e-9:
            return old
        self._drawn -= 1.0
        return list(self._new)

    def _stays(self, session: str, among: Sequence[str] | None) -> str | None:
        """The replica of a session, unless that has ended or is crowded."""
        name = self._sessions.get(hash(session)) if session else None
        if name is None:
            return None
        known = self._replicas.get(name)
        if known is None or (among is not None and name not in among) or self._crowded(name, known):
            self._moved += 1
            return None
        return name

    def _settle(self, session: int, name: str) -> None:
        self._sessions[session] = name
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def _crowded(self, name: str, known: _Known) -> bool:
        if not known.waiting:
            return False
        router = self.router
        mean = sum(map(router.load, self._replicas)) / sum(map(router.speed, self._replicas))
        return router.load(name) / router.speed(name) > CROWDED * mean

    # -- tokens ------------------------------------------------------------------------------------

    def _estimate(self, asked: AskedPrompt) -> int:
        prompt = asked.tokens if asked.tokens is not None else asked.size * self.tokens_per_byte
        answer = self.expected_answer if asked.most is None else min(asked.most, self.expected_answer)
        return min(max(round(prompt + asked.answers * answer), 1), MOST_TOKENS)

    def _mean_prompt(self) -> float:
        return self._blocks * BLOCK * self.tokens_per_byte / self._prompts if self._prompts else 0.0

    def _learn(self, name: str, known: _Known, load: TokenLoad, now: float) -> None:
        before, known.last = known.last, load
        memory = load.memory_tokens / (BLOCK * self.tokens_per_byte)
        if abs(memory - known.blocks) > NEARLY * known.blocks and load.memory_tokens:
            known.blocks = max(round(memory), 1)
            self._resize(name, known)
        if before is None:
            return
        ended = load.ended - before.ended
        if ended > 0:
            mean = (load.answer_tokens - before.answer_tokens) / ended
            self.expected_answer += (mean - self.expected_answer) * min(1.0, ended / RECENT)
        work = [after - then for after, then in zip(load.work, before.work, strict=True)]
        steps, busy_s = load.steps - before.steps, load.busy_s - before.busy_s
        self._speeds.observe(name, now, steps=steps, work=work, busy_s=busy_s)
        if now - self._timed >= SPEEDS_EVERY_S:
            self._timed = now
            for each, speed in self._speeds.speeds().items():
                self.router.set_speed(each, speed)

    def _resize(self, name: str, known: _Known) -> None:
        self.router.resize(name, self._most_blocks(known.blocks, len(self._replicas)))

    @staticmethod
    def _most_blocks(blocks: int, replicas: int) -> int:
        return max(min(blocks, MOST_BLOCKS // replicas), 1)

    # -- what was sent -----------------------------------------------------------------------------

    def _note(self, asked: AskedPrompt, chosen: Sequence[str], tokens: int, now: float) -> None:
        replica, then = chosen[0], (*chosen, "")[1]
        # Hashes: clients may send ids and sessions of any length.
        session = hash(asked.session) if asked.session else None
        identity = hash(asked.identity) if asked.identity else None
        size = asked.size if asked.tokens is None and asked.answers == 1 else 0
        sent = _Sent(identity, replica, tokens, size, now, session, then)
        self._last += 1
        known = self._replicas[replica]
        known.sent[self._last] = sent
        known.sent_tokens += tokens
        self._all_sent.append((self._last, sent))
        if identity is not None:
            self._by_identity.setdefault(identity, deque()).append((self._last, sent))
        if len(self._all_sent) > MOST_OPEN:
            self._drop(*self._all_sent.popleft())

    def _named(self, identity: str, name: str, tokens: int) -> None:
        """A replica has this request, which may have been sent to another one first."""
        same = self._by_identity.get(hash(identity))
        if not same:
            return
        number, sent = next((one for one in same if one[1].replica == name), same[0])
        self._drop(number, sent)
        if name != sent.replica and sent.session is not None and name in self._replicas:
            self._settle(sent.session, name)
        if tokens and sent.size:
            self._bytes += sent.size
            self._tokens += tokens
            if self._bytes > LEARNED:
                self._bytes, self._tokens = self._bytes / 2, self._tokens / 2

    def _drop(self, number: int, sent: _Sent) -> None:
        if not sent.open:
            return
        sent.open = False
        if sent.identity is not None:
            same = self._by_identity[sent.identity]
            same.remove((number, sent))
            if not same:
                del self._by_identity[sent.identity]
        known = self._replicas.get(sent.replica)
        if known is not None and known.sent.pop(number, None) is not None:
            known.sent_tokens -= sent.tokens
            self.router.set_load(sent.replica, known.held + known.sent_tokens)

    def _expire(self, before: float) -> None:
        """Forget what was sent before this moment and not named since."""
        while self._all_sent and (not self._all_sent[0][1].open or self._all_sent[0][1].at <= before):
            self._drop(*self._all_sent.popleft())

    def _forget(self, name: str) -> None:
        for number, sent in list(self._replicas[name].sent.items()):
            if sent.session is not None and sent.then in self._replicas:
                self._settle(sent.session, sent.then)
            self._drop(number, sent)
        del self._replicas[name]
        self.router.remove(name)
        self._speeds.forget(name)
