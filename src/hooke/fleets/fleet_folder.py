"""The fleets of a project: their settings, ledgers and providers, and a controller while a command runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache, cached_property
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hooke.base.clock import SystemClock
from hooke.base.distributions import Plugins
from hooke.base.errors import ConfigError, HookeError, UsageError
from hooke.base.files import FileLock, write_atomic, writing
from hooke.base.formats import did_you_mean, format_seconds
from hooke.base.units import parse_seconds
from hooke.fleets.cluster_keeper import KEEPER_NOTE, ClusterKeeper
from hooke.fleets.renting import RentOptions, user_data_of
from hooke.journal import fleet_events
from hooke.machines.controller import Caps, MachinePhase
from hooke.machines.keeper import FleetKeeper, Ledger, records_of
from hooke.machines.provider import Impossible, Provider
from hooke.project.folder import Project
from hooke.project.pipeline_file import choose, load_file
from hooke.project.settings import FleetSettings

if TYPE_CHECKING:
    from hooke.project.price_lists import MachinePrice

__all__ = [
    "KEEPER_LOCK",
    "PROVIDERS",
    "FleetFolder",
    "close_provider",
    "find_fleet",
    "fleets_of",
    "line_of",
    "settle",
]

PROVIDERS = Plugins(
    "hooke.providers",
    {
        "dask": "hooke.providers.dask_cluster:DaskCluster",
        "kubernetes": "hooke.providers.kubernetes_pods:KubernetesPods",
        "lambda": "hooke.providers.lambda_cloud:LambdaCloud",
        "processes": "hooke.providers.processes:Processes",
    },
    {"dask": "dask"},
)

KEEPER_LOCK = "controller.lock"
"""What the process that keeps a fleet has locked, in the fleet's folder."""
HEAD = "up"
"""Exists while a `hooke fleet up` runs."""

KEPT = "fleet.json"
"""The settings of the fleet's machines, with which they can be ended even when hooke.toml no longer has the fleet."""


_ELSE = "; other keys of [fleets.NAME]: " + ", ".join(
    each for each in FleetSettings.__struct_fields__ if each != "options"
)
_FIXES = {
    "dask": f'cluster = "clusters.py:ours", a function that returns a Dask cluster{_ELSE}',
    "kubernetes": f'image = "REGISTRY/NAME:TAG", command = ["dask", "worker", "tls://HOST:PORT"]{_ELSE}',
    "lambda": f'instance = "gpu_1x_a10", ssh_key = "NAME", join = "HOST:8788"{_ELSE}',
    "processes": f'command = ["python", "worker.py"]{_ELSE}',
}
RENTED = {"lambda"}
"""Providers of machines that join by certificate; their options are those of `RentOptions`, too."""


class FleetFolder:
    """One fleet, by name: `.hooke/fleets/NAME`."""

    def __init__(self, project: Project, name: str, settings: FleetSettings) -> None:
        self.name = name
        self.settings = settings
        self.path = project.data / "fleets" / name
        self._project = project

    @property
    def caps(self) -> Caps:
        """The limits of the fleet."""
        return Caps(
            workers=self.settings.machines,
            usd_per_hour=self.settings.max_usd_per_hour or math.inf,
            lifetime_s=parse_seconds(self.settings.lifetime) if self.settings.lifetime else math.inf,
        )

    @cached_property
    def price(self) -> MachinePrice:
        """What one machine costs. Raises ConfigError where the list that `price` names has none for it."""
        from hooke.project.price_lists import machine_price  # NumPy, by way of the laws

        return machine_price(self.settings, where=f"[fleets.{self.name}]")

    @property
    def usd_per_hour(self) -> float:
        """The price of one machine; 0 where there is none. Raises ConfigError as `price` does."""
        return self.price.usd_per_hour

    def provider(self) -> Provider:
        """The provider of its machines. Raises ConfigError where the settings do not fit."""
        made = PROVIDERS.load(self.settings.provider)
        try:
            provider: Provider = made(
                str(self.path),
                logs=self.path / "logs",
                usd_per_hour=self.usd_per_hour,
                **self._options(),
            )
        except UsageError as error:
            raise ConfigError(
                f"[fleets.{self.name}]: {error.what}", where=error.where, why=error.why, fix=error.fix
            ) from error
        except TypeError as error:
            raise ConfigError(
                f"[fleets.{self.name}] lacks settings of the provider {self.settings.provider!r}",
                why=str(error).partition(") ")[2] or str(error),
                fix=_FIXES.get(self.settings.provider, ""),
            ) from error
        return provider

    def _options(self) -> dict[str, Any]:
        """The provider's own options; `cluster` names a function by file and name, which is called."""
        options = dict(self.settings.options)
        if self.is_rented:
            rent, options = RentOptions.split(options)
            options["user_data"] = user_data_of(self._project, self.name, rent)
        if self.settings.provider == "dask" and isinstance(text := options.get("cluster"), str):
            options["cluster"] = _cluster(str(self._project.root / text))
        return options

    @property
    def is_rented(self) -> bool:
        """Whether `hooke fleet up` rents its machines."""
        return self.settings.provider in RENTED

    @property
    def rent(self) -> RentOptions:
        """The options of a rented fleet. Raises UsageError where its machines are not rented."""
        if not self.is_rented:
            raise UsageError(
                f"the machines of the fleet {self.name} are not rented: its provider is {self.settings.provider!r}",
                fix=f"hooke fleet scale {self.name} N; or provider = {' or '.join(map(repr, sorted(RENTED)))} in hooke.toml",
            )
        return RentOptions.split(self.settings.options)[0]

    @property
    def detached(self) -> bool:
        """Whether its keeper is in the cluster, or may be."""
        return (self.path / KEEPER_NOTE).is_file()

    def is_kept(self) -> bool:
        """Whether a keeper in the cluster lives. Raises HookeError."""
        if not self.detached:
            return False
        with closing(self.cluster_keeper()) as keeper:
            return keeper.lives()

    def cluster_keeper(self) -> ClusterKeeper:
        """Its keeper in the cluster, whether or not it is there. Raises UsageError where the fleet is not on Kubernetes."""
        return ClusterKeeper(self.name, self.path, self.settings)

    def records(self) -> list[fleet_events.LedgerRecord]:
        """The fleet's ledger, which is in the cluster while its keeper is there. Raises JournalError, HookeError."""
        if not self.detached:
            return records_of(self.path)
        with closing(self.cluster_keeper()) as keeper:
            return keeper.records() or records_of(self.path)  # a keeper that was refused has none

    @contextmanager
    def locked(self) -> Iterator[Ledger]:
        """The fleet's ledger here, for one process at a time. Raises UsageError where another process has it, JournalError."""
        self._project.create()
        with writing("the fleet's folder", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / KEEPER_LOCK)
        if not lock.try_acquire():
            raise UsageError(
                f"another hooke fleet command is running for the fleet {self.name}",
                fix="wait for it, or end it (Ctrl-C in its terminal); the machines stay",
                next=f"hooke fleet why {self.name}",
            )
        try:
            with Ledger.open(self.path) as ledger:
                self._keep_settings()
                yield ledger
        finally:
            lock.release()

    @contextmanager
    def kept(
        self, tell: Callable[[fleet_events.LedgerRecord], None] = lambda _: None
    ) -> Iterator[FleetKeeper]:
        """The fleet's only controller; a keeper in the cluster ends. Raises UsageError where another process has one, ConfigError, JournalError."""
        provider = self.provider()
        try:
            with self.locked() as ledger:
                if self.detached:
                    with closing(self.cluster_keeper()) as keeper:
                        keeper.take_back(ledger, records_of(self.path))
                yield FleetKeeper(self.name, provider, ledger, caps=self.caps, clock=SystemClock(), tell=tell)
        finally:
            close_provider(provider)

    @contextmanager
    def handed_over(self, machines: int) -> Iterator[tuple[ClusterKeeper, Provider]]:
        """Have a keeper in the cluster keep the fleet at that size; it, and the provider to look with. Raises as `kept`."""
        provider = self.provider()
        try:
            with self.locked(), closing(self.cluster_keeper()) as keeper:
                manifest = keeper.manifest(machines, self.caps, self.usd_per_hour)
                keeper.hand_over(manifest, records_of(self.path))
                yield keeper, provider
        finally:
            close_provider(provider)

    @property
    def stop_file(self) -> Path:
        """Its existence asks a `hooke fleet up` of this fleet to end all machines."""
        return self.path / "stop"

    @property
    def up_was_killed(self) -> bool:
        """Whether the `hooke fleet up` that rented its machines was killed, so that nobody ends them any more."""
        return (self.path / HEAD).exists() and not FileLock(self.path / KEEPER_LOCK).taken()

    @property
    def kept_by(self) -> str:
        """What keeps its size now: a keeper in `the cluster`, a `hooke fleet up`, or another `hooke fleet`; empty if nothing does."""
        if self.detached:
            return "the cluster"
        if not FileLock(self.path / KEEPER_LOCK).taken():
            return ""
        return "hooke fleet up" if (self.path / HEAD).exists() else "hooke fleet"

    def ask_to_stop(self, patience_s: float) -> None:
        """Have a `hooke fleet up` of this fleet end, where one is running, and wait for it. Raises UsageError where it has not ended by then."""
        if not (self.path / HEAD).exists() or self.up_was_killed:
            return
        lock = FileLock(self.path / KEEPER_LOCK)
        self.stop_file.touch()
        deadline = time.monotonic() + patience_s
        while lock.taken():
            if time.monotonic() > deadline:
                raise UsageError(
                    f"hooke fleet up of the fleet {self.name} has not ended yet", fix="wait longer: --wait"
                )
            time.sleep(0.1)

    def mark_up(self) -> None:
        """Note that a `hooke fleet up` keeps this fleet: `ask_to_stop` ends it, and where it is killed `reap` ends the machines."""
        self.stop_file.unlink(missing_ok=True)
        (self.path / HEAD).touch()

    def clear_up(self) -> None:
        """Note that it has ended its machines, or that another command has them now."""
        for file in (self.path / HEAD, self.stop_file):
            file.unlink(missing_ok=True)

    def _keep_settings(self) -> None:
        file, facts = self.path / KEPT, msgspec.json.encode(self.settings)
        if not file.is_file() or file.read_bytes() != facts:
            with writing("the fleet's settings", file):
                write_atomic(file, facts)


def close_provider(provider: Provider) -> None:
    """Close its connections, where it has any; the machines stay."""
    close = getattr(provider, "close", None)
    if close is not None:
        close()


@cache
def _cluster(text: str) -> Any:
    """The cluster from the function `file.py:name`, called once in a process. Raises UsageError."""
    module, path, name = load_file(text, "function")
    found = {
        key: each
        for key, each in vars(module).items()
        if isfunction(each) and each.__module__ == module.__name__
    }
    fix = "add a function to the file that returns a Dask cluster"
    made = choose(path, name, found, what="function", fix=fix)
    try:
        return made()
    except Exception as error:
        raise UsageError(f"{text} returned no cluster: {type(error).__name__}: {error}") from error


def fleets_of(project: Project) -> list[FleetFolder]:
    """All fleets of hooke.toml, and former ones that may still have machines."""
    found = {name: FleetFolder(project, name, each) for name, each in project.settings.fleets.items()}
    for file in sorted((project.data / "fleets").glob(f"*/{KEPT}")):
        name = file.parent.name
        if name not in found:
            found[name] = FleetFolder(project, name, _read(file))
    return list(found.values())


def find_fleet(project: Project, name: str) -> FleetFolder:
    """The fleet of that name; without a name, the only one. Raises UsageError."""
    found = {fleet.name: fleet for fleet in fleets_of(project)}
    if not found:
        raise UsageError(
            "this project has no fleet",
            where=str(project.root),
            fix='add one to hooke.toml: [fleets.NAME] provider = "processes", command = ["python", "worker.py"]',
        )
    if name in found:
        return found[name]
    if not name and len(found) == 1:
        return next(iter(found.values()))
    what = f"there is no fleet {name!r}" if name else f"there are {len(found)} fleets"
    raise UsageError(what, fix=f"{did_you_mean(name, found)}name one of: {', '.join(found)}")


def settle(
    keeper: FleetKeeper, *, patience_s: float, logs: Path, check: Callable[[], object] = lambda: None
) -> None:
    """Turn until the fleet has the wanted size. Raises HookeError where it has not after `patience_s`; the request stays in force.

    Raises it at once where the machine is impossible, or the account lacks a right. `check` is called in each turn; what it raises goes on.
    """
    deadline = time.monotonic() + patience_s
    pause = keeper.turn()
    while not keeper.fleet.settled:
        check()
        if keeper.fleet.wanted and isinstance(keeper.refused, Impossible):
            raise HookeError(
                f"the fleet {keeper.fleet.name} cannot get a machine",
                why=keeper.refused.what,
                fix=f"correct [fleets.{keeper.fleet.name}] in hooke.toml, then run the command again",
            ) from keeper.refused
        if keeper.denied is not None:
            raise HookeError(
                f"the fleet {keeper.fleet.name} lacks a right",
                why=keeper.denied.what,
                fix=keeper.denied.fix or "correct the account or its key, then run the command again",
                next=f"hooke fleet why {keeper.fleet.name}",
            ) from keeper.denied
        if time.monotonic() > deadline:
            of_use = sum(1 for member in keeper.fleet.members.values() if member.of_use)
            rest = len(keeper.fleet.members) - of_use
            raise HookeError(
                f"after {format_seconds(patience_s)} the fleet {keeper.fleet.name} has {of_use} of {keeper.fleet.aim} machines"
                + (f", and {rest} that have yet to end" if rest else ""),
                where=f"their output: {logs}" if logs.is_dir() else "",
                why=keeper.trouble or (keeper.refused.what if keeper.refused is not None else _waits(keeper)),
                next=f"hooke fleet why {keeper.fleet.name}",
            )
        time.sleep(max(pause, 0.02))
        pause = keeper.turn()


def _waits(keeper: FleetKeeper) -> str:
    """What the first machine that is not ready waits for, as far as its provider knows."""
    starting = (
        member.seen for member in keeper.fleet.members.values() if member.phase is MachinePhase.STARTING
    )
    return next((seen.why for seen in starting if seen is not None and seen.why), "")


def line_of(record: fleet_events.LedgerRecord) -> str:
    """A record of the ledger as a line for users."""
    match record:
        case fleet_events.FleetWanted():
            return f"{record.after} wanted, {record.before} before, by {record.by}"
        case fleet_events.LaunchIntended():
            return f"asking for {record.token}: {record.reason}"
        case fleet_events.LaunchAnswered():
            return f"{record.machine} was found" if record.found else f"{record.machine} starts"
        case fleet_events.LaunchFailed():
            return f"no machine for {record.token} ({record.kind}): {record.why}"
        case fleet_events.MachineRetired():
            return f"{record.machine} is to finish: {record.reason}"
        case fleet_events.MachineReleased():
            return f"{record.machine} is ended: {record.reason}"
        case fleet_events.MachineGone():
            return f"{record.machine} is gone: {record.how}"
        case fleet_events.ProviderFailed():
            return f"the provider failed, and is asked again: {record.why}"
        case fleet_events.ProviderAnswered():
            return f"the provider lists its machines again, after {format_seconds(record.after_s)}"


def _read(file: Path) -> FleetSettings:
    try:
        facts: dict[str, Any] = msgspec.json.decode(file.read_bytes())
        return FleetSettings(**facts)
    except (msgspec.DecodeError, TypeError) as error:
        raise HookeError(
            f"the saved settings of the fleet {file.parent.name} are damaged",
            where=str(file),
            why=str(error),
            fix=f"restore [fleets.{file.parent.name}] in hooke.toml; its ledger is beside the file",
        ) from error
