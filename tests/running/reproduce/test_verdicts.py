"""Which task differs, from where on, and what a condition says."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.running.reproduce.conditions import Edit, changed_lines, compared, libraries
from hooke.running.reproduce.result_comparison import (
    CLOSE,
    DIFFERENT,
    EQUAL,
    MISSING,
    Closeness,
    begins,
    pairs,
    verdict,
)

TASKS = st.lists(st.sampled_from("abc"), max_size=8).map(lambda names: dict(enumerate(names)))


@pytest.mark.needs("cpu")
@given(TASKS, TASKS)
def test_every_node_is_in_one_pair_and_each_pair_is_of_one_task(was, now):
    found = pairs(was, now)
    assert sorted(pair.was for pair in found if pair.was is not None) == sorted(was)
    assert sorted(pair.now for pair in found if pair.now is not None) == sorted(now)
    for pair in found:
        assert pair.was is None or was[pair.was] == pair.task
        assert pair.now is None or now[pair.now] == pair.task
    for task in "abc":
        both = sum(pair.task == task and None not in (pair.was, pair.now) for pair in found)
        assert both == min(list(was.values()).count(task), list(now.values()).count(task))


@pytest.mark.needs("cpu")
@given(st.lists(st.sampled_from([EQUAL, CLOSE, DIFFERENT]), max_size=20), st.integers(0, 3))
def test_a_verdict_counts_items_and_is_as_bad_as_the_worst(kinds, missing):
    found = verdict(
        "t", [(f"[{at}]", Closeness(kind=kind)) for at, kind in enumerate(kinds)], missing=missing
    )
    assert found.items == len(kinds) + missing
    ranked = (
        [DIFFERENT] * (DIFFERENT in kinds) + [MISSING] * (missing > 0) + [CLOSE] * (CLOSE in kinds) + [EQUAL]
    )
    assert found.kind == ranked[0]
    worst = DIFFERENT if DIFFERENT in kinds else CLOSE
    assert found.first.startswith(f"t[{kinds.index(worst)}]" if worst in kinds else "")


@pytest.mark.needs("cpu")
@given(st.lists(st.sampled_from([EQUAL, DIFFERENT]), min_size=1, max_size=8), st.data())
def test_differences_begin_where_all_that_came_in_is_equal(kinds, data):
    parents = {
        node: data.draw(st.lists(st.integers(0, node - 1), max_size=3)) if node else []
        for node in range(len(kinds))
    }
    made = [verdict("t", [("", Closeness(kind=kind))], node=node) for node, kind in enumerate(kinds)]
    marked = {each.node for each in begins(made, parents) if each.begins}
    assert marked == {
        node
        for node, kind in enumerate(kinds)
        if kind == DIFFERENT and all(kinds[parent] == EQUAL for parent in parents[node])
    }
    assert bool(marked) == (DIFFERENT in kinds)


def test_a_condition_names_the_old_and_new_value_and_the_fix():
    newer, gone, same = libraries(
        {"polars": "1.0", "tiny": "2.0", "numpy": "2.0"}, {"polars": "1.1", "numpy": "2.0", "extra": "1"}
    )
    assert (newer.met, gone.met, same.met) == (False, False, True)
    assert str(newer) == "library polars: was 1.0, is 1.1"
    assert newer.fix == "pip install polars==1.0"
    assert str(gone) == "library tiny: was 2.0, is not there"
    (threads,) = compared("threads", {}, {"OMP_NUM_THREADS": "1"})
    assert threads.fix == "unset OMP_NUM_THREADS"


def test_changed_lines_of_a_real_diff(tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-C", str(tmp_path), *words], capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    (tmp_path / "a b.py").write_text("one\n  two\nthree\n+++ four\n")
    (tmp_path / "gone.py").write_text("x\n")
    (tmp_path / "data.bin").write_bytes(b"\0\1")
    (tmp_path / "run.sh").write_text("true\n")
    git("add", "-A")
    was = git("write-tree").strip()
    (tmp_path / "a b.py").write_text("one\n  2\nthree\n+++ four\n--- five\n")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "data.bin").write_bytes(b"\0\2")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "new.py").write_text("y\n")
    git("add", "-A")
    now = git("write-tree").strip()
    assert changed_lines(git("diff", "--no-color", "--unified=0", was, now)) == [
        Edit("a b.py:2", "two", "2"),
        Edit("a b.py:5", "no line", "--- five"),
        Edit("data.bin", "as it was", "changed"),
        Edit("gone.py", "as it was", "gone"),
        Edit("new.py:1", "no line", "y"),
        Edit("run.sh", "as it was", "changed"),
    ]
