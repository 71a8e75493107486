"""A map over a million items costs the driver as many events as there are chunks, and little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "scale_child.py"


def driven(items: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(CHILD), str(items)], capture_output=True, check=True, text=True
    )
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_million_items_cost_by_the_chunk() -> None:
    quarter, million = driven(250_000), driven(1_000_000)
    assert million["status"] == "finished"
    assert million["peak_bytes"] < 1 << 30
    assert million["events"] < 10_000
    for name in ("calls", "events", "segments", "journal_bytes"):
        assert million[name] < 5 * quarter[name], name
    assert million["payload_bytes"] < 1000
