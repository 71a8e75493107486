"""Ids of requests and traces: taken, made, answered, logged, and given to the service's own code."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.answers import wait_until

from hooke import request_contexts, service
from hooke.serving.asgi import AsgiWire
from hooke.serving.http import Exchange, HttpOptions
from hooke.serving.limits import BodyMemory
from hooke.serving.request_context import RequestIds, context_of, request_id_of
from hooke.testing import client

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def told():
    return [[each.id, each.traceparent, each.tracestate] for each in request_contexts()]


@service(max_batch=8, timeout="5s")
class Told:
    """Answers with what it is told of who asks."""

    def setup(self):
        import threading

        self.hold = threading.Event()
        self.hold.set()

    def batch(self, rows: list[int]) -> list:
        self.hold.wait(5)
        return [told() for _ in rows]

    async def later(self, rows: list[int]) -> list:
        return [told() for _ in rows]

    def plain(self) -> list:
        return told()

    async def awaited(self) -> list:
        return told()

    def stream(self):
        yield told()
        yield told()

    async def drip(self):
        yield told()

    def raises(self, rows: list[int]) -> list:
        raise RuntimeError("no")

    async def throws(self):
        raise RuntimeError("no")


@pytest.fixture(scope="module")
def asked():
    with client(Told) as made:
        yield made


def ask(made, path, body=b"{}", **headers):
    sent = {
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return made.request("POST", path, body=body, headers=sent)


@pytest.mark.parametrize("path", ["/plain", "/awaited", "/stream", "/drip", "/batch", "/later"])
def test_every_kind_of_method_is_told(asked, path):
    body = b'{"rows": [1]}' if path in ("/batch", "/later") else b"{}"
    answer = ask(asked, path, body, x_request_id="mine-1", traceparent=PARENT, tracestate="a=1, b@c=2,")
    assert answer.headers["x-request-id"] == "mine-1"
    expected = [["mine-1", PARENT, "a=1,b@c=2"]]
    if path in ("/stream", "/drip"):
        said = [data for name, data in answer.events() if name == "message"]
        assert all(each == expected for each in said)
        assert said
    else:
        assert answer.json() in (expected, [expected])
    assert request_contexts() == ()


def test_a_batch_is_told_of_all_and_each_answer_bears_its_own(asked):
    asked.service.hold.clear()
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(ask, asked, "/batch", b'{"rows": [1]}', x_request_id="first")
        wait_until(lambda: asked.replica.dispatch.batcher.running is not None)
        others = [
            threads.submit(ask, asked, "/batch", b'{"rows": [1, 2]}', x_request_id=f"r{n}") for n in (1, 2)
        ]
        wait_until(lambda: asked.replica.dispatch.batcher.waiting_rows == 4)
        asked.service.hold.set()
        answers = [one.result() for one in others]
    assert first.result().json() == [[["first", None, None]]]
    assert [answer.headers["x-request-id"] for answer in answers] == ["r1", "r2"]
    assert all(sorted(told[0] for told in row) == ["r1", "r2"] for answer in answers for row in answer.json())


def test_ids_are_made_where_none_is_sane(asked):
    made = [ask(asked, "/plain", **({} if text is None else {"x_request_id": text})).headers["x-request-id"]
            for text in (None, "", "a b", "x" * 129, 'a"b', "a\nb", "\x00")]  # fmt: skip
    assert len(set(made)) == len(made)
    assert all(len(each) < 40 and each.isascii() for each in made)


@pytest.mark.parametrize(("path", "body"), [("/raises", b'{"rows": [1]}'), ("/throws", b"{}")])
def test_a_problem_and_the_log_name_the_request(asked, caplog, path, body):
    answer = ask(asked, path, body, x_request_id="mine-2")
    assert (answer.status, answer.json()["request_id"]) == (500, "mine-2")
    (record,) = caplog.records
    assert RequestIds().filter(record)
    if path == "/raises":
        assert record.request_id == "mine-2"
    refused = asked.request("GET", "/nope", headers={"x-request-id": "mine-3"})
    assert (refused.json()["request_id"], refused.headers["x-request-id"]) == ("mine-3", "mine-3")


def test_a_record_that_is_about_no_request():
    record = logging.LogRecord("x", logging.INFO, "", 1, "m", None, None)
    assert RequestIds().filter(record)
    assert record.request_id == "-"


@pytest.mark.parametrize(
    "parent",
    [
        "", "00", PARENT.upper(), PARENT[:-1], PARENT + "-", PARENT + "-00", PARENT + " ", "ff" + PARENT[2:],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)  # fmt: skip
def test_a_trace_that_is_none_is_not_passed_on(parent):
    found = context_of(b"x", {b"traceparent": parent.encode(), b"tracestate": b"a=1"})
    assert (found.traceparent, found.tracestate) == (None, None)


@pytest.mark.parametrize("state", ["a", "a=1,a=2", "A=1", "a=\x00", "a=b=c", "a=" + "x" * 600, "=1", "a=é"])
def test_a_state_that_is_none_is_dropped_and_the_trace_goes_on(state):
    found = context_of(b"x", {b"traceparent": PARENT.encode(), b"tracestate": state.encode("latin-1")})
    assert (found.traceparent, found.tracestate) == (PARENT, None)


def test_a_state_in_parts_is_put_together():
    raw = [(b"tracestate", b"a=1"), (b"traceparent", PARENT.encode()), (b"tracestate", b"b=2")]
    wire = AsgiWire({"path": "/", "method": "GET", "headers": raw}, None, None)
    exchange = Exchange(wire, HttpOptions(1, 1.0, BodyMemory(1)))
    assert exchange.context.tracestate == "a=1,b=2"


def test_later_versions_may_say_more():
    parent = "01" + PARENT[2:] + "-what-comes"
    assert context_of(b"x", {b"traceparent": parent.encode()}).traceparent == parent


@pytest.mark.needs("cpu")
@given(
    st.dictionaries(st.sampled_from([b"x-request-id", b"traceparent", b"tracestate"]), st.binary(max_size=80))
)
def test_any_bytes_are_borne(headers):
    found = context_of(request_id_of(headers), headers)
    for text in (found.id, found.traceparent or "", found.tracestate or ""):
        assert text.isascii() and text.isprintable()
