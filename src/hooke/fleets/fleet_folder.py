"""The fleets of a project: their settings, ledgers and providers, and a controller for as long as somebody waits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from inspect import isfunction
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.errors import ConfigError, HookeError, UsageError
from hooke.base.files import FileLock, write_atomic, writing
from hooke.base.formats import format_seconds
from hooke.base.plugins import Plugins
from hooke.base.units import parse_seconds
from hooke.fleets.controller import Caps
from hooke.fleets.keeper import FleetKeeper, Ledger
from hooke.journal.fleet_events import (
    FleetWanted,
    LaunchAnswered,
    LaunchFailed,
    LaunchIntended,
    LedgerRecord,
    MachineGone,
    MachineReleased,
    MachineRetired,
)
from hooke.project.folder import Project
from hooke.project.loading import choose, load_file
from hooke.project.settings import FleetSettings
from hooke.providers.provider import Impossible, Provider

__all__ = ["PROVIDERS", "FleetFolder", "find_fleet", "fleets_of", "line_of", "settle"]

PROVIDERS = Plugins(
    "hooke.providers",
    {
        "dask": "hooke.providers.dask_cluster:DaskCluster",
        "processes": "hooke.providers.processes:Processes",
    },
    {"dask": "dask"},
)

KEPT = "fleet.json"
"""The settings that the fleet's machines were started with: what was started is ended also when hooke.toml forgot it."""


_ELSE = "; what else [fleets.NAME] may have: " + ", ".join(
    each for each in FleetSettings.__struct_fields__ if each != "options"
)
_MENDS = {
    "dask": f'cluster = "clusters.py:ours", a function that returns a cluster of Dask\'s{_ELSE}',
    "processes": f'command = ["python", "worker.py"]{_ELSE}',
}


class FleetFolder:
    """One fleet, by name: `.hooke/fleets/NAME`."""

    def __init__(self, project: Project, name: str, settings: FleetSettings) -> None:
        self.name = name
        self.settings = settings
        self.path = project.data / "fleets" / name
        self._project = project

    @property
    def caps(self) -> Caps:
        """What is never gone over."""
        return Caps(
            workers=self.settings.machines,
            usd_per_hour=self.settings.max_usd_per_hour or math.inf,
            lifetime_s=parse_seconds(self.settings.lifetime) if self.settings.lifetime else math.inf,
        )

    def provider(self) -> Provider:
        """Who rents its machines out. Raises ConfigError where the settings do not fit."""
        made = PROVIDERS.load(self.settings.provider)
        try:
            provider: Provider = made(
                str(self.path),
                logs=self.path / "logs",
                usd_per_hour=self.settings.usd_per_hour,
                **self._options(),
            )
        except UsageError as error:
            raise ConfigError(f"[fleets.{self.name}]: {error.what}", fix=error.fix) from error
        except TypeError as error:
            raise ConfigError(
                f"[fleets.{self.name}] does not say what the provider {self.settings.provider!r} needs",
                why=str(error).partition(") ")[2] or str(error),
                fix=_MENDS.get(self.settings.provider, ""),
            ) from error
        return provider

    def _options(self) -> dict[str, Any]:
        """What else the provider takes; a function that gives its cluster is named by file and name."""
        options = dict(self.settings.options)
        if self.settings.provider == "dask" and isinstance(text := options.get("cluster"), str):
            options["cluster"] = _cluster(str(self._project.root / text))
        return options

    @contextmanager
    def kept(self, tell: Callable[[LedgerRecord], None] = lambda _: None) -> Iterator[FleetKeeper]:
        """A controller of it, the only one. Raises UsageError where another process has one, ConfigError, JournalError."""
        provider, clock = self.provider(), SystemClock()
        self._project.create()
        with writing("the fleet's folder", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "controller.lock")
        if not lock.try_acquire():
            raise UsageError(
                f"another hooke fleet command keeps the fleet {self.name}",
                fix="wait for it, or end it (Ctrl-C in its terminal): the machines stay",
                next=f"hooke fleet why {self.name}",
            )
        try:
            with Ledger.open(self.path) as ledger:
                self._keep_settings()
                yield FleetKeeper(self.name, provider, ledger, caps=self.caps, clock=clock, tell=tell)
        finally:
            lock.release()

    def _keep_settings(self) -> None:
        file, facts = self.path / KEPT, msgspec.json.encode(self.settings)
        if not file.is_file() or file.read_bytes() != facts:
            with writing("the fleet's settings", file):
                write_atomic(file, facts)


@cache
def _cluster(text: str) -> Any:
    """What the function of `file.py:name` returns; a process asks for it once. Raises UsageError."""
    module, path, name = load_file(text, "function")
    found = {
        key: each
        for key, each in vars(module).items()
        if isfunction(each) and each.__module__ == module.__name__
    }
    fix = "write a function into it that returns a cluster of Dask's"
    made = choose(path, name, found, what="function", fix=fix)
    try:
        return made()
    except Exception as error:
        raise UsageError(f"{text} gave no cluster: {type(error).__name__}: {error}") from error


def fleets_of(project: Project) -> list[FleetFolder]:
    """All of hooke.toml, and those that it has forgotten and that may have machines."""
    found = {name: FleetFolder(project, name, each) for name, each in project.settings.fleets.items()}
    for file in sorted((project.data / "fleets").glob(f"*/{KEPT}")):
        name = file.parent.name
        if name not in found:
            found[name] = FleetFolder(project, name, _read(file))
    return list(found.values())


def find_fleet(project: Project, name: str) -> FleetFolder:
    """The fleet of that name; without one, the only one. Raises UsageError."""
    found = {fleet.name: fleet for fleet in fleets_of(project)}
    if not found:
        raise UsageError(
            "this project has no fleet",
            where=str(project.root),
            fix='write one into hooke.toml: [fleets.NAME] provider = "processes", command = ["python", "worker.py"]',
        )
    if name in found:
        return found[name]
    if not name and len(found) == 1:
        return next(iter(found.values()))
    near = get_close_matches(name, found, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    what = f"no fleet is called {name!r}" if name else f"there are {len(found)} fleets"
    raise UsageError(what, fix=f"{meant}name one of: {', '.join(found)}")


def settle(keeper: FleetKeeper, *, patience_s: float, logs: Path) -> None:
    """Turn until all is as it is wanted. Raises HookeError where it is not within `patience_s`; it can be gone on with."""
    deadline = time.monotonic() + patience_s
    pause = keeper.turn()
    while not keeper.fleet.settled:
        if isinstance(keeper.refused, Impossible):
            raise HookeError(
                f"the fleet {keeper.fleet.name} gets no machine",
                why=keeper.refused.what,
                fix=f"correct [fleets.{keeper.fleet.name}] in hooke.toml, then ask again",
            ) from keeper.refused
        if time.monotonic() > deadline:
            of_use = sum(1 for member in keeper.fleet.members.values() if member.of_use)
            rest = len(keeper.fleet.members) - of_use
            raise HookeError(
                f"after {format_seconds(patience_s)} the fleet {keeper.fleet.name} has {of_use} of {keeper.fleet.aim} machines"
                + (f", and {rest} that are to end" if rest else ""),
                where=f"what they printed: {logs}" if logs.is_dir() else "",
                why=keeper.trouble or (keeper.refused.what if keeper.refused is not None else ""),
                next=f"hooke fleet why {keeper.fleet.name}",
            )
        time.sleep(max(pause, 0.02))
        pause = keeper.turn()


def line_of(record: LedgerRecord) -> str:
    """A record of the ledger in plain words."""
    match record:
        case FleetWanted():
            return f"{record.after} wanted, {record.before} before, by {record.by}"
        case LaunchIntended():
            return f"asking for {record.token}: {record.reason}"
        case LaunchAnswered():
            return f"{record.machine} was found" if record.found else f"{record.machine} starts"
        case LaunchFailed():
            return f"no machine for {record.token} ({record.kind}): {record.why}"
        case MachineRetired():
            return f"{record.machine} is to finish: {record.reason}"
        case MachineReleased():
            return f"{record.machine} is ended: {record.reason}"
        case MachineGone():
            return f"{record.machine} is gone: {record.how}"


def _read(file: Path) -> FleetSettings:
    try:
        facts: dict[str, Any] = msgspec.json.decode(file.read_bytes())
        return FleetSettings(**facts)
    except (msgspec.DecodeError, TypeError) as error:
        raise HookeError(
            f"what is known of the fleet {file.parent.name} is damaged",
            where=str(file),
            why=str(error),
            fix=f"write [fleets.{file.parent.name}] into hooke.toml as it was; its ledger lies beside the file",
        ) from error
