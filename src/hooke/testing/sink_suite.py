"""The conformance suite of sinks: `check_sink(make, read)` raises AssertionError with the broken guarantee."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from hooke.journal.events import FINISHED, WITH_FAILURES
from hooke.sinks.sink import (
    CheckedSink,
    Held,
    InputDataSet,
    LoggedBatch,
    LoggedPoints,
    Media,
    Receipt,
    ShippedRun,
    Sink,
    SinkAway,
)
from hooke.tracking.log import histogram_bytes, image_bytes

__all__ = ["MemorySink", "SeenRun", "check_sink"]

_AT = 1_795_600_000.0
"""A moment in 2026."""


@dataclass(slots=True)
class SeenRun:
    """A run as its tracker shows it. Points are (name, value, step, milliseconds since the epoch), in any order."""

    name: str = ""
    parent: str | None = None
    """The key of the run that it is nested in."""
    status: str = "running"
    points: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    media: list[tuple[str, str, int]] = field(default_factory=list)
    """Images and histograms that the tracker shows as such: (`image` or `histogram`, name, step). Others are artifacts."""
    datasets: dict[tuple[str, str], InputDataSet] = field(default_factory=dict)
    """Not asked of by the suite: most trackers know none."""


class MemorySink:
    """A tracker in memory, which keeps its promises: for tests of whatever ships. `away` makes it answer nothing.

    `dies_after` lets it take so many more writes and then raises SystemExit right after the next one: a shipper that
    was killed before it could note what it had shipped.
    """

    def __init__(self) -> None:
        self.runs: dict[str, SeenRun] = {}
        self.away = False
        self.dies_after: int | None = None
        self.writes = 0
        self.marks: dict[str, int] = {}

    def write(self, batch: LoggedBatch) -> Receipt:
        """Keep it: equal points once, of one name the last note."""
        self._answer()
        seen = self.runs.setdefault(batch.run.key, SeenRun(name=batch.run.name, parent=batch.run.parent))
        known = set(map(repr, seen.points))
        for name, value, step, at in zip(*batch.points, strict=True):
            point = (name, value, step, int(at * 1000))
            if repr(point) not in known:
                known.add(repr(point))
                seen.points.append(point)
        seen.params |= batch.params
        seen.tags |= batch.tags
        seen.artifacts |= {path: file.read_bytes() for path, file in batch.artifacts.items()}
        seen.datasets |= {(each.name, each.digest): each for each in batch.datasets}
        self.writes += 1
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.dies_after = None
                raise SystemExit
        return Receipt()

    def finish(self, run: ShippedRun) -> None:
        """Keep the status."""
        self._answer()
        self.runs[run.key].status = run.status

    def holds(self, run: ShippedRun, keys: Collection[str]) -> Held:
        """What it has. Nothing can be deleted but by `runs` itself, for good."""
        self._answer()
        return Held(frozenset({run.key, *keys} & self.runs.keys()), self.marks.get(run.key, 0))

    def mark(self, run: ShippedRun, sent: int) -> None:
        """Keep the number."""
        self._answer()
        self.marks[run.key] = sent

    def close(self) -> None:
        """Nothing is open."""

    def _answer(self) -> None:
        if self.away:
            raise SinkAway("the tracker is away")


def check_sink(make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]]) -> None:
    """Run all checks. `make` gives the sink anew, of one and the same tracker, as a shipper that begins again would.

    `read` reads an experiment back through the tracker's own client: key of the run -> what is there.
    """
    with tempfile.TemporaryDirectory() as folder:
        for check in _CHECKS:
            check(make, read, Path(folder))


def _run(key: str, *, parent: str | None = None, experiment: str = "checked", name: str = "") -> ShippedRun:
    return ShippedRun(
        key=key,
        parent=parent,
        name=name or key,
        experiment=experiment,
        started_at=_AT,
        tags={"hooke.host": "here"},
    )


def _points(*rows: tuple[str, float, int, float]) -> LoggedPoints:
    return LoggedPoints(
        [name for name, _, _, _ in rows],
        [value for _, value, _, _ in rows],
        [step for _, _, step, _ in rows],
        [at for _, _, _, at in rows],
    )


def _shown(points: list[tuple[str, float, int, int]]) -> list[str]:
    return sorted(map(repr, points))


def _all_that_was_logged(
    make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], folder: Path
) -> None:
    rows = [("loss", 1 / (step + 1), step, _AT + step * 0.01) for step in range(3500)]
    rows += [("acc uracy/top-5", 0.5, -1, _AT), ("loss", 7.0, 2**40, _AT + 100)]
    file = folder / "weights.bin"
    file.write_bytes(bytes(range(256)))
    batch = LoggedBatch(
        run=_run("all"),
        points=_points(*rows),
        params={f"p{at}": str(at) for at in range(150)}
        | {"text": "x" * 500, "empty": "", "letters": "Größe ✓"},
        tags={f"t{at}": str(at) for at in range(150)} | {"note": "line one\nline two"},
        artifacts={"weights.bin": file, "deep/er/weights.bin": file},
    )
    sink = make()
    sink.write(batch)
    sink.close()
    seen = read("checked")["all"]
    assert seen.name == "all", "a run bears its name"
    assert _shown(seen.points) == _shown([(n, v, s, int(at * 1000)) for n, v, s, at in rows]), (
        "every point is there"
    )
    assert batch.params.items() <= seen.params.items(), "every parameter is there"
    assert batch.tags.items() <= seen.tags.items(), "every tag is there"
    assert seen.tags["hooke.host"] == "here", "what Hooke says of the run is there"
    data = file.read_bytes()
    assert seen.artifacts == {"weights.bin": data, "deep/er/weights.bin": data}, "every artifact is there"
    assert seen.status == "running", "a run that goes on is shown as one"


def _twice_is_once(make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], folder: Path) -> None:
    file = folder / "note.txt"
    file.write_text("note")
    batch = LoggedBatch(
        run=_run("twice"),
        points=_points(*[("x", float(step), step, _AT) for step in range(10)]),
        params={"a": "1"},
        tags={"b": "2"},
        artifacts={"note.txt": file},
    )
    for again in (False, False, True):
        sink = make()
        sink.write(batch)
        if again:
            sink.write(batch)
        sink.close()
    seen = read("checked")
    assert len(seen["twice"].points) == 10, "a batch that comes again adds nothing"
    assert seen["twice"].params["a"] == "1", "a parameter that comes again stays"
    assert seen["twice"].artifacts == {"note.txt": b"note"}, "an artifact that comes again is there once"
    assert set(seen) == {"all", "twice"}, "a run that comes again is not made again"


def _media_by_step(make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], folder: Path) -> None:
    artifacts: dict[str, Path] = {}
    media: dict[str, Media] = {}
    for step in range(3):
        image, histogram = folder / f"{step}.png", folder / f"{step}.json"
        image.write_bytes(image_bytes(np.full((3, 5), step, np.uint8)))
        histogram.write_bytes(histogram_bytes([0.0, step]))
        artifacts |= {f"images/val/x/{step}.png": image, f"histograms/w/{step}.json": histogram}
        media[f"images/val/x/{step}.png"] = Media("image", "val/x", step, _AT + step)
        media[f"histograms/w/{step}.json"] = Media("histogram", "w", step, _AT + step)
    batch = LoggedBatch(run=_run("media"), points=_points(), artifacts=artifacts, media=media)
    for _ in range(2):
        sink = make()
        sink.write(batch)
        sink.close()
    seen = read("checked")["media"]
    assert len(set(seen.media)) == len(seen.media), "an image that comes again is there once"
    wanted = {path: (each.kind, each.name, each.step) for path, each in media.items()}
    assert set(seen.media) <= set(wanted.values()), "no image that was not logged"
    for path, each in wanted.items():
        as_file = seen.artifacts.get(path) == artifacts[path].read_bytes()
        assert as_file or each in seen.media, "every image and histogram is there, by name and step"


def _not_numbers(make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], _folder: Path) -> None:
    rows = [("x", math.nan, 0, _AT), ("x", math.inf, 1, _AT), ("x", -math.inf, 2, _AT), ("x", 1e300, 3, _AT)]
    sink = make()
    sink.write(LoggedBatch(run=_run("odd"), points=_points(*rows)))
    sink.close()
    found = {step: value for _, value, step, _ in read("checked")["odd"].points}
    assert math.isnan(found[0]), "no number stays no number"
    assert found[1] > 1e307, "infinity stays beyond all numbers"
    assert found[2] < -1e307, "minus infinity too"
    assert found[3] == 1e300, "a large number stays as it is"


def _nested_and_ended(
    make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], _folder: Path
) -> None:
    sink = make()
    sink.write(LoggedBatch(run=_run("root"), points=_points()))
    children = [_run(f"root/{at}", parent="root", name=f"fit[{at}]") for at in range(5)]
    for child in children[:2]:
        sink.write(LoggedBatch(run=child, points=_points(("x", 1.0, 0, _AT))))
    sink.close()
    sink = make()  # begins again in the middle
    for child in children[2:]:
        sink.write(LoggedBatch(run=child, points=_points(("x", 1.0, 0, _AT))))
    ends = (FINISHED, "failed", "stopped", "lost", WITH_FAILURES)
    for child, status in zip(children, ends, strict=True):
        sink.finish(msgspec.structs.replace(child, status=status, ended_at=_AT + 5))
    sink.finish(msgspec.structs.replace(_run("root"), status="finished", ended_at=_AT + 9))
    sink.close()
    seen = read("checked")
    assert {seen[child.key].parent for child in children} == {"root"}, "an attempt is nested in its run"
    assert [seen[child.key].name for child in children] == [f"fit[{at}]" for at in range(5)], (
        "and bears its name"
    )
    statuses = [seen[child.key].status for child in children]
    assert statuses[:2] == ["finished", "failed"], "how a run ended is shown"
    assert "running" not in statuses, "and no run that ended is shown as one that goes on"
    assert statuses[4] != "finished", "nor one that lacks failed items as whole"
    assert seen["root"].status == "finished", "the run above them too"


def _trouble_holds_nothing_up(
    make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], folder: Path
) -> None:
    sink = make()
    receipt = sink.write(
        LoggedBatch(
            run=_run("odd ones"),
            points=_points(
                ("x", 1.0, 0, _AT), ("n" * 1000, 2.0, 0, _AT), ("a\nb<>?", 3.0, 0, _AT), ("x", 4.0, 1, _AT)
            ),
            params={"long": "y" * 100_000, "p" * 1000: "1", "fine": "1"},
            tags={"long": "z" * 100_000, "fine": "1"},
            artifacts={"gone.txt": folder / "gone.txt"},
        )
    )
    sink.close()
    seen = read("checked")["odd ones"]
    kept = {(value, step) for name, value, step, _ in seen.points if name == "x"}
    assert kept == {(1.0, 0), (4.0, 1)}, "points beside one with an odd name are there"
    assert seen.params["fine"] == seen.tags["fine"] == "1", "notes beside one that is too long are there"
    values = {value for _, value, _, _ in seen.points}
    told = " ".join(receipt.notes)
    assert values == {1.0, 2.0, 3.0, 4.0} or told, "what a tracker does not take is said"
    assert "gone.txt" in told, "an artifact whose file is gone is said"


def _names_are_apart(
    make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], _folder: Path
) -> None:
    names = [
        "p<0.5",
        "p>0.5",
        "p_0.5",
        "a/b",
        "a//b",
        "line\nbreak",
        "line break",
        "n" * 300 + "1",
        "n" * 300 + "2",
    ]
    sink = make()
    batch = LoggedBatch(
        run=_run("alike"),
        points=_points(*((name, float(at), at, _AT) for at, name in enumerate(names))),
        params={name: str(at) for at, name in enumerate(names)},
    )
    receipt = sink.write(batch)
    sink.close()
    seen = read("checked")["alike"]
    points = {name: value for name, value, _, _ in seen.points}
    assert sorted(points.values()) == [float(at) for at in range(len(names))], (
        "no two names become one metric"
    )
    assert sorted(set(seen.params.values())) == [str(at) for at in range(len(names))], "nor one parameter"
    for at, name in enumerate(names):
        kept = points.get(name) == at and seen.params.get(name) == str(at)
        assert kept or any(repr(name[:80]) in note for note in receipt.notes), "a changed name is said"


def _says_what_it_has(
    make: Callable[[], Sink], _read: Callable[[str], dict[str, SeenRun]], _folder: Path
) -> None:
    sink = make()
    if not isinstance(sink, CheckedSink):
        return
    root, child, never = _run("had"), _run("had/1", parent="had"), _run("never")
    for run in (root, child):
        sink.write(LoggedBatch(run=run, points=_points(("x", 1.0, 0, _AT))))
    assert sink.holds(root, ["had", "had/1"]) == Held(frozenset({"had", "had/1"}), 0), "it says what it has"
    sink.mark(root, 2**60)
    sink.close()
    sink = make()
    assert isinstance(sink, CheckedSink)
    assert sink.holds(root, ["had", "had/1", "had/2"]) == Held(frozenset({"had", "had/1"}), 2**60), (
        "and its last mark"
    )
    assert sink.holds(never, ["never", "never/1"]) == Held(frozenset(), 0), "and no more"
    sink.close()


def _experiments_are_apart(
    make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], _folder: Path
) -> None:
    sink = make()
    sink.write(LoggedBatch(run=_run("elsewhere", experiment="other one"), points=_points(("x", 1.0, 0, _AT))))
    sink.close()
    assert set(read("other one")) == {"elsewhere"}, "a run lies in its experiment"
    assert "elsewhere" not in read("checked"), "and in no other"


def _any_key_is_found_again(
    make: Callable[[], Sink], read: Callable[[str], dict[str, SeenRun]], _folder: Path
) -> None:
    keys = ["it's", 'say "it\'s"', "a\\", "100%_sure", "100%-sure", "a;b -- c", "größe ✓", "`tick`", "it_s"]
    for step in range(2):
        for key in keys:
            sink = make()
            sink.write(LoggedBatch(run=_run(key, experiment="keys"), points=_points(("x", 1.0, step, _AT))))
            sink.close()
    seen = read("keys")
    assert set(seen) == set(keys), "a run is there under its key, whatever is in it"
    assert {len(run.points) for run in seen.values()} == {2}, "and found again by it"


_CHECKS = (
    _all_that_was_logged,
    _twice_is_once,
    _media_by_step,
    _not_numbers,
    _nested_and_ended,
    _trouble_holds_nothing_up,
    _names_are_apart,
    _says_what_it_has,
    _experiments_are_apart,
    _any_key_is_found_again,
)
