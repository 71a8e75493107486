"""A service over time as a picture: whatever happened, it is drawn within the sheet and in so many characters."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.charts.test_page_panels import assert_on_the_page

from hooke.charts.fleet_chart import MOST_CHANGES, SizeChange
from hooke.charts.renderers import svg_of
from hooke.charts.service_chart import (
    SeriesLine,
    ServicePicture,
    service_panels,
    service_plot,
    service_sheet,
)
from hooke.charts.sheet import Label


def picture(rates, *, changes=2, lost=0.0, times=(10.0, 400.0), limit=500.0):
    count = len(rates)
    edges = np.linspace(0.0, 100.0, count + 1)
    at = np.linspace(0.0, 90.0, changes + 1)
    wanted = np.arange(changes + 1) % 4 + 1.0
    return ServicePicture(
        title="a <service>",
        unit="s",
        edges=edges,
        asked=np.array(rates),
        answered=np.array(rates) * (1 - lost),
        unanswered=np.array(rates) * lost,
        moments=at,
        ready=wanted,
        wanted=wanted,
        changes=tuple(
            SizeChange(
                at=float(at[each + 1]),
                before=int(wanted[each]),
                after=int(wanted[each + 1]),
                text="so many requests wait or run that & more <words> than a line has room for are needed to say why "
                * 2,
            )
            for each in range(changes)
        ),
        times=tuple(
            SeriesLine(name=name, value=np.where(np.arange(count) % 3 == 1, np.nan, value))
            for name, value in zip(("p50", "p99"), times, strict=True)
        ),
        limit=limit,
        limit_text="p99 < 500 ms" if limit else "",
        caption="all of it",
        busy=np.arange(count) / max(count, 1),
        batch=np.where(np.arange(count) % 2 == 1, np.nan, 3.0),
    )


@pytest.mark.needs("cpu")
@settings(max_examples=30)
@given(
    rates=st.lists(st.floats(0.0, 1e5), min_size=1, max_size=40),
    changes=st.integers(0, 40),
    lost=st.sampled_from([0.0, 0.5, 1.0]),
    limit=st.sampled_from([None, 500.0]),
)
def test_all_is_drawn_within_the_sheet(rates, changes, lost, limit):
    made = service_sheet(picture(rates, changes=changes, lost=lost, limit=limit))
    words = [thing for thing in made.items if isinstance(thing, Label)]
    assert all(-1 <= each.y <= made.height and each.box[2] <= made.width + 1 for each in words)
    told = [each for each in words if each.kind == "sentence" and each.x == 6]
    assert len(told) == min(changes, MOST_CHANGES)
    (caption,) = [each for each in words if each.kind == "caption"]
    assert ("not listed" in caption.text) == (changes > MOST_CHANGES)
    ET.fromstring(svg_of(made))


@pytest.mark.needs("cpu")
@settings(max_examples=30)
@given(
    rates=st.lists(st.floats(0.0, 1e5), min_size=1, max_size=40),
    changes=st.integers(0, 40),
    lost=st.sampled_from([0.0, 0.5, 1.0]),
    limit=st.sampled_from([None, 500.0]),
)
def test_a_page_has_all_panels_and_says_each_interval_once(rates, changes, lost, limit):
    panels = service_panels(picture(rates, changes=changes, lost=lost, limit=limit))
    assert len(panels) == 5
    for panel in panels:
        assert_on_the_page(panel)
        assert len([item for item in panel.sheet.items if item.kind == "at"]) == len(rates)


def test_a_decision_is_said_from_its_moment_on():
    """The first is at 45 of 100 s, in the fifth of ten intervals."""
    (replicas,) = [
        each for each in service_panels(picture([1.0] * 10, changes=2)) if "replicas" in each.title
    ]
    told = [item.hint for item in replicas.sheet.items if item.kind == "at"]
    assert ["1 -> 2" in each or "so many requests" in each for each in told] == [False] * 4 + [True] * 6
    assert told[5].startswith("50 to 60 s: 2 ready, 2 desired, 0.5 busy; so many requests")
    assert "(at 45 s)" in told[5] and "(at 90 s)" in told[9]


@pytest.mark.parametrize("width", [20, 60, 110])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_in_characters(width, ascii_only):
    text = service_plot(picture([0.0, 5.0, 80.0], lost=0.1), width=width, colour=False, ascii_only=ascii_only)
    lines = text.splitlines()
    assert all(len(line) <= max(width, 40) for line in lines if "   " not in line or "│" in line)
    assert not ascii_only or text.isascii()
    assert [line.split("   ")[0] for line in lines if line[:1].isalpha()] == [
        "requests per second", "replicas", "latency (ms)",
    ]  # fmt: skip


def test_where_nothing_was_answered_there_are_no_times():
    nothing = picture([3.0], times=(np.nan, np.nan))
    assert nothing.times_axis is None
    assert not [thing for thing in service_sheet(nothing).items if thing.kind == "quantile"]
    assert "latency" not in service_plot(nothing, width=80, colour=True, ascii_only=False)
