"""What tasks and scripts read is an input of their run in MLflow: each data set once, by its content or by the task that made it."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hooke.base.observed import DataSetsRead, StoredPart, note_result, renew_results
from hooke.base.ref import DataSetRead, ItemsObserved, Observed, Ref
from hooke.data import Shuffled, pack
from hooke.journal.events import AttemptFinished, MadeOf, NodePlanned, RunFinished, RunMadeOf, RunStarted
from hooke.journal.writer import Journal
from hooke.project.folder import Project
from hooke.running.run import Run
from hooke.sinks.sink import InputDataSet
from hooke.sync.outbox import Outbox

JOB = """
from pathlib import Path

import numpy as np

import hooke
from hooke import File, pipeline, task
from hooke.data import PackedFile, Shuffled, pack, scan


def taken(data, **options):
    return sum(1 for _ in Shuffled(data, seed=1, batch=4, **options).batches())


@task
def tables(rows: int) -> dict:
    made = np.arange(rows)
    return {"train": {"x": made.astype("f4"), "y": made.astype(str)}, "test": np.zeros((rows, 2, 3))}


@task
def learn(rate: float, data: dict) -> int:
    hooke.log_metric("rate", rate)
    unread = Shuffled(data["test"], seed=1, batch=2)
    return taken(data["train"]) + len(unread)


@task
def judge(test: np.ndarray) -> int:
    return taken(test) + taken(np.ones(8))


@task
def packed(rows: int) -> Path:
    return pack({"n": np.arange(rows)}, "made.packed")


@task
def from_files(made: Path, given: File, unopened: File) -> int:
    return taken(made) + taken("plain.npy") + len(given.path.read_text()) + len(Path("notes.txt").read_text())


@task
def far(url: str) -> int:
    PackedFile("unread.packed")
    return taken(url)


@task
def total(group) -> int:
    return group.read(["n"]).num_rows


@task(gang=2)
def together(data: dict) -> int:
    return taken(data["train"])


@pipeline
def everything(url: str) -> list:
    made = tables(8)
    given = from_files(packed(6), File("given.txt"), File("unopened.txt"))
    learnt = learn.map([0.1, 0.2], data=made)
    return [learnt, judge(made["test"]), given, far(url), total.map(scan("parts")), together(made)]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "parts").mkdir(parents=True)
    (folder / "hooke.toml").touch()
    (folder / "job.py").write_text(textwrap.dedent(JOB))
    for name in ("given", "unopened", "notes", "untouched"):
        (folder / f"{name}.txt").write_text(name)
    np.save(folder / "plain.npy", np.arange(12, dtype=np.int32))
    for at in range(2):
        pq.write_table(pa.table({"n": [at, 2], "word": ["a", "b"]}), folder / "parts" / f"{at}.parquet")
    pack(np.arange(20.0), folder / "far.packed")
    pack(np.arange(21.0), folder / "unread.packed")
    monkeypatch.chdir(folder)
    return folder


def hooke(*words: str, folder: Path, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hooke", *words],
        cwd=folder,
        env=os.environ | {"HOOKE_SINKS": "mlflow"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def inputs(uri: str, run: str):
    """Of the run in MLflow: name -> its input."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`hooke.run_id` = '{run}'")
    listed = found.inputs.dataset_inputs
    assert len({each.dataset.name for each in listed}) == len(listed), "no name twice"
    return {each.dataset.name: each for each in listed}


def read_by(found) -> str:
    return next((tag.value for tag in found.tags if tag.key == "mlflow.data.context"), "")


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["local:2", "serial"])
def test_every_data_set_that_a_task_read_is_an_input_of_the_run(project, place):
    from mlflow.data.dataset_source_registry import get_dataset_source_from_json
    from mlflow.types import Schema

    if place == "serial":  # which has no gangs
        job = project / "job.py"
        job.write_text(job.read_text().replace("@task(gang=2)", "@task"))
    url = f"file://{project / 'far.packed'}"
    hooke("run", "job.py", "--url", url, "--on", place, folder=project, HOOKE_SINKS="none")
    hooke("sync", folder=project)
    uri = f"sqlite:///{project / 'mlflow.db'}"
    (run,) = Project.find(project).runs.names()
    found = inputs(uri, run)
    assert {name: read_by(each) for name, each in found.items()} == {
        "tables['train']": "learn, together",
        "tables['test']": "judge",
        "judge: numpy.ndarray": "judge",
        "made.packed": "from_files",
        "plain.npy": "from_files",
        "given.txt": "from_files",
        "unopened.txt": "",  # it is part of a key
        "notes.txt": "from_files",
        "far.packed": "far",
        "unread.packed": "far",  # its index was read
        "0.parquet": "total",
        "1.parquet": "total",
    }

    rows = {
        name: json.loads(each.dataset.profile)["num_rows"]
        for name, each in found.items()
        if each.dataset.profile
    }
    assert rows == {
        "tables['train']": 8,
        "tables['test']": 8,
        "judge: numpy.ndarray": 8,
        "made.packed": 6,
        "plain.npy": 12,
        "far.packed": 20,
        "0.parquet": 2,
        "1.parquet": 2,
    }
    planned = {
        each.task: each for each in Run(Project.find(project), run).journal if isinstance(each, NodePlanned)
    }
    tags = json.loads(found["tables['train']"].dataset.source)["tags"]
    sources = {
        name: get_dataset_source_from_json(each.dataset.source, each.dataset.source_type)
        for name, each in found.items()
    }
    assert tags == {
        "hooke.task": "tables",
        "hooke.key": planned["tables"].key,
        "hooke.part": "['train']",
    }
    assert (
        json.loads(found["judge: numpy.ndarray"].dataset.source)["tags"]["hooke.key"] == planned["judge"].key
    )
    assert json.loads(found["made.packed"].dataset.source) == {
        "uri": str(project / "made.packed"),
        "hooke.task": "packed",
        "hooke.key": planned["packed"].key,
    }
    assert sources["notes.txt"].uri == str(project / "notes.txt")
    assert json.loads(found["far.packed"].dataset.source) == {"uri": url}

    types = json.loads(found["0.parquet"].dataset.schema)["mlflow_colspec"]
    assert [str(each) for each in Schema.from_json(json.dumps(types)).inputs] == [
        "'n': long (required)",
        "'word': string (required)",
    ]
    tensors = json.loads(found["tables['test']"].dataset.schema)["mlflow_tensorspec"]["features"]
    assert Schema.from_json(tensors).inputs[0].shape == (-1, 2, 3)

    digests = {name: each.dataset.digest for name, each in found.items()}
    hooke("run", "job.py", "--url", url, "--on", place, "--force=learn", folder=project, HOOKE_SINKS="none")
    hooke("sync", folder=project)
    another = next(name for name in Project.find(project).runs.names() if name != run)
    again = inputs(uri, another)
    assert {name for name, each in again.items() if read_by(each)} == {"tables['train']"}, (
        "what cached tasks read before is no input of this run"
    )
    assert {name: each.dataset.digest for name, each in again.items()}.items() <= digests.items()


SCRIPT = """
import numpy as np

import hooke
from hooke.data import Shuffled


def take(data):
    return list(Shuffled(data, seed=1, batch=4).batches())


with hooke.start_run():
    hooke.log_metric("loss", 1)
    take("plain.npy")
    take("plain.npy")
    take(np.ones(8))
    Shuffled("far.packed", seed=1, batch=4)
take("far.packed")
"""


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.filterwarnings("ignore")
def test_what_a_script_reads_is_an_input_of_its_run(project):
    (project / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], env=os.environ | {"HOOKE_SINKS": "none"}, check=False
    )
    assert done.returncode == 0
    hooke("sync", folder=project)
    (run,) = Project.find(project).runs.names()
    found = inputs(f"sqlite:///{project / 'mlflow.db'}", run)
    assert found.keys() == {"plain.npy", f"{run}: numpy.ndarray"}
    assert json.loads(found["plain.npy"].dataset.profile) == {"num_rows": 12}


# --- When they are sent.


@pytest.fixture
def run(tmp_path):
    """The journal of a run whose task 2 read a result of task 1, and an outbox of it."""
    folder = tmp_path / ".hooke" / "runs" / "r"
    journal = Journal.create(folder, "driver", durable="none")
    journal.append(RunStarted(run="r", pipeline="p", entry="p.py", place="local"))
    for number, task in ((1, "made"), (2, "read")):
        parents = (1,) if number == 2 else ()
        journal.append(NodePlanned(node=number, task=task, key=f"{number}" * 32, parents=parents))
    yield journal, Outbox(folder, {}), tmp_path
    journal.close()


def finished(
    node: int, *data: DataSetRead, digest: str = "", observed: tuple[Observed, ...] = ()
) -> AttemptFinished:
    return AttemptFinished(
        attempt=node,
        node=node,
        lo=0,
        hi=1,
        ref=Ref(digest or f"{node}", 1),
        data=data,
        observed=(ItemsObserved(lo=0, hi=1, inputs=observed),) if observed else (),
    )


def shipped(outbox: Outbox, *, alive: bool) -> tuple[InputDataSet, ...]:
    found: list[InputDataSet] = []
    while (load := outbox.load(alive=alive)).batches:
        found += [each for batch in load.batches for each in batch.datasets]
        outbox.shipped_up_to(load)
    return tuple(found)


def test_they_are_sent_once_when_the_run_ends_and_again_when_a_resumed_one_has_more(run):
    journal, outbox, _ = run
    journal.append(finished(1, digest="a" * 64))
    journal.append(finished(2, DataSetRead(result="a" * 64, digest="a" * 32, rows=3)))
    assert not shipped(outbox, alive=True)
    journal.append(RunFinished(status="failed"))
    (found,) = shipped(outbox, alive=False)
    assert found == InputDataSet(
        name="made", digest="a" * 32, task="made", key="1" * 32, rows=3, read_by=("read",)
    )
    assert not shipped(outbox, alive=False)
    journal.append(RunStarted(run="r", pipeline="p", entry="p.py", place="local", resumed=True))
    journal.append(NodePlanned(node=2, task="other", key="3" * 32))
    journal.append(finished(2, DataSetRead(source="/a", digest="b" * 32)))
    assert not shipped(outbox, alive=True)
    journal.append(RunFinished(status="finished"))
    assert [(each.name, each.read_by) for each in shipped(outbox, alive=False)] == [
        ("made", ("read",)),
        ("a", ("other",)),
    ]


def test_a_run_whose_driver_died_has_what_its_tasks_had_read(run):
    journal, outbox, _ = run
    journal.append(finished(1, DataSetRead(source="/a", digest="b" * 32)))
    assert [each.name for each in shipped(outbox, alive=False)] == ["a"]


def test_a_file_is_one_input_however_it_is_known(run):
    """Declared, observed and opened as a data set: by its own digest, else its declared content, else what was observed."""
    journal, outbox, root = run
    for at, name in enumerate(("packed", "declared", "observed", "else")):
        seen = (Observed(kind="file", name=name, digest="e" * 32),) if name != "else" else ()
        digest = "d" * 64 if name == "packed" else ""
        journal.append(
            finished(
                1, DataSetRead(source=str(root / name), digest=digest, rows=at, stamp="s"), observed=seen
            )
        )
    absent = Observed(kind="absent", name="nothing")
    variable = Observed(kind="variable", name="X", digest="f" * 32)
    journal.append(
        finished(2, observed=(absent, variable, Observed(kind="tree", name="folder", digest="c" * 32)))
    )
    files = {str(root / name): "0" * 32 for name in ("packed", "declared", "unopened")}
    journal.append(RunMadeOf(record=MadeOf(files=files)))
    found = {each.name: each for each in shipped(outbox, alive=False)}
    other = found.pop("else").digest
    assert len(other) == 32
    assert {name: (each.digest, each.rows, each.read_by) for name, each in found.items()} == {
        "packed": ("d" * 32, 0, ("made",)),
        "declared": ("0" * 32, 1, ("made",)),
        "observed": ("e" * 32, 2, ("made",)),
        "folder": ("c" * 32, None, ("read",)),
        "unopened": ("0" * 32, None, ()),
    }


def test_equal_results_of_two_tasks_are_told_apart_by_who_reads_them(run):
    journal, outbox, _ = run
    journal.append(NodePlanned(node=0, task="same", key="9" * 32))
    journal.append(finished(0, digest="a" * 64))
    journal.append(finished(1, digest="a" * 64))
    journal.append(finished(2, DataSetRead(result="a" * 64, digest="a" * 32)))
    (found,) = shipped(outbox, alive=False)
    assert found.task == "made"


# --- What is told of values in memory.


def result(value, *pieces, path=()) -> None:
    note_result(StoredPart(value, pieces or (("a" * 64, -1, 1),), path))


def read(data, **options) -> None:
    next(Shuffled(data, seed=1, batch=2, **options).batches())


def test_a_part_of_a_result_is_told_with_its_place():
    whole = {"train": [np.zeros(4), {"x": np.ones(4)}], "test": np.zeros(5)}
    items = [np.zeros(6), np.zeros(7), np.zeros(8)]
    with DataSetsRead() as found:
        result(whole["train"], path=("train",))
        result(items, ("b" * 64, 5, 2), ("c" * 64, 0, 1))
        for each in (whole["train"][1], items[1], items[2], whole["test"]):
            read(each)
    told = [(each.result[:1], each.part, each.rows) for each in found.found]
    assert told == [("a", "['train'][1]", 4), ("b", "", 7), ("c", "", 8), ("", "", 5)]
    digests = [each.digest for each in found.found]
    assert digests[0] == "a" * 32
    assert len(set(digests)) == 4


def test_a_data_set_is_told_once_and_only_if_its_rows_are_read():
    told: list[DataSetRead] = []
    data = {"image": np.zeros((6, 28, 28), np.uint8), "word": ["a"] * 6}
    with DataSetsRead(told.append) as found:
        unread = Shuffled(np.zeros(40), seed=1, batch=2)
        unread.batches()
        unread.quality()
        result(data)
        for _ in range(2):
            read(data)
    read(np.zeros(9))  # nobody asks
    assert told == list(found.found)
    assert [(each.kind, each.rows, each.columns) for each in told] == [
        ("dict", 6, (("image", "uint8[28,28]"), ("word", "text")))
    ]


def test_items_of_a_map_have_the_results_of_their_own_and_keep_no_earlier_ones():
    same, table = np.zeros(4), np.ones(4)
    with DataSetsRead() as found:
        result(same)
        result(table, ("b" * 64, 0, 1))
        for _ in range(50):
            copy = table.copy()
            renew_results([(table, copy)])
            assert len(found.results) == 3
        read(copy)
        read(same)
    assert [each.result[:1] for each in found.found] == ["b", "a"]


def test_a_task_that_reads_in_a_thread_is_told_of():
    from threading import Thread

    with DataSetsRead() as found:
        thread = Thread(target=lambda: read(np.zeros(4)))
        thread.start()
        thread.join()
    assert len(found.found) == 1


@pytest.mark.needs("processes")
def test_a_loader_with_workers_is_told_of():
    from hooke.frameworks.torch import ShuffledLoader

    with DataSetsRead() as found:
        loader = ShuffledLoader(
            Shuffled(np.zeros(8), seed=1, batch=2), num_workers=1, multiprocessing_context="fork"
        )
        assert found.found == ()
        assert len(list(loader)) == 4
    assert [each.rows for each in found.found] == [8]


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_the_columns_of_tables_are_told(kind):
    columns = {"n": [1, 2], "x": [0.5, 1.5], "word": ["a", "b"]}
    if kind == "pandas":
        import pandas as pd

        table = pd.DataFrame(columns)
    elif kind == "polars":
        import polars as pl

        table = pl.DataFrame(columns)
    else:
        table = pa.table(columns)
    with DataSetsRead() as found:
        read(table)
    (told,) = found.found
    assert told.rows == 2
    assert dict(told.columns).keys() == columns.keys()
    from hooke.sinks.mlflow import _schema_of

    specs = json.loads(_schema_of(told.columns))["mlflow_colspec"]
    assert [each["type"] for each in specs] == ["long", "double", "string"]
