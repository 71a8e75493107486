"""Spans of requests and batches by OpenTelemetry, sent by OTLP over HTTP; all settings are OpenTelemetry's own environment variables."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.serving.http import Exchange
from hooke.serving.metrics import CLIENT_GONE

__all__ = ["BatchScope", "TraceSettings", "Tracing", "start_tracing"]

QUEUE = 2048
"""Spans that wait to be sent: OpenTelemetry's default."""
WARN_EVERY_S = 60.0
CLOSE_S = 3.0
"""For the last spans, when the process ends."""
_NOISY = ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk._shared_internal")
"""Loggers that report each failure, some with a traceback: here one sentence a minute says it."""

_log = logging.getLogger("hooke")


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What each process of a replica needs to know of its spans."""

    service: str
    """The name of the service, unless OTEL_SERVICE_NAME has another one."""
    version: str = ""
    """The model's."""
    replica: str = ""


class BatchScope:
    """A batch at work: the spans of its requests, and the one that the model's spans belong to."""

    def __init__(self, tracing: Tracing, inner: Any, spans: Sequence[Any]) -> None:
        self._tracing = tracing
        self._inner = inner
        self._spans = spans

    @property
    def traceparent(self) -> str:
        """The span that the model works in, for another process."""
        return traceparent_of(self._inner)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What runs inside sees the batch's span as the current one."""
        with self._tracing.current(self._inner):
            yield

    def end(self, error: BaseException | None) -> None:
        """The batch ended."""
        for span in self._spans:
            if error is not None:
                self._tracing.mark_failed(span, type(error).__name__)
            span.end()


class Tracing:
    """The spans of one process. Its methods do not wait; lost spans are counted."""

    def __init__(self, settings: TraceSettings, provider: Any, exporter: _ReportingExporter | None) -> None:
        from opentelemetry import context, propagate, trace

        self.settings = settings
        self._trace, self._context, self._propagate = trace, context, propagate
        self._provider = provider
        self._exporter = exporter
        self._tracer = trace.get_tracer("hooke", tracer_provider=provider)

    @property
    def lost(self) -> int:
        """Spans that were not sent."""
        return self._exporter.lost if self._exporter is not None else 0

    def began(self, exchange: Exchange) -> None:
        """Start the request's span, which continues the client's trace; the current context gets it."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.headers.items()
        }
        carrier |= exchange.trace_headers()
        found = self._propagate.extract(carrier)
        span = self._tracer.start_span(
            exchange.verb,
            context=found,
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": exchange.verb, "hooke.request_id": exchange.id.decode()},
        )
        exchange.span, exchange.traceparent = span, traceparent_of(span)
        self._context.attach(self._trace.set_span_in_context(span, found))

    def ended(
        self, exchange: Exchange, route: str | None, status: int, *, version: str | None, replica: str | None
    ) -> None:
        """End the request's span."""
        span = exchange.span
        if not span.is_recording():
            return
        if route is not None:
            span.update_name(f"{exchange.verb} {route}")
        told: Mapping[str, Any] = {
            "http.route": route,
            "http.response.status_code": status if status != CLIENT_GONE else None,
            "http.request.body.size": exchange.bytes_in,
            "http.response.body.size": exchange.bytes_out,
            "hooke.key": exchange.client or None,
            "hooke.refused": exchange.refused_for or None,
            "hooke.queue_ms": round(exchange.waited_s * 1e3, 3) if exchange.batch_rows is not None else None,
            "hooke.batch_rows": exchange.batch_rows,
            "hooke.version": version,
            "hooke.replica": replica,
            "hooke.passed_on": exchange.passed_on or None,
        }
        span.set_attributes({name: value for name, value in told.items() if value is not None})
        if status == CLIENT_GONE:
            self.mark_failed(span, "client disconnected")
        elif status >= 500:
            self.mark_failed(span, exchange.refused_for or str(status))
        span.end()

    def fired(
        self, method: str, exchanges: Sequence[Exchange], begins: Sequence[Exchange], rows: int, *, item: bool
    ) -> BatchScope | None:
        """A batch of these requests begins; `begins` are those that waited for it, and not only for the next item of a stream.

        Each request has its time in the queue and in the model as two spans. Requests that share a batch are linked: the batch's
        own span is in the trace of the first one that is recorded, and links to all.
        """
        recorded = [one for one in exchanges if one.span is not None and one.span.is_recording()]
        if not recorded:
            return None
        now = time.time_ns()
        for one in begins:
            if one.span.is_recording():
                began = now - int(one.waited_s * 1e9)
                self._start("queue", one.span, began).end(now)
        if item:
            return BatchScope(self, recorded[0].span, ())
        about = {"hooke.method": method, "hooke.batch_rows": rows, "hooke.batch_requests": len(exchanges)}
        first = self._start(f"model {method}", recorded[0].span, now, about)
        if len(exchanges) == 1:
            return BatchScope(self, first, (first,))
        links = [self._trace.Link(one.span.get_span_context()) for one in exchanges if one.span is not None]
        batch = self._start(f"batch {method}", first, now, about, links)
        joins = [self._trace.Link(batch.get_span_context())]
        others = [self._start(f"model {method}", one.span, now, about, joins) for one in recorded[1:]]
        return BatchScope(self, batch, (batch, first, *others))

    def remote(self, traceparent: str, name: str) -> BatchScope:
        """Work of another process: a span here, whose parent is there."""
        found = self._propagate.extract({"traceparent": traceparent})
        span = self._tracer.start_span(name, context=found)
        return BatchScope(self, span, (span,))

    def current(self, span: Any) -> contextlib.AbstractContextManager[Any]:
        """Make it the current one. An exception's text may be confidential, and is not recorded."""
        current: contextlib.AbstractContextManager[Any] = self._trace.use_span(
            span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )
        return current

    def mark_failed(self, span: Any, why: str) -> None:
        """The span's work failed."""
        span.set_attribute("error.type", why)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, why))

    def close(self) -> None:
        """Send what waits, for a few seconds at most. A provider of the service's own code is its own affair."""
        if self._exporter is None:
            return
        ending = threading.Thread(target=self._provider.shutdown, name="hooke-spans-end", daemon=True)
        ending.start()
        ending.join(CLOSE_S)
        self._exporter.tell_lost(last=True)

    def _start(
        self,
        name: str,
        parent: Any,
        began: int,
        about: Mapping[str, Any] | None = None,
        links: Sequence[Any] = (),
    ) -> Any:
        return self._tracer.start_span(
            name,
            context=self._trace.set_span_in_context(parent),
            start_time=began,
            attributes=about,
            links=links,
        )


def traceparent_of(span: Any) -> str:
    """The span as a W3C header."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def start_tracing(settings: TraceSettings) -> Tracing | None:
    """Send spans from now on, as OpenTelemetry's environment variables say; None if OTEL_SDK_DISABLED is true.

    If the service's own code has set a tracer provider, its spans go there. Raises MissingExtra, and UsageError for a value that is not supported.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
    except ModuleNotFoundError as error:
        raise _lacking(error) from error
    given = trace.get_tracer_provider()
    if isinstance(given, TracerProvider):
        return Tracing(settings, given, None)
    try:
        made, exporter = _provider(settings)
    except ModuleNotFoundError as error:
        raise _lacking(error) from error
    except ValueError as error:
        raise UsageError(f"tracing: {error}", fix="correct or unset that OTEL_ variable") from error
    trace.set_tracer_provider(made)
    return Tracing(settings, made, exporter)


def _lacking(error: ModuleNotFoundError) -> MissingExtra:
    return MissingExtra(
        f"tracing needs {error.name}, which is not installed", fix=install_command("serve", "otel")
    )


def _provider(settings: TraceSettings) -> tuple[Any, _ReportingExporter | None]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.instance.id": f"{settings.replica or 'one'}-{os.getpid()}"})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": settings.service}))
    if settings.version and "service.version" not in resource.attributes:
        resource = resource.merge(Resource({"service.version": settings.version}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # OTEL_TRACES_SAMPLER is read there
    inner, where = _exporter()
    if inner is None:
        return provider, None
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    exporter = _ReportingExporter(inner, where, most=int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or QUEUE))
    waiting: Any = exporter  # it has an exporter's methods; their class is not imported before it is needed
    provider.add_span_processor(exporter.bounded(BatchSpanProcessor(waiting)))
    return provider, exporter


def _exporter() -> tuple[Any, str]:
    """The exporter that the environment asks for, and where it sends to; None for `none`."""
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if kind == "none":
        return None, ""
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(), "stdout"
    if kind != "otlp":
        raise UsageError(f"OTEL_TRACES_EXPORTER={kind} is not supported", fix="set otlp, console or none")
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(variable, "").strip()
        if protocol:
            if protocol != "http/protobuf":
                raise UsageError(
                    f"{variable}={protocol} is not supported",
                    fix="set http/protobuf, which collectors take at port 4318",
                )
            break
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    return OTLPSpanExporter(), os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or base


class _ReportingExporter:
    """An exporter that counts what is lost, and says it in one sentence a minute. It is called by the processor's thread."""

    def __init__(self, inner: Any, where: str, *, most: int) -> None:
        self.lost = 0
        self._inner = inner
        self._where = where
        self._most = most
        self._waiting = 0
        self._lock = threading.Lock()
        self._said = (0, -WARN_EVERY_S)

    def bounded(self, processor: Any) -> Any:
        """The processor, with a queue that refuses and counts what finds no room."""
        from opentelemetry.sdk.trace import SpanProcessor

        exporter = self

        class Bounded(SpanProcessor):
            def on_end(self, span: Any) -> None:
                if span.context.trace_flags.sampled and exporter.has_room():
                    processor.on_end(span)

            def shutdown(self) -> None:
                processor.shutdown()

            def force_flush(self, timeout_millis: int = 30_000) -> bool:
                flushed: bool = processor.force_flush(timeout_millis)
                return flushed

        return Bounded()

    def has_room(self) -> bool:
        """Count a span that is to wait, or to be lost."""
        with self._lock:
            fits = self._waiting < self._most
            self._waiting += fits
            self.lost += not fits
            return fits

    def export(self, spans: Sequence[Any]) -> Any:
        """Send them."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            with self._lock:
                self._waiting -= len(spans)
                self.lost += len(spans) * (result is not SpanExportResult.SUCCESS)
            self.tell_lost()
        return result

    def shutdown(self) -> None:
        """End."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        flushed: bool = self._inner.force_flush(timeout_millis)
        return flushed

    def tell_lost(self, *, last: bool = False) -> None:
        """Warn of spans that were lost since the last warning, if that is long enough ago."""
        told, at = self._said
        now = time.monotonic()
        if self.lost > told and (last or now - at >= WARN_EVERY_S):
            self._said = (self.lost, now)
            _log.warning(
                "%d spans could not be sent to %s and are lost; requests are not affected",
                self.lost,
                self._where,
            )
