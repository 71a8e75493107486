"""What is kept of a service that was measured with several numbers of replicas."""

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hooke.journal.events import Measured
from hooke.journal.reader import read
from hooke.load.ladder import SafeRate
from hooke.load.target import parse_target
from hooke.project.benching.order import BenchOrder
from hooke.project.benching.result import BenchResult
from hooke.project.benching.served import ServedFile
from hooke.project.benching.sweep import sweep
from hooke.project.folder import Project

ORDER = BenchOrder(
    target=parse_target("http://127.0.0.1:1"), path="/predict", requests=(), name="Delay/predict"
)


def measured(stopped_at, count):
    safe = SafeRate(low=100.0 * count, high=200.0 * count, limited=False)
    return BenchResult(order=ORDER, lone_s=0.001, levels=(), safe=safe, stopped=count == stopped_at)


@pytest.mark.parametrize(("stopped_at", "kept"), [(0, [1, 2, 4]), (4, [1, 2]), (1, [])])
def test_what_was_stopped_tells_no_rate(tmp_path, stopped_at, kept):
    project = Project.find(tmp_path)
    made = sweep((1, 2, 4), partial(measured, stopped_at), project=project, entry="service.py:Delay")
    assert made.stopped == bool(stopped_at)
    assert [event.n for event in journalled(project, made.study)] == kept


def journalled(project, study):
    if not study:
        return []
    segments = read(project.runs.folder(study))
    return [event for segment in segments for event in segment.events if isinstance(event, Measured)]


def test_no_proxy_is_shown_the_token(monkeypatch):
    """It is asked on this machine, whatever proxy the environment names for the world."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hooke_batch_rows_count 2.0\nhooke_batch_rows_sum 6.0\n")

        def log_message(self, *_):
            """Nothing is said."""

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        try:
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
            monkeypatch.delenv("no_proxy", raising=False)
            served = ServedFile("service.py:Delay", words=(), timeout_s=5.0)
            served.url = f"http://127.0.0.1:{server.server_port}"
            assert served.batches() == (2.0, 6.0)
        finally:
            server.shutdown()
            answering.join()
