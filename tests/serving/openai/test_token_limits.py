"""What one client may take from others: tokens a minute of a key, memory by not reading, places by leaving, and time by what comes too late."""

import dataclasses
import itertools
import json
import math
import re
import socket
import threading
import time

import numpy as np
import openai
import pytest
from tests.serving.answers import wait_until
from tests.serving.openai.conftest import TOKEN, served
from tests.serving.openai.paged_model import Paged

from hooke import service
from hooke.base.errors import ConfigError, UsageError
from hooke.project.folder import Project
from hooke.services.serve_file import api_keys
from hooke.services.supervisor.control_channel import decode_from_child
from hooke.services.supervisor.replica_events import ReplicaMember, Rules
from hooke.services.supervisor.replica_process import ReplicaReporter
from hooke.serving.auth import ApiKey
from hooke.serving.limits import ConnectionLimits, KeyRates, TokenReservation
from hooke.serving.problems import Problem
from hooke.serving.service import service_of
from hooke.serving.slo import Slo, parse_slo

SHOP = ApiKey(client="shop", token="shop-shop-shop-shop", tokens_per_minute=200)
ASKED = {"model": "Paged", "prompt": "x" * 50, "temperature": 0}


@pytest.fixture(scope="module")
def limited():
    with served(keys=(SHOP,), connection_limits=ConnectionLimits(stall_s=1.0), slots=4, pages=240) as made:
        yield made


def engine_of(it):
    return it.replica._openai._engine


def eventually(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def free_pages(it):
    return engine_of(it).scheduler.pool.free


# --- Tokens a minute.


@pytest.mark.needs("cpu")
def test_a_key_has_so_many_tokens_a_minute_and_gets_back_what_it_did_not_use(limited):
    client = limited.client(SHOP.token)
    raw = client.completions.with_raw_response
    first = raw.create(**ASKED, max_tokens=100, stop=["x"])
    used = first.parse().usage.total_tokens
    assert first.headers["x-ratelimit-limit-tokens"] == "200"
    assert 200 - used <= int(first.headers["x-ratelimit-remaining-tokens"]) <= 200 - used + 20
    assert first.headers["x-ratelimit-reset-tokens"].endswith("s")
    while True:
        try:
            raw.create(**ASKED, max_tokens=60)
        except openai.RateLimitError as error:
            refused = error
            break
    assert refused.code == "rate_limit_exceeded"
    assert "more than 200 tokens a minute with the key of shop" in refused.message
    assert 1 <= int(refused.response.headers["retry-after"]) <= 60
    assert int(refused.response.headers["x-ratelimit-remaining-tokens"]) < 110
    with limited.client() as other:
        answer = other.completions.with_raw_response.create(**ASKED)
    assert "x-ratelimit-limit-tokens" not in answer.headers, "the service's own token has no limit"
    with pytest.raises(openai.BadRequestError, match="has 200 a minute") as never:
        client.completions.create(**ASKED, max_tokens=160)
    assert never.value.code == "request_too_large"


def test_what_a_key_refuses_is_no_load(limited):
    windows, calls = limited.replica.dispatch.windows, limited.replica.calls
    before = windows.arrived, windows.refused, calls.called
    refusals = 0
    with limited.client(SHOP.token) as client:
        while refusals < 3:
            try:
                client.completions.create(**ASKED, max_tokens=100)
            except openai.RateLimitError:
                refusals += 1
            else:
                before = windows.arrived, windows.refused, calls.called
    wait_until(lambda: (windows.arrived, windows.refused, calls.called) == before)


def test_replicas_share_the_tokens_of_a_key(tmp_path):
    path = tmp_path / "limits"
    KeyRates.create(path)
    one, other = (KeyRates(path).tokens(3, "shop", 600) for _ in range(2))
    now = time.monotonic()
    first = TokenReservation(one)
    first.begin(100, 300, now)
    with pytest.raises(Problem) as refused:
        TokenReservation(other).begin(100, 200, now)
    assert refused.value.retry_after_s == pytest.approx(10.0)
    first.end(100, 50, now)
    TokenReservation(other).begin(100, 200, now)
    assert one.headers(now)["x-ratelimit-remaining-tokens"] == "150"
    assert other.headers(now + 15)["x-ratelimit-remaining-tokens"] == "300"
    late = TokenReservation(one)
    late.end(0, 0, now)
    late.begin(100, 400, now)  # its client left before it began: nothing is taken
    assert one.headers(now)["x-ratelimit-remaining-tokens"] == "150"


def test_an_answer_without_a_limit_owes_what_it_has_above_its_reservation():
    tokens = KeyRates().tokens(0, "shop", 600)
    now = time.monotonic()
    held = TokenReservation(tokens)
    held.begin(100, None, now)
    assert tokens.headers(now)["x-ratelimit-remaining-tokens"] == "244"
    held.go_on(100, 256, now)
    assert tokens.headers(now)["x-ratelimit-remaining-tokens"] == "244"
    held.go_on(100, 257, now)
    assert tokens.headers(now)["x-ratelimit-remaining-tokens"] == "0"
    held.end(100, 400, now)
    assert tokens.headers(now)["x-ratelimit-remaining-tokens"] == "100"


def test_a_debt_is_paid_whole_however_long_that_takes(tmp_path):
    path = tmp_path / "limits"
    KeyRates.create(path)
    tokens = KeyRates(path).tokens(0, "shop", 600)
    now = time.monotonic()
    held = TokenReservation(tokens)
    held.begin(100, None, now)
    held.end(100, 11_900, now)  # 20 minutes
    with pytest.raises(Problem) as refused:
        KeyRates(path).tokens(0, "shop", 600).take(1, now + 600)
    assert refused.value.retry_after_s == pytest.approx(540.1)
    tokens.take(1, now + 1141)
    held = TokenReservation(tokens)
    held.begin(0, None, now + 2000)
    held.end(0, 50_000, now + 2000)
    tokens.take(600, now)  # the machine was started again: its clock is behind what was written


def test_several_answers_pay_for_their_prompt_once():
    key = dataclasses.replace(SHOP, tokens_per_minute=100_000)
    with served(keys=(key,)) as it, it.client(SHOP.token) as client:
        said = client.completions.with_raw_response.create(
            **ASKED | {"prompt": "x" * 300}, n=20, max_tokens=5
        )
        usage = said.parse().usage
        assert usage.prompt_tokens == 300
        left = int(said.headers["x-ratelimit-remaining-tokens"])
    assert left >= 100_000 - usage.total_tokens, "some may have come back while it ran"


def test_embeddings_are_paid_before_they_are_computed():
    key = dataclasses.replace(SHOP, tokens_per_minute=1000)
    with served(keys=(key,)) as it, it.client(SHOP.token) as client:
        embed, model, parts = it.model.embed, it.model, []
        raw = client.embeddings.with_raw_response

        def noted(texts):
            parts.append(len(texts))
            return embed(texts)

        model.embed = noted
        said = raw.create(model="Paged", input=["aaaa"] * 70)
        assert [each.embedding[0] for each in said.parse().data] == [4.0] * 70
        assert said.parse().usage.prompt_tokens == 280
        assert 720 <= int(said.headers["x-ratelimit-remaining-tokens"]) < 1000
        assert parts == [32, 32, 6]
        with pytest.raises(openai.BadRequestError, match="1000 a minute"):
            client.embeddings.create(model="Paged", input="a" * 1001)
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="Paged", input="a" * 1000)
        assert parts == [32, 32, 6]
        model.embed = lambda texts: embed(texts)[0]
        with pytest.raises(openai.InternalServerError):
            client.embeddings.create(model="Paged", input="a" * 500)
        model.embed = embed
        client.embeddings.create(model="Paged", input="a" * 500)


# --- Prompts, which are encoded between two steps.


def test_a_prompt_is_encoded_once_and_steps_go_on_between_prompts():
    with served() as it, it.client() as client:
        encode, step, model, done = it.model.encode, it.model.step, it.model, []

        def slowly(prompt):
            time.sleep(0.02)
            done.append("encode")
            return encode(prompt)

        def noted(pieces):
            done.append("step")
            return step(pieces)

        model.encode, model.step = slowly, noted
        made = client.completions.create(**ASKED | {"prompt": ["a", "b", "c"]}, n=20, max_tokens=1)
        assert len(made.choices) == 60
        assert done.count("encode") == 3
        assert ("encode", "encode") not in itertools.pairwise(done)
        model.encode = encode = lambda prompt: done.append("failed") or [0.5]
        with pytest.raises(openai.InternalServerError, match="encode raised"):
            client.completions.create(**ASKED, n=20)
        assert done.count("failed") == 1


def test_only_language_models_count_tokens(tmp_path):
    @service
    class Plain:
        def predict(self, x: int) -> int:
            return x

    (tmp_path / "a").write_text("token-of-a-token-of-a\n")
    (tmp_path / "a").chmod(0o600)
    settings = '[services.{}.keys.a]\nfile = "a"\ntokens_per_minute = 5000\n'
    (tmp_path / "hooke.toml").write_text(settings.format("Plain") + settings.format("Paged"))
    made = Project.at(tmp_path)
    assert api_keys(service_of(Paged), made)[0].tokens_per_minute == 5000
    with pytest.raises(ConfigError, match="only language models count tokens"):
        api_keys(service_of(Plain), made)


# --- Clients that leave, and clients that do not read.


def stream_of(it, **more) -> socket.socket:
    """A raw stream, whose client has asked and not read yet."""
    port = int(it.address.rpartition(":")[2])
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    body = json.dumps({**ASKED, "stream": True, **more}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def test_a_client_that_leaves_frees_its_place_and_its_pages(limited):
    engine, model = engine_of(limited), limited.model
    wait_until(lambda: not engine.scheduler.running)
    free = free_pages(limited)
    step, go = model.step, threading.Event()

    def held(pieces):
        go.wait(0.02)
        return step(pieces)

    model.step = held  # answers take seconds
    clients = []
    try:
        endless = {"prompt": "tell 3", "max_tokens": 300, "logit_bias": {"256": -100}}
        clients += [stream_of(limited, **endless) for _ in range(6)]
        wait_until(lambda: len(engine.scheduler.running) == 4)
        assert free_pages(limited) < free
        for client in clients:
            client.close()
        wait_until(lambda: limited.replica.active == 0)
        go.set()
        wait_until(lambda: not engine.scheduler.running and not engine.scheduler.waiting)
    finally:
        go.set()
        del model.step
        for client in clients:
            client.close()
    assert free_pages(limited) == free


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_client_that_does_not_read_holds_nobody_up_and_is_cut(limited):
    engine, refused = engine_of(limited), limited.replica.refused
    before = refused["stalled reader"]
    deaf = stream_of(
        limited,
        prompt=["say 9"] * 40,
        max_tokens=300,
        logprobs=4,
        logit_bias={"256": -100},
        n=2,
        temperature=1,
    )
    wait_until(lambda: engine.scheduler.running)
    with limited.client() as client:
        for _ in range(5):
            assert client.completions.create(**ASKED, max_tokens=5).usage.completion_tokens <= 5
    eventually(lambda: refused["stalled reader"] == before + 1)
    eventually(lambda: limited.replica.active == 0 and not engine.scheduler.running)
    deaf.close()
    assert free_pages(limited) == engine.scheduler.pool.pages


def test_tokens_that_come_while_the_event_loop_is_busy_are_sent_together_in_an_event_each(limited):
    engine, model = engine_of(limited), limited.model
    wait_until(lambda: not engine.scheduler.running)
    asked = {"prompt": "tell 3", "max_tokens": 40, "logit_bias": {"256": -100}, "temperature": 0}
    with limited.client() as client:
        whole = client.completions.create(model="Paged", **asked).choices[0].text
    step, go, received = model.step, threading.Event(), b""
    model.step = lambda pieces: (go.wait(60), step(pieces))[1]

    def busy():
        go.set()
        wait_until(lambda: not engine.scheduler.running)

    try:
        client = stream_of(limited, **asked)
        wait_until(lambda: engine.busy_since is not None)
        engine._loop.call_soon_threadsafe(busy)
        while b"[DONE]" not in received:
            got = client.recv(1 << 16)
            assert got, received
            received += got
    finally:
        go.set()
        del model.step
    client.close()
    events = [json.loads(each) for each in re.findall(rb"data: ({.*})\n", received)]
    assert len(events) == 40
    assert "".join(each["choices"][0]["text"] for each in events) == whole
    chunks = re.findall(rb"\r\n[0-9a-f]+\r\ndata: ", received)
    assert len(chunks) <= 2, "all tokens, and the end"


# --- A step that hangs.


def test_a_model_that_hangs_is_seen_from_outside_and_what_has_not_begun_ends_at_its_deadline():
    with served(slots=1) as it:
        reporter = ReplicaReporter(it.replica, "1")
        member = ReplicaMember(name="1", generation="a", started=0.0, since=0.0, heard_at=0.0)

        def why():
            now = time.monotonic()
            member.update(decode_from_child(reporter.message()).report, now)
            return member.failure(now, Rules(timeout_s=0.1, spare_s=0.1), others=False)

        assert not why()
        step, go, answered = it.model.step, threading.Event(), []
        it.model.step = lambda pieces: (go.wait(60), step(pieces))[1]

        def ask():
            with it.client() as client:
                answered.append(client.completions.create(**ASKED, max_tokens=3))

        begun = threading.Thread(target=ask)
        begun.start()
        try:
            wait_until(lambda: engine_of(it).busy_since is not None)
            with it.client() as client, pytest.raises(openai.APIStatusError, match="did not begin") as late:
                client.completions.create(**ASKED, extra_headers={"x-hooke-timeout": "100ms"})
            assert late.value.status_code == 504
            wait_until(lambda: "busy with one batch" in why())
        finally:
            go.set()
            begun.join()
        assert answered
        wait_until(lambda: engine_of(it).busy_since is None and not why())


# --- What would begin too late.


@service(protocol="openai", slo="p95 first < 1s, each < 5s", timeout="20s")
class Slow(Paged):
    """A step takes its time."""

    def step(self, pieces):
        time.sleep(0.02)
        return super().step(pieces)


@pytest.fixture(scope="module")
def slow():
    with served(Slow, slots=2, step_tokens=16) as made:
        with made.client() as client:
            for number in range(3):
                client.completions.create(
                    model="Slow", prompt=f"{number} begin", max_tokens=20, logit_bias={"256": -100}
                )
        yield made


def flood(it, count, **headers):
    """So many long answers at once; statuses, and what the refused ones were told."""
    outcomes = []

    def ask(number):
        with it.client() as client:
            try:
                client.completions.create(
                    model="Slow",
                    prompt=f"{number} times",
                    max_tokens=60,
                    logit_bias={"256": -100},
                    extra_headers=headers,
                )
            except openai.APIStatusError as error:
                outcomes.append((error.status_code, error))
            else:
                outcomes.append((200, None))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.needs("cpu")
def test_what_would_have_its_first_token_too_late_is_refused_at_once_and_counted(slow):
    windows = slow.replica.dispatch.windows
    refused, began = windows.refused, time.monotonic()
    outcomes = flood(slow, 16)
    assert {status for status, _ in outcomes} == {200, 429}
    late = [error for status, error in outcomes if status == 429]
    assert "too late" in late[0].message
    assert int(late[0].response.headers["retry-after"]) >= 1
    assert windows.refused == refused + len(late)
    assert 2 <= len(outcomes) - len(late) <= 8, "two run, and few may wait"
    assert time.monotonic() - began < 60


@pytest.mark.needs("cpu")
def test_a_clients_own_deadline_counts_where_it_is_shorter(slow):
    outcomes = flood(slow, 6, **{"x-hooke-timeout": "1ms"})
    refused = [error for status, error in outcomes if status in {429, 504}]
    assert len(refused) >= 3
    with slow.client() as client, pytest.raises(openai.BadRequestError, match="is not a time"):
        client.completions.create(model="Slow", prompt="a", extra_headers={"x-hooke-timeout": "soon"})


def test_a_promise_says_first_and_each():
    assert parse_slo("p95 first < 2s, each < 100ms") == Slo(95, 2.0, of_tokens=True, each_s=0.1)
    assert str(parse_slo("p95 first<2s,each<100ms")) == "p95 first < 2.00 s, each < 100 ms"
    assert parse_slo("p99 first < 1s") == Slo(99, 1.0, of_tokens=True)
    for wrong in ("p99 < 1s, each < 2s", "p99 first < 1s, each", "first < 1s", "p99 first < 1s, each < 0s"):
        with pytest.raises(UsageError):
            parse_slo(wrong)
    for other, of_tokens in (("p99 < 1s", True), ("p99 first < 1s", False)):
        assert parse_slo(other, of_tokens=not of_tokens) == parse_slo(other)
        with pytest.raises(UsageError, match="language model"):
            parse_slo(other, of_tokens=of_tokens)


def test_a_request_keeps_a_promise_if_it_is_within_both_limits():
    promise = parse_slo("p95 first < 2s, each < 100ms")
    cases = [(2.0, 0.1), (2.1, 0.1), (2.0, 0.11), (1.0, math.nan), (math.inf, math.nan)]
    each = [promise.kept(first, other) for first, other in cases]
    assert each == [True, False, False, True, False]
    assert promise.kept(*np.array(cases).T).tolist() == each
    assert parse_slo("p95 first < 2s").kept(1.0, 1e9)


def test_a_promise_fits_the_kind_of_service():
    with pytest.raises(UsageError, match="takes as long as its tokens"):
        service(protocol="openai", slo="p99 < 1s")(type("Model", (Paged,), {}))
    with pytest.raises(UsageError, match="only a language model has first tokens"):
        service(slo="p99 first < 1s")(type("Plain", (), {"predict": lambda self, x: x}))
