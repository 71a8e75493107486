"""A service whose methods say which span they see."""

import time
from collections.abc import Iterator
from pathlib import Path

from opentelemetry import trace

from hooke import service
from hooke.serving.request_context import request_contexts


def seen() -> str:
    return f"{trace.get_current_span().get_span_context().span_id:016x}"


@service(max_batch=8, timeout="60s")
class Traced:
    def predict(self, rows: list[int]) -> list[str]:
        Path("begun").touch()
        while Path("hold").exists():
            time.sleep(0.01)
        with trace.get_tracer("shop").start_as_current_span("own"):
            return [seen()] * len(rows)

    def fail(self) -> str:
        raise ValueError("secret")

    def count(self, to: int) -> Iterator[str]:
        for _ in range(to):
            yield seen()

    def outgoing(self) -> str:
        return request_contexts()[0].traceparent


@service(timeout="60s")
class AsyncTraced:
    async def look(self) -> str:
        with trace.get_tracer("shop").start_as_current_span("own"):
            return seen()


@service(model="process", max_batch=8, timeout="60s")
class ProcessTraced:
    def predict(self, rows: list[int]) -> list[str]:
        return [seen()] * len(rows)

    def count(self, to: int) -> Iterator[str]:
        for _ in range(to):
            yield seen()
