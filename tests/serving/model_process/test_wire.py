"""What goes between a replica and the process of its model comes out as it went in, however it is cut."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.serving.model_process.wire import INLINE, KEEP, WireLink


@pytest.fixture
def ends():
    one, other = os.memfd_create("one"), os.memfd_create("other")
    a, b = WireLink(one, other), WireLink(os.dup(other), os.dup(one))
    yield a, b
    a.close()
    b.close()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)
pair = st.tuples(plain, st.sampled_from([0, 1, 3, INLINE // 8, INLINE]))


def test_memory_that_was_let_go_is_not_written_by_a_thread_that_comes_late(tmp_path):
    """Its number is another file's by then."""
    gives, takes = os.memfd_create("one"), os.memfd_create("other")
    link = WireLink(gives, takes)
    with (tmp_path / "journal").open("w+b") as other:
        link.close()
        os.dup2(other.fileno(), gives)
        try:
            with pytest.raises(ValueError, match="has ended"):
                link.packed(np.zeros(INLINE))
        finally:
            os.close(gives)
        assert other.read() == b""


@pytest.mark.needs("cpu")
@settings(max_examples=40, deadline=None)
@given(messages=st.lists(pair, min_size=1, max_size=4), cut=st.integers(1, 5000))
def test_messages_come_out_whole_and_in_order(messages, cut):
    one, other = os.memfd_create("one"), os.memfd_create("other")
    a, b = WireLink(one, other), WireLink(os.dup(other), os.dup(one))
    try:
        for value, count in messages:
            sent = a.packed((value, np.arange(count)))
            frames = [
                frame for start in range(0, len(sent), cut) for frame in b.feed(sent[start : start + cut])
            ]
            (frame,) = frames
            back, array = b.read(frame)
            assert back == value
            assert np.array_equal(array, np.arange(count))
    finally:
        a.close()
        b.close()


def test_several_at_once(ends):
    a, b = ends
    frames = b.feed(b"".join(a.packed(n) for n in range(5)))
    assert [b.read(frame) for frame in frames] == list(range(5))


def test_a_large_one_does_not_go_through_the_socket_and_is_kept_when_the_next_is_written(ends):
    a, b = ends
    first, second = np.zeros(INLINE), np.ones(INLINE)
    sent = a.packed(first)
    assert len(sent) < 100
    (kept,) = map(b.read, b.feed(sent))
    kept[0] = 7.0
    (other,) = map(b.read, b.feed(a.packed(second)))
    assert kept[0] == 7.0
    assert kept[1:].sum() == 0
    assert other.all()
    (text,) = map(b.read, b.feed(a.packed("x" * (2 * INLINE))))
    assert text == "x" * (2 * INLINE)


@pytest.mark.needs("cpu")
def test_the_pages_of_a_very_large_one_are_given_back(ends):
    a, b = ends
    fd = a._outgoing._fd
    for value in (b"x" * (KEEP + 5), b"y" * (2 * KEEP), b"z" * INLINE * 2, b"w" * (KEEP + 1)):
        (back,) = map(b.read, b.feed(a.packed(value)))
        assert back == value
        assert os.fstat(fd).st_size <= 2 * KEEP
    assert os.fstat(fd).st_blocks * 512 <= KEEP


def test_what_cannot_be_pickled_raises_and_spoils_nothing(ends):
    a, b = ends
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        a.packed(lambda: None)
    assert list(map(b.read, b.feed(a.packed(1)))) == [1]


def test_lists_that_are_not_contiguous_and_objects_go_too(ends):
    a, b = ends
    value = {
        "t": np.arange(12).reshape(3, 4).T,
        "o": np.array([1, "a", None], dtype=object),
        "u": np.array(["ä", "b"]),
    }
    (back,) = map(b.read, b.feed(a.packed(value)))
    assert all(np.array_equal(back[name], value[name]) for name in value)
