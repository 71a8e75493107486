"""What replicas serve: a file's class, with what its `setup` takes, at the versions that names meant when they were looked up."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.files import write_atomic
from hooke.base.kept_modules import KeptModule
from hooke.models.names import Wanted
from hooke.models.registry import Version, find
from hooke.pipeline.shown import shown
from hooke.project.folder import Project
from hooke.project.registry import registry_of
from hooke.serving.exposure import Exposure
from hooke.serving.gate import Gate
from hooke.serving.tokens import read_token

__all__ = ["Generation", "Source", "pinned", "read_generation", "write_generation"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
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
    modules: tuple[KeptModule, ...] = ()
    """The file and what it imports of the project, as they were when it was asked for."""

    @property
    def moving(self) -> bool:
        """Whether it may mean something else tomorrow: an alias, or the newest version."""
        return any(isinstance(value, Wanted) and value.number is None for value in self.given.values())


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
    modules: tuple[KeptModule, ...] = ()

    def gate(self) -> Gate:
        """What lets requests through. Raises UsageError where the token cannot be read."""
        token = read_token(Path(self.token_file)) if self.token_file else None
        return Exposure(host=self.host, names=self.names).gate(token)

    @property
    def name(self) -> str:
        """By which the supervision knows it, and people too."""
        return f"{self.label} ({self.key[:6]})"

    def values(self) -> dict[str, Any]:
        """By parameter of `setup`."""
        made: dict[str, Any] = pickle.loads(self.given)
        return made


def pinned(source: Source) -> Generation:
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
        if isinstance(value, Wanted):
            found: Version = find(registry_of(project), value)
            values[name] = Wanted(name=found.name, number=found.number)
            words.append(f"{name}={found.label}")
            parts.append(f"{name}={found.label} {found.digest}".encode())
        else:
            values[name] = value
            words.append(f"{name}={shown(value)}")
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
