"""Users of a language model, with OpenAI's own client, while its replicas are added, removed, drained, killed and rolled over.

    python -m benchmarks.serving.token_storm --record        (`make soak-tokens`: 200 users, ten minutes)

Most users read streams, some want whole answers, and some leave in the middle of one. The client never tries again. Each answer must be the
model's own, of one version from its beginning to its end; the model is `programs/token_service.py`. A stream whose replica was killed goes on on
another one, so nothing may fail, but what met two kills before its first token: it is refused, as it may be what ends replicas. An answer that
ends as if it was whole counts as wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import openai
from benchmarks.serving.chaos.blows import Blow, strike
from benchmarks.serving.chaos.programme import CALM_S, Course, kinds_in_turn, say
from benchmarks.serving.chaos.served import FACTORS, Served
from benchmarks.serving.chaos.toll import Toll, tolls
from benchmarks.serving.peers import ROOT
from benchmarks.serving.programs.token_service import answer

from hooke.loadtest.generator_protocol import Fate, Outcomes, name_of

RECORD = ROOT / "benchmarks" / "records" / "token_storm.json"
USERS, MINUTES, SEED, REPLICAS = 200, 10.0, 5, 2
KILLED = "a replica killed, `kill -9`"
KINDS = (
    "a replica added",
    KILLED,
    "a replica removed",
    "a replica drained and replaced",
    "rollout: the alias moved",
    "the supervisor killed, a new one started",
)
MOST_TOKENS = 80
RESUMED = re.compile(r"^hooke_front_streams_resumed_total (\S+)$", re.MULTILINE)
STREAMS, WHOLES = 0.65, 0.85
"""Up to these shares of all requests; the rest are streams whose users leave."""
THINK_S = 1.0
"""On average, between an answer and the next question."""
LIMIT_S = 120.0
REFUSED = 502
LEFT = 299
"""The status of a request whose user left on purpose."""
IN_STREAM = 599
"""And of a stream that ended with an error in it."""


@dataclass
class Told:
    """Columns of what users saw; times are those of `time.monotonic`."""

    begun: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Users:
    """A context manager: people who ask, in a thread of its own, until `end`."""

    def __init__(self, served: Served, users: int, seed: int) -> None:
        self.told = Told()
        self._served = served
        self._users, self._seed = users, seed
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="users")

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def outcomes(self) -> Outcomes:
        """Of all requests. Call it at the end."""
        begun = np.array(self.told.begun) - self.began
        order = np.argsort(begun, kind="stable")
        ended = np.array(self.told.ended) - self.began
        status = np.array(self.told.status, dtype=np.int16)
        return Outcomes(due=begun[order], begun=begun[order], ended=ended[order], status=status[order])

    async def _ask(self) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{self._served.url}/v1", api_key=self._served.token, max_retries=0, timeout=LIMIT_S
        ) as client:
            await asyncio.gather(*[self._user(client, number) for number in range(self._users)])

    async def _user(self, client: openai.AsyncOpenAI, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        asked = 0
        await asyncio.sleep(chance.uniform(0, 2 * THINK_S))
        while not self._over.is_set():
            asked += 1
            prompt = f"Everybody's rules. User {number % 20} of {self._users}. " * chance.randint(1, 4)
            await self._one(client, prompt + f"{number} asks {asked}", chance)
            await asyncio.sleep(chance.expovariate(1 / THINK_S))

    async def _one(self, client: openai.AsyncOpenAI, prompt: str, chance: random.Random) -> None:
        most, kind = chance.randint(5, MOST_TOKENS), chance.random()
        right = {answer(prompt, most, factor) for factor in FACTORS}
        leaves_at = chance.randint(1, most) if kind >= WHOLES else None
        begun = time.monotonic()
        try:
            if STREAMS <= kind < WHOLES:
                name = "whole"
                status = await self._whole(client, prompt, most, right)
            else:
                name = "stream" if leaves_at is None else "left"
                status = await self._stream(client, prompt, most, right, leaves_at)
        except openai.APIStatusError as error:
            status = error.status_code
            self.told.errors[f"{error.status_code}: {error.message[:200]}"] += 1
        except openai.APITimeoutError as error:
            status = Fate.TIMED_OUT
            self.told.errors[repr(error)] += 1
        except (openai.APIConnectionError, httpx.TransportError) as error:
            status = Fate.LOST
            self.told.errors[f"{name}: {type(error).__name__}: {error}"[:200]] += 1
        except openai.APIError as error:
            status = IN_STREAM
            self.told.errors[f"in a stream: {error.message[:200]}"] += 1
        self.told.kinds[name] += 1
        self.told.begun.append(begun)
        self.told.ended.append(time.monotonic())
        self.told.status.append(status)

    async def _whole(self, client: openai.AsyncOpenAI, prompt: str, most: int, right: set[str]) -> int:
        said = await client.chat.completions.create(
            model=self._served.name,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=most,
        )
        assert said.usage is not None
        self.told.tokens += said.usage.completion_tokens
        return self._checked(
            prompt, said.choices[0].message.content or "", said.choices[0].finish_reason, right
        )

    async def _stream(
        self, client: openai.AsyncOpenAI, prompt: str, most: int, right: set[str], leaves_at: int | None
    ) -> int:
        text, reason, events = "", "", 0
        stream = await client.completions.create(
            model=self._served.name, prompt=prompt, temperature=0, max_tokens=most, stream=True
        )
        async with stream:
            async for event in stream:
                events += 1
                self.told.tokens += len(event.choices[0].text)
                text += event.choices[0].text
                reason = event.choices[0].finish_reason or reason
                if events == leaves_at and not reason:
                    if any(each.startswith(text) for each in right):
                        return LEFT
                    return self._checked(prompt, text, reason, right)
        return self._checked(prompt, text, reason, right)

    def _checked(self, prompt: str, text: str, reason: str, right: set[str]) -> int:
        if text in right and reason in {"stop", "length"}:
            return 200
        self.told.wrong.append(f"{prompt!r} got {text!r}, which ended by {reason!r}, and not one of {right}")
        return Fate.WRONG


@dataclass(frozen=True, kw_only=True)
class Storm:
    """What came of one. `broken` has a sentence for each promise that was not kept."""

    told: Told
    seconds: float
    tolls: list[Toll]
    resumed: Counter[str]
    """Streams that went on on another replica, by what had happened last."""
    twice: int
    """Requests that met two kills, and were refused."""
    broken: list[str]
    roll_outs: list[str]


def storm(
    folder: Path, *, users: int = USERS, seconds: float, kinds: Sequence[str] = KINDS, seed: int = SEED
) -> Storm:
    """Each of `kinds` at least once, and more until `seconds` are over. Raises TimeoutError where the service does not come back to full strength."""
    course = Course(seconds=seconds, replicas=REPLICAS, kinds=tuple(kinds))
    blows: list[Blow] = []
    resumed: Counter[str] = Counter()
    with Served("Told", folder, REPLICAS, program="token_service.py") as served:
        with Users(served, users, seed) as crowd:
            time.sleep(CALM_S)
            for kind in kinds_in_turn(course, crowd.began):
                say(kind)
                blows.append(strike(kind, served))
                say(f"at full strength after {blows[-1].strong - blows[-1].at:.1f} s")
                time.sleep(CALM_S)
                resumed[kind] += _resumed(served) - resumed.total()
        took = time.monotonic() - crowd.began
        outcomes = crowd.outcomes()
        found = tolls(outcomes, blows, crowd.began)
        twice = met_two(outcomes, [blow.at - crowd.began for blow in blows if blow.kind == KILLED])
        return Storm(
            told=crowd.told,
            seconds=took,
            tolls=found,
            resumed=resumed,
            twice=twice,
            broken=broken(found, twice),
            roll_outs=served.roll_outs(),
        )


def _resumed(served: Served) -> int:
    """How often a stream has gone on on another replica so far."""
    asked = urllib.request.Request(
        f"{served.url}/-/metrics", headers={"authorization": f"Bearer {served.token}"}
    )
    with urllib.request.urlopen(asked) as answer:
        found = RESUMED.search(answer.read().decode())
    assert found is not None
    return round(float(found[1]))


def met_two(outcomes: Outcomes, kills: Sequence[float]) -> int:
    """Requests that were refused by 502, and under way at two of these moments."""
    met = sum(((outcomes.begun <= at) & (outcomes.ended >= at)).astype(int) for at in kills)
    return int(((outcomes.status == REFUSED) & (met >= 2)).sum())


def broken(found: Sequence[Toll], twice: int) -> list[str]:
    """Nothing may fail, but what met two kills."""
    failed = Counter[str]()
    for toll in found:
        failed += toll.failed
    failed -= Counter({name_of(REFUSED): twice})
    return [f"{count} x {name}" for name, count in failed.items()]


def table(record: dict[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = [
        "| what happened | times | requests during it | under way when it did | streams that went on elsewhere | failed | full strength after, most |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, toll in record["tolls"].items():
        strong = f"{max(toll['strong_s']):.0f} s" if toll["strong_s"] else ""
        times = toll["times"] or ""
        way = toll["under_way"] if toll["times"] else ""
        lines.append(
            f"| {kind} | {times} | {toll['sent']:,} | {way} | {toll['resumed'] or ''} | {sum(toll['failed'].values())} | {strong} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--minutes", type=float, default=MINUTES)
    asked.add_argument("--users", type=int, default=USERS)
    asked.add_argument("--record", action="store_true")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokens", ignore_cleanup_errors=True) as folder:
        it = storm(Path(folder) / "project", users=given.users, seconds=60 * given.minutes)
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "client": f"openai {openai.__version__}",
        "seed": SEED,
        "users": given.users,
        "minutes": round(it.seconds / 60, 1),
        "requests": dict(it.told.kinds),
        "tokens": it.told.tokens,
        "tolls": {
            toll.kind: {
                "times": toll.times,
                "sent": toll.sent,
                "under_way": toll.under_way,
                "resumed": it.resumed[toll.kind],
                "failed": dict(toll.failed),
                "longest_s": round(toll.longest_s, 1),
                "strong_s": [round(each, 1) for each in toll.strong_s],
            }
            for toll in it.tolls
        },
        "met_two_kills": it.twice,
        "roll_outs": dict(Counter(it.roll_outs)),
        "errors": dict(it.told.errors),
        "wrong": it.told.wrong[:20],
        "broken": it.broken,
    }
    print(json.dumps(record, indent=1), flush=True)
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return int(bool(it.broken))


if __name__ == "__main__":
    raise SystemExit(main())
