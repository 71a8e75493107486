"""A model in a process answers as one in a thread does: the same tests, of services that differ in that alone."""

import asyncio

import msgspec
import numpy as np
import pytest
from tests.serving.model_process.apart import EndlessApart, KindsApart, RowsApart, SlowApart, ToldApart
from tests.serving.services import Rows as RowsNear
from tests.serving.test_replica import TestKinds as Kinds
from tests.serving.test_replica import TestProtocol as Protocol
from tests.serving.test_replica_life import TestLife as Life
from tests.serving.test_replica_rows import TestRows as Rows
from tests.serving.test_request_context import ask

from hooke.serving.replica import READY, Replica
from hooke.serving.service import service_of
from hooke.testing import client

pytestmark = pytest.mark.needs("processes")


@pytest.fixture(scope="module")
def rows():
    with client(RowsApart, scale=3.0) as made:
        yield made


@pytest.fixture(scope="module")
def kinds():
    with client(KindsApart) as made:
        yield made


class TestRowsApart(Rows):
    """Without those that ask for `async def`, or hold the object's own lock."""

    test_many_are_one_batch_and_only_the_guilty_one_is_told = None
    test_async_batches_and_a_fault_that_is_the_callers = None
    test_code_that_is_cancelled_is_a_failed_request_and_not_the_end = None
    test_nobody_is_asked_with_the_secret_of_another = None
    test_values_that_a_method_can_tell_apart_are_of_two_groups = None


class TestKindsApart(Kinds):
    """Types by annotation."""

    test_what_raises_where_nothing_should_is_a_failed_request_too = None
    test_streams = None


class TestProtocolApart(Protocol):
    """Status codes."""

    test_the_deadline = None
    test_more_than_may_wait = None


def test_only_the_guilty_one_is_told(rows, caplog):
    async def together():
        replica = Replica(service_of(RowsApart))
        await replica.start(dict)
        try:
            bodies = [msgspec.json.encode({"rows": [[n]]}) for n in (1, 2, -1, 3)]
            asked = [asyncio.create_task(Life().ask(replica, "/predict", body)) for body in bodies]
            return [await one for one in asked], replica.tally.batches
        finally:
            replica.close()

    answers, batches = asyncio.run(together())
    assert [sent[0]["status"] for sent in answers] == [200, 200, 500, 200]
    assert batches > 2, "they were one batch, and then its halves"
    assert "secret" not in answers[2][1]["body"].decode()
    assert "ValueError: secret" in caplog.text
    assert "in predict" in caplog.text


def test_streams(kinds):
    assert kinds.post("/count", {"n": 2}).events() == [
        ("message", {"i": 0}),
        ("message", {"i": 1}),
        ("end", None),
    ]
    *_, (name, said) = kinds.post("/count", {"n": 5}).events()
    assert (name, said["status"], said["detail"]) == ("error", 422, "three is too many")
    assert kinds.post("/count", {"n": 0}).events() == [("end", None)]


def test_a_stream_ends_when_its_caller_goes():
    async def life():
        replica = Replica(service_of(EndlessApart))
        await replica.start(dict)
        gone = asyncio.Event()
        asking = asyncio.create_task(Life().ask(replica, "/plain", gone=gone))
        await asyncio.sleep(0.1)
        gone.set()
        sent = await asyncio.wait_for(asking, 5)
        assert len(sent) > 1
        assert (await Life().ask(replica, READY))[0]["status"] == 200
        replica.close()

    asyncio.run(life())


def test_the_deadline_and_who_goes():
    with client(SlowApart) as slow:
        answer = slow.post("/sleep", {"s": 0.4})
        assert (answer.status, "within 0.1 s" in answer.json()["detail"]) == (504, True)
        for _ in range(100):
            if slow.post("/sleep", {"s": 0}).status == 200:
                return
        raise AssertionError("it does not go on after that")


@pytest.mark.long
@pytest.mark.parametrize("path", ["/plain", "/stream", "/batch"])
def test_every_kind_of_method_is_told_who_asks(path):
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with client(ToldApart) as made:
        body = b'{"rows": [1]}' if path == "/batch" else b"{}"
        answer = ask(made, path, body, x_request_id="mine-1", traceparent=parent, tracestate="a=1, b@c=2,")
        expected = [["mine-1", parent, "a=1,b@c=2"]]
        if path == "/stream":
            assert [data for name, data in answer.events() if name == "message"] == [expected, expected]
        else:
            assert answer.json() in (expected, [expected])


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"outputs": [{"name": "predict", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "none"}]},
    ],
)
def test_tensors_are_written_the_same(rows, wanted):
    tensor = {"name": "rows", "shape": [2, 2], "datatype": "FP64", "data": [1.0, 2.0, 3.0, 4.0]}
    body = msgspec.json.encode({"id": "x", "inputs": [tensor], **wanted})
    headers = {"content-type": "application/json"}
    apart = rows.request("POST", "/v2/models/RowsApart.predict/infer", body=body, headers=headers)
    with client(RowsNear, scale=3.0) as near:
        same = near.request("POST", "/v2/models/Rows.predict/infer", body=body, headers=headers)
    assert apart.status == same.status
    if apart.status == 200:
        assert apart.body == same.body.replace(b"Rows.predict", b"RowsApart.predict")


def test_arrays_of_megabytes_come_back_exactly(rows):
    value = np.random.default_rng(0).normal(size=(20_000, 8))
    assert rows.post("/same", {"rows": value.tolist()}).json() == value.tolist()
