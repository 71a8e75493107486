"""Envoy's configuration: the listener for clients, the clusters of replicas, and the proxy's own answers. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hooke.proxy.keeper_config import (
    INNER,
    KEEPER_HEADERS,
    inner_listener,
    keeper_clusters,
    keeper_route,
    outer_log,
)
from hooke.proxy.picker_config import picked_host, picker_cluster, picker_filters, picker_route
from hooke.proxy.proxy_settings import (
    CLUSTER,
    CONNECTION_BUFFER,
    METRICS_CLUSTER,
    MIRROR_CLUSTER,
    ProxySettings,
    ProxyTls,
    Upstream,
    seconds,
    typed,
)
from hooke.serving.problems import (
    PRIORITY_HEADER,
    RETRY_HEADER,
    SANE_ID,
    STREAM_HEADER,
    VERSION_HEADER,
    phrase_of,
)

__all__ = [
    "MIRROR_SHARE",
    "STAT_PREFIX",
    "bootstrap",
    "endpoints",
    "listener",
    "local_replies",
    "low_keys_pattern",
    "request_limits",
]


# --- The proxy's own answers, as the same problem documents (RFC 9457) that replicas send.


def local_replies(settings: ProxySettings) -> dict[str, Any]:
    """Envoy's `local_reply_config`: by Envoy's response flag, else by status."""
    flags = [
        *_metrics(settings),
        _mapper(_flag("UH"), 503, "no replica is ready", retry_after_s=1),
        _mapper(_flag("UF"), 503, "no replica could be reached", retry_after_s=1),
        _mapper(_flag("UO"), 503, TOO_MANY, retry_after_s=settings.drain_s),
        _mapper(_flag("OM"), 503, "the proxy is short of memory", retry_after_s=1),
        # 502 and not 503: unlike the ones above, the request may have been done.
        _mapper(_flag("UC"), 502, "the replica ended before its answer; the request may have been done"),
        _mapper(_flag("UT"), 504, f"no answer within {settings.timeout_s:g} s"),
    ]
    statuses = [
        _mapper(_status(413), 413, f"the body is larger than {settings.body_limit} bytes"),
        _mapper(
            _status(431),
            431,
            f"the headers are more than {settings.most_headers}, or longer than {settings.header_limit_kb} KiB",
        ),
        _mapper(_status(429), 429, f"more than {settings.rate_limit} requests a second", retry_after_s=1),
        _mapper(_status(408), 408, "the request did not arrive in time"),
        _mapper(_status(426), 426, "the only supported version is HTTP/1.1"),
        _mapper(_status(403), 403, "connection upgrades are not supported"),
        # An unknown transfer coding is the client's fault, and gets a 400.
        _mapper(
            _status(501), 400, "the only supported transfer-encoding is chunked: %RESPONSE_CODE_DETAILS%"
        ),
        _mapper(_status(400), 400, "this is not a valid HTTP request: %RESPONSE_CODE_DETAILS%"),
    ]
    rest = {"status": "%RESPONSE_CODE%", "detail": "%RESPONSE_CODE_DETAILS%"}
    return {"mappers": [*flags, *statuses], "body_format": _format(rest)}


HEALTH_CHECKS = "/-/(health|ready)|/v2/health/(live|ready)"
TOO_MANY = "more requests are in progress than can be answered in time"


def _metrics(settings: ProxySettings) -> list[dict[str, Any]]:
    """The replicas may all be well, so the answer names the supervisor."""
    if settings.metrics_socket is None:
        return []
    path = {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": settings.metrics_path}}}}
    silent = {"response_flag_filter": {"flags": ["UF", "UC", "UT", "UH", "UO"]}}
    said = "the supervisor, which has the metrics of all replicas, does not answer; other requests are not affected"
    return [_mapper({"and_filter": {"filters": [path, silent]}}, 503, said, retry_after_s=5)]


def _mapper(which: dict[str, Any], status: int, detail: str, *, retry_after_s: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {
        "filter": which,
        "status_code": status,
        "body_format_override": _format(
            {"title": phrase_of(status), "status": "%RESPONSE_CODE%", "detail": detail}
        ),
    }
    if retry_after_s:
        made["headers_to_add"] = [{"header": {"key": "retry-after", "value": str(retry_after_s)}}]
    return made


def _format(document: dict[str, str]) -> dict[str, Any]:
    # Clients of the Open Inference Protocol look for the message under `error`.
    told = {**document, "error": document["detail"]}
    return {"json_format": told, "content_type": "application/problem+json"}


def _flag(name: str) -> dict[str, Any]:
    return {"response_flag_filter": {"flags": [name]}}


def _status(code: int) -> dict[str, Any]:
    # Envoy wants a key under which the number could be changed at run time; none is used.
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "none"}}
        }
    }


STAT_PREFIX = "front"
GRACE_S = 1.0
"""How much later than a replica the proxy gives up: the replica's own 504 says more."""
STREAM_SPARE_S = 5.0
"""How much longer than the deadline a stream may stand still: the replica refuses a late item."""
RETRIES = 4
"""Of connections that fail. A request that was sent, and whose replica ended, gets one more try: a third replica refuses it. With two, 767 of 51,040 requests failed while replicas were killed; with four none of 53,248."""
METRICS_TIMEOUT = "5s"
"""It takes milliseconds; Prometheus gives up after ten seconds."""
DRAWN = 6
"""The least busy of so many drawn replicas gets a request. Of two draws, both are often the same replica: when one of two or three was ten
times slower, at half of the load that they bear, p99 rose from 53 to 1,983 ms and 165 of 1,487 requests failed; with six it was
below 505 ms and none failed. A full scan finds the same one each time: a dead replica is never busy, so each retry would
find it again (319 of 1,044 requests failed in a test)."""
_UNIQUE = "%CONNECTION_ID%-%START_TIME(%s%9f)%"
"""A different text for each request of this Envoy."""
MOST_DRAWS = 500
"""How often a retry draws again if it drew a replica that was tried: with six draws of two replicas, all six are the other one once in 64 times."""
NOBODY = "255.255.255.255"
"""An address that no client has. Without one, Envoy trusts the headers of its own machine's networks."""
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
"""Headers that a client could forge: no replica sees them."""


def listener(settings: ProxySettings, low_keys: str = "") -> dict[str, Any]:
    """One port, HTTP/1.1 only: HTTP/2 is not needed, and translating it to HTTP/1 enables request smuggling.

    Requests whose `authorization` matches `low_keys` are of low priority, as `low_keys_pattern` makes it.
    """
    outer = _connections(settings, low_keys, kept=settings.kept)
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": outer}]}
    if settings.tls is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": _tls(settings.tls)}
    made: dict[str, Any] = {
        "name": "front",
        # Of these the drain closes; the inner one is asked until the last request is answered.
        "traffic_direction": "INBOUND",
        "address": {"socket_address": {"address": settings.address, "port_value": settings.port}},
        # A second Envoy on this port must fail, rather than get half of the connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER,
        "filter_chains": [chain],
    }
    if settings.threads > 1:
        # Threads that share a socket get connections by chance; of few long ones, one thread might get all.
        balance: dict[str, Any] = {}
        made["connection_balance_config"] = {"exact_balance": balance}
    return made


def _tls(tls: ProxyTls) -> dict[str, Any]:
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


def _connections(
    settings: ProxySettings, low_keys: str, *, kept: Sequence[str] = (), prefix: str = STAT_PREFIX
) -> dict[str, Any]:
    """Of the outer listener, whose requests for the paths `kept` go to the stream keeper; or of the inner one."""
    outer = prefix == STAT_PREFIX
    made = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=prefix,
        codec_type="HTTP1",
        **_who_asks(),
        **_what_is_well_formed(settings),
        **_how_long(settings, read_s=1 if outer else 0),
        local_reply_config=local_replies(settings),
        http_filters=_filters(settings, limited=outer),
        route_config=_routes(
            settings, low_keys, kept, FORWARDED if not outer else (*FORWARDED, *KEEPER_HEADERS)
        ),
    )
    if settings.access_log is not None:
        log = {"name": "file", "typed_config": _access_log(str(settings.access_log))}
        made["access_log"] = [outer_log(log) if kept else log]
    return made


def _who_asks() -> dict[str, Any]:
    return {
        # The client is the peer of the connection, and no address is trusted more than another: Envoy's own headers, which could
        # ask for retries or other timeouts, are dropped from every request.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": NOBODY, "prefix_len": 32}]},
        "skip_xff_append": True,
        "via": "",
        "server_header_transformation": "PASS_THROUGH",
        # A request keeps its id, or gets one; the proxy's own answers carry it, too.
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # The id is not changed. There is no tracing either: W3C headers pass unchanged.
        "request_id_extension": {
            "typed_config": typed(
                "extensions.request_id.uuid.v3.UuidRequestIdConfig", pack_trace_reason=False
            )
        },
    }


def _what_is_well_formed(settings: ProxySettings) -> dict[str, Any]:
    return {
        # One path, one spelling: the proxy checks what a replica sees.
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
            # Two lengths of one body would give two places where the next request begins.
            "allow_chunked_length": False,
            "accept_http_10": False,
            "enable_trailers": False,
            # Java's client sends it with each first request; it continues with HTTP/1.1.
            "ignore_http_11_upgrade": [{"exact": "h2c"}],
        },
    }


def _how_long(settings: ProxySettings, read_s: int) -> dict[str, Any]:
    """`read_s`: seconds for a refused client to read the answer."""
    return {
        "request_headers_timeout": seconds(settings.headers_timeout_s),
        # Headers and body: a replica waits for a body as long as for its own answer.
        "request_timeout": seconds(settings.headers_timeout_s + settings.timeout_s),
        "stream_idle_timeout": seconds(settings.timeout_s + STREAM_SPARE_S),
        "delayed_close_timeout": seconds(read_s),
    }


def _filters(settings: ProxySettings, *, limited: bool) -> list[dict[str, Any]]:
    limit = []
    if limited and settings.rate_limit is not None:
        limit.append({"name": "rate_limit", "typed_config": _rate_limit(settings.rate_limit)})
    # Bodies are streamed. If they were buffered, as by Envoy's buffer filter, clients without a token
    # could fill the memory: a replica refuses them after the headers.
    body = typed(
        "extensions.filters.http.body_size_limit.v3.BodySizeLimit", max_request_bytes=settings.body_limit
    )
    # No headers of Envoy's own but the attempt count, and no counters for each status.
    router = typed(
        "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True, dynamic_stats=False
    )
    # Envoy chooses among the endpoints whose metadata has this value, or among all if none has.
    rule = {
        "header": VERSION_HEADER,
        "on_header_present": {"metadata_namespace": "envoy.lb", "key": "version", "type": "STRING"},
    }
    version = typed("extensions.filters.http.header_to_metadata.v3.Config", request_rules=[rule])
    return [
        *limit,
        {"name": "body", "typed_config": body},
        {"name": "version", "typed_config": version},
        *(picker_filters() if settings.prompts else ()),
        {"name": "router", "typed_config": router},
    ]


def _rate_limit(rate: int) -> dict[str, Any]:
    every = {"numerator": 100, "denominator": "HUNDRED"}
    return typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rate",
        token_bucket={"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"},
        filter_enabled={"default_value": every},
        filter_enforced={"default_value": every},
    )


def _routes(
    settings: ProxySettings, low_keys: str, kept: Sequence[str], removed: Sequence[str]
) -> dict[str, Any]:
    deadline = seconds(settings.timeout_s + GRACE_S)
    streams = _stream_routes(settings, kept)
    return {
        "name": "front",
        "request_headers_to_remove": list(removed),
        **_stream(settings),
        "virtual_hosts": [
            {
                "name": "front",
                # The replicas check the Host: other clients may reach them, too.
                "domains": ["*"],
                "retry_policy": _retries(idempotent=settings.idempotent),
                "request_body_buffer_limit": settings.kept_body,
                "response_headers_to_remove": [RETRY_HEADER],
                # A replica whose model died with a request asks for one more try only.
                "include_request_attempt_count": True,
                "routes": [
                    *_metrics_route(settings),
                    *_with_sane_ids(
                        [
                            _health_checks(deadline),
                            *_with_priorities(
                                [
                                    *streams,
                                    {
                                        "match": {"prefix": "/"},
                                        "route": {"cluster": CLUSTER, "timeout": deadline, **_mirror()},
                                    },
                                ],
                                low_keys,
                            ),
                        ]
                    ),
                ],
            }
        ],
    }


def _stream_routes(settings: ProxySettings, kept: Sequence[str]) -> list[dict[str, Any]]:
    """A stream has no deadline as a whole; it ends when it stands still. An answer that takes long may stand still, too."""
    made = [
        {"match": {"path": path}, "route": {"cluster": CLUSTER, "timeout": "0s"}} for path in settings.streams
    ]
    for path in settings.unhurried:
        if path in kept:
            made.append(keeper_route(path))
            continue
        route = {"cluster": CLUSTER, "timeout": "0s", "idle_timeout": "0s"}
        picked = picker_route() if path in settings.prompts else {}
        made.append({"match": {"path": path}, "route": route, **picked})
    return made


MIRROR_SHARE = "hooke.mirror_percent"
"""The runtime value of the percentage of requests of which the mirrored replicas get a copy."""


def _mirror() -> dict[str, Any]:
    """Copies, whose answers nobody gets. Streams and health checks have none."""
    none = {"numerator": 0, "denominator": "HUNDRED"}
    policy = {
        "cluster": MIRROR_CLUSTER,
        "runtime_fraction": {"default_value": none, "runtime_key": MIRROR_SHARE},
        # The replicas check the Host.
        "disable_shadow_host_suffix_append": True,
    }
    return {"request_mirror_policies": [policy]}


def _health_checks(deadline: str) -> dict[str, Any]:
    """Health checks count with the requests of low priority: a service whose limit is reached by others is well, and says so."""
    return {
        "match": {"safe_regex": {"regex": HEALTH_CHECKS}},
        "route": {"cluster": CLUSTER, "timeout": deadline},
    }


def _with_sane_ids(routes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The routes, and before each the same for requests whose id no replica accepts: these get another one here.

    A replica would give them one for its log and its answer, and Envoy would answer with the client's own.
    """
    insane = {
        "name": "x-request-id",
        "string_match": {"safe_regex": {"regex": SANE_ID}},
        "invert_match": True,
    }
    header = {"key": "x-request-id", "value": _UNIQUE}
    given = {"request_headers_to_add": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}
    made: list[dict[str, Any]] = []
    for route in routes:
        match = {**route["match"], "headers": [*route["match"].get("headers", ()), insane]}
        # The picker and the replica are to see the same id.
        picker = picker_route(header) if "typed_per_filter_config" in route else {}
        made += [{**route, "match": match, **picker, **given}, route]
    return made


def _with_priorities(routes: list[dict[str, Any]], low_keys: str) -> list[dict[str, Any]]:
    """The routes for all requests, and before each the same for those of low priority: each of the two has a limit of requests in progress."""
    low: list[dict[str, Any]] = [{"name": PRIORITY_HEADER, "string_match": {"exact": "low"}}]
    if low_keys:
        low.append({"name": "authorization", "string_match": {"safe_regex": {"regex": low_keys}}})
    made: list[dict[str, Any]] = []
    for route in routes:
        made += [{**route, "match": {**route["match"], "headers": [one]}} for one in low]
        made.append({**route, "route": {**route["route"], "priority": "HIGH"}})
    return made


KEY_START = 12
"""Characters of a token that Envoy compares, half of a shorter one."""


def low_keys_pattern(low: Sequence[str], high: Sequence[str]) -> str:
    """A pattern (RE2) for the `authorization` of requests with a token of `low`, and none of `high`; empty without `low`.

    Envoy gets the start of a token, and more only if another one starts alike: its comparison may take longer the more characters
    are right, so it must not tell a whole token. A forged token with the same start is of low priority, and refused by a replica.
    """
    starts: list[str] = []
    for token in low:
        size = min(KEY_START, len(token) // 2)
        while size < len(token) and any(other.startswith(token[:size]) for other in high):
            size += 1
        starts.append(re.escape(token[:size]) + (".+" if size < len(token) else ""))
    return rf"(?i:bearer) +(?:{'|'.join(sorted(starts))})" if starts else ""


def _stream(settings: ProxySettings) -> dict[str, Any]:
    """Names a request for all its tries: a replica refuses one that has ended two others. Clients choose `x-request-id`; this they can't."""
    if not settings.names_requests:
        return {}
    header = {"key": STREAM_HEADER, "value": _UNIQUE}
    return {"request_headers_to_add": [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}


def _metrics_route(settings: ProxySettings) -> list[dict[str, Any]]:
    if settings.metrics_socket is None:
        return []
    # Tried once: no other supervisor could answer, and a scraper comes again.
    route = {"cluster": METRICS_CLUSTER, "timeout": METRICS_TIMEOUT, "retry_policy": {"num_retries": 0}}
    return [{"match": {"path": settings.metrics_path}, "route": route}]


def _retries(*, idempotent: bool) -> dict[str, Any]:
    # Nothing of these was sent, so a retry is safe; a header says so if the replica answered without doing anything.
    safe = "connect-failure,refused-stream,reset-before-request,retriable-headers"
    previous = typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
    return {
        # `reset`: a request that was sent and not answered; it may have been done.
        "retry_on": f"{safe},reset" if idempotent else safe,
        "retriable_headers": [{"name": RETRY_HEADER, "present_match": True}],
        "num_retries": RETRIES,
        "retry_host_predicate": [{"name": "previous_hosts", "typed_config": previous}],
        "host_selection_retry_max_attempts": MOST_DRAWS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }


def _access_log(path: str) -> dict[str, Any]:
    # Neither query nor headers: they may hold tokens.
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


# --- The bootstrap configuration and the file of the replicas as plain values, each setting with its reason.

CONNECT_TIMEOUT = "1s"
"""A loopback connection takes microseconds. One that takes longer found a full backlog, and another replica is better."""
UPSTREAM_IDLE = "60s"
"""Less than the 75 s of a replica: the side that would send next must close first."""
PATTERN, PATTERN_PER_CHARACTER = 2000, 4
"""The largest program of a pattern (RE2), and what a longer pattern adds."""
MOST_RETRIES = 1024
"""At once. A budget of 20 % of the requests instead lost 33,819 of 89,940: a dead replica fails fast, and uses it up."""


WHOLE = 1_000_000
"""The sum of the weights of two versions."""
ALWAYS = 100_000
"""As an over-provisioning factor in percent: a version keeps its share of the requests while one in a thousand of its replicas can take them."""


def endpoints(
    replicas: Iterable[Upstream], share: float | None = None, cluster: str = CLUSTER
) -> dict[str, Any]:
    """The file of the replicas (EDS), independent of their order. Its version is its digest.

    `share` is the part of the requests that the new ones get; None: each replica gets as many as any other. Each version is a
    locality of Envoy's. A request draws its locality by weight, then the least busy of some replicas; a retry draws anew, so it may
    go to the other version. The activator is listed only while no replica is, and no request reaches it once a replica is published.
    """
    versions: dict[str, list[Upstream]] = {}
    for one in sorted(set(replicas), key=lambda one: (one.host, one.port, one.socket)):
        versions.setdefault(one.version, []).append(one)
    serving = [one for each in versions.values() for one in each if not one.leaving]
    weights: dict[str, float] = {}
    for one in serving:
        part = 1.0
        if share is not None:
            part = WHOLE * (share if one.new else 1 - share) / sum(one.new == each.new for each in serving)
        weights[one.version] = weights.get(one.version, 0.0) + part
    found = [
        {
            "locality": {"region": version},
            **({"load_balancing_weight": max(1, round(weights[version]))} if version in weights else {}),
            "lb_endpoints": [_endpoint(one) for one in versions[version]],
        }
        for version in sorted(versions)
    ]
    assignment = typed("config.endpoint.v3.ClusterLoadAssignment")
    assignment |= {
        "cluster_name": cluster,
        "endpoints": found,
        # Replicas that leave must not take from the share of those that stay.
        "policy": {"overprovisioning_factor": ALWAYS},
    }
    version = hashlib.blake2b(json.dumps(assignment, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"version_info": version, "resources": [assignment]}


def bootstrap(
    settings: ProxySettings, admin: Path, *, low: Sequence[str] = (), high: Sequence[str] = ()
) -> dict[str, Any]:
    """The configuration. `admin` is the socket of the admin interface; requests with the tokens `low` are of low priority."""
    low_keys = low_keys_pattern(low, high)
    largest = PATTERN + PATTERN_PER_CHARACTER * len(low_keys)
    listeners = [listener(settings, low_keys)]
    if settings.kept:
        listeners.append(inner_listener(_connections(settings, low_keys, prefix=INNER), CONNECTION_BUFFER))
    return {
        "node": {"id": settings.service, "cluster": "hooke"},
        # A socket that only its owner may open: over a port every program of the machine could end Envoy.
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": _clusters(settings)},
        "overload_manager": _overload(settings),
        # The pattern of a request's id has a length, and so a larger program than Envoy allows by default.
        "layered_runtime": {
            "layers": [
                {
                    "name": "patterns",
                    "static_layer": {
                        "re2.max_program_size.error_level": largest,
                        "re2.max_program_size.warn_level": largest,
                    },
                },
                # The limits of requests in progress, which follow what the replicas can answer in time.
                {"name": "measured", "admin_layer": {}},
            ]
        },
        # Only the counters that are read; nothing is sent anywhere.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": f"cluster.{CLUSTER}."},
                        {"exact": f"cluster.{MIRROR_CLUSTER}.version_text"},
                        {"prefix": f"http.{STAT_PREFIX}."},
                        {"prefix": f"http.{INNER}.ext_authz."},
                        {"prefix": "listener"},
                    ]
                }
            }
        },
    }


def _endpoint(replica: Upstream) -> dict[str, Any]:
    address: dict[str, Any] = {"socket_address": {"address": replica.host, "port_value": replica.port}}
    if replica.socket:
        address = {"pipe": {"path": replica.socket}}  # relative to Envoy's working directory, its folder
    # A draining host gets nothing new, and its open requests stay visible; a removed host's would not.
    if replica.leaving:
        return {"endpoint": {"address": address}, "health_status": "DRAINING"}
    metadata = {"filter_metadata": {"envoy.lb": {"version": "new" if replica.new else "old"}}}
    return {"endpoint": {"address": address}, "metadata": metadata}


def _clusters(settings: ProxySettings) -> list[dict[str, Any]]:
    made = [
        _cluster(settings, CLUSTER, settings.endpoints_file),
        _cluster(settings, MIRROR_CLUSTER, settings.mirror_file),
    ]
    if settings.prompts:
        made.append(picker_cluster(_to_replicas(), CONNECT_TIMEOUT))
    if settings.kept:
        made += keeper_clusters(_to_replicas(), CONNECT_TIMEOUT, settings.most_requests)
    if settings.metrics_socket is not None:
        # Relative to Envoy's working directory, its folder: an absolute path may be too long for a socket.
        path = os.path.relpath(settings.metrics_socket, settings.folder)
        endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
        assignment = {"cluster_name": METRICS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]}
        made.append(
            {
                "name": METRICS_CLUSTER,
                "type": "STATIC",
                "connect_timeout": CONNECT_TIMEOUT,
                "load_assignment": assignment,
                "typed_extension_protocol_options": _to_replicas(),
            }
        )
    return made


def _cluster(settings: ProxySettings, name: str, endpoints_file: Path) -> dict[str, Any]:
    file = {"path": str(endpoints_file), "watched_directory": {"path": str(endpoints_file.parent)}}
    balanced = _by_version(_least_request())
    return {
        "name": name,
        "type": "EDS",
        # The folder is watched: the file is replaced by a rename, which a watch on the old file would miss.
        "eds_cluster_config": {
            "service_name": name,
            "eds_config": {"resource_api_version": "V3", "path_config_source": file},
        },
        # Otherwise a removed host keeps its traffic until a health check of Envoy's own fails, and there is none.
        "ignore_health_on_host_removal": True,
        "connect_timeout": CONNECT_TIMEOUT,
        "load_balancing_policy": picked_host(balanced) if settings.prompts else balanced,
        "common_lb_config": {
            # Never to a replica that is known to be bad: by default all get some if less than half are good.
            "healthy_panic_threshold": {"value": 0},
            # A removal or ejection takes effect at once. By default such updates wait for up to a second.
            "update_merge_window": "0s",
        },
        # Envoy's default priority is that of requests of low priority. The numbers are those before any batch is measured.
        "circuit_breakers": {
            "thresholds": [_circuit(settings, "DEFAULT"), _circuit(settings, "HIGH")],
        },
        "outlier_detection": _outliers(),
        "typed_extension_protocol_options": _to_replicas(),
    }


def _to_replicas() -> dict[str, Any]:
    """The same for the supervisor's metrics."""
    options = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        f"envoy.{options}": typed(
            options,
            common_http_protocol_options={"idle_timeout": UPSTREAM_IDLE},
            explicit_http_config={"http_protocol_options": {}},
        )
    }


def _least_request() -> dict[str, Any]:
    policy = typed(
        "extensions.load_balancing_policies.least_request.v3.LeastRequest",
        choice_count=DRAWN,
        locality_lb_config={"locality_weighted_lb_config": {}},
    )
    return {"policies": [{"typed_extension_config": {"name": "least_request", "typed_config": policy}}]}


def _by_version(within: dict[str, Any]) -> dict[str, Any]:
    """The policy `within` the version that a request names, or among all replicas."""
    policy = typed(
        "extensions.load_balancing_policies.subset.v3.Subset",
        fallback_policy="ANY_ENDPOINT",
        subset_selectors=[{"keys": ["version"]}],
        locality_weight_aware=True,
        subset_lb_policy=within,
    )
    return {"policies": [{"typed_extension_config": {"name": "subset", "typed_config": policy}}]}


def request_limits(most: int, most_low: int) -> dict[str, int]:
    """Runtime values that limit the requests in progress in all replicas: of both priorities each, at once."""
    return {
        f"circuit_breakers.{CLUSTER}.high.max_requests": most,
        f"circuit_breakers.{CLUSTER}.default.max_requests": most_low,
    }


def _circuit(settings: ProxySettings, priority: str) -> dict[str, Any]:
    most = settings.most_requests
    return {
        "priority": priority,
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "max_retries": MOST_RETRIES,
    }


def _outliers() -> dict[str, Any]:
    return {
        # Only network errors count. A 500 comes from the service's own code: another replica would say the same, and
        # one client's bad requests must not cost the others a replica.
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "1s",
        "max_ejection_time": "10s",
        "max_ejection_percent": 50,
    }


def _overload(settings: ProxySettings) -> dict[str, Any]:
    heap, connections = (
        "envoy.resource_monitors.fixed_heap",
        "envoy.resource_monitors.global_downstream_max_connections",
    )
    monitors = "extensions.resource_monitors"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": typed(
                    f"{monitors}.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=settings.memory_limit
                ),
            },
            {
                "name": connections,
                "typed_config": typed(
                    f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=settings.most_connections,
                ),
            },
        ],
        "actions": [
            _action("shrink_heap", heap, 0.85),
            _action("disable_http_keepalive", heap, 0.9),
            _action("stop_accepting_requests", heap, 0.95),
            _shorter_idle(connections),
        ],
    }


CROWDED, FULL = 0.7, 0.9
"""Shares of the most connections. From the one to the other the idle timeout falls to SHORTEST_IDLE."""
SHORTEST_IDLE = "1s"
"""Idle connections then make room for new clients within about two seconds. Clients reconnect; requests in progress are not affected."""


def _shorter_idle(connections: str) -> dict[str, Any]:
    idle = {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": SHORTEST_IDLE}
    scaled = {"scaling_threshold": CROWDED, "saturation_threshold": FULL}
    return {
        "name": "envoy.overload_actions.reduce_timeouts",
        "triggers": [{"name": connections, "scaled": scaled}],
        "typed_config": typed(
            "config.overload.v3.ScaleTimersOverloadActionConfig", timer_scale_factors=[idle]
        ),
    }


def _action(name: str, monitor: str, threshold: float) -> dict[str, Any]:
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": monitor, "threshold": {"value": threshold}}],
    }
