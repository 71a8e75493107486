"""What things cost, each beside the same thing done with less: `python -m benchmarks.costs [SECTION ...] [--record]`, about ten minutes for all.

`--record` writes what was measured into `benchmarks/records/costs.json`, from which docs/explanation/speed.md has its tables; sections that were not
measured stay as they are there. It needs Dask, Ray, and the network namespaces of Linux for them. The figures are for an otherwise idle machine:
each section says what the load was when it began.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.private_network import enter_private_network
from benchmarks.serving.__main__ import Comparison, Plan
from benchmarks.serving.peers import BARE, FLOOR, HOOKE, ROOT

HERE = Path(__file__).parent
RECORD = HERE / "records" / "costs.json"
SYSTEMS = ("dask", "dask-fleet", "ray-fleet")
PEERS = {"hooke": "Hooke", "pool": "ProcessPoolExecutor", "loky": "loky", "dask": "Dask", "ray": "Ray"}
KINDS = ("echo", "predict")
SHELL_REPEATS = 9
LS_REPEATS = 5
ROUNDS = Plan(5, 2.0)

THREE = """
    from hooke import pipeline, task

    @task
    def one(x: int) -> int:
        return x

    @task
    def add(x: int) -> int:
        return x + 1

    @pipeline
    def three(x: int) -> int:
        return add(add(one(x)))
"""
TIMED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""
"""Seconds and peak MB of a command, by a parent that is smaller than it."""

Section = dict[str, Any]


# --- What is measured, each in a folder of its own.


def program(name: str, folder: Path) -> Section:
    """A section of `cost_programs.py`, in a process of its own."""
    shutil.copy(HERE / "cost_programs.py", folder)
    found: Section = _json_of([sys.executable, "cost_programs.py", name], folder)
    return found


def graph(folder: Path) -> Section:
    """A graph of a million calls, and the list of its results."""
    found = program("nodes", folder)
    hooke = str(Path(sys.executable).with_name("hooke"))
    listed = [
        _json_of([sys.executable, "-c", TIMED, hooke, "cache", "ls"], folder) for _ in range(LS_REPEATS)
    ]
    return found | {"cache ls": [{"seconds": seconds, "peak MB": mb} for seconds, mb in listed]}


def shell(folder: Path) -> Section:
    """Three trivial tasks from the shell, each time with a new parameter."""
    (folder / "job.py").write_text(textwrap.dedent(THREE))
    command = [str(Path(sys.executable).with_name("hooke")), "run", "job.py", "--"]
    seconds = []
    for number in range(SHELL_REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([*command, "--x", str(number)], cwd=folder, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:]}


def maps(folder: Path) -> Section:
    """Maps on warm clusters of two workers, beside the same work in chunks by hand."""
    found: Section = {}
    for system in SYSTEMS:
        own = folder / system
        own.mkdir()
        shutil.copy(HERE / "map_programs.py", own)
        found[system] = _json_of(
            [sys.executable, "map_programs.py", system], own, preexec_fn=enter_private_network
        )
    return {"pairs": found}


def peers(folder: Path) -> Section:
    """Tasks, links, items and 100 MB handed on, by `engine_programs.py`, one system after the other."""
    found: Section = {}
    for system in PEERS:
        own = folder / system
        own.mkdir()
        shutil.copy(HERE / "engine_programs.py", own)
        found[system] = _json_of(
            [sys.executable, "engine_programs.py", system], own, preexec_fn=enter_private_network
        )
    return {"values": found}


def requests(folder: Path) -> Section:
    """The CPU of servers for a request, in turns."""
    comparison = Comparison(ROUNDS, folder, only=["none"])
    comparison.run(KINDS)
    found: Section = {kind: {} for kind in KINDS}
    for (title, kind), row in comparison.rows.items():
        found[kind][title] = [window.cpu_us for window in row.windows]
    return {"us": found}


def _json_of(command: list[str], folder: Path, **how: Any) -> Any:
    """The last line that a command prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        **how,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


SECTIONS: Mapping[str, Callable[[Path], Section]] = {
    "calls": partial(program, "calls"),
    "chain": partial(program, "chain"),
    "cached": partial(program, "cached"),
    "shell": shell,
    "hand": partial(program, "hand"),
    "maps": maps,
    "peers": peers,
    "items": partial(program, "items"),
    "requests": requests,
    "graph": graph,
}


def measured(name: str) -> Section:
    """A section, in a folder of its own."""
    load, start = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="costs", ignore_cleanup_errors=True) as folder:
        found = {"load": round(load, 1), **SECTIONS[name](Path(folder))}
    print(f"{name}: {time.perf_counter() - start:.0f} s, load {load:.1f}", file=sys.stderr, flush=True)
    return found


def recorded(name: str, section: Section) -> dict[str, Any]:
    """The record with this section anew."""
    known = json.loads(RECORD.read_text("utf-8"))["sections"] if RECORD.exists() else {}
    known[name] = section
    return {"machine": machine(), "sections": {each: known[each] for each in SECTIONS if each in known}}


def machine() -> dict[str, Any]:
    """What all sections share."""
    cpu = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    names = ("hooke-ml", "distributed", "ray", "uvicorn", "httptools")
    return {
        "cores": os.cpu_count(),
        "cpu": cpu.partition(":")[2].strip(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


# --- The record as tables of Markdown.


class Pairs:
    """Hooke's seconds and CPU seconds beside another's; medians, and the median of the pairs' ratios."""

    def __init__(self, pairs: Sequence[Any], place: int, *, each: float = 1.0) -> None:
        """`place` 0 is for seconds, 1 for CPU seconds; both are for `each` things."""
        ours, theirs = zip(*(((pair[0][place]), pair[1][place]) for pair in pairs), strict=True)
        self.ours, self.theirs = median(ours) / each, median(theirs) / each
        self.ratio = (
            median(a / b for a, b in zip(ours, theirs, strict=True))
            if all(theirs)
            else self.ours / self.theirs
        )

    def cells(self, scale: float, unit: str) -> list[str]:
        """Hooke's, the other's, and the ratio."""
        return [f"{self.ours * scale:,.0f} {unit}", f"{self.theirs * scale:,.0f} {unit}", f"{self.ratio:.2f}"]


def bars(record: Mapping[str, Any]) -> str:
    """Each cost beside what it is compared with, and what it is to stay below; without sections that were not measured."""
    of = record["sections"]
    rows = [row for name, cells in ROWS.items() if name in of for row in cells(of[name])]
    return _table(["", "Hooke", "beside", "to stay below"], rows)


def _of_calls(section: Section) -> list[list[str]]:
    what = f"one of {section['calls']:,} calls that do nothing"
    found = [Pairs(section["pairs"], place, each=section["calls"]).cells(1e6, "us") for place in (1, 0)]
    return [
        [f"{what}, {name}", *_beside(cells, POOL), "1.0x"]
        for name, cells in zip(("CPU", "time"), found, strict=True)
    ]


def _of_chain(section: Section) -> list[list[str]]:
    cells = Pairs(section["pairs"], 0, each=section["links"]).cells(1e6, "us")
    return [[f"a link of a chain of {section['links']}, with its run, time", *_beside(cells, POOL), "1.5x"]]


def _of_cached(section: Section) -> list[list[str]]:
    again = 1e6 * median(section["cpu_s"]) / section["nodes"]
    return [["a node of a cached re-run, with tracing, CPU", f"{again:.0f} us", "", "20 us"]]


def _of_shell(section: Section) -> list[list[str]]:
    return [["`hooke run` of three small tasks, time", f"{median(section['seconds']):.2f} s", "", "0.2 s"]]


def _of_hand(section: Section) -> list[list[str]]:
    cells = Pairs([([ours], [bare]) for ours, bare in section["pairs"]], 0).cells(1e3, "ms")
    return [["100 MB from a task to the next, time", *_beside(cells, "write, map, BLAKE3"), "1.3x"]]


def _of_items(section: Section) -> list[list[str]]:
    cost = f"{section['cost'][0]:.0f} s, driver {section[PEAK]:.0f} MB"
    return [[f"a map of {section['items']:,} items", cost, "", "60 s, 500 MB"]]


def _of_graph(section: Section) -> list[list[str]]:
    few = median(cost[1] for cost in section["costs of few"]) / section["few"]
    many = section["cost of many"][1] / section["many"]
    seconds, mb = (median(each[what] for each in section["cache ls"]) for what in ("seconds", "peak MB"))
    beside = f"in one of {section['few']:,}: {1e6 * few:.0f} us: {many / few:.2f}x"
    return [
        [f"a graph of {section['many']:,} calls: CPU a call", f"{1e6 * many:.0f} us", beside, "1.2x"],
        ["the same: the driver's memory", f"{section[PEAK] / 1000:.2f} GB", "", "3 GB"],
        ["`hooke cache ls` of its results", f"{seconds:.2f} s, {mb:.0f} MB", "", "1 s, 100 MB"],
    ]


def _of_requests(section: Section) -> list[list[str]]:
    found = []
    for kind, peer, bar in (("echo", FLOOR, "2.0x"), ("predict", BARE, "1.15x")):
        ours, theirs = (section["us"][kind][each.title] for each in (HOOKE, peer))
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        cells = [f"{median(ours):.1f} us", f"{peer.title} {median(theirs):.1f} us: {ratio:.2f}x"]
        found.append([f"a request, {kind}: CPU", *cells, bar])
    return found


def _beside(cells: Sequence[str], what: str) -> list[str]:
    ours, theirs, ratio = cells
    return [ours, f"{what} {theirs}: {ratio}x"]


ROWS: Mapping[str, Callable[[Section], list[list[str]]]] = {
    "calls": _of_calls,
    "chain": _of_chain,
    "cached": _of_cached,
    "shell": _of_shell,
    "hand": _of_hand,
    "items": _of_items,
    "graph": _of_graph,
    "requests": _of_requests,
}
POOL = "`ProcessPoolExecutor`"
PEAK = "driver's peak MB"


FIGURES = {
    "task": ("one of 1,000 empty tasks", "us"),
    "link": ("a link of a chain of 200", "us"),
    "item": ("an item of a map", "us"),
    "hand": ("100 MB from one task to the next", "ms"),
}


def beside_peers(record: Mapping[str, Any]) -> str:
    """Seconds of a task, a link, an item and a hand-over, in Hooke and in others."""
    values = record["sections"].get("peers", {"values": {}})["values"]
    rows = [
        [what, *(_figure(values[system][name], unit) if system in values else "" for system in PEERS)]
        for name, (what, unit) in FIGURES.items()
    ]
    return _table(["", *PEERS.values()], rows)


def _figure(values: Sequence[float], unit: str) -> str:
    value = median(values)
    return f"{value:,.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def on_clusters(record: Mapping[str, Any]) -> str:
    """Maps on Dask and Ray beside chunks by hand."""
    rows = []
    for system, sizes in record["sections"]["maps"]["pairs"].items():
        for name, pairs in sizes.items():
            wall, cpu = Pairs(pairs, 0), Pairs(pairs, 1)
            rows.append([f"{system}, {name}", *wall.cells(1e3, "ms"), *cpu.cells(1e3, "ms")])
    return _table(["", "Hooke", "by hand", "ratio", "CPU", "by hand", "ratio"], rows)


def conditions(record: Mapping[str, Any]) -> str:
    """On which machine, under which load."""
    about = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    loads = ", ".join(f"{name} {section['load']:g}" for name, section in record["sections"].items())
    return f"{about['cores']} cores ({about['cpu']}), Python {about['python']}, {versions}. Load when each section began: {loads}.\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is given"
    )
    asked.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    given = asked.parse_args()
    if unknown := set(given.sections) - SECTIONS.keys():
        asked.error(f"{', '.join(sorted(unknown))}: not among {', '.join(SECTIONS)}")
    for name in given.sections or SECTIONS:
        section = measured(name)
        if given.record:
            RECORD.write_text(json.dumps(recorded(name, section)) + "\n", "utf-8")
        else:
            print(json.dumps({name: section}), flush=True)


if __name__ == "__main__":
    main()
