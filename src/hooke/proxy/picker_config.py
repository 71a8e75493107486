"""Envoy's configuration for asking which replica answers a prompt, and for sending it there. Pure.

Before a request for tokens goes on, Envoy's `ext_authz` filter sends the first part of its body to the endpoint picker, whose answer names replicas. The
answer becomes metadata of the request, which no client can send, and the policy `override_host` takes the first of these, and for a retry the next. If the
picker is silent or names none, the least busy of some replicas gets the request, as those of other services.
"""

from __future__ import annotations

from typing import Any

from hooke.proxy.proxy_settings import seconds, typed
from hooke.serving.problems import VERSION_HEADER

__all__ = [
    "BODY_SIZE_HEADER",
    "EJECTED_S",
    "PICKER_CLUSTER",
    "PICKER_SOCKET",
    "REPLICAS_HEADER",
    "SEEN_BYTES",
    "SESSION_HEADER",
    "WITHIN_S",
    "picked_host",
    "picker_cluster",
    "picker_filters",
    "picker_route",
]

PICKER_CLUSTER = "picker"
"""Envoy's name for the endpoint picker."""
PICKER_SOCKET = "picker.sock"
"""In the proxy's folder, which only its owner may enter."""
SESSION_HEADER = "x-hooke-session"
"""A header of clients: requests with the same value go to the same replica."""
REPLICAS_HEADER = "x-hooke-replicas"
"""Of the picker's answer: addresses, the best first."""
BODY_SIZE_HEADER = "x-hooke-body-size"
"""Of the question: the length of the whole body."""
SEEN_BYTES = 64 << 10
"""Of a body, that the picker sees. Before a request is routed Envoy keeps no more of it, and afterwards as much for retries."""
WITHIN_S = 0.5
"""Asking takes 0.3 to 0.6 ms for a short prompt, 0.6 to 1.7 ms for one of 64 KiB and 3 to 4 ms for one of a MiB: medians of three runs of 600
requests, one after the other, beside the same requests that ask nobody, on two busy cores. A silent picker costs each request WITHIN_S, until it is ejected."""
MOST_ASKED = 256
"""Questions at once; a request beyond them goes on without one."""
EJECTED_S = 2.0
_AUTHORIZER = "envoy.filters.http.ext_authz"
"""The filter's canonical name, under which its metadata are."""
_ANY: dict[str, Any] = {}


def picker_filters() -> list[dict[str, Any]]:
    """The filters. They act on routes with `picker_route` only."""
    told = ("x-request-id", SESSION_HEADER, VERSION_HEADER, BODY_SIZE_HEADER)
    ask = typed(
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        http_service={
            "server_uri": {"uri": "http://picker", "cluster": PICKER_CLUSTER, "timeout": seconds(WITHIN_S)},
            "authorization_response": {
                "dynamic_metadata_from_headers": {"patterns": [{"exact": REPLICAS_HEADER}]},
            },
        },
        allowed_headers={"patterns": [{"exact": name} for name in told]},
        with_request_body={"max_request_bytes": SEEN_BYTES, "allow_partial_message": True},
        # Without an answer the request goes on; `failure_mode_allowed` counts it.
        failure_mode_allow=True,
    )
    sizes = typed("extensions.filters.http.header_mutation.v3.HeaderMutation")
    return [
        {"name": "sizes", "typed_config": sizes, "disabled": True},
        {"name": "picker", "typed_config": ask, "disabled": True},
    ]


def picker_route(*more: dict[str, Any]) -> dict[str, Any]:
    """What a route of prompts has beside others. Requests get the headers `more` before the picker is asked: the route's own come later."""
    # The question's own content-length is that of the part that is sent.
    size = {"key": BODY_SIZE_HEADER, "value": "%REQ(content-length)%"}
    mutations = [
        {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for header in (size, *more)
    ]
    return {
        "typed_per_filter_config": {
            "sizes": typed(
                "extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
                mutations={"request_mutations": mutations},
            ),
            "picker": typed("extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", check_settings=_ANY),
        },
        "request_headers_to_remove": [BODY_SIZE_HEADER],
    }


def picker_cluster(options: dict[str, Any], connect_timeout: str) -> dict[str, Any]:
    """The picker, with the protocol's `options`."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": PICKER_SOCKET}}}}  # relative to Envoy's folder
    limits = {"max_connections": MOST_ASKED, "max_pending_requests": MOST_ASKED, "max_requests": MOST_ASKED}
    return {
        "name": PICKER_CLUSTER,
        "type": "STATIC",
        "connect_timeout": connect_timeout,
        "load_assignment": {
            "cluster_name": PICKER_CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **limits}]},
        # A picker that hangs is asked only now and then.
        "outlier_detection": {
            "consecutive_5xx": 3,
            "consecutive_gateway_failure": 3,
            "enforcing_consecutive_5xx": 100,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_success_rate": 0,
            "interval": "0.5s",
            "base_ejection_time": seconds(EJECTED_S),
            "max_ejection_time": seconds(EJECTED_S),
            "max_ejection_percent": 100,
        },
        "typed_extension_protocol_options": options,
    }


def picked_host(otherwise: dict[str, Any]) -> dict[str, Any]:
    """The policy that takes the replicas that the picker named, and `otherwise` where it named none that is there."""
    source = {"metadata": {"key": _AUTHORIZER, "path": [{"key": REPLICAS_HEADER}]}}
    policy = typed(
        "extensions.load_balancing_policies.override_host.v3.OverrideHost",
        override_host_sources=[source],
        fallback_policy=otherwise,
    )
    return {"policies": [{"typed_extension_config": {"name": "picked", "typed_config": policy}}]}
