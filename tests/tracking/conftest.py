from pathlib import Path

import pytest

from hooke.journal.events import Event
from hooke.journal.reader import read
from hooke.tracking.tracker import Tracker, logging_into


@pytest.fixture
def tracker(tmp_path: Path):
    tracker = Tracker(tmp_path / "run", "test", durable="none")
    with logging_into(tracker):
        yield tracker
    tracker.close()


def logged(folder: Path) -> list[Event]:
    return [event for segment in read(folder) for event in segment.events]
