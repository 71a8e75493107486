"""A keeper of instances of Lambda Cloud is killed with SIGKILL at each step of a launch: nothing is leaked or launched twice.

The server and the instances are real processes, the requests HTTP.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.sizes import choose_size

from hooke.journal.fleet_events import LaunchAnswered
from hooke.machines.keeper import records_of
from hooke.testing.lambda_cloud import LambdaServer

KILLS = choose_size(sample=4, full=8, soak=50)
KEEPER = Path(__file__).with_name("killed_keeper.py")
STEPS = (
    "launch done",
    "intended",
    "launch answered",
    "noted",
    "launch arrived",
    "types arrived",
    "types done",
    "instances arrived",
)
"""Of a launch and its looks: before and after a record of the ledger, before a request is done, after that, and after its answer."""


class Killer:
    """Kills the keeper at a step; some steps are the second of their kind, in the midst of the second launch."""

    def __init__(self, step, after):
        self.step, self.after = step, after
        self.pid = 0

    def watch(self, what, path):
        if self.pid and f"{path.rpartition('/')[2].replace('instance-types', 'types')} {what}" == self.step:
            self.after -= 1
            if self.after < 0:
                os.kill(self.pid, signal.SIGKILL)
                self.pid = 0


def keeper_of(folder, cloud, *words):
    process = subprocess.Popen(
        [sys.executable, str(KEEPER), str(folder / "fleet"), cloud.endpoint, *words],
        env=os.environ | {"LAMBDA_API_KEY": cloud.key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    return process


def ended(process, code=0):
    process.communicate("go\n", timeout=100)
    assert process.returncode == code


def most_at_once(account):
    """The most instances that were billed at one time."""
    spans = [(each.began_at, each.terminated_at) for each in account.instances.values()]
    return max(sum(first <= began < last for first, last in spans) for began, _ in spans)


def check_kill(folder, step, after):
    """One kill; returns whether the next keeper found an instance whose launch got no answer."""
    folder.mkdir()
    killer = Killer(step, after)
    with LambdaServer(folder / "cloud", watch=killer.watch) as cloud:
        first = keeper_of(folder, cloud, "2", step)
        killer.pid = first.pid
        ended(first, -signal.SIGKILL)
        ended(keeper_of(folder, cloud, "2"))
        account = cloud.account
        assert len(account.billing()) == 2
        assert len(set(account.launches)) == len(account.launches), "a launch is done once for one intent"
        assert most_at_once(account) == 2, "never beyond the cap"
        found = any(isinstance(each, LaunchAnswered) and each.found for each in records_of(folder / "fleet"))
        ended(keeper_of(folder, cloud, "down"))
        deadline = time.monotonic() + 60.0
        while account.billing():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not any(cloud.runs(each) for each in account.instances)
        written = b"".join(file.read_bytes() for file in (folder / "fleet").rglob("*") if file.is_file())
        assert cloud.key.encode() not in written
        return found


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_keeper_killed_at_any_step_leaks_nothing(tmp_path):
    found = [
        check_kill(tmp_path / str(number), STEPS[number % len(STEPS)], number // len(STEPS) % 2)
        for number in range(KILLS)
    ]
    assert any(found), "an instance whose launch got no answer was found and adopted"
