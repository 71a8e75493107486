"""Keys of clients, with rates and priorities; and the limits of streams, on a real replica."""

import asyncio
import json
import random
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.answers import problem, wait_until

from hooke import service
from hooke.base.errors import ConfigError, UsageError
from hooke.project.folder import Project
from hooke.services.serve_file import api_keys
from hooke.serving.auth import ApiKey, Auth
from hooke.serving.limits import MOST_KEYS, KeyRates
from hooke.serving.service import service_of
from hooke.testing.service_client import ServiceClient

TOKEN = "0123456789abcdef-A_z~"
KEYS = (
    ApiKey(client="nightly", token="nightly-nightly-nightly", low=True),
    ApiKey(client="shop", token="shop-shop-shop-shop", rate=3),
)


@service(max_batch=1, slo="p99 < 60s", timeout="60s")
class Held:
    """A model that waits until it is let go, and says what it did in which order."""

    def setup(self) -> None:
        self.go = threading.Event()
        self.done: list[str] = []
        self.opened = threading.Event()
        self.waiting = 0

    def predict(self, name: str) -> str:
        self.go.wait(60)
        self.done.append(name)
        return name

    def numbers(self, to: int) -> Iterator[int]:
        for number in range(to):
            self.done.append(f"item {number}")
            yield number

    async def ticks(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async def wait(self) -> int:
        self.waiting += 1
        await asyncio.to_thread(self.opened.wait, 60)
        return self.waiting


@pytest.fixture
def held():
    with ServiceClient(service_of(Held), {}, auth=Auth(token=TOKEN, keys=KEYS)) as made:
        yield made


def ask(client, path, value, token=TOKEN, **headers):
    given = {"authorization": f"Bearer {token}", "content-type": "application/json"} | headers
    return client.request("POST", path, body=json.dumps(value).encode(), headers=given)


def later(client, name, *, done, token=TOKEN, **headers):
    """Ask in a thread, and return when the request waits."""
    batcher = client.replica.dispatch.batcher
    before = batcher.waiting_rows, batcher.running
    thread = threading.Thread(
        target=lambda: done.append(ask(client, "/predict", {"name": name}, token, **headers).status)
    )
    thread.start()
    wait_until(lambda: (batcher.waiting_rows, batcher.running) != before)
    return thread


def test_the_order_is_that_of_arrival_with_low_priority_last_by_header_or_key(held):
    done = []
    threads = [
        later(held, "first", done=done),
        later(held, "low", done=done, **{"x-hooke-priority": "low"}),
        later(held, "key", done=done, token=KEYS[0].token, **{"x-hooke-priority": "high"}),
        later(held, "second", done=done),
        later(held, "third", done=done, **{"x-hooke-priority": "high"}),
    ]
    held.replica.made.go.set()
    for thread in threads:
        thread.join(60)
    assert done == [200] * 5
    assert held.replica.made.done == ["first", "second", "third", "low", "key"]


def test_a_priority_that_does_not_exist_is_refused(held):
    answer = ask(held, "/predict", {"name": "a"}, **{"x-hooke-priority": "urgent"})
    assert answer.status == 400
    assert problem(answer)["detail"] == "x-hooke-priority: urgent is not a priority; send high or low"


def test_a_key_is_as_good_as_the_token_until_its_rate_is_used_up(held):
    held.replica.made.go.set()
    answers = [ask(held, "/predict", {"name": "a"}, KEYS[1].token) for _ in range(50)]
    assert [answer.status for answer in answers[:3]] == [200] * 3
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert problem(refused[0])["detail"] == "more than 3 requests a second with the key of shop"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert ask(held, "/predict", {"name": "a"}).status == 200
    assert ask(held, "/predict", {"name": "a"}, KEYS[0].token).status == 200
    assert ask(held, "/predict", {"name": "a"}, "shop-shop-shop").status == 401


def test_more_streams_than_the_limit_are_refused_and_calls_go_between_items(held):
    streams = held.replica.dispatch.streams
    held.replica.made.go.set()
    taken = 0
    while streams.begin():  # as if they were open
        taken += 1
    answer = ask(held, "/numbers", {"to": 3})
    assert answer.status == 429
    assert problem(answer)["detail"] == f"{taken} streams are open, as many as this replica can serve in time"
    for _ in range(taken):
        streams.end()
    assert ask(held, "/numbers", {"to": 3}).status == 200
    assert streams.open == 0


LOW = {"x-hooke-priority": "low"}


def test_streams_of_low_priority_leave_half_of_the_room_to_others(held):
    streams = held.replica.dispatch.streams
    held.replica.made.go.set()
    half = -(-streams.limit // 2)
    for _ in range(half):
        assert streams.begin()  # as if they were open
    nightly = KEYS[0].token
    refused = [
        ask(held, "/numbers", {"to": 3}, **LOW).status,
        ask(held, "/numbers", {"to": 3}, nightly).status,
        ask(held, "/ticks", {"to": 3}, **LOW).status,
    ]
    assert refused == [429] * 3
    assert [ask(held, path, {"to": 3}).status for path in ("/numbers", "/ticks")] == [200] * 2
    streams.end()
    assert ask(held, "/numbers", {"to": 3}, **LOW).status == 200
    assert ask(held, "/ticks", {"to": 3}, nightly).status == 200
    assert streams.open == half - 1


def test_the_first_item_of_a_stream_of_low_priority_waits_behind_calls(held):
    done, streams = [], []
    batcher = held.replica.dispatch.batcher

    def stream(token=TOKEN, **headers):
        before = batcher.waiting_rows
        thread = threading.Thread(
            target=lambda: streams.append(ask(held, "/numbers", {"to": 1}, token, **headers).status)
        )
        thread.start()
        wait_until(lambda: batcher.waiting_rows != before)
        return thread

    threads = [later(held, "first", done=done)]
    wait_until(lambda: batcher.running is not None)
    threads += [stream(**LOW), stream(KEYS[0].token)]
    threads += [later(held, name, done=done) for name in ("second", "third")]
    held.replica.made.go.set()
    for thread in threads:
        thread.join(60)
    assert (done, streams) == ([200] * 3, [200] * 2)
    assert held.replica.made.done == ["first", "second", "third", "item 0", "item 0"]


def test_async_calls_of_low_priority_leave_half_of_the_room_to_others(held):
    made = held.replica.made
    answers = []

    def wait(count, **headers):
        started = made.waiting
        threads = [
            threading.Thread(target=lambda: answers.append(ask(held, "/wait", {}, **headers).status))
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: made.waiting == started + count)
        return threads

    threads = wait(3)
    held.replica.calls.most_async = 6
    assert ask(held, "/wait", {}, **LOW).status == 429
    assert ask(held, "/wait", {}, KEYS[0].token).status == 429
    threads += wait(3)
    assert ask(held, "/wait", {}).status == 429
    made.opened.set()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 6
    assert ask(held, "/wait", {}, **LOW).status == 200


@pytest.mark.parametrize("path", ["/numbers", "/ticks", "/wait"])
def test_a_priority_that_does_not_exist_is_refused_for_streams_and_async_calls(held, path):
    value = {} if path == "/wait" else {"to": 1}
    assert ask(held, path, value, **{"x-hooke-priority": "urgent"}).status == 400


@pytest.mark.needs("cpu")
@given(
    rate=st.integers(1, 50),
    gaps=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=100),
    began=st.floats(0.0, 1e6),
)
def test_no_key_gets_more_than_its_rate_and_a_burst(rate, gaps, began):
    rates, now, admitted = KeyRates(), began, []
    for gap in gaps:
        now += gap
        wait_s = rates.wait_s(MOST_KEYS - 1, rate, now)
        if wait_s == 0:
            admitted.append(now)
        else:
            assert KeyRates.wait_s(rates, MOST_KEYS - 1, rate, now + wait_s + 1e-6) == 0
            admitted.append(now + wait_s + 1e-6)
            now += wait_s + 1e-6
    for first in range(len(admitted)):
        inside = sum(at <= admitted[first] + 1.0 for at in admitted[first:])
        assert inside <= 2 * rate + 1


def test_replicas_share_the_rate_of_a_key(tmp_path):
    path = tmp_path / "rates"
    KeyRates.create(path)
    several, chance = [KeyRates(path) for _ in range(4)], random.Random(1)
    now = time.monotonic()
    admitted = sum(chance.choice(several).wait_s(0, 10, now + at / 1000) == 0 for at in range(3000))
    assert 38 <= admitted <= 41, "a burst of ten, and ten a second for three seconds"
    while several[0].wait_s(0, 10, now + 3.0) == 0:
        pass
    KeyRates.create(path)
    assert KeyRates(path).wait_s(0, 10, now + 3.0) > 0, "a replica that starts later does not forget"


def project(folder, *lines):
    (folder / "hooke.toml").write_text("\n".join(lines))
    return Project.at(folder)


def test_keys_come_from_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"token-of-{name}-token-of-{name}\n")
        (tmp_path / name).chmod(0o600)
    made = project(
        tmp_path,
        "[services.Held.keys.b]",
        'file = "b"',
        "rate = 5",
        "[services.Held.keys.a]",
        'file = "a"',
        'priority = "low"',
    )
    assert api_keys(service_of(Held), made) == (
        ApiKey(client="a", token="token-of-a-token-of-a", low=True),
        ApiKey(client="b", token="token-of-b-token-of-b", rate=5),
    )
    (tmp_path / "b").write_text((tmp_path / "a").read_text())
    with pytest.raises(ConfigError, match="keys.b has the token of a"):
        api_keys(service_of(Held), made)
    (tmp_path / "a").chmod(0o600 | stat.S_IROTH)
    with pytest.raises(UsageError, match="can be read by every user"):
        api_keys(service_of(Held), made)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rate = 0", "rate = 0"),
        ('priority = "urgent"', "priority = 'urgent'"),
        ("limit = 3", "limit"),
        ('file = ""', "file = ''"),
    ],
)
def test_a_key_that_is_written_wrongly_is_refused_with_its_name(tmp_path, line, said):
    file = [] if line.startswith("file") else ['file = "a"']
    with pytest.raises(ConfigError) as refused:
        project(tmp_path, "[services.Held.keys.shop]", *file, line)
    assert "services.Held.keys.shop" in str(refused.value)
    assert said in str(refused.value)
