"""`hooke serve status` of one process without a supervisor: what can be known of it, and no more."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from tests.services.supervisor.supervised import LIMIT_S, SERVICE, hooke
from tests.serving.certificates import make_certificate

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def served(tmp_path):
    """Starts the service by itself; returns its process and what it is asked at."""
    (tmp_path / "delays.py").write_text(SERVICE)
    started = []

    def start(*words):
        said = tmp_path / f"said-{len(started)}.txt"
        with said.open("wb") as output:
            command = [sys.executable, "-m", "hooke", "serve", "delays.py", "--port", "0", *words]
            process = subprocess.Popen(command, cwd=tmp_path, stderr=output)
        started.append(process)
        ends = time.monotonic() + LIMIT_S
        while "answers: POST" not in (text := said.read_text()):
            assert time.monotonic() < ends, text
            assert process.poll() is None, text
            time.sleep(0.05)
        return process, re.search(r"on (https?://127\.0\.0\.1:\d+)$", text, re.MULTILINE)[1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.long
def test_status_asks_it_with_its_own_token_and_verbs_for_several_say_why_not(served, tmp_path):
    process, url = served()
    token = (tmp_path / ".hooke/services/Delay/token").read_text().strip()
    for row in range(5):
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        body = json.dumps({"rows": [row]}).encode()
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/predict", body, headers), timeout=60
        ) as answer:
            assert json.loads(answer.read()) == [2 * row]
    assert (tmp_path / ".hooke/services/Delay").stat().st_mode & 0o777 == 0o700
    done = hooke(tmp_path, "status", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["state"], facts["pid"], facts["url"], facts["supervised"]) == (
        "serving",
        process.pid,
        url,
        False,
    )
    assert (facts["answered"], facts["in_flight"], facts["unknown"]) == (5, 0, "")
    assert facts["rate"] > 0
    assert 0 < facts["p99_s"] < 30
    assert facts["memory_bytes"] > 1 << 20
    shown = hooke(tmp_path, "status").stdout
    assert f"Delay is serving on {url}: one process, without a supervisor" in shown
    assert "5 answered since its start" in shown
    for verb in (["scale", "3"], ["drain"], ["down"], ["logs"]):
        refused = hooke(tmp_path, *verb)
        assert refused.returncode == 2, refused.stdout
        assert "Delay has no supervisor" in refused.stderr
        assert str(process.pid) in refused.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 0
    assert not list(tmp_path.glob(".hooke/services/Delay/single-*"))
    assert "no service is running" in hooke(tmp_path, "status").stderr


@pytest.mark.long
def test_one_that_is_stopped_is_listed_without_counts_and_a_killed_one_is_not_listed(served, tmp_path):
    process, _ = served()
    process.send_signal(signal.SIGSTOP)
    facts = json.loads(hooke(tmp_path, "status", "--json").stdout)
    assert (facts["pid"], facts["state"], facts["answered"]) == (process.pid, None, None)
    assert "Delay does not reply: no reply within" in facts["unknown"]
    process.kill()
    process.wait()
    assert "no service is running" in hooke(tmp_path, "status").stderr


@pytest.mark.long
def test_status_needs_no_token_and_shows_two_processes_of_one_class(served, tmp_path):
    cert, key = make_certificate(tmp_path)
    _, url = served("--tls-cert", str(cert), "--tls-key", str(key))
    facts = json.loads(hooke(tmp_path, "status", "--json").stdout)
    assert (facts["url"], facts["state"], facts["unknown"]) == (url, "serving", "")
    served("--no-auth")
    both = json.loads(hooke(tmp_path, "status", "--json").stdout)
    assert [one["state"] for one in both] == ["serving", "serving"]
