"""What replicas serve: a file's class, with what its `setup` takes, at the versions that names meant when they were looked up."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import write_atomic
from hooke.base.formats import short_repr
from hooke.base.pinned_modules import PinnedModule
from hooke.models.registry_protocol import RegisteredVersion, VersionQuery, find
from hooke.processes.lease import LEASE_S
from hooke.project.folder import Project
from hooke.registry.project_registry import registry_of
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
    """What was asked to be served, with names as they were written."""

    target: str
    """`/path/to/file.py:Class`."""
    project: str
    folder: str
    """The working directory that replicas have."""
    given: Mapping[str, Any]
    """By parameter of `setup`: a `Wanted`, or a plain value."""
    host: str = "127.0.0.1"
    """The address of the front, by which replicas are asked, too."""
    names: tuple[str, ...] = ()
    """Other names by which they are."""
    token_file: str = ""
    """What holds the token that they ask for; empty where none is asked for."""
    modules: tuple[PinnedModule, ...] = ()
    """The file and what it imports of the project, as they were when it was asked for."""

    @property
    def moving(self) -> bool:
        """Whether it may mean something else tomorrow: an alias, or the newest version."""
        return any(isinstance(value, VersionQuery) and value.number is None for value in self.given.values())


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What equal replicas serve. Of equal `key` all is the same, but for modules that are imported only later, in a method."""

    key: str
    label: str
    """What differs between generations, for people: `model=flights:3`."""
    target: str
    project: str
    folder: str
    given: bytes
    """The values by parameter, pickled; written and read by this user alone."""
    host: str
    names: tuple[str, ...]
    token_file: str
    modules: tuple[PinnedModule, ...] = ()

    def make_auth(self) -> Auth:
        """What lets requests through. Raises UsageError where the token cannot be read."""
        token = read_token(Path(self.token_file)) if self.token_file else None
        return BindConfig(host=self.host, names=self.names).make_auth(token)

    @property
    def name(self) -> str:
        """By which the supervision knows it, and people too."""
        return f"{self.label} ({self.key[:6]})"

    def values(self) -> dict[str, Any]:
        """By parameter of `setup`."""
        made: dict[str, Any] = pickle.loads(self.given)
        return made


def pin_generation(source: ServiceSource) -> Generation:
    """What the source means now. Raises as `find`, and HookeError where the registry does not answer."""
    project = Project.find(Path(source.project))
    values: dict[str, Any] = {}
    words: list[str] = []
    parts: list[bytes] = [
        source.target.encode(),
        *(part for each in source.modules for part in (each.name.encode(), each.source)),
        version("hooke").encode(),
        repr((source.host, source.names, source.token_file)).encode(),
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
        modules=source.modules,
    )


def write_generation(path: Path, generation: Generation) -> None:
    """Keep it for the replicas of it, unless it is kept already. Raises OSError."""
    data = msgspec.msgpack.encode(generation)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return
    write_atomic(path, data)
    os.chmod(path, 0o600)


def read_generation(path: Path) -> Generation:
    """What was kept. Raises OSError, or msgspec's errors where the file is damaged."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Generation)


# --- Watches what a service's names mean: an alias that moves is another generation, a file that is edited is not.

_log = logging.getLogger("hooke")


class AliasWatcher:
    """Looks them up every `every_s` seconds, in a thread of its own: a registry on another machine may take long."""

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
        """`moved` gets another meaning than the last one, `unknown` why nothing can be said, once for each reason; both are called in that thread.

        Whatever `look` raises, it is asked again.
        """
        self._source = source
        self._label = known.label
        self._every_s = every_s
        self._moved = moved
        self._unknown = unknown
        self._look = look
        self._said = ""
        """Why nothing could be said at the last look."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hooke-aliases", daemon=True)

    def start(self) -> None:
        """Begin, where there is something that may move."""
        if self._source.moving:
            self._thread.start()

    def close(self) -> None:
        """End; a question that is under way is not waited for."""
        self._ended.set()

    def again(self) -> None:
        """What was found last could not be used: say it again."""
        self._label = ""

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                found = self._look(self._source)
            except (HookeError, OSError) as error:
                self._warn(str(error).partition("\n")[0])
            except Exception as error:  # noqa: BLE001 - whatever a registry's client raises: the next look may succeed
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
            _log.warning("what the names mean cannot be looked up", exc_info=unexpected)


# --- What is asked of a supervisor.


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """How many replicas, where, and what each may take."""

    replicas: tuple[int, int] = (1, 1)
    """The fewest and the most."""
    bind_config: BindConfig = field(default_factory=BindConfig)
    """Where it is reached, and what it asks of who asks."""
    memory_bytes: int | None = None
    """A replica with more is replaced by another."""
    lease_s: float = LEASE_S
    healthy_s: float = 10.0
    poll_s: float = 5.0
    """Between two looks at what an alias means: a query of one row."""

    def rules(self, declared: Service) -> Rules:
        """What replicas of that service are kept to."""
        return Rules(
            timeout_s=declared.timeout_s,
            healthy_s=self.healthy_s,
            memory_bytes=self.memory_bytes,
            idempotent=declared.idempotent,
        )
