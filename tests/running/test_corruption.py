"""Random damage to journals, entries and objects: a run gives the right answer or an error, never a wrong answer."""

import os
import random
import shutil

import pytest
from tests.fixtures.workshop import workshop  # noqa: F401 a fixture
from tests.support.sizes import bound, choose_size

from hooke.base.errors import HookeError
from hooke.running.resume import resume
from hooke.running.run import Run

TRIALS = choose_size(sample=8, full=15, soak=500)
JOB = """
    from pathlib import Path
    from hooke import pipeline, task

    @task
    def block(item):
        return bytes([item]) * (90_000 + item)

    @task
    def large():
        return bytes(range(256)) * 6_000

    @task
    def small(item):
        return {"item": item, "text": "x" * item}

    @task
    def listed(small):
        return [small["item"] + number for number in range(5)]

    @task
    def plus(item, salt):
        return item + salt

    @task
    def total(blocks, large, smalls, dynamic, salt):
        if salt < 0 and not Path("go").exists():
            raise ValueError("not yet")
        of_blocks = sum(len(block) + sum(block) for block in blocks)
        return of_blocks + sum(large) + sum(len(str(small)) for small in smalls) + sum(dynamic) + salt

    @pipeline
    def job(salt):
        one = small(3)
        return total(block.map(range(4)), large(), small.map(range(5)), plus.map(listed(one), salt=7), salt)
"""
KINDS = ("flip", "zeros", "cut", "empty", "append", "gone", "swap")


def truth(salt):
    blocks = [bytes([item]) * (90_000 + item) for item in range(4)]
    smalls = [{"item": item, "text": "x" * item} for item in range(5)]
    return (
        sum(len(block) + sum(block) for block in blocks)
        + sum(bytes(range(256)) * 6_000)
        + sum(len(str(small)) for small in smalls)
        + sum(3 + number + 7 for number in range(5))
        + salt
    )


def damage(path, kind, rng, others, *, kept_time):
    """Change the file, and where asked for, set the modification time that it had."""
    before, data = path.stat(), bytearray(path.read_bytes())
    at = rng.randrange(len(data)) if data else 0
    match kind:
        case "flip" if data:
            data[at] ^= 1 << rng.randrange(8)
        case "zeros":
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        case "cut":
            del data[at:]
        case "empty":
            data.clear()
        case "swap":
            data = bytearray(rng.choice(others).read_bytes())
        case "append":
            data += rng.randbytes(1 + rng.randrange(100))
        case _:
            path.unlink()
            return
    path.chmod(0o644)
    path.write_bytes(data)
    if kept_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def kept(workshop):  # noqa: F811
    """A project with a finished run and one that failed late."""
    workshop.write(JOB)
    assert workshop.run(0).result() == truth(0)
    failed = workshop.run(-1).id
    shutil.copytree(workshop.folder / ".hooke", workshop.folder / "kept")
    (workshop.folder / "go").touch()
    return workshop, failed


def answers(shop, failed):
    """What each way to the results gives, with the right answer; errors of Hooke's own end a way."""

    def resumed():
        driver = resume(shop.project, failed)
        assert driver is not None
        driver.drive()
        return Run(driver.project, driver.run).result()

    for way, right in ((resumed, truth(-1)), (lambda: shop.run(1).result(), truth(1))):
        try:
            yield way(), right
        except HookeError as error:
            yield error, right


@pytest.mark.long
@pytest.mark.needs("processes")
def test_no_damage_gives_a_wrong_answer(kept):
    trials = TRIALS
    shop, failed = kept
    data = shop.folder / ".hooke"
    errors = 0
    for number in range(trials):
        rng = random.Random(number)
        shutil.rmtree(data)
        shutil.copytree(shop.folder / "kept", data)
        files = [path for path in sorted(data.rglob("*")) if path.is_file() and path.stat().st_size]
        groups = [
            [path for path in files if part in path.relative_to(data).parts]
            for part in ("runs", "packs", "objects")
        ]
        group = rng.choice([[path for path in group if path.suffix != ".lock"] for group in groups])
        path = rng.choice(group)
        kind = rng.choice(KINDS[:-1] if path.suffix == ".journal" else KINDS)
        damage(path, kind, rng, group, kept_time=rng.random() < 0.5)
        told = f"trial {number}: {kind} of {path.relative_to(data)}"
        for answer, right in answers(shop, failed):
            if isinstance(answer, HookeError):
                errors += 1
            else:
                assert answer == right, told
        # After an error the next run computes again what was damaged.
        assert shop.run(2).result() == truth(2), told
    print(f"{errors} errors in {trials} trials; wrong answers: {bound(trials)}")
