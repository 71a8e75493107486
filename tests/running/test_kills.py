"""A run of short calls survives the driver's death at any moment, in the midst of a write too.

What the driver called finished is finished, does not run again, and has the right value; what it had not is run.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.store.s3_server import s3
from tests.support.sizes import bound, choose_size

from hooke.journal.events import AttemptFinished, ItemsFound, RunFinished
from hooke.journal.reader import read
from hooke.project.folder import Project
from hooke.running.run import Run

__all__ = ["s3"]

MOMENTS = choose_size(sample=4, full=6, soak=100)
PROGRAM = Path(__file__).with_name("killed_driver.py")
JOB = """
    from hooke import pipeline, task

    @task
    def twice(x: int) -> bytes:
        return bytes([2 * x % 251]) * 1000  # too large for the journal, and small enough for a pack

    @task
    def next_to(block: bytes) -> bytes:
        return bytes([block[0] + 1]) * 1000

    @task
    def thrice(x: int) -> int:  # goes to a worker with others, and they are answered together
        return 3 * x

    @task
    def total(blocks: list, numbers: list) -> int:
        return sum(block[0] for block in blocks) + sum(numbers)

    @pipeline
    def job():
        calls = range({calls})
        return total([next_to(twice(x)) for x in calls], [thrice(x) for x in calls])
"""


class Folder:
    """A project whose driver is killed and started again."""

    def __init__(self, folder, calls, store=""):
        self.folder, self.calls = folder, calls
        folder.mkdir()
        (folder / "job.py").write_text(textwrap.dedent(JOB).replace("{calls}", str(calls)))
        (folder / "secret").write_text("a secret of sixteen bytes or more")
        at = f'[store]\nurl = "{store}/{folder.name}"\nsecret_file = "secret"\n' if store else ""
        (folder / "hooke.toml").write_text(at)
        self.right = sum(2 * x % 251 + 1 + 3 * x for x in range(calls))

    def drive(self, finished=10**9, calls=1, part="after"):
        """`(exit code, items that it called finished)`."""
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(finished), str(calls), part],
            cwd=self.folder,
            env=os.environ | {"HOOKE_SINKS": "none"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        said = [
            tuple(map(int, words)) for line in done.stdout.splitlines() if len(words := line.split()) == 2
        ]
        assert done.returncode == (0 if "finished" in done.stdout else -signal.SIGKILL), done.stderr
        return done.returncode, said

    def events(self):
        project = Project.find(self.folder)
        names = project.runs.names()
        if not names:
            return []
        return [
            event for segment in read(project.runs.folder(names[0]), "driver") for event in segment.events
        ]

    def finished(self):
        """The items that the journal calls finished, in its order."""
        return [(each.node, each.lo) for each in self.events() if isinstance(each, AttemptFinished)]

    def ends_well(self):
        """The run is finished with the right value, and a second one computes nothing."""
        project = Project.find(self.folder)
        assert [each.status for each in self.events() if isinstance(each, RunFinished)][-1] == "finished"
        there = {each.node for each in self.events() if isinstance(each, (AttemptFinished, ItemsFound))}
        assert there == set(range(3 * self.calls + 1))
        assert Run(project, project.runs.names()[0]).result() == self.right
        _, said = self.drive()
        assert said == [], "a second run computes nothing"


def kill_often(place, chance, moments):
    """Kill the driver at so many moments, each after more calls are finished, and then let it end."""
    known = []
    for _ in range(moments):
        more = chance.choice([0, 1, 2, chance.randrange(place.calls // 2)])
        calls = chance.randint(1, 30 if not known and not more else 4)
        code, said = place.drive(more, calls, chance.choice(["before", "half", "after"]))
        there = place.finished()
        assert there[: len(known)] == known
        assert there[len(known) :][: len(said)] == said, "what it called finished is in the journal"
        known = there
        if code == 0:  # less was left, as results that were stored are found
            break
        yield
    else:
        assert place.drive()[0] == 0
    there = place.finished()
    assert there[: len(known)] == known
    assert len(there) == len(set(there)), "nothing that was finished ran again"
    place.ends_well()


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("at", ["a folder", "a URL"])
def test_kill_9_at_any_moment_of_short_calls_loses_nothing(tmp_path, request, at):
    moments = MOMENTS // (2 if at == "a URL" else 1)  # a process that imports s3fs takes seconds
    chance = random.Random(f"{at} {moments}")
    store = request.getfixturevalue("s3") if at == "a URL" else ""
    killed = number = 0
    while killed < moments:
        number += 1
        place = Folder(tmp_path / f"p{number}", 25 if store else 150, store)
        killed += sum(1 for _ in kill_often(place, chance, min(chance.randint(1, 4), moments - killed)))
    print(f"deaths of the driver after which a finished call was lost: {bound(killed)}")
