"""Bodies and bytes that nobody means well with: refused or closed, never a 5xx, a hang, or memory that grows."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.services import Kinds, Rows

from hooke.testing import client

ROOT = Path(__file__).resolve().parents[2]
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def kinds():
    with client(Kinds) as made:
        yield made


@pytest.fixture(scope="module")
def batched():
    with client(Rows) as made:
        yield made


class TestBodies:
    """In process: whatever a body holds, it is an answer or the caller's fault."""

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=12,
    )
    fields = st.dictionaries(
        st.sampled_from(["rows", "person", "place", "item", "a", "b", "c", "people", "mark"]), values
    )
    paths = st.sampled_from(
        ["/dataclass", "/struct", "/model", "/many", "/whole", "/floats", "/plain", "/count"]
    )
    rows = st.sampled_from(["/same", "/listed", "/optional", "/pair"])

    @pytest.mark.needs("cpu")
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        paths,
        st.binary(max_size=60) | fields.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    )
    def test_any_body(self, kinds, path, body):
        answer = kinds.request("POST", path, body=body, headers=JSON)
        assert answer.status in {200, 400, 422}, (path, body, answer.body)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rows,
        st.fixed_dictionaries({"rows": values}, optional={"weights": values, "mark": st.text(max_size=2)}),
    )
    def test_any_rows(self, batched, path, value):
        answer = batched.request("POST", path, body=json.dumps(value).encode(), headers=JSON)
        # `pair` gives back two things for its rows, whatever they are: that is its own fault.
        assert answer.status in {200, 400, 422} or path == "/pair", (path, value, answer.body)

    @pytest.mark.needs("cpu")
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b'{"a": NaN}', 400),
            (b'{"a": Infinity}', 400),
            (b'{"a": -Infinity}', 400),
            (b'{"a": 1e999}', 422),
            (b'{"a": 1' + b"0" * 5000 + b"}", 422),
            (b'{"a": 01}', 400),
            (b'{"a": 1,}', 400),
            (b'{"a": 1} x', 400),
            (b'{"a": 1}{"a": 2}', 400),
            (b"\xef\xbb\xbf{}", 400),
            (b'{"a": 1, "b": "\xff"}', 400),
            (b'{"a": 1, "b": "\\ud800"}', 400),
            (b'{"a": 1, "b": "\x00"}', 400),
            (b'{"a": 1, "c": ' + b'{"k":' * 100_000, 422),
            (b"[" * 100_000, 422),
            (b'{"a"' + b":" * 1000, 400),
            ("{'a': 1}".encode("utf-16"), 400),
            (b"\x1f\x8b\x08\x00", 400),
            (b"a=1&b=2", 400),
        ],
        ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else "",
    )
    def test_by_hand(self, kinds, body, status):
        answer = kinds.request("POST", "/plain", body=body, headers=JSON)
        assert answer.status == status, answer.body
        assert len(answer.body) < 1000, "what was sent is not sent back"

    def test_of_two_fields_of_one_name_the_last_counts(self, kinds):
        answer = kinds.request("POST", "/plain", body=b'{"a": 1, "a": 2}', headers=JSON)
        assert answer.json()[0] == 2

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b/c", "\x00"]
    )
    def test_other_types_which_a_page_may_send_without_asking(self, kinds, kind):
        assert kinds.request("POST", "/thread", body=b"{}", headers={"content-type": kind}).status == 415
        assert (
            kinds.request("POST", "/thread", body=b"{}", headers={**JSON, "content-encoding": "gzip"}).status
            == 415
        )


@contextmanager
def serving(name="Patient", connections=200, token=""):
    """A real server in a process of its own, which waits a second for a head, two for the rest; the process and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.patient", name, token, str(connections)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
    )  # fmt: skip
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.said = process.communicate()[1]


@pytest.fixture(scope="class", params=["Patient", "Wrapped"])
def name_served(request):
    """A service, and the same behind ASGI middleware."""
    return request.param


@pytest.fixture(scope="class")
def port(name_served):
    with serving(name_served) as (process, port):
        yield port
        rows = ask(port, post(b'{"rows": [7]}', b"connection: close\r\n", path=b"/rows"))
        assert rows.endswith(b"[7]"), "it answers as before"
        assert process.poll() is None
    assert "Traceback" not in process.said, process.said


def post(body=b'{"x": [1]}', *headers, path=b"/echo", length=True, version=b"1.1"):
    head = [
        b"POST " + path + b" HTTP/" + version + b"\r\nhost: localhost\r\ncontent-type: application/json\r\n",
        *headers,
    ]
    return b"".join(head) + (b"content-length: %d\r\n" % len(body) if length else b"") + b"\r\n" + body


CLOSE = b"connection: close\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b'a\r\n{"x": [1]}\r\n0\r\n\r\n'


def ask(port, data, limit_s=10, *, end=False):
    """All that comes until the connection is closed; a hang is a failure."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as one:
        said = b""
        try:
            one.sendall(data)
            if end:
                with suppress(OSError):  # it was refused and closed before
                    one.shutdown(socket.SHUT_WR)
            while more := one.recv(65536):
                said += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        return said


def statuses(said):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", said)]


REFUSED = {
    "both lengths": post(CHUNKS, CHUNKED),
    "both lengths, the other way": post(CHUNKS, b"content-length: 19\r\n", CHUNKED, length=False),
    "two lengths": post(b'{"x": [1]}', b"content-length: 10\r\n"),
    "two other lengths": post(b'{"x": [1]}', b"content-length: 11\r\n"),
    "a list of lengths": post(b'{"x": [1]}', b"content-length: 10, 10\r\n", length=False),
    "a length with a sign": post(b'{"x": [1]}', b"content-length: +10\r\n", length=False),
    "a length below zero": post(b'{"x": [1]}', b"content-length: -10\r\n", length=False),
    "a length in hexadecimal": post(b'{"x": [1]}', b"content-length: 0xa\r\n", length=False),
    "a length beyond all": post(b'{"x": [1]}', b"content-length: 99999999999999999999\r\n", length=False),
    "a blank before the colon": post(b'{"x": [1]}', b"content-length : 10\r\n", length=False),
    "no encoding": post(CHUNKS, b"transfer-encoding: identity\r\n", length=False),
    "an unknown encoding": post(CHUNKS, b"transfer-encoding: xchunked\r\n", length=False),
    "an encoding below": post(CHUNKS, b"transfer-encoding: gzip, chunked\r\n", length=False),
    "chunked is not the last": post(CHUNKS, b"transfer-encoding: chunked, identity\r\n", length=False),
    "two encodings": post(CHUNKS, CHUNKED, b"transfer-encoding: identity\r\n", length=False),
    "a vertical tab": post(CHUNKS, b"transfer-encoding:\x0bchunked\r\n", length=False),
    "a folded header": post(CHUNKS, b"transfer-encoding:\r\n chunked\r\n", length=False),
    "a chunk of no size": post(b"zz\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
    "a chunk below zero": post(b"-1\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
    "a chunk beyond all": post(b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
    "a chunk that goes on": post(b"2\r\n{}xx0\r\n\r\n", CHUNKED, length=False),
    "chunks with bare line feeds": post(b"2\n{}\n0\n\n", CHUNKED, length=False),
    "bare line feeds": b"POST /echo HTTP/1.1\nhost: localhost\ncontent-length: 2\n\n{}",
    "bare carriage returns": b"POST /echo HTTP/1.1\rhost: localhost\r\r",
    "a zero in a header": post(b"{}", b"x: a\x00b\r\n"),
    "a zero in a name": post(b"{}", b"x\x00: a\r\n"),
    "a zero in the path": post(path=b"/e\x00cho"),
    "a zero in the path, encoded": post(b"{}", CLOSE, path=b"/e%00cho"),
    "a path that is no ASCII": post(path="/é".encode()),
    "a path that is no UTF-8": post(b"{}", CLOSE, path=b"/%ff%fe%zz"),
    "dots": post(b"{}", CLOSE, path=b"/../../etc/passwd"),
    "dots, encoded": post(b"{}", CLOSE, path=b"/%2e%2e/%2e%2e/etc/passwd"),
    "an address": post(path=b"http://evil.example/echo"),
    "a star": b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "no host": b"GET /-/health HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "two hosts": post(b"{}", b"host: localhost\r\n", CLOSE),
    "HTTP 0.9": b"GET /-/health\r\n\r\n",
    "HTTP 1.0": post(version=b"1.0"),
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP 3": b"GET /-/health HTTP/3.0\r\nhost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,
    "a long header": post(b"{}", b"x: " + b"a" * 100_000 + b"\r\n"),
    "a long path": post(path=b"/" + b"a" * 50_000),
    "a long verb": b"A" * 1000 + b" / HTTP/1.1\r\n\r\n",
    "many headers": post(b"{}", *[b"x-%d: a\r\n" % n for n in range(1000)], CLOSE),
    "nothing but lines": b"\r\n" * 30_000,
    "a body that is too large": post(b"x" * (2 << 20)),
    "a body that is said to be too large": post(b"{}", b"content-length: 99999999\r\n", length=False),
    "chunks that are too much": post(b"8000\r\n" + b"x" * 0x8000 + b"\r\n", CHUNKED, length=False) + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 40,
}  # fmt: skip
ANSWERED = {
    "chunks": post(CHUNKS, CHUNKED, CLOSE, length=False),
    "chunks with extensions": post(b'a;x="y"\r\n{"x": [1]}\r\n0;z\r\n\r\n', CHUNKED, CLOSE, length=False),
    "a trailer is no header": post(CHUNKS[:-2] + b"host: evil.example\r\n\r\n", CHUNKED, CLOSE, length=False),
    "garbage after a request": post() + b"\x00\x01garbage\r\n\r\n",
    "garbage after the last": post(b'{"x": [1]}', CLOSE) + b"garbage",
    "a wish for HTTP 2": post(b'{"x": [1]}', b"connection: upgrade, http2-settings, close\r\nhttp2-settings: AAEA\r\nupgrade: h2c\r\n"),
    "spaces after values": post(b'{"x": [1]}', b"content-length: 10 \t\r\n", b"x: y  \r\n", CLOSE, length=False),
    "expected": post(b'{"x": [1]}', b"expect: 100-continue\r\n", CLOSE),
}  # fmt: skip


@pytest.mark.needs("processes")
@pytest.mark.timeout(240)
class TestBytes:
    """Over a socket."""

    @pytest.mark.parametrize("name", REFUSED)
    def test_refused_once_and_closed(self, port, name):
        said = ask(port, REFUSED[name])
        assert len(statuses(said)) <= 1, "one request has one answer"
        if name not in {"a body that is too large", "chunks that are too much"}:
            # These may be cut while they are still being sent, and then the refusal may be lost.
            assert statuses(said), said
        assert all(400 <= status < 500 for status in statuses(said)), said
        assert all(b"application/problem+json" in part for part in said.split(b"HTTP/1.1 ")[1:])

    @pytest.mark.parametrize("name", ANSWERED)
    def test_answered_once(self, port, name):
        said = ask(port, ANSWERED[name])
        assert [status for status in statuses(said) if status != 100] == [200], said
        assert said.endswith(b"[1.0]")

    def test_pipelined_requests_are_answered_in_their_order(self, port):
        many = b"".join(post(b'{"x": [%d]}' % n) for n in range(50))
        said = ask(port, many + post(b'{"x": [50]}', CLOSE) + post(b'{"x": [51]}'))
        assert re.findall(rb"\[(\d+)\.0\]", said) == [b"%d" % n for n in range(51)]
        assert statuses(said) == [200] * 51

    def test_a_body_that_was_refused_is_not_the_next_request(self, port):
        inner = post(b'{"x": [666]}')
        said = ask(port, post(inner, path=b"/nope") + post(b'{"x": [1]}', CLOSE))
        assert statuses(said) == [404, 200]
        assert b"666" not in said

    def test_what_looks_like_a_head_in_a_refused_body_is_left_in_it(self, port):
        """It comes after the answer; were a byte of it taken out, one of the next request would be taken for it."""
        inner = b"x\r\nupgrade: " + b"y" * 50 + b"\r\n\r\n" + b"z" * 40_000
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            one.sendall(post(b"", b"content-length: %d\r\n" % len(inner), path=b"/nope", length=False))
            assert statuses(one.recv(10_000)) == [404]
            one.sendall(inner)
            one.sendall(post(b'{"x": [1]}', CLOSE))
            said = b"".join(iter(lambda: one.recv(10_000), b""))
        assert statuses(said) == [200]
        assert said.endswith(b"[1.0]")

    def test_nor_is_a_body_whose_head_came_in_two_parts_taken_for_it(self, port):
        inner = b"u\r\nupgrade: h2c\r\n\r\n"
        whole = post(inner, path=b"/nope")
        asked = post(b'{"x": [1]}', CLOSE)
        for back in range(6):
            cut = len(whole) - len(inner) - back
            with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.sendall(whole[:cut])
                time.sleep(0.02)  # so that it is read by itself; together they would test nothing
                one.sendall(whole[cut:] + asked)
                said = b"".join(iter(lambda one=one: one.recv(10_000), b""))
            assert statuses(said) == [404, 200], (back, said)

    def test_who_was_not_told_to_go_on_and_is_refused_has_its_connection_closed(self, port):
        said = ask(
            port, post(b"", b"content-length: 30\r\nexpect: 100-continue\r\n", path=b"/nope", length=False)
        )
        assert statuses(said) == [404]
        assert CLOSE in said

    def test_who_asks_twice_and_goes_is_missed(self, name_served):
        """Of two requests on one connection it is the older one that is being answered."""
        with serving(name_served) as (process, port):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
                one.sendall(post(b"{}", path=b"/endless") + post(b"{}", path=b"/endless"))
                assert statuses(one.recv(1000)) == [200]
            asked = b"GET /-/metrics HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n"
            wait_until(lambda: b"hooke_requests_in_flight 1.0" in ask(port, asked))
        assert "Traceback" not in process.said, process.said

    def test_a_head_behind_a_request_that_is_being_answered_has_an_end(self, name_served):
        with (
            serving(name_served) as (process, port),
            socket.create_connection(("127.0.0.1", port), timeout=10) as one,
        ):
            one.sendall(post(b"{}", path=b"/endless") + b"GET / HTTP/1.1\r\n")
            watched = psutil.Process(process.pid)
            before = watched.memory_info().rss
            with ThreadPoolExecutor(1) as threads:
                line = b"x: " + b"y" * 60_000 + b"\r\n"
                sending = threads.submit(lambda: [one.sendall(line) for _ in range(800)])
                while not sending.done():
                    assert one.recv(1 << 20), "the stream goes on"
                sending.result()
            assert watched.memory_info().rss - before < 16 << 20, "48 MB were sent"
            said = ask(port, b"GET /-/metrics HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n")
            assert b'refused_total{reason="long head"} 1.0' in said

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_change_of_any_request(self, port, data):
        request = bytearray(data.draw(st.sampled_from([*ANSWERED.values(), REFUSED["both lengths"]])))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(request) - 1))
            request[at : at + data.draw(st.integers(0, 3))] = data.draw(
                st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b"\x00"])
            )
        said = ask(port, bytes(request), end=True)
        assert all(status < 500 for status in statuses(said)), said

    @pytest.mark.long
    def test_who_dawdles_is_cut(self, port):
        """A head, a body and an answer that take for ever, all at once; others are answered meanwhile."""

        def drip(begin, more, until_s=8):
            with socket.create_connection(("127.0.0.1", port), timeout=until_s) as one:
                one.sendall(begin)
                one.settimeout(0.1)
                began = time.monotonic()
                while time.monotonic() - began < until_s:
                    try:
                        said = one.recv(1000)
                        return said[:12]
                    except TimeoutError:
                        one.sendall(more)
                    except OSError:
                        return b"reset"
                return b"never"

        def stall():
            with socket.socket() as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.connect(("127.0.0.1", port))
                one.sendall(post(b'{"n": 30000000}', path=b"/large"))
                time.sleep(6)
                one.settimeout(10)
                got = 0
                try:
                    while more := one.recv(1 << 20):
                        got += len(more)
                except OSError:
                    pass
                return got

        with ThreadPoolExecutor(9) as threads:
            heads = [
                threads.submit(drip, begin, b"a")
                for begin in (b"GET /", b"GET / HTTP/1.1\r\nx: ", b"POST /echo HTTP/1.1\r\nhost: l")
            ]
            bodies = [threads.submit(drip, post(b"{", b"content-length: 9999\r\n", length=False), b" "),
                      threads.submit(drip, post(b"", CHUNKED, length=False), b"1\r\n \r\n")]  # fmt: skip
            stalled = threads.submit(stall)
            silent = threads.submit(ask, port, b"")
            nothing = threads.submit(ask, port, post(b"", b"content-length: 9999\r\n", length=False))
            assert ask(port, post(b'{"x": [1]}', CLOSE)).endswith(b"[1.0]")
            assert [one.result() for one in heads + bodies] == [b"HTTP/1.1 408"] * 5
            assert silent.result() == b"", "who says nothing is told nothing"
            assert statuses(nothing.result()) == [408]
            assert stalled.result() < 30_000_000

    @pytest.mark.long
    def test_a_stream_that_nobody_reads_ends(self, name_served):
        with (
            serving(name_served) as (process, port),
            socket.create_connection(("127.0.0.1", port), timeout=10) as one,
        ):
            one.sendall(post(b"{}", path=b"/endless"))
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
            watched = psutil.Process(process.pid)
            assert [c for c in watched.net_connections() if c.status == "ESTABLISHED"]
            wait_until(lambda: not [c for c in watched.net_connections() if c.status == "ESTABLISHED"])
            assert watched.memory_info().rss < 400 << 20

    def test_too_many_connections_are_told_so(self, name_served):
        with serving(name_served, connections=5) as (_, port):
            held = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(5)]
            for one in held:
                one.sendall(b"GET /-/health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert one.recv(1000).startswith(b"HTTP/1.1 200")
            said = ask(port, b"")
            assert (statuses(said), b"retry-after: 1" in said) == ([503], True)
            for one in held:
                one.close()
            wait_until(lambda: ask(port, post(b'{"x": [1]}', CLOSE)).endswith(b"[1.0]"))

    @pytest.mark.long
    def test_memory_does_not_grow(self, name_served):
        """Five thousand times what is refused, on connections that are opened and left."""
        with serving(name_served) as (process, port):
            watched = psutil.Process(process.pid)
            corpus = [data for name, data in REFUSED.items() if len(data) < 200_000]
            seen = []
            for _ in range(4):
                with ThreadPoolExecutor(4) as threads:
                    list(
                        threads.map(lambda n: ask(port, corpus[n % len(corpus)], end=n % 3 == 0), range(1250))
                    )
                seen.append(watched.memory_info().rss)
            assert seen[-1] - seen[0] < 4 << 20, seen
            wait_until(lambda: not [c for c in watched.net_connections() if c.status == "ESTABLISHED"])
            said = ask(port, b"GET /-/metrics HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n")
            assert int(re.search(rb'refused_total\{reason="bad http"\} (\d+)', said)[1]) > 2000


def idle(port, count, said=b""):
    """So many connections that say this and then nothing."""
    made = []
    for _ in range(count):
        made.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        made[-1].sendall(said)
        if said.endswith(b"\r\n\r\n"):
            assert made[-1].recv(65536)
    return made


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"POST /echo HTT",
        b"GET /-/health HTTP/1.1\r\nhost: localhost\r\n\r\n",
        post(b"", CHUNKED, length=False)[:-2],
    ],
)
def test_idle_connections_without_a_token_lock_nobody_out(tmp_path, name_served, said):
    """Whoever has none could hold all connections for as long as they may be idle."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    shown = b"authorization: Bearer 0123456789abcdef \r\n"
    with serving(name_served, connections=20, token=str(token)) as (_, port):
        known = socket.create_connection(("127.0.0.1", port), timeout=10)
        known.sendall(post(b'{"x": [1]}', shown))
        assert b"200 OK" in known.recv(65536)
        others = idle(port, 40, said)
        assert ask(port, post(b'{"x": [1]}', shown, CLOSE)).endswith(b"[1.0]"), "a new one is answered"
        known.sendall(post(b'{"x": [2]}', shown))
        assert known.recv(65536).endswith(b"[2.0]"), "one that has shown the token is kept"
        for one in (known, *others):
            one.close()


@pytest.mark.needs("processes")
def test_a_token_is_looked_at_in_each_request_of_a_connection(tmp_path, name_served):
    """A head that was sent before is not parsed again; one that differs in a single byte is."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    good, bad = (
        post(b'{"x": [1]}', b"authorization: Bearer %b\r\n" % one)
        for one in (b"0123456789abcdef", b"0123456789abcdeX")
    )
    assert len(good) == len(bad)
    with (
        serving(name_served, token=str(token)) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=10) as one,
    ):
        for asked in (bad, good, good, bad, good, good, bad, bad):
            one.sendall(asked)
            assert statuses(one.recv(65536)) == [200 if asked is good else 401]


@pytest.mark.needs("processes")
def test_garbage_collection_leaves_out_what_was_there_when_it_was_ready():
    with serving() as (_, port):
        said = ask(port, post(b"{}", CLOSE, path=b"/frozen"))
    assert int(said.rpartition(b"\r\n")[2]) > 10_000


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path):
    """Requests made of the OpenAPI document, right and wrong ones: no 5xx, no hang, and each answer conforms to it.

    That what fits the document is accepted is not asked: no schema says that rows are of one length.
    """
    (tmp_path / "token").write_text("0123456789abcdef")
    (tmp_path / "token").chmod(0o600)
    with serving("Various", token=str(tmp_path / "token")) as (process, port):
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/-/openapi.json",
             "-H", "Authorization: Bearer 0123456789abcdef", "--checks", "all", "--exclude-checks", "positive_data_acceptance",
             "--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--continue-on-failure", "--request-timeout", "10",
             "--no-color"],
            cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        generated = re.search(r"(\d+) generated, \d+ passed", done.stdout)
        assert int(generated[1]) > 300
        assert process.poll() is None
    assert "Traceback" not in process.said, process.said


def wait_until(true, limit_s=20):
    ends = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.05)
