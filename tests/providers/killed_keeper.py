"""A keeper of a fleet on Lambda Cloud that is killed: `python killed_keeper.py FOLDER ENDPOINT MACHINES|down [STEP]`.

It says "here", waits for a line, and keeps the fleet until that is settled. It kills itself at the steps `intended` and `noted`, which are
records of its ledger; the server of the test kills it at the others.
"""

import os
import signal
import sys
import time
from pathlib import Path

from hooke.base.clock import SystemClock
from hooke.journal.fleet_events import LaunchAnswered, LaunchIntended
from hooke.machines.controller import Caps
from hooke.machines.keeper import FleetKeeper, Ledger
from hooke.providers.lambda_cloud import LambdaCloud

STEPS = {"intended": LaunchIntended, "noted": LaunchAnswered}


def main(folder, endpoint, machines, step=""):
    def tell(record):
        if step in STEPS and isinstance(record, STEPS[step]):
            os.kill(os.getpid(), signal.SIGKILL)

    provider = LambdaCloud(
        folder,
        user_data=lambda token: "#!/bin/sh\necho begun\nsleep 600\n",
        logs=Path(folder),
        usd_per_hour=0.2,
        instance="cpu_4x_general",
        ssh_key="mine",
        endpoint=endpoint,
        request_every="1ms",
        launch_every="1ms",
        list_every="50ms",
        listed_within="1s",
    )
    with Ledger.open(Path(folder)) as ledger:
        caps = Caps(workers=2, dead_looks=3, dead_s=0.5)
        keeper = FleetKeeper("f", provider, ledger, caps=caps, clock=SystemClock(), tell=tell)
        print("here", flush=True)
        sys.stdin.readline()
        if machines == "down":
            keeper.down("the test")
        else:
            keeper.want(int(machines), "the test")
        pause = keeper.turn()
        while not keeper.fleet.settled:
            time.sleep(max(pause, 0.02))
            pause = keeper.turn()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(exist_ok=True)
    main(*sys.argv[1:])
