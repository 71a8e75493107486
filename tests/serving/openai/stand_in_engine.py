"""A program that stands in for an engine where a test needs faults that real ones do not have on demand, or thousands of tokens a second.

    python stand_in_engine.py --port 8000 [--host 127.0.0.1 | --uds PATH] [--starts-after SECONDS] [--child FILE] [--sick READY_ANSWERS]

Real engines are in test_engines.py and in `python -m benchmarks.engines`.
"""

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":%d,"total_tokens":9}}\n\ndata: [DONE]\n\n'


class Engine:
    def __init__(self, ready_at: float, well: int) -> None:
        self.ready_at, self.well = ready_at, well
        self.left = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left += 1
        finally:
            writer.close()

    async def answer(self, reader, writer) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.split("\r\n")
        _, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = target.partition("?")[0]
        if path == "/health":
            up = asyncio.get_running_loop().time() >= self.ready_at and self.well != 0
            self.well -= up
            whole(writer, 200 if up else 503, {})
        elif path == "/v1/echo":
            whole(
                writer, 200, {"target": target, "headers": headers, "body": body.decode(), "left": self.left}
            )
        elif path == "/v1/embeddings":
            whole(writer, 200, {"data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}})
        elif path == "/v1/redirect":
            writer.write(
                b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
            )
        elif path == "/v1/plain-error":
            whole(writer, 422, {"detail": "no such field"})
        elif path == "/v1/die":
            print("no memory for the cache", file=sys.stderr, flush=True)
            os._exit(17)
        elif path == "/v1/silence":
            await asyncio.sleep(3600)
        elif path == "/v1/half":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\nbegin")
            await writer.drain()
            return False
        elif path in ("/v1/unsized", "/v1/reset"):  # ends with its connection, or is broken off
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nbegin")
            await writer.drain()
            if path == "/v1/reset":
                await asyncio.sleep(0.2)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                writer.transport.abort()
            return False
        elif path == "/v1/chat/completions":
            await self.chat(writer, json.loads(body))
        else:
            whole(writer, 404, {"error": {"message": "none", "type": "NotFoundError", "code": 404}})
        await writer.drain()
        return headers.get("connection") != "close"

    async def chat(self, writer, asked) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        count, gap_s = asked["max_tokens"], asked.get("gap_s", 0.0)
        for number in range(count):
            chunk(writer, EVENT)
            await writer.drain()
            if asked.get("dies_after") == number:
                os._exit(17)
            await asyncio.sleep(gap_s)
        if asked.get("counted", True):
            chunk(writer, USAGE % count)
        writer.write(b"0\r\n\r\n")


def chunk(writer, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def whole(writer, status: int, value) -> None:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} Some\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


def spawn(file: Path) -> None:
    """Start a process that leaves the session, and say the pids and the GPUs."""
    sleeper = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    with file.open("a") as out:
        out.write(f"{os.getpid()} {sleeper.pid} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")


async def run(asked: argparse.Namespace) -> None:
    engine = Engine(asyncio.get_running_loop().time() + asked.starts_after, asked.sick)
    if asked.uds:
        server = await asyncio.start_unix_server(engine.serve, asked.uds)
    else:
        server = await asyncio.start_server(engine.serve, asked.host, asked.port)
    print("stands in", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--uds")
    parser.add_argument("--starts-after", type=float, default=0.0)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--sick", type=int, default=-1)
    asked = parser.parse_args()
    if asked.child:
        spawn(asked.child)
    asyncio.run(run(asked))


if __name__ == "__main__":
    main()
