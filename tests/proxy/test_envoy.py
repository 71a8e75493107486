"""The front as a process: started, told, asked, killed, drained."""

import dataclasses
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import threading
import time
from contextlib import ExitStack, closing

import psutil
import pytest
from tests.proxy.stand import ask, failures, load, standing, until
from tests.serving.certificates import make_certificate

from hooke.base.errors import HookeError, UsageError
from hooke.proxy.envoy import Proxy
from hooke.proxy.proxy_settings import ProxySettings, ProxyTls, Upstream

pytestmark = pytest.mark.needs("processes")


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    with standing(tmp_path_factory.mktemp("stand"), idempotent=True, streams=("/count",)) as stand:
        yield stand


def test_what_replicas_answer_comes_through(stand):
    status, headers, body = ask(stand.port, "/echo", {"n": 3})
    assert (status, body, headers["content-type"]) == (200, b"3", "application/json")
    assert "server" not in headers and not [name for name in headers if name.startswith("x-envoy")]
    status, headers, body = ask(stand.port, "/echo", {"n": "x"})
    assert status == 422 and json.loads(body)["errors"][0]["field"] == "n"
    assert ask(stand.port, "/-/ready", verb="GET")[0] == 200


@pytest.mark.parametrize("path", ["/echo", "/count"])
@pytest.mark.parametrize("given", ["two words", "a,b", "\xe9", "x" * 200, "a" * 128, "mine-1"])
def test_an_answer_has_one_id_which_its_problem_and_the_log_of_the_replica_have_too(stand, given, path):
    headers = {"x-request-id": given}
    status, answered, body = ask(stand.port, path, {"n": "x"}, headers=headers)
    assert status == 422
    assert json.loads(body)["request_id"] == answered["x-request-id"]
    assert (answered["x-request-id"] == given) is (given in ("mine-1", "a" * 128))
    others = {ask(stand.port, path, {"n": "x"}, headers=headers)[1]["x-request-id"] for _ in range(3)}
    assert len(others) == (1 if answered["x-request-id"] == given else 3)


def test_health_checks_are_answered_while_calls_have_reached_their_limit(tmp_path):
    with standing(tmp_path, replicas=1) as stand:
        stand.front.limit(1)
        slow = threading.Thread(target=ask, args=(stand.port, "/echo", {"n": 1, "s": 4.0}))
        slow.start()
        until(lambda: stand.front.stats().active == 1)
        assert ask(stand.port, "/echo", {"n": 2})[0] == 503
        for path in ("/-/health", "/-/ready"):
            assert ask(stand.port, path, verb="GET")[0] == 200
        slow.join()


def test_it_listens_where_it_says_and_nowhere_else(stand):
    listening = [
        one
        for one in psutil.Process(stand.front.pid).net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert {f"http://{one.laddr.ip}:{one.laddr.port}" for one in listening} == {stand.front.url}
    assert stand.front.url.startswith("http://127.0.0.1:")
    admin = stand.front.settings.folder / "admin.sock"
    assert stat.S_IMODE(admin.stat().st_mode) == 0o600


def test_replicas_come_and_go_under_load_and_no_request_fails(stand):
    with load(stand.port) as askers:
        for _ in range(8):
            old = stand.serving[0]
            stand.add()
            stand.publish()
            assert stand.retire(old) == 0
    assert failures(askers) == []
    assert sum(one.answers for one in askers) > 200
    counted = stand.front.stats()
    # Nothing was hidden by another try.
    assert (counted.answers["5xx"], counted.retries) == (0, 0)


def test_a_new_replica_gets_requests_and_one_that_left_none(stand):
    (new,) = stand.add()
    stand.publish()
    old = stand.serving[0]
    with load(stand.port, askers=4):
        until(lambda: stand.front.stats().replicas[new.upstream.place].requests > 10)
        stand.serving.remove(old)
        stand.publish()
        assert stand.front.settled(old.upstream, within_s=60) == 0
        before = stand.front.stats().replicas[old.upstream.place].requests
        seen = stand.front.stats().replicas[new.upstream.place].requests
        until(lambda: stand.front.stats().replicas[new.upstream.place].requests > seen + 10)
        assert stand.front.stats().replicas[old.upstream.place].requests == before
    stand.publish()
    assert old.upstream.place not in stand.front.stats().replicas
    old.end(15)


def test_a_busy_replica_gets_hardly_any_of_the_new_requests(tmp_path):
    """Of two draws, one in four finds it twice."""
    with standing(tmp_path, replicas=2, timeout_s=60.0) as stand:
        busy, other = (one.upstream for one in stand.serving)
        stand.front.publish([busy])
        askers = [
            threading.Thread(target=ask, args=(stand.port, "/echo", {"n": 1, "s": 30.0})) for _ in range(4)
        ]
        for one in askers:
            one.start()
        until(lambda: stand.front.stats().replicas[busy.place].active == 4)
        stand.publish()
        for number in range(300):
            assert ask(stand.port, "/echo", {"n": number})[2] == b"%d" % number
        counted = stand.front.stats().replicas
        assert counted[busy.place].active == 4
        assert counted[busy.place].requests - 4 < 30, counted
        assert counted[other.place].requests > 270
        for one in stand.serving:
            one.end()
        for one in askers:
            one.join(30)


@pytest.mark.long
def test_idle_connections_make_room_for_new_clients(tmp_path):
    """They would stay for ten minutes; some have asked, the others never said a word. One whose request takes time is not idle."""
    most = 2000
    with standing(tmp_path, idle_timeout_s=600.0, most_connections=most) as stand, ExitStack() as opened:
        answers = []
        slow = threading.Thread(
            target=lambda: answers.append(ask(stand.port, "/echo", {"n": 7, "s": 4.0})[2])
        )
        slow.start()
        until(lambda: stand.front.stats().active == 1)

        def connect():
            made = socket.create_connection(("127.0.0.1", stand.port), timeout=10)
            return opened.enter_context(closing(made))

        few = [connect() for _ in range(50)]
        for one in few[::2]:
            one.sendall(b"GET /-/ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        time.sleep(3)
        for one in few:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still open
                one.recv(1)
        for _ in range(most):
            connect()
        until(lambda: stand.front.stats().connections >= 0.95 * most)
        until(lambda: answered(stand.port), within_s=60)
        slow.join(30)
        assert answers == [b"7"]


def answered(port):
    """Whether a new client gets an answer. One too many is cut off."""
    try:
        return ask(port, "/echo", {"n": 1})[2] == b"1"
    except (ConnectionError, http.client.HTTPException):
        return False


def test_one_that_is_published_cannot_be_waited_out(stand):
    with pytest.raises(UsageError, match="still published"):
        stand.front.settled(stand.serving[0].upstream, within_s=1)


def test_settled_waits_for_what_is_under_way(stand):
    old, *others = stand.serving
    stand.front.publish([old.upstream])
    asked = threading.Thread(target=lambda: got.append(ask(stand.port, "/echo", {"n": 5, "s": 1.0})))
    got = []
    asked.start()
    until(lambda: stand.front.stats().replicas[old.upstream.place].active == 1)
    stand.front.publish([one.upstream for one in others])
    assert stand.front.settled(old.upstream, within_s=0.05) == 1
    assert stand.front.settled(old.upstream, within_s=60) == 0
    asked.join()
    assert got[0][0] == 200
    stand.publish()


@pytest.mark.long
def test_a_killed_front_says_so_and_comes_back_on_its_port(stand):
    url = stand.front.url
    assert stand.front.died() is None
    os.kill(stand.front.pid, signal.SIGKILL)
    until(lambda: stand.front.died() is not None)
    assert "killed by signal 9" in str(stand.front.died())
    # Whether or not some replica is still leaving.
    for published in ([], stand.serving, stand.serving):
        with pytest.raises(HookeError, match="killed by signal 9"):
            stand.front.publish([one.upstream for one in published])
    stand.front.start([one.upstream for one in stand.serving])
    assert stand.front.url == url
    assert ask(stand.port, "/echo", {"n": 4})[2] == b"4"


def test_a_port_that_is_taken_is_named(stand, tmp_path):
    second = Proxy(ProxySettings(service="Echo", folder=tmp_path, port=stand.port))
    with pytest.raises(UsageError, match=f"port {stand.port} of 127.0.0.1 is taken") as raised:
        second.start()
    assert "--port 0" in raised.value.fix
    assert second.pid is None


def test_an_address_of_another_machine_is_named(tmp_path, certificate):
    front = Proxy(
        ProxySettings(service="Echo", folder=tmp_path / "front", address="192.0.2.1", tls=certificate)
    )
    with pytest.raises(UsageError, match=r"port 0 of 192\.0\.2\.1 cannot be served: Cannot assign"):
        front.start()


def test_a_front_that_was_not_started_says_so(tmp_path):
    front = Proxy(ProxySettings(service="Echo", folder=tmp_path))
    calls = (
        lambda: front.publish([]),
        front.stats,
        lambda: front.drain(within_s=1),
        lambda: front.settled(Upstream(port=1), within_s=1),
    )
    for call in calls:
        with pytest.raises(UsageError, match="was not started") as raised:
            call()
        assert "start" in raised.value.fix
    front.stop()


def test_a_folder_too_deep_for_a_socket(tmp_path):
    front = Proxy(ProxySettings(service="Echo", folder=tmp_path / ("deep" * 30)))
    try:
        front.start()
        assert ask(front.settings.port, "/echo", {"n": 1})[0] == 503
    finally:
        front.stop()


def test_without_replicas_it_says_to_come_back(tmp_path):
    with standing(tmp_path, replicas=0) as stand:
        status, headers, body = ask(stand.port, "/echo", {"n": 1})
        assert (status, headers["retry-after"], headers["content-type"]) == (
            503,
            "1",
            "application/problem+json",
        )
        assert json.loads(body) == {
            "title": "Service Unavailable",
            "status": 503,
            "detail": "no replica is ready",
            "error": "no replica is ready",
        }


def test_a_drain_answers_all_that_was_asked(tmp_path):
    with standing(tmp_path) as stand, load(stand.port) as askers:
        assert stand.front.drain(within_s=60) == 0
        stand.front.stop()
        until(lambda: failures(askers))
    # Whoever connects anew is refused; nobody who was connected is left without an answer.
    assert [said for _, said in failures(askers) if not said.endswith(b"on a new connection")] == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stand.port), timeout=5).close()


def test_a_replica_that_was_published_twice_is_one(stand):
    stand.front.publish(
        [one.upstream for one in stand.serving] + [Upstream(port=stand.serving[0].upstream.port)]
    )
    assert len(stand.front.stats().replicas) == len(stand.serving)
    stand.publish()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    made, key = make_certificate(tmp_path_factory.mktemp("tls"))
    return ProxyTls(certificate=made, key=key)


def test_tls_ends_at_the_front(tmp_path, certificate):
    with standing(tmp_path, replicas=1, tls=certificate) as stand:
        assert stand.front.url == f"https://127.0.0.1:{stand.port}"
        trusting = ssl.create_default_context(cafile=str(certificate.certificate))
        with closing(
            http.client.HTTPSConnection("127.0.0.1", stand.port, timeout=20, context=trusting)
        ) as one:
            one.request("POST", "/echo", '{"n": 7}', {"content-type": "application/json"})
            assert one.getresponse().read() == b"7"
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(stand.port, "/echo", {"n": 7})


def test_a_key_that_is_not_the_certificates_is_said_by_envoy_itself(tmp_path, certificate):
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key\n")
    front = Proxy(
        ProxySettings(
            service="Echo",
            folder=tmp_path / "front",
            tls=ProxyTls(certificate=certificate.certificate, key=wrong),
        )
    )
    with pytest.raises(HookeError, match="ended with exit code 1") as raised:
        front.start()
    assert "private key" in raised.value.why
    assert front.pid is None


def counts_of(stand, replicas, requests, **headers):
    """How many of so many requests each replica gets."""
    before = {place: one.requests for place, one in stand.front.stats().replicas.items()}
    for number in range(requests):
        assert ask(stand.port, "/echo", {"n": number}, headers=headers)[2] == b"%d" % number
    after = stand.front.stats().replicas
    return [
        after[one.place].requests - before.get(one.place, 0) if one.place in after else 0 for one in replicas
    ]


@pytest.mark.long
def test_versions_share_requests_by_weight_by_header_and_as_copies(tmp_path):
    with standing(tmp_path, replicas=3, idempotent=True) as stand:
        first, second, third = (one.upstream for one in stand.serving)
        old = [dataclasses.replace(one, version="a") for one in (first, second)]
        new = dataclasses.replace(third, version="b", new=True)
        every = [*old, new]
        stand.front.publish(every, share=0.1)
        assert counts_of(stand, every, 100)[2] in (9, 10, 11)
        version = "x-hooke-version"
        assert counts_of(stand, every, 20, **{version: "new"}) == [0, 0, 20]
        assert counts_of(stand, every, 20, **{version: "old"})[2] == 0
        stand.front.publish(old)
        assert counts_of(stand, every, 20, **{version: "new"})[2] == 0, "there is none, so others answer"
        stand.front.publish(old, mirrored=[new], mirror=0.5)
        assert counts_of(stand, old, 60)[0] > 0
        until(lambda: 15 < stand.front.mirrored()[new.place] < 45)
        stand.front.publish(every, share=0.5)
        stand.serving[2].end()
        assert counts_of(stand, old, 40)[0] > 0, "a retry goes to the other version"
