"""What one would write by hand for speed: a bare ASGI app on uvicorn, with the same batcher and no feature at all.

python bare.py echo|rows|predict PORT
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading

import msgspec
import numpy as np
import uvicorn
from counting import count, model

from hooke.serving.batcher import Batcher, BatchLimits, PendingRequest


class Body(msgspec.Struct):
    x: list[float]


class Rows(msgspec.Struct):
    rows: list[list[float]]


_body = msgspec.json.Decoder(Body)
_rows = msgspec.json.Decoder(Rows)
_encode = msgspec.json.Encoder().encode


async def echo(scope, receive, send):
    body = _body.decode((await receive())["body"])
    count(1)
    await answer(send, _encode(body.x))


async def answer(send, body):
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Waiting(PendingRequest):
    """With what it asks, and who waits for the answer."""

    def __init__(self, rows, future, now):
        super().__init__(group=1, rows=len(rows), arrived=now, deadline=now + 30.0)
        self.asked = rows
        self.future = future


class Batched:
    """Rows of many requests to one call in a thread, as Hooke's batcher decides."""

    def __init__(self, call):
        self.call = call
        self.batcher = Batcher(BatchLimits(max_batch=64, max_waiting=2048))
        self.jobs = queue.SimpleQueue()
        self.loop = None
        self.turning = False
        threading.Thread(target=self.work, daemon=True).start()

    async def __call__(self, scope, receive, send):
        rows = _rows.decode((await receive())["body"]).rows
        self.loop = self.loop or asyncio.get_running_loop()
        waiting = Waiting(rows, self.loop.create_future(), self.loop.time())
        self.add(waiting)
        await answer(send, await waiting.future)

    def add(self, waiting):
        """It goes with what else this turn of the loop brings."""
        self.batcher.offer(waiting)
        if self.batcher.running is None and not self.turning:
            self.turning = True
            self.loop.call_soon(self.pump)

    def pump(self):
        self.turning = False
        batch = self.batcher.take(self.loop.time())
        if batch is not None:
            self.jobs.put(batch)

    def done(self, batch, answers):
        self.batcher.finished(self.loop.time())
        for waiting, answer in zip(batch.requests, answers, strict=True):
            waiting.future.set_result(answer)
        self.pump()

    def work(self):
        while True:
            batch = self.jobs.get()
            results = self.call(np.array([row for one in batch.requests for row in one.asked])).tolist()
            answers, start = [], 0
            for one in batch.requests:
                answers.append(_encode(results[start : start + one.rows]))
                start += one.rows
            self.loop.call_soon_threadsafe(self.done, batch, answers)


def rows(x):
    count(len(x))
    return x


def predictor():
    regressor = model()

    def predict(x):
        count(len(x))
        return regressor.predict(x)

    return predict


if __name__ == "__main__":
    what, port = sys.argv[1:]
    app = echo if what == "echo" else Batched(rows if what == "rows" else predictor())
    uvicorn.run(
        app, port=int(port), loop="uvloop", http="httptools", lifespan="off", access_log=False, ws="none",
        log_level="warning",
    )  # fmt: skip
