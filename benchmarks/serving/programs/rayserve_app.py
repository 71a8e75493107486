"""The same in Ray Serve.

python rayserve_app.py echo|predict PORT
"""

from __future__ import annotations

import signal
import sys

import numpy as np
import ray
from counting import count, model
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=512)
class Echo:
    async def __call__(self, request: Request) -> list[float]:
        count(1)
        return (await request.json())["x"]


@serve.deployment(max_ongoing_requests=512)
class Predict:
    def __init__(self) -> None:
        self.model = model()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def predict(self, requests: list[list]) -> list[list[float]]:
        count(len(requests))
        return self.model.predict(np.array([one[0] for one in requests]))[:, None].tolist()

    async def __call__(self, request: Request) -> list[float]:
        return await self.predict((await request.json())["rows"])


if __name__ == "__main__":
    what, port = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run((Echo if what == "echo" else Predict).bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
