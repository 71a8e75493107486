"""The project that code belongs to."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hooke.pipeline.frames import is_users
from hooke.pipeline.pipeline import Pipeline
from hooke.project.folder import Project

__all__ = ["project_of", "start_of"]


def project_of(pipeline: Pipeline[..., Any]) -> Project:
    """The project of a pipeline that is called from Python."""
    return Project.find(start_of(sys.modules.get(pipeline.function.__module__)))


def start_of(module: ModuleType | None = None) -> Path:
    """Where to look for the project: the running script's file, else the module's, else the working directory.

    The script is not always the user's: pytest, IPython or a worker of ours may run the code.
    """
    for each in (sys.modules.get("__main__"), module):
        file = Path(getattr(each, "__file__", None) or "")
        if file.is_file() and (each is module or file.suffix == ".py") and is_users(str(file.resolve())):
            return file
    return Path.cwd()
