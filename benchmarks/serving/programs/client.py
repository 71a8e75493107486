"""A client with many connections, each of which asks again when it has its answer. The parsing is as little as will do.

python client.py PORT PATH BODY TOKEN CONNECTIONS SECONDS      prints answers, failures and p99_ms, as JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop


class Connection(asyncio.Protocol):
    """Asks until `ends`."""

    def __init__(self, request: bytes, ends: float, done: asyncio.Future) -> None:
        self.request, self.ends, self.done = request, ends, done
        self.took: list[float] = []
        self.failures = 0
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        self.asked = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data):
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found or not _whole(head.lower(), rest):
            return
        self.buffer = b""
        now = time.perf_counter()
        self.took.append(now - self.asked)
        self.failures += not head.startswith(b"HTTP/1.1 200")
        if now < self.ends:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, error):
        self.done.set_result(self)


def _whole(head: bytes, rest: bytes) -> bool:
    length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
    return len(rest) >= int(length) if length else rest.endswith(b"0\r\n\r\n")


async def load(
    port: int, path: str, body: bytes, connections: int, seconds: float, token: str
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    head += f"authorization: Bearer {token}\r\n\r\n"
    ends = time.perf_counter() + seconds
    made = []
    for _ in range(connections):
        done = loop.create_future()
        await loop.create_connection(
            lambda done=done: Connection(head.encode() + body, ends, done), "127.0.0.1", port
        )
        made.append(done)
    ended = await asyncio.gather(*made)
    took = sorted(one for connection in ended for one in connection.took)
    return {
        "answers": len(took),
        "failures": sum(connection.failures for connection in ended),
        "p99_ms": took[int(len(took) * 0.99)] * 1e3,
    }


if __name__ == "__main__":
    _, port, path, body, token, connections, seconds = sys.argv
    asking = load(int(port), path, body.encode(), int(connections), float(seconds), token)
    print(json.dumps(uvloop.run(asking)))
