"""Real services that run no replica while there are no calls: cycles with kills in each state, long starts, and what people see."""

import json
import threading
import time
import urllib.error
import urllib.request

import pytest
from benchmarks.serving.zero import BLOWS, soak
from tests.services.supervisor.supervised import LIMIT_S, SERVICE, gone, hooke, of_service, post

from hooke.journal.service_events import ColdStart
from hooke.project.folder import Project
from hooke.services.service_report import read_service, service_facts, service_text

pytestmark = [pytest.mark.needs("processes"), pytest.mark.timeout(600)]

IDLE = SERVICE.replace("max_batch=8", "max_batch=8, replicas=(0, 2)").replace(
    "import os, sys, time", "import os, sys, time\n"
)


@pytest.fixture
def idle(supervised, folder):
    (folder / "idle.py").write_text(IDLE)
    return lambda *words: supervised(*words, file="idle.py")


def until_idle(service):
    assert service.url
    ends = time.monotonic() + LIMIT_S
    while (facts := service.status())["state"] != "idle" or facts["replicas"]:
        assert time.monotonic() < ends, (facts, service.text)
        time.sleep(0.5)
    return facts


def asked(service, results, body=(3,), timeout=LIMIT_S):
    """A request in a thread."""

    def ask():
        headers = {"content-type": "application/json", "authorization": f"Bearer {service.token}"}
        request = urllib.request.Request(
            service.url + "/predict", json.dumps({"rows": list(body)}).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                results.append(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            results.append((error.code, error.headers.get("retry-after"), json.loads(error.read())["detail"]))
            error.close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


@pytest.mark.long
def test_cycles_with_a_kill_of_each_process_in_each_state_lose_and_block_nothing(tmp_path):
    """`make soak-zero` runs 200 of them."""
    counts, late = soak(2 * len(BLOWS), 5, tmp_path)
    assert counts.stuck == []
    assert counts.lost == []
    assert counts.cycles == 2 * len(BLOWS)
    assert counts.right + counts.left + sum(counts.cost.values()) == counts.requests
    hit = {name for name, count in counts.blows.items() if count}
    assert len(hit) >= len(BLOWS) - 1, "a replica may end before it is killed"
    assert len(late) == len(BLOWS)


@pytest.mark.long
def test_it_ends_its_last_replica_starts_the_first_and_says_so_everywhere(idle, folder):
    service = idle("--keep-alive", "1s")
    facts = until_idle(service)
    assert (facts["replicas_low"], facts["replicas_high"], facts["wanted"]) == (0, 2, 0)
    assert facts["zero"]["keep_alive_s"] == 1.0
    service.until("1 -> 0 replicas: no call for 1.00 s; as --keep-alive says")
    service.until("no replica runs: the next request starts one")
    assert len(of_service(folder)) == 2, "the proxy's process and Envoy"
    with urllib.request.urlopen(service.url + "/-/ready", timeout=LIMIT_S) as answer:
        assert json.loads(answer.read()) == {"state": "idle"}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(service.url + "/predict", b"{}", timeout=LIMIT_S)
    assert service.status()["state"] == "idle", "neither of them started a replica"
    assert post(service, "/predict", {"rows": [3]}) == [6]
    service.until(r"0 -> 1 replicas: 1 request waits, and no replica runs")
    service.until(r"cold start: the first answer came .* after its request; 1 request waited")
    shown = hooke(folder, "status").stdout
    assert "1 cold start, the last took" in shown
    assert "the last replica stays 1.00 s without a call: as --keep-alive says" in shown
    assert service.end() == 0
    runs = Project.find(folder).runs
    (run,) = (folder / ".hooke" / "runs").iterdir()
    record = read_service(runs.folder(run.name))
    (cold,) = [event for event in record.replicas if isinstance(event, ColdStart)]
    assert service_facts(record, alive=False)["cold_starts_s"] == [cold.seconds]
    assert "1 cold start, the first answer after" in service_text(record, alive=False)


@pytest.mark.long
def test_the_key_of_a_client_starts_the_first_replica(idle, folder):
    (folder / "hooke.toml").write_text('[services.Delay.keys.shop]\nfile = "shop"\n')
    (folder / "shop").write_text("the-token-of-the-shop\n")
    (folder / "shop").chmod(0o600)
    service = idle("--keep-alive", "1s")
    until_idle(service)
    headers = {"content-type": "application/json", "authorization": "Bearer the-token-of-the-shop"}
    asking = urllib.request.Request(service.url + "/predict", b'{"rows": [3]}', headers)
    with urllib.request.urlopen(asking, timeout=LIMIT_S) as answer:
        assert json.loads(answer.read()) == [6]


@pytest.mark.long
def test_once_a_replica_is_published_no_request_passes_the_activator(idle):
    service = idle("--keep-alive", "60s", "--replicas", "0:1")
    service.until("1 of 1 replicas answer")
    before = service.status()["zero"]
    for number in range(20):
        assert post(service, "/predict", {"rows": [number]}) == [2 * number]
    after = service.status()["zero"]
    assert (after["arrived"], after["held"]) == (before["arrived"], 0)


@pytest.mark.long
def test_a_start_that_takes_longer_than_its_clients_wait_goes_on_and_is_there_for_the_next(
    supervised, folder
):
    (folder / "slow.py").write_text(
        IDLE.replace('timeout="10s"', 'timeout="2s"').replace(
            "        self.factor = factor\n", "        self.factor = factor\n        time.sleep(6)\n"
        )
    )
    service = supervised("--keep-alive", "1s", file="slow.py")
    until_idle(service)
    results = []
    asked(service, results).join(LIMIT_S)
    assert results[0][0] == 504
    assert "no replica was ready within 2 s" in results[0][2]
    service.until("replica 2 is ready")
    ends = service.text.index("replica 2 is ready")
    assert "1 -> 0" not in service.text[service.text.index("0 -> 1") : ends], (
        "idleness does not cancel a start"
    )


def test_start_timeout_ends_a_replica_that_is_not_ready_in_time(supervised, folder):
    (folder / "stuck.py").write_text(
        IDLE.replace("max_batch=8,", 'max_batch=8, start_timeout="3s",').replace(
            "        self.factor = factor\n", "        time.sleep(1000)\n"
        )
    )
    service = supervised(file="stuck.py")
    service.until("it was not ready within 3 s")


@pytest.mark.long
def test_a_drain_at_zero_answers_what_is_held(idle):
    service = idle("--keep-alive", "1s")
    until_idle(service)
    results = []
    thread = asked(service, results)
    service.until("0 -> 1 replicas")
    assert service.end() == 0
    thread.join(LIMIT_S)
    assert results == [[6]]


@pytest.mark.long
def test_an_orphaned_proxy_refuses_at_once_and_ends(idle, folder):
    service = idle("--keep-alive", "1s", "--lease", "6")
    until_idle(service)
    pids = [one.pid for one in of_service(folder)]
    results = []
    service.process.kill()
    service.process.wait()
    thread = asked(service, results)
    thread.join(LIMIT_S)
    assert results[0][0] == 503
    assert "the supervisor is gone, and starts no replica" in results[0][2]
    assert gone(pids)


@pytest.mark.long
def test_a_supervisor_that_takes_over_at_zero_starts_a_replica_only_for_another_model_and_tries_it(idle):
    first = idle("--keep-alive", "1s", "--lease", "60")
    until_idle(first)
    first.process.kill()
    first.process.wait()
    second = idle("--keep-alive", "1s", "--lease", "60")
    until_idle(second)
    assert "starts (pid" not in second.text
    second.process.kill()
    second.process.wait()
    third = idle("--keep-alive", "5s", "--lease", "60", "--with", "factor=5")
    third.until(r"replica \d+ starts \(.*\): roll-out: ")
    third.until(r"replica \d+ ended")
    assert until_idle(third)["rolling_out"], "it waits for requests"
    assert post(third, "/predict", {"rows": [3]}) == [6]
    third.until("2 replicas answer, 1 wanted")
    assert post(third, "/predict", {"rows": [3]}, {"x-hooke-version": "new"}) == [15]


@pytest.mark.long
def test_bounds_change_while_it_runs(idle, folder):
    service = idle("--keep-alive", "1s", "--replicas", "1:2")
    assert service.process.wait(LIMIT_S) == 2
    assert "at least 1 of Delay's replicas always run" in service.text
    service = idle("--replicas", "1:2")
    service.until_ready(1)
    assert service.status()["zero"] is None
    done = hooke(folder, "scale", "0:2")
    assert "0 to 2 as needed" in done.stdout
    facts = service.status()
    assert facts["zero"]["keep_alive_s"] >= 30.0
    assert "until 10 longer gaps were seen" in facts["zero"]["keep_alive_why"]
    assert hooke(folder, "scale", "0").returncode == 2
