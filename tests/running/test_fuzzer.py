"""Random programs beside plain Python, 200 or in full 10,000; and what they would have found."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.running.weakened import WEAKENED
from tests.support.fuzzing.choices import Choices, shrink
from tests.support.fuzzing.play import Played, play
from tests.support.sizes import bound, choose_size

# Their functions take a number or a list by one parameter, which a map is right to wonder at.
pytestmark = pytest.mark.filterwarnings("ignore:.* gets them all:UserWarning")

PROGRAMS = choose_size(sample=40, full=60, soak=10_000)
PARTS = 10  # processes share them
FOUND_WITHIN = 400
ROOT = Path(__file__).parents[2]


def played(choices: Choices) -> Played:
    """One program, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hooke-fuzz-") as folder:
        return play(choices, Path(folder))


def smallest(found: Played, *, most: int = 400) -> Played:
    """The smallest program with the same kind of fault, after at most `most` trials."""

    def fails(taken: Sequence[int]) -> bool:
        assert found.fault is not None
        # Some faults depend on what happens first, which a busy machine changes.
        tried = (played(Choices(given=taken)).fault for _ in range(2))
        return any(fault is not None and fault.kind == found.fault.kind for fault in tried)

    return played(Choices(given=shrink(found.choices, fails, most=most)))


def first_fault(seeds: Sequence[int], kinds: frozenset[str] | None = None) -> tuple[int, Played] | None:
    for seed in seeds:
        made = played(Choices(seed))
        if made.fault is not None and (kinds is None or made.fault.kind in kinds):
            return seed, made
    return None


@pytest.mark.needs("processes")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_programs_give_the_answers_of_plain_python_and_run_only_what_they_must(part: int) -> None:
    found = first_fault(range(part, PROGRAMS, PARTS))
    if found is not None:
        seed, made = found
        raise AssertionError(f"repro: play(Choices({seed}))\n{smallest(made).told()}")
    print(bound(PROGRAMS // PARTS))


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", WEAKENED)
def test_a_weakening_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken, kinds, seed = WEAKENED[name]
    weaken(monkeypatch)
    found = first_fault([seed, *range(FOUND_WITHIN)], kinds)
    assert found is not None, f"not found in {FOUND_WITHIN} programs"


SHRINKS = """
import pytest
from tests.running.test_fuzzer import first_fault, smallest
from tests.running.weakened import WEAKENED

weaken, kinds, seed = WEAKENED["finds the tasks last"]
weaken(pytest.MonkeyPatch())
found = first_fault([seed], kinds)
assert found is not None
small = smallest(found[1], most=100)
assert small.fault is not None
assert small.fault.kind == found[1].fault.kind
assert len(small.choices) < len(found[1].choices)
assert len(small.steps) <= 3, small.told()
assert len(small.program.nodes) <= 4, small.told()  # some need several calls at once, on a busy machine
assert str(small.fault) in small.told()
assert "def job(p=" in small.told()
"""


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1200)
def test_what_is_found_shrinks_to_what_a_person_can_read() -> None:
    """In a process of its own: in one that has run many tests, each of the hundred trials takes ten times as long."""
    done = subprocess.run(
        [sys.executable, "-c", SHRINKS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("cpu")
def test_a_seed_replays_to_the_same_steps() -> None:
    first, again = played(Choices(7)), played(Choices(7))
    assert first.steps == again.steps
    assert first.choices == again.choices
    assert played(Choices(given=first.choices)).steps == first.steps


@pytest.mark.long
@pytest.mark.needs("processes")
def test_programs_differ_and_do_what_they_are_for() -> None:
    made = [played(Choices(seed)) for seed in range(12)]
    kinds = Counter(step.split()[0] for each in made for step in each.steps)
    assert len(kinds) > 5
    assert sum(each.runs for each in made) > 30
    assert len({each.program.sources()["fuzzed.py"] for each in made}) == 12
