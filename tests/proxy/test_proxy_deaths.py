"""Replicas that die under load, deadlines that pass, and a front that nobody is left to end."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import psutil
import pytest
from tests.proxy.stand import ask, failures, load, standing, until

from hooke.proxy.proxy_settings import Upstream

pytestmark = pytest.mark.needs("processes")


def kill_in_turn(stand, rounds):
    """A replica is killed, leaves the file at once, and another takes its place."""
    for _ in range(rounds):
        dead = stand.serving.pop(0)
        dead.end(signal.SIGKILL)
        stand.publish()
        stand.add()
        stand.publish()


@pytest.mark.long
def test_an_idempotent_service_loses_no_request_to_a_kill(tmp_path):
    with standing(tmp_path, replicas=3, idempotent=True) as stand:
        with load(stand.port) as askers:
            kill_in_turn(stand, 4)
        counted = stand.front.stats()
    assert failures(askers) == []
    assert counted.retries > 0
    assert counted.answers["5xx"] == 0


@pytest.mark.long
def test_another_loses_those_that_were_with_the_dead_replica_and_no_others(tmp_path):
    with standing(tmp_path, replicas=3, idempotent=False) as stand:
        with load(stand.port, askers=12) as askers:
            kill_in_turn(stand, 4)
        lost = failures(askers)
    # Told so, or cut off in the middle of an answer.
    assert all(b"may have been done" in said or b"IncompleteRead" in said for _, said in lost), lost
    # Each of twelve askers has one request at a time, and most are not with the one of three that dies.
    assert len(lost) < 4 * 12 * 0.75


def test_nobody_is_told_of_a_dead_replica_that_is_still_published(tmp_path):
    """Between a death and the new file: nothing was sent there, so the others are tried whatever the service is."""
    with standing(tmp_path, replicas=2, idempotent=False) as stand:
        stand.serving[0].end(signal.SIGKILL)
        until(lambda: ask(stand.port, "/echo", {"n": 1})[0] == 200)
        with load(stand.port) as askers:
            until(lambda: sum(one.answers for one in askers) > 200)
        assert failures(askers) == []
        assert stand.front.stats().retries > 0


def test_a_body_over_the_limit_is_not_sent_twice(tmp_path):
    with standing(tmp_path, replicas=2, idempotent=True, retry_body_limit=1000) as stand:
        small, large = ({"text": "x" * size} for size in (100, 100_000))
        stand.front.publish([Upstream(port=stand.serving[0].upstream.port)])
        got = []
        stand.serving[0].process.send_signal(signal.SIGSTOP)
        askers = [
            threading.Thread(target=lambda value=value: got.append(ask(stand.port, "/size", value)))
            for value in (small, large)
        ]
        for one in askers:
            one.start()
        until(lambda: stand.front.stats().active == 2)
        stand.publish()
        stand.serving[0].end(signal.SIGKILL)
        for one in askers:
            one.join(30)
        assert sorted(status for status, _, _ in got) == [200, 502], got


def test_the_deadline_is_the_fronts_when_a_replica_hangs(tmp_path):
    with standing(tmp_path, replicas=1, timeout_s=1.0, idempotent=True) as stand:
        hung = psutil.Process(stand.serving[0].process.pid)
        hung.suspend()
        try:
            status, headers, body = ask(stand.port, "/echo", {"n": 1})
        finally:
            hung.resume()
        assert (status, headers["content-type"]) == (504, "application/problem+json")
        assert json.loads(body)["detail"] == "no answer within 1 s"
        # It was not asked a second time: it had all the time there is.
        assert stand.front.stats().retries == 0


@pytest.mark.long
def test_the_only_replica_is_never_set_aside(tmp_path):
    with standing(tmp_path, replicas=1, timeout_s=0.5) as stand:
        hung = psutil.Process(stand.serving[0].process.pid)
        hung.suspend()
        try:
            assert [ask(stand.port, "/echo", {"n": 1})[0] for _ in range(5)] == [504] * 5
        finally:
            hung.resume()
        assert ask(stand.port, "/echo", {"n": 1})[2] == b"1"


def test_a_stream_outlasts_the_deadline_and_comes_as_it_is_made(tmp_path):
    with standing(tmp_path, replicas=1, timeout_s=0.5, streams=("/count",)) as stand:
        connection = http.client.HTTPConnection("127.0.0.1", stand.port, timeout=30)
        connection.request(
            "POST", "/count", json.dumps({"n": 8, "s": 0.3}), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        came = [time.monotonic() for line in answer if line.startswith(b"data:")]
        connection.close()
    assert len(came) == 9  # eight items and the end
    assert came[-1] - came[0] > 1.5
    assert all(later - earlier > 0.05 for earlier, later in pairwise(came[:8]))


ALONE = """
import sys, time
from pathlib import Path
from hooke.processes.start import with_parent
from hooke.proxy.envoy import Proxy
from hooke.proxy.proxy_settings import ProxySettings
front = Proxy(ProxySettings(service="Alone", folder=Path(sys.argv[1])), prefix=with_parent())
front.start()
print(front.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only this kernel tells a child of its parent's death")
def test_envoy_ends_with_whoever_started_it(tmp_path):
    alone = subprocess.Popen(
        [sys.executable, "-c", ALONE, tmp_path / "front"], stdout=subprocess.PIPE, text=True
    )
    try:
        envoy = psutil.Process(int(alone.stdout.readline()))
        assert envoy.is_running()
    finally:
        alone.kill()
        alone.wait()
        alone.stdout.close()
    with contextlib.suppress(psutil.NoSuchProcess):
        until(lambda: not envoy.is_running() or envoy.status() == psutil.STATUS_ZOMBIE)
    assert not os.path.exists(f"/proc/{envoy.pid}") or envoy.status() == psutil.STATUS_ZOMBIE
