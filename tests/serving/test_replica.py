"""The protocol: what is answered, to whom, and how what is wrong is said."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tests.serving.answers import problem, wait_until
from tests.serving.services import Kinds, Rows, Slow

from hooke import service
from hooke.serving.limits import SecondTries
from hooke.serving.replica import HEALTH, READY
from hooke.testing import client


@pytest.fixture(scope="module")
def kinds():
    with client(Kinds) as made:
        yield made


class Odder(msgspec.Struct):
    """Its own code raises what no type of a field does."""

    n: int

    def __post_init__(self):
        raise KeyError(self.n)


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

    @pytest.mark.needs("cpu")
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


TRIES = {"content-type": "application/json", "x-hooke-stream": "7-1.5"}


class TestSecondTries:
    """A proxy sends a request again when its replica ends: once."""

    def tried(self, made, count, stream="7-1.5"):
        headers = TRIES | {"x-envoy-attempt-count": str(count), "x-hooke-stream": stream}
        return made.request("POST", "/plain", body=b'{"a": 1}', headers=headers)

    def test_one_that_a_second_replica_did_not_answer_is_refused(self, kinds, tmp_path):
        path = tmp_path / "tries"
        SecondTries.create(path)
        kinds.replica.second_tries = SecondTries(path)
        dead = SecondTries(path)
        dead.begin(b"7-1.5")  # as a replica that ended with it
        SecondTries.create(path)  # as for each start
        answer = self.tried(kinds, 3)
        assert answer.status == 502
        assert "two replicas ended before their answer" in problem(answer)["detail"]
        assert kinds.replica.refused["two replicas ended"] == 1
        assert self.tried(kinds, 3, stream="7-1.6").status == 200
        assert self.tried(kinds, 1).status == 200, "another one: the name is never that of two"
        kinds.replica.second_tries = None

    def test_one_that_the_first_replica_passed_on_has_still_its_second_try(self, kinds, tmp_path):
        path = tmp_path / "tries"
        SecondTries.create(path)
        kinds.replica.second_tries = tries = SecondTries(path)
        tries.pass_on(b"7-1.5")
        assert not tries.unanswered(b"7-1.5")
        assert self.tried(kinds, 2).status == 200
        assert path.read_bytes() == bytes(path.stat().st_size)
        tries.pass_on(b"7-1.5")
        assert tries.take_over(b"7-1.5")  # and this replica ends with it: it was the first to begin
        assert self.tried(kinds, 3).status == 200
        kinds.replica.second_tries = None

    def test_one_that_was_answered_or_refused_is_not_noted(self, kinds, tmp_path):
        path = tmp_path / "tries"
        SecondTries.create(path)
        kinds.replica.second_tries = SecondTries(path)
        for count in (2, 3, 4, 5):  # connections that failed are counted, too
            assert self.tried(kinds, count).status == 200
        bad = kinds.request("POST", "/plain", body=b"{}", headers=TRIES | {"x-envoy-attempt-count": "2"})
        assert bad.status == 422
        assert not SecondTries(path).unanswered(b"7-1.5")
        assert path.read_bytes() == bytes(path.stat().st_size)
        kinds.replica.second_tries = None
