"""A stream of tokens that goes on on another replica: together its events are those of one replica, wherever it is cut."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from tests.serving.answers import wait_until
from tests.serving.openai.conftest import TOKEN, served
from tests.serving.openai.paged_model import END, chat_tokens, greedy
from tests.serving.openai.scripted_model import Scripted, said_call

from hooke.serving.auth import ApiKey
from hooke.serving.openai.resumption import ResumedStream, mark, resumed_body, take_marks
from hooke.serving.problems import RESUMABLE_HEADER, RESUMED_HEADER

SHOP = ApiKey(client="shop", token="shop-shop-shop-shop", rate=1, tokens_per_minute=100)
VERSION = "3f9a"
MESSAGES = [{"role": "user", "content": "Hello, who are you?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
BERLIN = said_call("weather", city="Berlin", days=2)
_MARK = re.compile(rb"(?:^|(?<=\n\n)): (\d+) (\d+)\n\n")


@pytest.fixture(scope="module")
def paged_pair():
    with served(version=VERSION) as one, served(version=VERSION, keys=(SHOP,)) as other:
        yield one, other


@pytest.fixture(scope="module")
def scripted_pair():
    with served(Scripted, version=VERSION) as one, served(Scripted, version=VERSION) as other:
        yield one, other


def engine_of(it):
    return it.replica._openai._engine


def post(it, path, body, *, token=TOKEN, marked=True, **headers) -> httpx.Response:
    given = {"authorization": f"Bearer {token}", "content-type": "application/json", "x-request-id": "one"}
    marks = {RESUMABLE_HEADER: "1"} if marked else {}
    return httpx.post(f"{it.address}/v1/{path}", content=body, headers=given | marks | headers, timeout=60)


def first(it, path, asked) -> tuple[list[bytes], list[tuple[int, int]], bytes, str]:
    """A marked stream: its groups of events, the token of each, what follows the last mark, and what the next replica is told."""
    answer = post(it, path, json.dumps(asked))
    assert answer.status_code == 200, answer.text
    parts = _MARK.split(answer.content)
    groups, rest = parts[:-1:3], parts[-1]
    tokens = [(int(index), int(token)) for index, token in zip(parts[1::3], parts[2::3], strict=True)]
    taken: list[tuple[int, int]] = []
    assert take_marks(answer.content, taken) == (b"".join(groups), rest)
    assert taken == tokens
    return groups, tokens, rest, answer.headers[RESUMABLE_HEADER]


def go_on(it, path, asked, told, tokens, **more) -> httpx.Response:
    body, size = resumed_body(json.dumps(asked).encode(), ResumedStream(told=told, tokens=tokens))
    return post(it, path, body, **{RESUMED_HEADER: str(size)} | more)


def rest_of(it, path, asked, told, tokens, **more) -> bytes:
    answer = go_on(it, path, asked, told, tokens, **more)
    assert answer.status_code == 200, answer.text
    return _MARK.sub(b"", answer.content)


def by_answer(data: bytes) -> list[bytes]:
    """Events in their order, answer by answer: those of several answers to one request come as they are computed."""
    events = data.split(b"\n\n")
    return sorted(
        events,
        key=lambda each: (
            int(found[1]) if (found := re.search(rb'"index":(\d+),"(?:delta|text)', each)) else 1000
        ),
    )


def check(pair, path, asked, *, every: int = 1, least: int = 5) -> bytes:
    """Cut at each place, it is the same stream."""
    one, other = pair
    groups, tokens, rest, told = first(one, path, asked)
    whole = b"".join(groups) + rest
    assert len(tokens) >= least
    plain = post(one, path, json.dumps(asked), marked=False)
    assert RESUMABLE_HEADER not in plain.headers
    assert not _MARK.search(plain.content)
    assert len(plain.content.split(b"\n\n")) == len(whole.split(b"\n\n"))
    for cut in {*range(0, len(tokens), every), len(tokens)}:
        more = rest_of(other, path, asked, told, tokens[:cut], marked=bool(cut % 2))
        assert by_answer(b"".join(groups[:cut]) + more) == by_answer(whole), f"after {cut} tokens"
    wait_until(lambda: not engine_of(other).scheduler.running)
    assert engine_of(other).scheduler.pool.free == engine_of(other).scheduler.pool.pages
    return whole


CHAT = {"model": "Paged", "messages": MESSAGES, "stream": True, "max_tokens": 24}
TEXT = {"model": "Paged", "prompt": "tell 3", "stream": True, "max_tokens": 24}
SEEDED = {
    "seed": 7,
    "temperature": 1.3,
    "top_p": 0.9,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.4,
    "logit_bias": {str(END): -100},
}
WITH_USAGE = {"stream_options": {"include_usage": True}}
STOP = greedy(chat_tokens(MESSAGES), 24)[0][9:12]


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("path", "asked", "every"),
    [
        ("chat/completions", CHAT | WITH_USAGE | {"temperature": 0}, 1),
        ("chat/completions", CHAT | WITH_USAGE | SEEDED, 5),
        ("chat/completions", CHAT | SEEDED | {"n": 2} | WITH_USAGE, 9),
        ("chat/completions", CHAT | {"temperature": 0, "stop": [STOP, "never"]}, 3),
        ("chat/completions", CHAT | SEEDED | {"logprobs": True, "top_logprobs": 2}, 7),
        ("completions", TEXT | SEEDED | {"logprobs": 2} | WITH_USAGE, 5),
        ("completions", TEXT | SEEDED | {"prompt": ["tell 3", "once upon"], "n": 2, "max_tokens": 9}, 11),
        ("completions", TEXT | SEEDED | {"max_tokens": 200} | WITH_USAGE, 61),
    ],
)
def test_it_goes_on_as_it_would_have(paged_pair, path, asked, every):
    check(paged_pair, path, asked, every=every)


@pytest.mark.needs("cpu")
def test_the_token_that_ends_an_answer_is_marked_and_nothing_is_computed_behind_it(paged_pair):
    one, other = paged_pair
    asked = TEXT | {"prompt": "It ends", "temperature": 0, "logit_bias": {str(END): 2}, "max_tokens": 300}
    groups, tokens, rest, told = first(one, "completions", asked | WITH_USAGE)
    assert tokens[-1] == (0, END)
    assert b'"finish_reason":"stop"' in groups[-1]
    before = other.model.computed
    assert rest_of(other, "completions", asked | WITH_USAGE, told, tokens) == rest
    assert other.model.computed == before
    assert b'"completion_tokens":%d,' % (len(tokens) - 1) in rest


@pytest.mark.needs("cpu")
def test_it_may_be_cut_twice(paged_pair):
    one, other = paged_pair
    asked = CHAT | SEEDED | WITH_USAGE
    groups, tokens, rest, told = first(one, "chat/completions", asked)
    second = go_on(other, "chat/completions", asked, told, tokens[:5])
    assert second.headers[RESUMABLE_HEADER] == told
    assert [(int(index), int(token)) for index, token in _MARK.findall(second.content)] == tokens[5:]
    assert rest_of(one, "chat/completions", asked, told, tokens[:11]) == b"".join(groups[11:]) + rest


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
SAID = {"model": "Scripted", "stream": True, "temperature": 0}


def say(text: str, **more):
    return SAID | {"messages": [{"role": "user", "content": f"say:{text}"}]} | more


def answer(text: str, **more):
    return SAID | {"input": f"say:{text}"} | more


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("path", "asked", "every"),
    [
        (
            "chat/completions",
            say(f"I look.\n{BERLIN}{said_call('weather', city='Köln', days=1)}", tools=TOOLS),
            17,
        ),
        ("chat/completions", say(f"{BERLIN}{BERLIN}", tools=TOOLS, parallel_tool_calls=False), 9),
        ("chat/completions", say("", tools=TOOLS, tool_choice="required", temperature=1.5, seed=3), 9),
        (
            "chat/completions",
            say(
                "",
                temperature=1.5,
                seed=4,
                response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": WEATHER}},
            ),
            7,
        ),
        ("chat/completions", say("Käse, 🧀 und Brot"), 1),
        ("responses", answer("Käse, 🧀 und Brot"), 2),
        (
            "responses",
            answer(
                f"I look.\n{BERLIN} So",
                tools=[{"type": "function", "name": "weather", "parameters": WEATHER}],
            ),
            9,
        ),
        ("responses", answer("one two three", max_output_tokens=9), 3),
    ],
)
def test_tools_schemas_letters_and_responses(scripted_pair, path, asked, every):
    whole = check(scripted_pair, path, asked, every=every)
    assert b"DONE" in whole or b"response.completed" in whole or b"response.incomplete" in whole


@pytest.mark.needs("cpu")
def test_calls_of_one_request_have_ids_of_their_own(scripted_pair):
    asked = say(f"{BERLIN}{BERLIN}", tools=TOOLS, n=2)
    groups, *_ = first(scripted_pair[0], "chat/completions", asked)
    assert len(set(re.findall(rb"call_[0-9a-f]{24}", b"".join(groups)))) == 4


# --- What does not go on.


@pytest.mark.needs("cpu")
def test_another_version_does_not_go_on_with_it(paged_pair):
    asked = CHAT | {"temperature": 0}
    _, tokens, _, told = first(paged_pair[0], "chat/completions", asked)
    with served(version="0000") as other, served() as alone:
        for it in (other, alone):
            refused = go_on(it, "chat/completions", asked, told, tokens[:3])
            assert (refused.status_code, it.replica.refused["another version"]) == (409, 1)
        assert RESUMABLE_HEADER not in post(alone, "chat/completions", json.dumps(asked)).headers


def test_log_probabilities_of_a_response_are_known_to_its_first_replica_only(scripted_pair):
    asked = answer("one", top_logprobs=2)
    told = post(scripted_pair[0], "responses", json.dumps(asked))
    assert RESUMABLE_HEADER not in told.headers
    assert not _MARK.search(told.content)
    told = json.dumps({"version": VERSION, "created": 1})
    assert go_on(scripted_pair[0], "responses", asked, told, [(0, 111)]).status_code == 400


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("asked", "tokens", "said"),
    [
        ({}, [(0, -1)], "-1 is not a token"),
        ({}, [(0, 260)], "260 is not a token"),
        ({}, [(0, 2**70)], "is not a token"),
        ({}, [(1, 97)], "no answer 1"),
        ({}, [(-1, 97)], "no answer -1"),
        ({"max_tokens": 3}, [(0, 97)] * 4, "behind the end"),
        ({"max_tokens": 4000}, [(0, 97)], "context is 400 tokens"),
        ({}, [(0, END), (0, 97)], "behind the end"),
        ({"stop": ["aa"]}, [(0, 97)] * 3, "behind the end"),
        ({"stream": False}, [(0, 97)], "cannot be resumed"),
    ],
)
def test_tokens_that_no_stream_had_are_refused(paged_pair, asked, tokens, said):
    other = paged_pair[1]
    told = json.dumps({"version": VERSION, "created": 1})
    refused = go_on(other, "completions", TEXT | asked, told, tokens)
    assert (refused.status_code, said in refused.text) == (400, True), refused.text
    assert first(other, "completions", TEXT)[1]
    assert engine_of(other).scheduler.pool.free == engine_of(other).scheduler.pool.pages


@pytest.mark.parametrize(
    ("size", "behind"),
    [
        ("0", b""),
        ("-2", b"{}"),
        ("many", b"{}"),
        ("999999", b"{}"),
        ("2", b"{}"),
        ("2", b"[["),
        ("", json.dumps({"told": "x", "tokens": []}).encode()),
        ("", json.dumps({"told": json.dumps({"version": VERSION}), "tokens": []}).encode()),
        ("", json.dumps({"told": "{}", "tokens": [[0]]}).encode()),
    ],
)
def test_what_is_no_resumed_stream_is_refused(paged_pair, size, behind):
    body = json.dumps(TEXT).encode() + behind
    refused = post(paged_pair[1], "completions", body, **{RESUMED_HEADER: size or str(len(behind))})
    assert (refused.status_code, "resumed stream" in refused.text) == (400, True), refused.text


# --- What it counts for.


@pytest.mark.needs("cpu")
def test_it_is_paid_for_and_has_no_time_to_its_first_token(paged_pair):
    one, other = paged_pair
    engine, asked = engine_of(other), TEXT | SEEDED
    groups, tokens, rest, told = first(one, "completions", asked)
    meter = engine.meter
    before = {each.name: [sample.value for sample in each.samples] for each in meter.families({})}
    for cut in (4, 10, 16, 20):
        more = rest_of(other, "completions", asked, told, tokens[:cut], token=SHOP.token)
        assert more == b"".join(groups[cut:]) + rest
    after = {each.name: [sample.value for sample in each.samples] for each in meter.families({})}
    name = "vllm:time_to_first_token_seconds"
    assert after[name] == before[name]
    assert after["vllm:prompt_tokens"] == before["vllm:prompt_tokens"]
    given = sum(len(tokens) - cut for cut in (4, 10, 16, 20))
    assert after["vllm:generation_tokens"][0] - before["vllm:generation_tokens"][0] == given


@pytest.mark.needs("cpu")
def test_it_is_not_refused_for_coming_late(paged_pair):
    asked, hurry = TEXT | SEEDED, {"x-hooke-timeout": "1ms"}
    groups, tokens, rest, told = first(paged_pair[0], "completions", asked)
    with served(version=VERSION, slots=1) as it, ThreadPoolExecutor() as threads:
        engine, step, go = engine_of(it), it.model.step, threading.Event()

        def held(pieces):
            go.wait(0.03)
            return step(pieces)

        it.model.step = held
        try:
            long = threads.submit(first, it, "completions", asked | {"max_tokens": 390})
            wait_until(lambda: engine.steps > 20)
            assert post(it, "completions", json.dumps(asked), **hurry).status_code in (429, 504)
            late = threads.submit(rest_of, it, "completions", asked, told, tokens[:9], **hurry)
            wait_until(lambda: engine.scheduler.waiting or late.done())
            assert not long.done()
        finally:
            go.set()
        assert late.result() == b"".join(groups[9:]) + rest


# --- A replica that ends.


def read_until_cut(it, asked, end) -> tuple[bytes, str, bool]:
    """What comes of a marked stream when `end` is called after its first bytes; what it tells, and whether the connection is cut."""
    headers = {"authorization": f"Bearer {TOKEN}", "x-request-id": "one", RESUMABLE_HEADER: "1"}
    data, cut = b"", False
    with httpx.stream("POST", f"{it.address}/v1/completions", json=asked, headers=headers, timeout=60) as got:
        try:
            for part in got.iter_raw():
                if not data:
                    end()
                data += part
        except httpx.RemoteProtocolError:
            cut = True
        return data, got.headers[RESUMABLE_HEADER], cut


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("how", ["engine", "server"])
def test_a_replica_that_ends_cuts_the_stream_and_another_goes_on(paged_pair, how):
    asked = TEXT | SEEDED | {"max_tokens": 390}
    groups, tokens, rest, _ = first(paged_pair[0], "completions", asked)
    with ExitStack() as stack:
        it = stack.enter_context(served(version=VERSION))
        engine, step, steps = engine_of(it), it.model.step, iter(range(20))

        def some_steps(pieces):
            if next(steps, None) is None:
                wait_until(lambda: engine._closing or it.replica._options.closing)
            return step(pieces)

        it.model.step = some_steps
        seen, told, cut = read_until_cut(it, asked, engine.close if how == "engine" else stack.close)
    assert cut
    tokens_seen: list[tuple[int, int]] = []
    events, begun = take_marks(seen, tokens_seen)
    assert (begun, b"error" in events) == (b"", False)
    more = rest_of(paged_pair[1], "completions", asked, told, tokens_seen)
    created = re.compile(rb'"created":\d+')
    assert created.sub(b"", events + more) == created.sub(b"", b"".join(groups) + rest)
    assert tokens[: len(tokens_seen)] == tokens_seen


def test_an_error_of_the_request_itself_is_an_event(paged_pair, caplog):
    one = paged_pair[0]
    letter = greedy(list(TEXT["prompt"].encode()), 24)[0][5]
    try:
        one.model.undecodable = letter.encode()
        seen = post(one, "completions", json.dumps(TEXT | {"temperature": 0})).content
    finally:
        one.model.undecodable = b"\0"
    assert b"Paged.decode raised RuntimeError" in seen.rpartition(b"data: ")[2]
    assert mark(0, ord(letter)) not in seen
