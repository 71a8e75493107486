"""The cache matrix: every edit that can change an answer moves the key, and no other does.

Each row is a small project written twice, before and after an edit, and fingerprinted in two fresh processes. The rows
that must move are fingerprinted by a weakened walk too: it must not notice, or the row would prove nothing.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.keys.matrix_moves import MUST_MOVE
from tests.keys.matrix_rows import write
from tests.keys.matrix_stays import MUST_STAY

CHILD = Path(__file__).with_name("matrix_child.py")


def fingerprint(rows, folder, side, seed):
    """The keys of all rows on one side of the edit, from one fresh process with a hash seed of its own."""
    jobs = []
    for number, row in enumerate(rows):
        place = folder / side / f"project{number}"
        write(place, row.shared | getattr(row, side), row.namespaces)
        job = {
            "folder": str(place),
            "expression": row.expression,
            "weakened": row.weakened,
            "notebook": row.notebook,
        }
        jobs.append(job)
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_heavy(row):
    """Whether a row's project imports a library that takes seconds to import."""
    return any(name in text for text in (row.before | row.shared).values() for name in ("torch", "sklearn"))


def named(rows):
    """The rows' names as parameters, the heavy ones marked."""
    return [
        pytest.param(name, marks=[pytest.mark.needs("processes")] * is_heavy(row))
        for name, row in rows.items()
    ]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A row's (key, weakened key) before and after, in two processes, two checkouts and two hash seeds."""

    @functools.cache
    def computed(heavy):
        rows = {name: row for name, row in (MUST_MOVE | MUST_STAY).items() if is_heavy(row) == heavy}
        folder = tmp_path_factory.mktemp("matrix")
        before = fingerprint(rows.values(), folder, "before", "1")
        after = fingerprint(rows.values(), folder, "after", "2")
        return dict(zip(rows, zip(before, after, strict=True), strict=True))

    return lambda name: computed(is_heavy((MUST_MOVE | MUST_STAY)[name]))[name]


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("row", named(MUST_MOVE))
def test_an_edit_that_can_change_the_answer_moves_the_key(keys, row):
    (before, _), (after, _) = keys(row)
    assert before != after


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("row", named(MUST_MOVE))
def test_a_walk_that_does_not_follow_the_way_there_misses_the_edit(keys, row):
    (_, before), (_, after) = keys(row)
    assert before == after, f"the row {row!r} proves nothing about {MUST_MOVE[row].weakened!r}"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("row", named(MUST_STAY))
def test_an_edit_that_changes_no_answer_moves_no_key(keys, row):
    (before, _), (after, _) = keys(row)
    assert before == after
