"""The first process of a host (`tests.support.hosts`): makes what it has private, says `ready`, and buries the dead.

    python -m tests.support.host_init DISK_BYTES KEEP...

It runs as process 1 of namespaces of its own; its end is the end of every process of the host.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["DISK", "HOME", "PROJECT", "main"]

DISK = Path("/tmp")
PROJECT = DISK / "project"
HOME = DISK / "home"
NAMES = DISK / "hosts"
"""What /etc/hosts is in there."""

PRIVATE = ("/run", "/var/tmp", "/dev/shm")
ASIDE = Path("/mnt")
KERNEL = frozenset(
    {"proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs", "debugfs", "bpf"}
)
"""File systems that hold no files of anybody, or only devices."""
CONTROL_GROUPS = frozenset({"cgroup", "cgroup2"})


def main(arguments: Sequence[str]) -> None:
    """Becomes the host's init; ends when it is killed."""
    disk_bytes, *keep = arguments
    _mount(int(disk_bytes), [Path(each) for each in keep])
    _run("ip link set lo up")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.close(sys.stdout.fileno())
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


def _mount(disk_bytes: int, keep: Sequence[Path]) -> None:
    """A disk of its own, nothing else to write to; `keep`: what programs are read from, wherever it lies."""
    hidden = [path for path in keep if any(path.is_relative_to(each) for each in (DISK, *PRIVATE))]
    _run("mount --make-rprivate /")
    for place, kind in _mounts():
        if kind in CONTROL_GROUPS and not Path(place).is_relative_to("/sys"):
            _run(f"umount --lazy {shlex.quote(place)}")  # somebody's: a kubelet would look for its own there
    _run(f"mount -t tmpfs none {ASIDE}")
    for number, path in enumerate(hidden):
        (ASIDE / str(number)).mkdir()
        _run(f"mount --bind {shlex.quote(str(path))} {ASIDE / str(number)}")
    for place in _mount_points():
        _run(f"mount -o remount,bind,ro {shlex.quote(place)}")
    _run(f"mount -t tmpfs -o size={disk_bytes} none {DISK}")
    for place in PRIVATE:
        if Path(place).is_dir():
            _run(f"mount -t tmpfs -o size={disk_bytes} none {Path(place).resolve()}")
    for number, path in enumerate(hidden):
        path.mkdir(parents=True, exist_ok=True)
        _run(f"mount --move {ASIDE / str(number)} {shlex.quote(str(path))}")
    _run(f"umount {ASIDE}")
    PROJECT.mkdir()
    HOME.mkdir()
    NAMES.write_text("127.0.0.1 localhost\n", encoding="ascii")
    _run(f"mount --bind {NAMES} /etc/hosts")


def _mount_points() -> list[str]:
    """Where files lie that a process of the host might write to."""
    found = [
        place for place, kind in _mounts() if kind not in KERNEL and not Path(place).is_relative_to("/dev")
    ]
    return [place for place in dict.fromkeys(found) if Path(place).exists()]


def _mounts() -> list[tuple[str, str]]:
    """Each mounted place, and the kind of its file system."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        found.append((before.split()[4].encode().decode("unicode_escape"), after.split()[0]))
    return found


def _run(command: str) -> None:
    subprocess.run(shlex.split(command), check=True)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    main(sys.argv[1:])
