"""Figures inside of pages: well-formed whatever the texts and numbers are, each value where it belongs."""

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.charts.inline_svg import parallel_svg, steps_plot
from hooke.charts.run_figures import Curves, ParallelColumn, Trace

NASTY = "</svg><script>hacked()</script>'\"&\x1b[31m\u202e"
texts = st.text(max_size=40) | st.just(NASTY)
cells = st.none() | st.floats(allow_nan=True, allow_infinity=True) | texts


def points(line: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, each.split(","))) for each in line.get("points").split()]


class TestParallel:
    @pytest.mark.needs("cpu")
    @given(st.lists(st.tuples(texts, st.lists(cells, min_size=3, max_size=3)), min_size=1, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_all_texts_and_values_stay_in_the_picture(self, given):
        columns = [ParallelColumn(name=name, values=values) for name, values in given]
        root = ET.fromstring(parallel_svg(columns, [NASTY] * 3, name=NASTY, best=1))
        assert {each.tag for each in root.iter()} == {"svg", "g", "polyline", "line", "text"}
        height = float(root.get("height"))
        for line in root.iter("polyline"):
            assert all(0 <= y <= height for _, y in points(line))
        assert len(root.findall("g")) == 3
        assert root.findall("g")[-1].get("class") == "best"

    def test_the_better_the_stronger(self):
        columns = [
            ParallelColumn(name="x", values=[1, 2, 3]),
            ParallelColumn(name="loss", values=[0.1, 0.5, 0.9]),
        ]
        for downwards, kinds in ((False, ["q0", "q2", "q4"]), (True, ["q4", "q2", "q0"])):
            root = ET.fromstring(parallel_svg(columns, ["a", "b", "c"], name="runs", downwards=downwards))
            assert {each.get("data-t"): each.get("class") for each in root.findall("g")} == dict(
                zip("abc", kinds, strict=True)
            )


class TestSteps:
    def test_lines_dots_and_stairs_share_one_box(self):
        panel = Curves(
            metric=NASTY,
            traces=[
                Trace(source="best", steps=[0, 2, 4], values=[1.0, 3.0, 3.0], stairs=True),
                Trace(source="trial", steps=[0, 2, 4], values=[1.0, 3.0, math.nan], joined=False),
                Trace(source="other", steps=[0], values=[5.0]),
            ],
        )
        made = steps_plot(panel, sources=["best", "trial", "other"], steps="trial")
        assert (made.low, made.high, made.first, made.last) == ("1", "5", "0", "4")
        root = ET.fromstring(made.svg)
        stairs = points(root.findall("g")[0][0])
        assert stairs == [(0, 100), (500, 100), (500, 50), (1000, 50), (1000, 50)]
        dots = [(each.get("class"), each.get("d")) for each in root.findall("path")]
        assert dots == [("dot s1", "M0.0,100.0h0"), ("dot s1", "M500.0,50.0h0"), ("dot s2", "M0.0,0.0h0")]

    def test_no_number_is_no_plot(self):
        nothing = Curves(metric="loss", traces=[Trace(source="a", steps=[0, 1], values=[math.nan, math.inf])])
        assert steps_plot(nothing, sources=["a"]) is None
