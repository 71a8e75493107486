"""`pytest --kubernetes=NAMESPACE` runs the tests in a user's cluster: here in one namespace of our own one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kubernetes.images import PYTHON

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long]

CHOSEN = " or ".join(
    (
        "test_a_pod_is_not_root",
        "test_without_any_one_right",
        "test_the_log_of_a_pod",
        "test_what_keeps_a_pod_from_starting",
        "test_what_is_applied_no_more",
        "test_a_disruption_budget",
        "test_a_deployment_is_scaled",
        "test_quotas_rights",  # needs a cluster of its own, as the next one
        "test_a_watch_lists_anew",
    )
)


def test_tests_run_in_a_namespace_of_another_cluster_and_say_what_they_left_out(cluster, admin, restricted):
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": {"a": "1"}}
    made = admin.create(theirs, namespace=restricted)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/kubernetes",
        "-k",
        CHOSEN,
    ]
    told = [f"--kubernetes={restricted}", f"--kubernetes-image={PYTHON}"]
    done = subprocess.run(
        [*command, *told],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "HOOKE_REQUIRE": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b9 passed, 3 skipped", done.stdout), done.stdout
    row = f"3  kubernetes +a cluster of their own, and there is only the namespace {restricted}"
    assert re.search(rf"^ +{row}$", done.stdout, re.MULTILINE), done.stdout
    assert admin.list("v1/Pod", namespace=restricted)[0] == []
    assert admin.get("v1/ConfigMap", "theirs", namespace=restricted) == made
    assert admin.list("rbac.authorization.k8s.io/v1/Role", namespace=restricted)[0] == []
