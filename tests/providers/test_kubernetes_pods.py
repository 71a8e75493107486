"""What a pod's status means, and patches of manifests. The provider itself is tested on a cluster, in tests/kubernetes."""

import pytest

from hooke.base.errors import UsageError
from hooke.kubernetes.pods import merged, trouble_of
from hooke.providers.kubernetes_pods import KubernetesPods


def test_a_patch_merges_what_has_names_and_replaces_the_rest():
    base = {
        "containers": [
            {"name": "worker", "env": [{"name": "A", "value": "1"}], "args": ["a", "b"]},
            {"name": "other", "image": "x"},
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "a"}],
        "priorityClassName": "low",
    }
    patch = {
        "containers": [
            {
                "name": "worker",
                "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}],
                "args": ["c"],
            },
            {"name": "sidecar", "image": "y"},
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "tolerations": [{"key": "b"}],
        "priorityClassName": None,
        "nodeSelector": {"gpu": "h100"},
    }
    made = merged(base, patch)
    assert made == {
        "containers": [
            {
                "name": "worker",
                "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}],
                "args": ["c"],
            },
            {"name": "other", "image": "x"},
            {"name": "sidecar", "image": "y"},
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        ],
        "tolerations": [{"key": "b"}],
        "nodeSelector": {"gpu": "h100"},
    }
    assert base["containers"][0]["args"] == ["a", "b"]
    assert base["tolerations"] == [{"key": "a"}]


def waiting(reason, message=""):
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"name": "worker", "image": "i:1", "state": state}],
        }
    }


def failed(**status):
    return {"status": {"phase": "Failed", **status}}


def ended(**facts):
    return [{"name": "worker", "state": {"terminated": facts}}]


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes are available",
}
TAKEN = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "PreemptionByScheduler",
    "message": "preempting",
}


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        ({}, ""),
        ({"status": {"phase": "Running"}}, ""),
        (waiting("ContainerCreating"), ""),
        (
            waiting("ImagePullBackOff", "Back-off"),
            "its image cannot be pulled (i:1): Back-off; correct `image`, or give",
        ),
        (
            waiting("CreateContainerConfigError", 'secret "s" not found'),
            'is missing (i:1): secret "s" not found',
        ),
        (
            {"status": {"conditions": [UNSCHEDULABLE]}},
            "no node has room for it: 0/1 nodes are available; add nodes",
        ),
        (failed(containerStatuses=ended(reason="OOMKilled", exitCode=137)), "(OOMKilled); raise `memory`"),
        (failed(containerStatuses=ended(reason="Error", exitCode=3)), "worker ended with 3; see its log"),
        (failed(reason="Evicted", message="low on memory"), "Evicted: low on memory"),
        (failed(reason="Evicted", conditions=[TAKEN]), "took its place (PreemptionByScheduler): preempting"),
        ({"status": {"phase": "Succeeded", "containerStatuses": ended(exitCode=0)}}, "its program has ended"),
    ],
)
def test_what_keeps_a_pod_from_its_work_is_said_in_a_sentence(pod, says):
    assert says in trouble_of(pod)
    assert bool(says) == bool(trouble_of(pod))


def test_options_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown options: cpu") as caught:
        KubernetesPods("t", ["x"], logs=tmp_path, image="i", cpu=2)
    assert "cpus" in caught.value.fix
    with pytest.raises(UsageError, match="not a program with its arguments"):
        KubernetesPods("t", "x", logs=tmp_path, image="i")


@pytest.mark.parametrize("command", [5, None, "dask worker", [], ["dask", 1]])
def test_a_command_that_is_no_list_of_words(command, tmp_path):
    with pytest.raises(UsageError, match="is not a program with its arguments"):
        KubernetesPods("tag", command, logs=tmp_path, image="a:1")
