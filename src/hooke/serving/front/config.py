"""What Envoy is told: its configuration and the file of its replicas as plain values, each setting with its reason. Pure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hooke.serving.front.listener import STAT_PREFIX, listener
from hooke.serving.front.proto import CLUSTER, METRICS_CLUSTER, typed
from hooke.serving.front.settings import FrontSettings, Upstream

__all__ = ["bootstrap", "endpoints"]

CONNECT_TIMEOUT = "1s"
"""A loopback connection takes microseconds. One that takes longer found a full backlog, and another replica is better."""
UPSTREAM_IDLE = "60s"
"""Less than the 75 s of a replica: whoever would send next must be the one who closes."""
MOST_RETRIES = 1024
"""At once. A budget of 20 % of the requests instead lost 33,819 of 89,940: a dead replica fails fast, and uses it up."""


def endpoints(replicas: Iterable[Upstream]) -> dict[str, Any]:
    """The file of the replicas (EDS), the same whatever their order. Its version is a digest of it.

    There is one priority. An activator, which holds requests while no replica is up, would be an endpoint of the next one, with
    `policy.overprovisioning_factor` 100000, so that nothing spills over to it while any replica is up.
    """
    found = [_endpoint(replica) for replica in sorted(set(replicas), key=lambda one: (one.host, one.port))]
    assignment = typed("config.endpoint.v3.ClusterLoadAssignment")
    assignment |= {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": found}] if found else []}
    version = hashlib.blake2b(json.dumps(assignment, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {"version_info": version, "resources": [assignment]}


def bootstrap(settings: FrontSettings, admin: Path) -> dict[str, Any]:
    """The configuration. `admin` is the socket on which Envoy is asked."""
    return {
        "node": {"id": settings.service, "cluster": "hooke"},
        # A socket that its owner alone may open: a port would let every program of the machine end it.
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": [listener(settings)], "clusters": _clusters(settings)},
        "overload_manager": _overload(settings),
        # Only what is read is counted, and there is no sink: nothing is sent anywhere.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": f"cluster.{CLUSTER}."},
                        {"prefix": f"http.{STAT_PREFIX}."},
                        {"prefix": "listener"},
                    ]
                }
            }
        },
    }


def _endpoint(replica: Upstream) -> dict[str, Any]:
    address = {"socket_address": {"address": replica.host, "port_value": replica.port}}
    # Envoy sends nothing new to one that drains, and shows what it still has, which a removed one would not.
    status = {"health_status": "DRAINING"} if replica.leaving else {}
    return {"endpoint": {"address": address}, **status}


def _clusters(settings: FrontSettings) -> list[dict[str, Any]]:
    made = [_cluster(settings)]
    if settings.metrics_socket is not None:
        # From Envoy's working directory, which is its folder: a whole path may be longer than the address of a socket may be.
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


def _cluster(settings: FrontSettings) -> dict[str, Any]:
    folder = settings.endpoints_file.parent
    file = {"path": str(settings.endpoints_file), "watched_directory": {"path": str(folder)}}
    return {
        "name": CLUSTER,
        "type": "EDS",
        # The folder is watched, for the file is replaced by a rename, which a watch on the old file would not see.
        "eds_cluster_config": {
            "service_name": CLUSTER,
            "eds_config": {"resource_api_version": "V3", "path_config_source": file},
        },
        # Otherwise a host that left keeps its traffic until a health check of Envoy's own fails, and there is none.
        "ignore_health_on_host_removal": True,
        "connect_timeout": CONNECT_TIMEOUT,
        "load_balancing_policy": _least_request(),
        "common_lb_config": {
            # Never to a replica that is known to be bad: by default, with less than half of them good, all get some.
            "healthy_panic_threshold": {"value": 0},
            # That a replica leaves, or is set aside, is to count now. By default such news waits for up to a second.
            "update_merge_window": "0s",
        },
        "circuit_breakers": {"thresholds": [_circuit(settings)]},
        "outlier_detection": _outliers(),
        "typed_extension_protocol_options": _to_replicas(),
    }


def _to_replicas() -> dict[str, Any]:
    """Also to whoever tells what all of them counted."""
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
        # The less busy of two drawn ones. A scan of all finds the same one each time: a dead replica is never busy, so each further
        # try would find it again (319 of 1,044 requests failed in a test).
        choice_count=2,
        locality_lb_config={},
    )
    return {"policies": [{"typed_extension_config": {"name": "least_request", "typed_config": policy}}]}


def _circuit(settings: FrontSettings) -> dict[str, Any]:
    most = settings.most_requests
    return {
        "max_connections": most,
        "max_pending_requests": most,
        "max_requests": most,
        "max_retries": MOST_RETRIES,
    }


def _outliers() -> dict[str, Any]:
    return {
        # Only what the network says counts. A 500 is what the service's own code said: another replica would say the same, and
        # one caller's bad requests must not cost the others a replica.
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


def _overload(settings: FrontSettings) -> dict[str, Any]:
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
        ],
    }


def _action(name: str, monitor: str, threshold: float) -> dict[str, Any]:
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": monitor, "threshold": {"value": threshold}}],
    }
