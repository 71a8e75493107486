"""Another version for real: a moved alias and an edited file, under a load whose every answer is checked."""

import json
import subprocess
import sys
import time

import pytest
from benchmarks.serving.canary import soak
from tests.services.supervisor.supervised import (
    LIMIT_S,
    SERVICE,
    Supervised,
    end_all,
    hooke,
    kill,
    post,
)

pytestmark = pytest.mark.needs("processes")

KILLS = (
    ("bad", "on trial", "supervisor"),
    ("good", "on trial", "new replica"),
    ("good", "accepted", "Envoy"),
    ("bad", "going back", "proxy"),
)
"""`make soak-canary` has all."""


TIMES = """
import sys
import time
from sklearn.linear_model import LinearRegression
import hooke

factor = int(sys.argv[1])
with hooke.start_run("times"):
    hooke.register(LinearRegression(fit_intercept=False).fit([[1.0], [2.0]], [factor, 2.0 * factor]), "times", alias="champion")
"""
TIMES_SERVICE = """
from hooke import service

@service(max_batch=8, timeout="10s", idempotent=True)
class Times:
    def setup(self, model):
        if model.coef_[0] < 1:
            raise ValueError("this model gives nothing")
        self.model = model

    def predict(self, rows: list[int]) -> list[int]:
        return [round(value) for value in self.model.predict([[row] for row in rows])]
"""


@pytest.mark.long
def test_a_new_supervisor_of_another_file_rolls_that_out_also_where_paths_are_long(load, tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    (folder / "delays.py").write_text(SERVICE)
    words = ("--replicas", "1", "--lease", "20", "--healthy", "1", "--canary", "50%")
    first, second = Supervised(folder, *words), None
    try:
        first.until_ready(1)
        asking = load(first, factors="2,3")
        first.process.kill()
        first.process.wait()
        (folder / "delays.py").write_text(SERVICE.replace("row * self.factor", "row * (self.factor + 1)"))
        second = Supervised(folder, *words)
        second.until("rolled out: delays.py:Delay")
        second.until_ready(1)
        assert post(second, "/predict", {"rows": [1]}) == [3]
        counted = asking.end()
        assert counted["failed"] == {}
        assert counted["right"] > 50
        assert second.end() == 0
    finally:
        for one in filter(None, (first, second)):
            one.process.kill()
            one.process.wait()
        end_all(folder)


@pytest.mark.long
@pytest.mark.timeout(800)  # each model is registered by a script that imports MLflow
def test_a_moved_alias_rolls_out_and_goes_back_where_the_new_model_does_not_come_up(
    supervised, load, folder, lay_tables
):
    lay_tables(folder)
    (folder / "times.py").write_text(TIMES)
    (folder / "serves.py").write_text(TIMES_SERVICE)

    def register(factor):
        subprocess.run([sys.executable, "times.py", str(factor)], cwd=folder, check=True, timeout=120)

    register(2)
    service = supervised(
        *("--replicas", "2", "--poll", "0.3", "--canary", "50%", "--with", "model=times@champion"),
        file="serves.py",
    )
    service.until_ready(2)
    asking = load(service, factors="2,3")
    (folder / "serves.py").write_text(f"{TIMES_SERVICE}# edited: nobody asked for that to be served\n")
    register(3)
    service.until(r"rolled out: model=times:2 .*; 2 of its replicas have been ready for 1 s")
    facts = service.until_ready(2)
    assert {one["replica"] for one in facts["replicas"]} == {"3", "4"}
    assert post(service, "/predict", {"rows": [5]}) == [15]
    register(0)
    said = service.until(r"rolled back: (.*) goes on instead of (.*); 2 of its replicas failed")[0]
    assert said[1].startswith("model=times:2")
    assert said[2].startswith("model=times:3")
    assert "this model gives nothing" in service.text
    facts = service.until_ready(2)
    assert post(service, "/predict", {"rows": [5]}) == [15]
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 100
    text = service.text
    assert text.index("times@champion moved") < text.index("replica 1 gets nothing new")
    assert text.index("replica 4 is ready") < text.index("replica 1 gets nothing new")
    assert service.end() == 0
    shown = [
        subprocess.run(
            [sys.executable, "-m", "hooke", "show", "Times", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in ([], ["--json"])
    ]
    assert "what happened to replicas" in shown[0]
    told = [event for event in json.loads(shown[1])["replicas"] if event["event"] == "roll_out_changed"]
    statuses = [event["status"] for event in told]
    assert statuses == ["began", "accepted", "done", "began", "back"], service.text


@pytest.mark.long
def test_an_edit_reaches_no_replica_of_a_service_that_runs(supervised, load, folder):
    (folder / "factors.py").write_text("MORE = 0\n")
    (folder / "delays.py").write_text(
        SERVICE.replace("row * self.factor", "row * self.factor + MORE").replace(
            "from hooke", "from factors import MORE\nfrom hooke"
        )
    )
    service = supervised("--replicas", "2")
    victim = service.until_ready(2)["replicas"][0]
    asking = load(service)
    (folder / "factors.py").write_text("MORE = 1000\n")
    (folder / "delays.py").write_text("this is = no Python\n")
    next(folder.glob(".hooke/services/Delay/generations/*")).write_text("damaged")
    kill(victim["pid"])
    service.until("replica 1 died")
    service.until_ready(2)
    assert hooke(folder, "drain", "--replica", "2").returncode == 0
    service.until("replica 2 ended")
    service.until_ready(2)
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 50
    assert service.end() == 0


RAISES = SERVICE.replace("        return [row *", "        raise KeyError(rows)\n        return [row *")
SLOW = SERVICE.replace("time.sleep(0.002)", "time.sleep(0.05)")


def deployed(folder, first, text, *words):
    """Another supervisor, which serves this version: the first one is killed."""
    first.process.kill()
    first.process.wait()
    (folder / "delays.py").write_text(text)
    return Supervised(folder, "--healthy", "1", "--replicas", "2", *words)


def refused_by(folder):
    """What the last roll-out of the folder's service was rolled back for."""
    return json.loads((folder / ".hooke/services/Delay/roll-out.json").read_text())["reason"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Two replicas under load, whose answers are all right."""
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "delays.py").write_text(SERVICE)
    service = Supervised(folder, "--healthy", "1", "--replicas", "2")
    started = [service]
    try:
        service.until_ready(2)
        yield folder, started
    finally:
        for one in started:
            one.process.kill()
            one.process.wait()
        end_all(folder)


@pytest.mark.long
def test_a_version_that_raises_goes_back_after_a_few_requests_and_stays_back(loaded, load):
    folder, started = loaded
    asking = load(started[-1])
    started.append(deployed(folder, started[-1], RAISES))
    back = started[-1].until(r"rolled back: delays.py:Delay .*")[0][0]
    assert "requests to it failed, and 0 of " in back
    assert "predict raised KeyError (delays.py, line 16)" in back
    started.append(deployed(folder, started[-1], RAISES))
    started[-1].until(r"delays.py:Delay .* was rolled back: .*; delays.py:Delay .* is served")
    assert started[-1].until_ready(2)["rolling_out"] is None
    counted = asking.end()
    assert all("predict raised KeyError" in reason for reason in counted["failed"])
    assert sum(counted["failed"].values()) <= 12
    assert counted["right"] > 100
    done = hooke(folder, "rollout")
    assert (done.returncode, done.stdout) == (1, "Delay: no version is on trial\n")


def test_a_slower_version_goes_back(loaded, load):
    folder, started = loaded
    asking = load(started[-1])
    started.append(deployed(folder, started[-1], SLOW, "--canary", "25%"))
    back = started[-1].until(r"rolled back: delays.py:Delay .*")[0][0]
    assert "; it is slower: " in back
    assert asking.end()["failed"] == {}


@pytest.mark.long
def test_no_client_sees_a_version_that_gets_copies_only(loaded, load):
    folder, started = loaded
    asking = load(started[-1])
    started.append(deployed(folder, started[-1], RAISES + "\n", "--mirror", "50%"))
    started[-1].until(r"rolled back: delays.py:Delay .* requests to it failed")
    started[-1].until_ready(2)
    assert asking.end()["failed"] == {}


@pytest.mark.long
def test_a_person_chooses_the_version_by_a_header_and_accepts_it_in_spite_of_a_kill(loaded):
    folder, started = loaded
    new = SERVICE.replace("row * self.factor", "row * (self.factor + 1)")
    started.append(deployed(folder, started[-1], new))
    service = started[-1]
    service.until(r"3 replicas answer, 2 wanted")
    for version, answer in (("new", 3), ("old", 2)):
        assert post(service, "/predict", {"rows": [1]}, {"x-hooke-version": version}) == [answer]
    service.process.kill()
    service.process.wait()
    ends = time.monotonic() + LIMIT_S
    while post(service, "/predict", {"rows": [1]}, {"x-hooke-version": "new"}) != [2]:
        assert time.monotonic() < ends, "no supervisor judges it, so it gets nothing"
    started.append(deployed(folder, service, new))
    service = started[-1]
    service.until(r"3 replicas answer, 2 wanted")
    assert post(service, "/predict", {"rows": [1]}, {"x-hooke-version": "new"}) == [3]
    shown = hooke(folder, "rollout").stdout
    assert "on trial for" in shown and "it gets 5 % of the requests; 0 of " in shown
    assert hooke(folder, "rollout", "--accept").returncode == 0
    service.until(r"rolled out: delays.py:Delay")
    service.until_ready(2)
    assert post(service, "/predict", {"rows": [1]}) == [3]


@pytest.mark.long
def test_a_kill_in_the_middle_of_a_roll_out_changes_neither_its_end_nor_an_answer(tmp_path):
    counts = soak(tmp_path, KILLS)
    assert (counts.lost, counts.stuck, counts.wrong) == ([], [], [])
    assert dict(counts.blows) == {", ".join(kill): 1 for kill in KILLS}
    assert counts.right > 500
