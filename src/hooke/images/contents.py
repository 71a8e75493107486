"""What is in an image: a base with the right Python, the files of installed packages, and those of a project.

Packages are taken from this environment, file by file as their RECORD lists them, checked by its digests: the image holds the
bytes that run here, and no index is asked.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from hooke.base.distributions import DISTRIBUTION, normal_name
from hooke.base.errors import HookeError, UsageError
from hooke.images.layout import EPOCH, Image, ImageLayout, Inside, architecture
from hooke.images.requirements import wanted_packages

__all__ = [
    "BuildOrder",
    "build",
    "debian_base",
    "dockerfile",
    "packages_of",
    "project_files",
]

VENV = "opt/venv"
CODE = "app"
USER_ID = 65532
USER = f"{USER_ID}:{USER_ID}"
"""Nobody's own: what Kubernetes' restricted policy asks for."""
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
"""Debian's release with that Python."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = {"__pycache__", "node_modules", "build", "dist", "hooke-demo"}
GIVE_UP_S = 1800.0


class BuildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to build: `project` is the folder with the code, `packages` are requirements that installed distributions meet."""

    name: str
    project: Path
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)


def build(order: BuildOrder, layout: ImageLayout, base: Image) -> Image:
    """Add the packages and the code to `base`, an image in `layout`.

    The order of layers is that of change: the base, packages, code. Raises UsageError where the base has another Python or is of
    another machine, or where a package can't be taken as it is here.
    """
    program = _python_of(layout, base)
    packages, packages_diff = layout.add_layer(
        [*_environment(program), *packages_of(wanted_packages(order.packages))]
    )
    code, code_diff = layout.add_layer(project_files(order.project))
    return layout.add_image(
        order.name,
        [*base.layers, packages, code],
        _config(base.config, [packages_diff, code_diff], order.environment),
    )


def _config(base: Mapping[str, Any], added: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """That of the base, with what was added: who runs, where, and what is found on the path."""
    inside = dict(base.get("config") or {})
    variables = dict(each.partition("=")[::2] for each in inside.get("Env") or ())
    path = variables.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables |= {"PATH": f"/{VENV}/bin:{path}", "VIRTUAL_ENV": f"/{VENV}", "HOME": "/tmp"}  # noqa: S108 - the one folder that is writable in a pod
    variables |= environment
    inside |= {
        "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
        "User": USER,
        "WorkingDir": f"/{CODE}",
        "Entrypoint": None,
        "Cmd": ["hooke", "--help"],
    }
    steps = [
        {"created": EPOCH, "created_by": f"hooke image build: {what}"} for what in ("packages", "the project")
    ]
    return {
        **{name: value for name, value in base.items() if name not in ("created", "container", "id")},
        "created": EPOCH,
        "config": {name: value for name, value in sorted(inside.items()) if value is not None},
        "rootfs": {"type": "layers", "diff_ids": [*base["rootfs"]["diff_ids"], *added]},
        "history": [*(base.get("history") or ()), *steps],
    }


# --- The base.


def debian_base(layout: ImageLayout, *, fresh: bool = False) -> Image:
    """Debian with the Python of this process, made by mmdebstrap, which checks its packages by Debian's keys.

    The one that was made in this layout is used again, unless it shall be `fresh`. Raises UsageError where Debian has no such Python
    or the tool is missing.
    """
    suite = SUITES.get(MINOR)
    made = None if fresh else layout.base(f"debian-{suite}")
    return _new_debian(layout, suite) if made is None else made


def _new_debian(layout: ImageLayout, suite: str | None) -> Image:
    other = f"name a base with Python {MINOR}: hooke image build --base python:{MINOR}-slim"
    if suite is None:
        raise UsageError(f"no release of Debian has Python {MINOR}", fix=other)
    tool = shutil.which("mmdebstrap")
    if tool is None:
        raise UsageError(
            "mmdebstrap is not installed, which makes the base", fix=f"apt-get install mmdebstrap, or {other}"
        )
    with tempfile.TemporaryDirectory(dir=layout.folder) as folder:
        archive = Path(folder, "base.tar")
        command = [
            tool, "--quiet", "--variant=essential", f"--include=python{MINOR}-minimal,libpython{MINOR}-stdlib,ca-certificates,libstdc++6,libgomp1",
            "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*", suite, str(archive),
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env={**os.environ, "SOURCE_DATE_EPOCH": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIVE_UP_S,
            check=False,
        )
        if done.returncode:
            raise HookeError(
                "mmdebstrap could not make the base",
                why=done.stderr.strip()[-2000:] or f"exit code {done.returncode}",
                fix=f"see its lines above; or {other}",
            )
        layer, diff = layout.add_archive(archive)
    config = {
        "architecture": architecture(),
        "os": "linux",
        "created": EPOCH,
        "config": {"Cmd": [f"python{MINOR}"]},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created": EPOCH, "created_by": f"mmdebstrap {suite}"}],
    }
    return layout.add_base(f"debian-{suite}", [layer], config)


def _python_of(layout: ImageLayout, base: Image) -> str:
    """The path of the base's Python of this version, with a leading slash."""
    theirs = (base.config.get("os"), base.config.get("architecture"))
    if theirs != ("linux", architecture()):
        raise UsageError(
            f"the base is made for {theirs[0]} on {theirs[1]}, and the packages of this machine for linux on {architecture()}",
            fix="build where the image shall run, or use the lines of `hooke image dockerfile`",
        )
    if sys.platform != "linux":
        raise UsageError(
            f"packages of {sys.platform} do not run in an image for linux",
            fix="build on a Linux machine, or use the lines of `hooke image dockerfile`",
        )
    found: dict[str, str] = {}
    for layer in base.layers:
        for entry in layout.layer_names(layer):
            path = PurePosixPath("/", entry.name.removeprefix("./"))
            minor = re.fullmatch(r"python(3\.\d+)", path.name)
            if minor and str(path.parent) in ("/usr/bin", "/usr/local/bin") and not entry.isdir():
                found[minor[1]] = str(path)
    if MINOR not in found:
        raise UsageError(
            f"the base has no Python {MINOR}, with which this process runs",
            why=f"its Pythons: {', '.join(found) or 'none'}",
            fix=f"use a base with that one: --base python:{MINOR}-slim; or run Hooke with one of the base's Pythons",
        )
    return found[MINOR]


# --- Packages.


def packages_of(found: Iterable[Distribution]) -> Iterator[Inside]:
    """The files of distributions, where a virtual environment has them. Raises UsageError for a file that is not as it was installed."""
    for distribution in found:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable"):
            yield from _built(distribution, direct["url"])
        else:
            yield from _recorded(distribution)


def _recorded(distribution: Distribution) -> Iterator[Inside]:
    text = distribution.read_text("RECORD")
    if text is None:
        raise UsageError(
            f"{distribution.name} has no list of its files (RECORD), so it cannot be taken into an image",
            fix=f"install it with pip: {sys.executable} -m pip install --force-reinstall {distribution.name}",
        )
    root = Path(str(distribution.locate_file("")))
    for name, digest, _ in csv.reader(io.StringIO(text)):
        path = Path(os.path.normpath(root / name))
        if (
            path.suffix == ".pyc"
            or "__pycache__" in path.parts
            or path.name in ("direct_url.json", "INSTALLER", "REQUESTED")
        ):
            continue
        inside = _place(path, root, distribution)
        if path.parent == Path(sys.prefix, "bin") or path.parent == Path(sys.prefix, "Scripts"):
            yield Inside(path=inside, content=_script(path.read_bytes()), executable=True)
        else:
            _check(distribution, path, digest)
            yield Inside(path=inside, file=path)


def _place(path: Path, root: Path, distribution: Distribution) -> str:
    if path.is_relative_to(root):
        return f"{VENV}/lib/python{MINOR}/site-packages/{path.relative_to(root).as_posix()}"
    if path.is_relative_to(sys.prefix):
        return f"{VENV}/{path.relative_to(sys.prefix).as_posix()}"
    raise UsageError(
        f"{distribution.name} has a file outside its environment: {path}",
        fix="install it into a virtual environment, and build the image from there",
    )


def _check(distribution: Distribution, path: Path, recorded: str) -> None:
    kind, _, wanted = recorded.partition("=")
    if not wanted or kind not in hashlib.algorithms_guaranteed:
        return  # RECORD itself has none
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, kind).digest()
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != wanted:
        raise UsageError(
            f"{path} is not as {distribution.name} {distribution.version} was installed",
            why="its digest differs from the one in the list of installed files (RECORD)",
            fix=f"install it again: {sys.executable} -m pip install --force-reinstall {distribution.name}=={distribution.version}",
        )


def _script(content: bytes) -> bytes:
    """A program of an environment, to be run by the image's Python."""
    first, newline, rest = content.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        return f"#!/{VENV}/bin/python".encode() + newline + rest
    return content


def _built(distribution: Distribution, url: str) -> Iterator[Inside]:
    """An editable distribution, as the wheel that its project builds."""
    source = url.removeprefix("file://")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            folder,
            source,
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIVE_UP_S, check=False
        )
        wheels = [*Path(folder).glob("*.whl")]
        if done.returncode or len(wheels) != 1:
            raise HookeError(
                f"{distribution.name} is installed as editable from {source}, and no wheel could be built of it",
                why=(done.stderr or done.stdout).strip()[-2000:],
                fix="install it as a package, not as editable, or mend its build",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            yield from _unpacked(wheel)


def _unpacked(wheel: zipfile.ZipFile) -> Iterator[Inside]:
    """The files of a wheel, with a program for each of its console scripts."""
    site = f"{VENV}/lib/python{MINOR}/site-packages"
    for entry in wheel.infolist():
        if entry.is_dir():
            continue
        content = wheel.read(entry)
        top, _, rest = entry.filename.partition("/")
        if top.endswith(".data"):
            kind, _, rest = rest.partition("/")
            if kind in ("purelib", "platlib"):
                yield Inside(path=f"{site}/{rest}", content=content)
            elif kind == "scripts":
                script = content.replace(b"#!python", b"#!/usr/bin/env python", 1)
                yield Inside(path=f"{VENV}/bin/{rest}", content=_script(script), executable=True)
            else:
                yield Inside(path=f"{VENV}/{rest}", content=content)
            continue
        yield Inside(path=f"{site}/{entry.filename}", content=content)
        if entry.filename.endswith(".dist-info/entry_points.txt"):
            yield from _programs(content.decode())


def _programs(entry_points: str) -> Iterator[Inside]:
    section = ""
    for line in entry_points.splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == "console_scripts" and "=" in line:
            name, _, target = (part.strip() for part in line.partition("="))
            module, _, attribute = target.partition(":")
            lines = [
                f"#!/{VENV}/bin/python",
                "import sys",
                f"import {module}",
                f"sys.exit({module}.{attribute}())",
            ]
            yield Inside(
                path=f"{VENV}/bin/{name}", content=("\n".join(lines) + "\n").encode(), executable=True
            )


def _environment(program: str) -> list[Inside]:
    """What makes a folder a virtual environment of the Python at `program`."""
    home = str(PurePosixPath(program).parent)
    config = f"home = {home}\ninclude-system-site-packages = false\nversion = {MINOR}\n"
    names = ("python", "python3", f"python{MINOR}")
    return [
        Inside(path=f"{VENV}/pyvenv.cfg", content=config.encode()),
        *(Inside(path=f"{VENV}/bin/{name}", link=program) for name in names),
    ]


# --- The project.


def project_files(project: Path) -> list[Inside]:
    """The files of a project, owned by who runs them, since tasks write files beside them: in a git repository those that git does not ignore, else all but hidden folders, environments and caches.

    Raises UsageError where there are none.
    """
    found = _of_git(project)
    if found is None:
        found = _of_folder(project)
    if not found:
        raise UsageError(
            f"{project} has no files for the image", fix="name the folder of the project with --project"
        )
    return [
        Inside(path=f"{CODE}/{path.relative_to(project).as_posix()}", file=path, owner=USER_ID)
        for path in sorted(found)
    ]


def _of_git(project: Path) -> list[Path] | None:
    command = ["git", "-C", str(project), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    paths = (project / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [path for path in dict.fromkeys(paths) if path.is_file() and ".hooke" not in path.parts]


def _of_folder(project: Path) -> list[Path]:
    found: list[Path] = []
    for at, folders, names in os.walk(project):
        folders[:] = [
            each
            for each in folders
            if each not in LEFT_OUT and not each.startswith(".") and not Path(at, each, "pyvenv.cfg").exists()
        ]
        found += [path for name in names if (path := Path(at, name)).is_file() and not name.startswith(".")]
    return found


# --- For those who build with Docker.


def dockerfile(packages: Iterable[str]) -> str:
    """A Dockerfile that gives about the same image, its packages fetched from the index in the versions that are installed here."""
    found = wanted_packages(packages)
    pins = [f"    {each.name}=={each.version}" for each in found if normal_name(each.name) != DISTRIBUTION]
    own = next(each for each in found if normal_name(each.name) == DISTRIBUTION)
    lines = " \\\n".join([f"    {own.name}=={own.version}", *pins])
    return (
        f"FROM python:{MINOR}-slim\n"
        f"RUN python -m venv /{VENV} && /{VENV}/bin/pip install --no-cache-dir --no-deps \\\n{lines}\n"
        f"ENV PATH=/{VENV}/bin:$PATH VIRTUAL_ENV=/{VENV} HOME=/tmp\n"
        f"COPY --chown={USER} . /{CODE}\n"
        f"WORKDIR /{CODE}\n"
        f"USER {USER}\n"
        'CMD ["hooke", "--help"]\n'
    )
