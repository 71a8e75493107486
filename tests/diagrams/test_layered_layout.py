"""Boxes do not overlap, frames hold what is theirs and nothing else, arrows go down, and all is the same each time."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.diagrams.layered_layout import Frame, place_graph


@st.composite
def graphs(draw, most=14):
    count = draw(st.integers(0, most))
    sizes = [(draw(st.integers(20, 200)), draw(st.integers(20, 60))) for _ in range(count)]
    number = st.integers(0, max(count - 1, 0))
    edges = draw(st.lists(st.tuples(number, number), max_size=30)) if count else []
    paths = [tuple(draw(st.lists(st.sampled_from("abc"), max_size=3))) for _ in range(count)]
    return sizes, edges, draw(st.sampled_from([paths, [()] * count]))


def overlap(one: Frame, other: Frame) -> bool:
    return (
        min(one.x + one.width, other.x + other.width) - max(one.x, other.x) > 1e-6
        and min(one.y + one.height, other.y + other.height) - max(one.y, other.y) > 1e-6
    )


def holds(outer: Frame, inner: Frame) -> bool:
    return (
        outer.x <= inner.x + 1e-6
        and outer.y <= inner.y + 1e-6
        and inner.x + inner.width <= outer.x + outer.width + 1e-6
        and inner.y + inner.height <= outer.y + outer.height + 1e-6
    )


@pytest.mark.needs("cpu")
@given(graphs())
@settings(deadline=None, max_examples=60)
def test_boxes_keep_apart_and_in_their_frames(graph):
    sizes, edges, paths = graph
    placed = place_graph(sizes, edges, paths)
    assert placed == place_graph(sizes, edges, paths)
    whole = Frame(x=0, y=0, width=placed.width, height=placed.height)
    assert [(box.width, box.height) for box in placed.boxes] == sizes
    assert all(holds(whole, box) for box in placed.boxes)
    assert not any(overlap(one, other) for one, other in combinations(placed.boxes, 2))
    for path, frame in placed.groups.items():
        for box, own in zip(placed.boxes, paths, strict=True):
            assert holds(frame, box) if own[: len(path)] == path else not overlap(frame, box)
        for other, inner in placed.groups.items():
            if other != path and len(other) >= len(path):
                assert holds(frame, inner) if other[: len(path)] == path else not overlap(frame, inner)


@pytest.mark.needs("cpu")
@given(graphs())
@settings(deadline=None, max_examples=60)
def test_arrows_join_what_they_should_and_go_down_where_there_is_no_cycle(graph):
    sizes, edges, paths = graph
    forward = [edge for edge in edges if edge[0] < edge[1]]
    placed = place_graph(sizes, forward)
    assert {(arrow.source, arrow.target) for arrow in placed.arrows} == set(forward)
    for arrow in placed.arrows:
        source, target = placed.boxes[arrow.source], placed.boxes[arrow.target]
        assert source.y + source.height <= target.y
        ys = [y for _, y in arrow.points]
        assert ys == sorted(ys)
        assert arrow.points[0] == (source.x + source.width / 2, source.y + source.height)
        assert arrow.points[-1] == (target.x + target.width / 2, target.y)
    ends = {arrow.source for arrow in place_graph(sizes, edges, paths).arrows}
    assert all(end in range(len(sizes)) or isinstance(end, tuple) for end in ends)


@pytest.mark.needs("cpu")
def test_a_long_chain_needs_no_recursion():
    count = 3000
    placed = place_graph([(10, 10)] * count, [(at, at + 1) for at in range(count - 1)])
    assert len({box.x for box in placed.boxes}) == 1


def test_a_cycle_is_drawn_upwards():
    placed = place_graph([(10, 10)] * 2, [(0, 1), (1, 0)])
    down, up = placed.arrows
    assert down.points[0][1] < down.points[-1][1]
    assert up.points[0][1] > up.points[-1][1]
