"""Commands to type next: with the pipeline and its parameters, as they would be typed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hooke.pipeline.pipeline import Pipeline
from hooke.project.loading import entry_of

__all__ = ["command_for", "measure_command"]


def command_for(verb: str, pipeline: Pipeline[..., Any], params: Mapping[str, Any], *options: str) -> str:
    """`hooke VERB FILE.py:NAME OPTIONS PARAMETERS`. What cannot be typed is left to the reader as `...`."""
    file = entry_of(pipeline).file
    if file is None:
        return f"hooke {verb} FILE.py {' '.join(options)}".rstrip()
    target = f"{_short(file)}:{entry_of(pipeline).name}"
    return " ".join([*map(shlex.quote, ["hooke", verb, target, *options]), *_typed(params)])


def measure_command(pipeline: Pipeline[..., Any], params: Mapping[str, Any], *, task: str, n: int) -> str:
    """`hooke measure` of the task at every power of 2 up to `n`, and `n`."""
    levels = [1]
    while levels[-1] < max(n, 2):
        levels.append(min(2 * levels[-1], max(n, 2)))
    workers = ",".join(map(str, levels))
    return command_for("measure", pipeline, params, "--task", task, "--workers", workers)


def _short(file: Path) -> str:
    relative = os.path.relpath(file)
    return relative if len(relative) < len(str(file)) else str(file)


def _typed(params: Mapping[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
        elif isinstance(value, (int, float, str, os.PathLike)):
            yield f"{flag} {shlex.quote(os.fspath(value) if isinstance(value, os.PathLike) else str(value))}"
        else:
            yield f"{flag} ..."
