"""The featureless floor: httptools and msgspec on a socket of uvloop's, with the same batcher. It can answer nothing else.

python floor.py echo|rows|predict PORT
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import uvloop
from bare import Batched, Waiting, _body, _encode, _rows, predictor, rows
from counting import count

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Connection(asyncio.Protocol):
    """Answers each request with its own value."""

    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        body, self.body = self.body, b""
        self.answer(body)

    def answer(self, body):
        count(1)
        self.write(_encode(_body.decode(body).x))

    def write(self, body):
        self.transport.write(HEAD % len(body) + body)


class BatchedConnection(Connection):
    """Hands its request to the batcher."""

    def answer(self, body):
        batched = BATCHED[0]
        waiting = Waiting(_rows.decode(body).rows, batched.loop.create_future(), batched.loop.time())
        waiting.future.add_done_callback(lambda future: self.write(future.result()))
        batched.add(waiting)


BATCHED: list[Batched] = []


async def serve(what, port):
    loop = asyncio.get_running_loop()
    kind = Connection
    if what != "echo":
        BATCHED.append(Batched(rows if what == "rows" else predictor()))
        BATCHED[0].loop = loop
        kind = BatchedConnection
    server = await loop.create_server(kind, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
