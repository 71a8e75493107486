"""Several replicas for real: under a load whose every answer is checked, they are added, drained and ended, and verbs say what runs."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.services.supervisor.supervised import (
    SERVICE,
    bound,
    gone,
    hooke,
    of_service,
    post,
    printed,
)

from hooke.processes.devices import cpus_here

pytestmark = pytest.mark.needs("processes")


@pytest.mark.long
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


@pytest.mark.long
def test_hooke_toml_sets_what_the_proxy_does(supervised, folder):
    (folder / "hooke.toml").write_text(
        '[services.Delay]\nrate_limit = 3\naccess_log = "logs/access.log"\nproxy_threads = 2\nretry_body = "1MiB"\n'
    )
    service = supervised("--replicas", "1")
    service.until_ready(1)
    seen = []
    for row in range(20):
        try:
            seen.append(post(service, "/predict", {"rows": [row]}) == [2 * row])
        except urllib.error.HTTPError as error:
            seen.append(error.code)
    assert set(seen) == {True, 429}
    assert service.end() == 0
    logged = [json.loads(line) for line in (folder / "logs/access.log").read_text().splitlines()]
    assert {(line["path"], line["status"]) for line in logged} == {("/predict", 200), ("/predict", 429)}
    told = json.loads(next(folder.glob(".hooke/services/*/front/envoy.json")).read_text())
    host = told["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert host["route_config"]["virtual_hosts"][0]["request_body_buffer_limit"] == 1 << 20


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rate_limit = 0", "at least 1"),
        ('retry_body = "much"', "retry_body"),
        ("proxy_threads = 0", "at least 1"),
    ],
)
def test_values_that_no_proxy_can_have_are_refused_with_their_place(folder, line, said):
    (folder / "hooke.toml").write_text(f"[services.Delay]\n{line}\n")
    done = hooke(folder, "delays.py", "--replicas", "1", "--port", "0")
    assert done.returncode == 2
    assert "hooke.toml" in done.stderr
    assert said in done.stderr


@pytest.mark.long
def test_ctrl_c_under_load_answers_what_was_asked(supervised, load):
    service = supervised("--replicas", "2")
    service.until_ready(2)
    asking = load(service)
    time.sleep(1)
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(150) == 0
    counted = asking.end()
    refused = {"ConnectionRefusedError"}  # a new connection, after the end
    assert set(counted["failed"]) <= refused, counted
    assert counted["right"] > 20


def test_what_is_printed_is_what_is_bound_and_only_on_loopback(supervised):
    service = supervised("--replicas", "2")
    service.until_ready(2)
    assert bound(service) == printed(service)
    assert post(service, "/threads", {}) == str(max(1, cpus_here() // 2)), "the cores are shared"
    mode = (service.folder / ".hooke/services/Delay").stat().st_mode
    assert mode & 0o777 == 0o700


@pytest.mark.long
def test_a_second_supervisor_is_refused_and_verbs_say_what_runs(supervised, folder):
    nothing = hooke(folder, "status")
    assert nothing.returncode == 2
    assert "no service is running" in nothing.stderr
    service = supervised("--replicas", "1")
    service.until_ready(1)
    second = hooke(folder, "delays.py", "--replicas", "2", "--port", "0")
    assert second.returncode == 2
    assert "Delay is already being served" in second.stderr
    assert "hooke serve scale Delay 4" in second.stderr
    wrong = hooke(folder, "status", "Delays")
    assert wrong.returncode == 2
    assert "did you mean Delay?" in wrong.stderr
    for words in (["scale", "0"], ["scale", "two"], ["scale", "4:2"]):
        assert hooke(folder, *words).returncode == 2
    shown = hooke(folder, "status")
    assert "1 of 1 replicas answer" in shown.stdout
    assert hooke(folder, "down").stdout.endswith("Delay is down: none of its processes is left\n")
    assert service.process.wait(150) == 0


@pytest.mark.long
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
    assert "starts" not in done.stderr
    assert not list((folder / ".hooke" / "runs").glob("*"))  # nothing was begun


@pytest.mark.long
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
        try:
            assert process.wait(150) == 0
        except subprocess.TimeoutExpired:
            raise AssertionError(hooke(folder, "status", "--json").stdout) from None
        assert gone(pids)
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_what_ends_is_not_scaled(supervised, folder):
    service = supervised("--replicas", "1")
    service.until_ready(1)
    asking = threading.Thread(target=post, args=(service, "/hang", {"s": 9}))
    asking.start()
    ends = time.monotonic() + 60
    while not service.status()["replicas"][0]["in_flight"]:
        assert time.monotonic() < ends
    service.process.send_signal(signal.SIGINT)
    service.until("SIGINT: draining, open requests are answered")
    with ThreadPoolExecutor(2) as both:  # at once: the request holds the service for 9 s only
        for refused in both.map(
            lambda words: hooke(folder, *words), (["scale", "2"], ["drain", "--replica", "1"])
        ):
            assert refused.returncode == 2
            assert "Delay is ending: SIGINT" in refused.stderr
    asking.join()
    assert service.process.wait(150) == 0


@pytest.mark.long
def test_a_second_ctrl_c_cuts(supervised):
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
    service.until("SIGINT: draining, open requests are answered")
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 1
    asking.join()
    assert failed
    assert "Ctrl-C, twice" in service.text


SLOW = """
import time
from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.long
def test_one_that_still_starts_cannot_be_replaced(supervised, folder):
    (folder / "slow.py").write_text(SLOW)
    service = supervised("--replicas", "1", file="slow.py")
    assert service.url
    refused = hooke(folder, "drain", "--replica", "1")
    assert refused.returncode == 2
    assert "replica 1 is starting: only a ready replica can be replaced" in refused.stderr
    (folder / "go").touch()
    service.until_ready(1)
    assert hooke(folder, "drain", "--replica", "1").returncode == 0
    service.until("replica 2 starts .*: in place of replica 1")
    assert service.end() == 0


@pytest.mark.long
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
    service.until(r"-> \d replicas: the load needed no more than")
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
