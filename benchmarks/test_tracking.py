"""What logging a metric costs, beside a bare write(2) and MLflow; how fast points reach MLflow; what kill -9 loses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import hooke
from hooke.project.folder import Project
from hooke.running.run import Run
from hooke.sinks.sink import LoggedBatch, LoggedPoints, ShippedRun
from hooke.tracking.tracker import Tracker, logging_into

pytestmark = pytest.mark.filterwarnings("ignore")

CALLS = 200_000


def tail(seconds: list[float]) -> dict[str, float]:
    """Microseconds: median, 99.9th percentile, maximum."""
    found = np.quantile(np.array(seconds) * 1e6, [0.5, 0.999, 1.0])
    return {"median_us": found[0], "p99.9_us": found[1], "max_us": found[2]}


def timed(call, count: int) -> list[float]:
    clock, times = time.perf_counter, []
    for at in range(count):
        began = clock()
        call(at)
        times.append(clock() - began)
    return times


@pytest.mark.benchmark(group="tracking: one point")
def test_log_metric_beside_a_bare_write_and_mlflow(benchmark, project):
    tracker = Tracker(project / "run", "bench")
    with logging_into(tracker):
        hooke.log_metric("loss", 0.5)
        record = bytes(120)
        fd = os.open(project / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        bare = timed(lambda _: os.write(fd, record), CALLS)
        ours = timed(lambda at: hooke.log_metric("loss", at), CALLS)
        os.close(fd)
        began = time.perf_counter()
        for at in range(CALLS):
            hooke.log_metric("loss", at)
        a_second = CALLS / (time.perf_counter() - began)
        benchmark.pedantic(hooke.log_metric, args=("loss", 1), rounds=1000)
    tracker.close()
    assert tracker.refusals.total is None
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'peer.db'}")
    peer = client.create_run(client.create_experiment("peer")).info.run_id
    theirs = timed(lambda at: client.log_metric(peer, "loss", at, step=at), 200)
    for name, times in (("hooke", ours), ("bare write", bare), ("mlflow sync, sqlite", theirs)):
        benchmark.extra_info[name] = tail(times)
    benchmark.extra_info["points a second"] = a_second
    assert tail(ours)["median_us"] < 5
    assert a_second > 100_000


@pytest.mark.timeout(600)
@pytest.mark.benchmark(group="tracking: points into MLflow's SQLite")
def test_points_into_mlflow(benchmark, project):
    from hooke.sinks.mlflow import MlflowSink

    count = 1_000_000
    sink = MlflowSink(project)
    run = ShippedRun(key="r", parent=None, name="r", experiment="e", started_at=1.0)
    sink.write(LoggedBatch(run=run, points=LoggedPoints([], [], [], [])))
    points = LoggedPoints(["loss"] * count, list(map(float, range(count))), list(range(count)), [1.0] * count)
    began = time.perf_counter()
    benchmark.pedantic(sink.write, args=(LoggedBatch(run=run, points=points),), rounds=1)
    benchmark.extra_info["points a second"] = count / (time.perf_counter() - began)


TRAINING = """
    import time
    import numpy as np
    import hooke

    def epoch(steps, log):
        \"\"\"Seconds that `steps` steps of about a millisecond took, each with one point.\"\"\"
        a, began = np.ones((160, 160)), time.perf_counter()
        for step in range(steps):
            for _ in range(6):
                a = a @ a / 160
            if log:
                hooke.log_metric("loss", a[0, 0])
        return time.perf_counter() - began

    with hooke.start_run():
        epoch(500, True)
        found = {False: [], True: []}
        for lap in range(40):
            log = lap % 4 in (1, 2)
            found[log].append(epoch(500, log))
    plain, logged = (sorted(found[log]) for log in (False, True))
    print(500 / plain[0], min(logged) / min(plain) - 1, logged[10] / plain[10] - 1)
"""


@pytest.mark.benchmark(group="tracking: a training loop at 1,000 points a second")
@pytest.mark.parametrize("sinks", ["none", "mlflow"])
def test_overhead_of_a_training_loop(benchmark, tmp_path, sinks):
    """Beside the same loop without the call; with `mlflow` the shipper works meanwhile, on another core."""
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAINING))
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=os.environ | {"HOOKE_SINKS": sinks, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    steps, fastest, middle = map(float, done.stdout.split())
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info |= {
        "points a second": steps,
        "overhead, fastest": fastest,
        "overhead, median": middle,
    }


OURS = """
    import hooke

    with hooke.start_run():
        for at in range(10**9):
            hooke.log_metric("loss", at)
            print(at, flush=True)
"""
MLFLOW = """
    import mlflow

    mlflow.set_tracking_uri("sqlite:///peer.db")
    with mlflow.start_run():
        print("begun", flush=True)
        for at in range(10**9):
            mlflow.log_metric("loss", at, step=at, synchronous={synchronous})
            print(at, flush=True)
"""


def killed_after(folder: Path, source: str, seconds: float) -> int:
    """Points whose call had returned when the process was killed with -9."""
    (folder / "train.py").write_text(textwrap.dedent(source))
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.set_blocking(process.stdout.fileno(), True)
        killer = subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -9 {process.pid}"])
        lines = process.stdout.read().split("\n")
        killer.wait()
    assert process.returncode == -signal.SIGKILL
    return int([line for line in lines if line][-1 if lines[-1] == "" else -2]) + 1


def kept_by_hooke(folder: Path) -> int:
    project = Project.find(folder)
    return len(Run(project, project.runs.find()).logged().metric("loss"))


def kept_by_mlflow(folder: Path) -> int:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'peer.db'}")
    (run,) = client.search_runs(["0"])
    return len(client.get_metric_history(run.info.run_id, "loss"))


PEERS = {
    "hooke": (OURS, kept_by_hooke, 20),
    "mlflow sync": (MLFLOW.format(synchronous=True), kept_by_mlflow, 3),
    "mlflow async": (MLFLOW.format(synchronous=False), kept_by_mlflow, 3),
}


@pytest.mark.benchmark(group="tracking: lost at kill -9")
@pytest.mark.parametrize("name", PEERS)
def test_lost_at_kill_9(benchmark, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOOKE_SINKS", "none")
    source, kept, trials = PEERS[name]
    returned = lost = 0
    for trial in range(trials):
        folder = tmp_path / str(trial)
        folder.mkdir()
        acknowledged = killed_after(folder, source, 1.0)
        returned += acknowledged
        lost += max(0, acknowledged - kept(folder))
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info |= {"peer": name, "trials": trials, "returned": returned, "lost": lost}
    if name == "hooke":
        assert lost == 0
