"""Whether a worker is like the driver, and the code that it is sent: without any worker."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import venv
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from hooke.base.clock import SystemClock
from hooke.base.distributions import DISTRIBUTION, HOOKE_VERSION
from hooke.base.errors import EnvironmentMismatch, HookeError
from hooke.base.files import write_atomic
from hooke.engines.remote import handshake as project_code
from hooke.engines.remote.handshake import (
    DriverHandshake,
    HandshakeReply,
    KnownHosts,
    ProbeAnswer,
    check_environment,
    pack_code,
    packages_below,
    top_names,
    unpack_code,
    unpack_tar,
    versions_here,
)
from hooke.engines.remote.log_sync import LEFT, FilePiece, LogSync, write_piece
from hooke.engines.remote.worker_protocol import HostReport, HostSession, session_of
from hooke.keys.module_origin import PYTHON
from hooke.pipeline.engine import EngineContext
from hooke.store.store import Store

ROOT = Path(__file__).parents[3]

WANTED = {"python": "3.12", "polars": "1.35", "numpy": "2.4"}


def test_versions_of_this_process():
    found = versions_here(["python", "numpy", "no-such-thing", "numpy+no-such-thing"])
    numpy = found["numpy"]
    assert numpy
    assert found == {
        "python": PYTHON,
        "numpy": numpy,
        "no-such-thing": "",
        "numpy+no-such-thing": f"{numpy}+",
    }


def test_equal_ones_pass():
    check_environment("w", WANTED, {**WANTED, "more": "1"})


def test_the_error_lists_each_difference_with_its_fix():
    with pytest.raises(EnvironmentMismatch) as refused:
        check_environment("tcp://h:1", WANTED, {"python": "3.11", "polars": "1.20", "numpy": "2.4"})
    text = str(refused.value)
    assert "tcp://h:1" in text
    assert "polars: 1.35 on the driver, 1.20 on the worker" in text
    assert "pip install polars==1.35" in text
    assert "Python 3.12" in text
    assert "--allow-mismatch python --allow-mismatch polars" in text
    assert "numpy" not in text


def test_what_is_not_installed_there():
    with pytest.raises(
        EnvironmentMismatch, match=r"polars: 1\.35 on the driver, not installed on the worker"
    ):
        check_environment("w", {"polars": "1.35"}, {"polars": ""})


def test_what_is_insisted_on_passes():
    check_environment("w", WANTED, {**WANTED, "polars": "1.20"}, allowed=["polars"])


# -- environments --------------------------------------------------------------------------------------

ANSWERS = """
    import sys
    import msgspec
    from hooke.engines.remote.handshake import Probe, answer_probe
    from hooke.engines.remote.worker_protocol import HostSession

    asked = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=tuple[HostSession, Probe])
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer_probe(*asked)))
"""


@pytest.fixture
def driver(tmp_path: Path):
    context = EngineContext(
        run="suite",
        store=Store.open(tmp_path / "store"),
        logs=tmp_path / "logs",
        clock=SystemClock(),
        folder=tmp_path,
        requires={"shade": "1.0"},
    )
    made = DriverHandshake(context, "s")
    yield context, made
    made.close()


def answered(
    context: EngineContext, handshake: DriverHandshake, python: Path | str
) -> tuple[HostSession, ProbeAnswer]:
    """What a worker of this machine answers, in another environment or in this one."""
    done = subprocess.run(
        [python, "-c", textwrap.dedent(ANSWERS)],
        input=msgspec.msgpack.encode((session_of(context, kept_s=60.0), handshake.probe)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*_installed(), str(ROOT / "src")])},
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.msgpack.decode(done.stdout, type=tuple[HostSession, ProbeAnswer])


def _installed() -> list[str]:
    return [each for each in sys.path if each.endswith("site-packages")]


def test_what_a_host_has_answered_counts_for_a_minute(driver):
    context, handshake = driver
    facts = {
        "pid": 1,
        "host": "h",
        "python": PYTHON,
        "hooke": HOOKE_VERSION,
        "threads": 1,
        "memory": None,
        "gpus": 0,
    }
    answer = ProbeAnswer(shares=True, alike=True, versions=dict.fromkeys(handshake.names, "1.0"))
    reply = HandshakeReply(report=HostReport(id="w", **facts), answer=answer)
    known = KnownHosts()
    known.note("a", handshake, reply, 10.0)
    known.note(
        "b",
        handshake,
        msgspec.structs.replace(reply, answer=msgspec.structs.replace(answer, alike=False)),
        10.0,
    )
    assert known.of("a", handshake, 69.9) == reply
    assert known.of("a", handshake, 70.0) is None
    assert known.of("b", handshake, 20.0) is None, "it has folders of its own"
    more = replace(context, requires={"shade": "1.0", "glass": "1.0"})
    assert known.of("a", DriverHandshake(more, "s"), 20.0) is None, "it has not told that version"
    elsewhere = replace(context, logs=context.folder / "others" / "run" / "logs")
    assert known.of("a", DriverHandshake(elsewhere, "s"), 20.0) is None, "it may not see that folder"
    known.forget("a")
    assert known.of("a", handshake, 20.0) is None


def installed(folder: Path, version: str) -> None:
    """The distribution `shade`, without its code."""
    (folder / f"shade-{version}.dist-info").mkdir(parents=True)
    (folder / f"shade-{version}.dist-info" / "METADATA").write_text(
        f"Name: shade\nVersion: {version}\n", "utf-8"
    )


def test_hookes_own_version_is_that_of_the_code_that_runs(tmp_path: Path):
    assert versions_here([DISTRIBUTION, "polars"], [str(tmp_path)]) == {
        DISTRIBUTION: HOOKE_VERSION,
        "polars": "",
    }
    with pytest.raises(EnvironmentMismatch) as caught:
        check_environment("w", {DISTRIBUTION: "7.0"}, versions_here([DISTRIBUTION]))
    assert (
        caught.value.fix
        == "on the worker: pip install hooke-ml==7.0; or run anyway: --allow-mismatch hooke-ml"
    )


@pytest.mark.needs("cpu")
def test_two_environments_of_one_python_are_two(tmp_path: Path, driver):
    venv.create(tmp_path / "other", with_pip=False, symlinks=True)
    python = tmp_path / "other" / "bin" / "python"
    assert os.path.realpath(python) == os.path.realpath(sys.executable)
    (site,) = (tmp_path / "other" / "lib").glob("python*/site-packages")
    installed(site, "2.0")
    session, answer = answered(*driver, python)
    assert (answer.shares, answer.alike, answer.versions["shade"]) == (True, False, "2.0")
    assert session.fixed_path
    assert session.kept_s == 0.0, "its workers are of no use to another run"
    assert str(site) in session.sys_path
    with pytest.raises(EnvironmentMismatch, match=r"shade: 1\.0 on the driver, 2\.0 on the worker"):
        driver[1].check("w", answer)


@pytest.mark.needs("cpu")
def test_where_the_drivers_folders_are_used_their_versions_count(tmp_path: Path, driver, monkeypatch):
    installed(tmp_path / "folder", "1.0")
    monkeypatch.syspath_prepend(tmp_path / "folder")
    session, answer = answered(*driver, sys.executable)
    assert (answer.alike, answer.versions["shade"]) == (True, "1.0")
    assert session.kept_s == 60.0
    assert str(tmp_path / "folder") in session.sys_path
    driver[1].check("w", answer)


# -- code ----------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "sent_package" / "deep").mkdir(parents=True)
    for name in ("sent_package/__init__.py", "sent_package/deep/__init__.py"):
        (folder / name).write_text("", "utf-8")
    (folder / "sent_package" / "deep" / "mod.py").write_text("VALUE = 1\n", "utf-8")
    (folder / "sent_package" / "data.csv").write_text("1\n", "utf-8")
    (folder / "sent_package" / ".hidden").write_text("x", "utf-8")
    (folder / "sent_alone.py").write_text("from sent_package.deep import mod\n", "utf-8")
    (folder / "sent_later.py").write_text("", "utf-8")
    (folder / "unrelated.csv").write_text("", "utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(sys.modules)
    import sent_alone  # noqa: F401  # pyrefly: ignore[missing-import]

    yield folder
    for name in set(sys.modules) - before:
        sys.modules.pop(name)


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        return [each for each in archive.getnames() if each.startswith(("sent_", "unrelated"))]


@pytest.mark.needs("cpu")
def test_packages_go_whole_and_modules_with_those_beside_them(project: Path):
    assert names(pack_code()) == [
        "sent_alone.py",
        "sent_later.py",
        "sent_package/__init__.py",
        "sent_package/data.csv",
        "sent_package/deep/__init__.py",
        "sent_package/deep/mod.py",
    ]


@pytest.mark.needs("cpu")
def test_the_folders_of_packages_are_named_by_the_project(project: Path):
    found = packages_below(project, top_names())
    assert found["sent_package"] == "sent_package"
    assert "sent_alone" not in found, "no data travels with a module"
    assert packages_below(project.parent, top_names())["sent_package"] == "project/sent_package"
    assert "sent_package" not in packages_below(project / "sent_package" / "deep", top_names())
    assert packages_below(None, top_names()) == {}


@pytest.mark.needs("cpu")
def test_metadata_beside_the_source_does_not_keep_it_from_being_sent(project: Path):
    (project / "sent_package.egg-info").mkdir()
    (project / "sent_package.egg-info" / "PKG-INFO").write_text("Name: sent_package\nVersion: 1.0\n", "utf-8")
    assert "sent_package/deep/mod.py" in names(pack_code())


@pytest.mark.needs("cpu")
def test_the_same_code_is_the_same_archive(project: Path):
    first = pack_code()
    os.utime(project / "sent_alone.py", (0, 0))
    assert pack_code() == first
    (project / "sent_alone.py").write_text("", "utf-8")
    assert pack_code() != first


@pytest.mark.needs("cpu")
def test_it_is_unpacked_once_where_nobody_else_can_write(project: Path):
    data = pack_code()
    folder = Path(unpack_code(data))
    assert (folder / "sent_package" / "deep" / "mod.py").read_text("utf-8") == "VALUE = 1\n"
    assert unpack_code(data) == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.parent.chmod(0o777)
    with pytest.raises(HookeError, match="others can write"):
        unpack_code(data)


@pytest.mark.parametrize("old", [False, True], ids=["with a filter", "as Python 3.11.3"])
@pytest.mark.parametrize(
    ("name", "kind"), [("../out", tarfile.REGTYPE), ("/out", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)]
)
def test_nothing_is_unpacked_outside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old, name, kind
):
    if old:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "../.."
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        made.addfile(tarfile.TarInfo("in"))
        made.addfile(entry)
    with tarfile.open(tmp_path / "a.tar") as archive:
        try:
            unpack_tar(archive, tmp_path / "folder")
        except tarfile.TarError:
            pass
        else:
            assert name == "/out" and not old, "the filter leads an absolute name into the folder"
    assert not (tmp_path / "out").exists() and not (tmp_path / "folder" / "link").is_symlink()
    with tarfile.open(tmp_path / "b.tar", "w") as made:
        made.addfile(tarfile.TarInfo("in"))
    with tarfile.open(tmp_path / "b.tar") as archive:
        unpack_tar(archive, tmp_path / "well")
    assert (tmp_path / "well" / "in").is_file()


@pytest.mark.needs("cpu")
def test_data_among_the_code_is_refused_by_size(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(project_code, "MOST_BYTES", 100_000_000)
    (project / "sent_package" / "large.bin").write_bytes(bytes(2_000_000))
    pack_code()
    monkeypatch.setattr(project_code, "MOST_BYTES", 1_000_000)
    with pytest.raises(HookeError, match="the most that is sent to workers"):
        pack_code()


def test_a_folder_that_is_a_link_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a folder that all can write to it may be another user's, who leads it elsewhere after the look."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / f"hooke-{os.getuid()}").symlink_to(tmp_path / "mine")
    with pytest.raises(HookeError, match="others can write to"):
        project_code.private_folder("code")


# -- files that grow -----------------------------------------------------------------------------------


def test_a_file_that_grows_is_the_same_elsewhere(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "logs").mkdir(parents=True)
    log_sync = LogSync(here)
    log = here / "logs" / "a.log"
    for text in ("first\n", "x" * 100_000, "last\n"):
        with log.open("a") as file:
            file.write(text)
        for piece in log_sync.take():
            write_piece(there, piece)
        assert (there / "logs" / "a.log").read_bytes() == log.read_bytes()
    assert log_sync.take() == []


def test_a_large_artifact_stays_and_that_is_said(tmp_path: Path):
    (tmp_path / "artifacts" / "1").mkdir(parents=True)
    (tmp_path / "artifacts" / "1" / "model.bin").write_bytes(bytes((1 << 20) + 1))
    (tmp_path / "artifacts" / "1" / "small.bin").write_bytes(b"small")
    (tmp_path / "artifacts" / "1" / ".part").write_bytes(b"half")
    log_sync = LogSync(tmp_path)
    small, note = sorted(log_sync.take(), key=lambda piece: piece.path)
    assert small.path == "artifacts/1/small.bin"
    assert LEFT in note.path
    assert f"{tmp_path}/artifacts/1/model.bin" in note.data.decode()
    assert log_sync.take() == []
    log_sync.end()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.bin"]


def test_of_a_log_that_is_too_large_the_beginning_is_brought_and_the_rest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("hooke.engines.remote.log_sync.LARGEST_LOG", 100_000)
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * 150_000)
    log_sync = LogSync(tmp_path)
    *pieces, note = log_sync.take()
    assert sum(len(piece.data) for piece in pieces) == 100_000
    assert "all of logs/a.log" in note.data.decode()
    log_sync.end()
    assert log.stat().st_size == 150_000


def test_an_artifact_that_is_replaced_is_replaced_elsewhere(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    log_sync = LogSync(here)
    artifact = here / "artifacts" / "model.bin"
    artifact.parent.mkdir(parents=True)
    for data in (b"a" * 30_000, b"b" * 40_000, b"c" * 40_000, b"d"):
        write_atomic(artifact, data)
        for piece in log_sync.take():
            write_piece(there, piece)
        assert (there / "artifacts" / "model.bin").read_bytes() == data
    log_sync.end()
    assert not here.exists()


def test_what_a_task_writes_for_itself_is_not_brought(tmp_path: Path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data.csv").write_text("1")
    (tmp_path / "driver.journal").write_text("2")
    assert LogSync(tmp_path).take() == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_nothing_is_written_elsewhere(tmp_path: Path, path: str):
    with pytest.raises(HookeError, match="outside the run's folder"):
        write_piece(tmp_path, FilePiece(path, 0, b"x"))
