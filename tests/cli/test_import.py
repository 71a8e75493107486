"""`hooke import neptune`, as it is typed; killed in the middle; and in MLflow, through MLflow's own client."""

import os
import signal

import pytest
from tests.importers.dumps import PROJECT, at, every_type, row, write_dump, write_files

from hooke.importers.landing import run_id

pytestmark = pytest.mark.needs("processes")


def test_the_command_says_what_came_and_what_to_type_next(desk):
    write_dump(desk.folder / "dump", every_type())
    write_files(desk.folder / "dump" / "files")
    done = desk.hooke("import", "neptune", "dump")
    assert (done.code, done.err) == (0, "next: hooke sync\n")
    assert "metric values at decimal steps" in done.out
    shown = desk.hooke("show")
    assert "12 points of 2 metrics" in shown.out
    assert shown.err == f"next: hooke sync {run_id(PROJECT, 'RUN-1')}\n"
    assert run_id(PROJECT, "RUN-1") in desk.hooke("runs").out
    assert "so it cannot be resumed" in desk.hooke("resume", "RUN-1").err


def test_a_run_that_cannot_be_imported_is_said_and_the_others_come(desk):
    (bad,) = write_dump(desk.folder / "dump", [row("lr", "float", 0.1)], run="BAD")
    write_dump(desk.folder / "dump", [row("lr", "float", 0.1)], run="GOOD")
    bad.write_bytes(bad.read_bytes()[:-100])
    done = desk.hooke("import", "neptune", "dump")
    assert done.code == 1
    assert "a Parquet file cannot be read" in done.err
    assert "fix: copy it again" in done.err
    assert desk.project.runs.names() == [run_id(PROJECT, "GOOD")]
    assert desk.hooke("import", "nepture", "dump").code == 2
    assert "Did you mean 'neptune'" in desk.hooke("import", "nepture", "dump").err


@pytest.mark.long
def test_killed_at_any_moment_the_next_import_does_the_rest(desk, kill):
    for number in range(4):
        rows = [row("loss", "float_series", step / 7, step, at(step)) for step in range(20_000)]
        write_dump(desk.folder / "dump", rows, run=f"RUN-{number}")
    for done_before in range(1, 4):
        process = desk.start("import", "neptune", "dump")
        kill(process)
        desk.until(lambda done=done_before: len(desk.project.runs.names()) >= done)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = desk.hooke("import", "neptune", "dump")
    assert done.code == 0, done.err
    assert len(desk.project.runs.names()) == 4
    assert os.listdir(desk.project.data / "runs") and not (desk.project.data / "importing").exists()
    for number in range(4):
        shown = desk.hooke("show", f"RUN-{number}")
        assert "20,000 points of 1 metric" in shown.out


@pytest.mark.long
def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(desk, kill):
    for number in range(8):
        rows = [row("loss", "float_series", step / 7, step, at(step)) for step in range(30_000)]
        write_dump(desk.folder / "dump", rows, run=f"RUN-{number}")
    process = desk.start("import", "neptune", "dump")
    kill(process)
    desk.until(lambda: desk.project.runs.names())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "repeat the command for the rest" in err
    assert "imported" in out
    assert not (desk.project.data / "importing").exists()
    assert desk.hooke("import", "neptune", "dump").code == 0
    assert len(desk.project.runs.names()) == 8


def test_a_full_disk_keeps_nothing_of_the_run(desk, small_disk):
    rows = [row("loss", "float_series", step / 7, step, at(step)) for step in range(20_000)]
    write_dump(desk.folder / "dump", rows, run="LARGE")
    write_dump(desk.folder / "dump", [row("lr", "float", 0.1)], run="SMALL")
    done = desk.hooke("import", "neptune", str(desk.folder / "dump"), cwd=small_disk)
    assert done.code == 1
    assert "run 'LARGE' cannot be imported" in done.err
    assert "nothing of run 'LARGE' was kept" in done.err
    assert [each.name for each in (small_disk / ".hooke/runs").iterdir()] == [run_id(PROJECT, "SMALL")]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries beneath MLflow
def test_mlflow_has_it_all_exactly_once(desk):
    from mlflow import MlflowClient

    write_dump(desk.folder / "dump", every_type())
    write_files(desk.folder / "dump" / "files")
    assert desk.hooke("import", "neptune", "dump").code == 0
    for _ in range(2):
        synced = desk.hooke("sync", HOOKE_SINKS="mlflow", timeout=120)
        assert synced.code == 0, synced.err
    client = MlflowClient(tracking_uri=f"sqlite:///{desk.folder}/mlflow.db")
    experiment = client.get_experiment_by_name(PROJECT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.start_time) == ("FINISHED", int(at(0).timestamp() * 1000))
    assert run.info.end_time == int(at(10).timestamp() * 1000)
    loss = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((each.step, each.value, each.timestamp) for each in loss) == [
        (step * 1_000_000, 1 / (step + 1), int(at(step).timestamp() * 1000)) for step in range(5)
    ]
    acc = client.get_metric_history(run.info.run_id, "acc")
    assert sorted(each.step for each in acc) == [0, 125_000, 250_000, 375_000, 500_000, 625_001, 1_625_001]
    assert run.data.params["lr"] == "0.1"
    assert run.data.tags["neptune.sys/tags"] == "a, b, c"
    top = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert top == {"config.yaml", "out.csv", "weights.json", "model", "code", "data", "pictures", "neptune"}
    pictures = {each.path for each in client.list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {"pictures/step_0.png", "pictures/step_0.5.png"}
