"""`hooke.toml` as one tree of structs, read once and checked against their types."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from hooke.base.errors import ConfigError, UsageError
from hooke.base.formats import did_you_mean
from hooke.base.units import parse_bytes, parse_seconds
from hooke.certificates.key_files import Keys

__all__ = [
    "FILE",
    "PROGRESS",
    "BackendSettings",
    "FleetSettings",
    "JournalSettings",
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
_RANGE = "give a number from 1, or two: [1, 8]"
_TLS = ("tls_ca", "tls_cert", "tls_key")
_WITHOUT_OPTIONS = ("dask", "local", "ray", "serial")
"""Engines whose places have no keys of their own."""
Durable = Literal["group", "each", "none"]
Progress = Literal["auto", "table", "lines", "log", "none"]
PROGRESS = get_args(Progress)
"""What `progress` may be; the first is the default."""

_Usd = Annotated[float, Meta(ge=0, lt=1e9, description="give US dollars, such as 1.29")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of `hooke.toml`. The description of a field's type says what to write in it."""


_T = TypeVar("_T", bound=_Section)


class StoreSettings(_Section, frozen=True, kw_only=True):
    """`[store]`: where results are stored."""

    url: str = ""
    """A folder, or a URL that fsspec supports (`s3://bucket/prefix`). Empty means `.hooke/store` in the project."""
    secret_file: str = ""
    """A file whose bytes sign the objects of a shared store; required if `url` is not a folder."""
    max_bytes: int | None = None
    """The size to which `hooke cache gc` reduces the store by default."""


class JournalSettings(_Section, frozen=True, kw_only=True):
    """`[journal]`: how events reach the disk."""

    durable: Durable = "group"
    """When events and results survive a power loss (the death of a process loses nothing in any case).

    `group`: within a second, and before the run is finished; `each`: before they count as finished; `none`: eventually.
    """


class ShowSettings(_Section, frozen=True, kw_only=True):
    """`[show]`: what is shown while a run is in progress."""

    progress: Progress = "auto"
    """`auto`, `table`, `lines`, `log` or `none`, as in `run`. The environment variable HOOKE_PROGRESS overrides it."""


class RunSettings(_Section, frozen=True, kw_only=True):
    """`[run]`: settings of every run."""

    seed: int = 0
    """Part of every key, from which each task's random numbers are seeded. The environment variable HOOKE_SEED overrides it."""


class BackendSettings(_Section, frozen=True, kw_only=True):
    """`[places.NAME]`: a backend by name."""

    engine: str = "local"
    workers: Annotated[int | list[int] | None, Meta(description=_RANGE)] = None
    """A number, or a range such as `[1, 8]`, within which the number follows the work."""
    usd_per_hour: _Usd = 0.0
    """Price of one worker; budgets are computed with it."""
    price: str = ""
    """`"coreweave:hgx_h100_8x"`: the price of one worker from a price list, instead of `usd_per_hour`; `"coreweave"` alone: of `instance`."""
    spot: bool = False
    """Whether that price is the one of spot machines."""
    reserved: bool = False
    """Whether that price is the one of reserved machines."""
    max_usd_per_hour: _Usd = 0.0
    """Limit for all workers together; 0 means no limit."""
    address: str = ""
    """Address of an existing cluster: `tls://HOST:PORT`, or `tcp://` on this machine; for Ray `ray://HOST:PORT`, `HOST:PORT` or `auto`."""
    tls_ca: str = ""
    """PEM file for `tls://`, relative to the project's folder: the certificate of the fleet's authority."""
    tls_cert: str = ""
    """PEM file: the driver's certificate, signed by that authority."""
    tls_key: str = ""
    """PEM file: the driver's key. Without these three files, Dask's own configuration applies."""
    fleet: str = ""
    """A fleet whose keys this machine has (`hooke fleet ca`, `hooke fleet join`), instead of the three files."""
    insecure: bool = False
    """Whether code may go to another machine unencrypted, so that anyone on the way can read and change it."""
    options: dict[str, Any] = {}
    """Further options of the engine, for one that has some: `kubernetes`, or a plug-in's."""


class FleetSettings(_Section, frozen=True, kw_only=True):
    """`[fleets.NAME]`: machines managed by `hooke fleet`."""

    provider: str = "processes"
    machines: Annotated[int, Meta(ge=1, description="give a number from 1")] = 8
    """The largest number of machines."""
    usd_per_hour: _Usd = 0.0
    """Price of one machine."""
    price: str = ""
    """`"coreweave:hgx_h100_8x"`: the price of one machine from a price list, instead of `usd_per_hour`; `"coreweave"` alone: of `instance`."""
    spot: bool = False
    """Whether that price is the one of spot machines."""
    reserved: bool = False
    """Whether that price is the one of reserved machines."""
    max_usd_per_hour: _Usd = 0.0
    """Limit for all machines together; 0 means no limit."""
    lifetime: str = ""
    """`"8h"`: an older machine is retired, and replaced if it is still needed. Empty means no limit."""
    options: dict[str, Any] = {}
    """Further options of the provider, such as `command = ["python", "worker.py"]`."""


class KeySettings(_Section, frozen=True, kw_only=True):
    """`[services.NAME.keys.CLIENT]`: a bearer token of one client, beside the service's own."""

    file: Annotated[
        str, Meta(min_length=1, description='write file = "keys/client", one line with the token')
    ]
    """The file of the token, relative to the project's folder."""
    rate: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="give requests a second, at least 1")
    ] = None
    """Requests a second, and the size of a burst; more get 429. None means no limit."""
    tokens_per_minute: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="give tokens a minute, at least 1")
    ] = None
    """For language models: tokens of prompts and answers a minute, and the size of a burst; more get 429. None means no limit."""
    priority: Annotated[
        Literal["high", "low"], Meta(description='write priority = "low", or leave it out')
    ] = "high"
    """`low`: its requests are shed first in overload."""


class ServiceSettings(_Section, frozen=True, kw_only=True):
    """`[services.NAME]`: a service, by the name of its class."""

    given: dict[str, Any] = msgspec.field(default_factory=dict, name="with")
    """`[services.NAME.with]`: arguments of `setup`, such as `model = "flights@champion"`. `--with` overrides them."""
    body_memory: int | None = None
    """Bytes of all request bodies that one replica holds at once (`"512MiB"`). None means an eighth of its memory."""
    rate_limit: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="give requests a second, at least 1")
    ] = None
    """Requests a second of all clients together, and the size of a burst; more get 429. None means no limit."""
    access_log: str = ""
    """The file of Envoy's access log, relative to the project's folder. Empty means none."""
    proxy_threads: Annotated[int, Meta(ge=1, description="give at least 1")] = 1
    """Envoy's threads."""
    retry_body: int | None = None
    """Bytes of a body that Envoy keeps for a retry (`"1MiB"`). None means what 1 GiB allows for every connection: 128 KiB."""
    keys: dict[str, KeySettings] = {}
    """`[services.NAME.keys.CLIENT]`: further tokens, by the names of their clients."""


class PlanSettings(_Section, frozen=True, kw_only=True):
    """`[plan]`: where a pipeline could run."""

    catalog: Annotated[tuple[str, ...] | None, Meta(description='write catalog = ["lambda", "ours.csv"]')] = (
        None
    )
    """Price lists: names of shipped lists, or CSV files relative to the project's folder. None means all shipped lists."""
    speed: dict[str, Any] = {}
    """`"lambda:gpu_1x_a10" = "1.3-1.5"`: speed relative to the measured machine."""
    startup: dict[str, Any] = {}
    """`digitalocean = "1m-2m"`: time until an instance works, for a list or for one type in it."""


class TrackingSettings(_Section, frozen=True, kw_only=True):
    """`[tracking]`: what is recorded of each run, and the trackers it is sent to."""

    sinks: Annotated[tuple[str, ...] | None, Meta(description='write sinks = ["mlflow"], or [] for none')] = (
        None
    )
    """Names of sinks. None means `mlflow` if it is installed."""
    experiment: str = ""
    """The experiment in trackers. Empty means the name of the pipeline or script."""
    system_metrics_s: Annotated[float, Meta(ge=0, description="give seconds, 0 for never")] = 10.0
    """Seconds between samples of the machine's use; 0 disables them."""
    options: dict[str, dict[str, Any]] = {}
    """Options of each sink: `[tracking.mlflow]` with `uri`, `[tracking.comet]` with `archives`, `workspace` and `online`."""


class Settings(_Section, frozen=True, kw_only=True):
    """All of `hooke.toml`, with defaults for missing keys."""

    store: StoreSettings = StoreSettings()
    journal: JournalSettings = JournalSettings()
    show: ShowSettings = ShowSettings()
    run: RunSettings = RunSettings()
    plan: PlanSettings = PlanSettings()
    tracking: TrackingSettings = TrackingSettings()
    places: dict[str, BackendSettings] = {}
    services: dict[str, ServiceSettings] = {}
    fleets: dict[str, FleetSettings] = {}


def read_settings(folder: Path) -> Settings:
    """The settings of the project in `folder`; the defaults if it has no file. Raises ConfigError, which names the key."""
    path = folder / FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML", why=str(error)) from error
    refuse_unknown(path, "", table, Settings.__struct_fields__)
    made: dict[str, Any] = {}
    for name, values in table.items():
        given = _table(path, name, values)
        if name in _SECTIONS:
            made[name] = _SECTIONS[name](path, given)
        else:
            read = _ENTRIES[name]
            made[name] = {key: read(path, f"{name}.{key}", each) for key, each in given.items()}
    return Settings(**made)


def _store(path: Path, table: dict[str, Any]) -> StoreSettings:
    _parse(path, "store", table, "max_bytes", parse_bytes)
    return _section(path, "store", table, StoreSettings)


def _plan(path: Path, table: dict[str, Any]) -> PlanSettings:
    catalog = table.get("catalog")
    if isinstance(catalog, str):
        table["catalog"] = [catalog]
    made = _section(path, "plan", table, PlanSettings)
    if made.catalog is None:
        return made
    files = tuple(str(path.parent / name) if name.endswith(".csv") else name for name in made.catalog)
    return msgspec.structs.replace(made, catalog=files)


def _tracking(path: Path, table: dict[str, Any]) -> TrackingSettings:
    options = {name: table.pop(name) for name, value in list(table.items()) if isinstance(value, Mapping)}
    return _section(path, "tracking", table, TrackingSettings, options=options)


def _place(path: Path, name: str, values: Any) -> BackendSettings:
    table = _table(path, name, values)
    options: dict[str, Any] = {}
    if table.get("engine", "local") not in _WITHOUT_OPTIONS:
        options = _take_options(path, name, table, BackendSettings)
    if table.get("engine") == "kubernetes":
        _check(path, name, options, _check_pods_of_place)
    made = _section(path, name, table, BackendSettings, options=options)
    files: dict[str, Any] = {key: str(path.parent / getattr(made, key)) for key in _TLS if getattr(made, key)}
    if files and len(files) < len(_TLS):
        raise ConfigError(f"{path}: {name} has only {', '.join(files)}", fix=f"give all of {', '.join(_TLS)}")
    if made.fleet:
        files = _keys_of(path, name, made.fleet, files)
    ends = made.workers if isinstance(made.workers, list) else [made.workers or 0] * 2
    if made.workers is not None and not (len(ends) == 2 and 0 <= ends[0] <= ends[1] >= 1):
        raise ConfigError(f"{path}: {name}.workers = {made.workers!r}", fix=_RANGE)
    return msgspec.structs.replace(made, price=_price(path, made.price), **files)


def _keys_of(path: Path, name: str, fleet: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if given:
        raise ConfigError(
            f"{path}: {name} has fleet = {fleet!r} and {', '.join(given)}", fix="keep one of the two"
        )
    try:
        keys = Keys.of(path.parent / ".hooke", fleet)
    except UsageError as error:
        raise ConfigError(f"{path}: {name}.fleet: {error.what}", fix=error.fix) from error
    return dict(zip(_TLS, map(str, (keys.ca, keys.machine, keys.machine)), strict=True))


def _service(path: Path, name: str, values: Any) -> ServiceSettings:
    table = _table(path, name, values)
    _parse(path, name, table, "body_memory", parse_bytes)
    _parse(path, name, table, "retry_body", parse_bytes)
    keys = {
        client: _section(
            path, f"{name}.keys.{client}", _table(path, f"{name}.keys.{client}", given), KeySettings
        )
        for client, given in _table(path, f"{name}.keys", table.pop("keys", {})).items()
    }
    return msgspec.structs.replace(_section(path, name, table, ServiceSettings), keys=keys)


def _fleet(path: Path, name: str, values: Any) -> FleetSettings:
    table = _table(path, name, values)
    if not _FLEET_NAME.fullmatch(name.removeprefix("fleets.")):
        raise ConfigError(
            f"{path}: [{name}] is not a valid fleet name",
            fix="use letters, digits, - and _: the fleet's folder has this name",
        )
    options = _take_options(path, name, table, FleetSettings)
    if table.get("provider") == "kubernetes":
        _check(path, name, options, _check_pods_of_fleet)
    made = _section(path, name, table, FleetSettings, options=options)
    _parse(path, name, table, "lifetime", lambda text: parse_seconds(text or 0))
    return msgspec.structs.replace(made, price=_price(path, made.price))


def _check(
    path: Path, name: str, options: dict[str, Any], check: Callable[[Mapping[str, Any]], None]
) -> None:
    """Refuse options where they are read, before a run is made that could not start. Raises ConfigError."""
    try:
        check(options)
    except UsageError as error:
        raise ConfigError(f"{path}: [{name}]: {error.what}", fix=error.fix) from error


def _check_pods_of_place(options: Mapping[str, Any]) -> None:
    from hooke.kubernetes.driver_job import check_place  # most projects have no pods

    check_place(options)


def _check_pods_of_fleet(options: Mapping[str, Any]) -> None:
    from hooke.kubernetes.keeper_deployment import check_fleet

    check_fleet(options)


def _price(path: Path, text: str) -> str:
    """A price whose list is a file of the project, with the file's whole path."""
    name = text if text.endswith(".csv") else text.rpartition(":")[0]
    return str(path.parent / text) if name.endswith(".csv") else text


_SECTIONS: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "store": _store,
    "journal": lambda path, table: _section(path, "journal", table, JournalSettings),
    "show": lambda path, table: _section(path, "show", table, ShowSettings),
    "run": lambda path, table: _section(path, "run", table, RunSettings),
    "plan": _plan,
    "tracking": _tracking,
}
_ENTRIES: dict[str, Callable[[Path, str, Any], Any]] = {
    "places": _place,
    "services": _service,
    "fleets": _fleet,
}
"""Tables whose keys are names that the user gives."""


def _take_options(path: Path, name: str, table: dict[str, Any], kind: type[_Section]) -> dict[str, Any]:
    """Take the keys of a provider or an engine out of a table. Raises ConfigError for one that is nearly a key of `kind`."""
    own = _keys(kind)
    options = {key: table.pop(key) for key in list(table) if key not in own}
    for key in options:
        if near := get_close_matches(key, own, n=1, cutoff=0.75):
            raise ConfigError(f"{path}: unknown key {name}.{key}", fix=f"did you mean {name}.{near[0]}?")
    return options


def _parse(path: Path, name: str, table: dict[str, Any], key: str, parse: Callable[[Any], Any]) -> None:
    """Replace a value with units. Raises ConfigError."""
    if key not in table:
        return
    try:
        table[key] = parse(table[key])
    except UsageError as error:
        raise ConfigError(f"{path}: {name}.{key}: {error.what}", fix=error.fix) from error


def _keys(kind: type[_Section]) -> list[str]:
    """The keys of a table, as they stand in the file. `options` takes what is not named."""
    return [key for key in kind.__struct_encode_fields__ if key != "options"]


def _section(path: Path, name: str, table: dict[str, Any], kind: type[_T], **more: Any) -> _T:
    refuse_unknown(path, f"{name}.", table, _keys(kind))
    try:
        return msgspec.convert(table | more, kind)
    except msgspec.ValidationError as error:
        key = re.split(r"[.\[`]", str(error).partition(" - at `$.")[2])[0]
        raise ConfigError(f"{path}: {name}.{key} = {table.get(key)!r}", fix=_fix(kind, key)) from error


def _fix(kind: type[_Section], key: str) -> str:
    """What to write for a key: the description of its type, its valid values, or its type in words."""
    field = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))[key]
    hint = get_type_hints(kind, include_extras=True)[field]
    if get_origin(hint) is Literal:
        return f"valid: {', '.join(get_args(hint))}"
    words = {bool: "write true or false", int: "write a whole number", str: "write text in quotes"}
    described = [each.description for each in getattr(hint, "__metadata__", ())]
    return described[0] if described else words.get(hint, "write a table")


def _table(path: Path, name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: [{name}] must be a table", fix=f"write [{name}] on its own line")
    return dict(values)


def refuse_unknown(path: Path, prefix: str, table: Mapping[str, Any], valid: Sequence[str]) -> None:
    """Raise ConfigError for an unknown key of the table, with the nearest valid one. `prefix` goes before the key's name."""
    for name in table:
        if name not in valid:
            meant = did_you_mean(name, valid, form=prefix + "{}")
            raise ConfigError(f"{path}: unknown key {prefix}{name}", fix=f"{meant}valid: {', '.join(valid)}")
