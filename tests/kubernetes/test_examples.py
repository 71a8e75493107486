"""The examples on pods: the flights give the same bytes as on this machine, and Dask's own example runs on the workers of a fleet of pods."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.kubernetes.images import PYTHON
from tests.kubernetes.manifests import wait
from tests.kubernetes.test_runs import HOME, events, toml
from tests.support import REPOSITORY

from hooke.certificates.authority import Authority, new_key, pem_of
from hooke.journal.events import AttemptFinished, NodePlanned
from hooke.kubernetes.rights import FLEET_RIGHTS, RUN_RIGHTS

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(900)]

ALONE = "/var/tmp/alone"
PORT = 8790
KEYS = "/run/keys"
FLEET = """
[fleets.arrays]
provider = "kubernetes"
image = "{image}"
namespace = "{namespace}"
kubeconfig = "{home}/kubeconfig"
cpus = 0.1
memory = "700 MiB"
command = {command}

[fleets.arrays.pod_template]
spec = {spec}
"""
CLIENT = """
import json, sys
import dask.array as da
from distributed import Client, Security
tls = Security(require_encryption=True, tls_ca_file="ca.pem", tls_client_cert="machine.pem", tls_client_key="machine.pem")
with Client(sys.argv[1], security=tls) as client:
    client.wait_for_workers(2, timeout=300)
    mean = da.random.random((10000, 10000), chunks=(1000, 1000)).mean().compute()
    names = client.run(lambda: __import__("socket").gethostname())
    print(json.dumps({"mean": mean, "pods": sorted(names.values())}))
"""


def results(driver, run, home):
    """Key -> digest of each call's result.

    Maps are left out: which items share a chunk depends on how long they take. So are models: pickles of equal ones may differ.
    """
    planned = events(driver, run, NodePlanned, home=home)
    calls = {each.node: each.key for each in planned if each.kind == "call" and each.task != "fit"}
    finished = events(driver, run, AttemptFinished, home=home)
    return {calls[each.node]: each.ref.digest for each in finished if each.node in calls}


def test_the_flights_give_the_same_bytes_on_pods_as_on_this_machine(driver):
    """Three months of them, the fewest that the pipeline takes: two cores bear no more beside other tests."""
    for file in (Path(REPOSITORY) / "examples" / "flights").glob("fl*.py"):
        driver.put(file.name, file.read_text())
    driver.configure(workers="2", memory="1.5 GiB")
    words = ["flights.py:flights", "--months", "3"]
    on_pods = driver.result(words[0], "--on", "pods", "--", *words[1:], within_s=500)
    driver.host.run(["sh", "-ec", f"mkdir {ALONE} && cp {HOME}/fl*.py {ALONE} && touch {ALONE}/hooke.toml"])
    command = [sys.executable, "-m", "hooke", "run", words[0], "--json", "--", *words[1:]]
    alone = json.loads(driver.host.run(command, timeout_s=500, env={"HOME": ALONE}, cwd=ALONE))
    assert on_pods["result"] == alone["result"]
    there = results(driver, on_pods["run"], HOME)
    assert there == results(driver, alone["run"], ALONE)
    assert len(there) > 10
    wait(lambda: not driver.left(), within_s=60)


def test_dasks_own_example_runs_on_the_workers_of_a_fleet_of_pods(driver, admin):
    """800 MB of random numbers in a hundred blocks, on two pods of 700 MiB that share the cores of this machine."""
    authority = Authority.make("arrays", now=time.time(), valid_s=86400)
    key = new_key()
    signed = authority.certify("machine", key.public_key(), now=time.time(), valid_s=86400) + pem_of(key)
    files = {"ca.pem": authority.pem.decode(), "machine.pem": signed.decode()}
    for name, content in files.items():
        driver.put(name, content)
    admin.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": files},
        namespace=driver.namespace,
    )
    at = f"tls://{driver.host.address}:{PORT}"
    scheduler = driver.host.popen(
        [
            sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", at, "--no-dashboard",
            *tls(HOME),
        ],
        cwd=HOME, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    driver.configure(workers="1")
    worker = ["python", "-m", "distributed.cli.dask_worker", at, "--nthreads", "1", "--no-nanny"]
    worker += ["--no-dashboard", "--local-directory", "/tmp", *tls(KEYS)]
    spec = driver.pod_spec()
    spec["volumes"].append({"name": "keys", "secret": {"secretName": "keys"}})
    spec["containers"][0]["volumeMounts"].append({"name": "keys", "mountPath": KEYS})
    configured = driver.host.path(f"{HOME}/hooke.toml").read_text()
    fleet = FLEET.format(
        image=PYTHON, namespace=driver.namespace, home=HOME, command=toml(worker), spec=toml(spec)
    )
    driver.put("hooke.toml", configured + fleet)
    driver.allow([*RUN_RIGHTS, *FLEET_RIGHTS])
    try:
        code, printed, said = driver.hooke("fleet", "scale", "arrays", "2", within_s=300)
        assert (code, printed) == (0, "arrays: 2 machines\n"), said
        found = json.loads(driver.host.run([sys.executable, "-c", CLIENT, at], timeout_s=400, cwd=HOME))
        assert found["mean"] == pytest.approx(0.5, abs=0.001)
        assert found["pods"] == sorted(driver.there("v1/Pod"))
        code, printed, said = driver.hooke("fleet", "down", "arrays")
        assert (code, printed) == (0, "arrays: 0 machines\n"), said
        wait(lambda: not driver.there("v1/Pod"))
    finally:
        driver.host.end(scheduler)


def tls(folder):
    """The options of Dask's programs for keys in a folder."""
    return [
        "--tls-ca-file",
        f"{folder}/ca.pem",
        "--tls-cert",
        f"{folder}/machine.pem",
        "--tls-key",
        f"{folder}/machine.pem",
    ]
