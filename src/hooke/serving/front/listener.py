"""The clients' side of the front: what is let in, how long it may take, and how often it is tried. Pure."""

from __future__ import annotations

from typing import Any

from hooke.serving.front.proto import CLUSTER, METRICS_CLUSTER, seconds, typed
from hooke.serving.front.replies import replies
from hooke.serving.front.settings import CONNECTION_BUFFER, FrontSettings, Tls
from hooke.serving.problems import AGAIN

__all__ = ["STAT_PREFIX", "listener"]

STAT_PREFIX = "front"
GRACE_S = 1.0
"""How much later than a replica the front gives up: the replica's own 504 says more."""
STREAM_SPARE_S = 5.0
"""How much longer than the deadline a stream may stand still: an item that is late is the replica's to refuse."""
RETRIES = 4
"""With two, 767 of 51,040 requests failed while replicas were killed; with four none of 53,248."""
METRICS_TIMEOUT = "5s"
"""It takes milliseconds; Prometheus gives up after ten seconds."""
MOST_DRAWS = 20
"""How often a try draws again when it drew a replica that was tried."""
NOBODY = "255.255.255.255"
"""An address that no caller has. Without one Envoy takes its own machine for a network whose headers it obeys."""
FORWARDED = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    "x-envoy-external-address",
)
"""Whoever is in front of this could write what he likes in these, so no replica sees any."""


def listener(settings: FrontSettings) -> dict[str, Any]:
    """One port, HTTP/1.1 alone: nothing here needs HTTP/2, whose way into HTTP/1 is where requests are smuggled."""
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": _connections(settings)}]}
    if settings.tls is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": _tls(settings.tls)}
    made: dict[str, Any] = {
        "name": "front",
        "address": {"socket_address": {"address": settings.address, "port_value": settings.port}},
        # A second Envoy on this port is to fail, rather than get half of the connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER,
        "filter_chains": [chain],
    }
    if settings.threads > 1:
        # Threads that share a socket take connections as it happens; with few, long ones, one thread would have them all.
        balance: dict[str, Any] = {}
        made["connection_balance_config"] = {"exact_balance": balance}
    return made


def _tls(tls: Tls) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": str(tls.certificate)},
        "private_key": {"filename": str(tls.key)},
    }
    return typed(
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificates": [certificate],
            "alpn_protocols": ["http/1.1"],
        },
    )


def _connections(settings: FrontSettings) -> dict[str, Any]:
    made = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        codec_type="HTTP1",
        **_who_asks(),
        **_what_is_well_formed(settings),
        **_how_long(settings),
        local_reply_config=replies(settings),
        http_filters=_filters(settings),
        route_config=_routes(settings),
    )
    if settings.access_log is not None:
        made["access_log"] = [{"name": "file", "typed_config": _access_log(str(settings.access_log))}]
    return made


def _who_asks() -> dict[str, Any]:
    return {
        # The caller is who has the connection, and no address is trusted more than another: Envoy's own headers, which could
        # ask for retries or other timeouts, are dropped from every request.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": NOBODY, "prefix_len": 32}]},
        "skip_xff_append": True,
        "via": "",
        "server_header_transformation": "PASS_THROUGH",
        # A request keeps the id that it came with, or gets one; also what the front answers itself bears it.
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # Nothing is written into it. There is no tracing either: the W3C headers pass as they are.
        "request_id_extension": {
            "typed_config": typed(
                "extensions.request_id.uuid.v3.UuidRequestIdConfig", pack_trace_reason=False
            )
        },
    }


def _what_is_well_formed(settings: FrontSettings) -> dict[str, Any]:
    return {
        # One path, one spelling: what is looked at here is what a replica sees.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": settings.header_limit_kb,
        "common_http_protocol_options": {
            "idle_timeout": seconds(settings.idle_timeout_s),
            "max_headers_count": settings.most_headers,
            # Some servers read `content_length` as `content-length`.
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http_protocol_options": {
            # Two lengths of one body are two ways to read where the next request begins.
            "allow_chunked_length": False,
            "accept_http_10": False,
            "enable_trailers": False,
            # Java's client asks for it with each first request; it goes on as HTTP/1.1.
            "ignore_http_11_upgrade": [{"exact": "h2c"}],
        },
    }


def _how_long(settings: FrontSettings) -> dict[str, Any]:
    return {
        "request_headers_timeout": seconds(settings.headers_timeout_s),
        # Headers and body: a replica waits for a body as long as it would for its own answer.
        "request_timeout": seconds(settings.headers_timeout_s + settings.timeout_s),
        "stream_idle_timeout": seconds(settings.timeout_s + STREAM_SPARE_S),
        # A refused client is given so long to read why.
        "delayed_close_timeout": "1s",
    }


def _filters(settings: FrontSettings) -> list[dict[str, Any]]:
    limit = []
    if settings.rate_limit is not None:
        limit.append({"name": "rate_limit", "typed_config": _rate_limit(settings.rate_limit)})
    # Bodies pass through as they come. Kept here until they are whole, as Envoy's buffer filter would, each caller without a token
    # could fill the memory: a replica refuses it once it has seen the headers.
    body = typed(
        "extensions.filters.http.body_size_limit.v3.BodySizeLimit", max_request_bytes=settings.body_limit
    )
    # No headers of Envoy's own to either side but the number of the try, and no counters for each status.
    router = typed(
        "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True, dynamic_stats=False
    )
    return [*limit, {"name": "body", "typed_config": body}, {"name": "router", "typed_config": router}]


def _rate_limit(rate: int) -> dict[str, Any]:
    every = {"numerator": 100, "denominator": "HUNDRED"}
    return typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rate",
        token_bucket={"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"},
        filter_enabled={"default_value": every},
        filter_enforced={"default_value": every},
    )


def _routes(settings: FrontSettings) -> dict[str, Any]:
    deadline = seconds(settings.timeout_s + GRACE_S)
    # A stream has no deadline as a whole; standing still is what ends it.
    streams = [
        {"match": {"path": path}, "route": {"cluster": CLUSTER, "timeout": "0s"}} for path in settings.streams
    ]
    return {
        "name": "front",
        "request_headers_to_remove": list(FORWARDED),
        "virtual_hosts": [
            {
                "name": "front",
                # Which Host is meant is for the replicas to say: they are asked by others, too.
                "domains": ["*"],
                "retry_policy": _retries(idempotent=settings.idempotent),
                "request_body_buffer_limit": settings.kept_body,
                "response_headers_to_remove": [AGAIN],
                # A replica whose model died with a request asks for one more try and no further.
                "include_request_attempt_count": True,
                "routes": [
                    *_metrics(settings),
                    *streams,
                    {"match": {"prefix": "/"}, "route": {"cluster": CLUSTER, "timeout": deadline}},
                ],
            }
        ],
    }


def _metrics(settings: FrontSettings) -> list[dict[str, Any]]:
    if settings.metrics_socket is None:
        return []
    # Tried once: where nobody listens there is nobody else, and who asks comes again by himself.
    route = {"cluster": METRICS_CLUSTER, "timeout": METRICS_TIMEOUT, "retry_policy": {"num_retries": 0}}
    return [{"match": {"path": settings.metrics_path}, "route": route}]


def _retries(*, idempotent: bool) -> dict[str, Any]:
    # Nothing of these was sent, so each may try again; of an answer that says so nothing was done, or it may be done again.
    safe = "connect-failure,refused-stream,reset-before-request,retriable-headers"
    previous = typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
    return {
        # `reset` is a request that was sent and has no answer: it may have been done.
        "retry_on": f"{safe},reset" if idempotent else safe,
        "retriable_headers": [{"name": AGAIN, "present_match": True}],
        "num_retries": RETRIES,
        "retry_host_predicate": [{"name": "previous_hosts", "typed_config": previous}],
        "host_selection_retry_max_attempts": MOST_DRAWS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }


def _access_log(path: str) -> dict[str, Any]:
    # Neither query nor headers: tokens stand there.
    line = {
        "at": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "why": "%RESPONSE_CODE_DETAILS%",
        "took_ms": "%DURATION%",
        "replica": "%UPSTREAM_HOST%",
        "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return typed(
        "extensions.access_loggers.file.v3.FileAccessLog", path=path, log_format={"json_format": line}
    )
