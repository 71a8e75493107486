"""Several replicas for real: under a load whose every answer is checked, they are added, drained, killed, replaced, rolled over."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
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

from hooke.base.cpus import cpus_here

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

    def start(service, factors="2"):
        started.append(Load(service.url, service.token, factors=factors))
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
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise


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
    assert post(service, "/threads", {}) == str(max(1, cpus_here() // 2)), "the cores are shared"
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


def test_a_new_supervisor_of_another_file_rolls_that_out_also_where_paths_are_long(load, tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    (folder / "delays.py").write_text(SERVICE)
    words = ("--replicas", "1", "--lease", "20", "--healthy", "1")
    first, second = Supervised(folder, *words), None
    try:
        first.until_ready(1)
        asking = load(first, factors="2,3")
        first.process.kill()
        first.process.wait()
        (folder / "delays.py").write_text(SERVICE.replace("row * self.factor", "row * (self.factor + 1)"))
        second = Supervised(folder, *words)
        second.until("rolled out: delays.py:Delay")
        second.until_ready(1)
        assert post(second, "/predict", {"rows": [1]}) == [3]
        counted = asking.end()
        assert counted["failed"] == {}
        assert counted["right"] > 50
        assert second.end() == 0
    finally:
        for one in filter(None, (first, second)):
            one.process.kill()
            one.process.wait()
        end_all(folder)


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


def test_a_stopped_replica_is_replaced(supervised, folder):
    (folder / "slow.py").write_text(SERVICE.replace('timeout="10s"', 'timeout="1s"'))
    service = supervised("--replicas", "2", file="slow.py")
    pid = service.until_ready(2)["replicas"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    service.until(r"replica 1 gets nothing new: it told nothing for")
    service.until(r"replica 3 is ready")
    service.end(signal.SIGTERM)
    assert gone([pid])


def test_envoy_dies_with_its_keeper_and_both_come_back_on_the_same_port(supervised):
    service = supervised("--replicas", "1")
    service.until_ready(1)
    url = service.url
    before = service.status()["front_pid"]
    keeper = psutil.Process(before).ppid()
    kill(keeper)
    service.until("the front is gone, and starts again")
    assert gone([before, keeper])
    ends = time.monotonic() + 60
    while (after := service.status())["front_pid"] == before or after["url"] != url:
        assert time.monotonic() < ends, service.text
        time.sleep(0.1)
    assert post(service, "/predict", {"rows": [3]}) == [6]


def test_a_terminal_that_is_closed_drains_and_nobody_need_read_what_is_said(supervised, folder, load):
    process = subprocess.Popen(
        [sys.executable, "-m", "hooke", "serve", "delays.py", "--port", "0", "--replicas", "1"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if "1 of 1 replicas answer" in line:
                break
        process.stderr.close()
        done = hooke(folder, "scale", "2")
        assert done.returncode == 0, done.stderr
        ends = time.monotonic() + 60
        while True:
            facts = json.loads(hooke(folder, "status", "--json").stdout)
            if [one["state"] for one in facts["replicas"]] == ["ready", "ready"]:
                break
            assert time.monotonic() < ends, facts
        pids = [one["pid"] for one in facts["replicas"]]
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
        assert gone(pids)
    finally:
        process.kill()
        process.wait()


def test_a_second_ctrl_c_cuts_and_what_ends_is_not_scaled(supervised, folder):
    service = supervised("--replicas", "1")
    service.until_ready(1)
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
    service.process.send_signal(signal.SIGINT)
    service.until("SIGINT: what was asked is answered")
    for words in (["scale", "2"], ["drain", "--replica", "1"]):
        refused = hooke(folder, *words)
        assert refused.returncode == 2
        assert "Delay is ending: SIGINT" in refused.stderr
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 1
    asking.join()
    assert failed
    assert "Ctrl-C, twice" in service.text


SLOW = """
import time
from pathlib import Path
from hooke import service

@service
class Slow:
    def setup(self):
        while not Path("go").exists():
            time.sleep(0.02)

    def say(self) -> int:
        return 1
"""


def test_one_that_still_starts_cannot_be_replaced(supervised, folder):
    (folder / "slow.py").write_text(SLOW)
    service = supervised("--replicas", "1", file="slow.py")
    assert service.url
    refused = hooke(folder, "drain", "--replica", "1")
    assert refused.returncode == 2
    assert "replica 1 is starting: only one that is ready can be replaced" in refused.stderr
    (folder / "go").touch()
    service.until_ready(1)
    assert hooke(folder, "drain", "--replica", "1").returncode == 0
    service.until("replica 2 starts .*: in place of replica 1")
    assert service.end() == 0


def test_a_front_that_cannot_be_started_again_is_tried_until_it_can(supervised, folder):
    service = supervised("--replicas", "1")
    service.until_ready(1)
    children = next(folder.glob(".hooke/services/*/children"))
    keeper = json.loads((children / "front.json").read_text())["pid"]
    away = children.rename(folder / "away")
    os.kill(keeper, signal.SIGKILL)
    service.until("the front cannot be started, and is tried again in")
    away.rename(children)
    service.until("1 of 1 replicas answer", count=2)
    assert service.end() == 0


def test_a_front_that_dies_while_it_drains_does_not_start_again_and_the_service_ends(supervised):
    service = supervised("--replicas", "1")
    envoy = service.until_ready(1)["front_pid"]
    failed = []

    def ask():
        try:
            post(service, "/hang", {"s": 3})
        except OSError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    ends = time.monotonic() + 60
    while not service.status()["replicas"][0]["in_flight"]:
        assert time.monotonic() < ends
    service.process.send_signal(signal.SIGTERM)
    service.until("SIGTERM: what was asked is answered")
    os.kill(envoy, signal.SIGKILL)
    assert service.process.wait(60) == 0
    asking.join()
    assert failed
    assert "the front is gone before all that came through it was answered" in service.text
    assert "starts again" not in service.text


def test_replicas_follow_the_load_up_and_down_and_say_why(supervised, load, folder):
    (folder / "busy.py").write_text(
        SERVICE.replace("max_batch=8, ", "").replace("time.sleep(0.002)", "time.sleep(0.1)")
    )
    service = supervised("--replicas", "1:3", file="busy.py")
    service.until_ready(1)
    asking = load(service)
    service.until(r"-> 3: |-> 3 replicas: ")
    service.until(r"3 of 3 replicas answer")
    counted = asking.end()
    assert counted["failed"] == {}
    service.until(r"-> \d replicas: no more than")
    service.until_ready(1)
    assert service.end() == 0
    shown = subprocess.run(
        [sys.executable, "-m", "hooke", "show", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    events = json.loads(shown.stdout)["replicas"]
    reasons = [event["reason"] for event in events if event["event"] == "service_scaled"]
    assert len(reasons) >= 2
    assert "wait or run" in reasons[0]


TIMES = """
import sys
from sklearn.linear_model import LinearRegression
import hooke

factor = int(sys.argv[1])
with hooke.start_run("times"):
    hooke.register(LinearRegression(fit_intercept=False).fit([[1.0], [2.0]], [factor, 2.0 * factor]), "times", alias="champion")
"""
TIMES_SERVICE = """
from hooke import service

@service(max_batch=8, timeout="10s", idempotent=True)
class Times:
    def setup(self, model):
        if model.coef_[0] < 1:
            raise ValueError("this model gives nothing")
        self.model = model

    def predict(self, rows: list[int]) -> list[int]:
        return [round(value) for value in self.model.predict([[row] for row in rows])]
"""


@pytest.mark.timeout(400)  # each model is registered by a script that imports MLflow
def test_a_moved_alias_rolls_out_and_goes_back_where_the_new_model_does_not_come_up(supervised, load, folder):
    (folder / "times.py").write_text(TIMES)
    (folder / "serves.py").write_text(TIMES_SERVICE)

    def register(factor):
        subprocess.run([sys.executable, "times.py", str(factor)], cwd=folder, check=True, timeout=120)

    register(2)
    service = supervised(
        "--replicas", "2", "--poll", "0.3", "--with", "model=times@champion", file="serves.py"
    )
    service.until_ready(2)
    asking = load(service, factors="2,3")
    (folder / "serves.py").write_text(f"{TIMES_SERVICE}# edited: nobody asked for that to be served\n")
    register(3)
    service.until(r"rolled out: model=times:2 .*; 2 of its replicas have been ready for 1 s")
    facts = service.until_ready(2)
    assert {one["replica"] for one in facts["replicas"]} == {"3", "4"}
    assert post(service, "/predict", {"rows": [5]}) == [15]
    register(0)
    said = service.until(r"rolled back: (.*) goes on instead of (.*); 2 of its replicas failed")[0]
    assert said[1].startswith("model=times:2")
    assert said[2].startswith("model=times:3")
    assert "this model gives nothing" in service.text
    facts = service.until_ready(2)
    assert post(service, "/predict", {"rows": [5]}) == [15]
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    text = service.text
    assert text.index("times@champion moved") < text.index("replica 1 gets nothing new")
    assert text.index("replica 4 is ready") < text.index("replica 1 gets nothing new")
    assert service.end() == 0
    shown = [
        subprocess.run(
            [sys.executable, "-m", "hooke", "show", "Times", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in ([], ["--json"])
    ]
    assert "what happened to replicas" in shown[0]
    told = [event for event in json.loads(shown[1])["replicas"] if event["event"] == "roll_out_changed"]
    assert [event["status"] for event in told] == ["began", "done", "began", "back"], service.text


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
