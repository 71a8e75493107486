"""What each engine behind the front has to do, asked by OpenAI's own client. CI has `transformers serve`, `make soak-engines` has others as well."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import openai
import psutil
import pytest
from tests.serving.openai.conftest import TOKEN, Served

__all__ = [
    "MESSAGES",
    "cancels",
    "chats",
    "connections",
    "dies",
    "get",
    "refuses",
    "samples",
    "streams",
    "until",
]

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello, who are you?"}]
LIMIT_S = 150.0
ENDLESS = 6000
"""Tokens of an answer that is not waited for: quick engines say a thousand a second."""


def until(told: Callable[[], object], what: str = "") -> None:
    ends = time.monotonic() + LIMIT_S
    while not told():
        assert time.monotonic() < ends, what or told
        time.sleep(0.02)


def get(served: Served, path: str, *, token: str | None = TOKEN) -> str:
    """The body of an answer. Raises HTTPError."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    with urllib.request.urlopen(
        urllib.request.Request(served.address + path, headers=headers), timeout=60
    ) as got:
        return got.read().decode()


def samples(served: Served) -> dict[str, float]:
    """The sum over labels of each sample of /-/metrics."""
    found: dict[str, float] = {}
    for line in get(served, "/-/metrics").splitlines():
        if line and line[0] != "#":
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] = found.get(name.partition("{")[0], 0.0) + float(value)
    return found


def connections(served: Served) -> int:
    """Open ones that the engine has with the front."""
    port = served.replica.made._port
    return sum(
        found.status == psutil.CONN_ESTABLISHED and found.laddr.port == port
        for each in served.replica.made._processes()
        for found in each.net_connections("tcp")
    )


def chats(client: openai.OpenAI, model: str) -> str:
    """A chat, whose answer it returns: the same twice."""
    asked = {"model": model, "messages": MESSAGES, "temperature": 0, "max_tokens": 12, "seed": 1}
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens > 20
    assert answer._request_id
    assert (
        client.chat.completions.create(**asked).choices[0].message.content
        == answer.choices[0].message.content
    )
    return answer.choices[0].message.content


def streams(client: openai.OpenAI, model: str, expected: str, *, counted: bool = True) -> None:
    """The same as a stream, in about as many events as there are tokens; `counted`, with the usage."""
    events = list(
        client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            temperature=0,
            seed=1,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = [
        each.choices[0].delta.content for each in events if each.choices and each.choices[0].delta.content
    ]
    assert "".join(said) == expected
    assert len(said) > 4, "it is not kept back"
    assert [each.usage.completion_tokens for each in events if each.usage] == [12] * counted


def refuses(served: Served, client: openai.OpenAI, **wrong) -> None:
    """Errors of the engine, by default for a model that it does not have, and of the front have the client's shape."""
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**({"model": "none of these", "messages": MESSAGES} | wrong))
    assert refused.value.status_code >= 400
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["message"]
    with pytest.raises(urllib.error.HTTPError) as unknown:
        get(served, "/v1/models", token=None)
    with unknown.value as answer:
        assert answer.code == 401
        assert json.loads(answer.read())["error"]["message"]


def cancels(served: Served, client: openai.OpenAI, model: str) -> None:
    """A client that goes frees its connection to the engine, whose answer has not ended."""
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=ENDLESS, stream=True, temperature=0
    )
    next(iter(stream))
    assert served.replica.calls.open_calls == 1
    until(lambda: connections(served) == 1)
    stream.close()
    until(lambda: served.replica.calls.open_calls == 0)
    until(lambda: connections(served) == 0)


def dies(
    served: Served, client: openai.OpenAI, model: str, *, kill: Callable[[psutil.Process], None]
) -> None:
    """An engine that is killed in a stream: the client learns it, and the replica says why it can answer no more."""
    processes = served.replica.made._processes()
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=ENDLESS, stream=True, temperature=0
    )
    events = iter(stream)
    next(events)
    kill(processes[1])
    with pytest.raises(openai.APIError):
        list(events)
    until(lambda: served.replica.failure is not None)
    assert "killed by SIGKILL" in served.replica.failure.what
    assert served.replica.failure.log_tail
    assert not served.replica.ready
    with pytest.raises(openai.InternalServerError, match="SIGKILL") as refused:
        client.models.list()
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"]
    assert not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
