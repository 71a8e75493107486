"""Offline logs of Neptune's classic client: `run__*/data-N.log`, with one operation in JSON per line, and the files beside them.

The operations are those of neptune 1.14 (neptune/internal/operation.py); the client counts them in `last_put_version`.
"""

from __future__ import annotations

import base64
import glob
import itertools
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError
from hooke.importers import source

__all__ = ["ClassicOfflineRun", "is_log", "offline_runs"]

LOG = re.compile(r"data-(\d+)\.log")
FOLDER = re.compile(r"(\w+?)__(.+?)(__.*)?")
"""`run__ID__PROCESS__LETTERS`, or `run__ID` of older clients, with one folder per process below."""
ENDED = "from an offline log: how the run ended is unknown"
SINGLE = {"AssignFloat": "float", "AssignInt": "int", "AssignBool": "bool", "AssignString": "string"}
CLEARING = (
    "ClearFloatLog",
    "ClearStringLog",
    "ClearImageLog",
    "ClearStringSet",
    "ClearArtifact",
    "DeleteAttribute",
)
SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif"}
EXACT = "neptune/exact_steps"
ROUNDED = source.Remark(
    "steps finer than a millionth", f"rounded; exact in {EXACT}.csv, after the metric's name"
)
CLEARED = source.Remark("values that the run itself cleared", "not kept")
REFERENCE = source.Remark(
    "references to files outside", "their paths as a tag; the log does not have their content"
)
TORN = source.Remark(
    "half-written records at the end of a log", "not kept: the process died while it wrote them"
)
COPY = source.Remark(
    "attributes copied from another run", "a tag with their source; only Neptune had the value"
)
NEVER = source.Remark(
    "operations that the client never wrote out", "not kept: they were lost with the process"
)
DELETED = source.Remark("files that the run deleted from a file set", "kept anyway, if they exist")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicOfflineRun:
    """One run, in the logs of all processes that logged into it; see `ImportSource`."""

    run: str
    files: list[Path]
    roots: tuple[Path, ...]
    project: str = ""
    """Unknown: in Neptune it is chosen when the log is sent."""
    kind: str = "an offline log of Neptune's classic client"

    def fingerprint(self) -> list[tuple[str, int]]:
        """Folders and sizes of the logs."""
        return [
            (f"{file.parent.name}/{name}", size)
            for file, (name, size) in zip(self.files, source.sizes_of(self.files), strict=True)
        ]

    def glance(self) -> source.Glance:
        """Reads all steps."""
        scale = 1
        for _, operation, file in self._operations():
            if scale < source.MICRO and operation["type"] == "LogFloats":
                with _as_written(operation, file):
                    steps = [_micros(value.get("step"), file) for value in operation["values"]]
                scale = source.finest_of((step for step in steps if step is not None), scale)
        return source.Glance(scale, _made(self.files[0].parent), ENDED)

    def items(self) -> Iterator[source.Item]:
        """All items in logged order, metrics in batches, without what the run cleared."""
        cleared = {
            tuple(operation["path"]): number for number, operation, _ in self._operations(only=CLEARING)
        }
        gathered = source.GatheredPoints()
        for name, value in _metadata(self.files[0].parent).items():
            yield source.AttributeValue(f"sys/log/{name}", "string", str(value))
        for number, operation, file in self._operations():
            if number < cleared.get(tuple(operation["path"]), -1):
                yield CLEARED
                continue
            yield from _items(operation, gathered, file, self.roots)
            yield from gathered.full()
        yield from gathered.rest()
        yield from [TORN] * sum(_torn(file) for file in self.files)
        for folder, file in {file.parent: file for file in self.files}.items():  # the last of each folder
            yield from [NEVER] * max(0, _put(folder) - _last_version(file))

    def _operations(self, only: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, Any], Path]]:
        """(number, operation, file), optionally `only` of some types."""
        number, marks = 0, [f'"{kind}"'.encode() for kind in only]
        for file in self.files:
            for at, line in _lines(file):
                number += 1
                if marks and not any(mark in line for mark in marks):
                    continue
                operation = _parsed(line, at, file)
                if not only or operation["type"] in only:
                    yield number, operation, file


def offline_runs(files: Iterable[Path], roots: tuple[Path, ...]) -> Iterator[ClassicOfflineRun | HookeError]:
    """The runs in these logs, which may share a run; an error for a log of something else.

    They may name files below `roots`.
    """
    runs: dict[str, list[tuple[str, int, Path]]] = {}
    for file in files:
        try:
            # All its fields become tags.
            source.allowed(
                file.parent / "metadata.json", roots, what="the metadata of a log", where=str(file)
            )
        except HookeError as error:
            yield error
            continue
        metadata = _metadata(file.parent)
        named = FOLDER.fullmatch(file.parent.name) or FOLDER.fullmatch(file.parent.parent.name)
        kind = metadata.get("containerType") or (named[1] if named else "")
        run = metadata.get("containerId") or (named[2] if named else "")
        if kind == "run" and run:
            order = str(metadata.get("createdAt") or file.parent.name)
            runs.setdefault(run, []).append((order, _number(file), file))
        else:
            yield HookeError(
                f"a log of Neptune belongs to a {kind or '(unknown)'}, not to a run",
                where=str(file),
                fix="move it away; if it belongs to a run, restore its folder run__ID or its metadata.json",
            )
    for run, found in runs.items():
        yield ClassicOfflineRun(run=run, files=[file for _, _, file in sorted(found)], roots=roots)


def is_log(file: Path) -> bool:
    """Whether a file is a part of a log, by its name and folder."""
    if not LOG.fullmatch(file.name):
        return False
    named = FOLDER.fullmatch(file.parent.name) or FOLDER.fullmatch(file.parent.parent.name)
    return named is not None or "containerId" in _metadata(file.parent)


def _number(file: Path) -> int:
    found = LOG.fullmatch(file.name)
    return int(found[1]) if found else 0


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # older clients write none; a killed client may leave half of it
        return {}
    return found if isinstance(found, dict) else {}


def _made(folder: Path) -> float | None:
    try:
        return datetime.fromisoformat(str(_metadata(folder).get("createdAt"))).timestamp()
    except ValueError:
        return None


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without a half-written one at the end."""
    with file.open("rb") as opened:
        for at, line in enumerate(opened, 1):
            if line.endswith(b"\n") or _whole(line):
                yield at, line


def _torn(file: Path) -> bool:
    with file.open("rb") as opened:
        (last,) = deque(opened, maxlen=1) or (b"",)
    return bool(last) and not last.endswith(b"\n") and not _whole(last)


def _whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parsed(line: bytes, at: int, file: Path) -> dict[str, Any]:
    try:
        operation: dict[str, Any] = json.loads(line)["obj"]
        if not all(isinstance(part, str) for part in [operation["type"], *operation["path"]]):
            raise TypeError("its type must be text, and its path a list of texts")
    except (ValueError, KeyError, TypeError) as error:
        raise HookeError(
            "a log of Neptune is damaged",
            where=f"{file}, line {at}",
            why=f"{type(error).__name__}: {error}",
            fix="restore the file from a copy, or remove that line; then import again",
        ) from error
    return operation


def _put(folder: Path) -> int:
    """The number of operations given to the client; 0 if unknown."""
    try:
        return int((folder / "last_put_version").read_text(encoding="utf-8").strip() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def _last_version(file: Path) -> int:
    last = deque(_lines(file), maxlen=1)
    version = json.loads(last[0][1]).get("version") if last else 0
    return version if isinstance(version, int) else 0


def _items(
    operation: dict[str, Any], gathered: source.GatheredPoints, file: Path, roots: tuple[Path, ...]
) -> Iterator[source.Item]:
    path = "/".join(operation["path"])
    with _as_written(operation, file):  # as a list: an exception of the caller is not the log's fault
        if operation["type"] == "UploadFileSet":
            items = list(_matched(operation["file_globs"], path, file, roots))
        else:
            items = list(_given(operation, path, gathered, file))
    yield from items


@contextmanager
def _as_written(operation: dict[str, Any], file: Path) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, OSError) as error:
        raise HookeError(
            f"an operation {operation['type']} in a log of Neptune has an unexpected form",
            where=str(file),
            why=f"{type(error).__name__}: {error}, in {json.dumps(operation)[:200]}",
            fix="please report it, with the version in metadata.json; select other runs with --run",
        ) from error


def _given(
    operation: dict[str, Any], path: str, gathered: source.GatheredPoints, file: Path
) -> Iterator[source.Item]:
    match operation["type"]:
        case "LogFloats":
            yield from _floats(operation["values"], path, gathered, file)
        case "LogStrings" | "LogImages":
            yield from _series(operation, path, file)
        case "AddStrings" | "RemoveStrings" as kind:
            gathered.change(path, map(str, operation["values"]), added=kind == "AddStrings")
        case "UploadFile" | "UploadFileContent":
            yield from _uploaded(operation, path, file)
        case "DeleteFiles":
            yield from [DELETED] * len(operation["file_paths"])
        case kind if kind in SINGLE:
            yield source.AttributeValue(path, SINGLE[kind], _single(operation["value"]))
        case kind if kind not in CLEARING:
            yield from _odd(operation, path, file)


def _odd(operation: dict[str, Any], path: str, file: Path) -> Iterator[source.Item]:
    match operation["type"]:
        case "AssignDatetime":
            yield source.AttributeValue(
                path, "datetime", datetime.fromtimestamp(operation["value"] / 1000, UTC)
            )
        case "AssignArtifact":
            yield source.AttributeValue(path, "artifact", _single(operation["hash"]))
        case "ConfigFloatSeries":
            limits = {name: operation[name] for name in ("min", "max", "unit")}
            yield source.AttributeValue(f"{path}.config", "series config", json.dumps(limits))
        case "TrackFilesToArtifact":
            named = ["->".join(part for part in entry if part) for entry in operation["entries"]]
            yield source.AttributeValue(path, "artifact", named)
            yield REFERENCE
        case "CopyAttribute":
            origin = "/".join([operation["container_id"], *operation["source_path"]])
            yield source.AttributeValue(path, operation["source_attr_name"], [f"copy of {origin}"])
            yield COPY
        case kind:
            raise HookeError(
                f"a log of Neptune has the unknown operation {kind!r}",
                where=str(file),
                fix=f"try a newer Hooke ({install_command(upgrade=True)}); otherwise please report it",
            )


def _single(value: Any) -> Any:
    if type(value) in (list, dict):
        raise TypeError(f"its value must be a single one, not {value!r:.100}")
    return value


def _floats(
    values: list[dict[str, Any]], path: str, gathered: source.GatheredPoints, file: Path
) -> Iterator[source.Item]:
    for each in values:
        step = each.get("step")
        micros = _micros(step, file)
        gathered.point(path, float(each["value"]), micros, float(each["ts"]))
        if step is not None and Decimal(repr(step)) * source.MICRO != micros:
            yield ROUNDED
            yield source.Text(EXACT, micros, float(each["ts"]), f"{path} {step!r}")


def _series(operation: dict[str, Any], path: str, file: Path) -> Iterator[source.Item]:
    for each in operation["values"]:
        if operation["type"] == "LogImages":
            yield from _image(each, path, file)
        else:
            yield source.Text(path, _micros(each.get("step"), file), float(each["ts"]), str(each["value"]))


def _image(value: dict[str, Any], path: str, file: Path) -> Iterator[source.Item]:
    image = value["value"] or {}
    image = {"data": image} if isinstance(image, str) else image
    micros = _micros(value.get("step"), file)
    content = base64.b64decode(image["data"]) if image.get("data") else None
    suffix = next((suffix for magic, suffix in SUFFIXES.items() if (content or b"").startswith(magic)), "")
    yield source.ImportedFile(
        path, content, f"image{suffix}", series=True, micros=micros, at=float(value["ts"])
    )
    told = {name: image[name] for name in ("name", "description") if image.get(name)}
    if told:
        yield source.Text(f"{path}.names", micros, float(value["ts"]), json.dumps(told, ensure_ascii=False))


def _uploaded(operation: dict[str, Any], path: str, file: Path) -> Iterator[source.Item]:
    suffix = f"file.{operation['ext']}" if operation.get("ext") else ""
    if operation["type"] == "UploadFileContent":
        yield source.ImportedFile(path, base64.b64decode(operation["file_content"]), suffix)
    else:
        named = operation.get("file_path")
        content = Path(named) if named else file.parent / "upload_path" / operation["tmp_file_name"]
        yield source.ImportedFile(path, content, suffix)


def _matched(patterns: list[str], path: str, file: Path, roots: tuple[Path, ...]) -> Iterator[source.Item]:
    """The files that match a file set now, by path below their common folder; a pattern without a match is a missing file."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        # Before the search: a pattern elsewhere would search your whole disk.
        source.allowed(_fixed_part(pattern), roots, what=f"the file of attribute {path!r}", where=str(file))
        fitting = [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]
        above = {parent for each in fitting for parent in each.parents}
        found |= dict.fromkeys([each for each in fitting if each not in above] or [Path(pattern)])
    common = os.path.commonpath([each.parent for each in found]) if found else ""
    for each in found:
        yield source.ImportedFile(f"{path}/{each.relative_to(common).as_posix()}", each, each.name)


def _fixed_part(pattern: str) -> Path:
    """The folder above a pattern's first part with a wildcard."""
    parts = Path(pattern).parts
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    return Path(*fixed)


def _micros(step: float | None, file: Path) -> int | None:
    """A step, rounded to millionths."""
    if step is None:
        return None
    try:
        micros = int((Decimal(repr(step)) * source.MICRO).to_integral_value())
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise _no_step(step, file) from error
    if abs(micros) >= 2**63:
        raise _no_step(step, file)
    return micros


def _no_step(step: float, file: Path) -> HookeError:
    return HookeError(
        f"a step in a log of Neptune is not valid: {step!r}",
        where=str(file),
        why="steps are numbers below 9,223,372,036,854",
        fix="remove its line from a copy of the log, and import that",
    )
