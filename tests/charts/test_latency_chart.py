"""Latency over load as a picture: whatever was measured, all of it is drawn, within the sheet, and no name lies on another."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.charts.latency_chart import Latencies, LoadPicture, SafeRange, latency_plot, latency_sheet
from hooke.charts.renderers import svg_of
from hooke.charts.sheet import Dot, Label


def picture(rates, values, *, limit=50.0, safe=True):
    rates, values = np.array(rates), np.array(values)
    series = tuple(
        Latencies(
            name=name,
            rate=rates,
            value=values * times,
            low=values * times * 0.9,
            high=values * times * 1.2 + rise,
        )
        for name, times, rise in (("p50", 1, 0), ("p99", 3, math.inf))
    )
    return LoadPicture(
        title="a <service> & load",
        series=series,
        limit=limit,
        limit_text="p99 < 50 ms" if limit else "",
        safe=SafeRange(low=float(rates[0]), high=float(rates[-1]), text="safe") if safe else None,
        caption="all of it",
    )


@settings(max_examples=30)
@given(
    rates=st.lists(st.floats(1, 1e5), min_size=1, max_size=12, unique=True).map(sorted),
    value=st.floats(0.01, 1e4),
    limit=st.sampled_from([None, 0.5, 50.0, 5000.0]),
    safe=st.booleans(),
)
def test_all_is_drawn_within_the_sheet(rates, value, limit, safe):
    made = latency_sheet(picture(rates, np.full(len(rates), value), limit=limit, safe=safe))
    dots = [thing for thing in made.items if isinstance(thing, Dot)]
    assert len(dots) == 2 * len(rates)
    assert all(0 <= dot.x <= made.width and 0 <= dot.y <= made.height for dot in dots)
    names = [
        thing for thing in made.items if isinstance(thing, Label) and thing.kind == "name" and thing.x > 400
    ]
    heights = sorted(words.y for words in names if words.anchor == "start")
    assert all(later - one > 7 for one, later in pairwise(heights))
    ET.fromstring(svg_of(made))


@pytest.mark.parametrize("width", [20, 60, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_terminal_gets_lines_that_fit(width, ascii_only):
    text = latency_plot(
        picture([10, 100, 1000], [5, 6, 400]), width=width, colour=False, ascii_only=ascii_only
    )
    plot = text.splitlines()[:-1]
    assert all(len(line) <= max(width, 40) for line in plot)
    assert text.isascii() is ascii_only
    assert "p99 < 50 ms" in text and "surely broken from 1,000" in text
    assert "\x1b" not in text
    assert "\x1b" in latency_plot(picture([10, 100], [5, 6]), width=width, colour=True, ascii_only=ascii_only)
