"""How a Python process of ours is started: with the flags of this one, so that code means the same in both."""

from __future__ import annotations

import sys

__all__ = ["python_module"]


def python_module(module: str, *arguments: str) -> list[str]:
    """The command of `python -m module arguments`, with this process's `-O` and `-W`; its folder is not put on `sys.path`."""
    flags = ["-O"] * sys.flags.optimize + [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, "-P", *flags, "-m", module, *arguments]
