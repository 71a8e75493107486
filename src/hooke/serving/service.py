"""`@service`: a class whose methods answer requests. It stays the class that it is."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args, overload

from hooke.base.errors import UsageError
from hooke.base.units import parse_bytes, parse_seconds
from hooke.base.user_code import user_place
from hooke.serving.asgi import Application
from hooke.serving.slo import Slo, parse_slo

__all__ = [
    "LOAD",
    "MODEL_FIELD",
    "SETUP",
    "EngineCommand",
    "Service",
    "from_command",
    "service",
    "service_of",
]

C = TypeVar("C", bound=type)
Where: TypeAlias = Literal["thread", "process"]
Protocol: TypeAlias = Literal["openai"]
Middleware: TypeAlias = Callable[[Application], Application]
"""Wraps an ASGI application in another one."""

SETUP = "setup"
LOAD = "load"
"""With `model_memory`, the method that loads a model by its name."""
TOKEN_METHODS = {"encode", "decode", "step", "embed", "read_tool_calls"}
"""With `protocol="openai"`, what the engine calls: no routes of their own."""
TOKEN_NEEDED = ("encode", "decode", "step")
MODEL_FIELD = "model"
"""And the parameter of other methods that is a model."""
TIMEOUT_S = 30.0
"""Longer than most predictions, and shorter than the minute after which proxies give up."""
START_TIMEOUT_S = 300.0
"""Enough to read a model of many GB from a disk."""
_MARK = "__hooke_service__"
_REFUSED = (
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
    inspect.Parameter.POSITIONAL_ONLY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """A program that answers OpenAI's protocol, which a replica runs and stands in front of."""

    words: tuple[str, ...]
    ready: str
    """The path that answers 200 once it is ready."""
    metrics: str
    """The path of its metrics; empty if it has none."""
    environment: tuple[tuple[str, str], ...] = ()
    most_requests: int
    concurrency: int
    """Requests in one engine with which it needs no other replica beside it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Service:
    """The declaration of a service's class."""

    made_by: type
    replicas: tuple[int, int] = (1, 1)
    """The fewest and the most."""
    slo: Slo | None = None
    max_batch: int | None = None
    """The most rows of a batch; None: each call is for one request."""
    wait_s: float = 0.0
    fill: bool = False
    """Whether a free model waits for more rows while it pays."""
    timeout_s: float = TIMEOUT_S
    start_timeout_s: float = START_TIMEOUT_S
    """From a replica's start until it is ready; a longer one is ended."""
    idempotent: bool = False
    cpus: int | None = None
    """Threads of a replica's libraries; None: its part of the cores."""
    gpus: float = 0.0
    """GPUs of a replica: whole ones, or a share of one."""
    standby: bool = False
    """Whether a process is kept in reserve that has imported the file of the class."""
    model: Where = "thread"
    """Where the class's own code runs: a thread of the replica, or a process of its own."""
    middleware: Middleware | None = None
    protocol: Protocol | None = None
    """Another protocol, which the class answers by methods of other names."""
    model_memory: int | None = None
    """Bytes of all models that `load` returns; None: the service has no such models."""
    command: EngineCommand | None = None
    """The program that answers instead of the class."""

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.made_by.__name__

    def __repr__(self) -> str:
        return f"<service {self.name!r} of {self.made_by.__module__}: {', '.join(self.methods())}>"

    def methods(self) -> dict[str, Callable[..., Any]]:
        """The methods that answer requests, by name: public methods of the object, without `setup`, and `load` with `model_memory`."""
        own = {SETUP, LOAD} if self.model_memory is not None else {SETUP}
        own |= TOKEN_METHODS if self.protocol == "openai" else set()
        found: dict[str, Callable[..., Any]] = {}
        for kind in reversed(self.made_by.__mro__[:-1]):
            for name, value in vars(kind).items():
                found.pop(name, None)  # an attribute that hides a method is served instead, or nothing is
                if inspect.isfunction(value) and not name.startswith("_") and name not in own:
                    found[name] = value
        return found

    def setup_parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters of `setup` without `self`; none if there is no `setup`."""
        function = getattr(self.made_by, SETUP, None)
        return dict(list(inspect.signature(function).parameters.items())[1:]) if function else {}


@overload
def service(made: C, /) -> C: ...
@overload
def service(
    *,
    replicas: int | tuple[int, int] = 1,
    slo: str | None = None,
    max_batch: int | None = None,
    wait: str | float | None = None,
    timeout: str | float = TIMEOUT_S,
    start_timeout: str | float = START_TIMEOUT_S,
    idempotent: bool | None = None,
    cpus: int | None = None,
    gpus: float = 0,
    standby: bool = False,
    model: Where = "thread",
    middleware: Middleware | None = None,
    model_memory: str | int | None = None,
    protocol: Protocol | None = None,
) -> Callable[[C], C]: ...
def service(  # noqa: PLR0913 - the options of a service, each by name
    made: Any = None,
    /,
    *,
    replicas: int | tuple[int, int] = 1,
    slo: str | None = None,
    max_batch: int | None = None,
    wait: str | float | None = None,
    timeout: str | float = TIMEOUT_S,
    start_timeout: str | float = START_TIMEOUT_S,
    idempotent: bool | None = None,
    cpus: int | None = None,
    gpus: float = 0,
    standby: bool = False,
    model: Where = "thread",
    middleware: Middleware | None = None,
    model_memory: str | int | None = None,
    protocol: Protocol | None = None,
) -> Any:
    """Declare that a class answers requests. The class is returned unchanged, and its objects are ordinary ones.

    Each public method answers `POST /<method>`: its parameters are the fields of a JSON object, and its result is the
    answer. A plain method runs in the service's own thread, one call at a time; `async def` runs on the event loop; a generator
    streams. An optional `setup(self, ...)` is called once, in the same thread, before the first request.

    `replicas` is the number of processes, or the fewest and the most: `(0, 8)` runs none while there are no calls, and the next call waits for the first one; `slo` the promise (`"p99 < 50ms"`); `idempotent`
    whether an unanswered request may be sent again, which those of `protocol="openai"` may by default. After `timeout` (seconds, or text such as `"2s"`) a request is
    answered with 504; for a generator it is the time to each item. A replica whose `setup` takes longer than `start_timeout` is ended.

    `max_batch` is the most rows that a method takes at once. Parameters annotated `list[...]`, `Sequence[...]` or
    `np.ndarray` then hold rows of several requests, and the method returns one row for each, or a dict of such columns; other
    parameters are equal for the whole batch. A failed batch is run again in halves, so a method may see the same rows twice. `wait` is how long a
    free model waits for more rows; `"auto"` waits while it pays: at most for the fixed time of a batch, and only if
    requests came together before. By default one replica does not wait, and several do as with `"auto"`: each gets
    fewer requests than one would.

    `model="process"` gives the class a process of its own beside the one with the connections: `setup` and all methods run there.
    Code that holds the interpreter's lock then delays no health check or deadline, and a crash ends no connection:
    its requests get 503 if the service is `idempotent`, else 500, and the process is restarted. It takes a second interpreter and
    some 0.1 ms a batch. `async def` methods are refused: they run on the event loop, where the object is not.

    `cpus` is the number of threads for a replica's libraries (BLAS, OpenMP, PyTorch, Polars): by default the cores divided
    by the most replicas. `standby=True` keeps a process in reserve that has imported the class's file, but holds no model: the next replica starts
    from there, and needs only its `setup`. `gpus` is the number of GPUs of each replica, or a share of one; it sees no others.

    `model_memory` (`"2GiB"`) is the memory for models that requests name. The class then has a method `load(self, name)`, and a parameter
    called `model` of another method is a name in the request, and in the method what `load` returned for it. A model is loaded
    when it is first asked for, beside requests for others. If there is no room, the one gives way that was used least recently.

    `protocol="openai"` makes it a service for OpenAI's clients: `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/models`, and `/v1/embeddings` if it has
    `embed`. The class then has `encode`, `decode` and `step`, the attributes `limits` and `end` (see `hooke.TokenModel`), and computes tokens of all requests together,
    step by step. Its name is the name of the model. A request waits for its first token no longer than `timeout`. Its promise is `slo="p95 first < 2s, each < 100ms"`:
    the time to the first token, and the mean time of each other one, which may be left out. A request that would have its first token too late is refused.

    `middleware` wraps the service, as an ASGI application, in another one: `middleware=lambda app: CORSMiddleware(app, allow_origins=["https://example.org"])`.
    It sees each request before any check of Hooke's, and each answer; the limits of connections stay as they are. ASGI's messages cost some 10 us a request.

    Raises UsageError for a class that cannot serve, and for invalid values.
    """
    with _placed():
        _check_class(made)
        bounds, promised = _replicas(replicas), parse_slo(slo) if slo is not None else None
        _check_options(max_batch, cpus, gpus, model, middleware, standby=standby)
        budget = parse_bytes(model_memory, name="model_memory") if model_memory is not None else None
        timeout_s, starts_s = _timeout_s(timeout), _timeout_s(start_timeout, name="start_timeout")
        waits_s, fill = _wait_s(wait), wait == "auto" or (wait is None and bounds[1] > 1)

    def declare(made: C) -> C:
        declared = Service(
            made_by=made,
            replicas=bounds,
            slo=promised,
            max_batch=max_batch,
            timeout_s=timeout_s,
            start_timeout_s=starts_s,
            wait_s=waits_s,
            fill=fill,
            idempotent=protocol == "openai" if idempotent is None else bool(idempotent),
            cpus=cpus,
            gpus=float(gpus),
            standby=bool(standby),
            model=model,
            middleware=middleware,
            model_memory=budget,
            protocol=protocol,
        )
        return _marked(made, declared)

    return declare if made is None else declare(made)


ENGINE_TIMEOUT_S = 600.0
"""A long answer that is not streamed comes after minutes of silence."""
ENGINE_START_S = 1800.0
"""Enough to read weights of hundreds of GB, and to compile for them."""
MOST_REQUESTS = 1024
"""In one engine: it computes hundreds at once, and others wait there."""
CONCURRENCY = 32
"""In one engine until there is a further one: what a batch gains by more requests becomes small."""


def from_command(  # noqa: PLR0913 - the options of a service, each by name
    name: str,
    command: str | Sequence[str],
    /,
    *,
    ready: str = "/health",
    metrics: str | None = "/metrics",
    environment: Mapping[str, str] | None = None,
    most_requests: int = MOST_REQUESTS,
    concurrency: int | None = None,
    replicas: int | tuple[int, int] = 1,
    timeout: str | float = ENGINE_TIMEOUT_S,
    start_timeout: str | float = ENGINE_START_S,
    idempotent: bool = True,
    cpus: int | None = None,
    gpus: float = 0,
    middleware: Middleware | None = None,
) -> type:
    """Declare a service whose replicas run an existing engine (vLLM, SGLang, llama.cpp's server, TGI, `transformers serve`) for OpenAI's clients.

    `chat = from_command("chat", "vllm serve ./model --host {host} --port {port}", gpus=2)`: the engine is a child of the replica, which passes requests
    for `/v1/...` on to it. Token, hosts, keys, limits, replicas, roll-outs and metrics are those of other services. `{host}` and `{port}` are a free address of this
    machine; `{socket}` in their place is the path of a unix socket (vLLM: `--uds {socket}`), and `{api_key}` a random key, which is also in VLLM_API_KEY and LLAMA_API_KEY. No shell reads the
    command: a text is split into words as one would, and a list is taken as it is. The engine's working directory is that of the replica.

    `ready` is the path that answers 200 once the engine is ready, within `start_timeout`. `metrics` is that of its Prometheus text, or None. `environment` has further variables. More than
    `most_requests` in one engine get 429. `replicas` are added where engines have more than `concurrency` open requests each, whatever their tokens: 32, or half of
    `most_requests` if that is fewer; give the engine's slots (llama.cpp: `--parallel`, vLLM: `--max-num-seqs`). `timeout` is the longest silence of the engine within an answer. `gpus`
    is how many GPUs one command gets, by CUDA_VISIBLE_DEVICES; give vLLM `--tensor-parallel-size` accordingly. `idempotent=False` is for engines whose requests have effects: no second replica is asked then. Others as in `service`. When the engine ends, its replica ends with it, and is replaced. Raises UsageError for invalid values.
    """
    with _placed():
        engine = EngineCommand(
            words=_words(name, command),
            ready=_path(ready, "ready"),
            metrics=_path(metrics, "metrics") if metrics else "",
            environment=tuple(sorted((environment or {}).items())),
            most_requests=most_requests,
            concurrency=_concurrency(concurrency, most_requests),
        )
        _check_options(None, cpus, gpus, "thread", middleware, standby=False)
        bounds = _replicas(replicas)
        timeout_s, starts_s = _timeout_s(timeout), _timeout_s(start_timeout, name="start_timeout")
    module = sys._getframe(1).f_globals.get("__name__", "__main__")  # noqa: SLF001 - as namedtuple: the class is the caller's
    said = {"__module__": module, "__doc__": f"The engine `{shlex.join(engine.words)}`.", "command": engine}
    made = type(name, (), said)
    return _marked(
        made,
        Service(
            made_by=made,
            replicas=bounds,
            timeout_s=timeout_s,
            start_timeout_s=starts_s,
            idempotent=bool(idempotent),
            cpus=cpus,
            gpus=float(gpus),
            middleware=middleware,
            protocol="openai",
            command=engine,
        ),
    )


def _concurrency(asked: int | None, most_requests: int) -> int:
    _check_whole(most_requests, "most_requests", "requests")
    if asked is None:
        return max(min(CONCURRENCY, most_requests // 2), 1)
    _check_whole(asked, "concurrency", "requests")
    if asked > most_requests:
        raise UsageError(
            f"concurrency={asked} is more than most_requests={most_requests}, so no replica would be added",
            fix="give fewer, or more most_requests",
        )
    return asked


def _words(name: str, command: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(
            f"from_command: {name!r} is not a name", fix='give one as of a class: from_command("chat", ...)'
        )
    try:
        words = tuple(shlex.split(command)) if isinstance(command, str) else tuple(command)
    except ValueError as error:
        raise UsageError(
            f"from_command: the command of {name} cannot be split into words: {error}",
            fix="give a list of words",
        ) from error
    if not words or not all(isinstance(word, str) for word in words):
        raise UsageError(
            f"from_command: {command!r} is not a command",
            fix='write from_command("chat", "vllm serve ./model --host {host} --port {port}")',
        )
    if not any(place in word for word in words[1:] for place in ("{port}", "{socket}")):
        raise UsageError(
            f"from_command: the command of {name} has no {{port}}, so two replicas would want the same one",
            fix="add --host {host} --port {port}, as the engine calls them; or {socket}, the path of a unix socket",
        )
    return words


def _path(value: str, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value):
        raise UsageError(f"{name}={value!r} is not a path", fix=f'write {name}="/health"')
    return value


def _marked(made: C, declared: Service) -> C:
    _check(declared)
    setattr(made, _MARK, declared)
    return made


@contextmanager
def _placed() -> Iterator[None]:
    """Errors say the line of the user's that declares the service."""
    try:
        yield
    except UsageError as error:
        error.where = error.where or str(user_place())
        raise


def service_of(made: object) -> Service:
    """The declaration of this very class. Raises UsageError if there is none."""
    declared = vars(made).get(_MARK) if inspect.isclass(made) else None
    if not isinstance(declared, Service):
        raise UsageError(f"{made!r} is not a service", fix="mark its class with @service")
    return declared


def _check_class(made: object) -> None:
    if made is not None and not inspect.isclass(made):
        raise UsageError(
            f"@service got {getattr(made, '__qualname__', made)!r}, which is not a class",
            fix="write @service or @service(max_batch=64) above a class with a method",
        )


def _check_options(
    max_batch: int | None, cpus: int | None, gpus: float, model: str, middleware: object, *, standby: bool
) -> None:
    _check_whole(max_batch, "max_batch", "rows")
    _check_whole(cpus, "cpus", "threads")
    _check_gpus(gpus)
    _check_where(model, middleware)
    if standby and gpus:
        raise UsageError(
            "standby=True does not go with gpus: the process in reserve would hold a GPU and do nothing",
            fix="leave standby out",
        )


def _check_whole(value: int | None, name: str, what: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(
            f"{name}={value!r} is not a valid number of {what}", fix=f"write {name}=8, or leave it out"
        )


def _check_gpus(value: float) -> None:
    number = -1.0 if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    if number < 0 or (number > 1 and number != int(number)):
        raise UsageError(
            f"gpus={value!r} is not a valid number of GPUs", fix="write gpus=1, or a share of one: gpus=0.5"
        )


def _check_where(value: str, middleware: object) -> None:
    if value not in get_args(Where):
        raise UsageError(f"model={value!r} is not valid", fix='write model="process", or leave it out')
    if middleware is not None and not callable(middleware):
        raise UsageError(
            f"middleware={middleware!r} is not a function of an ASGI application",
            fix="write middleware=lambda app: Wrapped(app), or leave it out",
        )


def _timeout_s(value: str | float, *, name: str = "timeout") -> float:
    timeout_s = parse_seconds(value)
    if not timeout_s:
        raise UsageError(f"{name}=0 leaves no time", fix=f'write {name}="2s"')
    return timeout_s


def _wait_s(value: str | float | None) -> float:
    if value is None or value == "auto":
        return 0.0
    try:
        return parse_seconds(value)
    except UsageError as error:
        raise UsageError(
            f"wait={value!r} is not a duration",
            why=error.what,
            fix='write wait="auto", wait="2ms", or leave it out',
        ) from error


def _replicas(value: int | tuple[int, int]) -> tuple[int, int]:
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (value, value)
    for count in (low, high):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise UsageError(
                f"replicas={value!r} is not a valid number of replicas",
                fix="write replicas=2, or the fewest and the most: replicas=(1, 8)",
            )
    if low > high or high < 1:
        raise UsageError(
            f"replicas={value!r} allows no replica", fix="give a maximum of at least 1, not below the minimum"
        )
    return low, high


def _check(declared: Service) -> None:
    where = str(user_place())
    needed = [
        name
        for name, parameter in inspect.signature(declared.made_by).parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in _REFUSED
    ]
    if needed:
        raise UsageError(
            f"@service: {declared.name}() needs {', '.join(needed)}",
            where=where,
            fix="take these in setup(self, ...); --with or keywords give them",
        )
    methods = declared.methods()
    if declared.slo is not None and declared.slo.of_tokens != (declared.protocol is not None):
        raise _wrong_promise(declared, where)
    if declared.protocol is not None:
        _check_token_model(declared, where)
    elif not methods:
        raise UsageError(
            f"@service: {declared.name} has no public method",
            where=where,
            fix="add one, such as def predict(self, rows: np.ndarray) -> np.ndarray",
        )
    for name, function in methods.items():
        _check_method(f"{declared.name}.{name}", function, where)
        if declared.model == "process" and _is_async(function):
            raise UsageError(
                f'@service(model="process"): {declared.name}.{name} is async def, which would run on the event loop, where the object is not',
                where=where,
                fix="write def: waiting in a process of its own delays no other request; or leave model= out",
            )
    if declared.model_memory is not None:
        _check_load(declared)


def _wrong_promise(declared: Service, where: str) -> UsageError:
    if declared.protocol is None:
        why, fix = "only a language model has first tokens", 'slo="p99 < 50ms"'
    else:
        why, fix = (
            "an answer of a language model takes as long as its tokens",
            'slo="p95 first < 2s, each < 100ms"',
        )
    return UsageError(
        f'slo="{declared.slo}" says nothing of {declared.name}', where=where, why=why, fix=f"write {fix}"
    )


def _check_token_model(declared: Service, where: str) -> None:
    if declared.command is not None:
        return
    lacking = [name for name in TOKEN_NEEDED if not callable(getattr(declared.made_by, name, None))]
    if declared.protocol not in get_args(Protocol):
        raise UsageError(
            f"protocol={declared.protocol!r} is not valid",
            where=where,
            fix='write protocol="openai", or leave it out: V2 needs none',
        )
    if lacking:
        raise UsageError(
            f'@service(protocol="openai"): {declared.name} has no method {", ".join(lacking)}',
            where=where,
            fix="add def encode(self, prompt), def decode(self, tokens) and def step(self, pieces): see hooke.TokenModel",
        )
    without = {"max_batch": declared.max_batch, "model_memory": declared.model_memory}
    given = [name for name, value in without.items() if value is not None]
    if given:
        raise UsageError(
            f'@service(protocol="openai"): {" and ".join(given)} of {declared.name} would have no effect',
            where=where,
            fix=f"leave out {' and '.join(given)}: self.limits says how much is computed together",
        )
    if declared.model == "process":
        raise UsageError(
            f'@service(protocol="openai", model="process"): the engine of {declared.name} has a thread of its own already',
            where=where,
            fix="leave out model=",
        )


def _check_load(declared: Service) -> None:
    where, load = str(user_place()), getattr(declared.made_by, LOAD, None)
    if not inspect.isfunction(load) or _is_async(load) or len(inspect.signature(load).parameters) != 2:
        raise UsageError(
            f"@service(model_memory=): {declared.name} has no method load(self, name)",
            where=where,
            fix="add def load(self, name: str), which returns the model of that name; it runs in a thread",
        )
    if declared.model == "process":
        raise UsageError(
            f'@service(model_memory=, model="process"): {declared.name} loads models beside its requests, which a process of its own does not',
            where=where,
            fix="leave out one of them",
        )
    if not any(MODEL_FIELD in inspect.signature(one).parameters for one in declared.methods().values()):
        raise UsageError(
            f"@service(model_memory=): no method of {declared.name} has a parameter {MODEL_FIELD}",
            where=where,
            fix=f"add it: def predict(self, {MODEL_FIELD}, rows)",
        )


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _check_method(name: str, function: Callable[..., Any], where: str) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    refused = [str(parameter) for parameter in parameters[1:] if parameter.kind in _REFUSED]
    if not parameters or refused:
        raise UsageError(
            f"@service: {name} takes {', '.join(refused) or 'no self'}",
            where=where,
            fix="give each parameter a name: they are the fields of the request",
        )
    if not re.fullmatch(r"[A-Za-z0-9_]+", name.rpartition(".")[2]):
        raise UsageError(
            f"@service: {name} has a name that cannot be a path", fix="use ASCII letters, digits and _"
        )
