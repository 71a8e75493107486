"""The format of Comet's offline archives, which `comet offline` shows and `comet upload` sends: one zip per experiment.

An archive has `experiment.json`, `messages.json` with one message per line, and the files that messages name. A point's line
also has its time as a float, which Comet ignores: so equal lines are one point that was sent twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import msgspec

from hooke.base.files import sync_path
from hooke.journal.events import WITH_FAILURES
from hooke.sinks.accepted_names import AcceptedNames
from hooke.sinks.sink import LoggedBatch, LoggedPoints, Media, Receipt, ShippedRun
from hooke.tracking.logged_values import HistogramFile

__all__ = [
    "EXPERIMENT",
    "MESSAGES",
    "Line",
    "comet_histogram",
    "comet_names",
    "experiment",
    "experiment_key",
    "file_lines",
    "name_of",
    "note_lines",
    "pack",
    "point_lines",
    "run_lines",
    "status_line",
]

EXPERIMENT = "experiment.json"
MESSAGES = "messages.json"

Line: TypeAlias = tuple[str, str]
"""The subject of a message (the last message of a subject counts), and the message."""


def comet_names(receipt: Receipt) -> AcceptedNames:
    """Names without line breaks, as Comet's readers need them."""
    return AcceptedNames(
        receipt,
        lambda name: name.replace("\n", " "),
        where="in Comet, where names have no line breaks",
        most=sys.maxsize,
    )


def experiment_key(key: str) -> str:
    """The key of this run's experiment in Comet: 32 characters derived from the run's key."""
    return hashlib.sha256(f"hooke:{key}".encode()).hexdigest()[:32]


def experiment(run: ShippedRun, *, workspace: str, last_at: float) -> dict[str, Any]:
    """The content of `experiment.json`. `last_at` is the time of the last point, for a run whose end is unknown."""
    failed = run.status in ("failed", "lost", WITH_FAILURES)
    was = "" if run.status == WITH_FAILURES else "was "
    return {
        "offline_id": experiment_key(run.key),
        "user_provided_experiment_key": True,
        "resume_strategy": "get_or_create",
        "comet_start_sourced": False,
        "project_name": run.experiment,
        "workspace": workspace or None,
        "start_time": _ms(run.started_at),
        "stop_time": _ms(run.ended_at if run.ended_at is not None else last_at),
        "tags": [run.parent or run.key],
        "customer_error_reported": failed,
        "customer_error_message": f"the run {was}{run.status}" if failed else None,
        "hooke": msgspec.to_builtins(run),
    }


def run_lines(run: ShippedRun) -> list[Line]:
    """The lines about the run itself."""
    # `Name` is the experiment's name. Comet has no nesting: the parent run is a note, and a tag of all its experiments.
    notes = {"Name": run.name, "hooke.run_id": run.key} | run.tags
    if run.parent is not None:
        notes["hooke.parent"] = run.parent
    return [_other(name, value, run) for name, value in notes.items()]


def status_line(run: ShippedRun) -> Line:
    """The line with the run's status."""
    return _other("hooke.status", run.status, run)


def point_lines(points: LoggedPoints, names: AcceptedNames) -> Iterator[str]:
    """The lines of the points, in order."""
    for name, value, step, at in zip(*points, strict=True):
        metric = {"metricName": names.of(name), "metricValue": value, "step": step, "epoch": None}
        # NaN and Infinity as Python's JSON writes them: `comet offline` fails on the text "NaN", which Comet writes.
        yield _message("metric_msg", {"local_timestamp": _ms(at), "metric": metric}, at=at)


def note_lines(batch: LoggedBatch, names: AcceptedNames) -> list[Line]:
    """The lines of parameters and tags."""
    lines = []
    for given, value in batch.params.items():
        name = names.of(given)
        param = {"paramName": name, "paramValue": value, "step": None, "source": "manual"}
        payload = {"local_timestamp": _ms(batch.run.started_at), "param": param}
        lines.append((f"param:{name}", _message("parameter_msg", payload)))
    if "hooke.git.commit" in batch.tags:
        lines.append(_git(batch.tags))
    return lines + [_other(names.of(name), value, batch.run) for name, value in batch.tags.items()]


def file_lines(
    batch: LoggedBatch, names: AcceptedNames, receipt: Receipt
) -> Iterator[tuple[Line, str, Path | bytes]]:
    """The lines of existing artifacts, each with its name in the archive and its file or content."""
    for given, file in batch.artifacts.items():
        if not file.exists():
            receipt.notes.append(f"artifact {given!r} no longer exists: {file}")
            continue
        path = names.of(given)
        inside = f"asset-{hashlib.sha256(path.encode()).hexdigest()[:24]}"
        media = batch.media.get(given)
        kind, at = "asset", batch.run.started_at
        params: dict[str, Any] = {"fileName": path, "step": None, "overwrite": True}
        content: Path | bytes | None = file
        if media is not None:
            kind, params, at = KINDS[media.kind], _media_params(batch.run.key, media, names), media.at
            if media.kind == "histogram":
                content = _histogram(file, media, receipt)
        if content is None:
            continue
        payload = {
            "additional_params": {**params, "context": None},
            "clean": True,
            "file_path": inside,
            "local_timestamp": _ms(at),
            "metadata": None,
            "upload_type": kind,
        }
        line = _message("file_upload", payload)
        yield (_file_subject(payload), line), inside, content


KINDS = {"image": "visualization", "histogram": "histogram3d"}
"""Comet's types of uploads."""


def _media_params(key: str, media: Media, names: AcceptedNames) -> dict[str, Any]:
    """As in Comet's log_image and log_histogram_3d, which have a random id instead of one that follows from the image."""
    unique = hashlib.sha256(f"{key}:{media.kind}:{media.name}:{media.step}".encode()).hexdigest()[:32]
    name = names.of(media.name)
    # With `overwrite`, it would replace the images of all other steps, too.
    common: dict[str, Any] = {"step": media.step, "overwrite": False}
    if media.kind == "image":
        return common | {"figName": name, "imageId": unique, "extension": "png"}
    return common | {"fileName": name, "assetId": unique, "type": KINDS["histogram"]}


def _histogram(file: Path, media: Media, receipt: Receipt) -> bytes | None:
    """The content of the file for Comet; None if there is nothing to show, which is noted."""
    try:
        histogram = HistogramFile.read(file)
    except msgspec.DecodeError as error:  # the machine lost its power
        receipt.notes.append(f"histogram {media.name!r} at step {media.step} cannot be read, {file}: {error}")
        return None
    if not histogram.counts:
        receipt.notes.append(f"histogram {media.name!r} has no finite value at step {media.step}")
        return None
    return comet_histogram(histogram)


def _file_subject(payload: dict[str, Any]) -> str:
    """An asset's name is unique; images and histograms of all steps have one name, but a file for each."""
    if payload["upload_type"] == "asset":
        return f"file:{payload['additional_params']['fileName']}"
    return f"file:{payload['file_path']}"


_START, _STOP, _GROWTH = 1e-12, 1e20, 1.1


def comet_histogram(histogram: HistogramFile) -> bytes:
    """The histogram in Comet's bins, whose bounds grow by 10 %: the values of each bin count as its middle."""
    positive = 0
    bound = _START
    while bound <= _STOP:
        positive += 1
        bound *= _GROWTH
    middle, last = positive + 1, 2 * positive + 1
    counts: Counter[int] = Counter()
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        value = low / 2 + high / 2
        grown = (math.log(abs(value)) - math.log(_START)) / math.log(_GROWTH) if value else 0.0
        away = max(0, math.ceil(grown))
        counts[min(max(middle - 1 - away if value < 0 else middle + away, 0), last)] += count
    values = [[at, count] for at, count in sorted(counts.items()) if count]
    bins = {"offset": 0, "start": _START, "stop": _STOP, "step": _GROWTH}
    return json.dumps({"version": 2, "index_values": values, "values": None} | bins).encode()


def name_of(line: str) -> str | None:
    """The subject of an archive's message; None for a point. Raises ValueError, KeyError for an unknown message."""
    message = json.loads(line)
    payload = message["payload"]
    match message["type"]:
        case "metric_msg":
            return None
        case "parameter_msg":
            return f"param:{payload['param']['paramName']}"
        case "ws_msg":
            return f"other:{payload['log_other']['key']}"
        case "git_metadata":
            return "git"
        case "file_upload":
            return _file_subject(payload)
        case other:
            raise ValueError(f"a message of type {other!r}")


def pack(
    archive: Path,
    facts: Mapping[str, Any],
    lines: Iterable[str],
    files: Iterable[tuple[str, Path | bytes]],
) -> None:
    """Write an archive atomically, in place of an older one. Raises OSError."""
    # A fixed name, so that the next attempt overwrites what a kill left.
    part = archive.with_name(f".{archive.name}.tmp")
    with ZipFile(part, "w", ZIP_DEFLATED, strict_timestamps=False) as made:
        made.writestr(EXPERIMENT, json.dumps(facts))
        with made.open(MESSAGES, "w", force_zip64=True) as messages:
            for line in lines:
                messages.write(line.encode() + b"\n")
        for inside, file in files:
            if isinstance(file, bytes):
                made.writestr(inside, file)
            else:
                made.write(file, inside, ZIP_STORED)  # weights and images hardly compress
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(archive)
    sync_path(archive.parent)


def _other(name: str, value: str, run: ShippedRun) -> Line:
    # The older form of the message: `comet offline` shows the newer one as two rows without a name.
    payload = {"local_timestamp": _ms(run.started_at), "log_other": {"key": name, "val": value}}
    return f"other:{name}", _message("ws_msg", payload)


def _git(tags: Mapping[str, str]) -> Line:
    """The line for Comet's git page."""
    facts = {
        "user": tags.get("hooke.user"),
        "root": None,
        "branch": tags.get("hooke.git.branch"),
        "parent": tags["hooke.git.commit"],
        "status": None,
        "origin": tags.get("hooke.git.repoURL"),
    }
    return "git", _message("git_metadata", {"git_metadata": facts})


def _message(kind: str, payload: dict[str, Any], **beside: float) -> str:
    return json.dumps({"type": kind, "payload": payload} | beside)


def _ms(at: float) -> int:
    return int(at * 1000)
