"""What tasks log: on every embedded engine, through retries, deaths, resumes and processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from tests.fixtures.workshop import Workshop

from hooke.base.errors import HookeError
from hooke.measuring.studies import measure
from hooke.project.pipeline_file import load_entry
from hooke.running.resume import resume
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

JOB = """
    import multiprocessing, os, signal, threading
    from pathlib import Path

    import numpy as np

    import hooke
    from hooke import Temporary, pipeline, task

    HERE = Path(__file__).parent


    @task
    def fit(depth: int) -> int:
        hooke.log_param("depth", depth)
        hooke.log_image("sample", np.full((2, 2), depth, np.uint8))
        hooke.log_histogram("weights", [depth], bins=2)
        for at in range(3):
            hooke.log_metric("loss", 1 / (at + 1) / depth)
        return depth


    @task
    def best(depths: list[int]) -> int:
        hooke.log_metrics({"best": max(depths), "count": len(depths)})
        hooke.log_text("done", "notes/end.txt")
        return max(depths)


    @pipeline
    def sweep(n: int = 3) -> int:
        hooke.set_tag("team", "us")
        return best(fit.map(range(1, n + 1)))


    @task(retries=2)
    def fickle(how: str) -> str:
        hooke.log_metric("tries", 1)
        if not (HERE / "tried").exists():
            (HERE / "tried").touch()
            if how == "raise":
                raise Temporary("not yet")
            os.kill(os.getpid(), signal.SIGKILL)
        return how


    @pipeline
    def again(how: str) -> str:
        hooke.log_metric("body", 1)
        return fickle(how)


    def below(name):
        hooke.log_metric(name, 1)


    @task
    def crowd() -> int:
        threads = [threading.Thread(target=below, args=(f"thread {at}",)) for at in range(3)]
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=below, args=(f"process {at}",)) for at in range(3)]
        for each in (*threads, *processes):
            each.start()
        for each in (*threads, *processes):
            each.join()
        return 1


    @pipeline
    def crowded() -> int:
        return crowd()


    @task
    def late(x: int) -> int:
        hooke.log_metric("x", x)
        if not (HERE / "go").exists():
            raise ValueError("not yet")
        return x


    @pipeline
    def resumed() -> int:
        hooke.log_metric("body", 1)
        return late(late(0))
"""


@pytest.fixture
def shop(workshop: Workshop):
    workshop.write(JOB)
    return workshop


def rows(run: Run, *names: str):
    return [
        (*point[:3], point.task, point.item)
        for point in run.logged().points
        if not names or point.name in names
    ]


@pytest.mark.parametrize("on", ["serial", "local:2"])
def test_what_tasks_log_is_named_after_them(shop, on):
    run = shop.run(on=on, n=2, name="sweep")
    assert run.result() == 2
    logged = run.logged()
    assert sorted(rows(run, "loss")) == sorted(
        ("loss", 1 / (step + 1) / depth, step, "fit", depth - 1) for depth in (1, 2) for step in range(3)
    )
    assert sorted(rows(run, "best", "count")) == [
        ("best", 2.0, 0, "best", None),
        ("count", 2.0, 0, "best", None),
    ]
    assert sorted(note[:4] for note in logged.params) == [("depth", "1", "fit", 0), ("depth", "2", "fit", 1)]
    assert [note[:4] for note in logged.tags] == [("team", "us", "", None)]
    assert [(each.step, each.item, each.task) for each in logged.image("sample")] == [
        (0, 0, "fit"),
        (0, 1, "fit"),
    ]
    assert sorted((each.item, each.edges, each.counts) for each in logged.histogram("weights")) == [
        (item, [item + 0.5, item + 1.0, item + 1.5], [0, 1]) for item in (0, 1)
    ]
    (artifact,) = [each for each in logged.artifacts if not each.kind]
    assert (artifact.path, artifact.file.read_text(), artifact.task) == ("notes/end.txt", "done", "best")
    assert logged.refused == {}
    again = shop.run(on=on, n=2, name="sweep")
    assert rows(again) == [], "what comes from the cache logs nothing"


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_second_attempt_is_another_and_nothing_of_the_first_is_lost(shop, how):
    run = shop.run(on="local:1", name="again", how=how)
    assert run.result() == how
    tries = run.logged().metric("tries")
    assert [(point.value, point.step) for point in tries] == [(1.0, 0), (1.0, 0)]
    assert len({point.attempt for point in tries}) == 2


def test_threads_and_forked_processes_of_a_task(shop):
    run = shop.run(on="local:1", name="crowded")
    found = sorted(point[0] for point in rows(run))
    assert found == [*(f"process {at}" for at in range(3)), *(f"thread {at}" for at in range(3))]
    assert {point.task for point in run.logged().points} == {"crowd"}


def test_a_resume_logs_the_body_once_and_each_attempt_for_itself(shop):
    with pytest.raises(HookeError, match="not yet"):
        shop.run(on="local:1", name="resumed").check()
    name = shop.project.runs.find()
    (shop.folder / "go").touch()
    driver = resume(shop.project, name)
    assert driver is not None
    assert driver.drive() == "finished"
    points = Run(shop.project, name).logged().points
    assert [(point.name, point.task) for point in points] == [("body", ""), *[("x", "late")] * 3]
    assert len({point.attempt for point in points}) == 4


def test_a_measurement_keeps_nothing_of_what_is_logged(shop, capfd):
    pipeline, _ = load_entry(f"{shop.file}:sweep")
    study = measure(pipeline, task="fit", workers=[1, 2], repeats=1, progress="none", n=4)
    assert not list(study.folder.glob("track-*"))
    assert "outside a run" not in capfd.readouterr().err


def test_the_machine_is_sampled_while_a_run_goes_on(workshop):
    (workshop.folder / "hooke.toml").write_text("[tracking]\nsystem_metrics_s = 0.05\n")
    workshop.write(
        """
        import time
        from hooke import pipeline, task

        @task
        def nap() -> int:
            time.sleep(0.5)
            return 1

        @pipeline
        def job() -> int:
            return nap()
        """
    )
    run = workshop.run(on="serial")
    points = run.logged().points
    cpu = [point for point in points if point.name == "system/cpu_utilization_percentage"]
    assert len(cpu) >= 2
    assert [point.step for point in cpu] == list(range(len(cpu)))
    assert all(0 <= point.value <= 100 for point in cpu)
    names = {point.name for point in points}
    assert {"system/system_memory_usage_megabytes", "system/disk_available_megabytes"} <= names
    assert {point.task for point in points} == {""}


def test_kill_9_of_everything_loses_no_point_that_was_logged(shop, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            import hooke
            from hooke import pipeline, run, task

            @task
            def train() -> int:
                for at in range(10**9):
                    hooke.log_metric("loss", at)
                    with open("acknowledged", "a") as file:
                        file.write(f"{at}\\n")

            @pipeline
            def job() -> int:
                return train()

            if __name__ == "__main__":
                run(job, on="local:1", progress="none")
            """
        )
    )
    driver = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    try:
        shown = tmp_path / "acknowledged"
        for _ in range(1000):
            if shown.exists() and shown.read_text().count("\n") > 200:
                break
            time.sleep(0.02)
        os.killpg(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
    time.sleep(0.5)  # the worker ends when it sees that its driver is gone
    said = shown.read_text().count("\n")
    run = Run(shop.project, shop.project.runs.find())
    values = [point.value for point in run.logged().metric("loss")]
    assert said > 200
    assert values == list(range(len(values)))
    assert len(values) >= said
