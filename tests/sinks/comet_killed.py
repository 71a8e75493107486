"""Ships a run into Comet's archives from children that are killed at random moments: `comet_killed.py FOLDER SEED`."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from hooke.journal.events import RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.writer import Journal
from hooke.sinks.comet import CometSink
from hooke.sync import outbox
from hooke.sync.shipper import Shipper
from hooke.tracking.log import histogram_bytes, image_bytes
from hooke.tracking.tracker import Tracker

RUN = "sweep-20261125-120000-abcd"


def ship(runs: RunsFolder, root: Path, kill_after_s: float | None) -> bool:
    """Whether the shipper was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with Shipper(runs=runs, sinks={"comet": CometSink(root)}) as shipper:
                shipper.ship(RUN)
            status = 0
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main(root: Path, seed: int) -> int:
    """Prints how many points and how many images were logged, and how many shippers were killed."""
    chance = random.Random(seed)
    outbox.MOST_EVENTS = chance.choice([1, 7, 100, 3000])
    points = 3000 if outbox.MOST_EVENTS > 50 else 60
    runs = RunsFolder(root / ".hooke" / "runs")
    folder = runs.create(RUN)
    driver = Journal.create(folder, "driver", durable="none")
    driver.append(RunStarted(run=RUN, pipeline="sweep", entry="job.py:sweep", shown={"n": "4"}))
    tracker = Tracker(folder, "local-0", durable="none")
    (root / "a.bin").write_bytes(chance.randbytes(300_000))
    tracker.log_files(root / "a.bin", "a.bin")
    killed = 0
    for more in (points, 50, 1):
        for at in range(more):
            tracker.log_metric("loss", float(at))
            if at % 20 == 0:
                tracker.log_media(
                    "image", "sample", None, lambda at=at: image_bytes(np.full((4, 4), at % 256, np.uint8))
                )
                tracker.log_media("histogram", "weights", None, lambda at=at: histogram_bytes([at, at + 1]))
        killed += ship(runs, root, 0.0)
        killed += sum(ship(runs, root, 10 ** chance.uniform(-3, -1)) for _ in range(8))
    tracker.close()
    driver.close()
    killed += sum(ship(runs, root, 10 ** chance.uniform(-3, -1)) for _ in range(8))
    ship(runs, root, None)
    print(points + 51, points // 20 + 4, killed)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
