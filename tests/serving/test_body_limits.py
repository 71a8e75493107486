"""Bodies that come at once take no more memory than there is room for, however many and however slow."""

import asyncio
import contextlib
import json
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.answers import problem

from hooke.base.errors import ConfigError
from hooke.project.folder import Project
from hooke.services.serve_file import body_room
from hooke.serving.limits import BODY_LIMIT, PART, BodyMemory, body_memory_bytes
from hooke.serving.payloads import DECODE_ON_LOOP, methods_of, object_bytes
from hooke.serving.problems import Problem
from hooke.serving.service import service, service_of
from hooke.testing import client

LIMIT_S = 60


@pytest.mark.needs("cpu")
@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 10), st.sampled_from(["stay", "end", "leave"])), max_size=12))
def test_what_is_taken_is_never_more_than_there_is_and_all_of_it_comes_back(wishes):
    async def body(bodies, size, then):
        try:
            await bodies.take(size)
        except Problem:
            return
        assert bodies.taken <= bodies.most
        try:
            await asyncio.sleep(3600 if then == "stay" else 0)
        finally:
            bodies.give(size)

    async def play():
        bodies = BodyMemory(10, wait_s=0.001)
        tasks = [asyncio.create_task(body(bodies, size, then)) for size, then in wishes]
        await asyncio.sleep(0)
        for task, (_, then) in zip(tasks, wishes, strict=True):
            if then == "leave":
                task.cancel()
        await asyncio.sleep(0.003)
        assert 0 <= bodies.taken <= bodies.most
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert bodies.taken == 0
        await bodies.take(10)  # nobody is left who would be before it

    asyncio.run(play())


def test_the_first_to_wait_is_the_first_to_have_room():
    async def play():
        bodies, order = BodyMemory(10), []

        async def one(name, size):
            await bodies.take(size)
            order.append(name)

        await bodies.take(8)
        tasks = [asyncio.create_task(one(*each)) for each in (("large", 9), ("small", 1))]
        await asyncio.sleep(0)
        assert not order
        bodies.give(8)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(play()) == ["large", "small"]


@service
class Delay:
    def predict(self, row: int) -> int:
        return row


def test_the_room_is_a_part_of_the_memory_and_what_hooke_toml_says_goes_before_it(tmp_path):
    assert body_memory_bytes(memory_bytes=PART * BODY_LIMIT * 2) <= 2 * BODY_LIMIT
    assert body_memory_bytes(memory_bytes=1) == body_memory_bytes(among=1 << 40) == BODY_LIMIT

    def room(text):
        (tmp_path / "hooke.toml").write_text(text)
        return body_room(service_of(Delay), Project.find(tmp_path))

    assert room('[services.Delay]\nbody_memory = "64MiB"\n') == 64 << 20
    assert room("") == pytest.approx(body_memory_bytes(), rel=0.5)
    with pytest.raises(ConfigError, match="is smaller than one body"):
        room('[services.Delay]\nbody_memory = "1MiB"\n')
    with pytest.raises(ConfigError, match=r"services\.Delay\.body_memory"):
        room('[services.Delay]\nbody_memory = "much"\n')


SERVICE = """
from hooke import service

@service(timeout="8s")
class Length:
    async def of(self, text: str) -> int:
        return len(text)
"""


@contextlib.contextmanager
def served(folder):
    """Its port, and its process."""
    (folder / "lengths.py").write_text(SERVICE)
    (folder / "hooke.toml").write_text('[services.Length]\nbody_memory = "32MiB"\n')
    command = [sys.executable, "-m", "hooke", "serve", "lengths.py", "--port", "0", "--no-auth"]
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, stderr=said)
    try:
        ends = time.monotonic() + LIMIT_S
        while "answers: POST" not in (text := (folder / "said.txt").read_text()):
            assert time.monotonic() < ends, text
            assert process.poll() is None, text
            time.sleep(0.05)
        yield int(re.search(r":(\d+)$", text, re.MULTILINE)[1]), psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def post(port, size):
    body = json.dumps({"text": "x" * size}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/of", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def told_of(port, size):
    """The status of the answer to a head that says that so many bytes will come."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as one:
        one.sendall(Uploads.HEAD + b"content-length: %d\r\n\r\n" % size)
        return int(one.recv(4096)[9:12])


def metric(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/metrics", timeout=LIMIT_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        tuple(one.labels.values()): one.value for each in families for one in each.samples if one.name == name
    }


class Uploads:
    """Large bodies that come in pieces and never end, on connections of their own; `statuses` are those of answers."""

    HEAD = b"POST /of HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

    def __init__(self, port, count, size, *, chunked):
        self.statuses = []
        self.selector = selectors.DefaultSelector()
        length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
        frame = b"%x\r\n%b\r\n" if chunked else None
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(self.HEAD + length + b"\r\n\r\n")
            one.setblocking(False)
            self.selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, [b"", size - 1])
        self.piece = b"x" * (64 << 10)
        self.frame = frame

    def turn(self):
        """Send and read what can be at this moment."""
        for key, events in self.selector.select(0.05):
            one, left = key.fileobj, key.data
            if events & selectors.EVENT_READ:
                answer = one.recv(4096)
                if answer:
                    self.statuses.append(int(answer[9:12]))
                self.selector.unregister(one)
                one.close()
            elif left[0] or left[1]:
                if not left[0]:
                    piece = self.piece[: left[1]]
                    left[1] -= len(piece)
                    left[0] = self.frame % (len(piece), piece) if self.frame else piece
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    left[0] = left[0][one.send(left[0]) :]
            else:
                self.selector.modify(one, selectors.EVENT_READ, left)

    def close(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("chunked", [False, True])
def test_hundreds_of_slow_large_bodies_take_no_more_memory_than_there_is_room_for(tmp_path, chunked):
    with served(tmp_path) as (port, process):
        assert post(port, 4 << 20) == (200, 4 << 20)
        before = most = process.memory_info().rss
        uploads = Uploads(port, 300, 8 << 20, chunked=chunked)
        try:
            ends = time.monotonic() + LIMIT_S
            while len(uploads.statuses) < 290 and time.monotonic() < ends:
                for _ in range(20):
                    uploads.turn()
                most = max(most, process.memory_info().rss)
                assert post(port, 1000) == (200, 1000)
            assert uploads.statuses.count(503) >= 290
            assert metric(port, "hooke_refused_total")["room for bodies",] >= 290
            assert (
                metric(port, "hooke_body_bytes")[()] <= metric(port, "hooke_body_room_bytes")[()] == 32 << 20
            )
        finally:
            uploads.close()
        print(f"it grew by {(most - before) >> 20} MiB")
        # 300 bodies of 8 MiB are 2.4 GB. Beside the room there is what was read of those that wait, and of each before it was refused.
        assert most - before < (32 << 20) + 64 * (640 << 10) + 300 * (192 << 10)
        while metric(port, "hooke_body_bytes")[()]:
            assert time.monotonic() < ends + LIMIT_S
        assert post(port, 12 << 20) == (200, 12 << 20)
        assert told_of(port, 17 << 20) == 413


@dataclass
class Named:
    name: str
    price: float = 1.0


class Traced(msgspec.Struct):
    """Notes the thread that decodes it."""

    text: str
    thread: str = ""

    def __post_init__(self):
        self.thread = threading.current_thread().name


@service(max_batch=8, timeout="20s")
class Large:
    """Parameters that large bodies come for."""

    async def floats(self, rows: NDArray[np.float64], scale: float = 1.0) -> np.ndarray:
        return rows.sum(axis=1) * scale

    async def open(self, rows: np.ndarray, mark: str | None = "x") -> int:
        return len(rows)

    async def table(self, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> int:
        return len(rows)

    async def listed(self, rows: list) -> list[int]:
        return [len(rows)] * len(rows)

    async def named(self, rows: Sequence[Named]) -> int:
        return len(rows)

    async def traced(self, rows: list[Traced]) -> list[str]:
        return [row.thread for row in rows]


METHODS = methods_of(service_of(Large))
number = st.integers(-3, 3) | st.sampled_from([0.5, 2**63, 2**64, -(2**63), 10**30, 1e300, True])
text = st.text(st.sampled_from('a",[]{}\\\\\\"\n\0eé'), max_size=6)
row = st.one_of(number, text, st.none(), st.lists(number, max_size=3), st.lists(text, max_size=2))
item = st.fixed_dictionaries({"name": text}, optional={"price": number, "odd": number})
body = st.fixed_dictionaries(
    {},
    optional={
        "rows": st.one_of(
            st.lists(st.lists(number, min_size=2, max_size=2), max_size=12),
            st.lists(st.sampled_from([1, 2**63, 0.5]), max_size=12),
            st.lists(text, max_size=12),
            st.lists(row, max_size=12),
            st.lists(item, max_size=6),
            number,
        ),
        "scale": st.floats(0, 1),
        "mark": st.none() | text,
    },
)


def outcome(decode):
    """The values, or what is said of them."""
    try:
        values = decode()
    except msgspec.MsgspecError as error:
        return type(error), str(error)
    return {
        name: (value.dtype, value.shape, value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", ["floats", "open", "table", "listed", "named"])
@settings(max_examples=150, deadline=None)
@given(value=body, part=st.sampled_from([1, 7, 20]), layout=st.sampled_from([(",", ":"), (" , ", " : ")]))
def test_a_body_in_parts_is_what_it_is_as_a_whole(name, value, part, layout):
    method = METHODS[name]
    value = {
        key: each for key, each in value.items() if key in method.fields
    }  # of two faults any may be said
    sent = json.dumps(value, separators=layout, ensure_ascii=False).encode()
    whole = outcome(lambda: msgspec.structs.asdict(method.decoder.decode(sent)))
    parts = outcome(lambda: method.large.decode(sent, part=part))
    if isinstance(whole, tuple) and isinstance(value.get("rows"), list) and name != "named":
        assert isinstance(parts, tuple)  # of two faults of an array, another one may be seen first
        assert parts[1].rpartition(" - at ")[2] == whole[1].rpartition(" - at ")[2]
    else:
        assert parts == whole


UNCOLLECTED = """
import gc
from hooke.serving.payloads import uncollected
assert gc.isenabled()
with uncollected():
    with uncollected():
        assert not gc.isenabled()
    assert not gc.isenabled()
assert gc.isenabled()
gc.disable()
with uncollected():
    pass
assert not gc.isenabled(), "it was off before"
"""


class TestLarge:
    """Large bodies are decoded beside the event loop, within the memory that there is."""

    def ask(self, made, path, body):
        return made.request("POST", path, body=body, headers={"content-type": "application/json"})

    @pytest.mark.needs("cpu")
    def test_they_are_decoded_in_another_thread(self):
        with client(Large) as made:
            for count, same in ((1, True), (DECODE_ON_LOOP // 10, False)):
                rows = [{"text": "x" * 20}] * count
                threads = set(made.post("/traced", {"rows": rows}).json())
                assert len(threads) == 1
                assert ("hooke-client" in threads) is same

    @pytest.mark.needs("cpu")
    def test_the_event_loop_turns_while_they_are(self):
        """A single call of the decoder would hold the interpreter's lock from the first part to the last."""
        turns = []

        class Counted(msgspec.Struct):
            text: str

            def __post_init__(self):
                turns.append(turn[0])

        turn = [0]

        @service(max_batch=8, timeout="20s")
        class Counting:
            async def count(self, rows: list[Counted]) -> list[int]:
                return [len(rows)]

        body = msgspec.json.encode({"rows": [{"text": "x" * 1000}] * 8000})
        read = methods_of(service_of(Counting))["count"].read

        async def life():
            done = asyncio.create_task(asyncio.to_thread(read, body))
            while not done.done():
                turn[0] += 1
                await asyncio.sleep(0)
            return await done

        assert len(asyncio.run(life())["rows"]) == 8000
        assert (
            len(set(turns)) > 3
        )  # one for a single call; a busy machine gives the loop fewer turns than there are parts

    @pytest.mark.long
    @pytest.mark.needs("cpu")
    def test_many_small_values_are_refused_where_they_would_not_fit(self):
        body = b'{"rows": [' + b",".join([b"[]"] * 400_000) + b"]}"
        assert object_bytes(body) > 8 * len(body)
        with client(Large) as made:
            made.replica.bodies.most = 2 << 20
            answer = self.ask(made, "/listed", body)
            assert answer.status == 413
            assert "the values of the body take up to" in problem(answer)["detail"]
            assert self.ask(made, "/floats", body).json() == [0.0] * 400_000, "an array of them takes none"
            made.replica.bodies.most = 16 << 20
            assert self.ask(made, "/listed", body).status == 200
            assert made.replica.bodies.taken == 0

    def test_memory_of_values_is_never_more_than_is_said(self):
        for value in (
            [[]] * 1000,
            [[1.5]] * 1000,
            [{}] * 1000,
            [{"a": 1.5}] * 500,
            ["ab"] * 999,
            [[[[]]]] * 99,
        ):
            body = msgspec.json.encode(value)
            tracemalloc.start()
            values = msgspec.json.decode(body)
            taken, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            del values
            assert taken <= object_bytes(body) + 2000, value[:1]

    @pytest.mark.needs("cpu")
    def test_garbage_collection_is_on_again_afterwards(self):
        """In a process of its own: other threads of this one may hold it off, too."""
        done = subprocess.run(
            [sys.executable, "-c", UNCOLLECTED], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
