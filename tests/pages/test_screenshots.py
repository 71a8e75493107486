"""The pictures in the docs: each page that they name has one, and it shows what the page consists of now."""

import re
from pathlib import Path

import pytest
from PIL import Image
from tests.pages.screenshots import (
    GRAPH,
    PICTURES,
    QUICK_RUNS,
    ROOT,
    SCREENSHOTS,
    WIDTH,
    outlines,
    scene,
)

pytestmark = pytest.mark.needs("chromium")

AGAIN = "look at what changed, then: make screenshots"
MOST_BYTES = 150_000
WITHOUT = {
    "/runs/RUN/logs": "text only",
    "/runs/RUN/artifacts/N": "what a user logged",
    **dict.fromkeys(
        ("/laws", "/plans", "/plans/PLAN", "/services"),
        "it takes a study, a plan or a service, which take minutes; test_laws_plans_services.py looks at it",
    ),
    **dict.fromkeys(("/searches", "/models", "/fleets"), "it takes a search, a registered model or a fleet"),
}
"""Pages that the docs name and do not show, with the reason."""
DOCS = [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]


@pytest.fixture(scope="module")
def seen():
    with scene(QUICK_RUNS) as made:
        yield made


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("shot", SCREENSHOTS, ids=lambda shot: shot.name)
def test_a_picture_shows_what_the_page_consists_of(seen, shot):
    seen.open(shot)
    assert outlines()[shot.name] == seen.outline(shot), AGAIN


@pytest.mark.needs("processes")
def test_the_picture_of_the_graph_is_that_of_the_example(seen):
    assert GRAPH.read_text("utf-8") == seen.graph, AGAIN


def test_each_page_in_the_docs_has_a_picture():
    text = (ROOT / "docs" / "how-to" / "pages.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(/[^`]*)` \|", text, re.MULTILINE))
    assert named, "docs/how-to/pages.md has no table of pages"
    assert named <= {shot.address.partition("?")[0] for shot in SCREENSHOTS} | WITHOUT.keys()


def test_each_picture_is_small_and_shown():
    files = {file.name for file in PICTURES.iterdir()} - {"outlines.json"}
    assert files == {f"{shot.name}.png" for shot in SCREENSHOTS} | {GRAPH.name}
    shown = {
        (page.parent / target).resolve()
        for page in DOCS
        if "_build" not in page.parts
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    for name in files:
        file: Path = PICTURES / name
        assert file in shown, f"no page of the docs shows {file}"
        assert file.stat().st_size < MOST_BYTES
        if file.suffix == ".png":
            with Image.open(file) as picture:
                assert picture.width == WIDTH
