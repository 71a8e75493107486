"""A sheet: names lie where nothing is drawn, and what is drawn is where it was measured."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.charts.curves import KINDS, a_curve

from hooke.charts.curve_sheet import curve_sheet
from hooke.charts.sheet import Dot, Label, Sheet, Stroke

every_kind = pytest.mark.parametrize("kind", KINDS)


def sheet_of(kind: str) -> Sheet:
    return curve_sheet(a_curve(kind).picture())


def things(sheet: Sheet, kind: str) -> list:
    return [thing for thing in sheet.items if thing.kind == kind]


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.needs("cpu")
@every_kind
def test_every_measured_point_is_drawn_in_both_panels(kind):
    sheet, levels = sheet_of(kind), a_curve(kind).measurements.levels.size
    assert len(things(sheet, "point")) == len(things(sheet, "bar")) == 2 * levels


@pytest.mark.needs("cpu")
@every_kind
def test_no_name_lies_on_another_or_on_the_data(kind):
    sheet = sheet_of(kind)
    boxes = [thing.box for thing in sheet.items if isinstance(thing, Label)]
    for one, other in itertools.combinations(boxes, 2):
        assert not overlap(one, other)
    data = [(dot.x - dot.radius, dot.y - dot.radius, dot.x + dot.radius, dot.y + dot.radius) for dot in things(sheet, "point")]  # fmt: skip
    data += [(bar.x.min(), bar.y.min(), bar.x.max(), bar.y.max()) for bar in things(sheet, "bar")]
    for line in (*things(sheet, "law"), *things(sheet, "beyond"), *things(sheet, "leader")):
        data += [(x, y, x, y) for x, y in zip(line.x, line.y, strict=True)]
    for words, taken in itertools.product(boxes, data):
        assert not overlap(words, taken)


@pytest.mark.needs("cpu")
@every_kind
def test_everything_is_on_the_sheet(kind):
    sheet = sheet_of(kind)
    for thing in sheet.items:
        if isinstance(thing, Label):
            left, top, right, bottom = thing.box
        elif isinstance(thing, Dot):
            left, right = thing.x - thing.radius, thing.x + thing.radius
            top, bottom = thing.y - thing.radius, thing.y + thing.radius
        else:
            across = thing.x
            down = thing.y if isinstance(thing, Stroke) else np.concatenate([thing.top, thing.bottom])
            left, right, top, bottom = across.min(), across.max(), down.min(), down.max()
        assert left >= 0, thing
        assert top >= 0, thing
        assert right <= sheet.width, thing
        assert bottom <= sheet.height, thing


@pytest.mark.needs("cpu")
@every_kind
def test_the_law_is_solid_where_it_was_measured_and_dashed_beyond(kind):
    sheet = sheet_of(kind)
    points = sorted(dot.x for dot in things(sheet, "point"))
    half = len(points) // 2
    for panel, at in ((points[:half], 0), (points[half:], 1)):
        solid = things(sheet, "law")[at]
        assert solid.dash is None
        assert (solid.x[0], solid.x[-1]) == pytest.approx((panel[0], panel[-1]))
        beyond = [
            line for line in things(sheet, "beyond") if line.x[-1] > panel[-1] and line.x[0] >= panel[0]
        ]
        assert beyond[0].dash is not None
        assert beyond[0].x[0] == pytest.approx(panel[-1])


@pytest.mark.needs("cpu")
def test_a_law_measured_from_four_on_is_dashed_before_too():
    assert len(things(sheet_of("from 4 on"), "beyond")) == 4


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        ("usl", {"knee", "peak", "COST"}),
        ("hard knee", {"knee", "COST"}),
        ("few", {"COST"}),
        ("linear", set()),
    ],
)
def test_what_is_known_is_marked(kind, marks):
    sheet = sheet_of(kind)
    assert {thing.kind for thing in sheet.items if isinstance(thing, Dot)} - {"point"} == marks


def test_a_mark_lies_on_the_law_and_its_line_leads_from_its_name_to_it():
    sheet = sheet_of("usl")
    law = things(sheet, "law")[0]
    for kind in ("knee", "peak", "COST"):
        in_row, on_law, _ = things(sheet, kind)
        assert on_law.y == pytest.approx(float(np.interp(on_law.x, law.x, law.y)), abs=0.5)
        (leader,) = [line for line in things(sheet, "leader") if line.x[0] == pytest.approx(on_law.x)]
        assert leader.y.tolist() == pytest.approx([in_row.y, on_law.y])


@pytest.mark.needs("cpu")
def test_without_a_knee_it_is_said_where_to_measure():
    said = [words.text for words in sheet_of("few").items if isinstance(words, Label)]
    assert "knee not determined; to find it, measure at N = 8" in said
    said = [words.text for words in sheet_of("superlinear").items if isinstance(words, Label)]
    assert "no knee up to N = 16; to find it, measure at N = 32" in said


def test_many_small_n_are_drawn_by_the_logarithm():
    made = a_curve("crowded").picture()
    assert made.x.logarithmic
    assert made.x.ticks()[0] == 1
    assert not a_curve("usl").picture().x.logarithmic


def test_no_part_of_a_worker_is_written_at_the_axis():
    assert a_curve("two").picture().x.ticks() == [0, 1, 2]
