"""What is kept of a service that was measured with several numbers of replicas or threads."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from hooke import UsageError
from hooke.journal.study_records import read_study
from hooke.loadtest.load_report import compared
from hooke.loadtest.load_result import BenchOrder, BenchResult
from hooke.loadtest.load_test import ServedFile
from hooke.loadtest.rate_search import SafeRate
from hooke.loadtest.sweep import SweptService, Varied, sweep
from hooke.loadtest.target import parse_target
from hooke.planning.curves import curve_of
from hooke.project.folder import Project
from hooke.serving.slo import Slo

ORDER = BenchOrder(
    target=parse_target("http://127.0.0.1:1"),
    path="/predict",
    requests=(),
    name="Delay/predict",
    slo=Slo(99, 0.05),
)


def measured(replicas, threads, stopped_at=0):
    rate = 100.0 * (replicas or 1) * (threads or 1) ** 0.5
    return BenchResult(
        order=ORDER,
        lone_s=0.001,
        levels=(),
        safe=SafeRate(low=rate, high=2 * rate, limited=False),
        stopped=replicas == stopped_at,
        replicas=replicas,
        threads=threads or 2,
    )


def swept(tmp_path, measure=measured, **varied):
    project = Project.find(tmp_path)
    about = SweptService(project=project, entry="service.py:Delay", key="k", given="model=flights@champion")
    made = sweep(Varied(**varied), measure, about=about)
    studies = [read_study(project.runs.folder(line.study)) if line.study else None for line in made.lines]
    return made, studies


@pytest.mark.parametrize(("stopped_at", "kept"), [(0, [1, 2, 4]), (4, [1, 2]), (1, [])])
def test_what_was_stopped_tells_no_rate(tmp_path, stopped_at, kept):
    made, (study,) = swept(tmp_path, lambda *at: measured(*at, stopped_at=stopped_at), replicas=(1, 2, 4))
    assert made.stopped == bool(stopped_at)
    assert [event.n for event in study.measured] == kept if kept else study is None
    if study:
        assert study.complete is not made.stopped and study.started.levels == (1, 2, 4)


def test_threads_of_one_replica_are_a_study_and_so_is_a_lone_measurement(tmp_path):
    made, (study,) = swept(tmp_path, threads=(1, 2, 4))
    assert study.counts == "threads" and [event.n for event in study.measured] == [1, 2, 4]
    assert [load.threads for load in study.loads] == [1, 2, 4]
    assert {(load.replicas, load.slo_limit_s, load.given) for load in study.loads} == {(1, 0.05, "model=flights@champion")}  # fmt: skip
    curve = curve_of(Project.find(tmp_path).runs, study.started.study)
    assert (
        curve.law.family == "power" and "threads" in curve.text(width=100) and "workers" not in curve.text()
    )
    said = list(compared(made.lines[0], cores=2))
    assert said[0] == "1 replica, 2 threads: 1.41 times the safe rate of 1 replica, 1 thread (0.71 to 2.83)"
    assert said[-1] == "1 replica, 4 threads: more than this machine's 2 cores, so the machine is the limit, not the service"  # fmt: skip

    _, (lone,) = swept(tmp_path)
    assert lone.counts == "replicas" and lone.started.levels == (1,) and lone.complete


def test_replicas_by_threads_are_a_study_for_each_number_of_threads(tmp_path):
    made, studies = swept(tmp_path, replicas=(1, 2), threads=(1, 2))
    assert len(made.results) == 4 and len({line.study for line in made.lines}) == 2
    assert [study.counts for study in studies] == ["replicas", "replicas"]
    assert [[(load.replicas, load.threads) for load in study.loads] for study in studies] == [
        [(1, 1), (2, 1)],
        [(1, 2), (2, 2)],
    ]
    assert studies[1].started.shown["threads"] == "2"


def test_what_was_measured_before_an_error_is_kept(tmp_path):
    def measure(replicas, threads):
        if replicas == 2:
            raise UsageError("the second does not come up")
        return measured(replicas, threads)

    with pytest.raises(UsageError):
        swept(tmp_path, measure, replicas=(1, 2))
    runs = Project.find(tmp_path).runs
    (name,) = runs.names()
    assert [event.n for event in read_study(runs.folder(name)).measured] == [1]


@pytest.mark.needs("cpu")
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
