"""Envoy's configuration for streams that outlive their replica: clients' listener -> stream keeper -> inner listener -> replicas. Pure.

Clients reach the outer listener, whose routes of prompts go to the stream keeper. The keeper asks the inner listener, a socket in the proxy's folder,
which has all else that a request needs: the endpoint picker, limits, further tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hooke.serving.problems import RESUMABLE_HEADER, RESUMED_HEADER

__all__ = [
    "INNER",
    "INNER_SOCKET",
    "KEEPER_CLUSTER",
    "KEEPER_HEADERS",
    "KEEPER_SOCKET",
    "inner_listener",
    "keeper_cluster",
    "keeper_route",
    "outer_log",
]

KEEPER_CLUSTER = "keeper"
"""Envoy's name for the stream keeper."""
KEEPER_SOCKET, INNER_SOCKET = "keeper.sock", "inner.sock"
"""In the proxy's folder, which only its owner may enter."""
INNER = "inner"
"""The name of the inner listener, also in statistics."""
KEEPER_HEADERS = (RESUMABLE_HEADER, RESUMED_HEADER)
"""Of the keeper's: a client's own are dropped."""


def keeper_route(path: str) -> dict[str, Any]:
    """Of the outer listener. Nothing is asked twice, so no body is kept: the inner one has the further tries."""
    return {
        "match": {"path": path},
        "route": {
            "cluster": KEEPER_CLUSTER,
            "timeout": "0s",
            "idle_timeout": "0s",
            "retry_policy": {"num_retries": 0},
        },
    }


def keeper_cluster(options: dict[str, Any], connect_timeout: str, most_requests: int) -> dict[str, Any]:
    """The keeper, with the protocol's `options`."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": KEEPER_SOCKET}}}}  # relative to Envoy's folder
    limits = {
        "max_connections": most_requests,
        "max_pending_requests": most_requests,
        "max_requests": most_requests,
    }
    return {
        "name": KEEPER_CLUSTER,
        "type": "STATIC",
        "connect_timeout": connect_timeout,
        "load_assignment": {
            "cluster_name": KEEPER_CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "circuit_breakers": {
            "thresholds": [{"priority": each, **limits} for each in ("DEFAULT", "HIGH")],
        },
        "typed_extension_protocol_options": options,
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


def outer_log(log: dict[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """The access log of the outer listener: without the requests that the inner one logs, with their replicas."""
    others = [
        {
            "header_filter": {
                "header": {"name": ":path", "string_match": {"prefix": path}, "invert_match": True}
            }
        }
        for path in kept
    ]
    refused = {"response_flag_filter": {"flags": ["RL", "NR", "UF", "UO", "OM", "DPE"]}}
    large = {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": 413, "runtime_key": "none"}}
        }
    }
    several = {"and_filter": {"filters": others}} if len(others) > 1 else others[0]
    return {**log, "filter": {"or_filter": {"filters": [several, refused, large]}}}
