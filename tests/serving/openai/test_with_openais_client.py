"""OpenAI's own client: what it asks for comes, whole and as a stream, and what it can't have is an error of its own kinds."""

import asyncio
import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from scipy.special import logsumexp
from tests.serving.answers import wait_until
from tests.serving.openai.conftest import TOKEN, Served, served
from tests.serving.openai.paged_model import END, Paged, chat_tokens, greedy, logits_after

from hooke import UsageError, service

LONG = "tell 3"
"""A prompt whose answer is long."""
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello, who are you?"}]


def test_a_chat(client):
    answer = client.chat.completions.create(model="Paged", messages=MESSAGES, temperature=0, max_tokens=40)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == greedy(chat_tokens(MESSAGES), 40)
    assert choice.message.role == "assistant"
    assert answer.usage.prompt_tokens == len(chat_tokens(MESSAGES))
    assert answer.usage.completion_tokens == len(choice.message.content)
    assert answer.id.startswith("chatcmpl-")
    assert answer._request_id in answer.id


def test_a_stream_says_the_same_token_by_token(client):
    whole = client.chat.completions.create(model="Paged", messages=MESSAGES, temperature=0, max_tokens=40)
    events = list(
        client.chat.completions.create(
            model="Paged",
            messages=MESSAGES,
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = [each.choices[0].delta.content or "" for each in events if each.choices]
    assert "".join(text) == whole.choices[0].message.content
    assert all(len(each) <= 1 for each in text), "an event for each token"
    assert [each.choices[0].finish_reason for each in events if each.choices][-1] == whole.choices[
        0
    ].finish_reason
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({each.id for each in events}) == 1


def test_completions_of_several_prompts(client):
    prompts = ["Once upon", "Once upon a time", "x"]
    answer = client.completions.create(model="Paged", prompt=prompts, temperature=0)
    assert [(each.text, each.finish_reason) for each in answer.choices] == [
        greedy(list(each.encode()), 16) for each in prompts
    ]
    by_tokens = client.completions.create(model="Paged", prompt=list(b"Once upon"), temperature=0)
    assert by_tokens.choices[0].text == answer.choices[0].text
    streamed = client.completions.create(model="Paged", prompt=prompts, temperature=0, stream=True)
    texts = [""] * 3
    for event in streamed:
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == [each.text for each in answer.choices]


def test_seeds_repeat_and_answers_of_one_request_differ(client):
    def ask(**more):
        answer = client.chat.completions.create(model="Paged", messages=MESSAGES, max_tokens=20, n=3, **more)
        return [each.message.content for each in answer.choices]

    first = ask(seed=7)
    assert ask(seed=7) == first
    assert len(set(first)) == 3
    assert ask(seed=8) != first
    assert ask(seed=7, temperature=0) == [greedy(chat_tokens(MESSAGES), 20)[0]] * 3


def test_a_stop_ends_the_answer_before_it_and_is_never_streamed(client):
    whole = greedy(list(LONG.encode()), 40)[0]
    stop = whole[5:8]
    expected = whole[: whole.index(stop)]
    asked = {"model": "Paged", "prompt": LONG, "temperature": 0, "max_tokens": 40, "stop": ["\n\n", stop]}
    answer = client.completions.create(**asked)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")
    streamed = [each.choices[0].text for each in client.completions.create(**asked, stream=True)]
    assert "".join(streamed) == expected
    almost = whole[5:7] + "\x01"
    asked["stop"] = almost
    assert client.completions.create(**asked).choices[0].text == whole, "what only begins like a stop is said"


def test_log_probabilities(client):
    answer = client.chat.completions.create(
        model="Paged", messages=MESSAGES, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    told = answer.choices[0].logprobs.content
    assert "".join(each.token for each in told) == answer.choices[0].message.content
    logits = logits_after(chat_tokens(MESSAGES))
    assert told[0].logprob == pytest.approx(logits.max() - logsumexp(logits))
    assert told[0].top_logprobs[0].token == told[0].token
    assert len(told[0].top_logprobs) == 3
    old = client.completions.create(model="Paged", prompt=LONG, temperature=0, max_tokens=4, logprobs=2)
    assert "".join(old.choices[0].logprobs.tokens) == old.choices[0].text
    assert old.choices[0].logprobs.text_offset == [0, 1, 2, 3]


def test_penalties_and_biases_change_what_is_said(client):
    def ask(**more):
        return (
            client.completions.create(model="Paged", prompt=LONG, temperature=0, max_tokens=8, **more)
            .choices[0]
            .text
        )

    assert ask(logit_bias={"97": 100}) == "a" * 8
    assert ask(logit_bias={"97": 50}, frequency_penalty=2, presence_penalty=2) == "a" * 8
    assert ask(logit_bias={str(END): 100}) == ""


def test_embeddings_and_models(client):
    made = client.embeddings.create(model="Paged", input=["banana", "b"])
    assert [each.embedding for each in made.data] == [[6.0, 3.0, 0.5], [1.0, 0.0, 0.5]]
    assert made.usage.prompt_tokens == 7
    plain = client.embeddings.create(model="Paged", input="aa", encoding_format="float")
    assert plain.data[0].embedding == [2.0, 2.0, 0.5]
    assert [each.id for each in client.models.list()] == ["Paged"]
    assert client.models.retrieve("Paged").id == "Paged"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("asked", "kind", "said", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "gpt-4", "model_not_found"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens: 0 is not between", None),
        ({"max_tokens": 4000}, openai.BadRequestError, "context is 400 tokens", "context_length_exceeded"),
        (
            {"prompt": "x" * 500},
            openai.BadRequestError,
            "the prompt has 500 tokens",
            "context_length_exceeded",
        ),
        ({"prompt": []}, openai.BadRequestError, "prompt:", None),
        ({"prompt": ""}, openai.BadRequestError, "the prompt has no tokens", None),
        ({"prompt": "forbidden"}, openai.UnprocessableEntityError, "ask for something else", None),
        ({"temperature": 3}, openai.BadRequestError, "temperature: 3 is not between 0 and 2", None),
        ({"n": "two"}, openai.BadRequestError, "n: Expected `int | null`", None),
        ({"best_of": 3}, openai.BadRequestError, "best_of", None),
        ({"stop": ["a"] * 5}, openai.BadRequestError, "stop", None),
        ({"logit_bias": {"a": 1}}, openai.BadRequestError, "logit_bias", None),
        ({"logit_bias": {str(at): 1 for at in range(1025)}}, openai.BadRequestError, "at most 1024", None),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream=true", None),
    ],
)
def test_what_cannot_be_had(client, asked, kind, said, code):
    given = {"model": "Paged", "prompt": "hello", "temperature": 0, **asked}
    with pytest.raises(kind) as caught:
        client.completions.create(**given)
    assert said in str(caught.value)
    assert caught.value.code == code
    assert caught.value.request_id


def test_what_a_chat_cannot_have(client):
    for asked, said in (
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.chat.completions.create(**({"model": "Paged", "messages": MESSAGES} | asked))


@pytest.mark.needs("cpu")
def test_without_the_token_and_on_unknown_paths_errors_have_the_same_shape(paged):
    stranger = openai.OpenAI(base_url=f"{paged.address}/v1", api_key="wrong" * 8, max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError, match="token is wrong"):
        stranger.models.list()
    with (
        paged.client() as client,
        pytest.raises(openai.NotFoundError, match="no route /v1/images/generations"),
    ):
        client.images.generate(prompt="a cat")


@pytest.mark.needs("cpu")
def test_errors_of_bodies_and_methods_have_the_same_shape(paged):
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    path = f"{paged.address}/v1/chat/completions"
    for given, status, said in (
        ({"content": b'{"model": '}, 400, "truncated"),
        ({"content": b'{"model": "x", "messages": [{"a": ' + b"[" * 5000}, 400, "nested"),
        ({"content": b"[]"}, 400, "Expected `object`"),
        ({"content": b"{}", "headers": {**headers, "content-type": "text/plain"}}, 415, "application/json"),
    ):
        answer = httpx.post(path, **{"headers": headers, **given})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
        assert said in error["message"]
    assert httpx.get(path, headers=headers).json()["error"]["message"].endswith("takes POST")
    refused = httpx.post(path, headers={**headers, "authorization": "Bearer x"}, content=b"{}")
    assert refused.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.needs("cpu")
def test_too_many_requests_say_when_to_come_again(caplog):
    def setup(self):
        Paged.setup(self)
        self.limits = dataclasses.replace(self.limits, slots=1, max_waiting=1)

    go = threading.Event()

    def held(self, pieces):
        go.wait(0.02)  # answers take seconds
        return Paged.step(self, pieces)

    full = service(protocol="openai", timeout="20s")(type("Full", (Paged,), {"setup": setup, "step": held}))
    with served(full) as it, it.client() as client:
        asked = {
            "model": "Full",
            "prompt": LONG,
            "max_tokens": 300,
            "logit_bias": {"97": 100, str(END): -100},
        }
        with client.completions.create(**asked, stream=True) as first:
            next(first)
            waits = threading.Thread(target=client.completions.create, kwargs=asked)
            waits.start()
            while not it.replica._openai._engine.scheduler.waiting:
                time.sleep(0.001)
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(**asked)
            go.set()
        waits.join()
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "1"


@pytest.mark.needs("cpu")
def test_its_document_has_the_routes_and_its_page_examples_that_are_answered(paged):
    headers = {"authorization": f"Bearer {TOKEN}"}
    told = httpx.get(f"{paged.address}/-/openapi.json", headers=headers).json()
    page = httpx.get(f"{paged.address}/-/docs", headers=headers).text
    for path in ("chat/completions", "completions", "responses", "embeddings"):
        post = told["paths"][f"/v1/{path}"]["post"]
        (body,) = post["requestBody"]["content"]["application/json"]["schema"]["examples"]
        answer = httpx.post(f"{paged.address}/v1/{path}", headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        assert f"</span>/v1/{path}</h2>" in page
    assert "max_completion_tokens" in page
    assert "/v1/models/{model}" in page


@pytest.mark.needs("cpu")
def test_an_exception_of_the_model_fails_its_requests_and_no_later_one(paged, client, caplog):
    with pytest.raises(openai.InternalServerError, match=r"Paged.step raised RuntimeError") as caught:
        client.completions.create(model="Paged", prompt="explode")
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text
    assert client.completions.create(model="Paged", prompt=LONG, temperature=0).choices[0].text
    assert paged.replica._openai._engine.scheduler.pool.free == 200


def test_a_prompt_whose_beginning_is_known_is_computed_from_there(paged, client):
    prompt = "The same long beginning for everybody, of eighty letters or so, and then the rest: "
    first = client.completions.create(model="Paged", prompt=prompt + "one", temperature=0)
    before = paged.model.computed
    second = client.completions.create(model="Paged", prompt=prompt + "two", temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens == len(prompt) // 8 * 8
    assert paged.model.computed - before < 40
    assert second.choices[0].text == greedy(list(f"{prompt}two".encode()), 16)[0]
    assert first.usage.prompt_tokens_details.cached_tokens < 8


@pytest.mark.parametrize(
    ("prompt", "kind", "said"),
    [
        ([5000], openai.BadRequestError, "not below 260"),
        ([-1], openai.BadRequestError, "no model has"),
        ([2**63] * 16, openai.BadRequestError, "no model has"),
        ("odd", openai.InternalServerError, r"Paged.encode raised TypeError"),
        (["a"] * 1001, openai.BadRequestError, "1001 answers are asked for at once"),
    ],
)
def test_no_prompt_ends_the_engine(client, prompt, kind, said):
    with pytest.raises(kind, match=said):
        client.completions.create(model="Paged", prompt=prompt)
    assert client.completions.create(model="Paged", prompt=LONG, temperature=0).choices[0].text


def test_a_text_that_cannot_be_decoded_fails_its_own_answer_only(paged, client):
    letter = greedy(list(LONG.encode()), 40)[0][3]
    try:
        paged.model.undecodable = letter.encode()
        with pytest.raises(openai.InternalServerError, match="Paged.decode raised RuntimeError"):
            client.completions.create(model="Paged", prompt=LONG, temperature=0, max_tokens=40)
        other = client.completions.create(model="Paged", prompt="x", logit_bias={"97": 100}, max_tokens=3)
        assert other.choices[0].text == ("aaa" if letter != "a" else other.choices[0].text)
    finally:
        paged.model.undecodable = b"\0"


def test_parts_of_text_are_joined_and_a_prompt_counts_once(client):
    parts = [{"type": "text", "text": "Hello,"}, {"type": "text", "text": "you"}]
    asked = {"model": "Paged", "temperature": 0, "max_tokens": 9}
    whole = client.chat.completions.create(messages=[{"role": "user", "content": "Hello,\nyou"}], **asked)
    answer = client.chat.completions.create(messages=[{"role": "user", "content": parts}], n=3, **asked)
    assert {each.message.content for each in answer.choices} == {whole.choices[0].message.content}
    assert answer.usage.prompt_tokens == whole.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * whole.usage.completion_tokens
    for content in (None, [{"type": "image_url", "image_url": {"url": "data:,"}}]):
        with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content"):
            client.chat.completions.create(messages=[{"role": "user", "content": content}], **asked)


def test_of_several_stops_the_first_in_the_text_counts(client):
    whole = greedy(list(LONG.encode()), 40)[0]
    early, late = whole[4], whole[9]
    answer = client.completions.create(
        model="Paged", prompt=LONG, temperature=0, max_tokens=40, stop=[late, early]
    )
    assert answer.choices[0].text == whole[: min(whole.index(early), whole.index(late))]


def test_requests_count_for_the_number_of_replicas(paged, client):
    """By the windows that the autoscaler reads, as calls of other services do."""
    windows = paged.replica.dispatch.windows
    before = windows.arrived
    client.completions.create(model="Paged", prompt=LONG, temperature=0)
    list(client.completions.create(model="Paged", prompt=LONG, temperature=0, stream=True))
    client.embeddings.create(model="Paged", input="aa")
    assert windows.arrived == before + 3
    assert paged.replica.calls.open_calls == 0


def test_a_process_that_ends_cuts_a_stream_with_an_error_in_it():
    with served() as it, it.client() as client:
        engine, step = it.replica._openai._engine, it.model.step

        def held(pieces):
            if not engine._closing:
                time.sleep(0.02)  # the answer takes seconds
            return step(pieces)

        it.model.step = held
        events = client.completions.create(
            model="Paged", prompt=LONG, logit_bias={"97": 100, str(END): -100}, max_tokens=300, stream=True
        )
        next(events)
        threading.Thread(target=engine.close).start()
        with pytest.raises(openai.APIError, match="ended before the answer"):
            list(events)
        with pytest.raises(openai.InternalServerError, match="ended before the answer"):
            client.completions.create(model="Paged", prompt=LONG)
        assert not it.replica.ready


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_hundreds_of_prompts_at_once_get_their_own_answers():
    """Little memory: requests are evicted and begin anew, share beginnings, are cancelled; and all that is answered is what the model says."""
    draw = random.Random(1)
    prompts = [
        f"User {draw.randrange(9)} asks: " + "why? " * draw.randrange(12) + str(at) for at in range(240)
    ]
    with served(slots=16, pages=150, step_tokens=40) as it:
        answers = asyncio.run(_all_at_once(it, prompts))
        for at, answer in enumerate(answers):
            assert answer is None or answer == greedy(list(prompts[at].encode()), 24), prompts[at]
        assert sum(each is not None for each in answers) > 200
        assert max(it.model.steps) == 16, "they ran together"
        engine = it.replica._openai._engine
        deadline = time.monotonic() + 30
        while engine._of and time.monotonic() < deadline:
            time.sleep(0.01)  # those that left in the middle are taken out with the next step
        scheduler = engine.scheduler
        assert (scheduler.running, scheduler.waiting, scheduler.pool.free) == ([], 0, 150)


async def _all_at_once(it: Served, prompts: list[str]) -> list[tuple[str, str] | None]:
    async with it.async_client() as client:

        async def ask(at: int) -> tuple[str, str] | None:
            asked = {"model": "Paged", "prompt": prompts[at], "temperature": 0, "max_tokens": 24}
            if at % 4 == 0:
                answer = await client.completions.create(**asked)
                return answer.choices[0].text, answer.choices[0].finish_reason
            text, reason = "", ""
            async with await client.completions.create(**asked, stream=True) as events:
                async for event in events:
                    text += event.choices[0].text
                    reason = event.choices[0].finish_reason or reason
                    if at % 10 == 1:
                        return None  # it leaves in the middle
            return text, reason

        return await asyncio.gather(*[ask(at) for at in range(len(prompts))])


def test_a_class_that_lacks_something_is_told_so():
    with pytest.raises(UsageError, match="has no method encode, step"):

        @service(protocol="openai")
        class Half:
            def decode(self, tokens):
                return ""

    with pytest.raises(UsageError, match="thread of its own"):
        service(protocol="openai", model="process")(type("Twice", (Paged,), {}))
    bare = service(protocol="openai")(type("Bare", (Paged,), {"setup": lambda self: None}))
    with pytest.raises(UsageError, match="has no limits after setup"), served(bare):
        pass


@pytest.mark.needs("curl")
def test_what_hooke_serve_says_of_it_can_be_pasted(tmp_path):
    """The command, from its start to its first answer."""
    (tmp_path / "hooke.toml").touch()
    (tmp_path / "paged_model.py").write_text(Path(__file__).with_name("paged_model.py").read_text())
    command = [sys.executable, "-P", "-m", "hooke", "serve", "paged_model.py:Paged", "--port", "0"]
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said) as served_here,
    ):
        try:
            deadline = time.monotonic() + 120
            while "try: curl" not in (tmp_path / "said").read_text():
                assert served_here.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < deadline, (tmp_path / "said").read_text()
                time.sleep(0.05)
            text = (tmp_path / "said").read_text()
            assert "POST /v1/chat/completions" in text
            line = next(line for line in text.splitlines() if "try: curl" in line)
            asked = "curl -s " + line.partition("try: curl")[2]
            answer = subprocess.run(
                ["sh", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant", answer.stdout
        finally:
            served_here.send_signal(signal.SIGINT)


def test_a_replica_reports_what_it_has_to_do_and_which_requests_that_counts(paged, client):
    paged.replica.take_token_load()
    asked = [client.completions.create(model="Paged", prompt=LONG, temperature=0, n=2) for _ in range(3)]
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="Paged", prompt="x" * 500)
    taken = []

    def all_counted():  # what is refused is counted after its answer
        taken.extend(paged.replica.take_token_load()[1])
        return len(taken) == 4

    wait_until(all_counted)
    load, _ = paged.replica.take_token_load()
    assert [tokens for _, tokens in taken] == [len(LONG)] * 3 + [0]
    assert [name for name, _ in taken[:3]] == [each._request_id for each in asked]
    assert (load.running, load.waiting, load.outstanding) == (0, 0, 0)
    assert load.memory_tokens == 200 * 8
    assert load.busy_s > 0
    assert paged.replica.take_token_load() == (load, ())
