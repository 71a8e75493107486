"""What `hooke replay` reads and replays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hooke.autoscaling.replay import Station
from hooke.base.errors import UsageError
from hooke.project.folder import Project
from hooke.services.replay_report import read_trace, replay_frontier
from hooke.services.supervisor.service_folder import ServiceDescriptor, ServiceFolder, find_service


@pytest.mark.parametrize("data", [b"\xff\xfe1\n2\n", b"1\n" + b"1" * 200_000])
def test_a_file_that_is_no_csv_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "requests.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"requests\.csv is not a CSV"):
        read_trace(path)


def test_what_is_more_than_ten_days_old_is_not_replayed() -> None:
    counts = np.zeros(11 * 86_400, dtype=np.int64)
    counts[:1000] = 5
    with pytest.raises(UsageError, match="0 requests are too few"):
        replay_frontier(counts, Station(rate=20.0, wait_s=0.45), low=1, high=4)


def test_what_is_asked_of_a_service_that_need_not_run_names_its_own_command(tmp_path: Path) -> None:
    project = Project.at(tmp_path)
    project.create()
    with pytest.raises(UsageError, match="no service was served here yet"):
        find_service(project, "", verb="replay", running=False)
    for name in ("A", "B"):
        folder = ServiceFolder.of(project, name)
        folder.create()
        folder.write_record(ServiceDescriptor(service=name, target="a.py", run="r", pid=1))
    with pytest.raises(UsageError, match="there are 2 services") as refused:
        find_service(project, "", verb="replay", running=False)
    assert "hooke replay A" in str(refused.value)
