"""Real replicas, a real front, and clients that check every answer against what they asked."""

import http.client
import json
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

from hooke.proxy.envoy import Proxy
from hooke.proxy.proxy_settings import ProxySettings, Upstream

PROGRAM = Path(__file__).with_name("echoes.py")


class Process:
    """A replica that answers, as a process."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self.upstream = None

    def ready(self):
        self.upstream = Upstream(port=int(self.process.stdout.readline()))
        return self

    def end(self, number=9):
        """By a signal; returns its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


class Stand:
    """Replicas behind a front. What was started here is ended when it is left."""

    def __init__(self, folder, **given):
        self.front = Proxy(
            ProxySettings(**{"service": "Echo", "folder": folder / "front", "timeout_s": 5.0} | given)
        )
        self.started = []
        self.serving = []

    def add(self, count=1, *arguments):
        """So many more replicas, started and not yet published."""
        made = [Process(*arguments) for _ in range(count)]
        self.started += made
        for one in made:
            one.ready()
        self.serving += made
        return made

    def publish(self):
        self.front.publish([one.upstream for one in self.serving])

    def retire(self, one):
        """In the right order; returns its exit code."""
        self.serving.remove(one)
        self.publish()
        assert self.front.settled(one.upstream, within_s=60) == 0
        return one.end(15)

    @property
    def port(self):
        return self.front.settings.port

    def close(self):
        self.front.stop()
        for one in self.started:
            if one.process.poll() is None:
                one.end()
            one.process.stdout.close()


@contextmanager
def standing(folder, replicas=2, **given):
    stand = Stand(folder, **given)
    try:
        stand.front.start()
        stand.add(replicas)
        stand.publish()
        yield stand
    finally:
        stand.close()


def ask(port, path, value=None, *, verb="POST", headers=(), timeout=20):
    """Status, headers in lower case, body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        body = None if value is None else value if isinstance(value, bytes) else json.dumps(value)
        connection.request(verb, path, body, {"content-type": "application/json"} | dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()


class Asker(threading.Thread):
    """Asks on a connection that it keeps, and notes whatever is not the answer to what it asked."""

    def __init__(self, port, number, slow_s):
        super().__init__(daemon=True)
        self.port, self.number, self.slow_s = port, number, slow_s
        self.answers, self.failures = 0, []
        self.is_over = threading.Event()

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.is_over.is_set():
            self.number += 1
            where = "on a new connection" if connection.sock is None else "on one that was kept"
            try:
                connection.request(
                    "POST",
                    "/echo",
                    json.dumps({"n": self.number, "s": self.slow_s}),
                    {"content-type": "application/json"},
                )
                answer = connection.getresponse()
                got = (answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                got = (0, f"{error!r} {where}".encode())
                connection.close()
            self.answers += 1
            if got != (200, b"%d" % self.number):
                self.failures.append(got)
        connection.close()


@contextmanager
def load(port, askers=12, slow_s=0.01):
    """So many askers at once, while the block goes on; each ends with a whole answer."""
    made = [Asker(port, at * 1_000_000, slow_s) for at in range(askers)]
    for one in made:
        one.start()
    try:
        until(lambda: all(one.answers for one in made))
        yield made
    finally:
        for one in made:
            one.is_over.set()
        for one in made:
            one.join(30)


def failures(made):
    return [failure for one in made for failure in one.failures]


def until(holds, within_s=30):
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)
