"""Generations: a service's class with the arguments of its `setup`, at the versions that its names have now."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.distributions import HOOKE_VERSION
from hooke.base.errors import HookeError
from hooke.base.files import write_atomic
from hooke.base.formats import short_repr
from hooke.base.pinned_modules import PinnedModule
from hooke.models.registry_protocol import RegisteredVersion, VersionQuery, find
from hooke.processes.lease import LEASE_S
from hooke.project.folder import Project
from hooke.registry.loaded_models import registry_of
from hooke.services.serve_file import ObserveOptions
from hooke.services.supervisor.canary import CanaryRules
from hooke.services.supervisor.replica_events import Rules
from hooke.serving.auth import Auth, read_token
from hooke.serving.bind_config import BindConfig
from hooke.serving.service import Service

__all__ = [
    "AliasWatcher",
    "Generation",
    "ServiceOptions",
    "ServiceSource",
    "pin_generation",
    "read_generation",
    "write_generation",
]


class ServiceSource(msgspec.Struct, frozen=True, kw_only=True):
    """A request to serve a class, with names as they were written."""

    target: str
    """`/path/to/file.py:Class`."""
    project: str
    folder: str
    """The working directory of replicas."""
    given: Mapping[str, Any]
    """By parameter of `setup`: a `VersionQuery`, or a plain value."""
    host: str = "127.0.0.1"
    """The proxy's address, which replicas accept as a Host, too."""
    names: tuple[str, ...] = ()
    """Other hosts that replicas accept."""
    token_file: str = ""
    """The file of the bearer token; empty without auth."""
    observe: ObserveOptions = ObserveOptions()
    """What replicas tell of requests."""
    modules: tuple[PinnedModule, ...] = ()
    """The file and its imports from the project, as they were at the start."""

    @property
    def moving(self) -> bool:
        """Whether it may mean something else later: an alias, or the newest version."""
        return any(isinstance(value, VersionQuery) and value.number is None for value in self.given.values())


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What equal replicas serve. Generations of equal `key` are equal, except for modules that a method imports later."""

    key: str
    label: str
    """What differs between generations, for people: `model=flights:3`."""
    target: str
    project: str
    folder: str
    given: bytes
    """The arguments of `setup` by parameter, pickled; only this user can write or read them."""
    host: str
    names: tuple[str, ...]
    token_file: str
    observe: ObserveOptions = ObserveOptions()
    modules: tuple[PinnedModule, ...] = ()

    def make_auth(self) -> Auth:
        """The check of Host, Origin and token. Raises UsageError if the token cannot be read."""
        token = read_token(Path(self.token_file)) if self.token_file else None
        return BindConfig(host=self.host, names=self.names).make_auth(token)

    @property
    def name(self) -> str:
        """Its name in the supervision and for people."""
        return f"{self.label} ({self.key[:6]})"

    def values(self) -> dict[str, Any]:
        """The arguments of `setup` by parameter."""
        made: dict[str, Any] = pickle.loads(self.given)
        return made


def pin_generation(source: ServiceSource) -> Generation:
    """The generation that the source means now. Raises as `find`, and HookeError if the registry does not answer."""
    project = Project.at(Path(source.project))
    values: dict[str, Any] = {}
    words: list[str] = []
    parts: list[bytes] = [
        source.target.encode(),
        *(part for each in source.modules for part in (each.name.encode(), each.source)),
        HOOKE_VERSION.encode(),
        repr((source.host, source.names, source.token_file, source.observe)).encode(),
    ]
    for name, value in sorted(source.given.items()):
        if isinstance(value, VersionQuery):
            found: RegisteredVersion = find(registry_of(project), value)
            values[name] = VersionQuery(name=found.name, number=found.number)
            words.append(f"{name}={found.label}")
            parts.append(f"{name}={found.label} {found.digest}".encode())
        else:
            values[name] = value
            words.append(f"{name}={short_repr(value)}")
            parts.append(f"{name}={value!r}".encode())
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    key = digest.hexdigest()
    return Generation(
        key=key,
        label=", ".join(words) or Path(source.target).name,
        target=source.target,
        project=source.project,
        folder=source.folder,
        given=pickle.dumps(values),
        host=source.host,
        names=source.names,
        token_file=source.token_file,
        observe=source.observe,
        modules=source.modules,
    )


def write_generation(path: Path, generation: Generation) -> None:
    """Write a generation for its replicas, unless the file is there. Raises OSError."""
    data = msgspec.msgpack.encode(generation)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return
    write_atomic(path, data)
    os.chmod(path, 0o600)


def read_generation(path: Path) -> Generation:
    """Read a generation. Raises OSError, or msgspec's errors if the file is damaged."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Generation)


# --- Watching aliases: an alias that moves is a new generation, an edited file is not.

_log = logging.getLogger("hooke")


class AliasWatcher:
    """Looks the names up every `every_s` seconds, in its own thread: a registry on another machine may be slow."""

    def __init__(
        self,
        source: ServiceSource,
        known: Generation,
        *,
        every_s: float,
        moved: Callable[[Generation], None],
        unknown: Callable[[str], None],
        look: Callable[[ServiceSource], Generation] = pin_generation,
    ) -> None:
        """`moved` gets a new generation, `unknown` the reason why a lookup failed, once for each reason; both are called in that thread.

        Lookups continue whatever `look` raises.
        """
        self._source = source
        self._label = known.label
        self._every_s = every_s
        self._moved = moved
        self._unknown = unknown
        self._look = look
        self._said = ""
        """Why the last lookup failed."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hooke-aliases", daemon=True)

    def start(self) -> None:
        """Begin, if a name can move."""
        if self._source.moving:
            self._thread.start()

    def close(self) -> None:
        """End. A lookup under way is not waited for."""
        self._ended.set()

    def again(self) -> None:
        """Report the last generation again: it could not be used."""
        self._label = ""

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                found = self._look(self._source)
            except (HookeError, OSError) as error:
                self._warn(str(error).partition("\n")[0])
            except Exception as error:  # noqa: BLE001 - whatever a registry's client raises: the next lookup may succeed
                self._warn(f"{type(error).__name__}: {error}", error)
            else:
                self._said = ""
                if found.label != self._label:
                    self._label = found.label
                    self._moved(found)

    def _warn(self, why: str, unexpected: Exception | None = None) -> None:
        if why == self._said:
            return
        self._said = why
        self._unknown(why)
        if unexpected is not None:
            _log.warning("the names of models cannot be looked up", exc_info=unexpected)


# --- The options of a supervised service.


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """The number of replicas, the address, and the limits of a replica."""

    replicas: tuple[int, int] = (1, 1)
    """The fewest and the most."""
    bind_config: BindConfig = field(default_factory=BindConfig)
    """The address, the names, the token and TLS."""
    observe: ObserveOptions = field(default_factory=ObserveOptions)
    """What replicas tell of requests."""
    memory_bytes: int | None = None
    """A replica above this is replaced."""
    lease_s: float = LEASE_S
    healthy_s: float = 10.0
    keep_alive_s: float | None = None
    """How long the last replica stays without a call, where none is allowed; None: by the gaps between calls."""
    canary: CanaryRules | None = field(default_factory=CanaryRules)
    """How a new version is tried; None: it only has to stay ready."""
    poll_s: float = 5.0
    """Between two lookups of an alias: a query of one row."""

    def rules(self, declared: Service) -> Rules:
        """The rules for replicas of that service."""
        return Rules(
            timeout_s=declared.timeout_s,
            ready_s=declared.start_timeout_s,
            healthy_s=self.healthy_s,
            canary=self.canary,
            memory_bytes=self.memory_bytes,
            idempotent=declared.idempotent,
        )
