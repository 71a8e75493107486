"""A service in one process: its life, its routes, and the checks before them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, NoReturn
from urllib.parse import parse_qs

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.generation.token_scheduler import TokenLoad
from hooke.journal.service_events import ModelEvent
from hooke.processes.devices import anonymous_bytes
from hooke.serving.asgi import Application, AsgiWire, Receive, Send
from hooke.serving.auth import Auth
from hooke.serving.dispatch import Dispatch, Tally
from hooke.serving.docs_page import PAGE_HEADERS, docs_page, token_page
from hooke.serving.http import JSON, Exchange, HttpOptions, Wire
from hooke.serving.inference.v2_routes import Inference
from hooke.serving.limits import (
    BODY_LIMIT,
    BodyMemory,
    ConnectionLimits,
    KeyRates,
    SecondTries,
    body_memory_bytes,
)
from hooke.serving.method_calls import MethodCalls
from hooke.serving.metrics import (
    CLIENT_GONE,
    Counts,
    Meter,
    ProcessCounts,
    RouteCounts,
    process_counts,
    prometheus_text,
)
from hooke.serving.metrics import MEDIA_TYPE as TEXT
from hooke.serving.model_calls import Arguments, ModelThread, ServiceObject
from hooke.serving.model_process.model_client import ModelProcess
from hooke.serving.models_by_name.model_loads import ModelLoads
from hooke.serving.observing.observer import RequestObserver
from hooke.serving.openai.engine_process import EngineProcess
from hooke.serving.openai.engine_routes import EngineRoutes
from hooke.serving.openai.messages import error_body
from hooke.serving.openai.openai_routes import OpenAIRoutes
from hooke.serving.openapi import State, document
from hooke.serving.payloads import encode, methods_of
from hooke.serving.problems import PASSED_ON, Problem, problem_of
from hooke.serving.request_context import CURRENT_REQUESTS, CallerGone
from hooke.serving.routes import Handler, Route, Routes
from hooke.serving.service import LOAD, Service

__all__ = ["DOCS", "HEALTH", "METRICS", "OPENAPI", "READY", "Replica", "State"]

HEALTH = "/-/health"
READY = "/-/ready"
METRICS = "/-/metrics"
OPENAPI = "/-/openapi.json"
DOCS = "/-/docs"
"""No method of a service has such a path."""
DOCS_ALIAS = "/docs"
"""Where people look for the page; a method of this name has the path for itself."""
MOST_FORM = 8 << 10
"""Bytes of the form that asks for the token: it is read before the token is known."""
MOST_RAISED = 16
"""Different exceptions of the service's code that are counted."""


class Replica:
    """Serves one object of a service on one event loop, from `start` to `close`. It is an ASGI application, too, unless its engine is a command.

    `body_limit` is the limit of one body in bytes, `body_room` that of all together; by default a part of the free memory.
    Creating one raises UsageError for annotations that JSON cannot be read as.
    """

    report_soon: Callable[[], None] | None = None
    """Called in any thread when a language model has nothing more to do; to be set before `start`."""
    version = ""
    """What replicas of the same code and weights have in common: only these go on with one another's streams of tokens. Empty: none does. To be set before `start`."""

    def __init__(
        self,
        declared: Service,
        *,
        body_limit: int = BODY_LIMIT,
        body_room: int | None = None,
        auth: Auth | None = None,
        connection_limits: ConnectionLimits | None = None,
    ) -> None:
        self.declared = declared
        self.bodies = BodyMemory(max(body_memory_bytes() if body_room is None else body_room, body_limit))
        """The memory for bodies in progress."""
        self.connection_limits = connection_limits or ConnectionLimits()
        """Limits that the server keeps to."""
        self.say: Callable[[ModelEvent], None] = lambda _event: None
        """Called on the event loop when the model's own process ends, and when it is back."""
        self._state = State.STARTING
        self.second_tries: SecondTries | None = None
        """The second tries of all replicas; None: no proxy sends requests again that were sent."""
        self.key_rates = KeyRates()
        self.arguments: Arguments = dict
        """The arguments of `setup`, for an ASGI server that sets it up."""
        self.observer: RequestObserver | None = None
        """Is told of each request, and each batch; to be set before `start`."""
        self.models: ModelLoads | None = None
        """The models that requests name."""
        self.scheme = "http"
        """How clients reach it: `http` or `https`."""
        self.active = self.answered = self.asked = 0
        """Requests in progress, those that ended, and of these the ones that asked for work: not probes, pages and lists."""
        self.refused, self.raised = Counter[str](), Counter[str]()
        self.unrouted = Meter()
        """Counts answers before a route was found."""
        self.ready_at: float | None = None
        """When it was set up, in seconds since 1970."""
        self.made: Any = None
        """The service's object; None if it is in a process of its own."""
        self.calls: MethodCalls | None = None
        self._auth = auth or Auth()
        self._options = HttpOptions(body_limit=body_limit, timeout_s=declared.timeout_s, bodies=self.bodies)
        self._methods = methods_of(declared)
        self._model: ModelThread | ModelProcess | EngineProcess | None = None
        self._document: dict[str, Any] | None = None
        self._inference = Inference(declared, self._methods, lambda: self.ready)
        self._openai = _openai_routes(declared)
        if self._openai is not None:
            self._options.error_body = error_body
        self.routes = self._all_routes()
        """All routes."""

    @property
    def application(self) -> Application:
        """This service as an ASGI application, within its middleware."""
        wrap = self.declared.middleware
        return self if wrap is None else wrap(self)

    @property
    def dispatch(self) -> Dispatch | None:
        """Brings requests to the model, once there is one."""
        return self.calls.dispatch if self.calls is not None else None

    @property
    def tally(self) -> Tally:
        """What the model has done so far."""
        return self.calls.dispatch.tally if self.calls is not None else Tally()

    @property
    def state(self) -> State:
        """Its state."""
        if self._state is State.READY and self._model is not None and self._model.unavailable() is not None:
            return State.RESTARTING
        if self._state is State.READY and self._openai is not None and self._openai.broken:
            return State.RESTARTING  # the supervisor replaces one that stays so
        return self._state

    @property
    def failure(self) -> HookeError | None:
        """Why it can answer no more, and its process is to end; None if it can."""
        return self._model.failure if isinstance(self._model, EngineProcess) else None

    @property
    def ready(self) -> bool:
        """Whether it is ready for requests."""
        return self.state is State.READY

    def take_token_load(self) -> tuple[TokenLoad, tuple[tuple[str, int], ...]] | None:
        """As `TokenEngine.take_load`; None if no language model runs here. Any thread may call this."""
        return self._openai.take_load() if self._openai is not None else None

    def model_busy_s(self, now: float) -> float:
        """How long the current call of a language model has run, by the monotonic clock; 0 without one. Any thread may call this."""
        since = self._openai.busy_since if isinstance(self._openai, OpenAIRoutes) else None
        return now - since if since is not None else 0.0

    def pass_on(self, most_bytes: int) -> None:
        """There are other replicas, and a proxy that asks one of them if this one is full and the body has at most so many bytes."""
        self._options.pass_on_bytes = most_bytes

    @property
    def cut(self) -> int:
        """Requests that the end of the process left unanswered."""
        return self.calls.cut if self.calls is not None else 0

    def counts(self, process: ProcessCounts, *, tokens: bool = True) -> Counts:
        """Its counts so far, with those of tokens or without. Any thread may call this."""
        tally, dispatch = self.tally, self.dispatch
        meters = {**{route.path: route.meter for route in self.routes}, "": self.unrouted}
        return Counts(
            service=self.declared.name,
            routes={
                path: RouteCounts(dict(meter.statuses), list(meter.buckets), meter.seconds)
                for path, meter in meters.items()
                if meter.statuses
            },
            refused=dict(self.refused),
            raised=dict(self.raised),
            sizes=list(tally.sizes),
            rows=tally.rows,
            busy_s=tally.busy_s,
            process=process,
            active=self.active,
            body_bytes=self.bodies.taken,
            body_room=self.bodies.most,
            waiting_rows=dispatch.batcher.waiting_rows if dispatch is not None else 0,
            ready=self.ready,
            ready_at=self.ready_at,
            models={name: msgspec.structs.replace(use) for name, use in dict(self.models.uses).items()}
            if self.models is not None
            else {},
            unseen=self.observer.lost() if self.observer is not None else {},
            tokens=self._openai.families() if tokens and self._openai is not None else None,
        )

    async def start(self, arguments: Arguments) -> None:
        """Make the object and set it up in the thread or process that will call it; `arguments` makes the arguments of `setup`.

        It is called there, so for a process it must be picklable. Raises HookeError for an exception of `setup`.
        """
        if self.declared.model == "process":
            tracing = self.observer.tracing if self.observer is not None else None
            trace = tracing.settings if tracing is not None else None
            self._model = process = ModelProcess(self.declared, self.say, trace)
            await process.start(arguments)
            bound = self._methods
        elif self.declared.command is not None:
            self._model = self.made = engine = EngineProcess(self.declared)
            await engine.start()
            bound = self._methods
        else:
            self._model = thread = ModelThread()
            made = await thread.start(self.declared, self._methods, arguments)
            self.made, bound = made.object, made.methods
            self._load_by_name(made)
        self.calls = MethodCalls(Dispatch(self.declared, self._model, self.observer), self.models)
        for name, method in bound.items():
            self.routes[f"/{name}"].verbs["POST"] = partial(self.calls.answer, method)
        self._inference.start(self.calls, bound)
        if self._openai is not None:
            if isinstance(self._openai, OpenAIRoutes):
                self._openai.version = self.version
            self._openai.start(self.calls, self.made, self.report_soon)
        self.ready_at = time.time()
        self._state = State.READY

    def _all_routes(self) -> Routes:
        """Those of the methods, of the protocol and of the service itself; a path of the last is of no method."""
        routes = Routes(
            [
                *(Route(f"/{name}", {"POST": self._still_starting}) for name in self._methods),
                Route(HEALTH, {"GET": self._get_health}, open=True),
                Route(READY, {"GET": self._get_ready}, open=True),
                Route(METRICS, {"GET": self._get_metrics}),
                Route(OPENAPI, {"GET": self._get_openapi}),
                *self._inference.routes(),
            ]
        )
        for route in self._openai.routes() if self._openai is not None else ():
            routes.add(route)
        self._described = tuple(routes)
        routes.add(Route(DOCS, {"GET": self._get_docs, "POST": self._post_docs}, open=True))
        if DOCS_ALIAS[1:] not in self._methods:
            routes.add(Route(DOCS_ALIAS, {"GET": self._to_docs}, open=True))
        return routes

    def _load_by_name(self, made: ServiceObject) -> None:
        """Have methods with a parameter `model` called with the model of its name."""
        budget = self.declared.model_memory
        if budget is not None:
            self.models = models = ModelLoads(
                getattr(made.object, LOAD), budget, where=f"{self.declared.name}.{LOAD}"
            )
            made.methods.update(
                {
                    name: dataclasses.replace(method, function=models.resolving(method))
                    for name, method in made.methods.items()
                    if method.by_name
                }
            )

    def drain(self) -> None:
        """From now on it is not ready, and each answer ends its connection; requests are still answered."""
        self._state = State.DRAINING
        self._options.closing = True

    def close(self) -> None:
        """End the model's thread or process. Called on the event loop, or when that has ended."""
        if self._openai is not None:
            self._openai.close()
        if self._model is not None:
            self._model.close()
        if self.models is not None:
            self.models.close()
        if self.observer is not None:
            self.observer.close()

    def memory_bytes(self) -> int:
        """Its memory that no file backs, with the model's own process."""
        return anonymous_bytes() + (self._model.memory_bytes() if self._model is not None else 0)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or set the service up and end it; the ASGI interface. Raises ValueError for a WebSocket."""
        if scope["type"] == "http":
            await self.serve(AsgiWire(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"ASGI: a service answers no {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if self.declared.command is not None:
                raise UsageError(
                    f"an ASGI server cannot run {self.declared.name}, whose engine is a program of its own",
                    why="the server would go on when the engine ends, with a service that answers nothing more",
                    fix="serve it with `hooke serve`, which starts it again",
                )
            await self.start(self.arguments)
        except HookeError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.drain()
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def serve(self, wire: Wire) -> None:
        """Answer one request. Called in a context of its own."""
        self.active += 1
        exchange, meter, found = Exchange(wire, self._options), self.unrouted, None
        CURRENT_REQUESTS.set((exchange,))
        if self.observer is not None:
            self.observer.began(exchange)
        try:
            if not wire.was_admitted:  # checks would only pass again
                self._check(exchange)
            if self._auth.keys:
                self._count_key(exchange)
            route = self.routes.find(exchange) or self._no_route(exchange)
            meter, found = route.meter, route.path
            handler = route.verbs.get(exchange.verb)
            if handler is None:
                raise Problem(405, f"{route.path} takes {route.allow}", headers={"allow": route.allow})
            if self.second_tries is not None and exchange.tried:
                await self._answer_again(handler, exchange, self.second_tries)
            else:
                await handler(exchange)
        except Problem as problem:
            await self._refuse(exchange, problem)
        except CallerGone:
            pass
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # noqa: BLE001 - every error becomes the client's answer
            await self._refuse(exchange, _problem_of(exchange, error))
        finally:
            if exchange.held:
                self.bodies.give(exchange.held)
            self.active -= 1
            self.answered += 1
            self.asked += exchange.verb == "POST" and found != DOCS and not exchange.passed_on
            self._ended(exchange, meter, found)

    def _ended(self, exchange: Exchange, meter: Meter, route: str | None) -> None:
        took_s = time.perf_counter() - exchange.since
        if not exchange.passed_on:
            meter.done(exchange.status or CLIENT_GONE, took_s)
        if self.observer is not None:
            self.observer.ended(exchange, route, took_s)

    async def _answer_again(self, handler: Handler, exchange: Exchange, tries: SecondTries) -> None:
        """Answer a request that was sent to another replica before, unless a second one has ended with it."""
        stream = exchange.stream
        if stream is None or tries.take_over(stream):
            await handler(exchange)
            return
        if tries.unanswered(stream):
            said = "two replicas ended before their answer; the request may have been done, and is not tried again"
            raise Problem(502, said, reason="two replicas ended")
        tries.begin(stream)
        try:
            await handler(exchange)
        finally:
            tries.end(stream)

    async def _refuse(self, exchange: Exchange, problem: Problem) -> None:
        self.refused[problem.reason] += 1
        exchange.refused_for = problem.reason
        if problem.raised and (problem.raised in self.raised or len(self.raised) < MOST_RAISED):
            self.raised[problem.raised] += 1
        if problem.reason == PASSED_ON:
            exchange.passed_on = True
            if self.second_tries is not None and exchange.stream is not None:
                self.second_tries.pass_on(exchange.stream)
        await exchange.refuse(problem)

    def _check(self, exchange: Exchange) -> None:
        """Raises Problem for a request that is not admitted."""
        self._auth.check(exchange)
        if self._auth.has_token(exchange):
            exchange.admitted()
        else:
            self._refuse_unless_open(exchange)

    def _count_key(self, exchange: Exchange) -> None:
        """Note the priority of the request's key. Raises Problem (429) if the key is over its rate."""
        key = self._auth.key_of(exchange)
        if key is None:
            return
        exchange.low_key, exchange.client = key.low, key.client
        number = self._auth.keys.index(key)
        if key.tokens_per_minute is not None:
            exchange.tokens = self.key_rates.tokens(number, key.client, key.tokens_per_minute)
        resumed = self._openai is not None and self.version and exchange.resumed is not None
        if key.rate is None or exchange.tried or resumed:
            return
        wait_s = self.key_rates.wait_s(number, key.rate, time.monotonic())
        if wait_s:
            said = f"more than {key.rate} requests a second with the key of {key.client}"
            raise Problem(429, said, retry_after_s=wait_s, reason="rate of a key")

    def _refuse_unless_open(self, exchange: Exchange) -> None:
        route = self.routes.find(exchange)
        if route is None or not route.open or exchange.verb not in route.verbs:
            raise self._auth.refusal(exchange)

    def _no_route(self, exchange: Exchange) -> NoReturn:
        own = [f"POST /{known}" for known in self._methods]
        others = [each.path for each in self._openai.routes()] if self._openai is not None else []
        known = ", ".join([*own, *others])
        raise Problem(404, f"no route {exchange.path[:80]}; routes: {known}; GET {OPENAPI} lists all")

    async def _still_starting(self, _exchange: Exchange) -> None:
        raise Problem(503, f"{self.declared.name} is being set up", retry_after_s=1)

    async def _get_health(self, exchange: Exchange) -> None:
        await exchange.answer(200, encode({"state": self.state.value}), JSON)

    async def _get_metrics(self, exchange: Exchange) -> None:
        if isinstance(self._openai, EngineRoutes):
            await self._openai.read_metrics()
        await exchange.answer(200, prometheus_text(self.counts(process_counts())), (b"content-type", TEXT))

    async def _get_openapi(self, exchange: Exchange) -> None:
        await exchange.answer(200, encode(self._openapi()), JSON)

    def _openapi(self) -> dict[str, Any]:
        if self._document is None:
            with_token = self._auth.token is not None
            self._document = document(
                self.declared.made_by, self._methods, self._described, with_token=with_token
            )
        return self._document

    async def _get_docs(self, exchange: Exchange) -> None:
        # A browser sends no token with an address, so the page without one is a form that asks for it.
        await self._show_docs(exchange, shown=self._auth.has_token(exchange))

    async def _post_docs(self, exchange: Exchange) -> None:
        length = exchange.headers.get(b"content-length", b"0")
        if b"transfer-encoding" in exchange.headers or not length.isdigit() or int(length) > MOST_FORM:
            raise Problem(413, f"the form is larger than {MOST_FORM} bytes, or does not say its length")
        token = parse_qs((await exchange.body()).decode("latin-1")).get("token", [""])[0].strip()
        shown = self._auth.accepts(b"Bearer " + token.encode())
        await self._show_docs(exchange, shown=shown, wrong=not shown)

    async def _show_docs(self, exchange: Exchange, *, shown: bool, wrong: bool = False) -> None:
        if shown:
            address = f"{self.scheme}://{exchange.headers[b'host'].decode('latin-1')}"
            await exchange.answer(200, docs_page(self._openapi(), address=address), *PAGE_HEADERS)
        elif wrong:
            self.refused["token"] += 1
            challenge = (b"www-authenticate", b'Bearer error="invalid_token"')
            await exchange.answer(401, token_page(wrong=True), challenge, *PAGE_HEADERS)
        else:
            await exchange.answer(200, token_page(), *PAGE_HEADERS)

    async def _to_docs(self, exchange: Exchange) -> None:
        await exchange.answer(308, b"", (b"location", DOCS.encode()))

    async def _get_ready(self, exchange: Exchange) -> None:
        status = 200 if self.ready else 503
        await exchange.answer(status, encode({"state": self.state.value}), JSON)


def _openai_routes(declared: Service) -> OpenAIRoutes | EngineRoutes | None:
    if declared.command is not None:
        return EngineRoutes(declared)
    return OpenAIRoutes(declared) if declared.protocol == "openai" else None


def _problem_of(exchange: Exchange, error: BaseException) -> Problem:
    """The answer for an exception of a service's types, or a cancellation by its code. Raises it if an answer is not possible."""
    task = asyncio.current_task()
    if exchange.status or (task is not None and task.cancelling()):
        raise error
    return problem_of(error, exchange.path[:80])
