"""A fleet and a run have their size again after each fault of pods, nodes and the control plane; its ledger or journal says what happened."""

import json
import re
from pathlib import Path

import pytest
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.storm import FAULTS, SILENT_S, SLOW, rounds
from tests.kubernetes.storm_of_fleet import FleetStorm
from tests.kubernetes.storm_of_run import TASKS, RunStorm

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(900)]

FLEET_SAYS = {
    "deleted": r"is gone: it is not listed any more",
    "evicted": r"is gone: .*the cluster took its place \(EvictionByEvictionAPI\)",
    "killed for memory": r"is gone: .*used more memory than its limit \(OOMKilled\); raise `memory`",
    "node drained": r"is gone: .*the cluster took its place \(EvictionByEvictionAPI\)",
    "node cut off": r"is ended: it was not healthy in \d+ looks in a row",
    "API server killed": r"the provider failed, and is asked again: .*\n.*the provider lists its machines again, after",
    "etcd restarted": "",  # a listing waits for it, and has its answer in time
}
RUN_SAYS = {
    "deleted": r"it was deleted",  # with a task, or between two
    "evicted": r"the cluster took its place \(EvictionByEvictionAPI\)",
    "killed for memory": r"OutOfMemory: pod \S+, which ran it, is gone: .*\(OOMKilled\)",
    "node drained": r"the cluster took its place \(EvictionByEvictionAPI\)",
    "node cut off": r"pod \S+ (says nothing for \d+ s|is gone)",
    "API server killed": "",  # pods and their driver go on without it
    "etcd restarted": "",
    "driver killed": "",  # another one does
}


@pytest.fixture(scope="module")
def two_nodes(cluster):
    with Cluster(nodes=2, silent_s=SILENT_S) as started:
        yield started


@pytest.mark.parametrize(("kind", "says"), [(FleetStorm, FLEET_SAYS), (RunStorm, RUN_SAYS)])
def test_work_outlives_what_happens_to_its_pods_its_nodes_and_the_control_plane(two_nodes, kind, says):
    with kind(two_nodes, seed=7) as storm:
        names = [name for name in storm.faults if name not in SLOW]
        rounds(storm, names=names, seconds=0.0, tell=print)
    assert sorted(each.name for each in storm.struck) == sorted(names)
    for each in storm.struck:
        assert re.search(says[each.name], "\n".join(each.said)), (each.name, each.said)


@pytest.mark.parametrize("kind", [FleetStorm, RunStorm])
def test_the_committed_record_is_of_all_faults_and_what_the_guide_says(kind):
    made = json.loads(kind.record.read_text())
    assert sorted(made["faults"]) == sorted([*FAULTS, *kind.own_faults])
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "fleets.md").read_text()
    for name, each in made["faults"].items():
        seconds = " | ".join(
            f"{round(took, 2):g} s" for took in each["seconds_until_its_size_again"].values()
        )
        assert f"| {name} | {each['times']} | {seconds} |" in page, name
    if kind is FleetStorm:
        assert made["most_pods_at_once"] <= made["cap"]
        assert made["left_after_down"] == 0
    else:
        assert made["tasks"] == TASKS
        assert (made["finished_twice"], made["began_when_durable"], made["left_after_the_run"]) == (0, 0, 0)
        assert f"{made['attempts']} attempts" in page
