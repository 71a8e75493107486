"""A fleet of pods has its size again after each fault of pods, nodes and the control plane, and its ledger says what happened."""

import json
import re
from pathlib import Path

import pytest
from tests.kubernetes.storm import FAULTS, MOST, RECORD, SIZE, Storm, record, rounds

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

SLOW = ("API server frozen", "etcd away")
"""Each takes as long as a client waits for an answer, 35 s: `make soak-kubernetes` has them."""
SAYS = {
    "deleted": r"is gone: it is not listed any more",
    "evicted": r"is gone: .*the cluster took its place \(EvictionByEvictionAPI\)",
    "killed for memory": r"is gone: .*used more memory than its limit \(OOMKilled\); raise `memory`",
    "node drained": r"is gone: .*the cluster took its place \(EvictionByEvictionAPI\)",
    "node cut off": r"is ended: it was not healthy in \d+ looks in a row",
    "API server killed": r"the provider failed, and is asked again: .*\n.*the provider lists its machines again, after",
    "etcd restarted": "",  # a listing waits for it, and has its answer in time
}


@pytest.mark.usefixtures(
    "cluster"
)  # in one process with the tests on that, and skipped where there can be none
def test_a_fleet_outlives_what_happens_to_its_pods_its_nodes_and_the_control_plane(tmp_path):
    names = [name for name in FAULTS if name not in SLOW]
    with Storm(tmp_path, seed=7) as storm:
        rounds(storm, names=names, seconds=0.0, tell=print)
        made = record(storm, seed=7, seconds=0.0)
    assert sorted(each.name for each in storm.struck) == sorted(names)
    for each in storm.struck:
        assert re.search(SAYS[each.name], "\n".join(each.said)), (each.name, each.said)
    assert SIZE <= made["most_pods_at_once"] <= MOST
    assert made["left_after_down"] == 0


def test_the_committed_record_is_of_all_faults_and_kept_the_cap():
    made = json.loads(RECORD.read_text())
    assert sorted(made["faults"]) == sorted(FAULTS)
    assert made["most_pods_at_once"] <= made["cap"]
    assert made["left_after_down"] == 0
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "fleets.md").read_text()
    for name, each in made["faults"].items():
        assert f"| {name} | {each['times']} |" in page, name
