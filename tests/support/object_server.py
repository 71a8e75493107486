"""Objects over HTTP as S3 serves them, to be read: ranges, ETags, and faults. Each request costs its bytes, however large the object is.

    with ObjectServer(folder, delay_s=0.03) as server:
        os.environ.update(server.environment)
        fsspec.open("s3://bucket/data.packed")  # is folder/bucket/data.packed

The folder may change meanwhile. `python -m tests.support.object_server FOLDER DELAY_S` is its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self

__all__ = ["ObjectServer"]


class ObjectServer:
    """The files below a folder, at `url`; `environment` is what clients of S3 need. Each answer comes after `delay_s`."""

    def __init__(self, folder: Path, *, delay_s: float = 0.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.object_server", str(folder), str(delay_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def set(self, **faults: Any) -> None:
        """From now on: `cut` so many of the next answers with a body in the middle of it; `refuse` all with 403."""
        self._ask("/-/set", json.dumps(faults))

    def served(self) -> list[tuple[int, int]]:
        """The ranges of bytes that were asked for, since the last time."""
        return [tuple(each) for each in json.loads(self._ask("/-/served", ""))]

    def _ask(self, path: str, body: str) -> str:
        request = urllib.request.Request(self.url + path, body.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read().decode()


class _Server:
    def __init__(self, folder: Path, delay_s: float) -> None:
        self.folder, self.delay_s = folder, delay_s
        self.faults: dict[str, Any] = {"cut": 0, "refuse": False}
        self.served: list[tuple[int, int]] = []

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        asyncio.get_running_loop().add_reader(sys.stdin, lambda: os._exit(0))  # the parent has ended
        await server.serve_forever()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        if path.startswith("/-/"):
            return await self.control(path, body, writer)
        await asyncio.sleep(self.delay_s)
        file = self.folder / path.partition("?")[0].lstrip("/")
        if self.faults["refuse"]:
            return await send(writer, 403, error("AccessDenied") if method == "GET" else b"")
        if "list-type=2" in path:
            return await send(writer, 200, LISTING)
        if not file.is_file():
            return await send(writer, 404, error("NoSuchKey") if method == "GET" else b"")
        return await self.object(method, file, fields.get("range", ""), writer)

    async def control(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "/-/set":
            self.faults |= json.loads(body)
            return await send(writer, 200, b"")
        told = list(self.served)
        self.served.clear()
        return await send(writer, 200, json.dumps(told).encode())

    async def object(self, method: str, file: Path, asked: str, writer: asyncio.StreamWriter) -> bool:
        facts = os.stat(file)
        low, high, status = 0, facts.st_size, 200
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            low, high, status = int(first), min(int(last) + 1, facts.st_size) if last else high, 206
        if low >= high:
            return await send(writer, 416, error("InvalidRange"))
        lines = [
            f"HTTP/1.1 {status} OK",
            f"Content-Length: {high - low}",
            f"Last-Modified: {formatdate(facts.st_mtime, usegmt=True)}",
            f'ETag: "{facts.st_mtime_ns:x}-{facts.st_size:x}"',
            "Accept-Ranges: bytes",
        ]
        if asked:
            lines.append(f"Content-Range: bytes {low}-{high - 1}/{facts.st_size}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if method == "HEAD":
            await writer.drain()
            return True
        self.served.append((low, high))
        with file.open("rb") as stream:
            stream.seek(low)
            data = stream.read(high - low)
        if self.faults["cut"] > 0 and low < facts.st_size // 2:
            self.faults["cut"] -= 1
            writer.write(data[: len(data) // 2])
            await writer.drain()
            return False
        writer.write(data)
        await writer.drain()
        return True


LISTING = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)


def error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()


async def send(writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return True


if __name__ == "__main__":
    asyncio.run(_Server(Path(sys.argv[1]), float(sys.argv[2])).serve())
