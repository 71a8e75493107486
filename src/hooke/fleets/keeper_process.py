"""The keeper of a fleet in a Kubernetes cluster: the process of its Deployment. One at a time, by a lease; its ledger is a ConfigMap."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.errors import HookeError
from hooke.fleets.cluster_keeper import KeeperOrder
from hooke.fleets.fleet_folder import line_of
from hooke.kubernetes.client import ApiError, ApiUnreachable, Kubernetes
from hooke.kubernetes.keeper_deployment import ORDER, keeper_labels, keeper_name
from hooke.kubernetes.kubeconfig import pod_access
from hooke.kubernetes.lease import ClusterLease
from hooke.machines.cluster_ledger import ClusterLedger
from hooke.machines.keeper import FleetKeeper
from hooke.providers.kubernetes_pods import KubernetesPods

__all__ = ["KEEPER_LEASE_S", "keep"]

KEEPER_LEASE_S = 15.0
"""A keeper that did not renew its lease for this time is dead. As Kubernetes' own controllers have it."""


def keep(order: KeeperOrder, client: Kubernetes, stopped: threading.Event) -> None:
    """Keep the fleet until `stopped`; the machines stay. Raises HookeError where another keeper has taken the ledger."""
    name, labels = keeper_name(order.tag), keeper_labels(order.tag)
    lease = ClusterLease(client, name, namespace=order.namespace, labels=labels, lasts_s=KEEPER_LEASE_S)
    lease.take()
    ledger = ClusterLedger.open(client, name, namespace=order.namespace, labels=labels)
    with tempfile.TemporaryDirectory() as folder:
        provider = KubernetesPods(
            order.tag,
            order.command,
            logs=Path(folder),
            usd_per_hour=order.usd_per_hour,
            namespace=order.namespace,
            **order.options,
        )
        keeper = FleetKeeper(
            order.name,
            provider,
            ledger,
            caps=order.caps,
            clock=SystemClock(),
            tell=lambda record: _say(line_of(record)),
        )
        keeper.want(order.wanted, "hooke fleet scale --detach")
        while not stopped.is_set():
            pause = keeper.turn()
            try:
                lease.renew()
            except (ApiError, ApiUnreachable) as error:
                # Whoever takes it meanwhile writes to the ledger, and this keeper ends at its next write.
                _say(f"the lease was not renewed: {error.what}")
            stopped.wait(max(pause, 0.05))
        provider.close()
    lease.release()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(environment: Mapping[str, str]) -> int:
    """The process of the Deployment."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    order = msgspec.json.decode(environment[ORDER], type=KeeperOrder)
    client = Kubernetes(pod_access(environment))
    try:
        keep(order, client, stopped)
    except HookeError as error:
        _say(str(error))
        return 1
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
