"""A disk that fills while a run goes on: it fails with the reason, and goes on where it was when there is room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.engines.local.faults import Faults, went_on
from tests.fixtures.small_disk import fill, mount_tmpfs

from hooke.base.errors import HookeError
from hooke.running.run import Run

pytestmark = pytest.mark.needs("processes")

MB = 1 << 20

BIG = """
    @task
    def block(x: int) -> bytes:
        with open(os.environ["RAN"], "a") as file:
            file.write(f"{x}\\n")
        return bytes([x % 256]) * SIZE

    @task
    def sums(blocks: list[bytes]) -> list[int]:
        return [sum(block[:10]) for block in blocks]

    @pipeline
    def job(n: int = 12):
        return sums([block(x) for x in range(n)])
"""


@pytest.fixture
def disk(tmp_path_factory):
    """A tmpfs of 8 MiB."""
    with mount_tmpfs(tmp_path_factory.mktemp("disk"), "8M") as folder:
        yield folder


@pytest.mark.long
@pytest.mark.parametrize("room", [0, 40_000, 300_000, 2 * MB])
@pytest.mark.parametrize("size", [100, 500_000])
def test_a_full_disk_is_said_and_the_run_resumed_when_there_is_room(
    faults: Faults, disk: Path, monkeypatch, tmp_path, room: int, size: int
) -> None:
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.chdir(disk)
    on_disk = Faults(disk)
    on_disk.drivers = []
    sys.modules.pop(on_disk.file.stem, None)
    on_disk.source(BIG.replace("SIZE", str(size)))
    on_disk.go(n=1)  # the project's folders exist
    ballast = fill(disk)
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - room))
    n = 300 if size == 100 else 12
    said = failure_of(on_disk, n)
    ballast.unlink()
    if said is not None:
        assert "disk is full" in said or "No space left" in said, said
    assert finished(on_disk, n).result() == [
        10 * (x % 256) if size > 100 else min(size, 10) * (x % 256) for x in range(n)
    ]


def failure_of(shop: Faults, n: int) -> str | None:
    """What is said of a run that the disk was too small for; None where it fitted."""
    try:
        run = shop.go(n=n)
        run.result()
    except HookeError as error:
        return str(error)
    return None


def finished(shop: Faults, n: int) -> Run:
    run = shop.last()
    if run.status == "finished":
        return run
    try:
        return went_on(shop, run)
    except HookeError as error:
        assert "never started" in str(error), "a run that could not write its first line is begun anew"  # noqa: PT017
        return shop.go(n=n)


def test_a_disk_that_is_full_from_the_start(disk: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.chdir(disk)
    shop = Faults(disk)
    shop.source(BIG.replace("SIZE", "100"))
    ballast = fill(disk)
    said = failure_of(shop, 3)
    assert said is not None
    assert "cannot be written" in said
    assert "No space left" in said
    ballast.unlink()
    assert shop.go(n=3).status == "finished"
