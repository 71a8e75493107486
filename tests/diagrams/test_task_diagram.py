"""Pictures of graphs: what a box stands for, and that no name of a user becomes markup."""

import re
import xml.etree.ElementTree as ET

import pytest

from hooke import pipeline, task
from hooke.base.errors import UsageError
from hooke.diagrams.task_diagram import DrawnCall, diagram_of

NASTY = "</text><script>alert(1)</script>\"'&`]-->\n\x1b[31m"


@task
def load(n: int) -> list[int]:
    return list(range(n))


@task
def fit(x: int) -> int:
    return x


@task
def total(values: list[int]) -> int:
    return sum(values)


@pipeline
def train(n: int) -> int:
    return total(fit.map(load(n)))


@pipeline
def daily(n: int, times: int = 2) -> int:
    return total([train(n) for _ in range(times)])


class TestPipelines:
    def test_a_map_is_one_box_and_a_nested_pipeline_a_frame(self):
        drawn = daily.graph(3)
        assert [(box.task, box.count, box.within) for box in drawn.boxes] == [
            ("load", "", ("train",)),
            ("fit", "map of ?", ("train",)),
            ("total", "", ("train",)),
            ("load", "", ("train (2)",)),
            ("fit", "map of ?", ("train (2)",)),
            ("total", "", ("train (2)",)),
            ("total", "", ()),
        ]
        assert drawn.edges == ((0, 1), (1, 2), (3, 4), (4, 5), (2, 6), (5, 6))
        assert drawn.summary == "3 tasks, 7 calls"

    def test_many_calls_are_one_box_a_task(self):
        drawn = daily.graph(3, times=1000)
        assert [(box.task, box.count) for box in drawn.boxes] == [
            ("load", "1,000 calls"),
            ("fit", "1,000 maps of ?"),
            ("total", "1,000 calls"),
            ("total", ""),
        ]
        assert drawn.summary == "3 tasks, 3,001 calls"
        assert len(drawn.svg()) < 10_000

    def test_it_shows_itself_as_text_and_as_a_picture(self):
        drawn = train.graph(3)
        assert str(drawn).splitlines() == [
            "train: 3 tasks, 3 calls",
            "  load",
            "  fit    map of ?  <- load",
            "  total            <- fit",
        ]
        assert drawn._repr_mimebundle_() == {"text/plain": str(drawn), "image/svg+xml": drawn.svg()}
        assert drawn._repr_svg_() == drawn.svg() == train.graph(3).svg()

    def test_frames_of_text(self):
        assert str(daily.graph(3)).splitlines()[1:4] == [
            "  ╭ train",
            "  │ load",
            "  │ fit    map of ?  <- load",
        ]
        assert str(daily.graph(3)).splitlines()[-1] == "  total              <- total x2"

    def test_arguments_are_checked(self):
        with pytest.raises(UsageError, match="n"):
            train.graph()


class TestNames:
    def test_no_name_becomes_markup(self):
        drawn = diagram_of(
            NASTY,
            [
                DrawnCall(0, NASTY, False, 1, (), (NASTY,), NASTY, "failed"),
                DrawnCall(1, "b", True, 3, (0,), state="running", settled=1),
            ],
            2,
        )
        svg = drawn.svg()
        root = ET.fromstring(svg)
        assert {each.tag.rpartition("}")[2] for each in root.iter()} == {
            "svg", "title", "style", "defs", "marker", "path", "g", "rect", "text",
        }  # fmt: skip
        assert "\x1b" not in svg + drawn.text()
        assert "<script" not in svg + drawn.mermaid()
        assert all(line.count('"') in (0, 2) for line in drawn.mermaid().splitlines())

    def test_mermaid_joins_what_it_names(self):
        lines = daily.graph(3).mermaid().splitlines()
        named = {found[1] for line in lines if (found := re.match(r"\s+(t\d+)[\[(]", line))}
        joined = {end for line in lines if "-->" in line for end in line.split() if end != "-->"}
        assert lines[0] == "flowchart TD"
        assert named == joined == {f"t{at}" for at in range(7)}
        assert sum("subgraph" in line for line in lines) == sum(line.strip() == "end" for line in lines) == 2

    def test_of_very_many_tasks_it_says_how_many_are_left_out(self):
        drawn = diagram_of("p", [DrawnCall(at, f"t{at}", False, 1, (at - 1,)) for at in range(1000)], 1000)
        assert len(drawn.boxes) == 300
        assert drawn.summary == "1,000 tasks, 700 of them not drawn, 1,000 calls"
        assert str(drawn).splitlines()[-1] == "  and 700 more tasks"
