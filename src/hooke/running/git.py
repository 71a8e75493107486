"""Git operations: keep the working tree as a tree object, restore a tree, compare two trees.

They run the program `git` with a temporary index, so the user's index is not touched. Kept trees
remain until their refs below `refs/hooke/` are deleted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hooke.base.errors import HookeError

__all__ = ["GitTrouble", "Repository", "TreeSnapshot"]

PATIENCE_S = 10.0
"""For a whole snapshot, so that a slow disk or a huge repository does not delay a run's end."""
MOST_FILE_BYTES = 10 << 20
"""Larger untracked files are data, not code: they are listed and not copied into the repository."""
MOST_NEW_FILES = 5000
MOST_NEW_BYTES = 100 << 20
"""For all untracked files together: more is likely a missing .gitignore."""
MOST_NAMED = 100
REFS = "refs/hooke/"
NOT_CODE = frozenset({"__pycache__", "mlruns", ".ipynb_checkpoints"})
"""Folders that runs write and that .gitignore may lack."""
NOT_CODE_PREFIX = "mlflow.db"
_LOCAL = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_INDEX_FILE",
    "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
)  # fmt: skip
"""Variables that a git hook, in which Hooke may run, sets for another repository."""
_WHO = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Hooke"), ("EMAIL", "hooke@localhost"), ("DATE", "@0 +0000"))
}


class GitTrouble(HookeError):
    """Git is missing, failed, or took too long."""


class TreeSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A kept working tree. `commit` and `branch` are empty if there is none (a new repository, a detached head)."""

    tree: str
    commit: str
    branch: str
    dirty: bool
    remote: str
    diff: bytes
    """The output of `git diff --binary` from the commit to the tree."""
    left_out: tuple[str, ...] = ()
    """Untracked files that are too large to count as code."""


class _Head(NamedTuple):
    commit: str
    tree: str
    branch: str


_known: dict[Path, TreeSnapshot] = {}
"""The last snapshot of each repository. If the tree is unchanged, its diff and remote are reused."""


_slow: set[Path] = set()
"""Repositories that took too long; later runs of this process skip them."""


class Repository(msgspec.Struct, frozen=True):
    """The repository whose working tree has `root` at its top."""

    root: Path
    patience_s: float = PATIENCE_S
    most_new_files: int = MOST_NEW_FILES
    _deadline: list[float] = msgspec.field(default_factory=list)

    @classmethod
    def around(cls, folder: Path) -> Repository | None:
        """The repository that contains `folder`; None if there is none. Runs no program."""
        for each in (folder, *folder.parents):
            if (each / ".git").exists():
                return cls(each)
        return None

    def snapshot(self) -> TreeSnapshot:
        """Keep the working tree: committed, changed and new files, without ignored files. Raises GitTrouble."""
        if self.root in _slow:
            raise GitTrouble(
                f"an earlier snapshot in this process took more than {self.patience_s:g} s", where="git"
            )
        self._deadline[:] = [time.monotonic() + self.patience_s]
        git_dir, head = self._head()
        with tempfile.TemporaryDirectory(prefix="hooke-index-") as scratch:
            index = Path(scratch) / "index"
            if (git_dir / "index").exists():
                # Keep the time stamp, so that git re-reads files that changed as late as the index.
                shutil.copy2(git_dir / "index", index)
            changed, left_out = self._changed(index)
            if changed:
                names = b"\0".join(os.fsencode(name) for name in changed) + b"\0"
                self._git("update-index", "--add", "--remove", "-z", "--stdin", index=index, given=names)
            tree = self._git("write-tree", index=index).decode().strip()
        known = _known.get(self.root)
        if known is None or (known.tree, known.commit) != (tree, head.commit) or not self._has_ref(tree):
            self._keep(tree, head.commit)
            diff = self._diff(head.commit, tree) if tree != head.tree else b""
            remote = self._remote()
        else:
            diff, remote = known.diff, known.remote
        taken = _known[self.root] = TreeSnapshot(
            tree=tree,
            commit=head.commit,
            branch=head.branch,
            dirty=tree != head.tree,
            remote=remote,
            diff=diff,
            left_out=tuple(left_out),
        )
        return taken

    def has(self, tree: str) -> bool:
        """Whether the tree and its whole content still exist. Raises GitTrouble."""
        try:
            self._git("rev-list", "--objects", "--quiet", tree)
        except GitTrouble as error:
            if error.where != "git":
                return False
            raise
        return True

    def restore(self, tree: str, folder: Path) -> None:
        """Check the tree out into a new worktree. Raises GitTrouble."""
        self._git(
            "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", str(folder), self._keep(tree, "")
        )  # fmt: skip

    def forget(self, folder: Path) -> None:
        """Remove a worktree with everything in it. Raises GitTrouble."""
        self._git("worktree", "remove", "--force", "--force", str(folder))

    def prune(self) -> None:
        """Forget worktrees whose folders no longer exist. Raises GitTrouble."""
        self._git("worktree", "prune")

    def holds(self, tree: str, name: str) -> bool:
        """Whether the tree has a file of this name, relative to the root. Raises GitTrouble."""
        return bool(self._git("ls-tree", "-z", tree, "--", name))

    def differences(self, old: str, new: str) -> str:
        """A unified diff of two trees without context. Raises GitTrouble."""
        return self._git("diff", "--no-color", "--no-ext-diff", "--unified=0", old, new, "--").decode(
            "utf-8", "backslashreplace"
        )

    def _head(self) -> tuple[Path, _Head]:
        """The git folder and what is checked out."""
        asked = "rev-parse", "--absolute-git-dir", "HEAD", "HEAD^{tree}", "--symbolic-full-name", "HEAD"
        lines = os.fsdecode(self._git(*asked, fails=True)).splitlines()
        if len(lines) == 4:
            branch = lines[3].removeprefix("refs/heads/") if lines[3].startswith("refs/") else ""
            return Path(lines[0]), _Head(lines[1], lines[2], branch)
        # A new repository has no HEAD; this raises for any other reason.
        return Path(os.fsdecode(self._git("rev-parse", "--absolute-git-dir")).rstrip("\n")), _Head("", "", "")

    def _has_ref(self, tree: str) -> bool:
        return bool(self._git("for-each-ref", f"{REFS}{tree}"))

    def _changed(self, index: Path) -> tuple[list[str], list[str]]:
        """Files that differ from the index, and the untracked files that are not kept."""
        tags = "--modified", "--deleted", "--others", "--exclude-standard", "-t", "-z"
        listed = self._git("ls-files", *tags, index=index).split(b"\0")
        changed: dict[str, None] = {}
        left_out: list[str] = []
        files, size = 0, 0
        for line in filter(None, listed):
            tag, name = line[:1], os.fsdecode(line[2:])
            if tag == b"?" and _is_ours(name):
                continue
            if name.endswith("/"):  # a repository inside this one
                continue
            if tag == b"?":
                files, size, own = files + 1, size + self._size(name), self._size(name)
                if own > MOST_FILE_BYTES or files > self.most_new_files or size > MOST_NEW_BYTES:
                    size -= own
                    left_out.append(name)
                    continue
            changed[name] = None
        more = [f"and {len(left_out) - MOST_NAMED} more"] if len(left_out) > MOST_NAMED else []
        return list(changed), left_out[:MOST_NAMED] + more

    def _size(self, name: str) -> int:
        try:
            return os.lstat(self.root / name).st_size
        except OSError:
            return 0

    def _keep(self, tree: str, commit: str) -> str:
        """Make a ref to a commit of the tree, so that `git gc` keeps it. The commit is the same at any time and on any machine."""
        parent = ["-p", commit] if commit else []
        said = f"Hooke: the tree of a run\n\nMade of {commit or 'no commit'}.\n"
        ref = f"{REFS}{tree}"
        known = self._git("rev-parse", "--quiet", "--verify", ref, fails=True).decode().strip()
        if known:
            return known
        made = self._git("commit-tree", tree, *parent, "-m", said).decode().strip()
        self._git("update-ref", ref, made, fails=True)  # another run may have been faster
        return made

    def _diff(self, commit: str, tree: str) -> bytes:
        if not commit:
            return b""
        return self._git("diff", "--no-color", "--no-ext-diff", "--binary", commit, tree, "--")

    def _remote(self) -> str:
        url = self._git("config", "--get", "remote.origin.url", fails=True).decode("utf-8", "replace").strip()
        scheme, separator, rest = url.partition("://")
        # The URL may contain a token, which must not be recorded.
        return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url

    def _git(self, *words: str, index: Path | None = None, given: bytes = b"", fails: bool = False) -> bytes:
        """The output of git. With `fails`, an error is ignored and the output so far is returned."""
        left = max(self._deadline[0] - time.monotonic(), 0.1) if self._deadline else None
        environment = {name: value for name, value in os.environ.items() if name not in _LOCAL} | _WHO
        environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        command = ["git", "-C", str(self.root), *words]
        try:
            done = subprocess.run(
                command,
                input=given,
                capture_output=True,
                timeout=left,
                env=environment,
                check=False,
                process_group=0,  # Ctrl-C must not reach git
            )
        except FileNotFoundError as error:
            raise GitTrouble("git is not installed", where="git", fix="install git") from error
        except subprocess.TimeoutExpired as error:
            _slow.add(self.root)
            raise GitTrouble(f"git {words[0]} took more than {self.patience_s:g} s", where="git") from error
        if done.returncode and not fails:
            raise GitTrouble(f"git {_verb(words)} failed", where=str(self.root), why=_first_line(done.stderr))
        return done.stdout


def _is_ours(name: str) -> bool:
    parts = name.rstrip("/").split("/")
    return not NOT_CODE.isdisjoint(parts) or parts[-1].startswith(NOT_CODE_PREFIX)


def _verb(words: Sequence[str]) -> str:
    pairs = zip(("", *words), words, strict=False)
    return next((word for before, word in pairs if not word.startswith("-") and before != "-c"), words[0])


def _first_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:300] if lines else "it printed nothing"
