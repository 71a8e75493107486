"""What the tasks of a run read without declaring it, as conditions of its results: variables, files and folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from hooke.base.errors import CorruptObject, MissingObject
from hooke.base.observed import (
    absolute_path,
    first_changed,
    is_secret,
    merged,
    observed_file,
    observed_variable,
)
from hooke.base.ref import MadeFrom, Manifest, Observed
from hooke.journal.events import AttemptFailed, AttemptFinished, Event, ItemsFound, MapExpanded
from hooke.pipeline.finished_results import StoredManifests
from hooke.running.reproduce.conditions import RunCondition, condition

__all__ = ["ReadInputs", "link", "link_inputs", "read_conditions", "read_inputs"]

SHOWN = 8
"""Hex digits of a digest that are shown."""


class ReadInputs(NamedTuple):
    """What the tasks of a run read. `wrote` are files of the project that they wrote, and `notes` say what is not known."""

    inputs: Manifest
    wrote: frozenset[str]
    notes: tuple[str, ...]

    @property
    def compared(self) -> Manifest:
        """The inputs but for folders in which the run itself wrote: before it, these are others than its tasks found."""
        own = {folder for name in self.wrote for folder in PurePosixPath(name).parents}
        folders = ("listing", "tree")
        return tuple(
            each for each in self.inputs if each.kind not in folders or PurePosixPath(each.name) not in own
        )


def read_inputs(events: Iterable[Event], manifests: StoredManifests) -> ReadInputs:
    """The inputs of all results of a run, also of those from the cache, without the files that the run itself wrote."""
    found: list[Manifest] = []
    made: dict[str, MadeFrom] = {}
    wrote: set[str] = set()
    for event in events:
        match event:
            case AttemptFinished() | AttemptFailed():
                found += [each.inputs for each in event.observed]
                wrote.update(name for each in event.observed for name in each.wrote)
                made |= {piece.made_from.id: piece.made_from for piece in event.made_from}
            case ItemsFound(made_from=MadeFrom() as one) | MapExpanded(made_from=MadeFrom() as one):
                made[one.id] = one
            case _:
                continue
    lost = 0
    for each in made.values():
        try:
            found.append(manifests.get(each.deep))
        except (MissingObject, CorruptObject):
            lost += 1
    every = merged(found)
    wrote.update(each.name for each in every if each.kind == "wrote")
    read = tuple(each for each in every if each.kind != "wrote" and each.name not in wrote)
    here = tuple(each for each in read if not each.unshared)
    notes = []
    if lost:
        notes.append(
            f"not compared, because the store no longer has the lists: what {lost} results were made from"
        )
    if len(here) < len(read):
        notes.append(
            f"not compared, because only workers' hosts have them: {len(read) - len(here)} files or folders"
        )
    return ReadInputs(here, frozenset(wrote), tuple(notes))


def read_conditions(
    read: ReadInputs,
    *,
    root: Path,
    moved: Callable[[Path], Path],
    environment: Mapping[str, str],
    secret: bytes | None,
) -> Iterator[RunCondition]:
    """A condition for each input. Names are relative to the project's folder `root`, and `moved` says where a file is now.

    Values of secret variables are recorded nowhere, so these are no conditions.
    """
    for each in read.compared:
        if each.kind == "variable":
            if not is_secret(each.name):
                now = observed_variable(each.name, environment.get(each.name), secret)
                yield condition("variable", each.name, _value(each), _value(now))
            continue
        name = absolute_path(each.name, root)
        here = msgspec.structs.replace(each, name=str(moved(Path(name))))
        was = _content(each)
        same = first_changed((here,), root=root, environment={}) is None
        yield condition("data", name, was, was if same else _content_now(here))


def _value(variable: Observed) -> str:
    return f"a value with digest {variable.digest[:SHOWN]}" if variable.digest else ""


def _content(observed: Observed) -> str:
    match observed.kind:
        case "absent":
            return ""
        case "listing":
            return f"a folder with the names {observed.digest[:SHOWN]}"
        case "tree":
            return f"a folder with the files {observed.digest[:SHOWN]}"
        case _:
            return observed.digest


def _content_now(changed: Observed) -> str:
    """What is there instead."""
    if not os.path.lexists(changed.name):
        return ""
    with suppress(OSError):
        match changed.kind:
            case "absent":
                return "there"
            case "file":
                return observed_file(changed.name, changed.name).digest
            case _:
                return "a folder with others"
    return "not readable"


def link_inputs(read: ReadInputs, *, root: Path, top: Path, moved: Callable[[Path], Path]) -> None:
    """Link the files that were read below `top` into the restored tree, which lacks those that git ignores. Raises OSError.

    A link leads to the project's own file, so none is made where a task may write: in place of a folder, or of a file that the run wrote.
    """
    wrote = {absolute_path(name, root) for name in read.wrote}
    for each in read.inputs:
        place = Path(absolute_path(each.name, root))
        if each.kind not in ("file", "listing", "tree") or not place.is_relative_to(top):
            continue
        if each.kind == "file":
            link(place, moved(place))
        elif place.is_dir():
            moved(place).mkdir(parents=True, exist_ok=True)
            for entry in os.scandir(place):
                if entry.name in each.own or entry.name.startswith(".") or entry.path in wrote:
                    continue
                if entry.is_dir():  # its name is what the listing has
                    moved(Path(entry.path)).mkdir(exist_ok=True)
                else:
                    link(Path(entry.path), moved(Path(entry.path)))


def link(file: Path, place: Path) -> None:
    """Have a file at another place as well, unless something is there. Raises OSError."""
    if file.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
