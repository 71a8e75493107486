"""What the benchmark of services runs in processes of their own: a bare ASGI app on uvicorn, and a client with many connections.

python service_programs.py bare PORT             the same echo, and nothing else
python service_programs.py load PORT PATH BODY CONNECTIONS SECONDS TOKEN    prints how many answers came, as JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import msgspec
import uvicorn
import uvloop


class _Payload(msgspec.Struct):
    x: list[float]


_decoder = msgspec.json.Decoder(_Payload)


async def bare(scope, receive, send):
    """What one would write by hand for speed: one route, a typed body, its value back."""
    body = (await receive())["body"]
    answer = msgspec.json.encode(_decoder.decode(body).x)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class _Connection(asyncio.Protocol):
    """Asks again when it has its answer, until `ends`."""

    def __init__(self, request: bytes, ends: float, done: asyncio.Future) -> None:
        self.request, self.ends, self.done = request, ends, done
        self.answers = self.failures = 0
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found or len(rest) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            return
        self.buffer = b""
        self.answers += 1
        self.failures += not head.startswith(b"HTTP/1.1 200")
        if time.perf_counter() < self.ends:
            self.transport.write(self.request)
        else:
            self.transport.close()

    def connection_lost(self, error):
        self.done.set_result(self)


async def load(
    port: int, path: str, body: bytes, connections: int, seconds: float, token: str
) -> dict[str, int]:
    loop = asyncio.get_running_loop()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    head += f"authorization: Bearer {token}\r\n\r\n"
    ends = time.perf_counter() + seconds
    made = []
    for _ in range(connections):
        done = loop.create_future()
        await loop.create_connection(
            lambda done=done: _Connection(head.encode() + body, ends, done), "127.0.0.1", port
        )
        made.append(done)
    ended = await asyncio.gather(*made)
    return {"answers": sum(c.answers for c in ended), "failures": sum(c.failures for c in ended)}


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        uvicorn.run(
            bare, port=int(sys.argv[2]), loop="uvloop", http="httptools", lifespan="off", access_log=False,
            log_level="warning",
        )  # fmt: skip
    else:
        _, _, port, path, body, connections, seconds, token = sys.argv
        asking = load(int(port), path, body.encode(), int(connections), float(seconds), token)
        print(json.dumps(uvloop.run(asking)))
