"""Several replicas for real: under a load whose every answer is checked, they are added, drained, killed, replaced, rolled over."""

import json
import signal
import socket
import time
import urllib.request

import psutil
import pytest
from tests.serving.supervision.supervised import (
    SERVICE,
    Load,
    Supervised,
    end_all,
    gone,
    hooke,
    kill,
    of_service,
)

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    yield tmp_path
    end_all(tmp_path)


@pytest.fixture
def supervised(folder):
    started = []

    def start(*words, file="delays.py"):
        started.append(Supervised(folder, "--healthy", "1", *words, file=file))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def load():
    started = []

    def start(service, threads=4):
        started.append(Load(service.url, service.token, threads=threads))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdin.close()
        one.process.stdout.close()


def post(service, path, value):
    headers = {"content-type": "application/json", "authorization": f"Bearer {service.token}"}
    request = urllib.request.Request(service.url + path, json.dumps(value).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_scaling_draining_and_ending_lose_nothing(supervised, load):
    service = supervised("--replicas", "2")
    service.until_ready(2)
    asking = load(service)
    hooke(service.folder, "scale", "3")
    service.until_ready(3)
    hooke(service.folder, "drain", "--replica", "1")
    service.until(r"replica 1 ended")
    hooke(service.folder, "scale", "Delay", "1")
    facts = service.until_ready(1)
    assert facts["wanted"] == 1
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    pids = [one.pid for one in of_service(service.folder)]
    assert service.end() == 0
    assert gone(pids)
    assert "2 -> 3 replicas: hooke serve scale" in service.text
    assert "replica 1 gets nothing new: hooke serve drain" in service.text


def test_ctrl_c_under_load_answers_what_was_asked(supervised, load):
    service = supervised("--replicas", "2")
    service.until_ready(2)
    asking = load(service)
    time.sleep(1)
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 0
    counted = asking.end()
    refused = {"ConnectionRefusedError"}  # a new connection, after the end
    assert set(counted["failed"]) <= refused, counted
    assert counted["right"] > 20


def test_killed_replicas_of_an_idempotent_service_cost_no_request(supervised, load):
    service = supervised("--replicas", "2")
    facts = service.until_ready(2)
    asking = load(service)
    time.sleep(1.5)  # they have been healthy: what is killed is replaced at once
    for victim in facts["replicas"]:
        kill(victim["pid"])
        service.until(rf"replica {victim['replica']} died")
        facts = service.until_ready(2)
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    assert "killed by SIGKILL (9)" in service.text
    assert "in place of replica 1" in service.text


def test_a_replica_over_its_memory_is_replaced_without_a_failed_request(supervised, load):
    service = supervised("--replicas", "2", "--memory", "200MiB")
    service.until_ready(2)
    asking = load(service)
    pid = post(service, "/grow", {"mb": 300})
    said = service.until(r"replica (\d) gets nothing new: it has .* of memory, and 200 MiB is the limit")
    service.until(rf"replica {said[0][1]} ended after .*, with nothing left to answer")
    facts = service.until_ready(2)
    assert pid not in {one["pid"] for one in facts["replicas"]}
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    third = service.text.index("replica 3 is ready")
    assert third < service.text.index(f"replica {said[0][1]} gets nothing new")


def test_what_is_printed_is_what_is_bound_and_only_on_loopback(supervised):
    service = supervised("--replicas", "2")
    url = service.url
    facts = service.until_ready(2)
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in [service.process.pid, *(one.pid for one in of_service(service.folder))]
        for connection in psutil.Process(process).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    printed = {int(url.rpartition(":")[2]), *(one["port"] for one in facts["replicas"])}
    assert listening == {("127.0.0.1", port) for port in printed}
    assert {one["port"] for one in facts["replicas"]} == {
        int(match[1]) for match in service.until(r"starts \(pid \d+, port (\d+)\)", count=2)
    }
    mode = (service.folder / ".hooke/services/Delay").stat().st_mode
    assert mode & 0o777 == 0o700


def test_a_second_supervisor_is_refused_and_verbs_say_what_runs(supervised, folder):
    nothing = hooke(folder, "status")
    assert nothing.returncode == 2
    assert "no service with several replicas runs" in nothing.stderr
    service = supervised("--replicas", "1")
    service.until_ready(1)
    second = hooke(folder, "delays.py", "--replicas", "2", "--port", "0")
    assert second.returncode == 2
    assert "Delay is served already" in second.stderr
    assert "hooke serve scale Delay 4" in second.stderr
    wrong = hooke(folder, "status", "Delays")
    assert wrong.returncode == 2
    assert "did you mean Delay?" in wrong.stderr
    for words in (["scale", "0"], ["scale", "two"], ["scale", "4:2"]):
        assert hooke(folder, *words).returncode == 2
    shown = hooke(folder, "status")
    assert "1 of 1 replicas answer" in shown.stdout
    assert hooke(folder, "down").stdout.endswith("Delay is down: no process of it is left\n")
    assert service.process.wait(60) == 0


def test_a_service_that_cannot_be_set_up_says_why_and_ends(supervised):
    service = supervised("--replicas", "2", "--with", "factor=0")
    assert service.process.wait(120) == 1
    assert "Delay cannot be served: no replica was ever ready" in service.text
    assert "Delay cannot be set up: ValueError: no weights" in service.text
    assert "looking for weights" in service.text
    assert of_service(service.folder) == []


def test_a_taken_port_is_said(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = hooke(folder, "delays.py", "--replicas", "2", "--port", port)
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr


def test_replicas_and_front_of_a_killed_supervisor_end_by_themselves(supervised):
    service = supervised("--replicas", "2", "--lease", "3")
    service.until_ready(2)
    pids = [one.pid for one in of_service(service.folder)]
    assert len(pids) == 4, "two replicas, the keeper, Envoy"
    service.process.kill()
    service.process.wait()
    assert gone(pids)


def test_a_new_supervisor_goes_on_with_what_a_killed_one_left(supervised, load):
    first = supervised("--replicas", "2", "--lease", "20")
    url = first.url
    pids = {one["pid"] for one in first.until_ready(2)["replicas"]}
    asking = load(first)
    first.process.kill()
    first.process.wait()
    left = hooke(first.folder, "status")
    assert left.returncode == 1
    assert "its supervisor is gone" in left.stdout
    time.sleep(1)
    second = supervised("--replicas", "2", "--lease", "20")
    assert second.url == url
    facts = second.until_ready(2)
    assert {one["pid"] for one in facts["replicas"]} == pids
    assert "replica 1 runs already" in second.text
    hooke(second.folder, "scale", "3")
    second.until_ready(3)
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    assert second.end() == 0


def test_down_ends_what_a_killed_supervisor_left(supervised):
    service = supervised("--replicas", "1")
    service.until_ready(1)
    pids = [one.pid for one in of_service(service.folder)]
    service.process.kill()
    service.process.wait()
    done = hooke(service.folder, "down")
    assert done.returncode == 0
    assert "ended: replica 1" in done.stdout
    assert gone(pids)
