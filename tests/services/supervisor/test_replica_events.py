"""What a replica tells its supervisor, whatever happens to it, and what of that is load."""

import os
import resource
import subprocess
import sys
import threading

import psutil
import pytest
from tests.serving.answers import wait_until
from tests.serving.services import Kinds, Rows, Slow

from hooke.cli.serve import services
from hooke.services.arrival_log import ArrivalLog
from hooke.services.supervisor import replica_events as events
from hooke.services.supervisor.autoscaling_loop import Autoscaler
from hooke.services.supervisor.children import Child, limit_log, start_child
from hooke.services.supervisor.control_channel import decode_from_child
from hooke.services.supervisor.replica_process import ReplicaReporter
from hooke.services.supervisor.service_folder import ChildRecord, ServiceFolder
from hooke.services.supervisor.supervision import Supervision
from hooke.serving.auth import Auth
from hooke.serving.replica import Replica
from hooke.serving.service import service_of
from hooke.testing.service_client import ServiceClient

TOKEN = "a-token-of-these-tests"
SHOWN = {"authorization": f"Bearer {TOKEN}"}
JSON = {"content-type": "application/json"}


def test_without_descriptors_it_tells_what_it_saw_last():
    """A replica that is silent is taken for hung, and ended."""
    telling = ReplicaReporter(Replica(service_of(Rows)), "1", memory_every_s=0.0)
    before = decode_from_child(telling.message())
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        after = decode_from_child(telling.message())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert after.report.memory_bytes == before.report.memory_bytes > 0
    assert after.counts.process == before.counts.process


@pytest.mark.parametrize("fault", ["channel", "record"])
def test_a_child_that_cannot_be_reached_or_recorded_is_ended(tmp_path, monkeypatch, fault):
    """It would hold its share of a GPU, which the next replica gets, too."""
    (tmp_path / "a_child_of_the_test.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = ServiceFolder(tmp_path / "service")
    folder.create()

    def order(_control):
        if fault == "channel":
            folder.child_socket("1").unlink()
        else:
            (folder.path / "children" / "1.json").mkdir()
        return "{}"

    record = ChildRecord(name="1", port=1, log=str(tmp_path / "log"))
    with pytest.raises(OSError, match=r"1\.(sock|json)|No such file|directory"):
        start_child(folder, "a_child_of_the_test", order, record=record, cwd=str(tmp_path))
    left = [one for one in psutil.Process().children(recursive=True) if "a_child_of_the_test" in _words(one)]
    assert left == []
    assert fault == "record" or list(folder.children()) == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie, too: of another test, which reaps it when it ends
        return []


class TestLogs:
    """Logs of a service that runs for months stay bounded, and are read line by line."""

    def test_a_long_one_is_begun_anew_and_its_writer_goes_on(self, tmp_path):
        log = tmp_path / "replica-1.log"
        said = "print(input(), flush=True)\n" * 3
        with log.open("ab") as output:
            writer = subprocess.Popen(
                [sys.executable, "-c", said], stdin=subprocess.PIPE, stdout=output, text=True
            )
        with writer:
            child = Child(record=ChildRecord(name="1", port=1, log=str(log)), channel=None, log_from=1)
            for word in ("first", "second", "third"):
                writer.stdin.write(f"{word}\n")
                writer.stdin.flush()
                wait_until(lambda word=word: log.read_text().endswith(f"{word}\n"))
                limit_log(log, 1000)
                limit_log(log, 10)
                if word == "second":
                    assert (log.read_text(), (tmp_path / "replica-1.log.1").read_text()) == (
                        "",
                        "first\nsecond\n",
                    )
        assert log.read_text() == "third\n"
        child.log_from = 10
        assert child.tail() == ("third",)
        limit_log(tmp_path / "none.log")

    def test_without_room_for_the_copy_it_stays(self, tmp_path):
        log = tmp_path / "replica-1.log"
        log.write_text("much\n")
        (tmp_path / "replica-1.log.1").mkdir()
        with pytest.raises(OSError, match="directory"):
            limit_log(log, 1)
        assert log.read_text() == "much\n"

    def test_what_was_printed_is_not_printed_again_and_what_was_begun_anew_is(self, tmp_path, capsys):
        log, told = tmp_path / "replica-1.log", {}
        log.write_text("one\ntwo\nhal")
        assert services._print_new(log, told, "") == 2
        log.write_text("one\ntwo\nhalf\n")
        assert services._print_new(log, told, "") == 1
        log.write_text("new\n")
        assert services._print_new(log, told, "") == 1
        assert capsys.readouterr().out == "1 | one\n1 | two\n1 | half\n1 | new\n"


class TestLoad:
    """Only calls of methods are load: whoever has no token, and any health check, moves no number of replicas."""

    @pytest.mark.parametrize(
        ("method", "path", "headers", "body", "status"),
        [
            ("GET", "/-/ready", {}, b"", 200),
            ("GET", "/-/health", {}, b"", 200),
            ("GET", "/-/metrics", SHOWN, b"", 200),
            ("GET", "/v2/health/ready", SHOWN, b"", 200),
            ("GET", "/v2/models/Rows.square", SHOWN, b"", 200),
            ("POST", "/predict", JSON, b'{"rows": [[1.0]]}', 401),
            ("POST", "/nowhere", SHOWN | JSON, b"{}", 404),
            ("GET", "/predict", SHOWN, b"", 405),
            ("POST", "/predict", SHOWN, b"{}", 415),
            ("POST", "/predict", SHOWN | JSON, b"{", 400),
            ("POST", "/predict", SHOWN | JSON, b'{"rows": []}', 422),
            ("POST", "/predict", SHOWN | JSON | {"content-length": str(1 << 30)}, b"", 413),
        ],
    )
    def test_what_calls_no_method_is_none(self, method, path, headers, body, status):
        with ServiceClient(service_of(Rows), {}, auth=Auth(token=TOKEN)) as made:
            reporter = ReplicaReporter(made.replica, "1")
            for _ in range(5):
                assert made.request(method, path, headers=headers, body=body).status == status
            report = decode_from_child(reporter.message()).report
        assert report.answered == 5
        assert report.asked == 5 * (method == "POST")
        assert (report.called, report.open_calls) == (0, 0)

    @pytest.mark.needs("cpu")
    def test_each_call_is_and_a_stream_is_one(self):
        inference = {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]}
        for made_by, path, body, status in (
            (Rows, "/predict", {"rows": [[1.0], [2.0]]}, 200),
            (Rows, "/predict", {"rows": [[-1.0]]}, 500),
            (Rows, "/later", {"rows": [1]}, 200),
            (Rows, "/v2/models/Rows.square/infer", inference, 200),
            (Kinds, "/dataclass", {"item": {"name": "a"}}, 200),
            (Kinds, "/count", {"n": 3}, 200),
            (Kinds, "/drip", {"n": 3}, 200),
            (Slow, "/sleep", {"s": 0.15}, 504),
        ):
            with ServiceClient(service_of(made_by), {}) as made:
                assert made.post(path, body).status == status
                report = decode_from_child(ReplicaReporter(made.replica, "1").message()).report
            assert (path, report.called, report.open_calls) == (path, 1, 0)

    def test_a_call_is_open_until_it_is_answered(self):
        with ServiceClient(service_of(Rows), {}) as made:
            reporter = ReplicaReporter(made.replica, "1")
            made.service.hold.clear()
            threads = [
                threading.Thread(target=made.post, args=("/predict", {"rows": [[1.0]]})) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda: made.replica.calls.open_calls == 3)
            report = decode_from_child(reporter.message()).report
            made.service.hold.set()
            for thread in threads:
                thread.join()
        assert (report.called, report.open_calls, report.in_flight) == (3, 3, 3)

    def test_the_autoscaler_takes_calls_and_nothing_else(self, tmp_path):
        def decided(report):
            scaler = Autoscaler(service_of(Rows), ArrivalLog(tmp_path), print)
            scaler.between(1, 6, now_wanted=1)
            core = Supervision(events.Rules(), generation="a", wanted=1)
            core.step(events.SupervisionBegan(), 0.0)
            ready = events.ReplicaReport(state=events.READY)
            core.step(events.Reported("1", ready), 1.0)
            try:
                assert scaler.decide(10.0, core, called=0) is None
                core.step(events.Reported("1", report), 11.0)
                return scaler.decide(12.0, core, called=report.called)
            finally:
                scaler.close()

        idle = events.ReplicaReport(state=events.READY, in_flight=100, answered=1000)
        assert decided(idle) is None
        busy = events.ReplicaReport(state=events.READY, in_flight=100, open_calls=100, called=1000)
        assert decided(busy).wanted > 1


def test_a_window_that_comes_while_a_report_is_made_is_in_the_next_one():
    from hooke.journal.service_events import BatchWindow

    class Interrupted(list):
        def clear(self):
            if other.ident is None:
                other.start()
                other.join(0.1)  # it waits for the report, or adds its window meanwhile
            super().clear()

    reporter = ReplicaReporter(Replica(service_of(Rows)), "1")
    reporter._windows = Interrupted()
    other = threading.Thread(target=reporter.window, args=(BatchWindow(arrived=2),))
    reporter.window(BatchWindow(arrived=1))
    first = decode_from_child(reporter.message())
    other.join()
    later = decode_from_child(reporter.message())
    assert [[each.arrived for each in update.windows] for update in (first, later)] == [[1], [2]]
