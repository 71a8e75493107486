"""The process of a model: `python -m hooke.serving.model_process.model_main ORDER`, started by a replica, and ended with it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec

from hooke.base.errors import HookeError, Temporary, UsageError
from hooke.base.pinned_modules import PinnedModule, import_pinned
from hooke.processes.start import end_with, exit_with
from hooke.serving.model_calls import (
    Arguments,
    Drop,
    Item,
    MethodRun,
    ModelLost,
    ServiceObject,
    Work,
    freeze_objects,
    make_object,
)
from hooke.serving.model_process.wire import WireLink
from hooke.serving.observing.tracing import TraceSettings, Tracing, start_tracing
from hooke.serving.payloads import methods_of
from hooke.serving.problems import Problem, ServiceRaised
from hooke.serving.request_context import RequestContext, log_with_ids
from hooke.serving.service import Service, service_of

__all__ = ["DropSent", "ItemSent", "ModelProcessOrder", "ModelSetup", "RunSent", "main"]

_READ = 1 << 18


class ModelProcessOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is started with. The numbers are inherited descriptors."""

    parent: int
    socket: int
    outgoing: int
    incoming: int


class ModelSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The first message: `sys.path`, then pickled what needs it: the class, and the maker of `setup`'s arguments."""

    sys_path: list[str]
    modules: tuple[PinnedModule, ...]
    """The modules as they were when the replica was started."""
    what: bytes
    trace: TraceSettings | None = None
    """None: no spans."""


Facts = tuple[str, str | None, str | None]
"""Of a request: id, traceparent, tracestate."""
RunSent = tuple[str, list[dict[str, Any]], list[int], list[Any], int, list[Facts], str | None]
ItemSent = tuple[str, int, dict[str, Any] | None, list[Facts], str | None]
DropSent = int
"""Work in transit: plain tuples are pickled in a tenth of the time of objects. The last text is the span of the work."""


class _SentContext:
    """The context of a request in the replica."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    @cached_property
    def context(self) -> RequestContext:
        """The request's context."""
        return RequestContext(id=self._facts[0], traceparent=self._facts[1], tracestate=self._facts[2])


def main(order: ModelProcessOrder) -> int:
    """Do the replica's work until it closes the socket."""
    if not end_with(order.parent):
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the replica, which drains first
    faulthandler.enable(2, all_threads=False)  # a segfault leaves its Python stack in the log
    log_with_ids()
    own = os.getpid()
    with socket.socket(fileno=order.socket) as channel:
        link = WireLink(order.outgoing, order.incoming)
        messages = _messages(channel, link)
        made, tracing = _set_up(channel, link, messages)
        if made is None:
            return 1
        for frame in messages:
            work = None
            try:
                work = _work(link.read(frame), made, tracing)
                sent = link.packed((_done(work, made), None))
            except BaseException as error:  # noqa: BLE001 - exit() in a service's code is a failed request, too
                sent = link.packed((None, _portable(error)))
            if os.getpid() != own:
                os._exit(1)  # a fork of the service's code came back: its answer would go to the next caller
            if not isinstance(work, Drop):
                channel.sendall(sent)
        if tracing is not None:
            tracing.close()
    return 0


def _done(work: Work, made: ServiceObject) -> list[Any]:
    """The answers of the work. Its span here ends with it."""
    scope = None if isinstance(work, Drop) else work.scope
    if scope is None:
        return made.do(work)
    try:
        answers = made.do(work)
    except BaseException as error:
        scope.end(error)
        raise
    scope.end(None)
    return answers


def _messages(channel: socket.socket, link: WireLink) -> Iterator[Any]:
    """The messages, until the replica closes its end or is gone."""
    with contextlib.suppress(ConnectionResetError):
        while data := channel.recv(_READ):
            yield from link.feed(data)


def _set_up(
    channel: socket.socket, link: WireLink, messages: Iterator[Any]
) -> tuple[ServiceObject | None, Tracing | None]:
    """The object after setup, and what sends its spans; None if the replica is gone, or was told why setup failed."""
    frame = next(messages, None)
    if frame is None:
        return None, None
    made = tracing = error = None
    try:
        setup: ModelSetup = link.read(frame)
        declared, arguments = _imported(setup)
        # After the import: the service's own code may have set a provider.
        tracing = start_tracing(setup.trace) if setup.trace is not None else None
        made = make_object(declared, methods_of(declared), arguments)
        freeze_objects()
    except BaseException as raised:  # noqa: BLE001 - whatever it is, the replica reports it
        error = raised
    channel.sendall(link.packed((None, None if error is None else _portable_setup_error(error))))
    return made, tracing


def _imported(setup: ModelSetup) -> tuple[Service, Arguments]:
    sys.path[:] = setup.sys_path
    import_pinned(setup.modules)
    try:
        made_by, arguments = pickle.loads(setup.what)
        declared: Service = service_of(made_by)
    except HookeError:
        raise
    except Exception as error:  # an import runs the user's code, which may raise anything
        raise HookeError(
            f"the process of the model cannot import the service: {type(error).__name__}: {error}",
            why="".join(traceback.format_exception(error)),
            fix="the file is imported a second time there, so its import must work twice",
        ) from error
    return declared, arguments


def _work(sent: Any, made: ServiceObject, tracing: Tracing | None) -> Work:
    if isinstance(sent, int):
        return Drop(sent)
    name, span = sent[0], sent[-1]
    scope = tracing.remote(span, f"process {name}") if tracing is not None and span is not None else None
    if len(sent) == 5:
        _, stream, arguments, contexts, _ = sent
        return Item(
            stream=stream,
            method=made.methods[name],
            arguments=arguments,
            contexts=tuple(map(_SentContext, contexts)),
            scope=scope,
        )
    _, arguments, rows, writes, most, contexts, _ = sent
    return MethodRun(
        method=made.methods[name],
        arguments=arguments,
        rows=rows,
        writes=writes,
        most=most,
        contexts=tuple(map(_SentContext, contexts)),
        scope=scope,
    )


def _portable(error: BaseException) -> BaseException:
    """The exception of a method as one that the replica can unpickle."""
    if isinstance(error, Problem | ModelLost):
        return error
    if isinstance(error, UsageError):
        return UsageError(error.what, fix=error.fix)
    if isinstance(error, Temporary):
        return Temporary(error.what, delay_s=error.delay_s)
    return ServiceRaised(type(error).__name__, "".join(traceback.format_exception(error)).rstrip())


def _portable_setup_error(error: BaseException) -> HookeError:
    """The error of setup as one that the replica can unpickle."""
    if not isinstance(error, HookeError):
        return HookeError(f"setup failed: {type(error).__name__}: {error}")
    if type(error).__module__ == HookeError.__module__:
        return error
    kind = UsageError if isinstance(error, UsageError) else HookeError
    return kind(error.what, where=error.where, why=error.why, fix=error.fix, next=error.next)


if __name__ == "__main__":
    exit_with(main(msgspec.json.decode(sys.argv[1], type=ModelProcessOrder)))
