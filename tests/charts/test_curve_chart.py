"""A curve and the ways to look at it."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageFont
from plotly.graph_objects import Figure
from tests.charts.curves import KINDS, a_curve

from hooke import MissingExtra, NotEnoughData, UsageError
from hooke.charts import plotly_figure as interactive
from hooke.charts.curve_chart import Curve
from hooke.charts.curve_sheet import curve_sheet
from hooke.charts.html import plotly_page
from hooke.charts.sheet import Label, text_width
from hooke.scaling import Measurements

every_kind = pytest.mark.parametrize("kind", KINDS)
SVG = "{http://www.w3.org/2000/svg}"


class TestCurve:
    def test_it_is_the_fit_of_its_measurements(self):
        curve = a_curve("usl")
        assert curve.law.family == "usl"
        assert curve.cost is not None
        assert curve.cost.n == 3
        assert repr(curve) == (
            "Curve(features, run delays-20261125-004622-x7k2: usl, N = 1, 2, 4, 8, 16, 24, 32, 48, 64)"
        )

    def test_one_n_is_refused_with_the_next_one_to_measure(self):
        with pytest.raises(NotEnoughData) as caught:
            Curve(Measurements([2, 2, 2], throughput=[3, 3, 3]), name="features")
        assert caught.value.measure_at == 4

    @pytest.mark.needs("cpu")
    def test_a_cost_too_far_away_is_a_note(self):
        measured = Measurements([1, 2, 3, 4], throughput=[10.0, 19.9, 30.1, 40])
        curve = Curve(measured, 1 / 400, name="features")
        assert curve.cost is None
        assert any(note.startswith("COST not determined") for note in curve.picture().notes)

    @pytest.mark.needs("cpu")
    @every_kind
    def test_its_facts_are_json(self, kind):
        facts = json.loads(json.dumps(a_curve(kind).facts(), allow_nan=False))
        assert facts["family"] == a_curve(kind).law.family
        assert len(facts["points"]) == a_curve(kind).measurements.levels.size

    def test_an_unknown_ending_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match=r"\.svg, \.png, \.html"):
            a_curve("usl").save(tmp_path / "curve.jpeg")
        assert not list(tmp_path.iterdir())

    @pytest.mark.needs("cpu")
    def test_what_was_saved_replaces_what_was_there(self, tmp_path):
        path = a_curve("usl").save(tmp_path / "curve.svg")
        first = path.read_bytes()
        assert a_curve("usl").save(path).read_bytes() == first
        assert [each.name for each in tmp_path.iterdir()] == ["curve.svg"]


class TestSvg:
    @pytest.mark.needs("cpu")
    @every_kind
    def test_it_is_well_formed_and_holds_every_point(self, kind):
        root = ElementTree.fromstring(a_curve(kind).svg())
        points = [each for each in root.iter(f"{SVG}circle") if each.get("class") == "point"]
        assert len(points) == 2 * a_curve(kind).measurements.levels.size
        beyond = [each for each in root.iter(f"{SVG}path") if each.get("class") == "beyond"]
        assert beyond
        assert all(each.get("stroke-dasharray") for each in beyond)

    def test_names_of_users_are_text(self):
        curve = Curve(a_curve("usl").measurements, name='<script>alert("x")</script> & more')
        title = next(ElementTree.fromstring(curve.svg()).iter(f"{SVG}text"))
        assert title.text == '<script>alert("x")</script> & more'

    def test_within_a_page_text_takes_the_colour_of_the_page(self):
        shown = a_curve("usl")._repr_html_()
        assert "currentColor" in shown
        assert "#222222" not in shown
        assert "<rect" not in shown


class TestPng:
    @pytest.mark.needs("cpu")
    def test_it_is_a_png_of_the_size_asked_for(self):
        opened = Image.open(BytesIO(a_curve("few").png(scale=1)))
        assert opened.format == "PNG"
        assert opened.width == 691
        assert opened.info["dpi"] == pytest.approx((96, 96), abs=0.1)

    @pytest.mark.needs("cpu")
    def test_points_are_dark_and_the_ground_is_white(self):
        picture = np.asarray(Image.open(BytesIO(a_curve("few").png(scale=1))))
        assert (picture[0, 0] == 255).all()
        root = ElementTree.fromstring(a_curve("few").svg())
        for point in root.iter(f"{SVG}circle"):
            x, y = (int(float(point.get(name, "")) * 96 / 72) for name in ("cx", "cy"))
            assert (picture[y, x] < 60).all()

    @pytest.mark.needs("cpu")
    def test_the_same_curve_gives_the_same_bytes(self):
        assert a_curve("two").png(scale=0.5) == a_curve("two").png(scale=0.5)

    @pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 100])
    def test_a_size_that_is_none_is_refused(self, scale):
        with pytest.raises(UsageError, match="scale"):
            a_curve("two").png(scale=scale)

    @pytest.mark.needs("cpu")
    @every_kind
    def test_words_take_the_room_that_they_were_given(self, kind):
        font = ImageFont.load_default(80.0)
        for words in (each for each in curve_sheet(a_curve(kind).picture()).items if isinstance(each, Label)):
            assert font.getlength(words.text) < 1.1 * text_width(words.text, 80.0) + 8, words.text

    def test_without_pillow_it_says_how_to_get_it(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        with pytest.raises(MissingExtra, match="Pillow") as caught:
            a_curve("two").save(tmp_path / "c.png")
        assert 'pip install "hooke-ml[plot]"' in caught.value.fix
        assert not list(tmp_path.iterdir())


class TestPlotly:
    @pytest.mark.needs("cpu")
    @every_kind
    def test_its_spec_holds_what_was_measured(self, kind):
        curve = a_curve(kind)
        spec = json.loads(json.dumps(interactive.curve_spec(curve.picture()), allow_nan=False))
        points = [trace for trace in spec["data"] if trace.get("name") == "measured"]
        assert [trace["xaxis"] for trace in points] == ["x", "x2"]
        assert all(trace["x"] == curve.measurements.levels.tolist() for trace in points)
        dashed = [trace for trace in spec["data"] if trace.get("line", {}).get("dash") == "dash"]
        most = curve.measurements.levels[-1]
        assert most in {trace["x"][0] for trace in dashed}

    def test_a_name_cannot_leave_its_place(self):
        curve = Curve(a_curve("two").measurements, name="</script><script>alert(1)</script>")
        made = curve.picture()
        page = plotly_page([interactive.curve_spec(made)], "", "", title=made.title)
        parser = Scripts()
        parser.feed(page)
        assert parser.count == 2

    def test_without_plotly_it_says_how_to_get_it(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
        monkeypatch.setitem(sys.modules, "plotly.offline", None)
        for ask in (
            a_curve("two").to_plotly,
            a_curve("two").html,
            lambda: a_curve("two").save(tmp_path / "c.html"),
        ):
            with pytest.raises(MissingExtra, match="plotly") as caught:
                ask()
            assert 'pip install "hooke-ml[plot]"' in caught.value.fix
        assert not list(tmp_path.iterdir())

    @pytest.mark.needs("cpu")
    def test_with_plotly_it_is_a_figure_and_a_page_that_loads_nothing(self, tmp_path):
        assert isinstance(a_curve("usl").to_plotly(), Figure)
        page = a_curve("usl").save(tmp_path / "c.html").read_text("utf-8")
        parser = Scripts()
        parser.feed(page)
        assert parser.count == 2
        assert not parser.loaded


class TestText:
    @pytest.mark.needs("cpu")
    @every_kind
    @pytest.mark.parametrize("width", [40, 60, 80, 132])
    def test_the_plot_fits_the_terminal(self, kind, width):
        curve = a_curve(kind)
        table = curve.table().splitlines()
        for line in curve.text(width=width).splitlines():
            assert len(line) <= width or line in {*table, curve.title}

    def test_plain_text_is_ascii_without_colours(self):
        assert a_curve("usl").text(width=80, plain=True).isascii()
        assert "\x1b" not in a_curve("usl").text(width=80)
        assert "\x1b[38;5;" in a_curve("usl").text(width=80, colour=True)

    def test_every_point_and_mark_is_there(self):
        text = a_curve("hard knee").text(width=100)
        plot = text[text.index("speed-up;") : text.index("● measured")]
        assert plot.count("●") == 2 * a_curve("hard knee").measurements.levels.size
        assert plot.count("◆") == 2

    @pytest.mark.needs("cpu")
    def test_print_shows_it(self):
        assert "Amdahl's law" in str(a_curve("few"))


@pytest.mark.needs("cpu")
def test_nothing_heavy_is_imported_to_draw():
    code = (
        "import sys, hooke.charts.curve_chart as c; from hooke.scaling import Measurements as M;"
        "c.Curve(M([1, 2, 4, 8], throughput=[1, 2, 3.5, 6])).svg();"
        "sys.exit(bool({'matplotlib', 'plotly', 'PIL', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Scripts(html.parser.HTMLParser):
    """Counts scripts, and names what they or anything else would load."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.count += tag == "script"
        self.loaded += [value for name, value in attrs if name in {"src", "href"}]
