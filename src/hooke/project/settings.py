"""`hooke.toml` as one tree of dataclasses, read once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hooke.base.errors import ConfigError, UsageError
from hooke.base.units import parse_bytes, parse_seconds
from hooke.certificates.keys import Keys

__all__ = [
    "FILE",
    "PROGRESS",
    "FleetSettings",
    "JournalSettings",
    "PlaceSettings",
    "PlanSettings",
    "RunSettings",
    "ServiceSettings",
    "Settings",
    "ShowSettings",
    "StoreSettings",
    "TrackingSettings",
    "read_settings",
    "refuse_unknown",
]

FILE = "hooke.toml"
_FLEET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TLS = ("tls_ca", "tls_cert", "tls_key")
DURABLE = ("group", "each", "none")
PROGRESS = ("auto", "table", "lines", "none")
"""What `progress` may be; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """`[store]`: where results lie."""

    url: str = ""
    """A folder, or a URL that fsspec knows (`s3://bucket/prefix`). Empty: `.hooke/store` of the project."""
    secret_file: str = ""
    """A file whose bytes sign what goes into a shared store; required where `url` is not a folder."""
    max_bytes: int | None = None
    """What `hooke cache gc` brings the store down to when it is given no size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """`[journal]`: how events reach the disk."""

    durable: str = "group"
    """`group`: synced every second (process death loses nothing); `each`: every event, for power loss; `none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowSettings:
    """`[show]`: what is shown of a run while it goes on."""

    progress: str = "auto"
    """`auto`, `table`, `lines` or `none`, as in `run`. The environment variable HOOKE_PROGRESS goes before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """`[run]`: what holds for every run."""

    seed: int = 0
    """Part of every key, and so of what each task's random numbers follow from. The environment variable HOOKE_SEED goes before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSettings:
    """`[places.NAME]`: a place by name."""

    engine: str = "local"
    workers: int | Sequence[int] | None = None
    """A number, or `[1, 8]`: as many as the work is worth, between these."""
    usd_per_hour: float = 0.0
    """What one worker costs; budgets are reckoned with it."""
    max_usd_per_hour: float = 0.0
    """What all of them together may cost; 0 is no limit."""
    address: str = ""
    """Of what is there already: `tls://HOST:PORT`, or `tcp://` on this machine; of Ray `ray://HOST:PORT`, `HOST:PORT` or `auto`."""
    tls_ca: str = ""
    """Files in PEM for `tls://`, below the project's folder: the certificate of the fleet's authority,"""
    tls_cert: str = ""
    """one that it signed for the driver,"""
    tls_key: str = ""
    """and the key of that. Without them Dask's own configuration says what they are."""
    fleet: str = ""
    """A fleet whose keys this machine has (`hooke fleet ca`, `hooke fleet join`), in place of those three."""
    insecure: bool = False
    """Whether code may go to another machine unencrypted, for all on the way to read and to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """`[fleets.NAME]`: machines that are kept by `hooke fleet`."""

    provider: str = "processes"
    machines: int = 8
    """Never more."""
    usd_per_hour: float = 0.0
    """What one costs."""
    max_usd_per_hour: float = 0.0
    """What all may cost together; 0 is no limit."""
    lifetime: str = ""
    """`"8h"`: an older one is retired, and replaced where it is still wanted. Empty is no limit."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the provider takes, as `command = ["python", "worker.py"]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """`[services.NAME]`: a service, by the name of its class."""

    given: Mapping[str, Any] = field(default_factory=dict)
    """`[services.NAME.with]`: what its `setup` takes, as `model = "flights@champion"`. `--with` goes before it."""
    body_memory: int | None = None
    """Bytes of all bodies that one replica takes in at once (`"512MiB"`). None: an eighth of the memory that it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """`[plan]`: where a pipeline could run, for `plan`."""

    catalog: tuple[str, ...] | None = None
    """Price lists: names of shipped ones, or CSV files below the project's folder. None: all that are shipped."""
    speed: Mapping[str, Any] = field(default_factory=dict)
    """`"lambda:gpu_1x_a10" = "1.3-1.5"`: how many times as fast as the machine that was measured."""
    startup: Mapping[str, Any] = field(default_factory=dict)
    """`digitalocean = "1m-2m"`: time from asking for an instance until it works, of a list or of one type in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSettings:
    """`[tracking]`: what is recorded of runs beside what they log, and which trackers it is shipped to."""

    sinks: tuple[str, ...] | None = None
    """Names of sinks. None: `mlflow` where it is installed."""
    experiment: str = ""
    """What trackers file runs under. Empty: the name of the pipeline, or of the script."""
    system_metrics_s: float = 10.0
    """Seconds between samples of the machine's use; 0 takes none."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`[tracking.mlflow]` with `uri`, `[tracking.comet]` with `archives`, `workspace` and `online`, or another sink's: what it is made with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of `hooke.toml`. What it does not say has the default given here."""

    store: StoreSettings = field(default_factory=StoreSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    show: ShowSettings = field(default_factory=ShowSettings)
    run: RunSettings = field(default_factory=RunSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    places: Mapping[str, PlaceSettings] = field(default_factory=dict)
    services: Mapping[str, ServiceSettings] = field(default_factory=dict)
    fleets: Mapping[str, FleetSettings] = field(default_factory=dict)


def read_settings(folder: Path) -> Settings:
    """The settings of the project in `folder`; the defaults where it has no file. Raises ConfigError naming the key."""
    path = folder / FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML", why=str(error)) from error
    refuse_unknown(path, "", table, [f.name for f in fields(Settings)])
    places = _table(path, "places", table.get("places", {}))
    services = _table(path, "services", table.get("services", {}))
    fleets = _table(path, "fleets", table.get("fleets", {}))
    return Settings(
        store=_store(path, table.get("store", {})),
        journal=_journal(path, table.get("journal", {})),
        show=_show(path, table.get("show", {})),
        run=_run(path, table.get("run", {})),
        plan=_plan(path, table.get("plan", {})),
        tracking=_tracking(path, table.get("tracking", {})),
        places={name: _place(path, f"places.{name}", values) for name, values in places.items()},
        services={name: _service(path, f"services.{name}", values) for name, values in services.items()},
        fleets={name: _fleet(path, f"fleets.{name}", values) for name, values in fleets.items()},
    )


def _journal(path: Path, values: Any) -> JournalSettings:
    made: JournalSettings = _section(path, "journal", values, JournalSettings)
    if made.durable not in DURABLE:
        raise ConfigError(f"{path}: journal.durable = {made.durable!r}", fix=f"valid: {', '.join(DURABLE)}")
    return made


def _show(path: Path, values: Any) -> ShowSettings:
    made: ShowSettings = _section(path, "show", values, ShowSettings)
    if made.progress not in PROGRESS:
        raise ConfigError(f"{path}: show.progress = {made.progress!r}", fix=f"valid: {', '.join(PROGRESS)}")
    return made


def _run(path: Path, values: Any) -> RunSettings:
    made: RunSettings = _section(path, "run", values, RunSettings)
    return made


def _plan(path: Path, values: Any) -> PlanSettings:
    table = _table(path, "plan", values)
    refuse_unknown(path, "plan.", table, [f.name for f in fields(PlanSettings)])
    catalog = table.get("catalog")
    names = [catalog] if isinstance(catalog, str) else catalog
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"{path}: plan.catalog = {catalog!r}", fix='write catalog = ["lambda", "ours.csv"]')
    return PlanSettings(
        catalog=None if names is None else tuple(_list_file(path, name) for name in names),
        speed=_table(path, "plan.speed", table.get("speed", {})),
        startup=_table(path, "plan.startup", table.get("startup", {})),
    )


def _tracking(path: Path, values: Any) -> TrackingSettings:
    table = dict(_table(path, "tracking", values))
    options = {name: table.pop(name) for name, value in list(table.items()) if isinstance(value, Mapping)}
    valid = [f.name for f in fields(TrackingSettings) if f.name != "options"]
    refuse_unknown(path, "tracking.", table, valid)
    sinks, every = table.get("sinks"), table.get("system_metrics_s", 0)
    if sinks is not None and not (isinstance(sinks, list) and all(isinstance(name, str) for name in sinks)):
        raise ConfigError(
            f"{path}: tracking.sinks = {sinks!r}", fix='write sinks = ["mlflow"], or [] for none'
        )
    if isinstance(every, bool) or not isinstance(every, int | float) or every < 0:
        raise ConfigError(f"{path}: tracking.system_metrics_s = {every!r}", fix="give seconds, 0 for never")
    if not isinstance(table.get("experiment", ""), str):
        raise ConfigError(f"{path}: tracking.experiment = {table['experiment']!r} must be text")
    if sinks is not None:
        table["sinks"] = tuple(sinks)
    return TrackingSettings(**table, options=options)


def _list_file(path: Path, name: str) -> str:
    return str(path.parent / name) if name.endswith(".csv") else name


def _place(path: Path, name: str, values: Any) -> PlaceSettings:
    table = dict(_table(path, name, values))
    refuse_unknown(path, f"{name}.", table, [f.name for f in fields(PlaceSettings)])
    made = PlaceSettings(**table)
    for key in ("engine", "address", "fleet", *_TLS):
        _check_type(path, f"{name}.{key}", getattr(made, key), "str")
    _check_type(path, f"{name}.insecure", made.insecure, "bool")
    files: dict[str, Any] = {key: str(path.parent / getattr(made, key)) for key in _TLS if getattr(made, key)}
    if files and len(files) < len(_TLS):
        raise ConfigError(f"{path}: {name} has {', '.join(files)} only", fix=f"give all of {', '.join(_TLS)}")
    if made.fleet:
        files = _keys_of(path, name, made.fleet, files)
    made = replace(made, **files)
    if made.workers is not None and not _is_range(made.workers):
        raise ConfigError(
            f"{path}: {name}.workers = {made.workers!r}", fix="give a number from 1, or two: [1, 8]"
        )
    _check_usd(path, name, made)
    return made


def _keys_of(path: Path, name: str, fleet: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if given:
        raise ConfigError(
            f"{path}: {name} has fleet = {fleet!r} and {', '.join(given)}", fix="give one of both"
        )
    try:
        keys = Keys.of(path.parent / ".hooke", fleet)
    except UsageError as error:
        raise ConfigError(f"{path}: {name}.fleet: {error.what}", fix=error.fix) from error
    return dict(zip(_TLS, map(str, (keys.ca, keys.machine, keys.machine)), strict=True))


def _check_usd(path: Path, name: str, made: PlaceSettings | FleetSettings) -> None:
    for key in ("usd_per_hour", "max_usd_per_hour"):
        usd = getattr(made, key)
        if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < float("inf"):
            raise ConfigError(f"{path}: {name}.{key} = {usd!r}", fix="give US dollars, such as 1.29")


def _fleet(path: Path, name: str, values: Any) -> FleetSettings:
    table = dict(_table(path, name, values))
    own = {f.name for f in fields(FleetSettings)} - {"options"}
    if not _FLEET_NAME.fullmatch(name.removeprefix("fleets.")):
        raise ConfigError(
            f"{path}: [{name}] is no name of a fleet",
            fix="letters, digits, - and _: its folder is called so",
        )
    options = {key: table.pop(key) for key in list(table) if key not in own}
    for key in options:  # a provider's own, unless it is nearly one of ours
        if near := get_close_matches(key, own, n=1, cutoff=0.75):
            raise ConfigError(f"{path}: unknown key {name}.{key}", fix=f"did you mean {name}.{near[0]}?")
    made = FleetSettings(**table, options=options)
    for key in ("provider", "lifetime"):
        _check_type(path, f"{name}.{key}", getattr(made, key), "str")
    if type(made.machines) is not int or made.machines < 1:
        raise ConfigError(f"{path}: {name}.machines = {made.machines!r}", fix="give a number from 1")
    try:
        parse_seconds(made.lifetime or 0)
    except UsageError as error:
        raise ConfigError(f"{path}: {name}.lifetime: {error.what}", fix=error.fix) from error
    _check_usd(path, name, made)
    return made


def _is_range(workers: Any) -> bool:
    ends = workers if isinstance(workers, list) else [workers, workers]
    return len(ends) == 2 and all(type(end) is int for end in ends) and 0 <= ends[0] <= ends[1] >= 1


def _service(path: Path, name: str, values: Any) -> ServiceSettings:
    table = _table(path, name, values)
    refuse_unknown(path, f"{name}.", table, ["with", "body_memory"])
    given = _table(path, f"{name}.with", table.get("with", {}))
    return ServiceSettings(
        given=given, body_memory=_bytes(path, f"{name}.body_memory", table.get("body_memory"))
    )


def _store(path: Path, values: Any) -> StoreSettings:
    table = dict(_table(path, "store", values))
    table["max_bytes"] = _bytes(path, "store.max_bytes", table.get("max_bytes"))
    return _section(path, "store", table, StoreSettings)


def _bytes(path: Path, name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        return parse_bytes(value)
    except UsageError as error:
        raise ConfigError(f"{path}: {name}: {error.what}", fix=error.fix) from error


def _section(path: Path, name: str, values: Any, kind: type[Any]) -> Any:
    table = _table(path, name, values)
    refuse_unknown(path, f"{name}.", table, [f.name for f in fields(kind)])
    made = kind(**table)
    for each in fields(kind):
        _check_type(path, f"{name}.{each.name}", getattr(made, each.name), str(each.type))
    return made


def _check_type(path: Path, name: str, value: Any, declared: str) -> None:
    if declared == "bool":
        valid, kind = bool, "true or false"
    else:
        valid, kind = (str, "text") if declared == "str" else (int | None, "a whole number")
    if not isinstance(value, valid) or isinstance(value, bool) != (declared == "bool"):
        raise ConfigError(f"{path}: {name} = {value!r} must be {kind}")


def _table(path: Path, name: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: [{name}] must be a table", fix=f"write [{name}] on a line of its own")
    return values


def refuse_unknown(path: Path, prefix: str, table: Mapping[str, Any], valid: list[str]) -> None:
    """Raise ConfigError for a key of the table that is not valid, with the nearest that is. `prefix` is what goes before its name."""
    for name in table:
        if name not in valid:
            near = get_close_matches(name, valid, n=1)
            meant = f"did you mean {prefix}{near[0]}? " if near else ""
            raise ConfigError(f"{path}: unknown key {prefix}{name}", fix=f"{meant}valid: {', '.join(valid)}")
