"""Images without Docker: archives as `docker save` writes them, made of files of this machine.

An image has one layer. Owners, times and order are fixed, so that two builds of the same files are equal byte by byte.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

__all__ = ["PAUSE", "PYTHON", "ROOT", "write_image", "write_pause", "write_python", "write_root"]

PAUSE = "hooke.test/pause:1"
PYTHON = "hooke.test/python:1"
ROOT = "hooke.test/root:1"
"""Its program would run as root."""

LEFT_OUT = {
    "__pycache__",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
"""Of Python's own library: what no pod of a test imports."""
WHEELS = (
    "_polars_runtime_32",
    "blake3",
    "cryptography",
    "msgspec",
    "numpy",
    "psutil",
    "sklearn",
    "tornado",
    "yaml",
)
"""Packages with native code that pods import."""
SHELL = ("/bin/sh", "/bin/cat", "/bin/sleep", "/usr/bin/env", "/usr/bin/timeout")


def write_image(
    archive: Path,
    name: str,
    files: Mapping[str, Path],
    *,
    config: Mapping[str, object],
    folders: Iterable[str] = (),
) -> None:
    """An archive of one image called `name`. `files`: path inside -> file, of which the content and the x bit are taken."""
    layer = archive.with_suffix(".layer")
    with layer.open("w+b") as raw:
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            above = {str(each) for inside in [*files, *folders] for each in [*Path(inside).parents][:-1]} | {
                *folders
            }
            for folder in sorted(above):
                tar.addfile(_entry(folder, kind=tarfile.DIRTYPE, mode=0o1777 if folder == "/tmp" else 0o755))
            for inside, file in sorted(files.items()):
                with file.open("rb") as read:
                    facts = os.fstat(read.fileno())
                    mode = 0o755 if facts.st_mode & 0o100 else 0o644
                    tar.addfile(_entry(inside, mode=mode, size=facts.st_size), read)
        raw.seek(0)
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    text = json.dumps(about, sort_keys=True).encode()
    named = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": named, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for inside, content in ((named, text), ("manifest.json", json.dumps(manifest).encode())):
            tar.addfile(_entry(inside, size=len(content)), io.BytesIO(content))
        with layer.open("rb") as read:
            tar.addfile(_entry(f"{digest}.tar", size=layer.stat().st_size), read)
    layer.unlink()


def write_pause(archive: Path, program: Path) -> None:
    """What holds a pod's namespaces."""
    write_image(archive, PAUSE, {"/pause": program}, config={"Entrypoint": ["/pause"], "User": "65535:65535"})


def write_root(archive: Path, program: Path) -> None:
    """An image that names no user."""
    write_image(archive, ROOT, {"/pause": program}, config={"Entrypoint": ["/pause"]})


def write_python(archive: Path) -> None:
    """This Python at the path that it has here, with its shared libraries and a shell: no packages, which pods mount.

    The environment of the tests has gigabytes, which a copy would not make more real; a worker's Python is the driver's.
    """
    home = Path(sys.base_prefix)
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": str(home), "base": str(home)}))
    # As the environment names it: its links lead through other names of the same folder.
    program = Path(os.path.realpath(sys.executable))
    found = {program, *(each for each in _files(library))}
    for extra in (sysconfig.get_config_var("INSTSONAME"),):
        if extra and (at := home / "lib" / extra).is_file():
            found.add(at)
    files = {str(path): path for path in found} | {str(program.with_name("python")): program}
    binaries = [program, *(Path(each) for each in SHELL), *(path for path in found if ".so" in path.name)]
    # Wheels bring their libraries along, but for those of the compiler.
    for package in WHEELS:
        binaries += [*Path(find_spec(package).origin).parent.rglob("*.so")]
    files |= {each: Path(each) for each in _libraries(binaries) if not Path(each).is_relative_to(sys.prefix)}
    files |= {each: Path(each) for each in SHELL}
    files[str(program.parent / "python3")] = program  # as in other images of Python
    path = os.pathsep.join([str(program.parent), "/usr/bin", "/bin"])
    config = {"Env": [f"PATH={path}", "HOME=/tmp"], "User": "65534:65534", "Cmd": [str(program)]}
    write_image(
        archive, PYTHON, files, config=config, folders=["/tmp", "/proc", "/dev", "/sys", "/etc", "/run"]
    )


def _files(folder: Path) -> Iterable[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if each not in LEFT_OUT]
        yield from (Path(at, name) for name in names if not name.endswith(".a"))


def _libraries(binaries: Iterable[Path]) -> set[str]:
    """What the dynamic loader would load for these, by the paths that it looks at."""
    said = subprocess.run(
        ["ldd", *(str(each) for each in binaries)], capture_output=True, text=True, check=False
    ).stdout
    words = (word for line in said.splitlines() if not line.endswith(":") for word in line.split())
    return {word for word in words if word.startswith("/") and Path(word).is_file()}


def _entry(
    inside: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, size: int = 0
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(inside.lstrip("/"))
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry
