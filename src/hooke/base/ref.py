"""How records name values: a reference to an encoded object, and what a result or a run was made from."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "DataSetRead",
    "FileRef",
    "ItemsMadeFrom",
    "ItemsObserved",
    "MadeFrom",
    "MadeOf",
    "Manifest",
    "Observed",
    "Ref",
]


class FileRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file in a result: its path relative to the project's folder (absolute outside of it), and the key of its content.

    `digest` and `size` are those of the stored object with the content, `mode` its permissions. With an empty digest the
    content is not stored, and the result counts only while the file has it. `item` is the place in a map's list of results.
    `passed_on` says that the task got the file from another's result and returned it as it was.
    """

    path: str
    key: str
    digest: str = ""
    size: int = 0
    mode: int = 0
    item: int = 0
    passed_on: bool = False


class Ref(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An encoded object in the store, the one way in which values travel between processes: content digest (64 hex), size in bytes, the bytes themselves when small.

    `files` are those that a task's result names.
    """

    digest: str
    size: int
    inline: bytes | None = None
    files: tuple[FileRef, ...] = ()

    def without_files(self) -> Ref:
        """The same object, for those who only read the value: it names its files itself."""
        return msgspec.structs.replace(self, files=()) if self.files else self

    def objects(self) -> list[Ref]:
        """The objects of their own that the value needs: this one, unless it is inline, and the contents of its files."""
        own = [] if self.inline is not None else [self]
        return own + [Ref(file.digest, file.size) for file in self.files if file.digest]


Kind: TypeAlias = Literal["file", "absent", "listing", "tree", "variable", "wrote"]


class Observed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input that was read: `name` had the content `digest` (hex) then.

    - `file`, `absent` (there was none), `listing` (a folder's names) and `tree` (all files directly in a folder) are named by the
      path with "/", relative to the project's folder if below it, else absolute.
    - `variable` is named by the variable. Its digest is empty if it was not set, and always for a secret.
    - `wrote` is no input, but a file of the project that the task wrote, by its name alone.

    `size`, `mtime_ns` and `ctime_ns` are a file's when it was read: where they are the same, it need not be read to be known as
    unchanged. Zeros say nothing.
    """

    kind: Kind
    name: str
    digest: str = ""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    stats: str = ""
    """Of a tree: the digest of the names, sizes and times of its files. Empty says nothing."""
    own: tuple[str, ...] = ()
    """Of a listing or a tree: the names in it that the attempt itself wrote, which don't count."""
    unshared: bool = False
    """Whether a host read it that does not share the files of its driver's machine."""


Manifest: TypeAlias = tuple[Observed, ...]
"""All inputs that a result was made from and that its key doesn't have, sorted by kind and name."""


class ItemsObserved(msgspec.Struct, frozen=True, kw_only=True):
    """Items `lo..hi` of an attempt (of a call 0..1) read `inputs`. `unsettled` says why their result must not be reused."""

    lo: int
    hi: int
    inputs: Manifest = ()
    unsettled: str = ""
    wrote: tuple[str, ...] = ()
    """Files that they created or wrote over, named as in Observed, sorted."""


class DataSetRead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A data set of which rows were read, with what is known of it without reading it again.

    A file has its absolute path or its URL as `source`. A value in memory has none: if it is the stored object `result` (a digest)
    or a `part` of it, it came from another task, else the task or the script that read it has made it.
    """

    source: str = ""
    digest: str = ""
    """Of its content, in hex; empty if that is not known."""
    stamp: str = ""
    """Size and time of a file, which tell it from another one where its digest is not known."""
    kind: str = ""
    """The class of its batches, as `numpy.ndarray`, `polars.DataFrame` or `packed`."""
    rows: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    """Name and type of each column, as `float32`, `text` or `uint8[28,28]`; the one of an array has no name."""
    result: str = ""
    part: str = ""
    """As in Python: `['train']`."""


# --- What results are made from, in entries and journals.


class MadeFrom(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a result was made from that its key does not name: what its own task read, and all that its inputs were made from.

    Manifests outlive the results whose tasks read them. An `unsettled` result must not be reused, nor what is made from it.
    """

    id: str = ""
    """The digest of names and contents in the deep manifest: equal for results of a key that were made from the same inputs."""
    own: Ref | None = None
    """The stored manifest of what its own task read; None if that is nothing."""
    deep: Ref | None = None
    """The stored manifest of that and of what all its inputs were made from; None if that is nothing."""
    consumed: str = ""
    """The digest of the results that it was computed from; empty if that says nothing, as for maps over maps."""
    unsettled: str = ""
    """Why it must not be reused."""


class ItemsMadeFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Items `lo..hi` of a node, or elements of a list, were made from the same inputs."""

    lo: int
    hi: int
    made_from: MadeFrom


# --- Provenance of a run, besides its graph's keys and its parameters.


class MadeOf(msgspec.Struct, frozen=True, kw_only=True):
    """Code, environment, machine, data files and seed. Unknown facts are empty."""

    tree: str = ""
    """The working tree, including uncommitted files, as a git tree; kept by the ref `refs/hooke/<tree>`."""
    commit: str = ""
    branch: str = ""
    dirty: bool | None = None
    """Whether the tree differs from the commit; None if not known."""
    remote: str = ""
    root: str = ""
    """The top of the repository's working tree."""
    diff: str = ""
    """A file in the run's folder with the diff from commit to tree; empty if there is none."""
    diff_bytes: int = 0
    """Size of the whole diff; the file may be truncated."""
    left_out: tuple[str, ...] = ()
    """Untracked files that are too large to count as code."""
    trouble: str = ""
    """Why there is no tree."""
    environment: str = ""
    """Digest of the installed distributions, which are listed in `.hooke/environments/<digest>.json`."""
    interpreter: dict[str, str] = {}
    threads: dict[str, str] = {}
    """Environment variables for the number of threads of libraries."""
    hardware: dict[str, str] = {}
    files: dict[str, str] = {}
    """Path of each hooke.File that was an argument -> key of its content."""
    seed: int = 0
    """The value of `[run] seed` in hooke.toml, or of HOOKE_SEED."""
    paths: tuple[str, ...] = ()
    """Folders of Python's module path that lie in the repository."""
    argv: tuple[str, ...] = ()
    """Arguments of a script."""
    user: str = ""
    seconds: float = 0.0
    """How long collecting this took, in parallel with the run."""
