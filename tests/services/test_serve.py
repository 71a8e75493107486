"""`hooke serve` as a process: what it prints, where it listens, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import psutil
import pytest
from tests.engines.local.faults import wait_until

pytestmark = pytest.mark.needs("processes")

SERVICE = """
import time
from hooke import service

@service(max_batch=4, timeout="5s")
class Delay:
    def setup(self, factor: int = 2, model=None):
        if factor == 0:
            raise ValueError("no weights")
        self.factor = factor

    def predict(self, rows: list[int]) -> list[int]:
        time.sleep(0.01)
        return [row * self.factor for row in rows]

    def count(self, n: int):
        for i in range(n):
            yield i
            time.sleep(0.2)

    async def wait(self, s: float) -> float:
        import asyncio
        open(f"waits-{s}", "w").close()
        await asyncio.sleep(s)
        return s
"""


TOKEN = "a-token-of-the-tests"
AUTH = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    return tmp_path


def command(*words):
    return [sys.executable, "-m", "hooke", "serve", *words]


@contextmanager
def serving(folder, *words):
    """The process, once it answers, and its port."""
    process = subprocess.Popen(
        command("delays.py", "--port", "0", "--token-file", "token", *words),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(re.search(r"on http://127\.0\.0\.1:(\d+)$", process.stderr.readline())[1])
        assert "answers: POST /predict, POST /count" in process.stderr.readline()
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def post(port, path, value, timeout=60):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("POST", path, json.dumps(value), {"content-type": "application/json", **AUTH})
        answer = connection.getresponse()
        return answer.headers["content-type"], [(time.monotonic(), line) for line in answer]


def body(port, path, value):
    return b"".join(line for _, line in post(port, path, value)[1])


class Caller(threading.Thread):
    """Asks on one connection after the other until none is taken. A request that was sent on one and has no answer is lost."""

    def __init__(self, port, number, think_s):
        super().__init__(daemon=True)
        self.port, self.number, self.think_s = port, number, think_s
        self.answers, self.lost, self.wrong = 0, 0, 0

    def run(self):
        while (one := self.connected()) is not None:
            while True:
                self.number += 1
                time.sleep(self.think_s)
                body = json.dumps({"rows": [self.number]}).encode()
                head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                head += f"authorization: Bearer {TOKEN}\r\n".encode()
                try:
                    one.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
                    answer = one.recv(65536)
                    while answer.partition(b"\r\n\r\n")[2] == b"" and (more := one.recv(65536)):
                        answer += more
                except OSError:
                    answer = b""
                if not answer:
                    self.lost += 1
                    break
                self.answers += 1
                self.wrong += not answer.endswith(b"[%d]" % (2 * self.number))
                if b"connection: close" in answer.lower():
                    break
            one.close()

    def connected(self):
        try:
            return socket.create_connection(("127.0.0.1", self.port), timeout=60)
        except OSError:
            return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_answers_all_that_was_asked(folder, number):
    with serving(folder) as (process, port):
        callers = [Caller(port, at * 1_000_000, think_s) for at, think_s in enumerate([0.0] * 8 + [0.06] * 8)]
        for caller in callers:
            caller.start()
        time.sleep(0.7)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(60) == 0
        for caller in callers:
            caller.join(60)
    answers = sum(caller.answers for caller in callers)
    assert answers > 50
    assert [sum(caller.lost for caller in callers), sum(caller.wrong for caller in callers)] == [0, 0]
    found = re.search(r"drained: (\d+) requests answered, mean batch ([\d.]+) rows", said)
    assert int(found[1]) == answers
    assert float(found[2]) > 1.5


def test_a_drain_waits_for_long_work_and_a_second_ctrl_c_does_not(folder):
    with serving(folder) as (process, port):
        answers = []
        asking = threading.Thread(target=lambda: answers.append(body(port, "/wait", {"s": 1.5})))
        asking.start()
        wait_until((folder / "waits-1.5").exists)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert answers == [b"1.5"]
        assert process.wait(60) == 0
    with serving(folder) as (process, port):
        asking = threading.Thread(target=lambda: answers.append(body(port, "/wait", {"s": 4.5})))
        asking.start()
        wait_until((folder / "waits-4.5").exists)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        said = process.stderr.read()
        assert process.wait(60) == 1
        assert "1 requests were not answered" in said
        asking.join(30)
        assert b"Delay ended before the answer" in answers[1]


def test_of_two_signals_at_once_the_order_does_not_count(folder):
    with serving(folder) as (process, port), closing(http.client.HTTPConnection("127.0.0.1", port)) as asking:
        headers = {"content-type": "application/json", **AUTH}
        asking.request("POST", "/count", json.dumps({"n": 1000}), headers)
        assert asking.getresponse().readline() == b"data: 0\n"
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(20) == 1
        assert "1 requests were not answered" in process.stderr.read()


def test_items_of_a_stream_come_as_they_are_made(folder):
    with serving(folder) as (_, port):
        kind, lines = post(port, "/count", {"n": 3})
        assert kind == "text/event-stream"
        times = [at for at, line in lines if line.startswith(b"data: ")]
        assert len(times) == 4
        assert times[3] - times[0] > 0.3


def test_it_listens_on_loopback_alone(folder):
    with serving(folder) as (process, port):
        listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"]
        assert [tuple(one.laddr) for one in listening] == [("127.0.0.1", port)]


def test_bytes_that_are_no_http_end_their_connection_alone(folder):
    with serving(folder) as (process, port):
        for noise in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /predict HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
                one.sendall(noise)
                assert not one.recv(1000).startswith(b"HTTP/1.1 2")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(
                b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"
            )
        assert body(port, "/predict", {"rows": [1]}) == b"[2]"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.long
def test_what_stops_it_is_said(folder):
    def said(*words):
        done = subprocess.run(
            command(*words), cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stderr

    code, text = said("delays.py", "--port", "0", "--with", "factor=0")
    assert code == 1
    assert "Delay cannot be set up: ValueError: no weights" in text
    assert "delays.py" in text
    code, text = said("delays.py", "--port", "0", "--with", "facto=3")
    assert code == 2
    assert "did you mean factor?" in text
    code, text = said("delays.py", "--port", "0", "--with", "factor=x")
    assert code == 2
    assert "--with factor 'x': it must be a whole number" in text
    code, text = said("delays.py", "--port", "0", "--with", "model=none@champion")
    assert code != 0
    assert "none" in text
    code, text = said("delays.py:Delays")
    assert code == 2
    assert "it has: Delay" in text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = said("delays.py", "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "is taken" in text


def test_without_the_extra_the_command_is_named(folder):
    code = "import sys\nsys.modules['uvloop'] = None\nfrom hooke.cli import main\nmain(['serve', 'delays.py', '--port', '0'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert 'pip install "hooke-ml[serve]"' in done.stderr


def test_ctrl_c_ends_a_setup_that_hangs(folder):
    (folder / "hangs.py").write_text(
        SERVICE.replace("if factor == 0:", "time.sleep(30)\n        if factor == 0:")
    )
    process = subprocess.Popen(
        command("hangs.py", "--port", "0"), cwd=folder, stderr=subprocess.PIPE, text=True
    )
    with process:
        port = int(process.stderr.readline().rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/-/ready")
            assert connection.getresponse().read() == b'{"state":"starting"}'
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_values_of_setup_come_from_the_command_line(folder):
    with serving(folder, "--with", "factor=5") as (_, port):
        assert body(port, "/predict", {"rows": [1, 2]}) == b"[5,10]"


def test_no_library_of_the_server_is_needed_to_declare_and_to_test(folder):
    code = (
        "import sys\nfrom delays import Delay\nfrom hooke.testing import client\n"
        "with client(Delay) as delay:\n    assert delay.post('/predict', {'rows': [1]}).json() == [2]\n"
        "assert not {'uvicorn', 'uvloop', 'httptools', 'mlflow', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ, check=True, timeout=120)


def test_what_it_did_is_a_run_that_hooke_stop_ends(folder):
    with serving(folder) as (process, port):
        assert body(port, "/predict", {"rows": [1, 2]}) == b"[2,4]"
        (name,) = [path.name for path in (folder / ".hooke" / "runs").iterdir()]
        words = [sys.executable, "-m", "hooke", "stop", name]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
        assert (done.returncode, done.stdout) == (0, f"run {name}: finished\n")
        assert process.wait(60) == 0
        assert f"next: hooke show {name}" in process.stderr.read()
    words = [sys.executable, "-m", "hooke", "show", "--json", name]
    facts = json.loads(subprocess.run(words, cwd=folder, capture_output=True, check=True, timeout=50).stdout)
    assert (facts["kind"], facts["status"], facts["requests"], facts["rows"]) == ("service", "finished", 1, 2)
