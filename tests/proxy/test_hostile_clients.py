"""What hostile clients send through the front: requests in requests, slowly, too much, or with headers that are not theirs to set."""

import contextlib
import json
import re
import socket
import time

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy import smuggling
from tests.proxy.recorder import Recorder
from tests.proxy.stand import ask, standing, until

from hooke.proxy.envoy import Proxy
from hooke.proxy.proxy_settings import ProxySettings, Upstream

pytestmark = pytest.mark.needs("processes")


class Wire:
    """A front before a replica that records what it takes for requests."""

    def __init__(self, folder, **given):
        self.recorder = Recorder()
        self.front = Proxy(ProxySettings(**{"service": "Wire", "folder": folder, "idempotent": True} | given))
        self.front.start([Upstream(port=self.recorder.port)])
        self.port = self.front.settings.port

    def connect(self, timeout=10.0):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def close(self):
        self.front.stop()
        self.recorder.close()


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    made = Wire(tmp_path_factory.mktemp("wire"))
    yield made
    made.close()


def statuses(port, raw, *, enough, within_s=60.0):
    """Those of the answers until the front ends the connection, or they are enough."""
    got, found, ends = b"", [], time.monotonic() + within_s
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=0.2)) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(raw)
        # Not before they are there: to the front a caller who sends no more is one who went.
        while not enough(found):
            assert time.monotonic() < ends, found
            try:
                more = one.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if not more:
                break
            got += more
            found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", got) if status != b"100"]
    return found


def clean(wire, path):
    """Whether another caller gets the answer to what he asked, and not to somebody else's."""
    return ask(wire.port, path, verb="GET")[2] == path.encode()


@pytest.mark.parametrize("name", smuggling.REFUSED)
def test_what_may_be_read_in_two_ways_is_refused(wire, name):
    wire.recorder.forget()
    (status,) = statuses(wire.port, smuggling.REFUSED[name], enough=len)
    assert 400 <= status < 500
    assert wire.recorder.requests == []
    assert clean(wire, "/third")
    assert wire.recorder.errors == []


@pytest.mark.parametrize("name", smuggling.TAKEN)
def test_the_replica_sees_the_requests_that_the_front_saw(wire, name):
    wire.recorder.forget()
    raw, wanted = smuggling.TAKEN[name]
    assert statuses(wire.port, raw, enough=lambda found: len(found) == len(wanted)) == [200] * len(wanted)
    assert [(one.verb, one.path, one.body) for one in wire.recorder.requests] == wanted
    assert clean(wire, "/third")
    assert wire.recorder.errors == []


pieces = st.sampled_from(
    [
        b"content-length", b"transfer-encoding", b"chunked", b": ", b":", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"0", b"5",
        b"2a", b"0\r\n\r\n", b",", b";", b"identity", b"\x00", b"\x0b", b"\xa0", b"_", smuggling.SECOND, b"connection: close\r\n",
        b"content-length: 41\r\n", b"transfer-encoding: chunked\r\n", b"content-length: 0\r\n", b"x: y", b"Transfer-Encoding: x",
    ]
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, max_size=12).map(b"".join))
def test_whatever_follows_the_first_line_front_and_replica_count_alike(wire, rest):
    wire.recorder.forget()
    began = time.monotonic()

    def enough(found):
        # What has no end gets no answer: then front and replica agree that there is none.
        is_quiet = time.monotonic() - began > 0.15
        return is_quiet and (found[-1:] >= [400] or found.count(200) == len(wire.recorder.requests))

    answered = statuses(wire.port, smuggling.HEAD + rest, enough=enough)
    assert all(200 <= status < 500 for status in answered)
    assert answered.count(200) == len(wire.recorder.requests)
    assert wire.recorder.errors == []
    assert clean(wire, "/third")


def test_headers_that_are_the_fronts_to_set_do_not_come_through(wire):
    wire.recorder.forget()
    sent = {
        "x-forwarded-for": "10.0.0.1", "x-forwarded-proto": "https", "x-forwarded-host": "evil", "forwarded": "for=10.0.0.1",
        "x-real-ip": "10.0.0.1", "x-envoy-internal": "true", "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx",
        "x-envoy-original-path": "/other", "x-envoy-decorator-operation": "x", "x-envoy-external-address": "10.0.0.1",
        "x-envoy-attempt-count": "7", "authorization": "Bearer abc", "x-request-id": "mine", "tracestate": "a=b",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }  # fmt: skip
    _, answered, _ = ask(wire.port, "/asked", verb="GET", headers=sent.items())
    seen = dict(wire.recorder.requests[0].headers)
    kept = {"authorization", "x-request-id", "traceparent", "tracestate"}
    assert {name: seen.get(name) for name in kept} == {name: sent[name] for name in kept}
    assert set(seen) == kept | {"host", "accept-encoding", "content-type", "x-envoy-attempt-count"}
    assert seen["x-envoy-attempt-count"] == "1"
    assert answered["x-request-id"] == "mine"


def test_a_request_without_an_id_gets_one(wire):
    wire.recorder.forget()
    _, answered, _ = ask(wire.port, "/asked", verb="GET")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answered["x-request-id"])
    assert dict(wire.recorder.requests[0].headers)["x-request-id"] == answered["x-request-id"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"a": "x" * 40_000}, 431),
        ({f"a{at}": "x" for at in range(200)}, 431),
        ({"content-length": str(17 << 20)}, 413),
        ({"content-length": "99999999999999"}, 413),
    ],
    ids=["long", "many", "body", "huge body"],
)
def test_more_than_is_allowed_is_refused_by_its_headers(wire, headers, status):
    wire.recorder.forget()
    got, answered, body = ask(wire.port, "/asked", verb="POST", headers=headers.items())
    assert (got, answered["content-type"]) == (status, "application/problem+json")
    assert json.loads(body)["status"] == status
    assert wire.recorder.requests == []


def test_a_body_that_is_longer_than_was_said_is_cut_off_at_the_limit(wire):
    wire.recorder.forget()
    with contextlib.closing(wire.connect()) as one:
        one.sendall(smuggling.HEAD + smuggling.CHUNKED + b"\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                one.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert wire.recorder.requests == []


def test_a_refused_body_of_some_size_leaves_the_refusal_readable(tmp_path):
    """A replica that refuses by the headers must not reset the connection on which the body comes."""
    with standing(tmp_path, replicas=1, idempotent=True) as stand:
        for _ in range(10):
            # Whoever goes on sending may be cut off before he reads it; so the front is asked what it said.
            with contextlib.suppress(ConnectionError):
                ask(stand.port, "/nothing", b"x" * (5 << 20))
        until(lambda: stand.front.stats().active == 0)
        assert stand.front.stats().answers == {"2xx": 0, "3xx": 0, "4xx": 10, "5xx": 0}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    made = Wire(
        tmp_path_factory.mktemp("strict"),
        headers_timeout_s=0.5,
        timeout_s=0.5,
        idle_timeout_s=0.5,
        most_connections=40,
    )
    yield made
    made.close()


def dripping(wire, head, count=20):
    """So many clients that send a byte now and then; how long the front bore with them, and what it told them."""
    clients = [wire.connect() for _ in range(count)]
    began, ended, told = time.monotonic(), {}, b""
    for one in clients:
        one.sendall(head)
        one.setblocking(False)
    while len(ended) < count:
        assert time.monotonic() - began < 60
        time.sleep(0.05)
        assert clean(wire, "/meanwhile")
        for one in set(clients) - set(ended):
            try:
                one.send(b"a")
                got = one.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionError:
                got = b""
            told = told or got
            ended[one] = time.monotonic() - began
    for one in clients:
        one.close()
    return told


def test_who_sends_headers_slowly_is_cut_off(strict):
    strict.recorder.forget()
    assert dripping(strict, smuggling.HEAD + b"a: ").startswith(b"HTTP/1.1 408 ")
    assert {one.path for one in strict.recorder.requests} == {"/meanwhile"}


def test_who_sends_a_body_slowly_is_cut_off(strict):
    strict.recorder.forget()
    assert dripping(strict, smuggling.HEAD + b"content-length: 100000\r\n\r\n").startswith(b"HTTP/1.1 408 ")
    assert {one.path for one in strict.recorder.requests} == {"/meanwhile"}


def test_who_says_nothing_is_cut_off(strict):
    with contextlib.closing(strict.connect(timeout=30)) as one:
        assert one.recv(100) == b""


def test_more_connections_than_are_allowed_are_closed_at_once_and_the_others_go_on(strict):
    clients = [strict.connect() for _ in range(120)]
    try:
        until(lambda: strict.front.stats().connections <= 40)
    finally:
        for one in clients:
            one.close()
    until(lambda: strict.front.stats().connections == 0)
    assert clean(strict, "/after")


def test_more_requests_a_second_than_are_allowed_are_told_when_to_come_back(tmp_path):
    wire = Wire(tmp_path, rate_limit=5)
    try:
        answers = [ask(wire.port, "/asked", verb="GET") for _ in range(12)]
    finally:
        wire.close()
    refused = [(status, headers, body) for status, headers, body in answers if status != 200]
    assert refused and {status for status, _, _ in refused} == {429}
    assert refused[0][1]["retry-after"] == "1"
    assert json.loads(refused[0][2])["detail"] == "more than 5 requests a second"


@pytest.mark.long
def test_bodies_that_never_end_do_not_fill_the_memory(tmp_path):
    wire = Wire(tmp_path, memory_limit=64 << 20, timeout_s=1.0, headers_timeout_s=30.0)
    watched = psutil.Process(wire.front.pid)
    clients = [wire.connect() for _ in range(40)]
    try:
        for one in clients:
            one.sendall(smuggling.HEAD + b"content-length: %d\r\n\r\n" % (15 << 20))
            one.setblocking(False)
        for _ in range(40):
            for one in clients:
                with contextlib.suppress(OSError):
                    one.send(b"x" * (1 << 18))
        # 40 bodies of 10 MB; Envoy's own program takes some 70.
        assert watched.memory_info().rss < 300 << 20
        for one in clients:
            one.close()
        until(lambda: ask(wire.port, "/after", verb="GET")[0] == 200)
    finally:
        for one in clients:
            one.close()
        wire.close()
