"""What a test needs besides Python packages, as one mark with a value: `@pytest.mark.needs("chromium")`.

Where it is missing, the test is skipped, and the reason is the command that installs it. `HOOKE_REQUIRE=all`, or a list as in
`HOOKE_REQUIRE=chromium,root`, makes such tests fail instead. `python -m tests.support.needs` lists what this machine has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NoReturn

import pytest
from tests.support import REPOSITORY, hosts, pythons

__all__ = ["NEEDS", "PREFIX", "REQUIRE", "Need", "is_there", "missing", "required", "skip_without"]

REQUIRE = "HOOKE_REQUIRE"
PREFIX = "needs "
"""The beginning of each reason of a skip: `needs chromium: apt-get install chromium`."""
SYS_ADMIN = 1 << 21
"""The capability to mount file systems, as a bit of `CapEff` in /proc/self/status."""


@dataclass(frozen=True)
class Need:
    """`is_there()` says whether this machine has it, and `how` is the command or the sentence that says how to get it."""

    is_there: Callable[[], object]
    how: str
    in_ci: bool = True
    """Whether `HOOKE_REQUIRE=all` asks for it: the machines of CI have it."""


def find_program(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


def find_package(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def find_root() -> bool:
    """Whether this process may mount file systems."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    status = Path("/proc/self/status").read_text("ascii")
    (granted,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(granted, 16) & SYS_ADMIN)


def find_kubernetes() -> bool:
    """Whether a cluster can be started here, or the user has named one (`--kubernetes`)."""
    from tests.kubernetes import build  # it imports what only its tests need

    if os.environ.get("HOOKE_TEST_KUBERNETES"):
        return True
    return not hosts.why_not() and not build.why_not() and build.folder().is_dir()


def find_postgresql() -> bool:
    return os.geteuid() == 0 and any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def find_gpu() -> bool:
    if not Path("/dev/nvidiactl").exists() or not find_package("torch")():
        return False  # to import PyTorch takes seconds
    import torch

    return torch.cuda.is_available()


def find_disk() -> bool:
    """Whether temporary files are on a disk: a write that reaches one takes more than 50 us."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"x" * 4096)
        began = time.monotonic()
        os.fsync(file.fileno())
        return time.monotonic() - began > 0.00005


def find_user_namespaces() -> bool:
    tried = ["unshare", "--user", "--map-root-user", "true"]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    )


def always() -> bool:
    return True


EVERYWHERE = {
    "processes": Need(always, "make test"),
    "cpu": Need(always, "make test"),
}
"""What every machine has: only `make unit` leaves out tests that start processes, or compute for more than 0.3 s."""

NEEDS = EVERYWHERE | {
    "airflow": Need(always, "pip, which makes .venv-airflow"),
    "c compiler": Need(find_program("cc"), "apt-get install gcc libc6-dev"),
    "chromium": Need(find_program("chromium"), "apt-get install chromium"),
    "curl": Need(find_program("curl"), "apt-get install curl"),
    "disk": Need(find_disk, "TMPDIR=FOLDER, a folder on a disk"),
    "docker-registry": Need(find_program("docker-registry"), "apt-get install docker-registry"),
    "git": Need(
        (REPOSITORY / ".git").exists, "git clone: only a checkout says which files are the project's"
    ),
    "gpu": Need(find_gpu, "a GPU that PyTorch can use", in_ci=False),
    "hosts": Need(lambda: not hosts.why_not(), "root, and apt-get install iproute2 util-linux"),
    "kubernetes": Need(
        find_kubernetes,
        "root, apt-get install containerd runc containernetworking-plugins nftables iproute2, and make kubernetes",
    ),
    "mmdebstrap": Need(
        find_program("mmdebstrap"), "root, and apt-get install mmdebstrap debian-archive-keyring"
    ),
    "kubeflow": Need(always, "pip, which makes .venv-kfp"),
    "mlserver": Need(always, "pip, which makes .venv-mlserver"),
    "numba": Need(
        find_package("numba"), "pip install numba, which is too large for the tests' extra", in_ci=False
    ),
    "package index": Need(always, "pip that reaches an index"),
    "prefect": Need(always, "pip, which makes .venv-prefect"),
    "postgresql": Need(find_postgresql, "root, and apt-get install postgresql"),
    "root": Need(find_root, "root, with the right to mount"),
    "systemd": Need(find_program("systemd-analyze"), "apt-get install systemd"),
    "tensorflow": Need(always, "pip, which makes .venv-tensorflow"),
    "user namespaces": Need(find_user_namespaces, "a kernel that lends them, and apt-get install util-linux"),
    **{
        f"python{version}": Need(
            partial(pythons.find_python, version), f"a Python {version} on PATH or among pyenv's", in_ci=False
        )
        for version in pythons.VERSIONS
    },
}


@cache
def is_there(name: str) -> bool:
    """Whether this machine has it. Raises UsageError for a name that NEEDS does not list."""
    if name not in NEEDS:
        raise pytest.UsageError(f"needs({name!r}): it is none of {', '.join(sorted(NEEDS))}")
    return bool(NEEDS[name].is_there())


def missing(names: Iterable[str]) -> str | None:
    """The first of these names that this machine lacks."""
    return next((name for name in names if not is_there(name)), None)


def required() -> frozenset[str]:
    """The names that HOOKE_REQUIRE asks for. Raises UsageError for one that NEEDS does not list."""
    asked = set(filter(None, os.environ.get(REQUIRE, "").split(",")))
    if unknown := asked - NEEDS.keys() - {"all"}:
        raise pytest.UsageError(
            f"{REQUIRE}: {', '.join(sorted(unknown))} is none of all, {', '.join(sorted(NEEDS))}"
        )
    of_ci = {name for name, need in NEEDS.items() if need.in_ci} if "all" in asked else set()
    return frozenset(asked | of_ci)


def skip_without(name: str, why: str = "") -> NoReturn:
    """Skip the running test for want of `name`, or fail it where HOOKE_REQUIRE asks for that."""
    reason = f"{PREFIX}{name}: {why or NEEDS[name].how}"
    if name in required():
        pytest.fail(f"{REQUIRE}={os.environ[REQUIRE]}, and this test {reason}", pytrace=False)
    pytest.skip(reason)


if __name__ == "__main__":
    for name in sorted(NEEDS):
        print(f"{name:16}{'there' if is_there(name) else f'missing: {NEEDS[name].how}'}")
