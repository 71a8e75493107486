"""The size of a ledger in a cluster, and what a server that is busy does to it; on a real server it is tested in tests/kubernetes/test_keeper.py."""

import pytest

from hooke.base.errors import JournalError
from hooke.journal.fleet_events import FleetWanted, LaunchIntended, MachineGone
from hooke.kubernetes.client import ApiError, ApiForbidden
from hooke.kubernetes.keeper_deployment import ORDER, KeeperOptions, keeper_deployment
from hooke.machines.cluster_ledger import MOST_BYTES, ClusterLedger, ledger_manifest, records_in

LONG = "no image: " + "ü" * 500


class OneMap:
    """One ConfigMap of an API server, which refuses a few times before."""

    def __init__(self, made, *refusals):
        self.map = {**made, "metadata": {**made["metadata"], "resourceVersion": "0"}}
        self.refusals = list(refusals)

    def patch(self, kind, name, change, **_):
        if self.refusals:
            raise self.refusals.pop(0)
        data = {**self.map["data"], **change["data"]}
        data = {key: value for key, value in data.items() if value is not None}
        version = str(int(self.map["metadata"]["resourceVersion"]) + 1)
        self.map = {**self.map, "data": data, "metadata": {"name": name, "resourceVersion": version}}
        return self.map


def size(config_map):
    return sum(len(value.encode()) for value in config_map["data"].values())


def gone(number):
    return MachineGone(at=float(number), machine=f"m{number}", token=f"f-{number}", how=LONG)


@pytest.mark.needs("cpu")
def test_a_ledger_of_long_reasons_stays_below_what_a_config_map_holds():
    live = LaunchIntended(at=0.0, token="live", reason="")
    records = [FleetWanted(at=0.0, before=0, after=1, by="the test"), live, *map(gone, range(1500))]
    made = ledger_manifest("l", records, labels={})
    assert size(made) <= MOST_BYTES
    assert records_in(made)[:2] == records[:2]
    assert records_in(made)[-1] == records[-1]
    server = OneMap(made)
    ledger = ClusterLedger(server, server.map, namespace="")
    for number in range(1500, 2500):
        ledger.write(gone(number))
        assert size(server.map) <= MOST_BYTES
    kept = records_in(server.map)
    assert kept[:2] == records[:2]
    assert kept[-1] == gone(2499)
    assert list(ledger.fleet("f").members) == ["live"]


def test_a_write_waits_for_a_server_whose_database_is_away_and_not_for_a_right():
    away, waits = ApiError("etcdserver: request timed out"), []
    away.code = 500
    server = OneMap(ledger_manifest("l", [], labels={}), away, away)
    ledger = ClusterLedger(server, server.map, namespace="", wait=waits.append)
    ledger.write(gone(1))
    assert (records_in(server.map), len(waits)) == ([gone(1)], 2)
    lacking = ApiForbidden("cannot patch")
    lacking.code = 403
    server.refusals.append(lacking)
    with pytest.raises(JournalError, match="cannot write to the ledger"):
        ledger.write(gone(2))


def test_kubernetes_puts_no_variable_into_the_order_of_a_keeper():
    made = keeper_deployment("t", '{"command":["sh","-c","echo $$ $(HOME)"]}', image="i", own=KeeperOptions())
    [container] = made["spec"]["template"]["spec"]["containers"]
    [order] = [each["value"] for each in container["env"] if each["name"] == ORDER]
    assert order == '{"command":["sh","-c","echo $$$$ $$(HOME)"]}'
