"""A disk that is full while a replica is to be replaced: what runs goes on, and is put right when there is room."""

import time

import pytest
from tests.fixtures.small_disk import mount_tmpfs
from tests.services.supervisor.supervised import SERVICE, Load, Supervised, end_all, kill

pytestmark = pytest.mark.needs("processes", "root")


@pytest.fixture
def small(tmp_path):
    """A project on a tmpfs of 2 MiB."""
    with mount_tmpfs(tmp_path / "disk", "2M") as folder:
        (folder / "delays.py").write_text(SERVICE)
        yield folder
        end_all(folder)


def fill_up(file):
    while True:
        file.write(bytes(4096))


def test_a_full_disk_costs_no_request(small, tmp_path):
    service = Supervised(small, "--replicas", "2", "--healthy", "1", said_in=tmp_path)
    load = None
    try:
        victim = service.until_ready(2)["replicas"][0]
        load = Load(service.url, service.token)
        time.sleep(1.5)
        with (small / "fill").open("wb", buffering=0) as fill, pytest.raises(OSError, match="No space"):
            fill_up(fill)
        kill(victim["pid"])
        service.until(rf"replica {victim['replica']} died")
        service.until(r"replica \d+ is ready|no process could be started|the next start waits", count=3)
        (small / "fill").unlink()
        service.until_ready(2)
        counted = load.end()
        assert counted["failed"] == {}
        assert counted["right"] > 50
        assert service.end() == 0
    finally:
        if load is not None:
            load.process.kill()
            load.process.wait()
            load.process.stdin.close()
            load.process.stdout.close()
        service.process.kill()
        service.process.wait()
