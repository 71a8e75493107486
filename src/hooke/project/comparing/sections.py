"""What differs between runs and what is equal, kind by kind, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from hooke.base.formats import format_bytes, format_seconds
from hooke.project.comparing.facts import Facts
from hooke.project.comparing.names import WHICH, Names, is_system
from hooke.project.comparing.where import number

__all__ = ["Section", "sections_of"]

_Values = Sequence[Any]
"""A value a run, None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One kind of thing: by name the values of what differs, a value a run (None where it has none), and the names of what is equal."""

    title: str
    differ: Mapping[str, Sequence[Any]]
    equal: tuple[str, ...]

    def cells(self, name: str) -> list[str]:
        """A row as text: numbers with six digits, or with all where six do not tell them apart."""
        values = self.differ[name]
        texts = ["-" if value is None else _short(value) for value in values]
        if len(set(texts)) < 2:
            texts = ["-" if value is None else str(value) for value in values]
        return texts


def sections_of(runs: Sequence[Facts]) -> list[Section]:
    """Parameters, metrics, tags, artifacts, durations and code. Reads artifacts whose sizes are equal."""
    return [
        _section("parameters", _notes(runs, "params")),
        _section("metrics", _metrics(runs)),
        _section("tags", _notes(runs, "tags")),
        _section("artifacts", _artifacts(runs)),
        _section("durations", _durations(runs)),
        _section("code", _code(runs)),
    ]


def _section(title: str, rows: Mapping[str, _Values]) -> Section:
    # As text: of `nan` no two are equal.
    equal = {name for name, values in rows.items() if len({repr(value) for value in values}) == 1}
    differ = {name: values for name, values in rows.items() if name not in equal}
    return Section(title=title, differ=differ, equal=tuple(name for name in rows if name in equal))


def _short(value: Any) -> str:
    if isinstance(value, str) and not value.lstrip("-").isdigit() and (found := number(value)) is not None:
        return f"{found:.6g}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _notes(runs: Sequence[Facts], group: str) -> dict[str, _Values]:
    names = Names(group, runs)
    return {
        names.shown(name): [
            None if (values := getattr(each, group).get(name)) is None else ", ".join(values) for each in runs
        ]
        for name in names.all()
    }


def _metrics(runs: Sequence[Facts]) -> dict[str, _Values]:
    names = Names("metrics", runs)
    rows: dict[str, _Values] = {}
    for name in names.all():
        if is_system(name):
            continue
        spreads = [each.metrics.get(name) for each in runs]
        several = any(spread is not None and spread.count > 1 for spread in spreads)
        for which in WHICH if several else WHICH[:1]:
            shown = names.shown(name) + ("" if which == "last" else f".{which}")
            rows[shown] = [None if spread is None else spread.value(which) for spread in spreads]
    return rows


def _artifacts(runs: Sequence[Facts]) -> dict[str, _Values]:
    """The sizes; where these are equal and the contents are not, with the beginning of their digests."""
    names = Names("artifacts", runs)
    rows: dict[str, _Values] = {}
    for name in names.all():
        kept = [each.artifacts.get(name, []) for each in runs]
        sizes = [_size(files) for files in kept]
        if None not in sizes and len(set(sizes)) == 1:
            digests = [_digest([file for file, _ in files]) for files in kept]
            if len(set(digests)) > 1:
                sizes = [f"{size} ({digest})" for size, digest in zip(sizes, digests, strict=True)]
        rows[names.shown(name)] = sizes
    return rows


def _size(files: Sequence[tuple[Path, int]]) -> str | None:
    if not files:
        return None
    size = format_bytes(sum(size for _, size in files))
    return size if len(files) == 1 else f"{size} in {len(files)}"


def _digest(files: Sequence[Path]) -> str:
    digest = blake3()
    for file in files:
        try:
            digest.update_mmap(file)
        except OSError:
            return "its file is gone"
    return digest.hexdigest(length=4)


def _durations(runs: Sequence[Facts]) -> dict[str, _Values]:
    """Of the run its seconds, of each task the work of all its attempts."""
    rows: dict[str, _Values] = {
        "run": [format_seconds(each.row.seconds) if each.row.run else None for each in runs]
    }
    tasks = [{row.task: row for row in each.tasks} for each in runs]
    for task in dict.fromkeys(name for each in tasks for name in each):
        found = [each.get(task) for each in tasks]
        rows[f"task {task}"] = [
            None if row is None else format_seconds(row.seconds) if row.seconds else row.state
            for row in found
        ]
    return rows


def _code(runs: Sequence[Facts]) -> dict[str, _Values]:
    """Digests of the parts of the code that several runs have; what one pipeline alone has is no difference."""
    rows = {
        name: [None if name not in each.code else each.code[name][:8] for each in runs]
        for name in dict.fromkeys(name for each in runs for name in each.code)
    }
    return {name: values for name, values in rows.items() if sum(value is not None for value in values) > 1}
