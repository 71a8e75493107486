"""A connection: what is answered at once and what waits, order, flow in both directions, and heads that are sent again."""

import asyncio
import contextvars
import socket
from contextlib import asynccontextmanager

import pytest

from hooke.serving.asgi import handler_of
from hooke.serving.limits import ConnectionLimits
from hooke.serving.request_context import CallerGone, EagerTasks
from hooke.serving.server.connection import BACKLOG, Connections

CLOSE = b"connection: close\r\n"


@asynccontextmanager
async def serving(handle, refused=None):
    """All connections of a server with this handler, and a way to open one: a reader and a writer."""
    connections = Connections(handle, ConnectionLimits(), {} if refused is None else refused)
    listening = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(connections.make, sock=listening)
    try:
        yield connections, lambda: asyncio.open_connection(*listening.getsockname())
    finally:
        server.close()
        await connections.end(0.1, at_once=lambda: True)


async def text(request, body, status=200):
    assert request.answer(status, [(b"content-length", b"%d" % len(body))], body)


async def said(reader):
    """The body of an answer with a content-length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    return head, await asyncio.wait_for(reader.readexactly(length), 10)


def asked(body=b"", *headers, path=b"/", verb=b"POST"):
    head = verb + b" " + path + b" HTTP/1.1\r\nhost: a\r\n" + b"".join(headers)
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


class TestHeads:
    """A head that is sent again is not parsed again, and means the same."""

    async def echo(self, request):
        body = b""
        more = True
        while more:
            data, more = await request.part()
            body += data
        await text(request, request.path.encode() + b" " + request.headers.get(b"x", b"-") + b" " + body)

    @pytest.mark.needs("cpu")
    @pytest.mark.parametrize(
        "requests",
        [
            [asked(b"12"), asked(b"34"), asked(b"56")],
            [asked(b"12"), asked(b"34", path=b"/?"), asked(b"345", path=b"/"), asked(b"12")],
            [asked(b"12", b"x: 1\r\n"), asked(b"34", b"x: 2\r\n"), asked(b"34", b"x: 1\r\n")],
            [asked(verb=b"GET"), asked(verb=b"GET"), asked(b"GE"), asked(verb=b"GET")],
            [asked(b"12", b"expect: 100-continue\r\n"), asked(b"12"), asked(b"12")],
            [asked(b"1234") + b"\r\n"] * 3,
            [asked(b"\r\n34") + b"\r\n"] * 3,
            [b"\r\n" + asked(b"12")] * 3,
            [asked(b"\r\n\r\n12")] * 3,
        ],
        ids=[
            "bodies",
            "lengths",
            "headers",
            "verbs",
            "expect",
            *("break after", "and in the body", "before", "in it"),
        ],
    )
    def test_whole_or_in_parts_it_means_the_same(self, requests):
        async def answers(cut):
            async with serving(self.echo) as (_, connect):
                reader, writer = await connect()
                seen = []
                for request in requests:
                    for start in range(0, len(request), cut):
                        writer.write(request[start : start + cut])
                        await asyncio.sleep(0.005)
                    head, body = await said(reader)
                    if head.startswith(b"HTTP/1.1 100"):
                        head, body = await said(reader)
                    seen.append((head.split(b"\r\n")[0], body))
                writer.close()
                return seen

        whole, parts = asyncio.run(answers(10_000)), asyncio.run(answers(17))
        assert whole == parts
        assert [status for status, _ in whole] == [b"HTTP/1.1 200 OK"] * len(requests)

    def test_a_known_head_with_more_behind_it_is_read_as_it_is(self):
        async def life():
            async with serving(self.echo) as (_, connect):
                reader, writer = await connect()
                writer.write(asked(b"12"))
                await said(reader)
                # The same head, and a body that another request follows at once.
                writer.write(asked(b"34") + asked(b"56", b"x: y\r\n"))
                assert [(await said(reader))[1] for _ in range(2)] == [b"/ - 34", b"/ y 56"]
                writer.write(asked(b"78")[:-1])
                await asyncio.sleep(0.02)
                writer.write(b"8")
                assert (await said(reader))[1] == b"/ - 78"
                writer.close()

        asyncio.run(life())


class TestOrder:
    def test_requests_are_answered_one_after_the_other(self):
        async def life():
            gates = [asyncio.Event() for _ in range(3)]
            began = []

            async def handle(request):
                number = int(request.path[1:])
                began.append(number)
                await gates[number].wait()
                await text(request, b"%d" % number)

            async with serving(handle) as (connections, connect):
                reader, writer = await connect()
                writer.write(b"".join(asked(path=b"/%d" % n, verb=b"GET") for n in range(3)))
                await until(lambda: began == [0])
                (connection,) = connections.open
                assert connection.read_paused, "what comes later stays in the socket"
                gates[2].set()
                gates[1].set()
                await asyncio.sleep(0.05)
                assert began == [0]
                gates[0].set()
                assert [(await said(reader))[1] for _ in range(3)] == [b"0", b"1", b"2"]
                assert not connection.read_paused
                writer.close()

        asyncio.run(life())

    def test_what_follows_the_last_request_is_not_answered(self):
        async def life():
            seen = []

            async def handle(request):
                seen.append(request.path)
                await text(request, b"")

            async with serving(handle) as (_, connect):
                reader, writer = await connect()
                writer.write(asked(b"", CLOSE, path=b"/a") + asked(path=b"/b"))
                assert (await asyncio.wait_for(reader.read(), 10)).count(b"HTTP/1.1") == 1
                assert seen == ["/a"]
                writer.close()

        asyncio.run(life())

    def test_an_invalid_body_behind_another_request_ends_the_connection_after_its_answer(self):
        async def life():
            gate = asyncio.Event()
            refused = {}

            async def handle(request):
                await gate.wait()
                await text(request, request.path.encode())

            async with serving(handle, refused) as (_, connect):
                reader, writer = await connect()
                head = b"POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
                writer.write(asked(path=b"/a") + head + b"zz\r\n")
                await until(lambda: refused == {"bad http": 1})
                gate.set()
                whole = await asyncio.wait_for(reader.read(), 10)
                assert (whole.count(b"HTTP/1.1 "), whole[-2:]) == (1, b"/a")
                writer.close()

        asyncio.run(life())


class TestFlow:
    @pytest.mark.needs("cpu")
    def test_a_body_that_nobody_takes_is_not_read(self):
        async def life():
            gate = asyncio.Event()
            sizes = []

            async def handle(request):
                await gate.wait()
                more = True
                while more:
                    data, more = await request.part()
                    sizes.append(len(data))
                await text(request, b"%d" % sum(sizes))

            async with serving(handle) as (connections, connect):
                reader, writer = await connect()
                body = b"x" * (32 << 20)
                sending = asyncio.create_task(send(writer, asked(body)))
                await until(lambda: connections.open and next(iter(connections.open)).read_paused)
                assert not sending.done()
                gate.set()
                assert (await said(reader))[1] == b"%d" % len(body)
                assert max(sizes) < BACKLOG + (1 << 20)
                await sending
                writer.close()

        asyncio.run(life())

    def test_a_stream_waits_for_a_client_that_does_not_read(self):
        async def life():
            sent = [0]

            async def handle(request):
                await request.begin(200, [])
                for _ in range(400):
                    await request.send(b"x" * 65536, more=True)
                    sent[0] += 1
                await request.send(b"", more=False)

            async with serving(handle) as (connections, connect):
                reader, writer = await connect()
                writer.write(asked())
                await until(lambda: connections.open and next(iter(connections.open)).blocked is not None)
                await asyncio.sleep(0.05)
                assert sent[0] < 400
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"transfer-encoding: chunked" in head
                for _ in range(400):
                    assert await reader.readexactly(65536 + 9) == b"10000\r\n" + b"x" * 65536 + b"\r\n"
                assert await reader.readexactly(5) == b"0\r\n\r\n"
                writer.close()

        asyncio.run(life())

    def test_a_client_that_goes_ends_the_wait_for_it(self):
        async def life():
            ends = []

            async def handle(request):
                try:
                    await request.part()
                except CallerGone:
                    ends.append("body")
                await request.gone()
                ends.append("gone")

            async with serving(handle) as (connections, connect):
                _, writer = await connect()
                writer.write(asked(b"12")[:-1])
                await until(lambda: connections.tasks.running)
                await asyncio.sleep(0.02)
                writer.write(b"")
                writer.close()
                await until(lambda: not connections.tasks.running)
            return ends

        # The first part has arrived: what it waits for next is the end of the connection.
        assert asyncio.run(life()) == ["gone"]


class TestAnswers:
    @pytest.mark.parametrize("waits", [False, True])
    @pytest.mark.parametrize("raises", [False, True])
    def test_a_handler_that_gives_no_answer_is_an_error(self, raises, waits, caplog):
        async def handle(_request):
            if waits:
                await asyncio.sleep(0)
            if raises:
                raise KeyError("secret")

        async def life():
            async with serving(handle) as (_, connect):
                reader, writer = await connect()
                writer.write(asked())
                whole = await asyncio.wait_for(reader.read(), 10)
                writer.close()
                return whole

        whole = asyncio.run(life())
        assert whole.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in whole
        assert ("secret" in caplog.text) == raises

    @pytest.mark.parametrize("length", [b"1", b"3"])
    def test_one_whose_length_is_wrong_is_cut(self, length, caplog):
        async def handle(request):
            await request.begin(200, [(b"content-length", length)])
            await request.send(b"12", more=False)

        async def life():
            async with serving(handle) as (_, connect):
                reader, writer = await connect()
                writer.write(asked() + asked())
                whole = await asyncio.wait_for(reader.read(), 10)
                writer.close()
                return whole

        assert asyncio.run(life()).count(b"HTTP/1.1") == 1
        assert "not as long as its content-length" in caplog.text

    def test_a_line_break_in_a_header_is_refused(self):
        async def handle(request):
            await text(request, b"") if request.path == "/" else request.answer(
                200, [(b"x", b"1\r\ny: 2"), (b"content-length", b"0")], b""
            )

        async def life():
            async with serving(handle) as (_, connect):
                reader, writer = await connect()
                writer.write(asked() + asked(path=b"/bad"))
                whole = await asyncio.wait_for(reader.read(), 10)
                writer.close()
                return whole

        whole = asyncio.run(life())
        assert b"y: 2" not in whole
        assert b"HTTP/1.1 500 " in whole

    def test_head_has_no_body(self):
        async def handle(request):
            headers = [(b"content-length", b"5")]
            if not request.answer(200, headers, b"12345"):
                await request.begin(200, headers)
                await request.send(b"12345", more=False)

        async def life():
            async with serving(handle) as (_, connect):
                reader, writer = await connect()
                writer.write(asked(verb=b"HEAD") + asked(b"", CLOSE, verb=b"GET"))
                whole = await asyncio.wait_for(reader.read(), 10)
                writer.close()
                return whole

        assert asyncio.run(life()).count(b"12345") == 1

    def test_what_takes_too_long_is_cancelled_at_the_end(self):
        async def life():
            ends = []

            async def handle(request):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ends.append(request.answer(503, [(b"content-length", b"0")], b""))
                    raise

            async with serving(handle) as (connections, connect):
                reader, writer = await connect()
                writer.write(asked())
                await until(lambda: connections.tasks.running)
                await connections.end(0.05, at_once=lambda: False)
                whole = await asyncio.wait_for(reader.read(), 10)
                writer.close()
            return ends, whole

        ends, whole = asyncio.run(life())
        assert ends == [True]
        assert whole.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in whole


VALUE: contextvars.ContextVar[int] = contextvars.ContextVar("value", default=0)


class TestEagerTasks:
    def run(self, *works):
        async def life():
            tasks, ends = EagerTasks(), []
            done = asyncio.Event()

            def ended(error):
                ends.append(error)
                done.set() if len(ends) == len(works) else None

            # Outside of tasks, as data arrives.
            for work in works:
                asyncio.get_running_loop().call_soon(lambda work=work: tasks.run(work(), ended))
            await asyncio.wait_for(done.wait(), 10)
            assert not tasks.running
            return ends

        return asyncio.run(life())

    def test_what_does_not_wait_needs_no_task_of_its_own(self):
        seen = []

        async def work():
            seen.append(asyncio.current_task())

        assert self.run(work, work, work) == [None] * 3
        assert seen[0] is seen[1] is seen[2] is not None

    def test_what_waits_has_one_task_from_the_beginning(self):
        seen = []

        async def work():
            seen.append([asyncio.current_task()])
            await asyncio.sleep(0.01)
            seen[0].append(asyncio.current_task())

        async def other():
            seen.append([asyncio.current_task()])

        self.run(work, other)
        assert seen[0][0] is seen[0][1] is not seen[1][0]

    def test_each_has_a_context_of_its_own(self):
        seen = []

        async def work():
            seen.append(VALUE.get())
            VALUE.set(1)
            await asyncio.sleep(0)
            seen.append(VALUE.get())

        async def quick():
            seen.append(VALUE.get())
            VALUE.set(2)

        self.run(quick, quick, work, quick)
        assert sorted(seen) == [0, 0, 0, 0, 1]

    @pytest.mark.parametrize("first", [False, True], ids=["a future", "a turn"])
    def test_a_timeout_that_begins_before_the_first_wait_ends_it(self, first):
        seen = []

        async def work():
            try:
                async with asyncio.timeout(0.01):
                    if first:
                        await asyncio.sleep(0)
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append("late")
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            seen.append("done")

        assert self.run(work) == [None]
        assert seen == ["late", "done"]

    def test_one_that_is_cancelled_before_its_first_wait_is_cancelled_there(self):
        seen = []

        async def waits(inner):
            asyncio.current_task().cancel()
            try:
                await inner
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async def work():
            inner = asyncio.get_running_loop().create_task(asyncio.sleep(60))
            try:
                await waits(inner)
            finally:
                seen.append(inner.cancelled())

        async def quick():
            asyncio.current_task().cancel()

        async def after():
            seen.append(asyncio.current_task().cancelling())

        ends = self.run(work, quick, after)
        assert sorted(seen, key=str) == [0, True, "cancelled"]
        assert [type(error) for error in ends if error] == [asyncio.CancelledError]

    def test_an_exception_is_told(self):
        async def at_once():
            raise KeyError(1)

        async def later():
            await asyncio.sleep(0)
            raise KeyError(2)

        assert sorted(str(error) for error in self.run(at_once, later)) == ["1", "2"]


class TestMiddleware:
    def ask(self, application, request=None, tail=b""):
        async def life():
            async with serving(handler_of(application)) as (_, connect):
                reader, writer = await connect()
                writer.write((request or asked(b"12", b"X-A: 1\r\n", CLOSE, path=b"/a%20b?c=d")) + tail)
                whole = await asyncio.wait_for(reader.read(), 10)
                writer.close()
                return whole

        return asyncio.run(life())

    def test_it_sees_the_request_as_asgi_says(self):
        seen = {}

        async def application(scope, receive, send):
            seen.update(scope, messages=[await receive()])
            await send({"type": "http.response.start", "status": 201, "headers": [(b"X-B", b"2")]})
            await send({"type": "http.response.body", "body": b"3", "more_body": True})
            await send({"type": "http.response.body", "body": b"4"})
            seen["messages"].append(await receive())

        whole = self.ask(application)
        assert whole.startswith(b"HTTP/1.1 201 Created\r\n")
        assert b"\r\nx-b: 2\r\n" in whole
        assert whole.endswith(b"\r\n\r\n1\r\n3\r\n1\r\n4\r\n0\r\n\r\n")
        assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a b", b"/a%20b", b"c=d")
        assert (seen["method"], seen["scheme"], seen["client"][0]) == ("POST", "http", "127.0.0.1")
        assert (b"x-a", b"1") in seen["headers"]
        first, last = seen["messages"]
        assert first == {"type": "http.request", "body": b"12", "more_body": False}
        assert last == {"type": "http.disconnect"}

    def test_what_it_does_to_the_headers_is_for_this_request_alone(self):
        counts = []

        async def application(scope, _receive, send):
            counts.append(len(scope["headers"]))
            scope["headers"].append((b"x-more", b"1"))
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        async def life():
            async with serving(handler_of(application)) as (_, connect):
                reader, writer = await connect()
                for _ in range(3):
                    writer.write(asked(b"12"))
                    await said(reader)
                writer.close()

        asyncio.run(life())
        assert counts == [2, 2, 2]

    @pytest.mark.parametrize("header", [(b"a b", b"1"), (b"a", b"1\r\nb: 2"), (b"a", b"\x00"), (b"", b"1")])
    def test_an_invalid_header_is_refused(self, header, caplog):
        async def application(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": [header]})
            await send({"type": "http.response.body"})

        assert self.ask(application).startswith(b"HTTP/1.1 500 ")
        assert "is invalid" in caplog.text

    def test_messages_out_of_order_are_refused(self, caplog):
        async def application(_scope, _receive, send):
            await send({"type": "http.response.body", "body": b"1"})

        assert self.ask(application).startswith(b"HTTP/1.1 500 ")
        assert "does not follow" in caplog.text


async def send(writer, data):
    writer.write(data)
    await writer.drain()


async def until(true):
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - it holds for any condition
            await asyncio.sleep(0.005)
