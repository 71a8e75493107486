"""`hooke cache audit`: a sample of the stored results, computed again in fresh workers, and compared by content."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from hashlib import sha256

import pytest

from hooke.base.errors import UsageError
from hooke.keys.fingerprint import fingerprint_code
from hooke.keys.fingerprint_parts import unkeyed_uses
from hooke.running.replay import audit, share_interval

pytestmark = pytest.mark.needs("processes")

JOB = """
    import os
    import random
    import time
    from datetime import datetime
    from pathlib import Path
    import numpy as np
    from hooke import File, task, pipeline

    HERE = Path(__file__).parent

    @task
    def load(n: int) -> list[int]:
        return list(range(n))

    @task
    def square(x: int, blob: bytes = b"") -> float:
        return x * x + random.random() + np.random.random() + len(blob)

    @task
    def blob() -> bytes:
        return bytes(200_000)

    @task
    def total(squares: list[float], blob: bytes) -> float:
        return sum(squares) + len(blob)

    @task
    def noise(x: int) -> float:
        return np.random.default_rng().random()

    @task
    def stamp() -> float:
        return time.time()

    @task
    def note() -> int:
        return (HERE / "note.txt").stat().st_size  # which nothing observes

    @task
    def seen() -> str:
        return (HERE / "seen.txt").read_text()

    def put(name: str, text: str) -> Path:
        (HERE / name).write_text(text or str(np.random.default_rng().random()))
        return HERE / name

    @task
    def written(name: str, text: str = "") -> File:
        return File(put(name, text))

    @task
    def placed(name: str, text: str = "") -> dict[str, Path]:
        return {"file": put(name, text)}

    @task
    def read(file: File) -> str:
        return Path(file).read_text()

    @pipeline
    def files():
        chance = written("e.txt")
        fixed = written("a.txt", "same"), placed("b.txt", "same"), written.map(["c.txt", "d.txt"], text="same")
        return fixed, chance, placed("f.txt"), read(chance), written("g.txt", "same")

    @task(gang=(1, 2))
    def train() -> str:
        return os.environ["WORLD_SIZE"]

    @pipeline
    def trained():
        return train(), load(3)

    @pipeline
    def sound(n: int = 40):
        large = blob()
        return total(square.map(load(n), blob=large), large), square.map(range(9))

    @pipeline
    def unsound():
        return noise.map(range(5)), stamp(), note(), total([1.0], b""), seen()
"""


@pytest.fixture
def shop(workshop):
    workshop.write(JOB)
    (workshop.folder / "note.txt").write_text("one")
    (workshop.folder / "seen.txt").write_text("one")
    return workshop


def content(folder):
    return {
        str(path): (sha256(path.read_bytes()).hexdigest(), path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_results_of_sound_code_are_equal_and_the_store_is_as_it_was(shop):
    """Chance that Hooke seeds, inputs through the store, static and dynamic maps."""
    shop.run(name="sound", on="local:2")
    before = content(shop.folder / ".hooke")
    report = audit(shop.project, sample=50, seed=1)
    assert content(shop.folder / ".hooke") == before
    assert {each.task for each in report.results} == {"load", "square", "blob", "total"}
    assert report.stored == len(report.results) == 5  # two maps of `square`, and no list of a dynamic map
    assert report.differing == ()
    assert not report.skipped
    assert "none differ" in str(report)


def test_files_are_compared_by_the_content_that_they_had_and_are_as_before_afterwards(shop):
    shop.run(name="files", on="local:2")
    before = {name: (shop.folder / f"{name}.txt").read_text() for name in "abcdefg"}
    (shop.folder / "a.txt").unlink()
    (shop.folder / "g.txt").write_text("what a person wrote")
    said = []
    report = audit(shop.project, sample=50, say=said.append)
    found = {re.sub(r".*([a-g])\.txt.*", r"\1", each.call): each for each in report.results}
    item = "c" if "c" in found else "d"
    assert {name: each.outcome for name, each in found.items()} == {
        "a": "equal",
        "b": "equal",
        item: "equal",
        "e": "different",
        "f": "different",
        "read(file=<result of task 'written'>)": "equal",
    }
    assert before["f"] not in found["f"].difference and "content" in found["f"].difference
    assert found["f"].causes[0] == "two repetitions differ, so it is not deterministic"
    (reason,) = report.skipped
    assert "g.txt is a result of a task, and has been overwritten by something else" in reason
    assert len(said) == 1, "all files were put back"
    after = {name: (shop.folder / f"{name}.txt").read_text() for name in before}
    assert after == before | {"g": "what a person wrote"}
    (shop.folder / "g.txt").unlink()
    assert shop.ran(shop.run(name="files")) == {}


def test_each_difference_is_found_and_its_cause_named(shop):
    shop.run(name="unsound")
    (shop.folder / "note.txt").write_text("three")
    report = audit(shop.project, sample=50)
    found = {each.task: each for each in report.results}
    assert {name: each.outcome for name, each in found.items()} == {
        "noise": "different",
        "stamp": "different",
        "note": "different",
        "total": "equal",
        "seen": "equal",
    }
    assert found["noise"].causes == (
        "two repetitions differ, so it is not deterministic",
        "it draws random numbers that are not seeded: np.random.default_rng",
    )
    assert "it reads the clock: time.time" in found["stamp"].causes
    assert found["note"].difference == "it was 3, is 5 (2 apart)"
    assert found["note"].causes[0].startswith("two repetitions agree")
    assert report.interval == share_interval(3, 5)


def test_a_result_whose_observed_input_changed_is_not_used_so_it_is_not_audited(shop):
    shop.run(name="unsound")
    (shop.folder / "seen.txt").write_text("two")
    with pytest.raises(UsageError, match="no results of a task 'seen'"):
        audit(shop.project, task="seen")
    (shop.folder / "seen.txt").write_text("one")
    assert audit(shop.project, task="seen").differing == ()


def test_a_repetition_that_fails_differs(shop):
    shop.run(name="unsound")
    (shop.folder / "note.txt").unlink()
    (found,) = audit(shop.project, task="note").results
    assert found.outcome == "failed"
    assert "FileNotFoundError" in found.difference
    assert found.causes[0].startswith("two repetitions agree")


def test_what_cannot_be_computed_again_is_said(shop):
    shop.run(name="sound", n=3)
    shop.edit("list(range(n))", "[*range(n)]")
    report = audit(shop.project, sample=50)
    assert {each.task for each in report.results} == {"square", "blob"}
    assert report.skipped == {"the code, or an input, was edited since": 3}
    with pytest.raises(UsageError, match="none of the 1 stored results"):
        audit(shop.project, task="load")
    with pytest.raises(UsageError, match="no results of a task 'other'"):
        audit(shop.project, task="other")


def test_a_result_of_an_elastic_gang_is_not_computed_again(shop):
    shop.run(name="trained", on="local:2")
    report = audit(shop.project, sample=50)
    assert {each.task for each in report.results} == {"load"}
    assert report.skipped == {"its result depends on how many ranks its gang had, and when": 1}


def test_the_seed_chooses_the_sample(shop):
    shop.run(name="sound")
    samples = [[each.call for each in audit(shop.project, sample=3, seed=seed).results] for seed in (5, 5)]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 3


@pytest.mark.long
def test_the_command(shop):
    shop.run(name="unsound")

    def hooke(*words):
        return subprocess.run(
            [sys.executable, "-m", "hooke", "cache", "audit", *words],
            cwd=shop.folder,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NO_COLOR": "1"},
        )

    fine = hooke("--task", "total")
    assert fine.returncode == 0, fine.stderr
    assert fine.stdout.startswith("computed 1 of 1 stored results again, and none differ: 0 %")
    assert fine.stderr.startswith("computing 1 result again, which took ")
    found = hooke("--json", "--seed", "3")
    assert found.returncode == 1
    facts = json.loads(found.stdout)
    assert (facts["seed"], facts["differ"], len(facts["results"])) == (3, 2, 5)


@pytest.mark.parametrize(("count", "of"), [(0, 20), (3, 20), (20, 20), (1, 1)])
def test_the_interval_is_where_the_score_test_accepts(count, of):
    """Wilson's limits are the shares that differ from the seen one by 1.96 standard errors of their own."""
    low, high = share_interval(count, of)
    assert 0 <= low <= count / of <= high <= 1
    for limit in {low, high} - {0.0, 1.0}:
        error = math.sqrt(limit * (1 - limit) / of)
        assert abs(count / of - limit) == pytest.approx(1.959964 * error, rel=1e-5)


def test_no_result_leaves_the_share_open():
    assert share_interval(0, 0) == (0.0, 1.0)


def test_uses_that_no_key_covers(tmp_path, monkeypatch):
    (tmp_path / "uses_child.py").write_text(
        "import os, random, sqlite3, uuid\n"
        "import datetime as dt\n"
        "from time import time as moment\n"
        "from numpy.random import default_rng\n"
        "def helper():\n    return moment(), dt.date.today()\n"
        "def unsound(x):\n    return helper(), uuid.uuid4(), default_rng(), id(x), sqlite3.connect('a')\n"
        "def sound(id, time):\n    return default_rng(1), random.Random(2), random.random(), time.time, os.path, id\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import uses_child

    assert unkeyed_uses(fingerprint_code(uses_child.unsound)) == {
        "clock": ("dt.date.today", "time.time"),
        "randomness": ("default_rng", "uuid.uuid4"),
        "process": ("id",),
        "outside": ("sqlite3",),
    }
    assert unkeyed_uses(fingerprint_code(uses_child.sound)) == {}
