"""The interpreter and the machine: what an answer's last bits may hang on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from hooke.base.cpus import cpus_here, processor

__all__ = ["gpus", "hardware", "interpreter", "threads"]

THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "TBB_NUM_THREADS",
    "TORCH_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED",
)  # fmt: skip
"""Variables that change in which order numbers are added, or sets are gone through."""
NVIDIA = Path("/proc/driver/nvidia")


def interpreter() -> dict[str, str]:
    """Python, its build and what it runs on."""
    libc = " ".join(platform.libc_ver()).strip()
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "flags": " ".join(["-O" * sys.flags.optimize] if sys.flags.optimize else []),
        "system": f"{platform.system()} {platform.machine()}",
        "libc": libc,
    }


def threads(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Those of the variables that are set."""
    environment = os.environ if environment is None else environment
    return {name: environment[name] for name in THREADS if name in environment}


def hardware() -> dict[str, str]:
    """Processor, cores that we may use, memory in whole GiB, and GPUs with their driver."""
    facts = {
        "cpu": processor(),
        "cores": str(cpus_here()),
        "memory": f"{round(psutil.virtual_memory().total / 2**30)} GiB",
    }
    return facts | ({"gpus": found} if (found := gpus()) else {})


def gpus(folder: Path = NVIDIA) -> str:
    """The GPUs that NVIDIA's driver names, and its version; empty where there is none."""
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
