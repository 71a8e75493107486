"""A real front, and replicas whose queue is full: another one is asked, once."""

import json
import re
import threading
from contextlib import contextmanager

import pytest
from tests.proxy.stand import ask, standing, until

pytestmark = pytest.mark.needs("processes")

FULL = [[1.0]] * 1024
"""As many rows as may wait: with them, the queue is full."""
KEPT = 4096


class Filled:
    """One replica that waits at its gate, with a full queue."""

    def __init__(self, stand, gate):
        self.gate = gate
        (self.replica,) = stand.add(1, gate, KEPT)
        self.askers = [
            threading.Thread(target=ask, args=(self.replica.upstream.port, "/total", {"rows": rows}))
            for rows in ([[1.0]], FULL)
        ]
        self.askers[0].start()
        until(gate.with_suffix(".begun").exists)
        self.askers[1].start()
        until(lambda: counted(self.replica, "hooke_queue_rows") == len(FULL))

    def open(self):
        self.gate.touch()
        for one in self.askers:
            one.join(30)


def metrics(replica):
    return ask(replica.upstream.port, "/-/metrics", verb="GET")[2].decode()


def counted(replica, name, **labels):
    """The sum of a metric's samples with these labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (.+)$", metrics(replica), re.MULTILINE)
    return sum(
        float(value)
        for given, value in found
        if all(f'{key}="{text}"' in given for key, text in labels.items())
    )


@contextmanager
def filled(folder, *, full, free, **given):
    with standing(folder, replicas=0, timeout_s=60.0, **given) as stand:
        held = [Filled(stand, folder / f"gate{at}") for at in range(full)]
        (folder / "open").touch()
        stand.add(free, folder / "open", KEPT)
        stand.publish()
        try:
            yield stand, [one.replica for one in held], stand.serving[full:]
        finally:
            for one in held:
                one.open()


def asked(stand, count, rows=((2.0,),)):
    return [ask(stand.port, "/total", {"rows": list(rows)}) for _ in range(count)]


@pytest.mark.long
@pytest.mark.parametrize("idempotent", [False, True])
def test_what_a_full_replica_refuses_another_answers(tmp_path, idempotent):
    with filled(tmp_path, full=1, free=2, idempotent=idempotent) as (stand, (full,), free):
        answers = asked(stand, 60)
        assert [(status, body) for status, _, body in answers] == [(200, b"[2.0]")] * 60
        passed = counted(full, "hooke_refused_total", reason="passed on")
        assert passed > 0
        assert stand.front.stats().retries == passed
        # Each request counts once.
        route = {"route": "/total"}
        assert counted(full, "hooke_requests_total", status="429") == 0
        assert sum(counted(one, "hooke_requests_total", status="200", **route) for one in free) == 60


def test_when_all_are_full_the_client_is_told_when_to_come_back_after_two_tries(tmp_path):
    with filled(tmp_path, full=3, free=0) as (stand, replicas, _):
        answers = asked(stand, 20)
        assert {status for status, _, _ in answers} == {429}
        for _, headers, body in answers:
            assert int(headers["retry-after"]) >= 1
            assert "x-hooke-again" not in headers
            assert json.loads(body)["detail"] == "too many requests wait to be answered in time"
        assert stand.front.stats().retries == 20
        assert sum(counted(one, "hooke_refused_total", reason="passed on") for one in replicas) == 20
        assert sum(counted(one, "hooke_requests_total", status="429") for one in replicas) == 20


def test_a_body_that_the_front_does_not_keep_is_refused_and_counted_by_the_replica_that_got_it(tmp_path):
    with filled(tmp_path, full=2, free=0, retry_body_limit=KEPT) as (stand, replicas, _):
        assert {status for status, _, _ in asked(stand, 4, rows=[[1.0]] * 1000)} == {429}
        assert stand.front.stats().retries == 0
        assert sum(counted(one, "hooke_requests_total", status="429") for one in replicas) == 4


def test_envoy_counts_keys_of_low_priority_with_the_requests_that_say_so(tmp_path):
    files = []
    for number in range(512):  # as many as a service may have
        files.append(tmp_path / f"key-{number}")
        files[-1].write_text(f"nightly-{number:03}-0123456789abcdef-0123456789abcdef\n")
        files[-1].chmod(0o600)
    nightly, shop = (file.read_text().strip() for file in (files[0], files[-1]))
    gate, given = tmp_path / "gate", {"low_key_files": tuple(files[:-1]), "key_files": (files[-1],)}
    with standing(tmp_path, 0, timeout_s=60, **given) as stand:
        stand.add(1, gate)
        stand.publish()
        stand.front.limit(4)
        lows = [
            {"authorization": f"Bearer {nightly}"},
            {"authorization": f"bearer  {nightly}", "x-hooke-priority": "high"},
        ]
        answers = []

        def held(headers):
            answers.append(ask(stand.port, "/total", {"rows": [[1.0]]}, headers=headers, timeout=60)[0])

        def status(**headers):
            return ask(stand.port, "/echo", {"n": 1}, headers=headers)[0]

        threads = [threading.Thread(target=held, args=(headers,)) for headers in lows]
        for thread in threads:
            thread.start()
        until(lambda: stand.front.stats().active == 2)
        assert [status(**{"x-hooke-priority": "low"}), status(**lows[0])] == [503] * 2
        assert [status(), status(authorization=f"Bearer {shop}")] == [200] * 2
        gate.touch()
        for thread in threads:
            thread.join(60)
        assert answers == [200] * 2
        told = stand.front.settings.folder / "envoy.json"
        assert told.stat().st_mode & 0o077 == 0
        assert nightly not in told.read_text()
