"""What a run is made of, besides its graph's keys and its parameters."""

from __future__ import annotations

import msgspec

__all__ = ["MadeOf"]


class MadeOf(msgspec.Struct, frozen=True, kw_only=True):
    """Code, environment, machine, data files and seed. What could not be known is empty."""

    tree: str = ""
    """The working tree, with what was not committed, as a git tree; kept by the ref `refs/hooke/<tree>`."""
    commit: str = ""
    branch: str = ""
    dirty: bool | None = None
    """Whether the tree differs from the commit; None where that is not known."""
    remote: str = ""
    root: str = ""
    """The top of the repository's working tree."""
    diff: str = ""
    """A file of the run's folder with the diff from commit to tree; empty where there is none."""
    diff_bytes: int = 0
    """Of the whole diff; the file may be cut."""
    left_out: tuple[str, ...] = ()
    """Files that git neither knows nor ignores and that are too large to count as code."""
    trouble: str = ""
    """Why there is no tree."""
    environment: str = ""
    """Digest of the installed distributions, which lie in `.hooke/environments/<digest>.json`."""
    interpreter: dict[str, str] = {}
    threads: dict[str, str] = {}
    """Variables of the environment that say how many threads libraries use."""
    hardware: dict[str, str] = {}
    files: dict[str, str] = {}
    """Path of each hooke.File that was an argument -> key of its content."""
    seed: int = 0
    """What `[run] seed` of hooke.toml, or HOOKE_SEED, gave."""
    paths: tuple[str, ...] = ()
    """Folders that Python looked for modules in and that lie in the repository."""
    argv: tuple[str, ...] = ()
    """Of a script: the words after its name."""
    user: str = ""
    seconds: float = 0.0
    """How long it took to gather this, beside the run."""
