"""The request log: what a line says and never says, which requests are logged, and what a moved file or a full disk does."""

import json
import os
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.small_disk import fill
from tests.serving.answers import wait_until
from tests.serving.services import Kinds, Rows

from hooke.base.errors import HookeError, UsageError
from hooke.serving.auth import ApiKey, Auth
from hooke.serving.observing.observer import RequestObserver
from hooke.serving.observing.request_log import (
    LoggedRequest,
    RequestLog,
    RequestLogOptions,
    check_writable,
    parse_sample,
)
from hooke.serving.service import service_of
from hooke.testing.service_client import ServiceClient

TOKEN = "0123456789abcdef-secret"
KEY = ApiKey(client="nightly", token="nightly-nightly-nightly", low=True)


def observed(made_by, path, *, sample=1.0, **given):
    """A client whose replica logs; `draws` are random numbers."""
    made = ServiceClient(service_of(made_by), {}, auth=Auth(token=TOKEN, keys=(KEY,)))
    log = RequestLog(RequestLogOptions(path=str(path), sample=sample), flush_s=0.01)
    made.replica.observer = RequestObserver(log=log, **given)
    return made


def ask(made, path, value, token=TOKEN, verb="POST", **headers):
    given = {"authorization": f"Bearer {token}", "content-type": "application/json"} | headers
    return made.request(verb, path, body=json.dumps(value).encode(), headers=given)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_became_of_a_request_and_holds_no_secret(tmp_path):
    path = tmp_path / "logs" / "requests.jsonl"
    with observed(Rows, path, version="model=rows:3", replica="2") as made:
        ask(made, "/predict", {"rows": [[1, 2], [3, 4]]}, **{"x-request-id": "mine"})
        ask(made, "/predict", {"rows": [["classified"]]}, KEY.token, cookie="classified")
        ask(made, "/v2/models/classified/infer", {})
        ask(made, "/classified", {})
        ask(made, "/predict", {}, "classified-token-of-nobody")
    good, bad, v2, unknown, stranger = lines(path)
    assert good.pop("time").endswith("Z")
    assert good.pop("ms") >= good.pop("queue_ms") >= 0
    assert good == {
        "id": "mine",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "batch": 2,
        "version": "model=rows:3",
        "replica": "2",
        "bytes_in": 26,
        "bytes_out": 10,
    }
    assert (bad["status"], bad["key"], bad["why"], bad["low"]) == (
        422,
        "nightly",
        "unprocessable entity",
        True,
    )
    assert "batch" not in bad
    assert (v2["route"], v2["status"]) == ("/v2/models/{name}/infer", 404)
    assert (unknown["route"], unknown["status"]) == (None, 404)
    assert (stranger["route"], stranger["status"], stranger["why"]) == (None, 401, "token")
    text = path.read_text()
    assert not [secret for secret in ("classified", TOKEN, KEY.token) if secret in text]
    assert path.stat().st_mode & 0o007 == 0


def test_errors_and_slow_requests_are_always_logged_and_of_the_rest_the_share(tmp_path):
    path, draws = tmp_path / "log", iter([0.05, 0.5, 0.09, 0.2, 0.5])
    with observed(Kinds, path, sample=0.1, slow_s=0.05, draw=lambda: next(draws)) as made:
        for _ in range(4):
            ask(made, "/thread", {})
        ask(made, "/leaves", {})
        ask(made, "/busy", {})
        ask(made, "/count", {"n": 2})
        ask(made, "/-/health", {}, verb="GET")
        made.replica.drain()
    found = lines(path)
    assert [(one["route"], one["status"], one.get("sample")) for one in found] == [
        ("/thread", 200, 0.1),
        ("/thread", 200, 0.1),
        ("/leaves", 500, None),
        ("/busy", 503, None),
    ]


def test_a_stream_is_slow_by_its_first_item_and_counts_all_bytes(tmp_path):
    path = tmp_path / "log"
    with observed(Kinds, path, sample=0.1, slow_s=30.0, draw=lambda: 0.0) as made:
        answer = ask(made, "/drip", {"n": 40})
    (line,) = lines(path)
    assert line["bytes_out"] == len(answer.body)


def test_a_refusal_of_overload_is_sampled(tmp_path):
    path = tmp_path / "log"
    with observed(Kinds, path, sample=0.5, draw=lambda: 0.9) as made:
        streams = made.replica.dispatch.streams
        while streams.begin():
            pass
        assert ask(made, "/drip", {"n": 1}).status == 429
        while streams.open:
            streams.end()
        assert ask(made, "/drip", {"n": "x"}).status == 422
    assert [line["status"] for line in lines(path)] == [422]


def line(number=0):
    return LoggedRequest(
        time="t", id=str(number), method="POST", route="/a", status=200, ms=1.0, bytes_in=0, bytes_out=0
    )


def ids(path):
    return [one["id"] for one in lines(path)]


@pytest.fixture
def opened(tmp_path):
    made = []

    def open_log(path=tmp_path / "log", **given):
        made.append(RequestLog(RequestLogOptions(path=str(path)), flush_s=0.01, **given))
        return made[-1]

    yield open_log
    for log in made:
        log.close()


def test_a_file_that_was_moved_away_is_opened_anew(opened, tmp_path):
    path = tmp_path / "log"
    log = opened()
    log.write(line(1))
    wait_until(lambda: ids(path) == ["1"])
    path.rename(tmp_path / "log.1")
    log.write(line(2))
    wait_until(lambda: path.exists() and ids(path) == ["2"])
    path.rename(tmp_path / "log.2")
    path.touch()  # as logrotate's `create`
    log.write(line(3))
    wait_until(lambda: ids(path) == ["3"])
    os.truncate(path, 0)  # as its `copytruncate`
    log.write(line(4))
    wait_until(lambda: ids(path) == ["4"])
    assert [ids(tmp_path / name) for name in ("log.1", "log.2")] == [["1"], ["2"]]
    assert log.dropped == 0


def test_on_a_full_disk_lines_are_lost_and_counted_and_later_ones_are_whole(opened, small_disk, caplog):
    path = small_disk / "log"
    log = opened(path)
    log.write(line(1))
    wait_until(lambda: path.exists() and ids(path) == ["1"])
    ballast = fill(small_disk)
    number = 2
    while not log.dropped:
        log.write(line(number))
        number += 1
        time.sleep(0.001)
    ballast.unlink()
    log.write(line("last"))
    wait_until(lambda: '"id":"last"' in path.read_text())
    log.close()
    told = [record.getMessage() for record in caplog.records]
    assert "lines of the request log" in told[0]
    assert "No space left on device" in told[0]
    assert len(told) <= 2
    whole = broken = 0
    for text in path.read_text().splitlines():
        try:
            json.loads(text)
            whole += 1
        except ValueError:
            broken += 1  # the line in whose middle the disk was full
    assert broken <= 1
    assert whole + log.dropped >= number


def test_more_lines_than_the_disk_takes_are_counted_and_nobody_waits(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = RequestLog(RequestLogOptions(path=str(pipe)), flush_s=0.01, most_bytes=100_000)
    for number in range(20_000):  # nobody reads: the pipe is full, and the writer waits
        log.write(line(number))
    assert log.dropped > 0
    read = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 16), b"")])
    os.set_blocking(reader, True)
    read.start()
    log.close()
    read.join(30)
    os.close(reader)


@pytest.mark.needs("cpu")
def test_many_processes_share_a_file_and_each_line_is_whole(tmp_path):
    path = tmp_path / "log"
    program = f"""
import sys
from hooke.serving.observing.request_log import LoggedRequest, RequestLog, RequestLogOptions
log = RequestLog(RequestLogOptions(path={str(path)!r}), flush_s=0.0005)
for number in range(1000):
    log.write(LoggedRequest(time="t", id=sys.argv[1] + str(number), method="POST", route="/a" * 50, status=200, ms=1.0, bytes_in=0, bytes_out=0))
log.close()
assert log.dropped == 0
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "abc"]
    assert [process.wait(120) for process in processes] == [0] * 3
    assert sorted(ids(path)) == sorted(f"{name}{number}" for name in "abc" for number in range(1000))


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HookeError, match="the request log"):
        check_writable(RequestLogOptions(path=str(tmp_path / "file" / "log")))


@given(st.floats(0.0001, 1.0))
def test_a_share_is_a_number_or_a_percentage(share):
    assert parse_sample(f"{share!r}") == share
    assert parse_sample(f"{share * 100!r}%") == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "0%", "101%", "1.5", "-1%", "x", "", "1%%", "nan"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="not a valid share"):
        parse_sample(text)


def test_the_fields_are_those_of_the_docs():
    assert {field.name for field in msgspec.structs.fields(LoggedRequest)} == {
        "time",
        "id",
        "method",
        "route",
        "status",
        "ms",
        "key",
        "why",
        "queue_ms",
        "batch",
        "version",
        "replica",
        "bytes_in",
        "bytes_out",
        "low",
        "trace",
        "sample",
    }
