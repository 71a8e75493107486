"""Manifests of the tests: pods that run this Python, under the rules of Pod Security `restricted`."""

import os
import sys
import time

from tests.kubernetes import images

__all__ = [
    "deployment",
    "job",
    "namespace",
    "phase",
    "pod",
    "pod_spec",
    "service",
    "wait",
]

THEIRS = os.environ.get("HOOKE_TEST_KUBERNETES", "")
"""The namespace of a user's cluster that the tests run in (`pytest --kubernetes=NAMESPACE`); empty: in a cluster of their own."""
PYTHON = os.environ.get("HOOKE_TEST_KUBERNETES_IMAGE", "python:3.12-slim") if THEIRS else images.PYTHON
PROGRAM = "python3" if THEIRS else os.path.realpath(sys.executable)
PULL = "IfNotPresent" if THEIRS else "Never"
NOBODY = {"runAsGroup": 65534, "runAsUser": 65534} if THEIRS else {}
"""Images of others are root's by default."""
POD_TEMPLATE = {
    "spec": {"containers": [{"name": "worker", "imagePullPolicy": PULL}], "securityContext": NOBODY}
}
"""What a fleet's pods have beyond the provider's."""
WORKS = """
import signal, sys, time
def finish(*_):
    print("finishing", flush=True)
    time.sleep(1)
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""
"""A program that finishes when it is told."""
CONTAINER = {
    "image": PYTHON,
    "imagePullPolicy": PULL,
    "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    },
}


def pod_spec(code, *arguments, **more):
    """A pod that runs this code, and reads no token."""
    container = {**CONTAINER, "name": "main", "command": [PROGRAM, "-u", "-c", code, *arguments]}
    return {
        "automountServiceAccountToken": False,
        "containers": [container],
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **NOBODY},
        "terminationGracePeriodSeconds": 1,
        **more,
    }


def pod(name, code, *arguments, labels=None, **more):
    about = {"name": name, "labels": labels or {}}
    spec = pod_spec(code, *arguments, **({"restartPolicy": "Never"} | more))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def deployment(name, code, *, replicas=1):
    template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec(code)}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def job(name, code, **more):
    template = {"spec": pod_spec(code, restartPolicy="Never")}
    spec = {"template": template, "backoffLimit": 0, **more}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def service(name, port, **more):
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": 8080}], **more}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def namespace(name, **labels):
    """One where Pod Security `restricted` is enforced."""
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"generateName": name, "labels": enforced | labels},
    }


def phase(client, name, where):
    return client.get("v1/Pod", name, namespace=where)["status"].get("phase")


def wait(condition, *, within_s=90.0, every_s=0.1, told=None):
    """The condition's value once it holds; `told()` is what the failure says otherwise."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < until, told() if told is not None else condition
        time.sleep(every_s)
    return found
