"""How a service is asked: the file of its token, and a line for the shell."""

from __future__ import annotations

import inspect
import os
import shlex
from pathlib import Path

from hooke.project.folder import Project
from hooke.serving.exposure import Exposure
from hooke.serving.service import Service
from hooke.serving.tokens import kept_token

__all__ = ["how_to_ask", "token_file_of"]


def token_file_of(declared: Service, project: Project, exposure: Exposure) -> Path | None:
    """The file of the token that is asked for, made where there is none; None where no token is. Raises as `kept_token`."""
    if not exposure.auth:
        return None
    if exposure.token_file is not None:
        return exposure.token_file
    path = project.create() / "services" / declared.name / "token"
    kept_token(path)
    return path


def how_to_ask(declared: Service, exposure: Exposure, token_file: Path | None, address: str) -> str:
    """A line that asks it, to be pasted into a shell."""
    name, function = next(iter(declared.methods().items()))
    fields = ", ".join(f'"{field}": ...' for field in list(inspect.signature(function).parameters)[1:])
    words = ["curl"]
    if exposure.tls is not None:
        words.append(f"--cacert {shlex.quote(_short(exposure.tls.cert))}")
    if token_file is not None:
        words.append(f'-H "Authorization: Bearer $(cat {shlex.quote(_short(token_file))})"')
    words.append(f"-H content-type:application/json -d '{{{fields}}}' {address}/{name}")
    warned = (
        "" if token_file is not None else "--no-auth: whatever program of this machine asks is answered; "
    )
    return f"{warned}ask: {' '.join(words)}"


def _short(path: Path) -> str:
    """Seen from the working directory, where it is below that."""
    seen = os.path.relpath(path)
    return str(path) if seen.startswith("..") else seen
