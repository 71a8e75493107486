"""Searches: what they try, and that nothing is tried twice."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from click.testing import CliRunner
from tests.fixtures.workshop import Workshop

import hooke
from hooke import TaskFailed, UsageError
from hooke.cli.entry import hooke as command
from hooke.cli.screens import CommandSession
from hooke.journal.events import RunStarted, SearchStarted, TrialBegan, TrialEnded
from hooke.journal.study_records import SEARCH_PREFIX, read_search
from hooke.journal.writer import Journal
from hooke.project.folder import Project
from hooke.searching.search_result import Search, standing_line

JOB = """
    import os, time
    from pathlib import Path

    import hooke
    from hooke import pipeline, task

    HERE = Path(__file__).parent
    NAP_S = 0.0


    @task
    def fit(x: float, depth: int, offset: float = 0.3) -> float:
        with (HERE / "tried").open("a") as file:
            file.write(f"{x!r} {depth}\\n")
        for step in range(3):
            hooke.log_metric("loss", (x - offset) ** 2 + depth / 10 + 1 / (step + 1), step)
            time.sleep(NAP_S)
        return (x - offset) ** 2 + depth / 10


    @task
    def double(x: float) -> float:
        return 2 * x


    @pipeline
    def whole(x: float, depth: int) -> float:
        return double(fit(x, depth))


    @task
    def broken(x: float) -> float:
        if x > WORST:
            raise ValueError(f"{x} is too much")
        return x

    WORST = 0.0


    @task
    def part(at: int, x: float) -> float:
        if at and x > 0.75:
            raise ValueError("too much")
        return x + 10 * at


    @task
    def add(parts: list[float]) -> float:
        return sum(parts)


    @pipeline
    def lacking(x: float) -> float:
        return add(part.map([0, 1], x=x, on_error="continue"))


    @task
    def word(x: float) -> str:
        return "word"


    @task(gang=2, results="all")
    def ranks(x: float) -> list[float]:
        import socket

        meeting = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        while os.environ["RANK"] == "1":  # the ranks wait for one another
            try:
                with socket.create_connection(meeting) as first:
                    return x + first.recv(1)[0]
            except ConnectionRefusedError:
                time.sleep(0.01)
        with socket.create_server(meeting) as server:
            server.accept()[0].send(b"2")
        return x


    @task
    def spread(found: list[float]) -> float:
        return max(found) - min(found)


    @pipeline
    def gangs(x: float, alone: bool = False) -> float:
        return double(x) if alone else spread(ranks(x))


    @task
    def slow(x: float) -> float:
        (HERE / f"began-{x!r}").touch()
        for step in range(100):
            hooke.log_metric("loss", x, step)
            if x > 0.5:
                time.sleep(0.05)
        return x
"""


FLAT = {"x": (0.0, 1.0), "depth": (1, 4)}


def module(workshop: Workshop):
    from hooke.project.pipeline_file import load_entry

    load_entry(f"{workshop.file}:whole")
    return sys.modules[workshop.file.stem]


def tried(workshop: Workshop) -> list[str]:
    file = workshop.folder / "tried"
    return file.read_text("utf-8").splitlines() if file.exists() else []


@pytest.mark.needs("processes")
class TestSearch:
    @pytest.mark.long
    def test_the_best_of_runs_that_are_listed_as_such(self, workshop):
        workshop.write(JOB)
        found = hooke.search(module(workshop).fit, FLAT, trials=25, on="serial", offset=0.5)
        assert found.status == "finished"
        assert [trial.number for trial in found.trials] == list(range(25))
        assert found.best.value == min(trial.value for trial in found.trials) < 0.15
        assert found.best.params["depth"] == 1
        assert found.best.run.result() == found.best.value
        assert "best" in str(found) and "and 5 more trials" in str(found)
        assert found._repr_html_().count("<tr>") > 20
        frame = found.trials.to_frame()
        assert frame["params.depth"].between(1, 4).all()
        listed = hooke.runs("fit", where="metrics.objective<0.15", sort="objective", project=workshop.folder)
        assert listed[0].id == found.best.run.id
        assert len(found.history().data[1].x) == 25
        assert [each.label for each in found.parallel_coordinates().data[0].dimensions] == [
            "x",
            "depth",
            "result",
        ]

    @pytest.mark.long
    def test_the_same_call_runs_nothing_twice_and_more_trials_go_on(self, workshop, tmp_path_factory):
        workshop.write(JOB)
        fit = module(workshop).fit
        first = hooke.search(fit, FLAT, trials=12, on="serial")
        ran = tried(workshop)
        assert len(ran) == 12
        again = hooke.search(fit, FLAT, trials=12, on="serial")
        assert (again.id, tried(workshop)) == (first.id, ran)
        more = hooke.search(fit, FLAT, trials=15, on="serial")
        assert more.id == first.id
        assert tried(workshop)[:12] == ran
        other = hooke.search(
            fit, FLAT, trials=15, on="serial", metric="loss"
        )  # another search, of other values
        assert other.id != first.id
        asked = [trial.params for trial in other.trials]
        assert asked[:10] == [
            trial.params for trial in more.trials[:10]
        ]  # both drew their first ten at random
        assert all(trial.value is not None for trial in other.trials)
        assert len(set(tried(workshop))) == len(tried(workshop))  # what one had computed the other found

    @pytest.mark.long
    def test_the_same_seed_makes_the_same_trials(self, workshop):
        workshop.write(JOB)
        fit = module(workshop).fit
        one = [trial.params for trial in hooke.search(fit, FLAT, trials=14, on="serial", seed=3).trials]
        two = [trial.params for trial in hooke.search(fit, FLAT, trials=14, on="serial", seed=4).trials]
        for run in workshop.project.runs.names():
            (workshop.folder / ".hooke/runs" / run).rename(workshop.folder / f"gone-{run}")
        assert (
            [trial.params for trial in hooke.search(fit, FLAT, trials=14, on="serial", seed=3).trials]
            == one
            != two
        )

    def test_a_pipeline_and_a_metric_of_one_of_its_tasks(self, workshop):
        workshop.write(JOB)
        whole = module(workshop).whole
        found = hooke.search(whole, FLAT, trials=4, workers=2, metric="fit.loss.max", direction="maximize")
        assert found.objective == "maximize fit.loss.max"
        best = found.best
        assert best.value == max(point.value for point in best.run.logged().metric("loss"))

    def test_a_trial_with_a_gang_has_as_many_workers_as_ranks(self, workshop):
        workshop.write(JOB)
        job = module(workshop)
        found = hooke.search(job.gangs, {"x": (0.0, 1.0)}, trials=3, workers=3)
        assert [trial.value for trial in found.trials] == pytest.approx([50.0] * 3)
        starts = [next(iter(trial.run.journal)) for trial in found.trials]
        assert [each.workers for each in starts] == [(2, 2)] * 3
        with pytest.raises(
            UsageError, match=r"the gang 'ranks' has 2 ranks, but 'local' has 1 worker"
        ) as caught:
            hooke.search(job.gangs, {"x": (0.0, 2.0)}, trials=3, workers=1)
        assert "workers=2" in caught.value.fix
        mixed = hooke.search(job.gangs, {"x": (0.0, 1.0), "alone": [False, True]}, trials=6, workers=2)
        widths = {next(iter(trial.run.journal)).workers for trial in mixed.trials}
        assert widths == {(1, 1), (2, 2)}
        assert mixed.status == "finished" and len(mixed.trials) == 6

    @pytest.mark.long
    def test_a_trial_that_is_worse_is_given_up(self, workshop):
        workshop.write(JOB)
        slow = module(workshop).slow
        found = hooke.search(
            slow, {"x": (0.0, 1.0)}, trials=12, workers=2, metric="loss", pruner="median", sampler="random"
        )
        states = {trial.number: trial.status for trial in found.trials}
        pruned = [trial for trial in found.trials if trial.status == "pruned"]
        assert pruned, states
        assert all(trial.params["x"] > 0.5 and trial.run.status == "stopped" for trial in pruned)
        assert all(len(trial.run.logged().points) < 100 for trial in pruned)
        before = len(list(workshop.folder.glob("began-*")))
        again = hooke.search(
            slow, {"x": (0.0, 1.0)}, trials=12, metric="loss", pruner="median", sampler="random"
        )
        assert {trial.number: trial.status for trial in again.trials} == states
        assert len(list(workshop.folder.glob("began-*"))) == before

    def test_what_nobody_logged_of_a_cached_trial_is_said(self, workshop):
        workshop.write(JOB)
        fit = module(workshop).fit
        first = hooke.search(fit, FLAT, trials=2, on="serial", metric="loss")
        for trial in first.trials:
            for file in trial.run.folder.glob("track-*"):
                file.unlink()
        (first.trials[0].run.folder / "../" / first.id).resolve().rename(workshop.folder / "gone")
        with pytest.raises(UsageError, match="hooke cache rm --task fit"):
            hooke.search(fit, FLAT, trials=2, on="serial", metric="loss")

    @pytest.mark.filterwarnings("ignore")  # of MLflow's own libraries
    def test_in_mlflow_trials_are_nested_in_their_search(self, workshop):
        from mlflow import MlflowClient

        from hooke.sinks.mlflow import MlflowSink
        from hooke.sync.shipper import Shipper

        workshop.write(JOB)
        found = hooke.search(module(workshop).fit, FLAT, trials=3, on="serial")
        with Shipper(runs=workshop.project.runs, sinks={"mlflow": MlflowSink(workshop.folder)}) as shipper:
            assert shipper.follow(idle_s=0, patience_s=30)
        client = MlflowClient(tracking_uri=f"sqlite:///{workshop.folder / 'mlflow.db'}")
        (experiment,) = client.search_experiments(filter_string="name = 'fit'")
        shipped = {
            run.data.tags["hooke.run_id"]: run for run in client.search_runs([experiment.experiment_id])
        }
        search = shipped.pop(found.id)
        assert "mlflow.parentRunId" not in search.data.tags
        assert search.data.metrics["best"] == found.best.value
        assert search.data.tags["best.trial"] == str(found.best.number)
        for trial in found.trials:
            run = shipped.pop(trial.run.id)
            assert run.data.tags["mlflow.parentRunId"] == search.info.run_id
            assert run.info.start_time >= search.info.start_time
            assert run.data.metrics["objective"] == trial.value
            assert float(run.data.params["x"]) == trial.params["x"]
            (attempt,) = [
                each for each in shipped.values() if each.data.tags["mlflow.parentRunId"] == run.info.run_id
            ]
            assert "loss" in attempt.data.metrics
        assert len(shipped) == 3

    def test_a_long_one_says_how_far_it_is(self, workshop):
        workshop.write(JOB)
        found = hooke.search(module(workshop).fit, FLAT, trials=3, on="serial")
        record = read_search(found.project.runs.folder(found.id))
        assert record is not None
        assert standing_line(record, 9).startswith(
            f"{found.id}: 3 of 9 trials; best {found.best.value:.6g}, trial"
        )

    def test_hooke_shows_it_and_lists_its_trials_when_asked(self, workshop):
        workshop.write(JOB)
        found = hooke.search(module(workshop).fit, FLAT, trials=3, on="serial")

        def typed(*words: str) -> str:
            done = CliRunner().invoke(
                command, [*words, "--project", str(workshop.folder)], obj=CommandSession()
            )
            assert done.exit_code == 0, done.output
            return done.output

        assert f"best {found.best.value:.6g}" in typed("show", found.id)
        assert json.loads(typed("show", found.id, "--json"))["best"] == found.best.number
        assert "3 trials of searches not shown: hooke runs --trials" in typed("runs")
        assert typed("runs", "--trials").count("\nfit-") == 3
        assert typed("runs", "--metric", "objective", "--sort", "objective").count("\nfit-") == 3
        resumed = CliRunner().invoke(
            command, ["resume", found.id, "--project", str(workshop.folder)], obj=CommandSession()
        )
        assert "is a search" in str(resumed.exception)

    def test_trials_that_all_fail_end_it_and_are_tried_again(self, workshop):
        workshop.write(JOB)
        job = module(workshop)
        with pytest.raises(TaskFailed, match="too much"):
            hooke.search(job.broken, {"x": (0.1, 1.0)}, trials=20, on="serial")
        (failed,) = [name for name in workshop.project.runs.names() if name.startswith(SEARCH_PREFIX)]
        shown = hooke.Search(workshop.project, failed)
        assert (shown.status, len(shown.trials)) == ("failed", 3)
        with pytest.raises(UsageError, match="no trial"):
            shown.best  # noqa: B018
        job.WORST = 0.9  # another code, so another search
        found = hooke.search(job.broken, {"x": (0.1, 1.0)}, trials=12, on="serial")
        assert {trial.status for trial in found.trials} == {"finished", "failed"}
        assert "failed: " in str(found)

    def test_a_trial_that_lacks_failed_items_is_not_compared(self, workshop):
        workshop.write(JOB)
        job = module(workshop)
        found = hooke.search(job.lacking, {"x": (0.0, 1.0)}, trials=12, on="serial")
        assert {trial.status for trial in found.trials} == {"finished", "failed"}
        failed = [trial for trial in found.trials if trial.status == "failed"]
        assert all(trial.run.status == "finished with failures" for trial in failed)
        assert "failed: finished with 1 failure" in str(found)
        assert found.best.value >= 10, "the others returned less"

    def test_what_cannot_be_searched_says_why(self, workshop):
        workshop.write(JOB)
        job = module(workshop)
        for call, said in (
            (lambda: hooke.search(print, FLAT), "a task or a pipeline"),
            (lambda: hooke.search(job.fit, FLAT, trials=0), "trials=0"),
            (lambda: hooke.search(job.fit, FLAT, workers=0), "workers=0"),
            (lambda: hooke.search(job.fit, FLAT, direction="max"), "minimize, maximize"),
            (lambda: hooke.search(job.fit, FLAT, pruner="median"), "needs a metric"),
            (lambda: hooke.search(job.fit, FLAT, x=1), "remove one of them"),
            (lambda: hooke.search(job.fit, {"dept": (1, 3)}), "did you mean depth"),
            (lambda: hooke.search(job.whole, {"depth": (1, 3)}), "x"),
            (lambda: hooke.search(job.fit, FLAT, on="locale"), "no backend"),
            (lambda: hooke.search(job.fit, FLAT, on="serial", metric="los", seed=9), "did you mean loss?"),
            (lambda: hooke.search(job.word, {"x": (0.0, 1.0)}, on="serial"), "not a number"),
        ):
            with pytest.raises(UsageError) as caught:
                call()
            assert said in str(caught.value), str(caught.value)


CLUSTERED = """
    import time
    from pathlib import Path

    import psutil

    from hooke import pipeline, task

    HERE = Path(__file__).parent


    @pipeline
    def whole(x: float) -> float:
        return alone(x)


    @task
    def alone(x: float) -> float:
        (HERE / f"{psutil.Process().parent().parent().pid}-{x!r}").touch()  # the fork server's parent
        return x


    @task
    def together(x: float, count: int) -> float:
        (HERE / f"{psutil.Process().parent().parent().pid}-{x!r}").touch()
        until = time.monotonic() + 90
        while len(list(HERE.glob("*-0.*"))) < count:
            assert time.monotonic() < until, "the other trial did not begin"
            time.sleep(0.05)
        return x
"""


def hosts_of(workshop: Workshop) -> list[str]:
    """For each trial, the process of the cluster's worker that it was on."""
    return [path.name.partition("-")[0] for path in workshop.folder.glob("*-0.*")]


@pytest.mark.needs("processes")
class TestCluster:
    def test_one_cluster_serves_all_trials_and_ends_with_the_search(self, workshop):
        workshop.write(CLUSTERED)
        found = hooke.search(module(workshop).alone, {"x": (0.1, 0.9)}, trials=4, on="dask:1")
        assert found.status == "finished"
        (host,) = set(hosts_of(workshop))
        assert len(hosts_of(workshop)) == 4
        assert not psutil.pid_exists(int(host))
        starts = [
            next(iter(run.journal)).place for run in (found.best.run, hooke.Run(found.project, found.id))
        ]
        assert starts == ["dask:1", "dask:1"]

    @pytest.mark.long
    def test_parallel_trials_on_a_fleet_have_different_workers(self, workshop):
        workshop.write(CLUSTERED)
        with hooke.Fleet("dask", workers=2) as fleet:
            job = module(workshop)
            found = hooke.search(job.together, {"x": (0.1, 0.9)}, trials=2, on=fleet, count=2)
            assert len(set(hosts_of(workshop))) == 2
            more = hooke.search(
                job.together, {"x": (0.1, 0.9)}, trials=3, on=fleet.client(), workers=1, count=2
            )
        assert [each.status for each in (found, more)] == ["finished", "finished"]
        assert (more.id, len(more.trials)) == (found.id, 3)


DRIVER = """
    import os, sys

    os.environ["HOOKE_SINKS"] = "none"
    sys.path.insert(0, {folder!r})
    import hooke
    import {module} as job

    if __name__ == "__main__":
        found = hooke.search(job.fit, {{"x": (0.0, 1.0), "depth": (1, 4)}}, trials=8, workers={workers})
        print(found.status, [trial.params["x"] for trial in found.trials])
"""


@pytest.mark.needs("processes")
class TestDeath:
    def start(self, workshop: Workshop, workers: int = 1, nap_s: float = 0.05) -> subprocess.Popen[str]:
        workshop.write(JOB)
        workshop.edit("NAP_S = 0.0", f"NAP_S = {nap_s}")
        script = workshop.folder / "drive.py"
        script.write_text(
            textwrap.dedent(DRIVER).format(
                folder=str(workshop.folder), module=workshop.file.stem, workers=workers
            ),
            "utf-8",
        )
        return subprocess.Popen(
            [sys.executable, str(script)],
            cwd=workshop.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def again(self, workshop: Workshop, workers: int = 1) -> str:
        process = self.start(workshop, workers)
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        return out

    def search_of(self, workshop: Workshop) -> str:
        (name,) = [name for name in workshop.project.runs.names() if name.startswith(SEARCH_PREFIX)]
        return name

    def until_tried(self, workshop: Workshop, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(tried(workshop)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @pytest.mark.long
    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_driver_that_is_killed_is_gone_on_from(self, workshop, workers):
        process = self.start(workshop, workers)
        self.until_tried(workshop, 4)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed = hooke.Search(workshop.project, self.search_of(workshop))
        assert killed.status == "lost"
        finished = {trial.params["x"] for trial in killed.trials if trial.status == "finished"}
        assert 1 <= len(finished) < 8
        out = self.again(workshop, workers)
        runs = [line.split()[0] for line in tried(workshop)]
        assert all(runs.count(repr(x)) == 1 for x in finished)
        assert len(runs) <= 8 + workers  # those that were cut short began twice
        if workers == 1:
            for file in ("tried", ".hooke"):
                (workshop.folder / file).rename(workshop.folder / f"gone{file}")
            assert self.again(workshop, workers) == out  # as if nobody had killed it

    @pytest.mark.long
    def test_ctrl_c_stops_it_cleanly(self, workshop):
        process = self.start(workshop)
        self.until_tried(workshop, 3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "stopped cleanly; repeat the call to continue it" in err
        name = self.search_of(workshop)
        stopped = hooke.Search(workshop.project, name)
        assert stopped.status == "stopped"
        assert not any(workshop.project.runs.alive(run) for run in workshop.project.runs.names())
        assert self.again(workshop).startswith("finished")
        assert self.search_of(workshop) == name

    def test_two_processes_do_not_search_the_same(self, workshop):
        process = self.start(workshop, nap_s=1.0)
        self.until_tried(workshop, 1)
        second = self.start(workshop, nap_s=1.0)
        _, err = second.communicate(timeout=120)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        assert second.returncode != 0
        assert f"run {self.search_of(workshop)} is being driven by another process" in err

    def test_hooke_stop_stops_it(self, workshop):
        process = self.start(workshop)
        self.until_tried(workshop, 2)
        workshop.project.runs.request_stop(self.search_of(workshop), "a test")
        _, err = process.communicate(timeout=120)
        assert "RunStopped" in err
        assert hooke.Search(workshop.project, self.search_of(workshop)).status == "stopped"


class TestImportance:
    """Of searches that were never driven: their journals are written here."""

    def found(self, folder, values, **params):
        name = "search-fit-20261130-000001-aaaa"
        (folder / ".hooke" / "runs" / name).mkdir(parents=True)
        with Journal.create(folder / ".hooke" / "runs" / name, "driver", durable="none") as journal:
            journal.append(RunStarted(run=name, pipeline="fit", entry="job.py:fit"))
            space = dict.fromkeys(params, "any")
            journal.append(
                SearchStarted(
                    key="k",
                    space=space,
                    metric="",
                    direction="minimize",
                    sampler="tpe",
                    pruner="none",
                    seed=0,
                )
            )
            for number, value in enumerate(values):
                shown = {each: repr(given[number]) for each, given in params.items()}
                journal.append(TrialBegan(trial=number, run=f"r{number}", shown=shown))
                journal.append(TrialEnded(trial=number, status="finished", value=value))
        return Search(Project.at(folder), name)

    def test_a_parameter_explains_what_follows_from_it_and_chance_explains_nothing(self, tmp_path):
        x = [(7 * number % 40) / 40 for number in range(40)]
        noise = [(13 * number % 17) / 17 for number in range(40)]
        kind = ["plain" if number % 2 else "odd" for number in range(40)]
        values = [10 * each + (100 if which == "odd" else 0) for each, which in zip(x, kind, strict=True)]
        shares = self.found(tmp_path, values, x=x, noise=noise, kind=kind).importance()
        assert next(iter(shares)) == "kind"
        assert shares["kind"] > 0.7
        assert shares["noise"] < 0.1
        assert 0 <= shares["x"] < shares["kind"]

    def test_a_valley_counts_though_it_has_no_slope(self, tmp_path):
        x = [number / 30 for number in range(30)]
        shares = self.found(tmp_path, [(each - 0.5) ** 2 for each in x], x=x).importance()
        assert shares["x"] > 0.7

    def test_few_equal_or_constant_trials_say_nothing(self, tmp_path):
        assert self.found(tmp_path / "few", [1.0] * 7, x=[0.1] * 7).importance() == {}
        assert self.found(tmp_path / "equal", [1.0] * 9, x=[*range(9)]).importance() == {"x": 0.0}
        assert self.found(tmp_path / "constant", [*range(9)], x=[5] * 9).importance() == {"x": 0.0}


def test_a_progress_line_reaches_a_stderr_that_buffers(monkeypatch):
    import io

    from hooke.journal.study_records import SearchRecord
    from hooke.searching.search_result import EVERY_S, SearchLines

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw))
    looked = SearchStarted(
        key="k", space={}, metric="", direction="minimize", sampler="tpe", pruner="none", seed=0
    )
    record = SearchRecord(begun=RunStarted(run="search-fit", pipeline="fit", entry="x"), looked=looked)
    lines = SearchLines(9, now=0.0, quiet=False)
    lines.look(record, EVERY_S / 2)
    assert raw.getvalue() == b""
    lines.look(record, EVERY_S)
    assert raw.getvalue() == b"search-fit: 0 of 9 trials\n"
