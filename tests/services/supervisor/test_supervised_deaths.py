"""What dies, hangs or grows for real: replicas, the front, the supervisor; every answer of the load beside it is checked."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request

import psutil
import pytest
from tests.services.supervisor.supervised import (
    SERVICE,
    gone,
    hooke,
    kill,
    of_service,
    post,
)

from hooke.services.supervisor.service_folder import ServiceFolder

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(400)]


@pytest.mark.long
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


@pytest.mark.long
def test_a_request_that_ends_its_replica_is_tried_once_more_and_not_by_all(supervised, folder):
    (folder / "deadly.py").write_text(
        SERVICE
        + """
    def die(self) -> None:
        os._exit(3)
"""
    )
    service = supervised("--replicas", "3", file="deadly.py")
    pids = {one["pid"] for one in service.until_ready(3)["replicas"]}
    with pytest.raises(urllib.error.HTTPError, match="502"):
        post(service, "/die", {})
    assert post(service, "/predict", {"rows": [3]}) == [6], "the third one did not get it"
    service.until(r"replica \d died", count=2)
    left = {one["pid"] for one in service.until_ready(3)["replicas"]}
    assert len(left & pids) == 1


@pytest.mark.long
def test_where_requests_may_not_be_sent_again_a_killed_replica_costs_those_that_it_had(
    supervised, load, folder
):
    (folder / "once.py").write_text(
        SERVICE.replace(", idempotent=True", "").replace("time.sleep(0.002)", "time.sleep(0.2)")
    )
    service = supervised("--replicas", "2", file="once.py")
    facts = service.until_ready(2)
    asking = load(service)
    time.sleep(1.5)
    kill(facts["replicas"][0]["pid"])
    service.until(r"replica 1 died")
    service.until_ready(2)
    counted = asking.end()
    assert sum(counted["failed"].values()) <= 4, "each of four connections has one request"
    assert all(reason.startswith("502") for reason in counted["failed"]), counted
    assert counted["right"] > 10


@pytest.mark.long
def test_a_replica_over_its_memory_is_replaced_without_a_failed_request(supervised, load):
    service = supervised("--replicas", "2", "--memory", "200MiB")
    service.until_ready(2)
    asking = load(service)
    pid = post(service, "/grow", {"mb": 300})
    said = service.until(r"replica (\d) gets nothing new: its memory is .*, above the limit of 200 MiB")
    service.until(rf"replica {said[0][1]} ended after .*, with nothing left to answer")
    facts = service.until_ready(2)
    assert pid not in {one["pid"] for one in facts["replicas"]}
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    third = service.text.index("replica 3 is ready")
    assert third < service.text.index(f"replica {said[0][1]} gets nothing new")


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


@pytest.mark.long
def test_a_model_that_hangs_and_a_loop_that_is_blocked_are_found_though_the_process_lives(supervised, folder):
    (folder / "slow.py").write_text(SERVICE.replace('timeout="10s"', 'timeout="1s"'))
    service = supervised("--replicas", "2", file="slow.py")
    service.until_ready(2)
    for path, why in (
        ("/hang", "its model is busy with one batch for"),
        ("/block", "its event loop did not turn for"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="50[34]"):
            post(service, path, {"s": 60})
        service.until(rf"replica \d+ gets nothing new: {why}")
        service.until_ready(2)


@pytest.mark.long
def test_a_stopped_replica_is_replaced(supervised, folder):
    (folder / "slow.py").write_text(SERVICE.replace('timeout="10s"', 'timeout="1s"'))
    service = supervised("--replicas", "2", file="slow.py")
    pid = service.until_ready(2)["replicas"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    service.until(r"replica 1 gets nothing new: it sent no report for")
    service.until(r"replica 3 is ready")
    service.end(signal.SIGTERM)
    assert gone([pid])


@pytest.mark.long
def test_what_a_stopped_replica_has_is_answered_by_others_in_time(supervised, folder):
    (folder / "brief.py").write_text(SERVICE.replace('timeout="10s"', 'timeout="9s"'))
    service = supervised("--replicas", "2", file="brief.py")
    pid = service.until_ready(2)["replicas"][0]["pid"]
    answers = []
    asking = [
        threading.Thread(target=lambda: answers.append(post(service, "/hang", {"s": 1.0}))) for _ in range(4)
    ]
    for one in asking:
        one.start()
    time.sleep(0.5)  # each replica has begun one, and has the next
    os.kill(pid, signal.SIGSTOP)
    for one in asking:
        one.join()
    assert answers == [1.0] * 4
    assert "replica 1 gets nothing new: it sent no report for" in service.text


@pytest.mark.long
def test_a_drain_may_take_longer_than_the_lease(supervised, folder):
    """The proxy goes on to hear its supervisor, and to report to it, while it waits for the last answers."""
    service = supervised("--replicas", "1", "--lease", "3")
    service.until_ready(1)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(post(service, "/hang", {"s": 8.0})))
    asking.start()
    asked = ServiceFolder(next(folder.glob(".hooke/services/*")))
    ends = time.monotonic() + 60
    while not asked.send("status")["replicas"][0]["in_flight"]:
        assert time.monotonic() < ends
    service.process.send_signal(signal.SIGTERM)
    service.until("SIGTERM: draining, open requests are answered")
    while not asked.send("status")["front"]["active"]:
        assert time.monotonic() < ends, "it does not report while it drains"
    assert service.process.wait(60) == 0
    asking.join()
    assert answers == [8.0]
    said = next(folder.glob(".hooke/runs/*/logs/front.log")).read_text()
    assert "no supervisor renewed the lease" not in said


@pytest.mark.long
def test_envoy_dies_with_its_keeper_and_both_come_back_on_the_same_port(supervised):
    service = supervised("--replicas", "1")
    service.until_ready(1)
    url = service.url
    before = service.status()["front_pid"]
    keeper = psutil.Process(before).ppid()
    kill(keeper)
    service.until("the proxy ended and restarts")
    assert gone([before, keeper])
    ends = time.monotonic() + 60
    while (after := service.status())["front_pid"] == before or after["url"] != url:
        assert time.monotonic() < ends, service.text
        time.sleep(0.1)
    assert post(service, "/predict", {"rows": [3]}) == [6]


@pytest.mark.long
def test_a_front_that_cannot_be_started_again_is_tried_until_it_can(supervised, folder):
    service = supervised("--replicas", "1")
    service.until_ready(1)
    children = next(folder.glob(".hooke/services/*/children"))
    keeper = json.loads((children / "front.json").read_text())["pid"]
    away = children.rename(folder / "away")
    os.kill(keeper, signal.SIGKILL)
    service.until("the proxy cannot be started, next try in")
    away.rename(children)
    service.until("1 of 1 replicas answer", count=2)
    assert service.end() == 0


@pytest.mark.long
def test_a_front_that_dies_while_it_drains_does_not_start_again_and_the_service_ends(supervised):
    service = supervised("--replicas", "1")
    envoy = service.until_ready(1)["front_pid"]
    failed = []

    def ask():
        try:
            post(service, "/hang", {"s": 9})
        except OSError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    ends = time.monotonic() + 60
    while not service.status()["replicas"][0]["in_flight"]:
        assert time.monotonic() < ends
    service.process.send_signal(signal.SIGTERM)
    service.until("SIGTERM: draining, open requests are answered")
    os.kill(envoy, signal.SIGKILL)
    assert service.process.wait(60) == 0
    asking.join()
    assert failed
    assert "the proxy ended before all its requests were answered" in service.text
    assert "starts again" not in service.text


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
