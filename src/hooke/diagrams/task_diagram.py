"""The picture of a task graph: one box for a call, one for a map with its count, a frame for a nested pipeline."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from hooke.base.formats import readable
from hooke.diagrams.layered_layout import Frame, PlacedArrow, place_graph

__all__ = ["DiagramBox", "DrawnCall", "TaskDiagram", "brief", "diagram_of"]

MOST_BOXES = 60
"""With more calls and maps, those of one task are one box."""
MOST_TASKS = 300
"""Boxes of a picture; it says how many it leaves out."""
MOST_LETTERS = 40
"""Of a name in a box; its tooltip has more of it."""
MOST_TOLD = 120

WORST = ("failed", "running", "partly", "waiting", "skipped", "done", "cached", "not needed", "")
"""States of calls; a box that stands for several has the first of these."""


class DrawnCall(NamedTuple):
    """A call or map as it is drawn. `items` is None for a map whose length is not known yet; `within` are nested pipelines."""

    number: int
    task: str
    is_map: bool
    items: int | None
    parents: Sequence[int]
    within: tuple[str, ...] = ()
    where: str = ""
    state: str = ""
    settled: int = 0
    """Items with results."""


@dataclass(slots=True, kw_only=True)
class DiagramBox:
    """A box: a call, a map, or several of one task. `calls` counts what it stands for, `items` their items."""

    task: str
    within: tuple[str, ...] = ()
    is_map: bool = False
    calls: int = 0
    items: int = 0
    unsized: bool = False
    """Whether a map's length is not known yet."""
    settled: int = 0
    state: str = ""
    where: str = ""

    def add(self, call: DrawnCall) -> None:
        """Stand for this call, too."""
        self.calls += 1
        self.is_map = self.is_map or call.is_map
        self.items += call.items or 0
        self.unsized = self.unsized or call.items is None
        self.settled += call.settled
        self.where = self.where or call.where
        if self.calls == 1 or WORST.index(call.state) < WORST.index(self.state):
            self.state = call.state

    @property
    def count(self) -> str:
        """How much it is: `map of 12`, `40 calls`; empty for one call."""
        items = "?" if self.unsized else f"{self.items:,}"
        if self.is_map:
            return f"map of {items}" if self.calls == 1 else f"{self.calls:,} maps of {items}"
        return f"{self.calls:,} calls" if self.calls > 1 else ""

    @property
    def progress(self) -> str:
        """Its state, with how far it is: `running 3/12`; empty without a state."""
        partly = self.state in ("running", "partly", "failed") and self.items > 1
        return f"{self.state} {self.settled:,}/{self.items:,}" if partly else self.state


def diagram_of(title: str, calls: Iterable[DrawnCall], count: int) -> TaskDiagram:
    """The picture of these `count` calls, whose parents come before them. Of more than MOST_BOXES, those of one task are one box."""
    whole = count <= MOST_BOXES
    boxes: dict[object, DiagramBox] = {}
    box_of: dict[int, int] = {}
    index: dict[object, int] = {}
    edges: dict[tuple[int, int], None] = {}
    for call in calls:
        within = call.within if whole else tuple(name.partition(" (")[0] for name in call.within)
        key: object = call.number if whole else (within, call.task)
        box = boxes.get(key)
        if box is None:
            box = boxes[key] = DiagramBox(task=call.task, within=within)
            index[key] = len(index)
        box.add(call)
        at = box_of[call.number] = index[key]
        for parent in call.parents:
            if parent in box_of and box_of[parent] != at:
                edges[box_of[parent], at] = None
    kept = list(boxes.values())[:MOST_TASKS]
    return TaskDiagram(
        title=title,
        boxes=tuple(kept),
        edges=tuple(edge for edge in edges if max(edge) < len(kept)),
        calls=count,
        left_out=len(boxes) - len(kept),
    )


_WIDTH = 7.3
"""Pixels of a letter, at 13 pixels of height; wide enough for all usual fonts."""
_SMALL = 6.4


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TaskDiagram:
    """A picture of a graph. `str()` is for terminals; notebooks show the SVG."""

    title: str
    boxes: tuple[DiagramBox, ...]
    edges: tuple[tuple[int, int], ...]
    calls: int
    """Calls and maps that the boxes stand for, with those that were left out."""
    left_out: int = 0
    """Boxes beyond the most that a picture has."""
    _svg: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<graph of {brief(self.title)}: {self.summary}>"

    def __str__(self) -> str:
        return self.text()

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        del include, exclude
        return {"text/plain": self.text(), "image/svg+xml": self.svg()}

    def svg(self) -> str:
        """An SVG file with its own colors, light and dark. User text is escaped; it loads nothing and runs no script."""
        return self._drawn(f"<style>{SVG_STYLE}</style>")

    def inline_svg(self) -> str:
        """Markup inside a page that has the rules of `SVG_STYLE`."""
        return self._drawn("")

    def _drawn(self, style: str) -> str:
        if style not in self._svg:
            self._svg[style] = _svg_of(self, style)
        return self._svg[style]

    def mermaid(self) -> str:
        """A Mermaid flowchart, for Markdown."""
        return _mermaid_of(self)

    def text(self) -> str:
        """A line for each box in the order of the graph, with what it takes results from."""
        return _text_of(self)

    @property
    def summary(self) -> str:
        """What the picture shows, in words: `3 tasks, 5 calls`."""
        tasks = len({box.task for box in self.boxes}) + self.left_out
        more = f", {self.left_out} of them not drawn" if self.left_out else ""
        return f"{_number(tasks, 'task')}{more}, {_number(self.calls, 'call')}"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def brief(name: str) -> str:
    """A name for tooltips and attributes: whole, unless it is very long."""
    return readable(name[:MOST_TOLD])


def _cut(text: str) -> str:
    text = readable(text)
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


# --- SVG. Classes carry the states; `SVG_STYLE` has their colors, which pass AA on both grounds.

SVG_STYLE = (
    ".dg{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;--dg-text:#1d2129;--dg-dim:#5b6472;--dg-line:#8a94a3;"
    "--dg-box:#fff;--dg-group:#f4f6f8;--dg-done:#1a7f37;--dg-cached:#0b5cad;--dg-failed:#b3261e;--dg-running:#0f766e;--dg-partly:#8a5a00}"
    "@media(prefers-color-scheme:dark){.dg{--dg-text:#e4e7ec;--dg-dim:#a6b0be;--dg-line:#6b7686;--dg-box:#171b21;--dg-group:#1f252d;"
    "--dg-done:#5bd181;--dg-cached:#7db7f5;--dg-failed:#f2a29b;--dg-running:#5eead4;--dg-partly:#f0c36d}}"
    ".dg text{fill:var(--dg-text)}.dg .dg-dim{fill:var(--dg-dim);font-size:11px}"
    ".dg-box rect{fill:var(--dg-box);stroke:var(--dg-line);stroke-width:1.2}"
    ".dg-group{fill:var(--dg-group);stroke:var(--dg-line);stroke-dasharray:4 3}"
    ".dg-arrow{fill:none;stroke:var(--dg-line);stroke-width:1.3}.dg-head{fill:var(--dg-line)}"
    + "".join(
        f".dg-{state} rect{{stroke:var(--dg-{state});stroke-width:2}}.dg-{state} .dg-dim{{fill:var(--dg-{state})}}"
        for state in ("done", "cached", "failed", "running", "partly")
    )
    + ".dg-skipped,.dg-needless{opacity:.75}"
)
"""The rules of a picture, for the page around `inline_svg`."""


def _lines(box: DiagramBox) -> tuple[str, str]:
    """The two lines of a box: its task, and how much and how far it is."""
    return _cut(box.task), " · ".join(filter(None, [box.count, box.progress]))


def _size(box: DiagramBox) -> tuple[float, float]:
    name, below = _lines(box)
    width = max(_WIDTH * len(name), _SMALL * len(below)) + 24
    return round(width, 1), 42.0 if below else 28.0


def _svg_of(diagram: TaskDiagram, style: str) -> str:
    placed = place_graph(
        [_size(box) for box in diagram.boxes], diagram.edges, [box.within for box in diagram.boxes]
    )
    edge = 8.0
    width, height = placed.width + 2 * edge, placed.height + 2 * edge
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dg" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-edge:g} {-edge:g} {width:.1f} {height:.1f}"><title>{escape(readable(diagram.title))}: {diagram.summary}</title>{style}'
        '<defs><marker id="dg-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="dg-head" d="M0,0L8,4L0,8z"/></marker></defs>'
    )
    parts = [head]
    for path, frame in placed.groups.items():
        parts.append(
            f'<g><rect class="dg-group" rx="8" {_at(frame)}/>'
            f'<text class="dg-dim" x="{frame.x + 10:.1f}" y="{frame.y + 17:.1f}">{escape(_cut(path[-1]))}</text></g>'
        )
    parts += [_arrow(each) for each in placed.arrows]
    parts += [_box(box, frame) for box, frame in zip(diagram.boxes, placed.boxes, strict=True)]
    return "".join([*parts, "</svg>"])


def _at(frame: Frame) -> str:
    return f'x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}"'


def _arrow(arrow: PlacedArrow) -> str:
    (x, y), *rest = arrow.points
    steps = [f"M{x:.1f},{y:.1f}"]
    for nx, ny in rest:
        bend = (ny - y) / 2
        straight = abs(nx - x) < 0.05
        steps.append(
            f"L{nx:.1f},{ny:.1f}"
            if straight
            else f"C{x:.1f},{y + bend:.1f} {nx:.1f},{ny - bend:.1f} {nx:.1f},{ny:.1f}"
        )
        x, y = nx, ny
    return f'<path class="dg-arrow" marker-end="url(#dg-tip)" d="{"".join(steps)}"/>'


def _box(box: DiagramBox, frame: Frame) -> str:
    name, below = _lines(box)
    kind = "needless" if box.state == "not needed" else box.state
    middle = frame.x + frame.width / 2
    top = frame.y + (18 if below else frame.height / 2 + 4.5)
    told = "\n".join(filter(None, [brief(box.task), below, brief(box.where)]))
    small = (
        f'<text class="dg-dim" text-anchor="middle" x="{middle:.1f}" y="{frame.y + 34:.1f}">{escape(below)}</text>'
        if below
        else ""
    )
    radius = 5 if not box.is_map else 12
    return (
        f'<g class="dg-box dg-{kind or "plain"}" data-task="{escape(brief(box.task))}"><title>{escape(told)}</title>'
        f'<rect rx="{radius}" {_at(frame)}/><text text-anchor="middle" x="{middle:.1f}" y="{top:.1f}">{escape(name)}</text>{small}</g>'
    )


# --- Mermaid.

_MERMAID = str.maketrans(
    {'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "&": "#amp;", "`": "#96;", "\n": " ", "\\": "#92;"}
)
_COLOURS = {
    "done": "#1a7f37",
    "cached": "#0b5cad",
    "failed": "#b3261e",
    "running": "#0f766e",
    "partly": "#8a5a00",
}


def _mermaid_of(diagram: TaskDiagram) -> str:
    lines = ["flowchart TD"]
    tree: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at, box in enumerate(diagram.boxes):
        tree[box.within].append(at)
        for depth in range(len(box.within)):
            tree.setdefault(box.within[: depth + 1], [])
    _mermaid_level(diagram, (), tree, lines)
    lines += [f"    t{source} --> t{target}" for source, target in diagram.edges]
    for state, colour in _COLOURS.items():
        of_state = [f"t{at}" for at, box in enumerate(diagram.boxes) if box.state == state]
        if of_state:
            lines.append(f"    classDef {state} stroke:{colour},stroke-width:2px")
            lines.append(f"    class {','.join(of_state)} {state}")
    return "\n".join(lines) + "\n"


def _mermaid_level(
    diagram: TaskDiagram, path: tuple[str, ...], tree: Mapping[tuple[str, ...], list[int]], lines: list[str]
) -> None:
    indent = "    " * (len(path) + 1)
    for at in tree[path]:
        box = diagram.boxes[at]
        label = "<br>".join(line.translate(_MERMAID) for line in _lines(box) if line)
        opening, closing = ('(["', '"])') if box.is_map else ('["', '"]')
        lines.append(f"{indent}t{at}{opening}{label}{closing}")
    for number, inner in enumerate(tree):
        if not inner or inner[:-1] != path:
            continue
        lines.append(f'{indent}subgraph g{number}["{_cut(inner[-1]).translate(_MERMAID)}"]')
        _mermaid_level(diagram, inner, tree, lines)
        lines.append(f"{indent}end")


# --- Text.


def _counted(names: Sequence[str]) -> list[str]:
    """Each name once: `fit x2` for two."""
    return [name if number == 1 else f"{name} x{number}" for name, number in Counter(names).items()]


def _text_of(diagram: TaskDiagram) -> str:
    lines = [f"{readable(diagram.title)}: {diagram.summary}"]
    inputs: dict[int, list[str]] = defaultdict(list)
    for source, target in diagram.edges:
        inputs[target].append(_cut(diagram.boxes[source].task))
    rows = [
        (box.within, f"{'│ ' * len(box.within)}{_cut(box.task)}", box.count, box.progress, inputs[at])
        for at, box in enumerate(diagram.boxes)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (1, 2, 3)]
    shown: tuple[str, ...] = ()
    for within, name, count, progress, above in rows:
        common = 0
        while common < min(len(shown), len(within)) and shown[common] == within[common]:
            common += 1
        lines += [f"  {'│ ' * depth}╭ {_cut(within[depth])}" for depth in range(common, len(within))]
        shown = within
        cells = [
            text.ljust(width) for text, width in zip((name, count, progress), widths, strict=True) if width
        ]
        takes = f"<- {', '.join(_counted(above))}" if above else ""
        lines.append(f"  {'  '.join([*cells, takes])}".rstrip())
    if diagram.left_out:
        lines.append(f"  and {_number(diagram.left_out, 'more task')}")
    return "\n".join(lines)
