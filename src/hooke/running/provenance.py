"""The provenance of a run: code tree, environment, machine and data files, gathered in a thread and kept in the run's journal.

It knows nothing of pipelines and engines.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from hooke.base.distributions import DISTRIBUTION, normal_name
from hooke.base.files import write_atomic
from hooke.journal.events import MadeOf, RunMadeOf
from hooke.processes.devices import cpus_here, machine_memory, processor
from hooke.running.git import GitTrouble, Repository

__all__ = [
    "DIFF",
    "FOLDER",
    "ProvenanceRecorder",
    "digest_of",
    "gpus",
    "hardware",
    "installed",
    "interpreter",
    "keep",
    "provenance_of",
    "read_kept",
    "sentence",
    "threads",
]


# --- Installed distributions, read from the names of their folders. Each distinct set is kept once.

FOLDER = "environments"
EDITABLE = " (editable)"
"""Suffix of the version of an editable distribution, whose code can change without a new version."""


def installed(paths: Sequence[str] | None = None) -> dict[str, str]:
    """Normalized distribution name -> version, for `paths` (by default sys.path). The first of a name counts, as in imports."""
    found: dict[str, str] = {}
    for path in sys.path if paths is None else paths:
        for name, version in _in_folder(path or os.getcwd()):
            found.setdefault(name, version)
    return dict(sorted(found.items()))


def digest_of(distributions: dict[str, str]) -> str:
    """A hash of the distributions: 32 hex characters."""
    return blake3(msgspec.json.encode(distributions)).hexdigest(length=16)


def keep(folder: Path, distributions: dict[str, str]) -> None:
    """Write the distributions to `<folder>/environments/<digest>.json` unless it exists. Raises OSError."""
    path = folder / FOLDER / f"{digest_of(distributions)}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(distributions))


def read_kept(folder: Path, digest: str) -> dict[str, str] | None:
    """The distributions of that digest; None if they are not kept."""
    try:
        kept = msgspec.json.decode((folder / FOLDER / f"{digest}.json").read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    if DISTRIBUTION not in kept and "hooke" in kept:  # the distribution's name before it was in an index
        kept[DISTRIBUTION] = kept.pop("hooke")
    return kept


def _in_folder(path: str) -> list[tuple[str, str]]:
    try:
        return _listed(path, os.stat(path).st_mtime_ns)
    except OSError:
        return []  # a zip file, or a missing folder


@lru_cache(maxsize=64)
def _listed(path: str, _changed_ns: int) -> list[tuple[str, str]]:
    with os.scandir(path) as entries:
        folders = [entry.name for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
    return sorted(each for name in folders if (each := _read(path, name)) is not None)


def _read(path: str, folder: str) -> tuple[str, str] | None:
    if folder.endswith(".dist-info"):
        name, _, version = folder.removesuffix(".dist-info").partition("-")
        if not version:
            return None
        direct = Path(path, folder, "direct_url.json")
        editable = direct.exists() and b'"editable": true' in direct.read_bytes().replace(
            b'":true', b'": true'
        )
        return normal_name(name), version + EDITABLE * editable
    from importlib.metadata import Distribution, PackageNotFoundError  # 6 ms, and few are eggs

    try:
        found = Distribution.at(Path(path, folder))
        return normal_name(found.name), found.version
    except (PackageNotFoundError, KeyError, TypeError):
        return None


# --- The interpreter and the machine, which can affect the last bits of a result.

THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "TBB_NUM_THREADS",
    "TORCH_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED",
)  # fmt: skip
"""Variables that change the order in which numbers are added or sets are iterated."""
NVIDIA = Path("/proc/driver/nvidia")


def interpreter() -> dict[str, str]:
    """Python, its build and its platform."""
    libc = " ".join(platform.libc_ver()).strip()
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "flags": " ".join(["-O" * sys.flags.optimize] if sys.flags.optimize else []),
        "system": f"{platform.system()} {platform.machine()}",
        "libc": libc,
    }


def threads(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of THREADS that are set."""
    environment = os.environ if environment is None else environment
    return {name: environment[name] for name in THREADS if name in environment}


def hardware() -> dict[str, str]:
    """Processor, usable cores, memory in whole GiB, and GPUs with their driver."""
    facts = {
        "cpu": processor(),
        "cores": str(cpus_here()),
        "memory": f"{round(machine_memory().total / 2**30)} GiB",
    }
    return facts | ({"gpus": found} if (found := gpus()) else {})


def gpus(folder: Path = NVIDIA) -> str:
    """The GPUs that NVIDIA's driver reports, and its version; empty if there are none."""
    models: list[str] = []
    for file in sorted(folder.glob("gpus/*/information")):
        names = [
            line.partition(":")[2].strip() for line in _text(file).splitlines() if line.startswith("Model:")
        ]
        models += names or ["a GPU"]
    if not models:
        return ""
    version = _text(folder / "version").partition("\n")[0].partition("Module")[2].split()
    return ", ".join(models) + (f"; driver {version[0]}" if version else "")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- The record, gathered in a thread: neither the start of the run nor its tasks wait for it.

DIFF = "uncommitted.diff"
MOST_DIFF_BYTES = 1 << 20
JOIN_S = 30.0
"""More than git's limit. The run's end waits so that the record is in the journal before it."""

_log = logging.getLogger("hooke")


class ProvenanceRecorder:
    """Gathers the record in a thread and passes it to `say`; `join` waits for it. An error in it never ends the run."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        say: Callable[[RunMadeOf], None],
        *,
        seed: int = 0,
        script: bool = False,
    ) -> None:
        """`root` is the project's folder, `folder` the run's."""
        self._root = root
        self._folder = folder
        self._say = say
        self._argv = tuple(sys.argv[1:]) if script else ()
        self._seed = seed
        self._thread: threading.Thread | None = None

    def start(self, files: Mapping[str, str] | None = None) -> None:
        """Begin. `files` (path -> key) are the files whose content is part of the run."""
        self._thread = threading.Thread(
            target=self._gather, args=(dict(files or {}),), name="hooke-provenance", daemon=True
        )
        self._thread.start()

    def join(self, *, patience_s: float = JOIN_S) -> None:
        """Wait until the record is in the journal or has failed, at most `patience_s`."""
        if self._thread is not None:
            self._thread.join(patience_s)

    def _gather(self, files: dict[str, str]) -> None:
        try:
            record = provenance_of(self._root, self._folder, files=files, seed=self._seed, argv=self._argv)
            self._say(RunMadeOf(record=record))
        except Exception as error:  # noqa: BLE001 - a run must not end for its record, whatever it is
            _log.warning("the provenance of run %s is not recorded: %s", self._folder.name, error)


def provenance_of(
    root: Path,
    folder: Path | None,
    *,
    files: Mapping[str, str] | None = None,
    seed: int = 0,
    argv: tuple[str, ...] = (),
) -> MadeOf:
    """The provenance of a run of the project in `root`, started now. With the run's `folder`, its parts are kept, too.

    `trouble` says what could not be determined. Raises OSError if the disk refuses.
    """
    began = time.perf_counter()
    distributions = installed()
    digest = digest_of(distributions)
    if folder is not None:
        keep(folder.parent.parent, distributions)
    code = _code(root, folder)
    return MadeOf(
        environment=digest,
        interpreter=interpreter(),
        threads=threads(),
        hardware=hardware(),
        files=dict(files or {}),
        seed=seed,
        argv=argv,
        user=_user(),
        seconds=time.perf_counter() - began,
        **code,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""


def _code(root: Path, folder: Path | None) -> dict[str, Any]:
    repository = Repository.around(root)
    if repository is None:
        return {"trouble": f"{root} is not in a git repository"}
    top: dict[str, Any] = {"root": str(repository.root), "paths": _paths_in(repository.root)}
    try:
        taken = repository.snapshot()
    except GitTrouble as error:
        return top | {"trouble": f"{error.what}: {error.why}" if error.why else error.what}
    kept = bool(taken.diff) and folder is not None
    if kept:
        assert folder is not None
        write_atomic(folder / DIFF, taken.diff[:MOST_DIFF_BYTES])
    return top | {
        "tree": taken.tree,
        "commit": taken.commit,
        "branch": taken.branch,
        "dirty": taken.dirty,
        "remote": taken.remote,
        "left_out": taken.left_out,
        "diff": DIFF if kept else "",
        "diff_bytes": len(taken.diff),
    }


def _paths_in(root: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for path in sys.path if path and Path(path).is_relative_to(root)))


# --- The provenance in one sentence.


def sentence(record: MadeOf) -> str:
    """Code, environment, machine, data and seed in short; `hooke show --json` has everything."""
    return "; ".join(_parts(record))


def _parts(record: MadeOf) -> Iterator[str]:
    if record.tree:
        commit = f"commit {record.commit[:8]}" if record.commit else "no commit"
        branch = f" on {record.branch}" if record.branch else ""
        yield f"tree {record.tree[:8]} ({commit}{branch}{', with changes' if record.dirty else ''})"
    else:
        yield f"code not kept: {record.trouble}"
    yield f"environment {record.environment[:8]}, Python {record.interpreter.get('python', '?')}"
    yield ", ".join(filter(None, (record.hardware.get("cpu"), f"{record.hardware.get('cores', '?')} cores")))
    if record.files:
        yield f"{len(record.files)} data file{'s' * (len(record.files) != 1)}"
    if record.seed:
        yield f"seed {record.seed}"
    if record.left_out:
        yield f"too large for the tree: {', '.join(record.left_out[:5])}"
