"""One process's service as an ASGI application: routes, refusals, answers and streams."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import math
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from hooke.base.errors import HookeError
from hooke.base.tracebacks import user_frames
from hooke.serving.dispatch import Dispatch, Tally
from hooke.serving.gate import Gate, Headers, too_large
from hooke.serving.model_thread import ModelThread
from hooke.serving.payloads import Kind, Method, encode, methods_of
from hooke.serving.problems import MEDIA_TYPE, Problem, problem_of
from hooke.serving.service import SETUP, Service
from hooke.serving.streams import event, items_of
from hooke.serving.watching import CallerGone, TooLate, Watches, begun

__all__ = ["HEALTH", "READY", "Replica", "State"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEALTH = "/-/health"
READY = "/-/ready"
"""No method of a service has a path like these."""
BODY_LIMIT = 16 << 20
"""Bytes of a body; a batch of images fits, and a thousand of them at once do not fill the memory."""
MOST_ASYNC = 1024
"""Calls of `async def` that go on at once."""

_JSON = (b"content-type", b"application/json")


class State(enum.Enum):
    """What a replica says at READY."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Replica:
    """An ASGI application that answers for one object of a service. It serves one event loop, from `start` to `close`.

    Making one raises UsageError for annotations of methods that no JSON can be read as.
    """

    def __init__(self, declared: Service, *, body_limit: int = BODY_LIMIT, gate: Gate | None = None) -> None:
        self.declared = declared
        self.body_limit = body_limit
        self.state = State.STARTING
        self.active = 0
        """Requests that are being answered."""
        self.answered = 0
        self.cut = 0
        """Requests that the end of the process left without an answer."""
        self.made: Any = None
        """The service's object."""
        self.dispatch: Dispatch | None = None
        self._gate = gate or Gate()
        self._described = methods_of(declared)
        self._methods: dict[str, Method] = {}
        self._thread: ModelThread | None = None
        self._async_calls = 0
        self._watches: Watches | None = None

    @property
    def tally(self) -> Tally:
        """What the model did so far."""
        return self.dispatch.tally if self.dispatch is not None else Tally()

    async def start(self, arguments: Callable[[], Mapping[str, Any]]) -> None:
        """Make the object and set it up, in the thread that will call it; `arguments` gives what `setup` takes.

        Raises HookeError for what `setup` raised.
        """
        self._thread = ModelThread(asyncio.get_running_loop())
        self.made = await self._thread.run(lambda: _made(self.declared, arguments))
        self._methods = {
            f"/{name}": dataclasses.replace(method, function=getattr(self.made, name))
            for name, method in self._described.items()
        }
        self.dispatch = Dispatch(self.declared, self._thread)
        self._watches = Watches(self.dispatch.sweep_s)
        self.state = State.READY

    def drain(self) -> None:
        """From now on it is not ready, and each answer ends its connection; what comes is still answered."""
        self.state = State.DRAINING

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.close()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI says."""
        if scope["type"] != "http":
            return  # lifespan and websockets: there are none here
        self.active += 1
        try:
            await self._answer(scope, receive, send)
        except Problem as problem:
            await self._send(
                send, problem.status, problem.body(), (b"content-type", MEDIA_TYPE), *problem.headers()
            )
        except CallerGone:
            pass
        finally:
            self.active -= 1
            self.answered += 1

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = Headers.of(scope["headers"])
        self._gate.check(headers)
        path, verb = scope["path"], scope["method"]
        if path in (HEALTH, READY):
            if verb not in ("GET", "HEAD"):
                raise Problem(405, f"{path} takes GET", allow="GET, HEAD")
            await self._tell_state(path, send)
            return
        method = self._methods.get(path)
        if method is None:
            self._refuse_path(path)
        elif verb != "POST":
            raise Problem(405, f"{path} takes POST", allow="POST")
        else:
            headers.check_body(self.body_limit)
            arguments = method.read(await self._body(receive))
            if method.kind in (Kind.STREAM, Kind.ASYNC_STREAM):
                await self._stream(method, arguments, receive, send)
            else:
                answer = await self._call(method, arguments, receive)
                await self._send(send, 200, answer, _JSON)

    def _refuse_path(self, path: str) -> None:
        if self.state is State.STARTING:
            raise Problem(503, f"{self.declared.name} is being set up", retry_after_s=1)
        known = ", ".join(f"POST {known}" for known in self._methods)
        raise Problem(404, f"there is no {path[:80]}; there are {known}, GET {HEALTH}, GET {READY}")

    async def _tell_state(self, path: str, send: Send) -> None:
        up = path == HEALTH or self.state is State.READY
        await self._send(send, 200 if up else 503, encode({"state": self.state.value}), _JSON)

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            whole: bytes = message.get("body", b"")
            if len(whole) > self.body_limit:
                raise too_large(self.body_limit)
            return whole
        try:
            async with asyncio.timeout(self.declared.timeout_s):
                return await self._rest(message, receive)
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {self.declared.timeout_s:g} s") from None

    async def _rest(self, message: Message, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            if message["type"] != "http.request":
                raise CallerGone
            body += message.get("body", b"")
            if len(body) > self.body_limit:
                raise too_large(self.body_limit)
            if not message.get("more_body"):
                return bytes(body)
            message = await receive()

    async def _call(self, method: Method, arguments: dict[str, Any], receive: Receive) -> bytes:
        assert self.dispatch is not None
        if method.kind is Kind.ASYNC and not method.rows:
            return await self._call_async(method, arguments, receive)
        # The batcher keeps the deadline of what waits for it.
        answer: bytes = await self._watched(self.dispatch.call(method, arguments), receive, method, math.inf)
        return answer

    async def _call_async(self, method: Method, arguments: dict[str, Any], receive: Receive) -> bytes:
        if self._async_calls >= MOST_ASYNC:
            raise Problem(429, f"{MOST_ASYNC} calls of {method.name} go on already", retry_after_s=1)
        self._async_calls += 1
        try:
            work = begun(method.function(**arguments))
            return encode(work.value if work.done else await self._watched(work, receive, method))
        except (CallerGone, Problem):
            raise
        except Exception as error:
            raise problem_of(error, method.name) from error
        finally:
            self._async_calls -= 1

    async def _watched(
        self, work: Awaitable[Any], receive: Receive, method: Method, timeout_s: float = 0
    ) -> Any:
        """What `work` gives, within the timeout of the service, or within the other one."""
        assert self._watches is not None
        limit_s = timeout_s or self.declared.timeout_s
        try:
            return await self._watches.over(work, receive, asyncio.get_running_loop().time() + limit_s)
        except TooLate:
            raise Problem(504, f"{method.name} gave no answer within {limit_s:g} s") from None
        except asyncio.CancelledError:
            if self.state is not State.DRAINING:
                raise
            # The server ends, and waits no longer: whoever asked is told, rather than left with a closed connection.
            self.cut += 1
            raise Problem(503, f"{self.declared.name} ended before the answer", retry_after_s=1) from None

    async def _stream(self, method: Method, arguments: dict[str, Any], receive: Receive, send: Send) -> None:
        assert self.dispatch is not None
        items = items_of(self.dispatch, method, arguments)
        began: list[Message] = []
        try:
            await self._watched(self._send_items(items, send, began), receive, method, math.inf)
        except Problem:
            if not began:
                raise
        finally:
            await items.aclose()

    async def _send_items(self, items: AsyncIterator[bytes], send: Send, began: list[Message]) -> None:
        # The first item decides the status: what is wrong before it is a plain refusal.
        data = await anext(items, None)
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), *self._closing()]
        began.append({"type": "http.response.start", "status": 200, "headers": headers})
        await send(began[0])
        try:
            while data is not None:
                await send({"type": "http.response.body", "body": event(data), "more_body": True})
                # A generator that waits for nothing would keep the loop from writing, and from seeing that its caller went.
                await asyncio.sleep(0)
                data = await anext(items, None)
            end = event(b"null", "end")
        except Problem as problem:
            end = event(problem.body(), "error")
        await send({"type": "http.response.body", "body": end})

    def _closing(self) -> list[tuple[bytes, bytes]]:
        return [(b"connection", b"close")] if self.state is State.DRAINING else []

    async def _send(self, send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        length = (b"content-length", b"%d" % len(body))
        # What is left of a body that was refused would be read as the next request.
        closing = self._closing() or ([(b"connection", b"close")] if status in (408, 413) else [])
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length, *closing]})
        await send({"type": "http.response.body", "body": body})


def _made(declared: Service, arguments: Callable[[], Mapping[str, Any]]) -> object:
    given = arguments()
    try:
        made = declared.made_by()
        setup = getattr(made, SETUP, None)
        if setup is not None:
            if inspect.iscoroutinefunction(setup):
                asyncio.run(setup(**given))
            else:
                setup(**given)
    except HookeError:
        raise
    except Exception as error:
        frames = user_frames("".join(traceback.format_exception(error)))
        raise HookeError(
            f"{declared.name} cannot be set up: {type(error).__name__}: {error}", why="\n".join(frames)
        ) from error
    return made
