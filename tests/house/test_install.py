"""What a user installs: the wheel and the sdist, built here, and the README's first minute in environments that have nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.house import snippets
from tests.support.needs import skip_without
from tests.support.pythons import RUNNING, VERSIONS, find_python

from hooke.base.distributions import DISTRIBUTION, HOOKE_VERSION
from hooke.engines.remote.handshake import unpack_tar

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 250_000_000
"""What a user without any extra has on the disk: Hooke, all that it brings, and their bytecode."""
OFFLINE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|Temporary failure in name|Network is unreach"
)

pytestmark = pytest.mark.needs("processes")


def tracked() -> list[str]:
    """The files of this repository."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        skip_without("git")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that is made of the sdist alone."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    for place in ("src/hooke", "examples/flights", "tests"):  # where runs in a checkout leave it
        (copy / place / ".hooke" / "runs").mkdir(parents=True)
        (copy / place / ".hooke" / "runs" / "kept").write_text("results", "utf-8")
    build("sdist", copy, out)
    with tarfile.open(sdist(out)) as archive:
        unpack_tar(archive, out / "unpacked")
    (unpacked,) = (out / "unpacked").iterdir()
    build("wheel", unpacked, out)
    return out


def build(target: str, folder: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def sdist(out: Path) -> Path:
    return out / f"{DISTRIBUTION.replace('-', '_')}-{HOOKE_VERSION}.tar.gz"


def wheel(out: Path) -> Path:
    return out / f"{DISTRIBUTION.replace('-', '_')}-{HOOKE_VERSION}-py3-none-any.whl"


@pytest.mark.long
def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(wheel(built)) as archive:
        names = set(archive.namelist())
    about = f"{DISTRIBUTION.replace('-', '_')}-{HOOKE_VERSION}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"hooke", about}
    assert not [name for name in names if ".hooke" in name.split("/") or "__pycache__" in name]
    package = {name.removeprefix("src/") for name in tracked() if name.startswith("src/hooke/")}
    example = {
        name.replace("examples/flights/", "hooke/demo_files/flights/")
        for name in tracked()
        if name.startswith("examples/flights/") and not name.endswith(".md")
    }
    assert {name for name in names if name.startswith("hooke/")} == package | example


def test_the_sdist_has_what_tests_and_docs_need_and_no_results(built: Path) -> None:
    with tarfile.open(sdist(built)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in names if ".hooke" in name.split("/")]
    wanted = {
        name
        for name in tracked()
        if name.startswith(("src/", "tests/", "docs/", "examples/", "benchmarks/"))
        or name in {"README.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "CHANGELOG.md"}
    }
    assert not wanted - names


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "version",
    [
        RUNNING,
        *(
            pytest.param(version, marks=[pytest.mark.needs(f"python{version}"), pytest.mark.long])
            for version in VERSIONS
            if version != RUNNING
        ),
    ],
)
def test_the_first_minute_of_the_readme_in_an_empty_environment(
    built: Path, tmp_path: Path, version: str
) -> None:
    python = find_python(version)
    assert python is not None
    whole = python == sys.executable  # elsewhere without bytecode, which takes seconds to make
    subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    commands = tmp_path / "env" / "bin"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--quiet"),
            *("--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), str(wheel(built))),
            *([] if whole else ["--no-compile"]),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode and OFFLINE.search(installed.stderr):
        skip_without("package index")
    assert installed.returncode == 0, installed.stderr

    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    size = sum(file.lstat().st_size for file in site.rglob("*") if not file.is_dir())
    assert size < MOST_BYTES, f"a user without extras installs {size / 1e6:.0f} MB"
    print(f"Python {version}: {size / 1e6:.1f} MB, {'with' if whole else 'without'} bytecode")

    (first_minute,) = re.findall(
        r"^## The first minute\n.*?(?=^## )",
        (ROOT / "README.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    house = (
        tmp_path / "reader" / "tests" / "house"
    )  # what reads a page; nothing else of the repository is on the path
    house.mkdir(parents=True)
    for name in ("page_runtime.py", "snippets.py"):
        shutil.copy(ROOT / "tests" / "house" / name, house / name)
    work = tmp_path / "work"
    work.mkdir()
    (work / "page.py").write_text(snippets.script_of(first_minute), "utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOOKE", "PYTHON"))
    }
    environment |= {
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(tmp_path / "reader"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }

    def said(*command: str) -> str:
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    said(str(commands / "python"), "page.py")
    where = "import hooke; print(hooke.__version__, hooke.__file__)"
    assert said(str(commands / "python"), "-c", where).split() == [
        HOOKE_VERSION,
        str(site / "hooke" / "__init__.py"),
    ]
    assert said("hooke", "--version") == f"hooke {HOOKE_VERSION}\n"
    assert f'pip install "{DISTRIBUTION}[serve]"' in said("hooke", "doctor")
