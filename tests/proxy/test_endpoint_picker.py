"""The real Envoy asks the endpoint picker where a prompt goes: shares, leaving replicas, retries, forged headers, and a picker that is gone or hangs."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.proxy.stand import until

from hooke.base.errors import UsageError
from hooke.generation.prompt_balancer import MOST_TOKENS, SHORTEST
from hooke.generation.token_scheduler import TokenLoad
from hooke.processes.channel import listen_at
from hooke.proxy import endpoint_picker, picker_config
from hooke.proxy.endpoint_picker import EndpointPicker
from hooke.proxy.envoy import Proxy
from hooke.proxy.known_tokens import KnownTokens
from hooke.proxy.picker_config import (
    EJECTED_S,
    PICKER_SOCKET,
    REPLICAS_HEADER,
    SEEN_BYTES,
    SESSION_HEADER,
    WITHIN_S,
)
from hooke.proxy.proxy_settings import ProxySettings, Upstream
from hooke.serving.problems import VERSION_HEADER

CHAT = "/v1/chat/completions"
TOKEN = "t" * 32


class Replica:
    """Answers with its name, and with the number of bytes that it got; a stream if it is asked for one."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, 0
        self.heads: list[dict[str, str]] = []
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                replica.heads.append({key.lower(): value for key, value in self.headers.items()})
                said = json.dumps([replica.name, len(body)]).encode()
                self.send_response(200)
                if b'"stream"' not in body:
                    self.send_header("content-length", str(len(said)))
                    self.end_headers()
                    self.wfile.write(said)
                    return
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for _ in range(2):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(said), said))
                    self.wfile.flush()
                    replica.goes_on.wait(20)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self.goes_on = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"


class Front:
    """Envoy, a picker and replicas in this process."""

    def __init__(self, folder, replicas: str = "abc") -> None:
        self.folder = folder
        folder.mkdir()
        self.replicas = {name: Replica(name) for name in replicas}
        self.tokens: list[str] | None = None
        self.loads: dict[str, int] = {}
        self.picker = self.started_picker()
        self.proxy = Proxy(ProxySettings(service="Model", folder=folder, unhurried=(CHAT,), prompts=(CHAT,)))
        self.proxy.start()

    def started_picker(self) -> EndpointPicker:
        made = EndpointPicker(self.folder, tokens=KnownTokens(self.known))
        made.start()
        return made

    def known(self) -> list[str] | None:
        if self.tokens == []:
            raise UsageError("no token can be read")
        return self.tokens

    def publish(
        self, names: str, *, new: str = "", share: float | None = None, more: dict[str, int] | None = None
    ) -> None:
        ports = {name: self.replicas[name].port for name in names} | (more or {})
        self.published = ({name: f"127.0.0.1:{port}" for name, port in ports.items()},)
        self.versions = {"new": new, "share": share}
        self.loads = {}
        self.report()
        self.proxy.publish(
            [
                Upstream(port=port, version="n" if name in new else "o", new=name in new)
                for name, port in ports.items()
            ],
            share=share,
        )

    def report(self, **tokens: int) -> None:
        """What the replicas have to do; those that are not named keep what they had. Returns once that is known."""
        self.loads |= tokens
        for name, replica in self.replicas.items():
            held = self.loads.get(name, 0)
            taken = [(head["x-request-id"], 100) for head in replica.heads]
            replica.heads.clear()
            load = TokenLoad(running=bool(held), held_tokens=held, memory_tokens=100_000)
            self.picker.report(name, load, taken=taken, open_calls=0)
        self.picker.publish(*self.published, **self.versions)  # behind the reports

    def ask(
        self,
        text: str = "hello",
        path: str = CHAT,
        headers: dict[str, str] | None = None,
        more: dict[str, int] | None = None,
    ) -> str:
        """Who answered; the body came whole."""
        body = json.dumps({"messages": [{"role": "user", "content": text}], **(more or {})}).encode()
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.proxy.settings.port, timeout=20)
        ) as connection:
            connection.request("POST", path, body, {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status == 200, said
        name, size = json.loads(said)
        assert size == len(body)
        self.seen = self.replicas[name].heads[-1]
        self.report()
        return name

    def unrouted(self) -> int:
        return self.proxy.stats().unrouted

    def close(self) -> None:
        self.proxy.stop()
        self.picker.close()
        for each in self.replicas.values():
            each.goes_on.set()
            each.server.shutdown()
            each.server.server_close()


@contextmanager
def fronting(folder, replicas="abc"):
    front = Front(folder / "front", replicas)
    try:
        yield front
    finally:
        front.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picker_config, "WITHIN_S", 20.0)  # half a second is short on a busy machine
        with fronting(tmp_path_factory.mktemp("picker")) as made:
            yield made


def test_what_begins_alike_goes_to_one_replica_and_long_bodies_arrive_whole(front):
    front.publish("abc")
    for text in ("p" * 3 * SHORTEST, "q" * 3 * SEEN_BYTES):
        assert len({front.ask(text + str(number)) for number in range(6)}) == 1
    assert front.unrouted() == 0
    assert front.picker.facts().known > 5 * 3 * SEEN_BYTES // 512


def test_the_tokens_to_do_decide_where_something_new_goes(front):
    front.publish("abc")
    front.report(a=9000, b=200, c=8000)
    assert front.picker.load("b") == 200
    assert front.ask("something new") == "b"


def test_no_client_chooses_its_replica_but_by_a_session(front):
    front.publish("abc")
    front.report(a=9000, b=10, c=10)
    forged = {REPLICAS_HEADER: front.replicas["a"].place, "x-hooke-body-size": "1"}
    assert "a" not in {front.ask(str(number), headers=forged) for number in range(10)}
    home = front.ask("s", headers={SESSION_HEADER: "s"})
    found = {front.ask(f"{number}", headers={SESSION_HEADER: "s"}) for number in range(10)}
    assert found == {home}
    assert "x-hooke-body-size" not in front.seen, "the front's own headers stay there"


@pytest.mark.parametrize("given", ["one", "no id of ours", "x" * 5000, "{}"])
def test_the_picker_and_the_replica_see_one_id_of_a_request(front, given):
    front.publish("a")
    front.report(a=100)
    front.ask(headers={"x-request-id": given})
    assert (front.seen["x-request-id"] == given) == (given == "one")
    assert front.picker.load("a") == 100, "the replica's report counts for what was sent"


def test_no_numbers_of_a_client_end_or_skew_the_routing_of_others(front):
    front.publish("abc")
    asked = front.picker.facts().prompts
    for number in (10**400, 10**12, -(10**400), 10**4000):
        front.ask("much", more={"n": number, "max_tokens": number})
        assert max(front.picker.load(name) for name in "abc") <= MOST_TOKENS
    assert front.unrouted() == 0
    assert front.picker.facts().prompts == asked + 4


def test_a_body_that_cannot_be_read_goes_as_one_without_a_prompt_and_is_counted(front, monkeypatch):
    def failing(body: bytes, **_: object) -> None:
        raise ZeroDivisionError(len(body))

    front.publish("abc")
    monkeypatch.setattr(endpoint_picker, "read_prompt", failing)
    home = front.ask(headers={SESSION_HEADER: "unread"})
    assert {front.ask(headers={SESSION_HEADER: "unread"}) for _ in range(5)} == {home}
    assert front.picker.facts().unread == 6
    assert front.unrouted() == 0


def test_other_paths_are_balanced_as_ever_and_nobody_is_asked(front):
    front.publish("abc")
    asked = front.picker.facts().prompts
    assert {front.ask(path="/v1/embeddings") for _ in range(40)} == set("abc")
    assert front.picker.facts().prompts == asked


@pytest.mark.needs("cpu")
def test_a_version_on_trial_keeps_its_share(front):
    front.publish("abc", new="c", share=0.1)
    found = Counter(front.ask(f"{number}") for number in range(60))
    assert found["c"] == 6
    assert {front.ask(headers={VERSION_HEADER: "new"}) for _ in range(5)} == {"c"}
    assert "c" not in {front.ask(headers={VERSION_HEADER: "old"}) for _ in range(10)}


def test_a_replica_that_leaves_gets_nothing_and_its_sessions_move(front):
    front.publish("abc")
    home = front.ask(headers={SESSION_HEADER: "mine"})
    staying = "".join(name for name in "abc" if name != home)
    front.publish(staying)
    found = {front.ask(headers={SESSION_HEADER: "mine"}) for _ in range(10)}
    assert len(found) == 1
    assert home not in found
    assert front.picker.facts().moved >= 1


@pytest.mark.needs("cpu")
def test_a_replica_that_cannot_be_reached_is_followed_by_the_next(front):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        front.publish("ab", more={"dead": taken.getsockname()[1]})
        front.report(a=9000, b=9000)
        before = front.proxy.stats().retries
        assert {front.ask(f"{number}") for number in range(10)} <= set("ab")
        assert front.proxy.stats().retries > before


@pytest.mark.needs("cpu")
def test_a_stream_is_passed_on_as_it_comes(front):
    front.publish("a")
    body = b'{"stream":true,"messages":[]}'
    with closing(
        http.client.HTTPConnection("127.0.0.1", front.proxy.settings.port, timeout=20)
    ) as connection:
        connection.request("POST", CHAT, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        first = answer.read(len('["a", 29]'))
        assert json.loads(first) == ["a", len(body)], "before the replica says more"
        front.replicas["a"].goes_on.set()
        assert json.loads(answer.read()) == ["a", len(body)]


@pytest.mark.needs("cpu")
def test_who_has_no_token_changes_nothing(front):
    front.publish("abc")
    front.tokens = [TOKEN]
    time.sleep(1.1)  # the files are looked at once a second
    asked = front.picker.facts().prompts
    front.ask()
    front.ask(headers={"authorization": "Bearer wrong"})
    assert front.picker.facts().prompts == asked
    front.ask(headers={"authorization": f"bearer  {TOKEN}"})
    assert front.picker.facts().prompts == asked + 1
    front.tokens = []
    time.sleep(1.1)
    front.ask(headers={"authorization": f"Bearer {TOKEN}"})
    assert front.picker.facts().prompts == asked + 1
    front.tokens = None


@pytest.mark.needs("cpu")
def test_requests_go_on_without_a_picker_and_that_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(picker_config, "WITHIN_S", WITHIN_S)
    with fronting(tmp_path, "ab") as front:
        front.publish("ab")
        front.ask()
        front.picker.close()
        assert {front.ask(f"{number}") for number in range(20)} == set("ab")
        assert front.unrouted() == 20
        with listen_at(front.folder / PICKER_SOCKET):  # one that accepts, and says nothing
            time.sleep(EJECTED_S + 1)
            began = time.monotonic()
            for number in range(20):
                front.ask(f"{number}")
            assert front.unrouted() == 40
            assert time.monotonic() - began < 20 * WITHIN_S, "it is not waited for each time"
        (front.folder / PICKER_SOCKET).unlink()
        front.picker = front.started_picker()
        front.publish("ab")
        until(lambda: front.ask() and front.picker.facts().prompts > 0)
