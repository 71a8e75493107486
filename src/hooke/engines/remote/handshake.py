"""The handshake with a machine that the driver did not start: can it use the run's store, code and libraries?

The driver leaves a probe (`DriverHandshake`), the machine answers it (`answer_probe`), and the driver checks the answer.
The project's code travels as an archive in the store: the whole packages that the driver has imported, and the modules
beside the script.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import secrets
import shutil
import stat
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import msgspec
from blake3 import blake3

from hooke.base.distributions import DISTRIBUTION, HOOKE_VERSION
from hooke.base.errors import EnvironmentMismatch, HookeError, StoreError, UsageError
from hooke.base.files import writing
from hooke.base.observed import name_of
from hooke.base.ref import Ref
from hooke.engines.remote.log_sync import FilePiece, write_piece
from hooke.engines.remote.worker_protocol import HostReport, HostSession, Note
from hooke.keys.module_origin import PYTHON, origin_of
from hooke.pipeline.engine import EngineContext
from hooke.store.store import Store
from hooke.tracking.tracker import ARTIFACTS, PREFIX

__all__ = [
    "DriverHandshake",
    "HandshakeReply",
    "KnownHosts",
    "Probe",
    "ProbeAnswer",
    "answer_probe",
    "check_environment",
    "environment_here",
    "pack_code",
    "packages_below",
    "private_folder",
    "top_names",
    "unpack_code",
    "unpack_tar",
    "versions_here",
]


# -- versions of Python and libraries ------------------------------------------------------------


def versions_here(names: Collection[str], path: Sequence[str] | None = None) -> dict[str, str]:
    """The version of each distribution on `path` (this process's); empty where it is not installed. `python` is Python itself.

    Hooke's own is that of the code that runs here, which needs no metadata. Distributions that share a package are named together: `a+b`.
    """
    folders = list(sys.path if path is None else path)
    return {
        name: PYTHON if name == "python" else "+".join(_version(part, folders) for part in name.split("+"))
        for name in names
    }


def _version(name: str, path: list[str]) -> str:
    if name == DISTRIBUTION:
        return HOOKE_VERSION
    found = next(iter(importlib.metadata.distributions(name=name, path=path)), None)
    return "" if found is None else found.version


def environment_here() -> str:
    """What decides where this process finds modules: its environment (two of one base Python are two) and its interpreter."""
    return os.pathsep.join(map(os.path.realpath, (sys.prefix, sys.executable)))


def check_environment(
    worker: str, wanted: Mapping[str, str], found: Mapping[str, str], *, allowed: Collection[str] = ()
) -> None:
    """Raise EnvironmentMismatch, with each difference and its fix, where a worker's versions differ from the driver's."""
    differing = [name for name in wanted if found.get(name) != wanted[name] and name not in allowed]
    if not differing:
        return
    install = " ".join(
        f"{part}=={version}"
        for name in differing
        if name != "python"
        for part, version in zip(name.split("+"), wanted[name].split("+"), strict=False)
    )
    insist = " ".join(f"--allow-mismatch {name}" for name in differing)
    fixes = [f"on the worker: pip install {install}"] if install else []
    if "python" in differing:
        fixes.append(f"start the worker with Python {wanted['python']}")
    raise EnvironmentMismatch(
        f"the environment of worker {worker} differs from the driver's",
        why="\n".join(
            f"{name}: {wanted[name] or 'not installed'} on the driver, {found.get(name) or 'not installed'} on the worker"
            for name in differing
        ),
        fix="; ".join(fixes) + f"; or run anyway: {insist}",
    )


# -- the project's code --------------------------------------------------------------------------

MOST_BYTES = 64 << 20
"""Larger code has data in it, which must not travel with each run."""

_SKIPPED = {"__pycache__", "node_modules"}


def pack_code(tops: Iterable[TopName] | None = None) -> bytes:
    """The archive of the project's code, of this process's `top_names`; the same for the same files. Raises UsageError where it is too large."""
    out = io.BytesIO()
    size = 0
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(_files(top_names() if tops is None else tops).items()):
            data = path.read_bytes()
            size += len(data)
            if size > MOST_BYTES:
                raise UsageError(
                    f"the project's code exceeds {MOST_BYTES >> 20} MiB, the most that is sent to workers",
                    where=str(path),
                    fix="move data out of the project's packages, to a path or URL that workers can read",
                )
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def unpack_code(data: bytes) -> str:
    """Unpack the archive; returns its folder, for `sys.path`. Other users cannot write to it."""
    folder = private_folder("code") / blake3(data).hexdigest(16)
    if folder.is_dir():
        return str(folder)
    beside = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            unpack_tar(archive, beside)
        beside.rename(folder)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        if not folder.is_dir():  # else another process was faster
            raise
    return str(folder)


def unpack_tar(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack it; nothing lands outside the folder. Raises tarfile.TarError where something would."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    for member in archive.getmembers():  # Python 3.11.3 and older
        if not (member.isfile() or member.isdir()) or not (folder / member.name).resolve().is_relative_to(
            folder.resolve()
        ):
            raise tarfile.TarError(
                f"{member.name}: only files and folders below the archive's own are unpacked"
            )
    archive.extractall(folder)  # noqa: S202 - its members are looked at above


def private_folder(name: str) -> Path:
    """A folder of this user for what is Hooke's on this machine, in that for temporary files."""
    above = Path(tempfile.gettempdir(), f"hooke-{os.getuid()}")
    for folder in (above, above / name):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()  # a link that is another's could lead elsewhere in the next moment
        ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
        if not ours or stat.S_IMODE(facts.st_mode) & 0o022:
            raise StoreError(
                f"others can write to {folder}, from which code is to be run",
                fix=f"chmod 700 {folder}, as its owner, or set TMPDIR to another folder",
            )
    return folder


def _files(tops: Iterable[TopName]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for top, folder in tops:
        if top and (folder / top).is_dir():
            found |= {path.relative_to(folder).as_posix(): path for path in _below(folder / top)}
        else:
            found |= {path.name: path for path in folder.glob("*.py") if path.is_file()}
    return found


TopName: TypeAlias = tuple[str, Path]
"""A top-level name, with the folder that it was found in."""


def top_names() -> set[TopName]:
    """Those of the project's modules that this process has. It looks at all modules, a millisecond for two thousand."""
    tops: set[TopName] = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not str(file).endswith(".py") or not origin_of(name, file).local:
            continue
        if name == "__main__":  # it goes by value; what it may import lies beside it
            tops.add(("", Path(file).resolve().parent))
            continue
        path = Path(file).resolve()
        parts = name.split(".")
        up = len(parts) if path.name == "__init__.py" else len(parts) - 1
        tops.add((parts[0], path.parent if up == 0 else path.parents[up]))
    return {(top, folder) for top, folder in tops if top or _on_path(folder)}


def _on_path(folder: Path) -> bool:
    return str(folder) in {os.path.realpath(each) for each in sys.path}


def packages_below(root: Path | None, tops: Iterable[TopName]) -> dict[str, str]:
    """The packages in the archive of `tops` that lie below `root`: name -> folder, relative to `root`. What tasks read in a copy is a file of the project."""
    if root is None:
        return {}
    top = os.path.realpath(root)
    folders = {name: str(folder / name) for name, folder in tops if name and (folder / name).is_dir()}
    return {
        name: name_of(folder, top) for name, folder in folders.items() if folder.startswith(f"{top}{os.sep}")
    }


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _SKIPPED:
            continue
        if path.is_dir():
            yield from _below(path)
        elif path.is_file():
            yield path


# -- the worker's side ---------------------------------------------------------------------------

_PROBE_BYTES = 80 * 1024
"""Larger than what a reference holds inline."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver leaves for a machine to find."""

    file: str
    """A file in the run's folder."""
    nonce: str
    """The file's content."""
    stored: Ref
    """An object in the store."""
    code: Ref
    """The project's code, in the store or inline."""
    environment: str
    """The driver's `environment_here`."""
    names: tuple[str, ...]
    """Distributions whose versions the machine reports."""
    packages: Mapping[str, str] = {}
    """`packages_below` the project's folder."""


class ProbeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine found."""

    shares: bool
    """The machine sees the run's folder."""
    alike: bool
    """It is also in the driver's environment, and so finds modules where the driver finds them."""
    versions: Mapping[str, str]
    stored: Ref | None = None
    """An object that it stored, for the driver to read."""
    trouble: str = ""
    """Why it cannot use the store."""


class HandshakeReply(msgspec.Struct, frozen=True, kw_only=True):
    """A host is ready for attempts."""

    report: HostReport
    answer: ProbeAnswer | None = None
    """None where the driver sent no probe."""
    notes: list[Note] = []
    """What happened so far."""


def probe_bytes(place: str) -> bytes:
    """An object that only this machine stores there. It is the same each time, so it is stored once."""
    return blake3(f"hooke probe {os.uname().nodename} {place}".encode()).digest(_PROBE_BYTES)


def answer_probe(session: HostSession, probe: Probe | None) -> tuple[HostSession, ProbeAnswer | None]:
    """Inspect this machine. Returns the session for it, with folders of its own and the sent code where it needs them."""
    if probe is None:
        return session, None
    shares = _reads(probe.file) == probe.nonce
    alike = shares and environment_here() == probe.environment
    store = Store.open(session.store, secret=session.secret)
    try:
        store.get(probe.stored)
        stored = store.put(probe_bytes(session.store))
        code = "" if alike else unpack_code(store.get(probe.code))
        path = session.sys_path if alike else [code, *sys.path]
    except (HookeError, OSError) as error:
        trouble = error.what if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        return session, ProbeAnswer(
            shares=shares,
            alike=alike,
            versions=versions_here(probe.names),
            trouble=trouble.partition("\n")[0],
        )
    # A worker with folders of one run's own is of no use to the next.
    kept_s = session.kept_s if alike else 0.0
    here = msgspec.structs.replace(session, sys_path=path, fixed_path=not alike, kept_s=kept_s)
    if not alike:
        copies = {str(Path(code, name)): folder for name, folder in probe.packages.items()}
        here = msgspec.structs.replace(here, copies=copies)
    if not shares:
        own = private_folder("runs") / f"{session.id}-{os.getpid()}"  # one of several on this machine
        root = own / "work"
        work = root / _below_root(session)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        here = msgspec.structs.replace(
            here,
            logs=str(own / "logs"),
            folder=str(work),
            root=None if session.root is None else str(root),
            unshared=True,
            tracking=None if session.tracking is None else str(own),
            # A database in a file of the driver's machine is not here.
            mlflow=None if session.mlflow is None or session.mlflow.local else session.mlflow,
        )
    versions = versions_here(probe.names, path)  # those that its workers will import
    return here, ProbeAnswer(shares=shares, alike=alike, versions=versions, stored=stored)


def _below_root(session: HostSession) -> str:
    """The working directory in the project, so that relative paths mean the same file of the project as at the driver."""
    if session.root is None:
        return ""
    below = os.path.relpath(os.path.realpath(session.folder), os.path.realpath(session.root))
    return "" if below.split(os.sep)[0] == ".." else below


def _reads(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


# -- the driver's side ---------------------------------------------------------------------------


class DriverHandshake:
    """Checks machines that the driver did not start. `close` removes the probe's file."""

    def __init__(self, context: EngineContext, session: str) -> None:
        self._context = context
        self._wanted = {DISTRIBUTION: HOOKE_VERSION, **context.requires}
        self._file = context.logs / f".{session}.probe"

    @cached_property
    def probe(self) -> Probe:
        """What machines are to find. Raises UsageError where the project's code is too large to send, StoreError where the store cannot be written."""
        context, nonce = self._context, secrets.token_hex(16)
        with writing("the run's logs", context.logs):
            context.logs.mkdir(parents=True, exist_ok=True)
            self._file.write_text(nonce, encoding="ascii")
        store, tops = context.store, top_names()
        return Probe(
            file=str(self._file),
            nonce=nonce,
            stored=store.put(probe_bytes(store.place)),
            code=store.put(pack_code(tops)),
            environment=environment_here(),
            names=tuple(self._wanted),
            packages=packages_below(context.root, tops),
        )

    @property
    def scope(self) -> tuple[object, ...]:
        """What an answer is about, beside the versions: a run of the same scope would get the same one."""
        context = self._context
        return context.store.place, context.secret, context.folder, context.root, context.logs.parents[1]

    @property
    def names(self) -> frozenset[str]:
        """The distributions whose versions are checked."""
        return frozenset(self._wanted)

    def check(self, worker: str, answer: ProbeAnswer) -> None:
        """Raise UsageError where the machine cannot use the run's store, EnvironmentMismatch where its versions differ."""
        trouble = answer.trouble
        if not trouble and answer.stored is not None:
            try:
                self._context.store.get(answer.stored)
            except HookeError as error:
                trouble = f"the driver does not find an object that the worker stored: {error.what}"
        if trouble:
            raise UsageError(
                f"the worker {worker} cannot use this run's store",
                where=self._context.store.place,
                why=trouble,
                fix='give the run a store that all machines reach: [store] url = "s3://BUCKET/PATH" in hooke.toml, '
                "or a folder on a shared file system, at the same path (for pods: a claim, mounted there by pod_template)",
            )
        check_environment(worker, self._wanted, answer.versions, allowed=self._context.allow_mismatch)

    def write(self, piece: FilePiece) -> None:
        """Write the new part of a worker's log, or of what its tasks logged."""
        inside = piece.path.removeprefix("logs/")
        if inside != piece.path:
            write_piece(self._context.logs, msgspec.structs.replace(piece, path=inside))
        elif not piece.path.startswith((PREFIX, f"{ARTIFACTS}/")):  # workers may not write the driver's files
            raise HookeError(
                f"a worker sent a piece of the file {piece.path!r}, which is not a file that tasks log"
            )
        elif self._context.tracking is not None:
            write_piece(self._context.tracking, piece)

    def close(self) -> None:
        """Remove the probe's file."""
        if "probe" in self.__dict__:
            self._file.unlink(missing_ok=True)


KNOWN_S = 60.0
"""How long an answer counts for later runs of this process. What it says changes when somebody changes a machine's libraries or mounts."""


class KnownHosts:
    """What hosts like the driver have answered lately: the next run that asks them the same goes without it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[object, ...], float, HandshakeReply]] = {}

    def note(self, address: str, handshake: DriverHandshake, reply: HandshakeReply, now_s: float) -> None:
        """Remember an answer that has passed the check. That of a host with folders or code of its own is of no use to another run."""
        if reply.answer is not None and reply.answer.alike:
            answer = msgspec.structs.replace(reply.answer, stored=None)
            kept = msgspec.structs.replace(reply, answer=answer, notes=[])
            self._known[address] = handshake.scope, now_s + KNOWN_S, kept

    def of(self, address: str, handshake: DriverHandshake, now_s: float) -> HandshakeReply | None:
        """The host's answer, if it is known. Its versions are not checked yet."""
        scope, until_s, reply = self._known.get(address, ((), 0.0, None))
        if reply is None or scope != handshake.scope or now_s >= until_s:
            return None
        assert reply.answer is not None
        return reply if handshake.names <= reply.answer.versions.keys() else None

    def forget(self, address: str) -> None:
        """Ask this host again."""
        self._known.pop(address, None)
