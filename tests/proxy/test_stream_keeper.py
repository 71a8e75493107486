"""The real Envoy and the stream keeper between clients and replicas that end in the middle of a stream."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.proxy.stand import until

from hooke.proxy import stream_keeper
from hooke.proxy.envoy import Proxy
from hooke.proxy.keeper_config import KEEPER_HEADERS
from hooke.proxy.known_tokens import KnownTokens
from hooke.proxy.proxy_settings import ProxySettings, Upstream
from hooke.proxy.stream_keeper import StreamKeeper
from hooke.serving.metrics import KeeperFacts
from hooke.serving.openai.resumption import ResumedStream, mark, read_resumed
from hooke.serving.problems import RESUMABLE_HEADER, RESUMED_HEADER, VERSION_HEADER

CHAT = "/v1/chat/completions"
WORDS = [b"data: %d\n\n" % number for number in range(12)]
LAST = b"data: [DONE]\n\n"
WHOLE = b"".join(WORDS) + LAST


@dataclass
class Asked:
    """A request as a replica got it."""

    headers: dict[str, str]
    body: bytes
    stream: ResumedStream | None = None
    left: threading.Event = field(default_factory=threading.Event)
    """Its client has gone."""


@dataclass
class Replica:
    """Says the words that its client does not have. `does` may end it: called before each word with its number, and the connection."""

    name: str
    told: str = "v1"
    does: Callable[["Replica", int], str] = lambda _replica, _at: ""
    status: int = 200
    goes_on: threading.Event = field(default_factory=threading.Event)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                replica.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        asked = Asked({key.lower(): value for key, value in handler.headers.items()}, body)
        if RESUMED_HEADER in asked.headers:
            asked.body, asked.stream = read_resumed(body, asked.headers[RESUMED_HEADER].encode())
        self.asked.append(asked)
        if self.status != 200 or b'"stream"' not in body:
            said = b'{"name": "%b", "size": %d}' % (self.name.encode(), len(asked.body))
            handler.send_response(self.status)
            handler.send_header("content-length", str(len(said)))
            handler.end_headers()
            handler.wfile.write(said)
            return
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        if self.told and RESUMABLE_HEADER in asked.headers:
            handler.send_header(RESUMABLE_HEADER, self.told)
        handler.end_headers()
        with suppress(OSError):
            self.stream(handler, asked)
            return
        asked.left.set()
        handler.close_connection = True

    def stream(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        def say(data: bytes) -> None:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            handler.wfile.flush()

        begins = len(asked.stream.tokens) if asked.stream is not None else 0
        words = WORDS * (1000 if b'"words"' in asked.body else 1)
        for at in range(begins, len(words)):
            what = self.does(self, at)
            if what:
                if what == "half":
                    say(words[at][:5])
                handler.connection.close()
                raise OSError("killed")
            say(words[at] + (mark(0, at) if RESUMABLE_HEADER in asked.headers else b""))
        say(LAST)
        handler.wfile.write(b"0\r\n\r\n")
        handler.wfile.flush()


class Front:
    """Envoy and a keeper in this process."""

    def __init__(self, folder, *replicas: Replica, tokens: list[str] | None = None) -> None:
        self.replicas = replicas
        folder.mkdir(mode=0o700)
        settings = ProxySettings(
            service="Model",
            folder=folder,
            unhurried=(CHAT,),
            kept=(CHAT,),
            idempotent=True,
            access_log=folder / "log",
        )
        self.keeper = StreamKeeper(settings, tokens=KnownTokens(lambda: tokens))
        self.keeper.start()
        self.proxy = Proxy(settings)
        self.proxy.start()
        self.publish(*replicas)

    def publish(self, *replicas: Replica) -> None:
        self.proxy.publish(
            [Upstream(port=each.port, version=each.told, new=each.told == "v2") for each in replicas]
        )

    def connection(self, timeout_s: float = 60.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.proxy.settings.port, timeout=timeout_s)

    def ask(
        self, headers: dict[str, str] | None = None, timeout_s: float = 60.0, **more: object
    ) -> tuple[int, bytes]:
        """Status and body. Raises IncompleteRead for one that was cut."""
        with closing(self.connection(timeout_s)) as connection:
            connection.request("POST", CHAT, json.dumps({"messages": [], **more}), headers or {})
            answer = connection.getresponse()
            body = answer.read()
            assert not {name.lower() for name, _ in answer.getheaders()} & set(KEEPER_HEADERS)
            return answer.status, body

    def close(self) -> None:
        self.proxy.stop()
        self.keeper.close()
        for each in self.replicas:
            each.server.shutdown()
            each.server.server_close()


@pytest.fixture
def front(tmp_path):
    made: list[Front] = []

    def make(*replicas: Replica, **options: object) -> Front:
        made.append(Front(tmp_path / f"front{len(made)}", *replicas, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ends_at(*numbers: int, how: str = "now") -> Callable[[Replica, int], str]:
    """Ends before each of these words, once."""
    left = list(numbers)

    def does(_replica: Replica, at: int) -> str:
        if at in left:
            left.remove(at)
            return how
        return ""

    return does


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("how", ["now", "half"])
@pytest.mark.parametrize("numbers", [(0,), (1,), (5,), (11,), (2, 3, 9)])
def test_a_stream_goes_on_on_another_replica(front, numbers, how):
    does = ends_at(*numbers, how=how)  # shared: whoever gets to these words
    it = front(Replica("a", does=does), Replica("b", does=does))
    assert it.ask(stream=True) == (200, WHOLE)
    assert it.keeper.facts().resumed == len(numbers)
    assert it.keeper.facts().cut == 0
    asked = [one for replica in it.replicas for one in replica.asked if one.stream is not None]
    assert sorted(len(one.stream.tokens) for one in asked) == sorted(numbers)
    for one in asked:
        assert json.loads(one.body) == {"messages": [], "stream": True}
        assert one.stream.tokens == [(0, at) for at in range(len(one.stream.tokens))]
        assert one.stream.told == "v1"
    assert len({one.headers["x-request-id"] for replica in it.replicas for one in replica.asked}) == 1


@pytest.mark.needs("cpu")
def test_what_is_no_marked_stream_passes_as_it_is(front):
    it = front(Replica("a", told=""))
    assert it.ask() == (200, b'{"name": "a", "size": 16}')
    it.replicas[0].status = 422
    assert it.ask()[0] == 422
    it.replicas[0].status, it.replicas[0].does = 200, ends_at(3)
    with pytest.raises(http.client.IncompleteRead):
        it.ask(stream=True)
    assert it.keeper.facts().resumed == 0


@pytest.mark.needs("cpu")
def test_clients_cannot_speak_as_the_keeper(front):
    it = front(Replica("a"))
    forged = {RESUMED_HEADER: "5", RESUMABLE_HEADER: "mine"}
    assert it.ask(forged, stream=True) == (200, WHOLE)
    (asked,) = it.replicas[0].asked
    assert asked.stream is None
    assert asked.headers[RESUMABLE_HEADER] == "1"


@pytest.mark.needs("cpu")
def test_a_replica_of_another_version_is_not_asked_to_go_on_for_long(front):
    first = Replica("a", does=ends_at(4))
    other = Replica("b", told="v2", status=409)
    it = front(first, other)
    assert it.ask({VERSION_HEADER: "old"}, stream=True) == (200, WHOLE), "the one of its version, again"
    assert it.keeper.facts().resumed == 1


@pytest.mark.needs("cpu")
def test_who_cannot_be_gone_on_with_is_cut(front, caplog):
    it = front(Replica("a", does=ends_at(4)))

    def refuses(replica: Replica, at: int) -> str:
        if at == 4:
            replica.status = 400
            return "now"
        return ""

    it.replicas[0].does = refuses
    with pytest.raises(http.client.IncompleteRead) as cut:
        it.ask(stream=True)
    assert cut.value.partial == b"".join(WORDS[:4])
    assert it.keeper.facts().cut == 1
    assert "cannot go on" in caplog.text


@pytest.mark.needs("cpu")
def test_a_stream_that_ends_replica_after_replica_is_cut(front):
    it = front(*[Replica(name, does=lambda _replica, at: "now" if at == 6 else "") for name in "abcde"])
    with pytest.raises(http.client.IncompleteRead) as cut:
        it.ask(stream=True)
    assert cut.value.partial == b"".join(WORDS[:6])
    assert sum(len(each.asked) for each in it.replicas) == 1 + stream_keeper.MOST_FRUITLESS
    assert it.keeper.facts().cut == 1


@pytest.mark.needs("cpu")
def test_it_waits_for_a_replica_to_come_back(front):
    it = front(Replica("a", does=ends_at(3)))
    replica = it.replicas[0]

    def goes(each: Replica, at: int) -> str:
        if at != 3 or len(each.asked) > 1:
            return ""
        it.proxy.publish([])
        threading.Timer(0.5, it.publish, [each]).start()
        return "now"

    replica.does = goes
    assert it.ask(stream=True) == (200, WHOLE)


@pytest.mark.needs("cpu")
def test_a_client_that_leaves_frees_its_replica(front):
    it = front(Replica("a"))
    replica = it.replicas[0]

    def waits(each: Replica, at: int) -> str:
        if at >= 3:
            time.sleep(0.02)
        return "now" if each.asked[0].left.is_set() else ""

    replica.does = waits
    with closing(it.connection()) as connection:
        connection.request("POST", CHAT, json.dumps({"stream": True, "words": "many"}))
        answer = connection.getresponse()
        assert answer.read(len(WORDS[0])) == WORDS[0]
        answer.close()
    until(lambda: replica.asked[0].left.is_set())
    assert it.keeper.facts() == KeeperFacts()


@pytest.mark.needs("cpu")
def test_without_a_token_nothing_is_kept(front):
    it = front(Replica("a"), tokens=["t" * 32])
    assert it.ask(stream=True)[0] == 200
    (asked,) = it.replicas[0].asked
    assert asked.body == b"", "the replica refuses it by its headers"
    assert it.ask({"authorization": "Bearer " + "t" * 32}, stream=True) == (200, WHOLE)


@pytest.mark.needs("cpu")
def test_a_drain_lets_open_streams_end(front):
    it = front(Replica("a"))
    replica, begun = it.replicas[0], threading.Event()

    def waits(each: Replica, at: int) -> str:
        if at == 3:
            begun.set()
            assert each.goes_on.wait(30)
        return ""

    replica.does = waits
    got: list[object] = []
    asks = threading.Thread(target=lambda: got.append(it.ask(stream=True)))
    asks.start()
    assert begun.wait(30)
    drain = it.proxy.begin_drain(within_s=30)
    time.sleep(0.2)
    assert drain.look() is None
    replica.goes_on.set()
    asks.join(30)
    assert got == [(200, WHOLE)]
    until(lambda: drain.look() == 0)


@pytest.mark.long
def test_each_try_is_in_the_access_log_once(front):
    it = front(Replica("a", does=ends_at(5)))
    it.ask(stream=True)
    log = it.proxy.settings.access_log
    assert log is not None
    until(lambda: len(log.read_text().splitlines()) == 2)
    for line in map(json.loads, log.read_text().splitlines()):
        assert line["replica"] == f"127.0.0.1:{it.replicas[0].port}"


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_new_requests_go_on_while_the_keeper_is_silent(front):
    it = front(Replica("a"))
    stopped, goes_on = threading.Event(), threading.Event()

    def stop() -> None:
        stopped.set()
        goes_on.wait(100)

    def kept() -> bool:
        with suppress(TimeoutError):
            it.ask(timeout_s=2.0)
        return bool(it.replicas[0].asked) and RESUMABLE_HEADER in it.replicas[0].asked[-1].headers

    assert kept()
    it.keeper._thread.call(stop)
    assert stopped.wait(30)
    got: list[object] = []
    held = threading.Thread(target=lambda: got.append(it.ask(stream=True)))
    held.start()
    try:
        until(lambda: not kept())
        assert it.ask(stream=True) == (200, WHOLE)
        assert not got
    finally:
        goes_on.set()
    held.join(30)
    assert got == [(200, WHOLE)], "what the keeper had waits for it"
    until(kept)


def test_a_request_that_reaches_no_replica_is_answered_with_that(tmp_path):
    from hooke.processes.channel import connect_to
    from hooke.proxy.keeper_config import KEEPER_SOCKET

    settings = ProxySettings(service="Model", folder=tmp_path)
    keeper = StreamKeeper(settings, tokens=KnownTokens(lambda: None))
    keeper.start()
    try:
        with connect_to(tmp_path / KEEPER_SOCKET) as asking:
            asking.settimeout(60)
            asking.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
            assert asking.recv(1000).startswith(b"HTTP/1.1 502 ")
    finally:
        keeper.close()
