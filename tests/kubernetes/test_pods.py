"""What a pod's status and a refusal mean, options, and patches of manifests: all without a cluster."""

import contextlib
import time

import pytest

from hooke.base.errors import UsageError
from hooke.kubernetes.client import refused
from hooke.kubernetes.pods import (
    PodOptions,
    lacks_right,
    log_of,
    merged,
    pod_trouble,
    refusal_of,
    trouble_of,
    worker_pod,
)


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
            waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
            "its image runs as root, or names its user without a number (i:1): container has",
        ),
        (
            {"status": {"conditions": [UNSCHEDULABLE]}},
            "no node has room for it: 0/1 nodes are available; add nodes",
        ),
        (failed(containerStatuses=ended(reason="OOMKilled", exitCode=137)), "(OOMKilled); raise `memory`"),
        (failed(containerStatuses=ended(reason="Error", exitCode=3)), "worker ended with 3; see its log"),
        (failed(reason="Evicted", message="low on memory"), "Evicted: low on memory"),
        (
            {"spec": {"nodeName": "n7"}}
            | failed(reason="Terminated", conditions=[TAKEN | {"reason": "TerminationByKubelet"}]),
            "its node n7 ended, or was taken back (TerminationByKubelet): preempting; its work goes",
        ),
        (failed(reason="Evicted", conditions=[TAKEN]), "took its place (PreemptionByScheduler): preempting"),
        (
            failed(containerStatuses=ended(reason="StartError", exitCode=128, message="no python")),
            "its program cannot be started: no python; correct `image`",
        ),
        ({"status": {"phase": "Succeeded", "containerStatuses": ended(exitCode=0)}}, "its program has ended"),
        (
            {
                "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": "Failed", "containerStatuses": ended(reason="Error", exitCode=143)},
            },
            "it was deleted; its work goes elsewhere",
        ),
    ],
)
def test_what_keeps_a_pod_from_its_work_is_said_in_a_sentence(pod, says):
    assert says in trouble_of(pod)
    assert bool(says) == bool(trouble_of(pod))


def test_waiting_helps_only_for_some():
    assert pod_trouble(waiting("ErrImageNeverPull")).final
    assert not pod_trouble(waiting("ImagePullBackOff")).final


@pytest.mark.parametrize(
    ("code", "message", "kind", "right"),
    [
        (403, 'pods "a" is forbidden: exceeded quota: none', "quota", False),
        (403, 'pods is forbidden: User "a" cannot create resource "pods"', "refused", True),
        (403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest"', "refused", False),
        (401, "Unauthorized", "refused", True),
        (404, 'namespaces "a" not found', "refused", False),
        (500, "etcd is away", "busy", False),
    ],
)
def test_refusals_are_told_apart(code, message, kind, right):
    error = refused(code, {"message": message}, "/api")
    assert refusal_of(error).kind == kind
    assert message in refusal_of(error).says
    assert lacks_right(error) == right
    assert refusal_of(error).final == (kind == "refused")


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ({"imag": "a"}, "unknown options: imag", "did you mean image?"),
        ({"image": "a", "cpu": 2}, "unknown options: cpu", "did you mean cpus?"),
        ({"image": "a", "lissten": "b"}, "unknown options: lissten", "did you mean listen?"),
        ({}, "pods need an image", "hooke image build"),
        ({"image": "a", "cpus": "two"}, "cpus = 'two' is not valid", "write a number"),
        ({"image": "a", "gpus": -1}, "gpus = -1 is not valid", "write a whole number"),
        ({"image": "a", "cpus": "500m"}, "cpus = '500m' is not valid", "cpus = 0.5"),
        ({"image": "a", "gpus": 1.5}, "gpus = 1.5 is not valid", "write a whole number"),
        ({"image": 5}, "image = 5 is not valid", "in quotes"),
        ({"image": "a", "pod_template": "x"}, "pod_template = 'x' is not valid", "write a table"),
        ({"image": "a", "pod_template": {"spce": {}}}, "an unknown key: spce", "did you mean spec?"),
        ({"image": "a", "pod_template": {"spec": 3}}, "pod_template.spec = 3", "write a table"),
        ({"image": "a", "memory": "2G"}, "2G", ""),
        ({"image": "a", "drain": "soon"}, "soon", ""),
    ],
)
def test_options_that_are_not_valid(options, what, fix):
    with pytest.raises(UsageError) as caught:
        PodOptions.parse(options, more=("listen",))
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_a_pod_asks_for_what_its_options_say():
    options = PodOptions.parse(
        {
            "image": "i:1",
            "cpus": 2,
            "memory": "1 GiB",
            "gpus": 1,
            "drain": "2m",
            "priority": "high",
            "pod_template": {"spec": {"containers": [{"name": "worker", "imagePullPolicy": "Always"}]}},
        }
    )
    spec = worker_pod(["run"], options)["spec"]
    assert spec["terminationGracePeriodSeconds"] == 120
    assert spec["priorityClassName"] == "high"
    [container] = spec["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("i:1", "Always")
    limits = {"memory": str(1 << 30), "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": {"cpu": "2"} | limits, "limits": limits}


class Logs:
    """A client whose logs are these, one after another."""

    def __init__(self, *texts):
        self.texts = list(texts)

    @contextlib.contextmanager
    def logs(self, pod, *, namespace, container):
        yield iter(self.texts.pop(0))


APOLOGY = [b"unable to retrieve container logs for containerd://901222ee99b1"]


@pytest.mark.parametrize(
    ("texts", "log"),
    [
        ([[b"ready", b"done"]], b"ready\ndone\n"),
        ([APOLOGY, [b"ready"]], b"ready\n"),
        ([APOLOGY, APOLOGY, APOLOGY], b""),
        ([[*APOLOGY, b"ready"]], APOLOGY[0] + b"\nready\n"),
        ([[]], b""),
    ],
)
def test_what_a_busy_kubelet_says_is_no_log(texts, log, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    client = Logs(*texts)
    assert log_of(client, "a") == log
    assert not client.texts
