"""Builds the programs of a Kubernetes cluster from Go modules, once: `make kubernetes`.

One binary has a name for each program (`main.go`), so it is linked once. What was built lies outside the clone,
below the digest of what it was built from, and is shared by all clones of a machine.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["PROGRAMS", "SOURCES", "CannotBuild", "build", "folder", "version", "why_not"]

HERE = Path(__file__).parent
SOURCES = ("go.mod", "go.sum", "main.go", "pause/main.go", "kwok/go.mod", "kwok/go.sum")
KWOK = "sigs.k8s.io/kwok/cmd/kwok"
"""Plays nodes and their kubelets. A binary of its own: it needs a newer Kubernetes than the cluster's."""
PROGRAMS = (
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
)
GO = (1, 26)
"""The version in go.mod: older ones do not read it, and none is fetched here."""
GO_BUILD = ("nice", "-n", "10", "go", "build", "-p", "2", "-trimpath")
DEBIAN = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
"""Program -> the package of Debian that has it."""


class CannotBuild(Exception):
    """Why there is no cluster, and what to do."""


def version() -> str:
    """The version of Kubernetes."""
    return re.search(r"k8s\.io/kubernetes (v\S+)", (HERE / "go.mod").read_text()).group(1)


def folder() -> Path:
    """Where the programs are, or will be."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(hashlib.sha256((HERE / name).read_bytes()).digest())
    digest.update(Path(__file__).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hooke-kubernetes" / digest.hexdigest()[:16]


def why_not() -> str:
    """Which programs are missing that are not built here, in a sentence; empty where none is."""
    missing = [package for program, package in DEBIAN.items() if not shutil.which(program)]
    return f"a cluster needs Debian's packages {', '.join(missing)}; next: apt-get install" if missing else ""


def build() -> Path:
    """Build what is not built yet, at the lowest priority on two cores; returns the folder. Raises CannotBuild."""
    made = folder()
    made.parent.mkdir(parents=True, exist_ok=True)
    with (made.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second build would only take the cores of the first
        if not made.is_dir():
            check_go()
            with tempfile.TemporaryDirectory(dir=made.parent) as half:
                go(Path(half) / "bin")
                (Path(half) / "bin").rename(made)
    return made


def check_go() -> None:
    if shutil.which("go") is None:
        raise CannotBuild(
            f"Kubernetes is built with Go, and there is no `go`; next: install Go {GO[0]}.{GO[1]}"
        )
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    if tuple(int(part) for part in re.findall(r"\d+", said)[:2]) < GO:
        raise CannotBuild(
            f"Kubernetes needs Go {GO[0]}.{GO[1]}, and this is {said.strip()}; next: install a newer one"
        )


def go(into: Path) -> None:
    into.mkdir()
    major, minor, _ = version().removeprefix("v").split(".")
    facts = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    told = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in facts.items())
    for below, package, name in ((".", ".", "kubernetes"), (".", "./pause", "pause"), ("kwok", KWOK, "kwok")):
        done = subprocess.run(
            [*GO_BUILD, "-ldflags", f"-s -w {told}", "-o", str(into / name), package],
            cwd=HERE / below,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"},
            check=False,
        )
        if done.returncode != 0:
            raise CannotBuild(f"`go build` of {name} failed: its own words are above")
    for program in PROGRAMS:
        (into / program).symlink_to("kubernetes")


def main() -> None:
    began, cpu = time.monotonic(), os.times()
    try:
        made = build()
    except CannotBuild as error:
        sys.exit(str(error))
    spent = sum(os.times()[:4]) - sum(cpu[:4])
    print(
        f"Kubernetes {version()} is in {made} ({time.monotonic() - began:.1f} s, {spent:.1f} s of CPU time)"
    )
    if reason := why_not():
        print(reason)


if __name__ == "__main__":
    main()
