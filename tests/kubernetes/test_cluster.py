"""The cluster of the tests is a real one: nodes, pods with addresses of their own, Services by name; nothing is left of it."""

import contextlib
import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest
from tests.kubernetes import build
from tests.kubernetes.cluster import GROUP, GROUPS, Cluster, sweep
from tests.kubernetes.manifests import deployment, job, pod, service, wait

from hooke.kubernetes.client import Kubernetes
from hooke.kubernetes.kubeconfig import find_access

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long]

SERVES = """
import http.server, socket
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(socket.gethostname().encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8080), Answer).serve_forever()
"""
ASKS = """
import socket, sys, time, urllib.request
name, count = sys.argv[1], int(sys.argv[2])
until = time.monotonic() + 30
while True:  # a pod is ready before its program listens
    try:
        for _ in range(10):
            urllib.request.urlopen(f"http://{name}", timeout=20).close()
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.1)
answered = {urllib.request.urlopen(f"http://{name}", timeout=20).read().decode() for _ in range(count)}
print(*sorted(answered))
print(*sorted({each[4][0] for each in socket.getaddrinfo(name.partition(":")[0], 80, socket.AF_INET)}))
"""


def said(client, name, namespace):
    with client.logs(name, namespace=namespace) as lines:
        return [line.decode() for line in lines]


def ended(client, name, namespace):
    """What the pod wrote, once it has ended well."""
    wait(
        lambda: (
            client.get("v1/Pod", name, namespace=namespace)["status"].get("phase") in ("Succeeded", "Failed")
        )
    )
    lines = said(client, name, namespace)
    assert client.get("v1/Pod", name, namespace=namespace)["status"]["phase"] == "Succeeded", lines
    return lines


def pods_of(client, app, namespace):
    found, _ = client.list("v1/Pod", namespace=namespace, labels=f"app={app}")
    return found


def ready(client, app, namespace, count):
    def there():
        status = client.get("apps/v1/Deployment", app, namespace=namespace)["status"]
        return status.get("readyReplicas", 0) == count

    wait(there)
    return pods_of(client, app, namespace)


def test_the_node_is_ready_and_has_what_the_machine_has(cluster, admin):
    nodes, _ = admin.list("v1/Node")
    assert [node["metadata"]["name"] for node in nodes] == ["node1"]
    assert nodes[0]["status"]["nodeInfo"]["kubeletVersion"] == build.version()
    assert nodes[0]["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert nodes[0]["status"]["allocatable"]["cpu"] == str(psutil.cpu_count())


def test_a_job_runs_a_pod_that_ends(admin, namespace):
    admin.apply(job("sums", "print(sum(range(10)))"), namespace=namespace)
    wait(lambda: admin.get("batch/v1/Job", "sums", namespace=namespace)["status"].get("succeeded") == 1)
    pods, _ = admin.list("v1/Pod", namespace=namespace)
    assert said(admin, pods[0]["metadata"]["name"], namespace) == ["45"]


def test_pods_of_a_deployment_have_addresses_of_their_own_and_names(cluster, admin, namespace):
    admin.apply(deployment("web", SERVES, replicas=2), namespace=namespace)
    admin.apply(service("web", 80), namespace=namespace)
    admin.apply({**service("each", 80, clusterIP="None", selector={"app": "web"})}, namespace=namespace)
    pods = ready(admin, "web", namespace, 2)
    names = sorted(each["metadata"]["name"] for each in pods)
    addresses = sorted(each["status"]["podIP"] for each in pods)
    assert len(set(addresses)) == 2
    assert all(address.startswith("10.78.1.") for address in addresses)
    virtual = admin.get("v1/Service", "web", namespace=namespace)["spec"]["clusterIP"]
    admin.create(pod("asks", ASKS, "web", "40"), namespace=namespace)
    assert ended(admin, "asks", namespace) == [" ".join(names), virtual]
    admin.create(pod("asks-each", ASKS, f"each.{namespace}.svc.cluster.local:8080", "1"), namespace=namespace)
    assert ended(admin, "asks-each", namespace)[1] == " ".join(addresses)


def test_a_pod_is_that_of_nobody_and_reaches_no_network_outside(cluster, admin, namespace):
    code = "import os, socket\nprint(os.getuid())\nsocket.create_connection(('192.0.2.1', 80), timeout=3)"
    admin.create(pod("out", code), namespace=namespace)
    wait(lambda: admin.get("v1/Pod", "out", namespace=namespace)["status"].get("phase") == "Failed")
    lines = said(admin, "out", namespace)
    assert lines[0] == "65534"
    assert "Error" in lines[-1]


def processes():
    """Those of this process: what runs in a cluster cannot leave its process namespaces."""
    found = set()
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add((each.pid, each.name()))
    return found


def printed(*command):
    """The lines that are of a cluster: other tests mount and unmount meanwhile."""
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [
        line for line in text.splitlines() if re.search(r"kube|containerd|cni|veth|netns|10\.7[789]\.", line)
    ]


def residue():
    """What a cluster could leave on this machine, outside files of its own."""
    ours = f"{GROUP}-{os.getpid()}-"
    return {
        "processes": processes(),
        "control groups": sorted(str(each) for each in GROUPS.glob(f"*/{ours}*")),
        "mounts": printed("cat", "/proc/mounts"),
        "interfaces": printed("ip", "-o", "link"),
        "routes": printed("ip", "route"),
        "rules": printed("nft", "list", "ruleset"),
        "settings": {
            name: Path("/proc/sys", name).read_text()
            for name in (
                "net/ipv4/ip_forward",
                "vm/overcommit_memory",
                "kernel/panic",
                "kernel/panic_on_oops",
            )
        },
    }


@pytest.mark.usefixtures("cluster")  # in one process with the tests on that
def test_pods_of_two_nodes_reach_each_other_and_nothing_is_left_of_the_cluster():
    before = residue()
    with Cluster(nodes=2) as cluster:
        client = Kubernetes(find_access(cluster.kubeconfig))
        wait(lambda: client.list("v1/ServiceAccount", namespace="default")[0])
        reached_across_nodes(client)
        client.create(pod("sleeps", "import time; print('up'); time.sleep(600)"))
        wait(lambda: client.get("v1/Pod", "sleeps")["status"].get("phase") == "Running")
        client.close()
        there = residue()
        assert len(there["processes"] - before["processes"]) >= 12
        assert there["control groups"]
        outside = ("mounts", "interfaces", "routes", "rules", "settings")
        assert {name: there[name] for name in outside} == {name: before[name] for name in outside}
        folder = cluster.logs
    after = residue()
    assert len(after["control groups"]) < len(there["control groups"])
    assert after["processes"] - before["processes"] == set()
    assert after | {"processes": None} == before | {"processes": None}
    assert not folder.exists()


def reached_across_nodes(client):
    """A pod on each node asks the Service whose pods are on both; the nodes have half of the machine each."""
    nodes, _ = client.list("v1/Node")
    names = [node["metadata"]["name"] for node in nodes]
    assert names == ["node1", "node2"]
    cpus = [node["status"]["allocatable"]["cpu"] for node in nodes]
    assert cpus == [f"{500 * psutil.cpu_count()}m".replace("1000m", "1")] * 2
    made = deployment("web", SERVES, replicas=2)
    apart = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    made["spec"]["template"]["spec"]["affinity"] = {"podAntiAffinity": rule}
    client.apply(made)
    client.apply(service("web", 80))
    pods = ready(client, "web", "default", 2)
    assert sorted(each["spec"]["nodeName"] for each in pods) == names
    expected = " ".join(sorted(each["metadata"]["name"] for each in pods))
    for name in names:
        client.create(pod(f"asks-{name}", ASKS, "web", "40", nodeName=name))
    for name in names:
        assert ended(client, f"asks-{name}", "default")[0] == expected


def test_the_next_start_removes_the_control_groups_of_one_that_was_killed():
    gone = subprocess.Popen(["true"])
    gone.wait()
    made = [each / f"{GROUP}-{gone.pid}-node1" / "kubepods" for each in GROUPS.iterdir()]
    for each in made:
        each.mkdir(parents=True)
    sweep()
    assert not [each for each in made if each.parent.exists()]


def test_what_is_not_built_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(build.CannotBuild, match="Kubernetes is not built; next: make kubernetes"):
        Cluster()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CannotBuild, match="there is no `go`; next: install Go"):
        build.build()
