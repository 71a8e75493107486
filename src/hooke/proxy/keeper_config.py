"""Envoy's configuration for streams that outlive their replica: clients' listener -> stream keeper -> inner listener -> replicas. Pure.

Clients reach the outer listener, whose routes of prompts go to the stream keeper. The keeper asks the inner listener, a socket in the proxy's folder,
which has all else that a request needs: the endpoint picker, limits, further tries. While the keeper says nothing, requests go to the inner listener at once.
"""

from __future__ import annotations

from typing import Any

from hooke.proxy.proxy_settings import typed
from hooke.serving.problems import RESUMABLE_HEADER, RESUMED_HEADER

__all__ = [
    "INNER",
    "INNER_SOCKET",
    "KEEPER_HEADERS",
    "KEEPER_HEALTH",
    "KEEPER_SOCKET",
    "inner_listener",
    "keeper_clusters",
    "keeper_route",
    "outer_log",
]

KEEPER, INNER = "keeper", "inner"
"""Envoy's names for the stream keeper, and for the inner listener, also in statistics."""
KEPT_CLUSTER = "kept"
"""And for the one or else the other."""
KEEPER_HEALTH = "/health"
"""The path at which the keeper says that it answers."""
LOOKED_EVERY, SILENT = "1s", 3
"""How often Envoy asks, and how often there may be no answer: a busy machine delays one for part of a second."""
KEEPER_SOCKET, INNER_SOCKET = "keeper.sock", "inner.sock"
"""In the proxy's folder, which only its owner may enter."""
KEEPER_HEADERS = (RESUMABLE_HEADER, RESUMED_HEADER)
"""Of the keeper's: a client's own are dropped."""


def keeper_route(path: str) -> dict[str, Any]:
    """Of the outer listener. Nothing is asked twice, so no body is kept: the inner one has the further tries."""
    return {
        "match": {"path": path},
        "route": {
            "cluster": KEPT_CLUSTER,
            "timeout": "0s",
            "idle_timeout": "0s",
            "retry_policy": {"num_retries": 0},
        },
    }


def keeper_clusters(
    options: dict[str, Any], connect_timeout: str, most_requests: int
) -> list[dict[str, Any]]:
    """The keeper, the inner listener, and one that is the keeper while it answers, else the other. `options` are the protocol's."""
    look = {
        "timeout": LOOKED_EVERY,
        "interval": LOOKED_EVERY,
        "no_traffic_interval": LOOKED_EVERY,
        "unhealthy_threshold": SILENT,
        "healthy_threshold": 1,
        "http_health_check": {"path": KEEPER_HEALTH},
    }
    clusters = typed("extensions.clusters.aggregate.v3.ClusterConfig", clusters=[KEEPER, INNER])
    shared = {"connect_timeout": connect_timeout, "typed_extension_protocol_options": options}
    return [
        {**shared, **_at_socket(KEEPER, KEEPER_SOCKET, most_requests), "health_checks": [look]},
        {**shared, **_at_socket(INNER, INNER_SOCKET, most_requests)},
        {
            "name": KEPT_CLUSTER,
            "connect_timeout": connect_timeout,
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": clusters},
        },
    ]


def _at_socket(name: str, path: str, most_requests: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}  # relative to Envoy's folder
    limits = {
        "max_connections": most_requests,
        "max_pending_requests": most_requests,
        "max_requests": most_requests,
    }
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {
            "thresholds": [{"priority": each, **limits} for each in ("DEFAULT", "HIGH")],
        },
    }


def inner_listener(connections: dict[str, Any], buffer: int) -> dict[str, Any]:
    """The listener that the keeper asks, until the proxy ends. Its connections do not count as clients'."""
    return {
        "name": INNER,
        "address": {"pipe": {"path": INNER_SOCKET, "mode": 0o600}},
        "per_connection_buffer_limit_bytes": buffer,
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
    }


def outer_log(log: dict[str, Any]) -> dict[str, Any]:
    """The access log of the outer listener: without what the inner one logs, with its replicas."""
    others = f"!has(upstream.address) || !(upstream.address in ['{KEEPER_SOCKET}', '{INNER_SOCKET}'])"
    cel = typed("extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=others)
    return {**log, "filter": {"extension_filter": {"name": "others", "typed_config": cel}}}
