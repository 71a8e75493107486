"""What measurements take, and what they refuse."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from hooke import UsageError
from hooke.scaling import Measurements


def test_rows_of_repeats_are_measurements_of_their_own_in_the_order_of_n():
    measured = Measurements([4, 1], throughput=[[30, 31], [10, 11]], conditions=["busy", "idle"])
    assert measured.n.tolist() == [1, 1, 4, 4]
    assert measured.throughput.tolist() == [10, 11, 30, 31]
    assert measured.conditions.tolist() == ["idle", "idle", "busy", "busy"]
    assert len(measured) == 4
    assert measured.levels.tolist() == [1, 4]


def test_seconds_become_throughput_by_the_work_done():
    measured = Measurements([1, 2], seconds=[[10, 20], [5, 4]], work=[100, 200])
    assert measured.throughput.tolist() == [10, 5, 40, 50]
    assert Measurements([1, 2], seconds=[2, 1]).throughput.tolist() == [0.5, 1]


def test_means_weigh_by_their_repeats():
    measured = Measurements([1, 1, 2], throughput=[10, 20, 30], repeats=[3, 1, 1])
    n, means = measured.means()
    assert (n.tolist(), means.tolist()) == ([1, 2], [12.5, 30])


def test_the_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        Measurements([1, 2], throughput=[1, 2]).throughput[0] = 3


def test_they_survive_pickling():
    again = pickle.loads(pickle.dumps(Measurements([1, 2], throughput=[1, 2])))
    assert np.array_equal(again.throughput, [1, 2])


@pytest.mark.parametrize(
    ("conditions", "confounded"),
    [("", False), (["a", "b", "a"], False), (["a", "b", "c"], True), (["a", "b", "b"], True)],
)
def test_confounded_is_no_condition_at_two_n(conditions, confounded):
    n = [1, 2, 2] if conditions == ["a", "b", "b"] else [1, 2, 4]
    assert Measurements(n, throughput=[1, 2, 3], conditions=conditions).confounded is confounded


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": [1, 2]}, "throughput and seconds"),
        ({"n": [1, 2], "throughput": [1, 2], "seconds": [1, 2]}, "throughput and seconds"),
        ({"n": [[1, 2]], "throughput": [1, 2]}, r"n has shape \(1, 2\)"),
        ({"n": [], "throughput": []}, r"n has shape \(0,\)"),
        ({"n": [1, 0], "throughput": [1, 2]}, r"n\[1\] is 0"),
        ({"n": [1, 2], "throughput": [1, 2, 3]}, r"throughput has shape \(3,\), and n has 2 entries"),
        ({"n": [1, 2], "throughput": [[1, 2], [3, -4]]}, r"throughput\[1\]\[1\] is -4"),
        ({"n": [1, 2], "seconds": [1, float("nan")]}, r"seconds\[1\] is nan"),
        ({"n": [1, 2], "seconds": [1, float("inf")]}, r"seconds\[1\] is inf"),
        ({"n": [1, 2], "throughput": [[1, 2], [3]]}, "throughput is not an array of numbers"),
        ({"n": [1, 2], "throughput": ["a", "b"]}, "throughput is not an array of numbers"),
        ({"n": [1, 2], "seconds": [1, 2], "work": [1, 2, 3]}, r"work has shape \(3,\)"),
        ({"n": [1, 2], "seconds": [1, 2], "work": -1}, "work is -1"),
        ({"n": [1, 2], "throughput": [1, 2], "repeats": [[1, 2]]}, "repeats has shape"),
        ({"n": [1, 2], "throughput": [1, 2], "conditions": ["a"]}, "conditions has 1 labels"),
    ],
)
def test_what_is_wrong_is_named_with_the_mend(arguments, said):
    with pytest.raises(UsageError, match=said) as caught:
        Measurements(arguments.pop("n"), **arguments)
    assert caught.value.fix
