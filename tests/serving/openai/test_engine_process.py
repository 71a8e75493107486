"""The life of an engine's process and what passes between it and clients, with a stand-in that has the faults on demand."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import psutil
import pytest
from tests.serving.openai.conftest import TOKEN, served
from tests.serving.openai.engine_checks import LIMIT_S, connections, get, samples, until

from hooke import HookeError, UsageError, from_command
from hooke.processes.devices import Devices
from hooke.services.shares import Shares
from hooke.serving.auth import ApiKey
from hooke.serving.http import OPENAI
from hooke.serving.openai import engine_client, engine_process
from hooke.serving.openai.engine_routes import usage_of
from hooke.serving.problems import REPEATABLE, RETRY_HEADER, UNTOUCHED
from hooke.serving.replica import Replica
from hooke.serving.service import service_of

ENGINE = [sys.executable, str(Path(__file__).with_name("stand_in_engine.py")), "--port", "{port}"]


@pytest.fixture(scope="module")
def engine():
    with served(from_command("stand_in", ENGINE, timeout="60s")) as made:
        yield made


def ask(engine, path, body=b"", headers=None, token=TOKEN):
    """Status, headers and body of a POST."""
    given = {"authorization": f"Bearer {token}", "content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(engine.address + path, body, given, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_the_engine_gets_what_was_sent_and_nothing_of_the_gate(engine):
    sent = {"cookie": "a=b", "x-hooke-priority": "high", "x-request-id": "mine-1", "te": "trailers"}
    status, headers, body = ask(engine, "/v1/echo?beta=1", b'{"model": "a/b",  "x": 1.50}', sent)
    told = json.loads(body)
    assert status == 200
    assert told["body"] == '{"model": "a/b",  "x": 1.50}'
    assert told["target"] == "/v1/echo?beta=1"
    assert TOKEN not in json.dumps(told)
    assert told["headers"]["authorization"].startswith("Bearer ")
    assert told["headers"]["x-request-id"] == headers["x-request-id"] == "mine-1"
    assert not {"cookie", "te", "x-hooke-priority"} & told["headers"].keys()


@pytest.mark.parametrize("path", ["/v1/../metrics", "/v1/a/%2e%2e/b", "/v1/../../x"])
def test_no_path_leaves_the_protocol(engine, path):
    with socket.create_connection(("127.0.0.1", int(engine.address.rpartition(":")[2]))) as made:
        made.sendall(
            f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert made.recv(100).split()[1] == b"400"


def test_redirects_are_not_followed_and_errors_have_the_clients_shape(engine):
    status, headers, body = ask(engine, "/v1/redirect")
    assert status == 502
    assert "location" not in headers
    assert "307" in json.loads(body)["error"]["message"]
    status, _, body = ask(engine, "/v1/plain-error")
    assert (status, json.loads(body)["error"]["message"]) == (422, "no such field")
    status, _, body = ask(engine, "/v1/other")
    assert (status, json.loads(body)["error"]["type"]) == (404, "NotFoundError")
    status, _, body = ask(engine, "/v1/load_lora_adapter")
    assert (status, "--lora-modules" in json.loads(body)["error"]["message"]) == (403, True)
    assert ask(engine, "/v1/echo", token="wrong")[0] == 401


def test_an_answer_that_is_cut_is_cut_for_the_client(engine):
    with pytest.raises((OSError, http.client.IncompleteRead)):
        ask(engine, "/v1/half")


def test_an_answer_without_a_length_is_whole_only_if_its_connection_ends_well(engine):
    assert ask(engine, "/v1/unsized")[::2] == (200, b"begin")
    try:
        status = ask(engine, "/v1/reset")[0]
    except (OSError, http.client.HTTPException):
        status = 0  # cut, as the engine's was
    assert status in (0, 502)


@pytest.mark.needs("cpu")
def test_a_client_that_goes_ends_the_call_and_one_that_reads_slowly_stops_the_engine(engine):
    left = json.loads(get(engine, "/v1/echo"))["left"]
    request = b'{"model": "m", "messages": [], "stream": true, "max_tokens": 20000000}'
    made = socket.create_connection(("127.0.0.1", int(engine.address.rpartition(":")[2])))
    with made:
        made.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (TOKEN.encode(), len(request), request)
        )
        assert b"200 OK" in made.recv(1000)
        # Nobody reads on, so sockets fill, and memory does not.
        process = engine.replica.made._processes()[1]
        until(lambda: _stands(process), "the engine goes on")
        assert engine.replica.calls.open_calls == 1
    until(lambda: json.loads(get(engine, "/v1/echo"))["left"] == left + 1)
    assert engine.replica.calls.open_calls == 0


def _stands(process):
    """Whether it computes nothing for a while."""
    before = sum(process.cpu_times()[:2])
    time.sleep(0.5)
    return sum(process.cpu_times()[:2]) - before < 0.03


def test_tokens_are_counted_from_usage(engine):
    before = samples(engine)
    body = json.dumps({"model": "m", "messages": [], "stream": True, "max_tokens": 5}).encode()
    status, headers, events = ask(engine, "/v1/chat/completions", body)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert events.endswith(b"data: [DONE]\n\n")
    assert events.count(b"data: ") == 7
    after = samples(engine)
    grown = {name: after[name] - before.get(name, 0) for name in after if name.startswith("vllm:")}
    assert grown["vllm:prompt_tokens_total"] == 7
    assert grown["vllm:generation_tokens_total"] == 5


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}', (3, 4, 0)),
        (
            b'data: {"usage":null}\n\ndata: {"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}\n\ndata: [DONE]',
            (3, 4, 2),
        ),
        (b'{"usage": {"input_tokens": 5, "output_tokens": 6}}', (5, 6, 0)),
        (b'{"usage": {"prompt_tokens": 3', (0, 0, 0)),
        (b'{"content": "\\"usage\\": {"}', (0, 0, 0)),
        (b"", (0, 0, 0)),
    ],
)
def test_usage_is_found_where_it_is(data, expected):
    assert tuple(usage_of(data).values()) == expected


SHOP = ApiKey(client="shop", token="shop-shop-shop-shop", tokens_per_minute=1000)


@pytest.fixture(scope="module")
def limited():
    with served(from_command("limited", ENGINE, timeout="60s"), keys=(SHOP,)) as made:
        yield made


def spent(made, path, asked):
    """Status of a request with the key, and the tokens that it took, of which some come back meanwhile."""
    key = made.replica.key_rates.tokens(0, SHOP.client, SHOP.tokens_per_minute)

    def left():
        return int(key.headers(time.monotonic())["x-ratelimit-remaining-tokens"])

    made.replica.key_rates.move_tokens(0, -120.0, time.monotonic())
    before = left()
    status, answer_headers, _ = ask(made, path, json.dumps(asked).encode(), token=SHOP.token)
    until(lambda: made.replica.active == 0)
    assert status != 200 or answer_headers["x-ratelimit-limit-tokens"] == "1000"
    return status, before - left()


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("path", "asked", "status", "expected"),
    [
        ("/v1/chat/completions", {"max_tokens": 400}, 200, 407),
        ("/v1/chat/completions", {"max_tokens": 400, "counted": False}, 200, 409),
        ("/v1/chat/completions", {"max_tokens": 400, "prompt": "x" * 2300}, 200, 407),
        ("/v1/chat/completions", {"max_tokens": 400, "prompt": "data:" + "x" * 9000}, 200, 407),
        ("/v1/chat/completions", {"max_tokens": 400, "prompt": "x" * 2600}, 400, 0),
        ("/v1/chat/completions", {"max_tokens": 400, "n": 3}, 400, 0),
        ("/v1/chat/completions", {"max_completion_tokens": 1001}, 400, 0),
        ("/v1/chat/completions", {"max_tokens": -5000, "prompt": "x" * 4100}, 400, 0),
        ("/v1/embeddings", {"input": "x" * 2000}, 200, 3),
        ("/v1/plain-error", {"max_tokens": 400}, 422, 0),
        ("/v1/redirect", {"max_tokens": 400}, 502, 0),
    ],
)
def test_a_request_takes_the_tokens_of_its_key_that_it_used(limited, path, asked, status, expected):
    said, took = spent(limited, path, asked)
    assert said == status
    assert expected - 200 <= took <= expected + 2, "some come back with time"


def test_a_key_without_tokens_waits(limited):
    limited.replica.key_rates.move_tokens(0, 59.0, time.monotonic())
    body = json.dumps({"max_tokens": 500}).encode()
    status, headers, said = ask(limited, "/v1/chat/completions", body, token=SHOP.token)
    assert (status, json.loads(said)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["retry-after"]) > 10
    assert ask(limited, "/v1/chat/completions", body)[0] == 200, "other keys do not"


@pytest.mark.needs("cpu")
def test_a_client_that_leaves_pays_for_what_came(limited):
    key = limited.replica.key_rates
    key.move_tokens(0, -120.0, time.monotonic())
    with limited.client(SHOP.token) as client:
        stream = client.chat.completions.create(
            model="m", messages=[], max_tokens=900, stream=True, extra_body={"gap_s": 0.01}
        )
        for _ in zip(range(100), stream, strict=False):
            pass
        assert key.tokens_ahead_s(0, time.monotonic()) > 40, "all that it asked for is reserved"
        stream.close()
    until(lambda: limited.replica.active == 0)
    assert 0 < key.tokens_ahead_s(0, time.monotonic()) < 40


@pytest.mark.needs("cpu")
def test_nothing_is_silent_for_longer_than_the_timeout():
    with served(from_command("silent", ENGINE, timeout="0.3s", most_requests=1)) as made:
        status, _, body = ask(made, "/v1/silence")
        assert status == 504
        assert "0.3 s" in json.loads(body)["error"]["message"]
        until(lambda: connections(made) == 0)


@pytest.mark.needs("cpu")
def test_an_engine_with_enough_refuses_more():
    with served(from_command("full", ENGINE, timeout="60s", most_requests=1)) as made:
        waiting = threading.Thread(target=ask, args=(made, "/v1/silence"))
        waiting.start()
        until(lambda: made.replica.calls.open_calls == 1)
        status, headers, body = ask(made, "/v1/echo")
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(body)["error"]["type"]
        made.replica.made._processes()[1].kill()
        waiting.join()
        until(lambda: made.replica.failure is not None)


@pytest.mark.needs("cpu")
def test_while_it_starts_requests_wait_and_a_start_that_takes_too_long_is_ended(tmp_path):
    slow = from_command(
        "slow", [*ENGINE, "--starts-after", "60", "--child", str(tmp_path / "pids")], start_timeout="5s"
    )
    with (
        pytest.raises(HookeError, match=r"not ready within .*: /health answers 503") as refused,
        served(slow),
    ):
        pass
    assert "stands in" in refused.value.why
    assert refused.value.fix
    assert _ended(tmp_path / "pids")


def _pids(file):
    return [int(pid) for line in file.read_text().splitlines() for pid in line.split()[:2]]


def _ended(file):
    until(
        lambda: (
            not [
                pid
                for pid in _pids(file)
                if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            ]
        )
    )
    return True


@pytest.mark.needs("cpu")
def test_an_engine_that_dies_says_why_and_leaves_nothing(tmp_path):
    with served(
        from_command("dying", [*ENGINE, "--child", str(tmp_path / "pids")], timeout="60s", idempotent=False)
    ) as made:
        status, _, body = ask(made, "/v1/die")
        assert (status, "did not answer" in json.loads(body)["error"]["message"]) == (502, True)
        until(lambda: made.replica.failure is not None)
        assert "exit code 17" in made.replica.failure.what
        assert "no memory for the cache" in made.replica.failure.log_tail
        status, headers, body = ask(made, "/v1/echo")
        assert (status, headers["retry-after"]) == (503, "1")
        assert "exit code 17" in json.loads(body)["error"]["message"]
        assert _ended(tmp_path / "pids"), "also what has left its session"


@pytest.mark.needs("cpu")
def test_another_replica_may_have_what_a_dead_engine_did_not_answer():
    with served(from_command("again", ENGINE, timeout="60s")) as made:
        status, headers, body = ask(made, "/v1/die")
        assert (status, headers[RETRY_HEADER]) == (503, REPEATABLE)
        assert "did not answer" in json.loads(body)["error"]["message"]
        until(lambda: made.replica.failure is not None)
        status, headers, _ = ask(made, "/v1/echo")
        assert (status, headers[RETRY_HEADER]) == (503, UNTOUCHED)


@pytest.mark.needs("cpu")
def test_another_replica_may_have_what_was_not_sent_also_of_a_service_that_is_not_idempotent(monkeypatch):
    monkeypatch.setattr(engine_client, "IDLE_S", 0.0)  # no connection is used twice
    with served(from_command("unreached", ENGINE, timeout="60s", idempotent=False)) as made:
        made.replica.made._port = 1  # nobody listens there
        status, headers, _ = ask(made, "/v1/echo")
        assert (status, headers[RETRY_HEADER]) == (503, UNTOUCHED)


@pytest.mark.needs("cpu")
def test_a_stream_that_the_engine_breaks_off_ends_with_an_error(tmp_path):
    with served(from_command("breaking", ENGINE, timeout="60s")) as made, made.client() as client:
        stream = client.chat.completions.create(
            model="m", messages=[], max_tokens=9, stream=True, extra_body={"dies_after": 3}
        )
        with pytest.raises(openai.APIError, match="the engine did not answer"):
            list(stream)


@pytest.mark.needs("cpu")
def test_a_unix_socket_needs_no_port():
    command = [*ENGINE[:2], "--uds", "{socket}"]
    with served(from_command("by_socket", command)) as made:
        assert ask(made, "/v1/echo")[0] == 200
        folder = Path(made.replica.made._socket).parent
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


@pytest.mark.needs("cpu")
def test_another_process_on_the_port_is_not_taken_for_the_engine():
    """The command does not listen on its port, and another process does."""
    with subprocess.Popen([*ENGINE[:2], "--port", "0"]) as other:
        until(
            lambda: [
                one for one in psutil.Process(other.pid).net_connections("tcp") if one.status == "LISTEN"
            ]
        )
        (port,) = {one.laddr.port for one in psutil.Process(other.pid).net_connections("tcp")}
        chat = from_command("wrong", ["sleep", "{port}"])
        try:
            with pytest.raises(HookeError, match="something else does"), served_at(chat, port):
                pass
        finally:
            other.kill()


def served_at(chat, port):
    """As `served`, with a port that was free when the engine began."""
    patch = pytest.MonkeyPatch()
    patch.setattr(engine_process, "free_port", lambda: port)
    return _Undone(served(chat), patch)


class _Undone:
    def __init__(self, inner, patch):
        self.inner, self.patch = inner, patch

    def __enter__(self):
        try:
            return self.inner.__enter__()
        finally:
            self.patch.undo()

    def __exit__(self, *error):
        return self.inner.__exit__(*error)


def test_a_program_that_is_not_there_is_named():
    with (
        pytest.raises(UsageError, match="no program 'vlllm'"),
        served(from_command("lost", "vlllm serve --port {port}")),
    ):
        pass


@pytest.mark.needs("cpu")
def test_it_ends_with_the_process_that_serves(tmp_path):
    """`hooke serve` in one process, killed: the engine, and a process of its own session, end."""
    (tmp_path / "hooke.toml").touch()
    command = [*ENGINE, "--child", str(tmp_path / "pids")]
    (tmp_path / "chat.py").write_text(
        f"from hooke import from_command\nchat = from_command('chat', {command!r})\n"
    )
    said = tmp_path / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hooke", "serve", "chat.py", "--port", "0"],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: process.poll() is not None or "chat answers" in said.read_text())
        assert process.poll() is None, said.read_text()
        assert "/v1/models" in said.read_text()
        os.kill(process.pid, signal.SIGKILL)
        assert _ended(tmp_path / "pids")
    finally:
        process.kill()
        process.wait()


@pytest.mark.needs("cpu")
def test_a_process_whose_engine_dies_ends_and_says_why(tmp_path):
    (tmp_path / "hooke.toml").touch()
    command = [*ENGINE, "--child", str(tmp_path / "pids")]
    (tmp_path / "chat.py").write_text(
        f"from hooke import from_command\nchat = from_command('chat', {command!r})\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "hooke", "serve", "chat.py", "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "chat answers" in line:
                os.kill(_pids(tmp_path / "pids")[0], signal.SIGTERM)
        assert process.wait(LIMIT_S) != 0
    assert "the engine of chat ended: it was killed by SIGTERM" in "".join(lines)


@pytest.mark.needs("cpu")
def test_one_command_gets_as_many_gpus_as_it_says_and_no_other_has_them(tmp_path):
    chat = from_command("chat", [*ENGINE, "--child", str(tmp_path / "pids")], gpus=2, replicas=2)
    shares = Shares(service_of(chat), 2, devices=Devices(("0", "1", "2", "3")))
    given = [shares.take(name).environment["CUDA_VISIBLE_DEVICES"] for name in "ab"]
    assert given == ["0,1", "2,3"]
    with pytest.raises(UsageError, match=r"2 GPUs a replica, 4 with 2, and this machine has 3"):
        Shares(service_of(chat), 2, devices=Devices(("0", "1", "2")))
    patch = pytest.MonkeyPatch()
    patch.setenv("CUDA_VISIBLE_DEVICES", given[1])
    try:
        with served(chat):
            assert (tmp_path / "pids").read_text().split()[2] == "2,3", "the engine sees them"
    finally:
        patch.undo()


@pytest.mark.needs("cpu")
def test_an_engine_that_hangs_is_noticed_though_nobody_asks_it(monkeypatch):
    monkeypatch.setattr(engine_process, "WATCH_S", 0.05)
    monkeypatch.setattr(engine_process, "ASK_S", 0.5)
    monkeypatch.setattr(engine_process, "MOST_MISSED", 3)
    with served(from_command("hung", ENGINE, timeout="600s", idempotent=True)) as made:
        under_way = []
        waiting = threading.Thread(target=lambda: under_way.append(ask(made, "/v1/silence")))
        waiting.start()
        until(lambda: made.replica.calls.open_calls == 1)
        engine = made.replica.made._processes()[1]
        engine.suspend()
        try:
            until(lambda: made.replica.failure is not None)
            assert "the engine of hung hangs: /health" in made.replica.failure.what
            assert "stands in" in made.replica.failure.log_tail
            waiting.join()
            status, headers, body = under_way[0]
            assert (status, headers[RETRY_HEADER]) == (503, REPEATABLE)
            assert "hangs" in json.loads(body)["error"]["message"]
            assert ask(made, "/v1/echo")[0] == 503
            assert not made.replica.ready
        finally:
            engine.resume()
        engine.kill()
        engine.wait()
        assert "hangs" in made.replica.failure.what, "the first reason stays"


@pytest.mark.needs("cpu")
def test_an_engine_that_sends_tokens_does_not_hang_whatever_its_readiness_says(monkeypatch):
    monkeypatch.setattr(engine_process, "WATCH_S", 0.1)
    monkeypatch.setattr(engine_process, "MOST_MISSED", 1000)
    command = [*ENGINE, "--sick", "2"]
    with served(from_command("busy", command, timeout="60s")) as made, made.client() as client:
        events = iter(
            client.chat.completions.create(
                model="m", messages=[], max_tokens=40, stream=True, extra_body={"gap_s": 0.05}
            )
        )
        next(events)
        monkeypatch.setattr(engine_process, "MOST_MISSED", 10)  # half of the time that the others take
        assert len(list(events)) == 40, "39 tokens and the usage"
        until(lambda: made.replica.failure is not None)
        assert "/health answers 503" in made.replica.failure.what


def test_an_asgi_server_is_told_that_it_cannot_run_a_command():
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    asyncio.run(Replica(service_of(from_command("chat", ENGINE)))({"type": "lifespan"}, receive, send))
    assert [each["type"] for each in sent] == ["lifespan.startup.failed"]
    assert "an ASGI server cannot run chat" in sent[0]["message"]
    assert "hooke serve" in sent[0]["message"]


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("name", "command", "options", "said"),
    [
        ("a b", "x {port}", {}, "not a name"),
        ("chat", "x 'y {port}", {}, "cannot be split"),
        ("chat", "", {}, "not a command"),
        ("chat", "vllm serve m", {}, "no {port}"),
        ("chat", "vllm --port {port}", {"ready": "health"}, "not a path"),
        ("chat", "vllm --port {port}", {"metrics": "a b"}, "not a path"),
        ("chat", "vllm --port {port}", {"most_requests": 0}, "most_requests"),
        ("chat", "vllm --port {port}", {"concurrency": 0}, "concurrency"),
        ("chat", "vllm --port {port}", {"concurrency": 9, "most_requests": 8}, "no replica would be added"),
        ("chat", "vllm --port {port}", {"gpus": 1.5}, "GPUs"),
        ("chat", "vllm --port {port}", {"timeout": 0}, "timeout"),
    ],
)
def test_what_cannot_be_a_command_is_refused(name, command, options, said):
    with pytest.raises(UsageError) as refused:
        from_command(name, command, **options)
    assert said in str(refused.value)
    assert refused.value.fix


@pytest.mark.needs("cpu")
def test_braces_of_json_stay():
    chat = from_command("chat", """vllm serve m --port {port} --lora-modules '{"name": "a", "path": "b"}'""")
    assert service_of(chat).command.words[-1] == '{"name": "a", "path": "b"}'
    assert chat.__module__ == __name__
    assert OPENAI == "/v1/"
