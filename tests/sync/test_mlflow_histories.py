"""What others do to an MLflow while runs are sent to it: afterwards all is there once, or it is said what is missing and what mends it."""

import random
import re
import socket
import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fixtures.shop import copy_tables
from tests.sinks.mlflow_places import Server
from tests.support.sizes import choose_size
from tests.sync.logbook import Logbook

from hooke.journal.run_folders import RunsFolder
from hooke.sync.shipper import FOLDER, Shipper, load_cursor

pytestmark = [pytest.mark.needs("processes"), pytest.mark.long, pytest.mark.filterwarnings("ignore")]

HISTORIES = choose_size(sample=3, full=10, soak=200)
STEPS = 16
NAMES = ("loss", "p<0.5", "p>0.5", "p_0.5", "a/b", "a//b", "a/./b", "x" * 300, "x" * 299 + "y", "größe ✓")
"""Some become the same where what MLflow refuses is cut or replaced."""
MENDED = re.compile(r"MLFLOW_TRACKING_URI=(\S+) mlflow (runs|experiments) (restore|delete) --\w+-id (\w+)")


@dataclass
class Place:
    """An MLflow: its address and the file of its database."""

    uri: str
    database: Path

    @property
    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def experiments(self):
        from mlflow.entities import ViewType

        return self.client.search_experiments(view_type=ViewType.ALL)

    def runs(self, of: str, *, active: bool):
        """The runs with that key, and those nested in it."""
        from mlflow.entities import ViewType

        view = ViewType.ACTIVE_ONLY if active else ViewType.DELETED_ONLY
        ids = [each.experiment_id for each in self.experiments()]
        found = self.client.search_runs(ids, f"tags.`hooke.run_id` LIKE '{of}%'", run_view_type=view)
        return sorted(found, key=lambda each: each.info.run_id)

    def purge(self, of: str) -> None:
        """As `mlflow gc` does."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(f"sqlite:///{self.database}", str(self.database.parent / "unused"))
        for run in self.runs(of, active=False):
            store._hard_delete_run(run.info.run_id)
        store._dispose_engine()

    @staticmethod
    def copy(source: Path, to: Path) -> None:
        with (
            closing(sqlite3.connect(source, timeout=60)) as one,
            closing(sqlite3.connect(to, timeout=60)) as other,
        ):
            one.backup(other)


@dataclass
class History:
    """A run, two machines that send it, and what happens to the MLflow that they send it to."""

    book: Logbook
    places: list[Place]
    rng: random.Random
    folder: Path
    root: Path
    points: dict[str, dict[str, list[tuple[float, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    params: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    done: list[str] = field(default_factory=list)
    backups: list[Path] = field(default_factory=list)
    logged: int = 0
    attempts: int = 0

    @property
    def place(self) -> Place:
        return self.places[0]

    def log(self) -> None:
        for _ in range(self.rng.randint(1, 8)):
            attempt = self.rng.choice([None, *range(1, self.attempts + 1)])
            item = None if attempt is None else attempt % 2
            key = self.book.run if attempt is None else f"{self.book.run}/{attempt}/{item}"
            tracker = self.book.trackers[0]
            tracker.attempt, tracker.item = attempt, item
            name = self.rng.choice(NAMES)
            self.logged += 1
            if self.rng.random() < 0.7:
                tracker.log_metric(name, float(self.logged), step=self.logged)
                self.points[key][name].append((float(self.logged), self.logged))
            else:
                value = self.rng.choice(["1", "2", str(self.logged)])
                tracker.log_param(name, value)
                self.params[key].setdefault(name, value)

    def begin(self) -> None:
        self.attempts += 1
        self.book.begin(self.attempts)

    def sync(self, machine: str = "") -> str:
        """Send it from one of two machines, each of which has its own cursor; returns what is in the way."""
        from hooke.sinks.mlflow import MlflowSink

        machine = machine or self.rng.choice("ab")
        kept, used = self.book.folder / f"cursors-{machine}", self.book.folder / FOLDER
        if kept.exists():
            kept.rename(used)
        sink = MlflowSink(self.root, uri=self.place.uri)
        with Shipper(runs=self.book.runs, sinks={"mlflow": sink}) as shipper:
            shipper.send([self.book.run], patience_s=10.0)
        cursor = load_cursor(self.book.folder, "mlflow")
        if used.exists():
            used.rename(kept)
        if not cursor.trouble:
            self.check()
        return cursor.trouble

    def check(self) -> None:
        """Everything is there, once, and no two names have become one."""
        found = {}
        for run in self.place.runs(self.book.run, active=True):
            key = run.data.tags["hooke.run_id"]
            assert key not in found, "no run is there twice"
            found[key] = run
        for key, points in self.points.items():
            run = found[key]
            there = {
                name: [
                    (each.value, each.step)
                    for each in self.place.client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            }
            assert sorted(map(sorted, there.values())) == sorted(map(sorted, points.values())), key
            assert all(
                sorted(there[name]) == sorted(points[name])
                for name in ("loss", "p_0.5", "a/b")
                if name in points
            )
        for key, params in self.params.items():
            there = dict(found[key].data.params)
            there.pop("n", None)
            assert sorted(there.values()) == sorted(params.values()), key
            assert all(there[name] == params[name] for name in ("loss", "p_0.5", "a/b") if name in params)

    def delete_a_run(self) -> None:
        if runs := self.place.runs(self.book.run, active=True):
            self.place.client.delete_run(self.rng.choice(runs).info.run_id)

    def restore_a_run(self) -> None:
        if runs := self.place.runs(self.book.run, active=False):
            self.place.client.restore_run(self.rng.choice(runs).info.run_id)

    def purge(self) -> None:
        self.place.purge(self.book.run)

    def of_ours(self, stage: str):
        return [
            each
            for each in self.place.experiments()
            if each.name.startswith(self.folder.name) and each.lifecycle_stage == stage
        ]

    def delete_the_experiment(self) -> None:
        for each in self.of_ours("active"):
            self.place.client.delete_experiment(each.experiment_id)

    def restore_the_experiment(self) -> None:
        for each in self.of_ours("deleted"):
            self.place.client.restore_experiment(each.experiment_id)

    def rename_the_experiment(self) -> None:
        for each in self.of_ours("active"):
            self.place.client.rename_experiment(
                each.experiment_id,
                f"{self.folder.name} was experiment {each.experiment_id}, step {len(self.done)}",
            )

    def back_up(self) -> None:
        self.backups.append(self.folder / f"backup-{len(self.backups)}.db")
        self.place.copy(self.place.database, self.backups[-1])

    def restore_the_backup(self) -> None:
        if self.backups:
            self.place.copy(self.backups[-1], self.place.database)

    def change_the_address(self) -> None:
        self.places.reverse()
        self.backups.clear()

    def play(self) -> None:
        steps = [self.log, self.log, self.begin, self.sync, self.sync, self.delete_a_run, self.restore_a_run, self.purge,
                 self.delete_the_experiment, self.restore_the_experiment, self.rename_the_experiment, self.back_up,
                 self.restore_the_backup, self.change_the_address]  # fmt: skip
        self.begin()
        for _ in range(STEPS):
            step = self.rng.choice(steps)
            self.done.append(step.__name__)
            step()
        self.log()

    def mend(self) -> None:
        """Do what is said, until nothing is in the way."""
        said: list[str] = []
        for machine in "ab":
            while trouble := self.sync(machine):
                said.append(trouble)
                assert len(said) < 20, said
                command = MENDED.search(trouble)
                assert command is not None, f"what mends it is said: {trouble}"
                uri, what, verb, number = command.groups()
                assert uri == self.place.uri
                getattr(self.place.client, f"{verb}_{what.removesuffix('s')}")(number)


@pytest.fixture(scope="module")
def served(tmp_path_factory, tables):
    """A real `mlflow server`."""
    folder = tmp_path_factory.mktemp("server")
    copy_tables(tables, folder / "server.db", artifacts="mlflow-artifacts:/0")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        running = Server(found.getsockname()[1], folder)
    running.start()
    yield Place(running.uri, folder / "server.db")
    running.stop()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_all_is_there_once_or_it_is_said_what_is_missing(seed, tmp_path, served, tables, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / f"history{seed}"
    folder.mkdir()
    file = folder / "mlflow.db"
    copy_tables(tables, file, artifacts=str(folder / "mlruns" / "0"))
    places = [served, Place(f"sqlite:///{file}", file)]
    book = Logbook(RunsFolder(folder / "runs"), run=f"sweep-{seed:04}", pipeline=folder.name)
    history = History(book, places, random.Random(seed), folder, folder)
    try:
        history.play()
        history.mend()
    except BaseException:
        print(history.done)
        raise
    finally:
        book.end()
    history.sync("a")
    statuses = {each.info.status for each in history.place.runs(book.run, active=True)}
    assert statuses <= {"FINISHED", "KILLED"}
