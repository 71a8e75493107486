"""A project on disk: its folder, settings, store and runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hooke.base.errors import ConfigError
from hooke.base.refusals import writing
from hooke.journal.runs import RunsFolder
from hooke.project.predictions import PlansFolder
from hooke.project.settings import FILE, Settings, read_settings
from hooke.store.store import Store

__all__ = ["SEED", "Project"]

SEED = "HOOKE_SEED"
"""The environment variable that goes before `[run] seed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The folder with `hooke.toml`, else the script's folder."""

    root: Path
    settings: Settings
    kept: Path | None = None
    """Where store and journals lie, if not in `.hooke`."""

    @classmethod
    def find(cls, start: Path) -> Project:
        """The project that the file or folder `start` belongs to: the nearest folder upwards with a hooke.toml, else its own."""
        root = cls.root_of(start)
        return cls(root=root, settings=read_settings(root) if (root / FILE).is_file() else Settings())

    @staticmethod
    def root_of(start: Path) -> Path:
        """The folder of that project, whatever its settings are."""
        folder = (start if start.is_dir() else start.parent).resolve()
        return next((one for one in (folder, *folder.parents) if (one / FILE).is_file()), folder)

    @property
    def data(self) -> Path:
        """`.hooke`, which holds store and journals, whether or not it exists: to look at a project makes nothing in it."""
        return self.kept or self.root / ".hooke"

    def create(self) -> Path:
        """Make `.hooke`, with a .gitignore that leaves it out, if it does not exist. Raises HookeError."""
        folder = self.data
        if not (folder / ".gitignore").is_file():
            with writing("the project's folder", folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        return folder

    @property
    def runs(self) -> RunsFolder:
        """The runs of this project."""
        return RunsFolder(self.data / "runs")

    @property
    def plans(self) -> PlansFolder:
        """The plans of this project."""
        return PlansFolder(self.data / "plans")

    def store(self) -> Store:
        """The store of this project. Raises ConfigError where a shared one has no secret."""
        settings = self.settings.store
        url = settings.url or str(self.data / "store")
        if not urlsplit(url).scheme:
            url = str(self.root / url)
        return Store.open(url, secret=self.secret())

    @property
    def seed(self) -> int:
        """What is part of every key: HOOKE_SEED, else `[run] seed`, else 0. Raises ConfigError."""
        said = os.environ.get(SEED)
        if said is None:
            return self.settings.run.seed
        try:
            return int(said)
        except ValueError:
            raise ConfigError(f"{SEED}={said!r} is no whole number", mend=f"{SEED}=7, or unset it") from None

    def secret(self) -> bytes | None:
        """What signs the objects of a shared store; None where hooke.toml names none. Raises ConfigError."""
        name = self.settings.store.secret_file
        if not name:
            return None
        path = self.root / name
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"store.secret_file: {path} cannot be read", why=str(error)) from error
        if len(secret) < 16:
            raise ConfigError(
                f"store.secret_file: {path} holds {len(secret)} bytes; at least 16 are needed",
                mend="python -c 'import secrets; print(secrets.token_hex())' > " + name,
            )
        return secret
