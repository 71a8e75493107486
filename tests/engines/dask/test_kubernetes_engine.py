"""The parts of the Kubernetes backend that need no cluster; runs on pods are in tests/kubernetes/test_runs.py."""

import socket
import ssl
import threading
import time

import pytest

from hooke.base.clock import SystemClock
from hooke.base.errors import ConfigError, HookeError, UsageError
from hooke.certificates.authority import Authority
from hooke.engines.dask.clusters import close_cluster
from hooke.engines.dask.kubernetes_engine import (
    PodCluster,
    driver_security,
    is_hopeless,
    own_address,
    parse_listen,
)
from hooke.engines.dask.pod_jobs import PodJobs, PodKeeper
from hooke.kubernetes.client import ApiUnreachable, Kubernetes
from hooke.kubernetes.kubeconfig import Access, Credentials
from hooke.kubernetes.pods import PodOptions, Trouble
from hooke.machines.controller import Caps
from hooke.machines.provider import Unreachable
from hooke.project.backends import find_backend
from hooke.project.settings import read_settings


def test_where_the_driver_listens():
    assert parse_listen("10.0.0.5") == ("10.0.0.5", 0)
    assert parse_listen("10.0.0.5:8786") == ("10.0.0.5", 8786)
    assert parse_listen("fd00::5") == ("fd00::5", 0)
    assert parse_listen("[fd00::5]:8786") == ("fd00::5", 8786)
    for wrong in (8786, "10.0.0.5:x", ""):
        with pytest.raises(UsageError, match="not (a )?valid"):
            parse_listen(wrong)


def test_an_api_server_on_this_machine_does_not_tell_where_pods_reach_the_driver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UsageError, match=r"is 127\.0\.0\.1, which no pod reaches") as caught:
            own_address(free.getsockname())
    assert "`listen`" in caught.value.fix


def settings(tmp_path, text):
    (tmp_path / "hooke.toml").write_text(text)
    return read_settings(tmp_path).places


def test_a_place_keeps_the_options_of_its_engine(tmp_path):
    places = settings(tmp_path, '[places.pods]\nengine = "kubernetes"\nimage = "a:1"\nworkers = [0, 4]\n')
    found = find_backend("pods", workers=None, places=places)
    assert (found.engine, found.workers, found.options) == ("kubernetes", (0, 4), {"image": "a:1"})
    assert found.scalable and found.elastic
    with pytest.raises(ConfigError, match=r"unknown key places\.pods\.worker") as caught:
        settings(tmp_path, '[places.pods]\nengine = "kubernetes"\nworker = 4\n')
    assert "places.pods.workers" in caught.value.fix
    with pytest.raises(ConfigError, match=r"unknown key places\.here\.image"):
        settings(tmp_path, '[places.here]\nimage = "a:1"\n')


def jobs_of(authority):
    client = Kubernetes(Access(server="https://127.0.0.1:1", credentials=Credentials()))
    return PodJobs(client, PodOptions(image="a:1"), run="run-1", threads=1, authority=authority)


def heard(address, context):
    """What the scheduler says first to one who connects with these keys."""
    host, _, port = address.removeprefix("tls://").rpartition(":")
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as tls:
        return tls.recv(1)


def keeper_of(jobs, folder):
    return PodKeeper(jobs, folder, caps=Caps(workers=1), clock=SystemClock())


@pytest.mark.needs("cpu")
def test_the_scheduler_takes_only_certificates_of_its_own_authority(tmp_path):
    ours, theirs = (Authority.make("run", now=time.time(), valid_s=3600.0) for _ in range(2))
    jobs = jobs_of(ours)
    keeper = keeper_of(jobs, tmp_path)
    cluster = PodCluster(keeper, driver_security(ours), host="127.0.0.1", port=0)
    try:
        address = cluster.scheduler_address
        keys = driver_security(ours).get_connection_args("client")["ssl_context"]
        assert heard(address, keys)
        stranger = driver_security(theirs).get_connection_args("client")["ssl_context"]
        stranger.load_verify_locations(cadata=ours.pem.decode())
        nobody = ssl.create_default_context(cadata=ours.pem.decode())
        nobody.check_hostname = False
        for context in (stranger, nobody):
            with pytest.raises(OSError, match="alert|reset"):
                heard(address, context)
    finally:
        close_cluster(cluster)
        keeper.close()


def test_an_address_of_another_machine_is_refused(tmp_path):
    authority = Authority.make("run", now=time.time(), valid_s=3600.0)
    keeper = keeper_of(jobs_of(authority), tmp_path)
    with pytest.raises(HookeError, match=r"the driver cannot listen at 192\.0\.2\.1:8786") as caught:
        PodCluster(keeper, driver_security(authority), host="192.0.2.1", port=8786)
    assert "`listen`" in caught.value.fix
    keeper.close()


def test_a_pod_finds_its_certificate_in_a_secret_that_its_job_owns():
    jobs = jobs_of(Authority.make("run", now=time.time(), valid_s=3600.0))
    job = jobs.job("hooke-1-0", 0, "run-1-0")
    secret = jobs.secret("hooke-1-0", 0, "uid")
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid"
    pod = job["spec"]["template"]
    assert {"name": "hooke-keys", "secret": {"secretName": "hooke-1-0", "defaultMode": 0o444}} in pod["spec"][
        "volumes"
    ]
    assert job["spec"]["backoffLimit"] == 0
    [container] = pod["spec"]["containers"]
    assert not any(secret["data"][file] in str(container) for file in secret["data"])
    assert "PRIVATE" not in str(job)
    assert pod["metadata"]["labels"]["hooke.dev/run"] == "run-1"


def test_how_long_a_run_without_a_worker_waits():
    """A quota refuses each Job: the fourth time comes after 35 s, and other pods may end within the minute."""

    def ends(kind, for_s, failures=0, *, final=False):
        return is_hopeless(Trouble(kind=kind, says="", final=final), for_s=for_s, failures=failures)

    assert not ends("quota", 59.0, failures=4)
    assert ends("quota", 61.0)
    assert ends("refused", 3.0, final=True)
    assert not ends("failed", 300.0, failures=3)
    assert ends("failed", 35.0, failures=4)
    assert not ends("unschedulable", 599.0)


class SlowServer:
    """An API server that takes long: a Job is made when `until` is set."""

    def __init__(self, access):
        self.access = access
        self.until = threading.Event()
        self.renewals = 0
        self.deleted = []
        self.made = lambda name: None

    def create(self, manifest, **_):
        if manifest["kind"] == "Job":
            self.made(manifest["metadata"]["name"])
            assert self.until.wait(120)
            raise ApiUnreachable("it does not answer", why="too slow")
        return {"status": {"allowed": True}}

    def apply(self, manifest, **_):
        self.renewals += 1
        if self.renewals == 4:
            self.until.set()
        return {"metadata": {"uid": "1"}}

    def list(self, kind, **_):
        return [], "1"

    def watch_from(self, *_, **__):
        raise ApiUnreachable("it does not answer", why="too slow")

    def delete(self, kind, name, **_):
        self.deleted.append(kind)

    def limit_silence(self, seconds):
        pass

    def close(self):
        pass


def slow_jobs():
    jobs = jobs_of(Authority.make("run", now=time.time(), valid_s=3600.0))
    jobs._client = jobs._watch._client = jobs.lease._client = SlowServer(jobs._client.access)
    return jobs, jobs._client


@pytest.mark.needs("cpu")
def test_a_driver_renews_its_lease_while_it_waits_for_the_server(tmp_path):
    jobs, server = slow_jobs()
    jobs.lease._lasts_s = 0.6
    keeper = keeper_of(jobs, tmp_path)
    keeper.start()
    keeper.want(1)
    assert server.until.wait(120), "nobody renewed it while a pod was asked for"
    keeper.close()
    assert "coordination.k8s.io/v1/Lease" in server.deleted


def test_what_a_watch_tells_while_a_launch_has_no_answer_is_kept():
    jobs, server = slow_jobs()
    server.until.set()
    labels = {"hooke.dev/driver": jobs._driver, "hooke.dev/number": "7"}

    def runs(name):
        about = {"name": f"{name}-x", "labels": labels}
        jobs._changed({"metadata": about, "status": {"phase": "Running"}}, gone=False)

    server.made = runs
    with pytest.raises(Unreachable):
        jobs.launch("run-1-7")
    state = jobs.state(7)
    assert state.pod.endswith("-7-x")
    assert state.runs_since is not None
    assert state.trouble.kind == "busy"
    assert [each.trouble is None for each in jobs.news()] == [True, False], "in the order of what happened"


def test_what_ends_a_thread_is_raised_in_the_drivers():
    """Nobody would miss the thread, and the run would wait for ever."""
    jobs, _ = slow_jobs()

    def breaks():
        raise ValueError("of a thread")

    jobs.guarded(breaks)
    with pytest.raises(ValueError, match="of a thread"):
        jobs.news()
