"""Environments for peers that do not fit beside the others: each shares all libraries that it does not have itself, if it is to."""

from __future__ import annotations

import fcntl
import subprocess
import sysconfig
import venv
from pathlib import Path

__all__ = ["environment_python"]

ROOT = Path(__file__).parents[1]


def environment_python(name: str, *packages: str, shared: bool = True, alone: tuple[str, ...] = ()) -> Path:
    """Python of `.venv-NAME` with these packages, in the versions of constraints-NAME.txt. It is made if these have changed.

    If `shared`, all other libraries are those of this environment. Packages that stand `alone` bring nothing that they ask for. Raises RuntimeError, with what pip says, if it cannot be made.
    """
    folder, constraints = ROOT / f".venv-{name}", ROOT / f"constraints-{name}.txt"
    with constraints.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests of several processes may need it at once
        return _made(folder, constraints, packages, shared=shared, alone=alone)


def _made(
    folder: Path, constraints: Path, packages: tuple[str, ...], *, shared: bool, alone: tuple[str, ...]
) -> Path:
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.exists() or stamp.read_text() != constraints.read_text():
        venv.create(folder, with_pip=True, clear=True)
        if shared:
            own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
            (own / "shared.pth").write_text(
                f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
            )
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        pip = (*pip, "--no-warn-conflicts", "-c", constraints)
        for words in (packages, ("--no-deps", *alone) if alone else ()):
            if not words:
                continue
            done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{folder} cannot be made: {done.stderr}")
        stamp.write_text(constraints.read_text())
    return python
