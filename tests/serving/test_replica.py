"""The protocol: what is answered, to whom, and how what is wrong is said."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.services import Endless, Kinds, Rows, Slow

from hooke import HookeError, UsageError, service
from hooke.serving.payloads import methods_of
from hooke.serving.replica import HEALTH, READY, Replica
from hooke.serving.rows import group_of
from hooke.serving.service import service_of
from hooke.testing import client


@pytest.fixture(scope="module")
def rows():
    with client(Rows, scale=3.0) as made:
        yield made


@pytest.fixture(scope="module")
def kinds():
    with client(Kinds) as made:
        yield made


class Deep(msgspec.Struct):
    """Refers to itself, and has a part that no JSON can be read as."""

    below: "Deep | None"
    thread: threading.Thread


class Odder(msgspec.Struct):
    """Its own code raises what no type of a field does."""

    n: int

    def __post_init__(self):
        raise KeyError(self.n)


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status
    return said


class TestRows:
    """Batches: each caller gets its own rows, exactly."""

    integers = st.integers(-(2**53), 2**53)
    numbers = integers | st.floats(allow_nan=False, allow_infinity=False)
    flat = st.one_of(
        st.lists(st.lists(kind, min_size=2, max_size=2), min_size=1, max_size=12)
        for kind in (integers, numbers)
    )
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
    texts = st.lists(text, min_size=1, max_size=3)
    ragged = st.lists(
        st.lists(text | st.none() | st.booleans() | numbers, max_size=4), min_size=1, max_size=3
    )

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(arrays=st.lists(flat | texts, min_size=1, max_size=8), lists=st.lists(ragged, max_size=8))
    def test_exactly(self, rows, arrays, lists):
        """Arrays of whole numbers, fractions and text, lists of anything, requests larger than a batch: all at once."""
        asked = [("/same", {"rows": value}, np.array(value).tolist()) for value in arrays]
        asked += [
            ("/listed", {"rows": value, "mark": str(at % 2)}, [[row, str(at % 2)] for row in value])
            for at, value in enumerate(lists)
        ]
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda one: rows.post(one[0], one[1]), asked))
        for (_, _, expected), answer in zip(asked, answers, strict=True):
            assert answer.status == 200, answer.body
            assert repr(answer.json()) == repr(expected), "1 and 1.0 are not the same"

    def test_many_are_one_batch_and_only_the_guilty_one_is_told(self):
        with client(Rows) as made:
            model = made.service
            model.hold.clear()
            with ThreadPoolExecutor(9) as threads:
                first = threads.submit(made.post, "/predict", {"rows": [[1]]})
                wait_until(lambda: made.replica.dispatch.batcher.running is not None)
                others = [threads.submit(made.post, "/predict", {"rows": [[n]]}) for n in (1, 2, -1, 3, 4)]
                wait_until(lambda: made.replica.dispatch.batcher.waiting_rows == 5)
                model.hold.set()
                answers = [one.result() for one in others]
            assert first.result().json() == [2.0]
            assert [answer.status for answer in answers] == [200, 200, 500, 200, 200]
            assert [answer.json() for answer in answers if answer.status == 200] == [
                [2.0],
                [4.0],
                [6.0],
                [8.0],
            ]
            assert model.calls[:2] == [1, 5]
            assert "secret" not in answers[2].body.decode()

    def test_async_batches_and_a_fault_that_is_the_callers(self, rows):
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda n: rows.post("/later", {"rows": [n, n]}), [1, 13, 2]))
        assert [answer.status for answer in answers] == [200, 422, 200]
        assert [answers[0].json(), answers[2].json()] == [[1, 1], [2, 2]]
        assert problem(answers[1])["detail"] == "13 is not served; take another"

    def test_code_that_is_cancelled_is_a_failed_request_and_not_the_end(self, rows, caplog):
        answer = rows.post("/cancels", {"rows": [13]})
        assert (answer.status, "CancelledError" in problem(answer)["detail"]) == (500, True)
        assert "cancels raised" in caplog.text
        assert rows.post("/cancels", {"rows": [1]}).json() == [1]

    def test_nobody_is_asked_with_the_secret_of_another(self):
        """As JSON they look alike, and must not go together all the same."""
        with client(Rows) as made, ThreadPoolExecutor(3) as threads:
            made.service.hold.clear()
            waiting = made.replica.dispatch.batcher

            def ask(row, key):
                return threads.submit(made.post, "/keyed", {"rows": [row], "who": {"key": key}})

            first = ask(0, "a")
            wait_until(lambda: waiting.running is not None)
            others = [ask(1, "b"), ask(2, "c")]
            wait_until(lambda: waiting.waiting_rows == 2)
            made.service.hold.set()
            assert [one.result().json() for one in (first, *others)] == [[[0, "a"]], [[1, "b"]], [[2, "c"]]]

    def test_a_default_that_no_json_is(self, rows):
        assert rows.post("/unset", {"rows": [2]}).json() == [2]
        assert rows.post("/unset", {"rows": [2], "way": 3}).json() == [6]

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.none() | st.booleans() | st.sampled_from([1, 0]) | st.floats() | st.text(max_size=1),
            min_size=2,
            max_size=2,
        )
    )
    def test_values_that_a_method_can_tell_apart_are_of_two_groups(self, values):
        method = methods_of(service_of(Rows))["listed"]
        for one, other in (values, [[each] for each in values], [np.array([each]) for each in values]):
            groups = [group_of(method, {"rows": [1], "mark": value}) for value in (one, other)]
            if repr(one) != repr(other):
                assert groups[0] != groups[1]
            elif "nan" not in repr(one):
                assert groups[0] == groups[1]

    def test_rows_that_are_lost_or_are_no_rows(self, rows, caplog):
        assert rows.post("/lost", {"rows": [2, 4]}).json() == [2, 4]
        assert rows.post("/lost", {"rows": [1]}).status == 500
        assert "returned 0 rows for 1" in caplog.text
        assert rows.post("/pair", {"rows": [1, 2], "weights": [1, 2]}).status == 500
        assert "returned a tuple" in caplog.text

    def test_a_list_that_may_be_left_out_is_not_rows(self, rows):
        assert rows.post("/optional", {"rows": [1]}).json() == [[1, None]]
        assert rows.post("/optional", {"rows": [1], "weights": [2, 3]}).json() == [[1, [2, 3]]]

    def test_too_deep(self, rows):
        deep = b'{"rows": ' + b"[" * 100_000
        answer = rows.request("POST", "/same", body=deep, headers={"content-type": "application/json"})
        assert (answer.status, problem(answer)["detail"]) == (400, "the body is nested too deeply")
        forty = b'{"rows": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}"
        answer = rows.request("POST", "/same", body=forty, headers={"content-type": "application/json"})
        assert answer.status == 422, "NumPy has 64 dimensions at most"

    @pytest.mark.parametrize(
        ("path", "value", "field", "said"),
        [
            ("/predict", {}, "rows", "it is missing"),
            ("/predict", {"rows": [[1]], "raws": 1}, "raws", "no such field"),
            ("/predict", {"rows": 3}, "rows", "Expected `array`, got a number"),
            ("/predict", {"rows": []}, "rows", "there are no rows"),
            ("/predict", {"rows": [[1, 2], [3]]}, "rows", "rows of one length"),
            ("/predict", {"rows": [["1"]]}, "rows", "Expected numbers"),
            ("/predict", {"rows": [[1, "1"]]}, "rows", "one kind only"),
            ("/predict", {"rows": [[1, None]]}, "rows", "one kind only"),
            ("/same", {"rows": ["a\0"]}, "rows", "one kind only"),
            ("/listed", {"rows": [1], "mark": 3}, "mark", "Expected `str`, got `int`"),
            ("/optional", {"rows": []}, "rows", "there are no rows"),
            ("/pair", {"rows": [1, 2], "weights": [1]}, "weights", "1 rows, and rows has 2"),
        ],
    )
    def test_what_does_not_fit_names_the_field(self, rows, path, value, field, said):
        answer = rows.post(path, value)
        assert answer.status == 422
        (fault,) = problem(answer)["errors"]
        assert fault["field"] == field
        assert said in fault["detail"]


class TestKinds:
    """Types by annotation, and kinds of methods."""

    def test_what_raises_where_nothing_should_is_a_failed_request_too(self, caplog):
        @service(timeout="5s")
        class Odd:
            def typed(self, one: Odder) -> int:
                return one.n

            async def cancels(self) -> None:
                raise asyncio.CancelledError

        with client(Odd) as made:
            answers = [made.post("/typed", {"one": {"n": 1}}), made.post("/cancels", {})]
            assert [answer.status for answer in answers] == [500, 500]
            assert "KeyError" in problem(answers[0])["detail"]
            counts = [made.replica.routes[path].meter.statuses for path in ("/typed", "/cancels")]
            assert counts == [{500: 1}, {500: 1}]
        assert "/typed raised" in caplog.text

    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            ("/dataclass", {"item": {"name": "a"}}, {"name": "a", "price": 1.0}),
            (
                "/struct",
                {"place": {"city": "c", "items": [{"name": "a"}]}},
                {"city": "c", "items": [{"name": "a", "price": 1.0}]},
            ),
            ("/model", {"person": {"age": 3}}, {"age": 3}),
            ("/many", {"people": [{"age": 3}, {"age": 4}]}, 7),
            ("/whole", {"rows": [1, -128]}, "int8"),
            ("/floats", {"rows": [1, 0.5]}, [1.0, 0.5]),
            ("/plain", {"a": 1}, [1, "x", None]),
            ("/plain", {"a": 1, "b": "y", "c": {"k": [1]}}, [1, "y", {"k": [1]}]),
            ("/thread", {}, "hooke-model"),
        ],
    )
    def test_values(self, kinds, path, value, expected):
        answer = kinds.post(path, value)
        assert (answer.status, answer.json()) == (200, expected)

    @pytest.mark.parametrize(
        ("path", "value", "field"),
        [
            ("/dataclass", {"item": {"price": 1.0}}, "item.name"),
            ("/struct", {"place": {"city": "c", "items": [{"name": 1}]}}, "place.items[0].name"),
            ("/model", {"person": {"age": "old"}}, "person.age"),
            ("/many", {"people": [{"age": 1}, {}]}, "people[1].age"),
            ("/whole", {"rows": [300]}, "rows"),
            ("/whole", {"rows": [0.5]}, "rows"),
        ],
    )
    def test_fields_deep_inside(self, kinds, path, value, field):
        answer = kinds.post(path, value)
        assert answer.status == 422
        assert problem(answer)["errors"][0]["field"] == field

    def test_streams(self, kinds):
        assert kinds.post("/count", {"n": 2}).events() == [
            ("message", {"i": 0}),
            ("message", {"i": 1}),
            ("end", None),
        ]
        assert kinds.post("/drip", {"n": 2}).events() == [("message", 0), ("message", 1), ("end", None)]
        assert kinds.post("/drip", {"n": 0}).events() == [("end", None)]
        *_, (name, said) = kinds.post("/count", {"n": 5}).events()
        assert (name, said["status"], said["detail"]) == ("error", 422, "three is too many")
        assert kinds.post("/count", {"n": "x"}).status == 422

    def test_what_goes_wrong_in_the_services_code(self, kinds, caplog):
        busy = kinds.post("/busy", {})
        assert (busy.status, busy.headers["retry-after"]) == (503, "3")
        assert problem(busy)["detail"] == "it is being trained"
        assert kinds.post("/nothing_of_json", {}).status == 500
        assert "a object cannot be written as JSON" in caplog.text
        assert kinds.post("/leaves", {}).status == 500
        assert kinds.post("/thread", {}).status == 200, "SystemExit ended the thread"


class TestProtocol:
    """Status codes of what is no answer."""

    def test_routes_and_methods(self, kinds):
        assert kinds.get("/thread").status == 405
        assert kinds.get("/thread").headers["allow"] == "POST"
        assert kinds.post("/nope", {}).status == 404
        assert "POST /thread" in problem(kinds.post("/nope", {}))["detail"]
        for hidden in ("/setup", "/not_served", "/_nor_this", "/__init__", "/thread/"):
            assert kinds.post(hidden, {}).status == 404
        assert (kinds.get(HEALTH).status, kinds.get(READY).json()) == (200, {"state": "ready"})
        assert kinds.request("DELETE", READY).status == 405

    @pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b"\xff"])
    def test_a_body_that_is_no_json(self, kinds, body):
        answer = kinds.request("POST", "/plain", body=body, headers={"content-type": "application/json"})
        assert answer.status == 400
        problem(answer)

    def test_types_and_sizes(self, kinds):
        for kind in ({"content-type": "text/plain"}, {}):
            assert kinds.request("POST", "/thread", body=b"{}", headers=kind).status == 415
        charset = {"content-type": "application/JSON; charset=utf-8"}
        assert kinds.request("POST", "/thread", body=b"{}", headers=charset).status == 200
        long = {"content-type": "application/json", "content-length": str(1 << 40)}
        assert kinds.request("POST", "/thread", body=b"{}", headers=long).status == 413
        lying = {"content-type": "application/json", "content-length": "2"}
        body = b'{"a": "' + b"x" * (17 << 20) + b'"}'
        assert kinds.request("POST", "/thread", body=body, headers=lying).status == 413

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"host": "evil.example"}, 403),
            ({"host": "127.0.0.1.evil.example:80"}, 403),
            ({"host": "localhost:8000", "origin": "http://evil.example"}, 403),
            ({"host": "localhost:8000", "origin": "null"}, 403),
            ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
            ({"host": "[::1]:8000"}, 200),
        ],
    )
    def test_other_hosts_and_origins_are_refused_on_every_route(self, kinds, headers, status):
        for verb, path in [("POST", "/thread"), ("GET", HEALTH), ("GET", READY)]:
            sent = {"content-type": "application/json", **headers}
            assert kinds.request(verb, path, body=b"{}", headers=sent).status == status
        if status == 403:
            assert kinds.request("POST", "/nope", body=b"{}", headers=headers).status == 403

    def test_the_deadline(self):
        with client(Slow) as slow:
            for path in ("/sleep", "/wait"):
                answer = slow.post(path, {"s": 0.4})
                assert answer.status == 504
                assert "within 0.1 s" in problem(answer)["detail"]
            *_, (name, said) = slow.post("/drip", {"s": 0.4}).events()
            assert (name, said["status"]) == ("error", 504)
            assert slow.post("/wait", {"s": 0}).status == 200

    def test_more_than_may_wait(self):
        with client(Rows) as made:
            made.service.hold.clear()
            many = {"rows": [[1]] * 1024}
            with ThreadPoolExecutor(3) as threads:
                first = threads.submit(made.post, "/predict", {"rows": [[1]]})
                wait_until(lambda: made.replica.dispatch.batcher.running is not None)
                second = threads.submit(made.post, "/predict", many)
                wait_until(lambda: made.replica.dispatch.batcher.waiting_rows == 1024)
                refused = made.post("/predict", {"rows": [[1]]})
                made.service.hold.set()
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert first.result().status == 200
            assert second.result().json() == [2.0] * 1024


def wait_until(true):
    tick = threading.Event()
    for _ in range(2000):
        if true():
            return
        tick.wait(0.002)
    raise AssertionError("it did not come to that")


class TestLife:
    """Before it is ready, while it drains, and when it cannot be."""

    async def ask(self, replica, path, body=b"{}", *, gone: asyncio.Event | None = None):
        sent, verb = [], "GET" if path.startswith("/-/") else "POST"
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if not messages:
                await (gone or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            return messages.pop()

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        await replica({"type": "http", "path": path, "method": verb, "headers": headers}, receive, send)
        return sent

    async def until_it_runs(self, replica):
        for _ in range(1000):
            if replica.dispatch.batcher.running is not None:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the model runs nothing")

    def test_not_ready_then_ready_then_draining(self):
        async def life():
            replica = Replica(service_of(Kinds))
            early = [(await self.ask(replica, path))[0] for path in (HEALTH, READY, "/thread")]
            assert [message["status"] for message in early] == [200, 503, 503]
            assert (b"retry-after", b"1") in early[2]["headers"]
            await replica.start(dict)
            assert (await self.ask(replica, READY))[0]["status"] == 200
            replica.drain()
            assert (await self.ask(replica, READY))[0]["status"] == 503
            late = (await self.ask(replica, "/thread"))[0]
            assert late["status"] == 200
            assert (b"connection", b"close") in late["headers"]
            replica.close()

        asyncio.run(life())

    def test_a_caller_who_goes_leaves_the_queue(self):
        async def life():
            replica = Replica(service_of(Rows))
            await replica.start(dict)
            model = replica.made
            model.hold.clear()
            body = msgspec.json.encode({"rows": [[1]]})
            first = asyncio.create_task(self.ask(replica, "/predict", body))
            await self.until_it_runs(replica)
            gone = asyncio.Event()
            second = asyncio.create_task(self.ask(replica, "/predict", body, gone=gone))
            await asyncio.sleep(0.01)
            assert replica.dispatch.batcher.waiting_rows == 1
            gone.set()
            assert await second == []
            assert replica.dispatch.batcher.waiting_rows == 0
            model.hold.set()
            assert (await first)[0]["status"] == 200
            assert model.calls == [1]
            assert replica.active == 0
            replica.close()

        asyncio.run(life())

    def test_what_comes_in_one_turn_of_the_loop_goes_together(self):
        async def life():
            replica = Replica(service_of(Rows))
            await replica.start(dict)
            body = msgspec.json.encode({"rows": [[1]]})
            asked = [asyncio.create_task(self.ask(replica, "/predict", body)) for _ in range(3)]
            assert [(await one)[0]["status"] for one in asked] == [200, 200, 200]
            assert replica.made.calls == [3]
            replica.close()

        asyncio.run(life())

    def test_a_caller_who_goes_while_the_model_runs_is_not_waited_for(self):
        async def life():
            replica = Replica(service_of(Rows))
            await replica.start(dict)
            replica.made.hold.clear()
            gone = asyncio.Event()
            body = msgspec.json.encode({"rows": [[1]]})
            asked = asyncio.create_task(self.ask(replica, "/predict", body, gone=gone))
            await self.until_it_runs(replica)
            gone.set()
            assert await asked == []
            assert replica.active == 0
            replica.made.hold.set()
            assert (await self.ask(replica, "/predict", body))[0]["status"] == 200
            replica.close()

        asyncio.run(life())

    @pytest.mark.parametrize("name", ["plain", "waitless"])
    def test_a_stream_ends_when_its_caller_goes(self, name):
        async def life():
            replica = Replica(service_of(Endless))
            await replica.start(dict)
            gone = asyncio.Event()
            asking = asyncio.create_task(self.ask(replica, f"/{name}", gone=gone))
            await asyncio.sleep(0.02)
            gone.set()
            sent = await asyncio.wait_for(asking, 5)
            assert len(sent) > 1
            replica.close()
            assert replica.made.ended == [name]

        asyncio.run(life())

    def test_a_setup_that_fails_names_the_line(self):
        @service
        class Broken:
            def setup(self, model):
                raise KeyError("weights")

            def f(self):
                return 1

        with (
            pytest.raises(HookeError, match="Broken cannot be set up: KeyError: 'weights'") as failed,
            client(Broken, model=1),
        ):
            pass
        assert "test_replica.py" in failed.value.why

    @pytest.mark.parametrize("kind", [list[int] | set[int], threading.Thread, list[threading.Thread], Deep])
    def test_annotations_that_no_json_can_be_read_as_are_said_before_anything_is_set_up(self, kind):
        @service
        class Odd:
            def f(self, x: kind):
                return x

        with pytest.raises(UsageError, match=r"parameters of Odd\.f"):
            client(Odd)
