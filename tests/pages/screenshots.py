"""Pictures for the documentation, made by a browser of the pages of real runs: `make screenshots`.

`SCREENSHOTS` has a line for each picture. With it, `outlines.json` keeps what the page consists of: its headings, regions and columns.
A test compares that with the page as it is now, so a page that has changed needs a new picture; pixels are not compared.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tests.pages.conftest import hooke, served
from tests.support.browser import Browser

__all__ = [
    "GRAPH",
    "OUTLINES",
    "PICTURES",
    "QUICK_RUNS",
    "ROOT",
    "SCREENSHOTS",
    "Screenshot",
    "main",
    "outlines",
    "scene",
]

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "how-to" / "pictures"
OUTLINES = PICTURES / "outlines.json"
GRAPH = PICTURES / "graph.svg"
EXAMPLE = ROOT / "examples" / "tracking" / "digits.py"
WIDTH = 1120
"""Pixels; the pages of the documentation are a little narrower."""
COLOURS = 64
RUNS = ("--epochs=10", "--seed=-1", "--epochs=100 --seed=2")
"""Options of the example's runs, the last one first on the list; a seed below 0 is not valid, so that run fails."""
QUICK_RUNS = ("--seed=-1 --on=serial", "--epochs=3 --seed=2 --on=serial")
"""Their pages consist of the same."""


@dataclass(frozen=True, kw_only=True)
class Screenshot:
    """A picture `PICTURES/name.png` of a page, from its top down to `height` pixels. In `address`, RUN and FAILED are ids of runs."""

    name: str
    address: str
    height: int = 900
    top: str = ""
    """The selector of the element that the picture begins with, instead of the page's top."""


SCREENSHOTS = (
    Screenshot(name="runs", address="/runs", height=420),
    Screenshot(name="run", address="/runs/RUN", height=1080),
    Screenshot(name="timeline", address="/runs/RUN", top="#tasks", height=652),
    Screenshot(name="compare", address="/compare?run=RUN&run=FAILED", height=640),
    Screenshot(name="store", address="/store", top=".facts", height=420),
    Screenshot(name="failure", address="/runs/FAILED", top="#failures", height=225),
)
"""Whoever adds a page adds a line, runs `make screenshots`, and shows the picture in docs/how-to."""

OUTLINE = """[...document.querySelectorAll('nav,main,h1,h2,[role=region],thead')].filter(each => !each.closest('#machine')).map(each => {
    if (each.tagName === 'THEAD') return 'columns: ' + [...each.querySelectorAll('th')].map(cell => cell.textContent).join(', ')
    if (each.tagName[0] === 'H') return each.tagName.toLowerCase() + ' ' + each.textContent
    return (each.getAttribute('role') || each.tagName.toLowerCase()) + ' ' + (each.getAttribute('aria-label') || '')
})"""
"""What a page consists of. The machine's usage is there only if a run takes longer than its first sample."""


@dataclass(frozen=True)
class Scene:
    """A server of pages of the example's runs, and a browser that has its token."""

    browser: Browser
    address: str
    runs: dict[str, str]
    """RUN and FAILED -> id."""
    graph: str
    """The picture that `hooke graph` makes of the example."""

    def open(self, shot: Screenshot) -> None:
        """Show the page."""
        path = shot.address
        for name, run in self.runs.items():
            path = path.replace(name, run)
        self.browser.open(f"{self.address}{path}")

    def outline(self, shot: Screenshot) -> list[str]:
        """What the page that is open consists of, without ids."""
        found = [" ".join(line.split()) for line in self.browser.js(OUTLINE)]
        return [re.sub(r"\w+-\d{8}-\d{6}-\w{4}", "RUN", line) for line in found]

    def picture(self, shot: Screenshot) -> bytes:
        """The page that is open, as PNG of few colours."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "whole.png"
            self.browser.picture(file)
            top = self.browser.js(f"document.querySelector({shot.top!r}).offsetTop") if shot.top else 0
            whole = Image.open(file).convert("RGB")
        part = whole.crop((0, top, whole.width, min(whole.height, top + shot.height)))
        made = io.BytesIO()
        part.quantize(COLOURS, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
        return made.getvalue()


@contextmanager
def scene(runs: Sequence[str] = RUNS) -> Iterator[Scene]:
    """Run the example with these options, serve its pages and open a browser."""
    with tempfile.TemporaryDirectory(prefix="hooke-pictures-") as name:
        folder = Path(name) / "digits"
        folder.mkdir()
        (folder / "hooke.toml").touch()
        shutil.copy(EXAMPLE, folder)
        for options in runs:
            hooke(folder, "run", EXAMPLE.name, "--on=local:2", "--tag=team=vision", *options.split())
        hooke(folder, "graph", EXAMPLE.name, "--svg", GRAPH.name)
        found = sorted(each.name for each in (folder / ".hooke" / "runs").iterdir())
        assert len(found) == len(runs), found
        with served(folder) as opening, _browser() as browser:
            browser.look(width=WIDTH, height=900, theme="light")
            browser.open(opening)
            names = {"RUN": found[-1], "FAILED": found[-2]}
            graph = (folder / GRAPH.name).read_text("utf-8")
            yield Scene(browser, opening.partition("/?")[0], names, graph)


@contextmanager
def _browser() -> Iterator[Browser]:
    browser = Browser()
    try:
        yield browser
    finally:
        browser.close()


def outlines() -> dict[str, list[str]]:
    """Name of a picture -> what its page consisted of when it was made."""
    return json.loads(OUTLINES.read_text("utf-8"))


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    found = {}
    with scene() as made:
        GRAPH.write_text(made.graph, "utf-8")
        for shot in SCREENSHOTS:
            made.open(shot)
            found[shot.name] = made.outline(shot)
            (PICTURES / f"{shot.name}.png").write_bytes(made.picture(shot))
    OUTLINES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
