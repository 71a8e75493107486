"""`hooke serve --dev` as a process: files are edited while somebody asks."""

import http.client
import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import psutil
import pytest
from tests.services.supervisor.supervised import LIMIT_S, gone

from hooke.services.reload.reloader import Watcher

pytestmark = pytest.mark.needs("processes")

SERVICE = """
import time
from hooke import service
from factors import FACTOR

@service(timeout="5s")
class Delay:
    def setup(self):
        time.sleep(0)

    def double(self, n: int) -> int:
        return n * FACTOR + 0

    def nap(self, s: float) -> float:
        open("naps", "w").close()
        time.sleep(s)
        return s
"""
FEW_FOLDERS = 'echo 1 > /proc/sys/user/max_inotify_watches && exec "$@"'
"""In a user namespace of its own a limit of the kernel can be set that holds for nobody else."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    (tmp_path / "factors.py").write_text("FACTOR = 2\n")
    return tmp_path


class Developed:
    """`hooke serve --dev`, what it said, and what it answers."""

    def __init__(self, folder, *words, within=()):
        self.folder = folder
        self.said = folder / "said.txt"
        with self.said.open("wb") as output:
            words = [sys.executable, "-m", "hooke", "serve", "delays.py", "--dev", "--port", "0", *words]
            words = [*within, *words]
            self.process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT)

    def until(self, pattern):
        """Wait until it has said this."""
        ends = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, self.said.read_text(), re.MULTILINE)) is None:
            assert time.monotonic() < ends, f"it did not say {pattern!r}:\n{self.said.read_text()}"
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.02)
        return found

    @property
    def port(self):
        return int(self.until(r"on http://127\.0\.0\.1:(\d+), and again")[1])

    def edit(self, name, before, after):
        text = (self.folder / name).read_text()
        assert before in text
        (self.folder / name).write_text(text.replace(before, after))

    def connection(self):
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S))

    def nap(self, s):
        """Ask for it in a thread, and wait until the model is at it; the answer comes into the queue, or what cut it."""
        came = queue.SimpleQueue()

        def ask():
            try:
                with self.connection() as connection:
                    came.put(self.ask(connection, {"s": s}, path="/nap"))
            except (OSError, http.client.HTTPException, AssertionError) as failure:
                came.put(failure)

        threading.Thread(target=ask, daemon=True).start()
        ends = time.monotonic() + LIMIT_S
        while not (self.folder / "naps").exists():
            assert time.monotonic() < ends, self.said.read_text()
            time.sleep(0.02)
        return came

    def ask(self, connection, fields, path="/double"):
        headers = {"content-type": "application/json"}
        for token in self.folder.glob(".hooke/services/*/token"):
            headers["authorization"] = f"Bearer {token.read_text().strip()}"
        connection.request("POST", path, json.dumps(fields), headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return json.loads(body)

    def until_answer(self, wanted):
        """Ask on new connections until this is what 10 is answered with."""
        ends = time.monotonic() + LIMIT_S
        while True:
            with self.connection() as connection:
                if (answer := self.ask(connection, {"n": 10})) == wanted:
                    return
            assert time.monotonic() < ends, (answer, self.said.read_text())
            time.sleep(0.02)

    def processes(self):
        return [
            self.process.pid,
            *(one.pid for one in psutil.Process(self.process.pid).children(recursive=True)),
        ]


@contextmanager
def developed(folder, *words, within=()):
    started = Developed(folder, *words, within=within)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            below = psutil.Process(started.process.pid).children(recursive=True)
            started.process.kill()
            for one in below:
                with suppress(psutil.NoSuchProcess):  # it has ended with its parent
                    one.kill()
        started.process.wait()


class Asker(threading.Thread):
    """Asks without a pause until `enough`, on one connection that is kept, or on a new one each time."""

    def __init__(self, served, *, kept):
        super().__init__(daemon=True)
        self.served, self.kept, self.enough = served, kept, threading.Event()
        self.answers, self.failure = [], None

    def until(self, answer):
        """Wait until it got this one."""
        ends = time.monotonic() + LIMIT_S
        while not self.answers or self.answers[-1] != answer:
            assert self.failure is None, self.failure
            assert time.monotonic() < ends, self.served.said.read_text()
            time.sleep(0.02)

    def run(self):
        try:
            with self.served.connection() as connection:
                while not self.enough.is_set():
                    self.answers.append(self.served.ask(connection, {"n": 10}))
                    if not self.kept:
                        connection.close()
                    time.sleep(0.005)
        except (OSError, http.client.HTTPException, AssertionError) as failure:
            self.failure = failure


@pytest.mark.long
def test_edits_take_over_without_a_lost_request(folder):
    with developed(folder) as served:
        served.until("Delay answers: POST /double")
        token = next(folder.glob(".hooke/services/*/token")).read_text()
        askers = [Asker(served, kept=kept) for kept in (True, False)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.until(20)
        served.edit("delays.py", "+ 0", "+ 1")
        for asker in askers:
            asker.until(21)
        served.edit("factors.py", "2", "3")
        for asker in askers:
            asker.until(31)
        served.edit("factors.py", "= 3", "= = 3")
        served.until(r"keeps serving; the next change starts another try")
        assert re.search(r"cannot serve: .*factors\.py:1$", served.said.read_text(), re.MULTILINE)
        assert "SyntaxError: invalid syntax" in served.said.read_text()
        served.until_answer(31)
        served.edit("factors.py", "= = 3", "= 4")
        for asker in askers:
            asker.until(41)
            asker.enough.set()
            asker.join(LIMIT_S)
        processes = served.processes()
        assert len(processes) >= 2
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(LIMIT_S) == 0
    assert [asker.failure for asker in askers] == [None, None]
    for asker in askers:
        assert set(asker.answers) == {20, 21, 31, 41}
    assert gone(processes)
    assert next(folder.glob(".hooke/services/*/token")).read_text() == token
    assert "next: hooke show Delay-" in served.said.read_text()


@pytest.mark.long
def test_a_first_start_that_fails_and_a_setup_that_hangs_wait_for_a_change(folder):
    (folder / "factors.py").unlink()
    with developed(folder, "--no-auth") as served:
        served.until(
            r"no version answers, and requests wait: the next change starts another try, Ctrl-C ends"
        )
        assert "No module named 'factors'" in served.said.read_text()
        (folder / "factors.py").write_text("FACTOR = 2\n")
        served.until_answer(20)
        served.edit("delays.py", "sleep(0)", "sleep(600)")
        served.until(r"delays\.py changed: setting up a new version$")
        served.until_answer(20)
        served.edit("delays.py", "sleep(600)", "no_such_name")
        served.until(r"was not ready and is ended")
        served.until(r"Delay cannot be set up: AttributeError")
        assert re.search(r"cannot serve: .*delays\.py:9$", served.said.read_text(), re.MULTILINE)
        served.until_answer(20)
        (folder / "hooke.toml").write_text("[services.Delay.with]\nfactor = 3\n")
        served.until(r"hooke\.toml changed: setting up a new version$")
        served.until(r"factor")
        (folder / "hooke.toml").unlink()
        served.edit("delays.py", "time.no_such_name", "pass")
        served.edit("delays.py", "+ 0", "+ 5")
        served.until_answer(25)


def test_no_version_outlives_the_parent(folder):
    with developed(folder) as served:
        served.until("Delay answers: POST /double")
        processes = served.processes()
        assert len(processes) == 2
        served.process.kill()
        assert gone(processes[1:])


def test_ctrl_c_answers_what_was_asked_and_a_second_one_cuts(folder):
    (folder / "delays.py").write_text(SERVICE.replace('"5s"', '"60s"'))
    with developed(folder) as served:
        served.until("Delay answers: POST /double")
        processes = served.processes()
        came = served.nap(50)
        served.process.send_signal(signal.SIGINT)
        served.until("draining: open requests are answered; Ctrl-C again cuts them")
        assert came.empty()
        served.process.send_signal(signal.SIGINT)
        served.process.wait(LIMIT_S)
        failure = came.get(timeout=LIMIT_S)
        assert isinstance(failure, (OSError, http.client.HTTPException, AssertionError)), failure
        assert served.process.returncode == 1
    assert "cutting open requests" in served.said.read_text()
    assert gone(processes)


@pytest.mark.needs("user namespaces")
def test_a_watch_that_breaks_is_said_and_costs_no_request(folder):
    within = ["unshare", "--user", "--map-root-user", "sh", "-c", FEW_FOLDERS, "sh"]
    with developed(folder, within=within) as served:
        served.until("Delay answers: POST /double")
        processes = served.processes()
        came = served.nap(1)
        (folder / "new").mkdir()  # one more folder than may be watched
        assert came.get(timeout=LIMIT_S) == 1
        assert served.process.wait(LIMIT_S) == 1
    said = served.said.read_text()
    assert "changes are no longer seen: the watch of the files ended\n" in said
    assert f"{folder} cannot be watched for changes: " in said
    assert "raise fs.inotify.max_user_watches" in said
    assert gone(processes)


def test_a_project_that_goes_and_comes_back_is_watched_again(tmp_path):
    came = queue.SimpleQueue()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.py").write_text("1")
    watcher = Watcher(tmp_path / "here", came.put)
    watcher.start()
    try:
        (tmp_path / "here").rename(tmp_path / "away")
        assert came.get(timeout=LIMIT_S) == {tmp_path / "here" / "a.py"}
        (tmp_path / "away").rename(tmp_path / "here")
        assert came.get(timeout=LIMIT_S) == {tmp_path / "here" / "a.py"}
        (tmp_path / "here" / "b.py").write_text("1")
        assert came.get(timeout=LIMIT_S) == {tmp_path / "here" / "b.py"}
    finally:
        watcher.stop()


def test_sources_are_seen_also_in_new_folders_and_data_is_not(tmp_path):
    came = queue.SimpleQueue()
    watcher = Watcher(tmp_path, came.put)
    seen = set()

    def until(*names):
        seen.clear()
        while not seen >= {tmp_path / name for name in names}:
            seen.update(came.get(timeout=LIMIT_S))

    watcher.start()
    try:
        (tmp_path / "rows.csv").write_text("1")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "a.py").write_text("1")
        until("new/a.py")
        (tmp_path / "new" / "a.py.swp").write_text("2")
        (tmp_path / "new" / "a.py.swp").replace(tmp_path / "new" / "a.py")
        until("new/a.py")
        (tmp_path / "rows.csv").write_text("2")
        for name in ("b.py", "c.py", "hooke.toml"):  # a checkout
            (tmp_path / name).write_text("1")
        until("b.py", "c.py", "hooke.toml")
        assert seen <= {tmp_path / name for name in ("new/a.py", "b.py", "c.py", "hooke.toml")}
        (tmp_path / "new" / "a.py").unlink()
        until("new/a.py")
    finally:
        watcher.stop()


def test_without_the_extra_the_command_is_named(folder):
    code = "import sys\nsys.modules['watchfiles'] = None\nfrom hooke.cli import main\nmain(['serve', 'delays.py', '--dev', '--port', '0'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2
    assert 'pip install "hooke-ml[serve]"' in done.stderr
