"""MLflow: a run is an MLflow run, and an attempt or item that logged something is a run nested in it.

An existing run is found by its tag `hooke.run_id`, and MLflow keeps points of equal key, step, time and value
once, so a batch may be sent twice. MLflow's times are whole milliseconds: equal points logged within one are merged, too,
and counted here.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from hooke.base.errors import HookeError
from hooke.journal.events import FINISHED, WITH_FAILURES
from hooke.sinks.accepted_names import AcceptedNames, told_apart
from hooke.sinks.sink import (
    Held,
    InputDataSet,
    LoggedBatch,
    LoggedPoints,
    Media,
    Receipt,
    ShippedRun,
    SinkAway,
)
from hooke.tracking.mlflow_runs import OWN_TAG, RUN_TAG, configured_uri, mlflow_lock, run_filter

__all__ = ["MlflowSink"]

# Limits of MLflow's REST API (mlflow/utils/validation.py). The SQLite store takes more, a server does not.
MOST_METRICS = 1000
MOST_NOTES = 100
MOST_KEY = 250
MOST_PARAM = 6000
MOST_TAG = 8000
_FORBIDDEN = re.compile(r"[^\w.\- :/]")
_NOT_ACCEPTED = "in MLflow, which does not accept that name"
SENT_TAG = "hooke.sent"
"""The tag of a run with its last mark."""

STATUS = {
    "running": "RUNNING",
    FINISHED: "FINISHED",
    WITH_FAILURES: "FAILED",  # whoever asks MLflow for FINISHED runs wants whole results
    "failed": "FAILED",
    "stopped": "KILLED",
    "lost": "KILLED",
}
TAGS = {
    f"hooke.{ours}": f"mlflow.{theirs}"
    for ours, theirs in (
        ("user", "user"),
        *((f"git.{part}", f"source.git.{part}") for part in ("commit", "branch", "dirty", "repoURL", "diff")),
    )
}
"""Tags for which MLflow has its own names."""
REFUSED = {"BAD_REQUEST", "INVALID_PARAMETER_VALUE"}
"""MLflow's error codes for data that it will never take."""
ACTIVE = "active"
"""The stage of what is not deleted."""
BLOCKED = {"INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's error codes about the run, such as a deleted run. All other errors, such as an invalid token, may be temporary."""


SHOWS_IMAGES = "mlflow.loggedImages"
"""The tag of a run whose page shows images by step."""
_NOT_IN_IMAGE = re.compile(r"[^\w\-. ~]", re.ASCII)
SMALL = 256
"""Pixels of the longer side of a small image, as in mlflow/tracking/multimedia.py."""
MOST_IMAGE_NAME = 120
"""Characters of an image's name: its file's name also has the step, the time and a UUID, and may have 255 bytes."""


MOST_DATASETS = 1000
MOST_SCHEMA = 1_000_000
"""Characters in JSON."""
MOST_CONTEXT = 500
"""Characters of a tag of an input."""
_COLUMN_TYPES = {
    name: kind
    for kind, names in {
        "boolean": "bool boolean",
        "integer": "int8 int16 int32 uint8 uint16",
        "long": "int64 uint32 uint64",
        "float": "float float16 float32 halffloat",
        "double": "double float64",
        "string": "text str string large_string category categorical object",
        "binary": "bytes binary large_binary",
        "datetime": "date date32 timestamp datetime datetime64",
    }.items()
    for name in names.split()
}
"""NumPy's, pandas's, Polars's and Arrow's names -> MLflow's."""


class _Refused(HookeError):
    """MLflow will never take the data."""


class MlflowSink:
    """Writes to the MLflow at `MLFLOW_TRACKING_URI`, else at `uri`, else to `mlflow.db` in `folder` (MLflow's default there).

    Artifacts go where MLflow puts them; for the default that is `mlruns/` in `folder`.
    """

    def __init__(self, folder: Path, *, uri: str = "") -> None:
        # The shipper itself retries and keeps its cursor; MLflow would block for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        self.uri = configured_uri(folder, uri)
        self._folder = folder
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._homes: dict[str, str] = {}
        """Key of a run -> the id of its experiment, whatever its users have called that since."""
        self._elsewhere: dict[str, list[Run]] = {}
        """Key of a run without parent -> what all experiments had of it and of those nested in it when that was asked."""
        self._params: dict[str, dict[str, str]] = {}
        self._latest: dict[tuple[str, str], tuple[int, set[tuple[int, str]]]] = {}

    def write(self, batch: LoggedBatch) -> Receipt:
        """Log the batch in as few requests as MLflow's limits allow."""
        receipt = Receipt()
        run_id = self._run(batch.run, batch.tags.get(OWN_TAG, ""))
        names = AcceptedNames(receipt, _accepted, where=_NOT_ACCEPTED, most=MOST_KEY)
        metrics = list(self._metrics(batch.run.key, batch.points, names, receipt))
        params = self._new_params(batch, run_id, names, receipt)
        tags = [
            RunTag(TAGS.get(name) or names.of(name), _cut(value, MOST_TAG, f"tag {name!r}", receipt))
            for name, value in batch.tags.items()
            if name != OWN_TAG
        ]
        if any(each.kind == "image" for each in batch.media.values()):
            tags.append(RunTag(SHOWS_IMAGES, "True"))
        for at in range(0, len(metrics), MOST_METRICS):
            self._log(run_id, receipt, metrics=metrics[at : at + MOST_METRICS])
        for at in range(0, max(len(params), len(tags)), MOST_NOTES):
            self._log(run_id, receipt, params=params[at : at + MOST_NOTES], tags=tags[at : at + MOST_NOTES])
        for path, file in batch.artifacts.items():
            media = batch.media.get(path)
            if media is not None and media.kind == "image":
                self._log_image(run_id, f"{batch.run.key}/{path}", media, file, receipt)
            else:
                self._log_file(run_id, path, file, receipt)
        self._log_datasets(run_id, batch.datasets, receipt)
        return receipt

    def finish(self, run: ShippedRun) -> None:
        """Set status and end."""
        run_id = self._run(run)
        ended = _ms(run.ended_at) if run.ended_at is not None else None
        self._ask(lambda client: client.set_terminated(run_id, STATUS[run.status], ended))

    def holds(self, run: ShippedRun, keys: Collection[str]) -> Held:
        """See CheckedSink."""
        self._forget(run, keys)
        named = self._ask(lambda client: client.get_experiment_by_name(run.experiment))
        nested = run_filter(run.key, nested=True)
        near = self._search(nested, [named.experiment_id]) if named is not None else []
        found = self._active(near, keys)
        if not found.keys() >= set(keys):  # in another one: users rename and move
            found = self._active(self._search(nested, self._all_experiments()), keys)
        for key, each in found.items():
            self._know(key, each)
        itself = found.get(run.key)
        return Held(frozenset(found), int(itself.data.tags.get(SENT_TAG, "0")) if itself is not None else 0)

    def _forget(self, run: ShippedRun, keys: Collection[str]) -> None:
        """Another may have deleted what this process made."""
        self._experiments.pop(run.experiment, None)
        self._elsewhere.pop(run.key, None)
        for key in keys:
            self._ids.pop(key, None)
            self._homes.pop(key, None)
        self._latest = {mark: seen for mark, seen in self._latest.items() if mark[0] not in keys}

    def mark(self, run: ShippedRun, sent: int) -> None:
        """See CheckedSink."""
        self._log(self._run(run), Receipt(), tags=[RunTag(SENT_TAG, str(sent))])

    def close(self) -> None:
        """Nothing is open between requests."""
        self._client = None

    def _ask(self, question: Callable[[MlflowClient], Any]) -> Any:
        try:
            return question(self._connected())
        except MlflowException as error:
            if error.error_code in REFUSED:
                raise _Refused("MLflow refused", where=self.uri, why=_first_line(error)) from error
            if error.error_code in BLOCKED:
                raise HookeError(
                    "the run cannot be written in MLflow", where=self.uri, why=_first_line(error)
                ) from error
            raise self._away(error) from error
        except OSError as error:  # the disk, or a socket
            raise self._away(error) from error

    def _away(self, error: Exception) -> SinkAway:
        return SinkAway("MLflow is not available", where=self.uri, why=_first_line(error))

    def _connected(self) -> MlflowClient:
        if self._client is None:
            # Two processes that create the schema at once break it; the lock is for processes other than the shipper.
            (self._folder / ".hooke").mkdir(mode=0o700, exist_ok=True)
            with mlflow_lock(self._folder):
                client = MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)
            self._client = client
        return self._client

    def _run(self, run: ShippedRun, own: str = "") -> str:
        """MLflow's id of the run. `own`: the run that MLflow's own calls opened in the task."""
        if run.key not in self._ids:
            self._ask(lambda _client: None)  # connects, which needs the lock, too
            parent = self._parent(run)
            with mlflow_lock(self._folder):
                self._ids[run.key] = (
                    self._opened(own, run, parent) or self._found(run, parent) or self._made(run, parent)
                )
        return self._ids[run.key]

    def _opened(self, own: str, run: ShippedRun, parent: str) -> str | None:
        if not own:
            return None
        try:
            found = self._ask(lambda client: client.get_run(own))
        except HookeError as error:
            if isinstance(error, SinkAway):
                raise
            return None  # it was deleted for good, or is in another server
        if found.data.tags.get(RUN_TAG) != run.key:
            return None
        if found.info.lifecycle_stage != ACTIVE:
            raise self._deleted(found)
        return self._adopted(found, run, parent)

    def _know(self, key: str, found: Run) -> None:
        self._ids[key] = found.info.run_id
        self._homes[key] = found.info.experiment_id
        self._params[found.info.run_id] = dict(found.data.params)

    def _adopted(self, found: Run, run: ShippedRun, parent: str) -> str:
        """The id of a run that is there. What MLflow's own calls in a task could not know of it is added."""
        self._know(run.key, found)
        known: str = found.info.run_id
        tags = {name: value[:MOST_TAG] for name, value in run.tags.items()}
        if parent:
            tags["mlflow.parentRunId"] = parent
        new = [RunTag(name, value) for name, value in tags.items() if found.data.tags.get(name) != value]
        for at in range(0, len(new), MOST_NOTES):
            self._ask(lambda client, at=at: client.log_batch(known, tags=new[at : at + MOST_NOTES]))
        if found.info.run_name == run.key != run.name:
            self._ask(lambda client: client.update_run(known, name=run.name))
        return known

    def _found(self, run: ShippedRun, parent: str) -> str | None:
        """The id of a run that is there, in its experiment or, as users rename them, in another one."""
        found = self._active(self._search(run_filter(run.key), [self._home(run)]), [run.key])
        if not found:
            root = run.parent or run.key
            if root not in self._elsewhere:
                everywhere = self._search(run_filter(root, nested=True), self._all_experiments())
                self._elsewhere[root] = list(everywhere)
            found = self._active(self._elsewhere[root], [run.key])
        return self._adopted(found[run.key], run, parent) if found else None

    def _active(self, there: Iterable[Run], keys: Collection[str]) -> dict[str, Run]:
        """The runs of these keys. Raises HookeError for one deleted or doubled."""
        active: dict[str, Run] = {}
        deleted: dict[str, Run] = {}
        for found in there:
            name = found.data.tags[RUN_TAG]
            if name not in keys:
                continue
            if found.info.lifecycle_stage != ACTIVE:
                deleted[name] = found
            elif name in active:
                raise self._doubled(active[name], found)
            else:
                active[name] = found
        for name, found in deleted.items():
            if name not in active:
                raise self._deleted(found)
        return active

    def _search(self, which: str, experiments: list[str]) -> Iterator[Run]:
        token: str | None = None
        while experiments:
            page = self._ask(
                lambda client, token=token: client.search_runs(
                    experiments, which, run_view_type=ViewType.ALL, page_token=token
                )
            )
            yield from page
            if not (token := page.token):
                return

    def _all_experiments(self) -> list[str]:
        found: list[str] = []
        token: str | None = None
        while True:
            page = self._ask(
                lambda client, token=token: client.search_experiments(
                    view_type=ViewType.ALL, page_token=token
                )
            )
            found += [each.experiment_id for each in page]
            if not (token := page.token):
                return found

    def _home(self, run: ShippedRun) -> str:
        """The id of the experiment of a run: that of its parent, else the one with its name, which is made if it is missing."""
        return self._homes.get(run.parent or "") or self._experiment(run.experiment)

    def _made(self, run: ShippedRun, parent: str) -> str:
        tags = {RUN_TAG: run.key, "mlflow.source.type": "LOCAL"} | {
            name: value[:MOST_TAG] for name, value in run.tags.items()
        }
        if entry := run.tags.get("hooke.entry"):
            tags["mlflow.source.name"] = entry
        if parent:
            tags["mlflow.parentRunId"] = parent
        experiment = self._home(run)
        try:
            made = self._ask(
                lambda client: client.create_run(
                    experiment, start_time=_ms(run.started_at), tags=tags, run_name=run.name
                )
            )
        except SinkAway:
            raise
        except HookeError:
            self._experiments.pop(run.experiment, None)
            self._check_experiment(experiment)
            raise
        self._know(run.key, made)
        run_id: str = made.info.run_id
        return run_id

    def _parent(self, run: ShippedRun) -> str:
        """The id of the parent run, whose batch came earlier, in this process or an earlier one; empty without a parent."""
        if run.parent is None:
            return ""
        parent = ShippedRun(
            key=run.parent,
            parent=None,
            name=run.parent,
            experiment=run.experiment,
            started_at=run.started_at,
        )
        return self._run(parent)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = self._ask(lambda client: _experiment(client, name))
        return self._experiments[name]

    def _metrics(
        self, key: str, points: LoggedPoints, names: AcceptedNames, receipt: Receipt
    ) -> Iterator[Metric]:
        for name, value, step, at in zip(*points, strict=True):
            metric = Metric(names.of(name), value, _ms(at), step)
            if math.isinf(value):
                note = f"metric {name[:80]!r} has infinite values: MLflow keeps {math.copysign(sys.float_info.max, value):.1e}"
                if note not in receipt.notes:
                    receipt.notes.append(note)
            moment, seen = self._latest.get((key, metric.key), (-1, set()))
            if moment != metric.timestamp:
                moment, seen = metric.timestamp, set()
                self._latest[key, metric.key] = (moment, seen)
            mark = (step, "nan" if math.isnan(value) else repr(value))
            receipt.merged += mark in seen
            seen.add(mark)
            yield metric

    def _new_params(
        self, batch: LoggedBatch, run_id: str, names: AcceptedNames, receipt: Receipt
    ) -> list[Param]:
        """The parameters that MLflow does not have yet; it refuses to change one."""
        known = self._params[run_id]
        new: list[Param] = []
        for name, text in batch.params.items():
            key, value = names.of(name), _cut(text, MOST_PARAM, f"parameter {name!r}", receipt)
            if known.setdefault(key, value) != value:
                receipt.notes.append(
                    f"parameter {name!r} was logged again as {value[:80]!r}: MLflow keeps {known[key][:80]!r}"
                )
            else:
                new.append(Param(key, value))
        return new

    def _log(self, run_id: str, receipt: Receipt, **entities: Any) -> None:
        """Log the entities. What MLflow refuses is found by bisection, so that everything else is logged."""
        try:
            self._ask(lambda client: client.log_batch(run_id, **entities))
        except _Refused as error:
            count = sum(map(len, entities.values()))
            self._check_active(run_id)
            if count == 1:
                receipt.notes.append(f"MLflow refused {error.why}")
                return
            for half in _halves(entities):
                self._log(run_id, receipt, **half)

    def _check_active(self, run_id: str) -> None:
        """Raise HookeError if the run was deleted: then MLflow does not refuse the data, but the run."""
        found = self._ask(lambda client: client.get_run(run_id))
        if found.info.lifecycle_stage != ACTIVE:
            raise self._deleted(found)

    def _check_experiment(self, number: str) -> None:
        experiment = self._ask(lambda client: client.get_experiment(number))
        if experiment.lifecycle_stage != ACTIVE:
            raise _deleted_experiment(experiment, self.uri)

    def _deleted(self, found: Run) -> HookeError:
        self._check_experiment(found.info.experiment_id)
        return HookeError(
            f"the run {found.info.run_name} has been deleted in MLflow",
            where=self.uri,
            fix=f"restore it: {_command(self.uri)} runs restore --run-id {found.info.run_id}; what it logged is kept in the journal",
        )

    def _doubled(self, one: Run, other: Run) -> HookeError:
        """Two machines have made a run at the same moment, or somebody has copied it."""
        later = max((one, other), key=lambda each: (each.info.start_time, each.info.run_id))
        return HookeError(
            f"the run {one.info.run_name} is twice in MLflow",
            where=self.uri,
            why=f"{one.info.run_id} and {other.info.run_id} have the same tag {RUN_TAG}",
            fix=f"delete one of them: {_command(self.uri)} runs delete --run-id {later.info.run_id}; then hooke sync sends the rest to the other",
        )

    def _log_datasets(self, run_id: str, datasets: Sequence[InputDataSet], receipt: Receipt) -> None:
        """Log the run's inputs. MLflow keeps equal name and digest once."""
        if len(datasets) > MOST_DATASETS:
            receipt.notes.append(f"{len(datasets):,} data sets: MLflow gets the first {MOST_DATASETS:,}")
        inputs = [_dataset_input(each, receipt) for each in datasets[:MOST_DATASETS]]
        for at in range(0, len(inputs), MOST_METRICS):
            part = inputs[at : at + MOST_METRICS]
            self._ask(lambda client, part=part: client.log_inputs(run_id, part))

    def _log_file(self, run_id: str, path: str, file: Path, receipt: Receipt) -> None:
        folder, _, name = path.rpartition("/")
        if not file.exists():
            receipt.notes.append(f"artifact {path!r} is not there any more: {file}")
            return
        if name != file.name:
            receipt.notes.append(f"artifact {path!r} has another name on disk: {file}")
        try:
            self._ask(lambda client: client.log_artifact(run_id, str(file), folder or None))
        except _Refused as error:
            receipt.notes.append(f"MLflow refused the artifact {path!r}: {error.why}")

    def _log_image(self, run_id: str, key: str, media: Media, file: Path, receipt: Receipt) -> None:
        """Log the image and a small one, as `mlflow.log_image` does: its page reads name, step and time from the file's name.

        Instead of a random UUID it has one that follows from `key`, so that an image that comes again is the same file.
        """
        if not file.exists():
            receipt.notes.append(f"image {media.name!r} is not there any more: {file}")
            return
        # MLflow shows ~ as /
        name = _NOT_IN_IMAGE.sub("_", media.name.replace("/", "~"))[:MOST_IMAGE_NAME]
        if name.replace("~", "/") != media.name:
            name = told_apart(name, media.name, MOST_IMAGE_NAME)
            shown = name.replace("~", "/")
            receipt.notes.append(f"image {media.name[:80]!r} is called {shown[:80]!r} {_NOT_ACCEPTED}")
        stem = f"{name}+step+{media.step}+timestamp+{_ms(media.at)}+{uuid5(NAMESPACE_URL, key)}"

        def log(client: MlflowClient) -> None:
            with TemporaryDirectory(prefix="hooke-image-") as folder:
                whole = Path(folder, f"{stem}.png")
                shutil.copyfile(file, whole)
                for each in (whole, _small(whole, media.name, receipt)):
                    client.log_artifact(run_id, str(each), "images")

        try:
            self._ask(log)
        except _Refused as error:
            receipt.notes.append(f"MLflow refused the image {media.name!r}: {error.why}")


# --- Data sets, as MLflow's own kinds of them are written.


def _dataset_input(found: InputDataSet, receipt: Receipt) -> DatasetInput:
    kind, source = _source_of(found)
    schema = _schema_of(found.columns)
    if len(schema or "") > MOST_SCHEMA:
        receipt.notes.append(
            f"data set {found.name[:80]!r} has {len(found.columns):,} columns: MLflow gets no schema"
        )
        schema = None
    dataset = Dataset(
        name=found.name[:MOST_KEY],
        digest=found.digest,
        source_type=kind,
        source=json.dumps(source),
        schema=schema,
        profile=None if found.rows is None else json.dumps({"num_rows": found.rows}),
    )
    by = ", ".join(found.read_by)[:MOST_CONTEXT]
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, by)] if by else [])


def _source_of(found: InputDataSet) -> tuple[str, dict[str, Any]]:
    """The kind of a source, and what MLflow's class for that is made from. What a task made is from code, with the task's key."""
    facts = {"hooke.task": found.task, "hooke.key": found.key, "hooke.part": found.part}
    made = {name: fact for name, fact in facts.items() if fact}
    protocol, is_url, _ = found.place.partition("://")
    if is_url and protocol in ("http", "https"):
        return "http", {"url": found.place}
    if is_url and protocol != "file":
        return protocol, {"uri": found.place}
    if found.place:
        return "local", {"uri": found.place} | made
    return "code", {"tags": made}


def _schema_of(columns: Sequence[tuple[str, str]]) -> str | None:
    if not columns:
        return None
    kinds = [_COLUMN_TYPES.get(kind.partition("[")[0]) for _, kind in columns]
    plain = all(
        name and kind and "[" not in given for (name, given), kind in zip(columns, kinds, strict=True)
    )
    if plain:
        specs = [
            {"type": kind, "name": name, "required": True}
            for (name, _), kind in zip(columns, kinds, strict=True)
        ]
        return json.dumps({"mlflow_colspec": specs})
    tensors = [
        {"type": "tensor", "tensor-spec": _tensor_spec(kind)} | ({"name": name} if name else {})
        for name, kind in columns
    ]
    return json.dumps({"mlflow_tensorspec": {"features": json.dumps(tensors), "targets": None}})


def _tensor_spec(kind: str) -> dict[str, Any]:
    dtype, _, shape = kind.rstrip("]").partition("[")
    return {"dtype": dtype, "shape": [-1, *(int(each) for each in shape.split(",") if each.isdigit())]}


def _small(image: Path, name: str, receipt: Receipt) -> Path:
    """A small image for MLflow's overview, in the folder of the whole one; the whole one again if none can be made."""
    stem = f"{image.name.removesuffix('.png')}+compressed"
    try:
        from PIL import Image

        with Image.open(image) as whole:
            small = whole.convert("RGBA" if whole.has_transparency_data else "RGB")
    except Exception as error:  # noqa: BLE001 - a file of the user's: Pillow raises SyntaxError, too
        receipt.notes.append(f"image {name!r} has no small version in MLflow: {_first_line(error)}")
        return Path(shutil.copyfile(image, image.with_name(f"{stem}.png")))
    small.thumbnail((SMALL, SMALL))
    small.save(made := image.with_name(f"{stem}.webp"))
    return made


def _accepted(name: str) -> str:
    """A name without what MLflow refuses: it treats names as paths."""
    known = _FORBIDDEN.sub("_", name)[:MOST_KEY]
    return "/".join(part for part in known.split("/") if part not in ("", ".", "..")) or "_"


def _experiment(client: MlflowClient, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            made: str = client.create_experiment(name)
        except MlflowException:
            known = client.get_experiment_by_name(name)  # another was faster
            if known is None:
                raise
        else:
            return made
    if known.lifecycle_stage != ACTIVE:
        raise _deleted_experiment(known, client.tracking_uri)
    found: str = known.experiment_id
    return found


def _deleted_experiment(known: Experiment, uri: str) -> HookeError:
    return HookeError(
        f"the experiment {known.name!r} has been deleted in MLflow",
        where=uri,
        fix=f"restore it: {_command(uri)} experiments restore --experiment-id {known.experiment_id}; "
        "or choose another with [tracking] experiment in hooke.toml",
    )


def _command(uri: str) -> str:
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow"


def _halves(entities: dict[str, list[Any]]) -> Iterator[dict[str, list[Any]]]:
    flat = [(kind, each) for kind, values in entities.items() for each in values]
    middle = len(flat) // 2
    for part in (flat[:middle], flat[middle:]):
        half: dict[str, list[Any]] = {}
        for kind, each in part:
            half.setdefault(kind, []).append(each)
        yield half


def _cut(value: str, most: int, what: str, receipt: Receipt) -> str:
    if len(value) > most:
        receipt.notes.append(f"{what} has {len(value)} characters: MLflow keeps the first {most}")
    return value[:most]


def _ms(at: float) -> int:
    return int(at * 1000)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
