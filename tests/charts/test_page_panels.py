"""Charts of pages: within their panel, one markup for both themes, and each place says what is there."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from tests.charts.curves import KINDS, a_curve

from hooke.charts.curve_sheet import curve_panels
from hooke.charts.plan_chart import PlannedPoint, PlanPicture, plan_panel
from hooke.charts.renderers import page_svg, svg_of, theme_class
from hooke.charts.sheet import Area, Dot, Label, PagePanel, Stroke

SCRIPT = "</title><script>alert(1)</script>\"'"


def assert_on_the_page(panel: PagePanel) -> None:
    """Nothing is outside of the panel, and its markup needs no inline style and no colour of one theme."""
    sheet = panel.sheet
    for item in sheet.items:
        match item:
            case Label():
                left, top, right, bottom = item.box
            case Dot():
                left, right = item.x - item.radius, item.x + item.radius
                top, bottom = item.y - item.radius, item.y + item.radius
            case Stroke():
                left, right, top, bottom = item.x.min(), item.x.max(), item.y.min(), item.y.max()
            case Area():
                left, right, top, bottom = item.x.min(), item.x.max(), item.top.min(), item.bottom.max()
        assert left >= -1 and right <= sheet.width + 1, item
        assert top >= -1 and bottom <= sheet.height + 1, item
    text = page_svg(sheet)
    drawn = ET.fromstring(text)
    assert not {"style"} & {name for each in drawn.iter() for name in each.attrib}
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r'data-t=("[^"]*"|\'[^\']*\')', "", text))
    assert {each.tag for each in drawn.iter()} <= {"svg", "path", "circle", "text"}
    assert all(theme_class(colour) for colour, _ in panel.legend)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("kind", KINDS)
def test_a_law_is_said_at_each_number_that_was_measured(kind):
    curve = a_curve(kind)
    panels = curve_panels(curve.picture())
    assert [panel.title.split(" (")[0] for panel in panels] == ["speed-up", "efficiency"]
    for panel in panels:
        assert_on_the_page(panel)
        hints = [item.hint for item in panel.sheet.items if item.kind == "at"]
        measured = [hint for hint in hints if "; measured " in hint]
        assert len(measured) == curve.measurements.levels.size
        assert all(" by the law" in hint for hint in hints)
        assert all("beyond what was measured" not in hint for hint in measured)


def test_a_plan_has_its_front_its_choice_and_what_runs_took():
    points = tuple(
        PlannedPoint(
            seconds=(at / 2, at, 2 * at),
            usd=(0.0, usd, 2 * usd),
            front=front,
            chosen=not usd,
            text=f"{at} {SCRIPT}",
        )
        for at, usd, front in ((10.0, 2.0, True), (40.0, 1.0, True), (400.0, 0.0, False), (500.0, 3.0, False))
    )
    panel = plan_panel(PlanPicture(title=SCRIPT, points=points, taken=((300.0, 0.0, "took"),)))
    assert_on_the_page(panel)
    assert [text for _, text in panel.legend] == [
        "no other is both faster and cheaper", "recommended", "others", "runs that followed it",
    ]  # fmt: skip
    dots = {dot.hint: dot for dot in panel.sheet.items if isinstance(dot, Dot)}
    places = [dots[f"{at} {SCRIPT}"].x for at in (10.0, 40.0, 400.0)]
    assert places == sorted(places) and dots["took"].shape == "triangle"
    gaps = np.diff(places)
    assert gaps[1] / gaps[0] == pytest.approx(np.log(10) / np.log(4))  # a logarithmic axis
    svg = ET.fromstring(page_svg(panel.sheet))
    assert f"10.0 {SCRIPT}" in {each.attrib.get("data-t") for each in svg.iter()}
    assert "<script" not in page_svg(panel.sheet) and "<script" not in svg_of(panel.sheet)


def test_what_costs_nothing_and_takes_one_time_is_drawn():
    point = PlannedPoint(seconds=(0.0, 0.0, 0.0), usd=(0.0, 0.0, 0.0), front=True, chosen=False, text="none")
    assert_on_the_page(plan_panel(PlanPicture(title="x", points=(point,), taken=())))
