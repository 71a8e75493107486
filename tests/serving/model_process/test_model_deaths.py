"""What comes of it when the process of a model dies, hangs, grows or keeps the interpreter's lock: real signals, real memory."""

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.services.supervisor.supervised import gone
from tests.serving.answers import wait_until
from tests.serving.model_process.apart import Again, Brief, Once

from hooke import HookeError, UsageError, service
from hooke.journal.service_events import ModelBack, ModelDied
from hooke.serving.replica import HEALTH, METRICS, READY
from hooke.serving.service import service_of
from hooke.testing import client
from hooke.testing.service_client import ServiceClient

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def serving(tmp_path):
    """Clients of these classes, each with what its replica told for the journal; ended at the end."""
    made = []

    def start(kind):
        one = ServiceClient(service_of(kind), {"folder": str(tmp_path)})
        one.told, one.ended = [], False
        one.replica.say = one.told.append
        one.__enter__()
        made.append(one)
        return one

    yield start
    for one in made:
        end(one)


def end(one):
    if not one.ended:
        one.ended = True
        one.__exit__(None, None, None)


def back(one):
    wait_until(lambda: one.get(READY).status == 200)


def rows(one, *values):
    return one.post("/rows", {"rows": list(values)})


def test_garbage_collection_leaves_out_what_was_there_when_it_was_set_up(serving):
    assert serving(Once).post("/frozen", {}).json() > 10_000


class TestDeaths:
    """The requests that it was at are told; all others have their answers."""

    @pytest.mark.long
    @pytest.mark.parametrize(("kind", "status"), [(Once, 500), (Again, 503)])
    def test_kill_9_in_the_middle_of_a_batch(self, serving, tmp_path, caplog, kind, status):
        one = serving(kind)
        pid = one.post("/pid", {}).json()
        with ThreadPoolExecutor(4) as threads:
            first = threads.submit(rows, one, 0)
            wait_until((tmp_path / "began").exists)
            others = [threads.submit(rows, one, n) for n in (1, 2)]
            wait_until(lambda: one.replica.dispatch.batcher.waiting_rows == 2)
            os.kill(pid, signal.SIGKILL)
            answer = first.result()
            assert answer.status == status
            assert "killed by SIGKILL (9)" in answer.json()["detail"]
            assert "peak memory" in answer.json()["detail"]
            assert ("retry-after" in answer.headers) == (status == 503)
            assert [one.result().json() for one in others] == [[2], [4]], (
                "what waited is done by the next one"
            )
        assert one.post("/pid", {}).json() != pid
        died, again = one.told
        assert isinstance(died, ModelDied)
        assert (died.method, died.requests, died.exit_code, died.log_tail) == ("rows", 1, -9, ("set up",))
        assert died.peak_bytes > 1 << 20
        assert isinstance(again, ModelBack)
        assert (
            f"{kind.__name__}.rows, for 1 request: the process of the model ended: it was killed by SIGKILL (9)"
            in caplog.text
        )
        assert "it restarts in 500 ms" in caplog.text
        (record,) = [each for each in caplog.records if "it restarts in" in each.getMessage()]
        assert record.request_id == answer.headers["x-request-id"]

    @pytest.mark.long
    def test_a_guilty_batch_is_not_run_again(self, serving, tmp_path):
        one = serving(Again)
        with ThreadPoolExecutor(4) as threads:
            first = threads.submit(rows, one, 0)
            wait_until((tmp_path / "began").exists)
            others = [threads.submit(rows, one, n) for n in (1, 9, 2)]
            wait_until(lambda: one.replica.dispatch.batcher.waiting_rows == 3)
            (tmp_path / "go").touch()
            assert first.result().json() == [0]
            assert [each.result().status for each in others] == [503, 503, 503]
        back(one)
        assert len(one.told) == 2
        assert one.told[0].requests == 3
        assert "nine came" in one.told[0].log_tail
        assert rows(one, 1).json() == [2]

    @pytest.mark.long
    def test_a_crash_shows_its_lines(self, serving, caplog):
        one = serving(Once)
        answer = one.post("/segfault", {})
        assert (answer.status, "SIGSEGV (11)" in answer.json()["detail"]) == (500, True)
        assert "in segfault" in caplog.text
        assert "ctypes.string_at" not in answer.body.decode()
        back(one)
        answer = one.post("/leaves", {})
        assert (answer.status, "exit code 3" in answer.json()["detail"]) == (500, True)

    @pytest.mark.long
    def test_memory_that_it_took_is_named(self, serving):
        one = serving(Once)
        assert one.replica.memory_bytes() > psutil.Process().memory_info().rss / 10
        # The kernel calls a child's peak no less than its parent's, which after many tests is large.
        mb = 100 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        one.post("/eats", {"mb": mb})
        assert one.told[0].peak_bytes > mb << 20

    @pytest.mark.long
    def test_while_it_is_away_it_is_not_ready_and_says_so(self, serving, tmp_path, caplog):
        one = serving(Once)
        (tmp_path / "unset").touch()
        one.post("/leaves", {})
        assert one.get(READY).json() == {"state": "restarting"}
        assert one.get(HEALTH).status == one.get(METRICS).status == 200
        assert one.get("/v2/health/ready").status == 503
        refused = one.post("/pid", {})
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert "exit code 3" in refused.json()["detail"]
        wait_until(
            lambda: "cannot be restarted: Once cannot be set up: ValueError: no weights" in caplog.text
        )
        wait_until(lambda: len(one.told) == 2)
        assert one.told[1].cause.startswith("setup failed")
        assert one.told[1].starts_in_s == 1.0, "twice the first wait"
        (tmp_path / "unset").unlink()
        back(one)
        assert one.post("/pid", {}).status == 200

    @pytest.mark.long
    def test_a_stream_ends_with_its_process(self, serving, tmp_path):
        one = serving(Once)
        pid = one.post("/pid", {}).json()
        with ThreadPoolExecutor(2) as threads:
            asked = threads.submit(one.post, "/count", {"n": 4})
            wait_until((tmp_path / "waits").exists)  # before its first item it would be no stream, but a 500
            second = threads.submit(one.post, "/echo", {"x": "waits"})
            os.kill(pid, signal.SIGKILL)
            events = asked.result().events()
        *items, (name, said) = events
        assert [data[:2] for _, data in items] == [[0, pid], [1, pid]][: len(items)]
        assert (name, said["status"]) == ("error", 500)
        # 503 if it came while the next process was starting: no model has seen it.
        assert second.result().status in (200, 500, 503)
        back(one)
        (tmp_path / "go").touch()
        assert [data[0] for name, data in one.post("/count", {"n": 4}).events() if name == "message"] == [
            0,
            1,
            2,
            3,
        ]

    def test_a_fork_that_comes_back_answers_nobody(self, serving):
        one = serving(Once)
        assert one.post("/forks", {}).json() > 0
        assert [one.post("/echo", {"x": x}).json() for x in "abc"] == ["a", "b", "c"]

    @pytest.mark.long
    def test_one_that_closed_its_socket_is_ended(self, serving):
        one = serving(Once)
        assert one.post("/closes", {}).status == 500
        back(one)
        assert one.post("/pid", {}).status == 200

    def test_the_next_one_has_the_source_of_the_first(self, tmp_path, monkeypatch):
        file = tmp_path / "edited_since.py"
        text = (
            "import os\nfrom hooke import service\n@service(model='process')\nclass Edited:\n"
            "    def n(self) -> int:\n        return 1\n    def leaves(self) -> None:\n        os._exit(3)\n"
        )
        file.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        made = __import__("edited_since").Edited
        with client(made) as one:
            file.write_text(text.replace("return 1", "return 2"))
            one.post("/leaves", {})
            back(one)
            assert one.post("/n", {}).json() == 1


class TestLock:
    """One that holds the interpreter's lock keeps nothing waiting but its own requests."""

    def test_health_and_metrics_meanwhile(self, serving, tmp_path):
        one = serving(Once)
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(one.post, "/holds", {"s": 2.0})
            wait_until((tmp_path / "began").exists)
            answers = [one.get(path).status for path in (HEALTH, READY, METRICS) for _ in range(20)]
            assert not (tmp_path / "done").exists(), "all were answered while it held the lock"
            assert set(answers) == {200}
            assert asked.result().json() == 2.0

    @pytest.mark.long
    def test_the_deadline_is_kept_and_a_hang_is_ended(self, serving, tmp_path):
        one = serving(Brief)
        answer = one.post("/holds", {"s": 600.0})
        assert answer.status == 504
        assert not (tmp_path / "done").exists()
        wait_until(lambda: bool(one.told))
        assert (
            one.told[0].cause
            == "one batch took 2.8 s, longer than any client waits; it was killed by SIGKILL (9)"
        )
        back(one)
        assert one.post("/pid", {}).status == 200


class TestEnds:
    """Nothing is left behind."""

    def test_it_and_what_it_started_end_with_the_service(self, serving):
        one = serving(Once)
        pid, started = one.post("/pid", {}).json(), one.post("/spawns", {}).json()
        assert one.post("/session", {}).json() == [pid, os.getpid()], "Ctrl-C in the terminal is not for it"
        end(one)
        assert gone([pid, started])

    def test_one_that_hangs_is_killed(self, serving):
        one = serving(Brief)
        pid = one.post("/pid", {}).json()
        assert one.post("/sleeps", {"s": 600.0}).status == 504
        end(one)
        assert gone([pid])

    def test_it_ends_with_a_replica_that_is_killed(self, tmp_path):
        code = (
            "import sys, time\nfrom tests.serving.model_process.apart import Once\nfrom hooke.testing import client\n"
            "with client(Once, folder=sys.argv[1]) as one:\n"
            "    print(one.post('/pid', {}).json(), flush=True)\n    one.post('/sleeps', {'s': 600.0})\n"
        )
        words = [sys.executable, "-c", code, str(tmp_path)]
        root = Path(__file__).parents[3]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        }
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as replica:
            pid = int(replica.stdout.readline())
            replica.kill()
        assert gone([pid])


class TestStart:
    """What keeps it from starting is said."""

    @pytest.mark.long
    def test_setup_that_raises_or_dies(self, tmp_path):
        (tmp_path / "unset").touch()
        with (
            pytest.raises(HookeError, match="Once cannot be set up: ValueError: no weights") as failed,
            client(Once, folder=str(tmp_path)),
        ):
            pass
        assert "apart.py" in failed.value.why
        (tmp_path / "unset").rename(tmp_path / "dies")
        with (
            pytest.raises(HookeError, match=r"its model ended: it was killed by SIGKILL") as failed,
            client(Once, folder=str(tmp_path)),
        ):
            pass
        assert "set up" in failed.value.why

    def test_what_cannot_be_found_or_sent(self):
        @service(model="process")
        class Here:
            def f(self) -> int:
                return 1

        with pytest.raises(UsageError, match="the class is in a function") as failed, client(Here):
            pass
        assert "top level of a module" in failed.value.fix
        with pytest.raises(UsageError, match="cannot be sent") as failed, client(Once, folder=lambda: None):
            pass
        assert "--with model=" in failed.value.fix
