"""A replica before it is ready, while it drains, when a caller goes, and when it cannot be set up."""

import asyncio
import json
import socket
import threading
import urllib.request

import msgspec
import pytest
import uvicorn
from tests.serving.services import Endless, Kinds, Rows

from hooke import HookeError, UsageError, service
from hooke.serving.replica import HEALTH, READY, Replica
from hooke.serving.service import service_of
from hooke.testing import client


class Deep(msgspec.Struct):
    """Refers to itself, and has a part that no JSON can be read as."""

    below: "Deep | None"
    thread: threading.Thread


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
            window = replica.dispatch.windows.take(asyncio.get_running_loop().time())
            assert (window.arrived, window.requests, window.gone) == (2, 1, 1)
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
        assert "test_replica_life.py" in failed.value.why
        assert failed.value.fix == "correct setup of Broken, or what it is given"

    def test_a_missing_file_is_looked_for_in_the_working_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        @service
        class Broken:
            def setup(self):
                open("weights.bin")  # noqa: SIM115 - it is not there

            def f(self):
                return 1

        with pytest.raises(HookeError, match="No such file") as failed, client(Broken):
            pass
        assert failed.value.fix == f"check the path: it is relative to {tmp_path}"

    @pytest.mark.parametrize("kind", [list[int] | set[int], threading.Thread, list[threading.Thread], Deep])
    def test_annotations_that_no_json_can_be_read_as_are_said_before_anything_is_set_up(self, kind):
        @service
        class Odd:
            def f(self, x: kind):
                return x

        with pytest.raises(UsageError, match=r"parameters of Odd\.f"):
            client(Odd)


class TestAsgi:
    """Behind an ASGI server that is not ours, and within middleware."""

    def test_uvicorn_sets_it_up_and_serves_it(self):
        @service
        class Scaled:
            def setup(self, by: int):
                self.by = by

            def times(self, x: int) -> int:
                return x * self.by

        replica = Replica(service_of(Scaled))
        replica.arguments = lambda: {"by": 3}
        server = uvicorn.Server(uvicorn.Config(replica, lifespan="on", log_config=None))
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        port = listening.getsockname()[1]
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/times", b'{"x": 7}', {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                assert json.loads(answer.read()) == 21
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()
        assert replica.state.value == "draining"

    def test_a_setup_that_fails_keeps_it_from_starting(self):
        async def life():
            sent = []

            async def receive():
                return {"type": "lifespan.startup"}

            async def send(message):
                sent.append(message)

            replica = Replica(service_of(Rows))
            replica.arguments = lambda: {"scale": 1, "unknown": 2}
            await replica({"type": "lifespan"}, receive, send)
            replica.close()
            return sent

        (message,) = asyncio.run(life())
        assert message["type"] == "lifespan.startup.failed"
        assert "Rows cannot be set up" in message["message"]

    def test_middleware_is_around_it(self):
        def tagged(app):
            async def call(scope, receive, send):
                async def tag(message):
                    if message["type"] == "http.response.start":
                        message["headers"] = [*message["headers"], (b"x-tag", scope["path"].encode())]
                    await send(message)

                await app(scope, receive, tag)

            return call

        @service(middleware=tagged)
        class Tagged:
            def one(self) -> int:
                return 1

        with client(Tagged) as tagging:
            answer = tagging.post("/one", {})
        assert (answer.json(), answer.headers["x-tag"]) == (1, "/one")

    def test_middleware_must_be_a_function(self):
        with pytest.raises(UsageError, match="middleware='cors' is not a function"):
            service(middleware="cors")
