"""`hooke curve`, each a real process: on journals whose truth is known, and on runs of its own."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from tests.cli.conftest import Desk
from tests.journal.test_records import ENDED, PLAIN, begun, written
from tests.planning.test_curves import STUDY, THREE, name_of, put

pytestmark = pytest.mark.needs("processes")

JOB = """
    import time

    from hooke import pipeline, task

    @task
    def wait(x: int) -> int:
        time.sleep(0.01)
        return x

    @pipeline
    def waits(first: int = 0, n: int = 60) -> list[int]:
        return wait.map(range(first, first + n))
    """


@pytest.fixture
def measured(desk: Desk) -> Desk:
    """A project with three runs of the same work, at N = 1, 2 and 4."""
    for number, n in enumerate((1, 2, 4), 1):
        put(desk.project.runs, number, [(0.0, n)], items=200)
    return desk


def test_table_plot_and_notes_are_printed(measured):
    done = measured.hooke("curve")
    assert done.code == 0
    assert f"a, run {name_of(3)} and 2 more" in done.out
    assert "N  items/s" in done.out
    assert "efficiency" in done.out
    assert "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert done.err.strip() == f"next: hooke curve {name_of(3)} --save curve.svg"


def test_where_text_is_ascii_it_is_drawn_in_ascii(measured):
    assert measured.hooke("curve", PYTHONIOENCODING="ascii").out.isascii()


@pytest.mark.long
def test_pictures_are_written_as_their_names_end(measured):
    done = measured.hooke("curve", "a", "--save", "a.svg", "--save", "a.png")
    assert done.code == 0
    assert (measured.folder / "a.png").read_bytes().startswith(b"\x89PNG")
    root = ElementTree.fromstring((measured.folder / "a.svg").read_text("utf-8"))
    assert len([each for each in root.iter() if each.get("class") == "point"]) == 6


def test_json_is_for_programs(measured):
    facts = json.loads(measured.hooke("curve", name_of(2), "a", "--json").out)
    assert facts["name"] == "a"
    assert [point["n"] for point in facts["points"]] == [1, 2, 4]


def test_a_study_has_its_cost(desk):
    written(desk.project.runs, STUDY, begun(STUDY), *THREE, PLAIN, ENDED)
    done = desk.hooke("curve", STUDY)
    assert done.code == 0
    assert "plain Python (COST): 2" in done.out


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["xyz"], 2, "no task 'xyz'"),
        (["p-2026", "a"], 2, "3 runs begin with"),
        (["--save", "a.gif"], 2, ".svg, .png, .html"),
        (["--save", "no/such/folder/a.svg"], 2, "its folder does not exist"),
    ],
)
def test_what_is_wrong_is_said(measured, arguments, code, said):
    done = measured.hooke("curve", *arguments)
    assert done.code == code
    assert said in done.err
    assert not done.out


@pytest.mark.long
def test_runs_of_ones_own_have_a_curve(desk):
    desk.write("job.py", JOB)
    assert desk.hooke("curve").code == 2
    assert desk.hooke("run", "job.py", "--workers", "2").code == 0
    refused = desk.hooke("curve")
    assert refused.code == 1
    assert refused.err.splitlines()[0] == "wait was measured only at N = 2, which does not show how it scales"
    assert refused.err.splitlines()[-1].endswith("job.py:waits --workers 1 --force=wait")
    assert desk.hooke("run", "job.py", "--workers", "1", "--first", "60").code == 0
    assert "times as much by 2 times as many workers" in desk.hooke("curve").err
    assert desk.hooke("run", "job.py", "--workers", "4", "--first", "120").code == 0
    facts = json.loads(desk.hooke("curve", "--json").out)
    assert [point["n"] for point in facts["points"]] == [1, 2, 4]
    assert facts["points"][1]["throughput"] > 1.2 * facts["points"][0]["throughput"]
