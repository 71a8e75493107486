"""`hooke advise` as it is typed."""

import json

import pytest
from tests.cli.conftest import Desk

pytestmark = pytest.mark.needs("processes")

SIZES = """
    import time

    from hooke import pipeline, task


    @task(memory="4GiB")
    def load(x: int) -> int:
        held = bytearray(200 * 2**20)
        time.sleep(0.03)
        return len(held) + x


    @pipeline
    def sizes(n: int = 4) -> list[int]:
        return load.map(range(n))
"""


@pytest.fixture
def sizes(desk: Desk) -> Desk:
    desk.write("sizes.py", SIZES)
    return desk


@pytest.mark.long
def test_from_a_run_and_from_a_pipeline(sizes):
    assert sizes.hooke("run", "sizes.py").code == 0
    for what in ((), (sizes.last(),), ("sizes.py",), ("sizes.py:sizes",)):
        done = sizes.hooke("advise", *what)
        assert done.code == 0, done.err
        assert 'memory="2' in done.out and "fit in the space of one" in done.out
    facts = json.loads(sizes.hooke("advise", "--json").out)
    assert facts["load"]["attempts"] == 4
    assert facts["load"]["declared_memory"] == 4 * 2**30


def test_nothing_ran(sizes):
    done = sizes.hooke("advise", "sizes.py")
    assert done.code == 2
    assert "no task of sizes.py has run yet" in done.err
    assert "next: hooke run sizes.py" in done.err


@pytest.mark.long
def test_a_run_that_is_not_there(sizes):
    assert sizes.hooke("run", "sizes.py").code == 0
    done = sizes.hooke("advise", "size-x")
    assert done.code == 2 and "no run begins with 'size-x'" in done.err
