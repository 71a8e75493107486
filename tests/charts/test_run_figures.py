"""Learning curves and parallel coordinates, from plain numbers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.graph_objects import Figure

from hooke.charts.plotly_figure import figure_from_spec
from hooke.charts.run_figures import Curves, ParallelColumn, Trace, curves_spec, parallel_spec, thinned

values = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=90)


class TestLearning:
    @given(values, st.integers(6, 40))
    @settings(max_examples=40, deadline=None)
    def test_thinning_keeps_the_ends_the_least_and_the_greatest(self, values, most):
        steps, kept = thinned(range(len(values)), values, most)
        assert len(steps) == len(kept) <= max(most, 6)
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, len(values) - 1)
        finite = [value for value in values if math.isfinite(value)]
        if finite and len(finite) == len(values):
            assert {min(values), max(values)} <= set(kept)

    def test_a_panel_a_metric_and_a_colour_a_source(self):
        def trace(source, values):
            return Trace(source=source, steps=range(len(values)), values=values)

        spec = curves_spec(
            [
                Curves(metric="loss", traces=[trace("a", [1, 0.5]), trace("b", [2, math.nan])]),
                Curves(metric="<auc>", traces=[trace("b", [0.5, 0.9])]),
            ]
        )
        json.dumps(spec, allow_nan=False)
        assert isinstance(figure_from_spec(spec), Figure)
        loss_a, loss_b, auc_b = spec["data"]
        assert (loss_a["yaxis"], auc_b["yaxis"]) == ("y", "y2")
        assert loss_b["line"]["color"] == auc_b["line"]["color"] != loss_a["line"]["color"]
        assert [each["showlegend"] for each in spec["data"]] == [True, True, False]
        assert loss_b["y"] == [2.0, None]
        assert spec["layout"]["yaxis2"]["title"]["text"] == "&lt;auc&gt;"
        assert spec["layout"]["yaxis2"]["domain"][1] < spec["layout"]["yaxis"]["domain"][0]


cells = st.one_of(st.none(), st.floats(width=32), st.integers(-5, 5), st.sampled_from(["x", "<y>"]))


class TestParallel:
    @given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=5))
    @settings(max_examples=40, deadline=None)
    def test_any_values_make_a_figure(self, columns):
        spec = parallel_spec(
            [ParallelColumn(name=f"c{at}", values=column) for at, column in enumerate(columns)]
        )
        json.dumps(spec, allow_nan=False)
        for column in spec["data"][0]["dimensions"]:
            low, high = column["range"]
            assert all(low - 1e-9 <= value <= high + 1e-9 for value in column["values"])
            assert len(column.get("tickvals", ())) == len(column.get("ticktext", ()))

    def test_decades_are_drawn_in_logarithms_and_gaps_lie_below(self):
        (trace,) = parallel_spec([ParallelColumn(name="rate", values=[0.001, 0.1, None])])["data"]
        (rate,) = trace["dimensions"]
        assert rate["values"][:2] == pytest.approx([-3, -1])
        assert rate["values"][2] < -3
        assert rate["ticktext"][0] == "(none)"
        assert {"0.001", "0.1"} <= set(rate["ticktext"])

    @pytest.mark.needs("cpu")
    def test_it_is_coloured_by_the_column_that_is_named(self):
        columns = [
            ParallelColumn(name="depth", values=[1, 2]),
            ParallelColumn(name="auc", values=[0.5, 0.75]),
        ]
        assert parallel_spec(columns)["data"][0]["line"]["color"] == [0.5, 0.75]
        assert parallel_spec(columns, colour="depth")["data"][0]["line"]["color"] == [1, 2]
        assert isinstance(figure_from_spec(parallel_spec(columns)), Figure)
        assert np.isfinite(parallel_spec(columns)["data"][0]["dimensions"][0]["range"]).all()
