"""How often a study names a planted cause: real workers, ten causes, ten seeds each, and twenty controls without a cause.

    python -m benchmarks.causes                            all; writes benchmarks/causes.json and docs/explanation/causes.md
    python -m benchmarks.causes --seeds 0-4 --only GIL,disk   some of it, to look at: nothing is written
    python -m benchmarks.causes --page                     the page again, from the recorded counts

The rule was chosen on seeds 0 to 5 and after a look at 6 to 18. What is recorded are seeds 19 to 28, which are played once.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hooke.base.errors import NotEnoughData
from hooke.journal.study_records import read_study
from hooke.measuring.studies import measure
from hooke.processes.devices import cpus_here
from hooke.processes.usage import machine_facts
from hooke.project.pipeline_file import load_entry

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "causes.json"
PAGE = ROOT / "docs" / "explanation" / "causes.md"
PROGRAM = Path(__file__).with_name("cause_programs.py")
SEEN = 18
"""The rule was chosen after a look at the seeds up to this one."""
SEEDS = tuple(range(SEEN + 1, SEEN + 11))
MOSTLY = 0.9
"""A planted cause that is named in a smaller share of its studies is mentioned."""
REPEATS = 2
SLEEPING, COMPUTING = (1, 2, 4), (1, 2)
"""N: what computes is measured up to two workers, so that they have a core each."""
DISTURBED = 0.3
"""A study is disturbed if, at one N, processes that are not the campaign's took so many cores on average."""

Chance = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A drawn study: a pipeline of the programs, its arguments, the N, and what else must run meanwhile."""

    pipeline: str
    task: str
    arguments: dict[str, Any]
    levels: tuple[int, ...] = SLEEPING
    server: tuple[float, bool] | None = None
    """Seconds for an answer, and whether it gives one at a time."""
    burners: int = 0
    """Processes that keep a core busy each, and are not the campaign's descendants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A study and what it named: `named` is empty where it named nothing, and `refused` where noise hid all."""

    planted: str
    seed: int
    arguments: dict[str, Any] = field(default_factory=dict)
    named: str = ""
    sentence: str = ""
    others: dict[str, float] = field(default_factory=dict)
    """N -> cores that other processes took."""
    seconds: float = 0.0

    @property
    def disturbed(self) -> bool:
        return self.planted != "cores taken" and max(self.others.values(), default=0.0) >= DISTURBED

    @property
    def outcome(self) -> str:
        wanted = "" if self.planted.startswith("no cause") else self.planted
        if self.named == wanted:
            return "right"
        return self.named or "nothing"


# --- The draws. Times are in seconds.


def _between(chance: Chance, low: float, high: float) -> float:
    return round(float(chance.uniform(low, high)), 4)


def _lock(chance: Chance) -> Drawn:
    inside = _between(chance, 0.02, 0.05)
    share = _between(chance, 0.0, 0.6)
    arguments = {
        "inside": inside,
        "outside": round(inside * share, 4),
        "computed": _between(chance, 0.0, 0.004),
    }
    return Drawn(
        pipeline="lock", task="locked", arguments={"items": int(chance.integers(12, 20)), **arguments}
    )


def _gil(chance: Chance) -> Drawn:
    arguments = {
        "items": int(chance.integers(8, 13)),
        "seconds": _between(chance, 0.06, 0.12),
        "count": int(chance.integers(2, 7)),
        "rounds": int(chance.integers(1, 4)),
    }
    return Drawn(pipeline="gil", task="threads", arguments=arguments, levels=COMPUTING)


def _memory(chance: Chance) -> Drawn:
    arguments = {
        "items": int(chance.integers(10, 17)),
        "rounds": int(chance.integers(2_000, 4_000)),
        "lines": int(chance.integers(6, 10)),
    }
    return Drawn(pipeline="memory", task="share_lines", arguments=arguments, levels=COMPUTING)


def _disk(chance: Chance) -> Drawn:
    arguments = {
        "items": int(chance.integers(12, 20)),
        "writes": int(chance.integers(80, 160)),
        "size": int(chance.integers(1, 5)) * 4096,
        "computed": _between(chance, 0.0, 0.005),
    }
    return Drawn(pipeline="disk", task="save", arguments=arguments)


def _network(chance: Chance) -> Drawn:
    arguments = {
        "items": int(chance.integers(12, 20)),
        "requests": int(chance.integers(1, 4)),
        "computed": _between(chance, 0.0, 0.005),
    }
    return Drawn(
        pipeline="network", task="ask", arguments=arguments, server=(_between(chance, 0.02, 0.05), False)
    )


def _shared(chance: Chance) -> Drawn:
    arguments = {
        "items": int(chance.integers(12, 20)),
        "requests": int(chance.integers(1, 3)),
        "computed": _between(chance, 0.0, 0.005),
    }
    return Drawn(
        pipeline="network", task="ask", arguments=arguments, server=(_between(chance, 0.015, 0.03), True)
    )


def _taken(chance: Chance) -> Drawn:
    arguments = {"items": int(chance.integers(10, 17)), "seconds": _between(chance, 0.03, 0.06)}
    burners = cpus_here() + int(chance.integers(0, 3))
    return Drawn(
        pipeline="computing", task="calculate", arguments=arguments, levels=COMPUTING, burners=burners
    )


def _few(chance: Chance) -> Drawn:
    items = int(chance.choice([2, 3, 5, 6, 9]))
    seconds = _between(chance, 0.08, 0.2)
    return Drawn(pipeline="sleeping", task="nap", arguments={"seconds": [seconds] * items})


def _skewed(chance: Chance) -> Drawn:
    items = int(chance.integers(12, 25))
    seconds = [_between(chance, 0.02, 0.05) for _ in range(items)]
    seconds[int(chance.integers(items))] = round(sum(seconds) * _between(chance, 0.5, 1.0), 4)
    return Drawn(pipeline="sleeping", task="nap", arguments={"seconds": seconds})


def _start(chance: Chance) -> Drawn:
    arguments = {
        "items": int(chance.integers(20, 31)),
        "first": _between(chance, 0.4, 0.8),
        "seconds": _between(chance, 0.02, 0.05),
    }
    return Drawn(pipeline="starting", task="begin_slowly", arguments=arguments)


def _sleeping(chance: Chance) -> Drawn:
    middle = _between(chance, 0.02, 0.06)
    items = 4 * int(chance.integers(4, 8))
    seconds = [round(middle * _between(chance, 0.9, 1.1), 4) for _ in range(items)]
    return Drawn(pipeline="sleeping", task="nap", arguments={"seconds": seconds})


def _computing(chance: Chance) -> Drawn:
    arguments = {"items": 2 * int(chance.integers(6, 12)), "seconds": _between(chance, 0.03, 0.06)}
    return Drawn(pipeline="computing", task="calculate", arguments=arguments, levels=COMPUTING)


PLANTS: dict[str, Callable[[Chance], Drawn]] = {
    "lock": _lock,
    "GIL": _gil,
    "memory bandwidth": _memory,
    "disk": _disk,
    "network": _network,
    "shared server": _shared,
    "cores taken": _taken,
    "too few items": _few,
    "skewed items": _skewed,
    "start-up": _start,
    "no cause: sleeping": _sleeping,
    "no cause: computing": _computing,
}
QUIET = (
    "lock",
    "network",
    "shared server",
    "too few items",
    "skewed items",
    "start-up",
    "no cause: sleeping",
)
"""Those that a busy machine hardly changes."""


# --- What runs beside a study.


@contextmanager
def _serving(seconds: float, *, shared: bool) -> Iterator[int]:
    """A server in a process of its own; its port."""
    command = [sys.executable, "-m", "benchmarks.causes", "--serve", f"{seconds}", *(["--shared"] * shared)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def _serve(seconds: float, *, shared: bool) -> None:
    one = threading.Lock()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1)
            with one if shared else nullcontext():
                time.sleep(seconds)
            connection.sendall(b"y")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


@contextmanager
def _burning(count: int) -> Iterator[None]:
    """Processes that keep a core busy each, for two minutes at most. A shell starts them and ends, so they are nobody's descendants."""
    code = "import time\nend = time.time() + 120\nwhile time.time() < end: pass"
    command = 'for each in $(seq "$2"); do "$0" -c "$1" </dev/null >/dev/null 2>&1 & echo $!; done'
    started = subprocess.run(
        ["sh", "-c", command, sys.executable, code, str(count)], stdout=subprocess.PIPE, text=True, check=True
    )
    try:
        yield
    finally:
        for pid in started.stdout.split():
            os.kill(int(pid), signal.SIGKILL)


# --- The studies.


def play(planted: str, seed: int, folder: Path) -> Played:
    """One study of a planted cause in a folder of its own."""
    drawn = PLANTS[planted](np.random.default_rng([seed, list(PLANTS).index(planted)]))
    shutil.copy(PROGRAM, folder / PROGRAM.name)
    (folder / "hooke.toml").touch()
    (folder / "lines").write_bytes(bytes(4096))
    (folder / "speed").write_text(f"{_rounds_a_second():.0f}")
    sys.modules.pop(PROGRAM.stem, None)
    pipeline = load_entry(f"{folder / PROGRAM.name}:{drawn.pipeline}")[0]
    arguments = dict(drawn.arguments)
    serving: AbstractContextManager[int | None] = nullcontext()
    if drawn.server is not None:
        serving = _serving(drawn.server[0], shared=drawn.server[1])
    began = time.monotonic()
    shown = (
        arguments
        | ({"server": drawn.server} if drawn.server else {})
        | ({"burners": drawn.burners} if drawn.burners else {})
    )
    with serving as port, _burning(drawn.burners):
        if port is not None:
            arguments["port"] = port
        try:
            study = measure(
                pipeline,
                task=drawn.task,
                workers=drawn.levels,
                repeats=REPEATS,
                fresh=True,
                progress="none",
                **arguments,
            )
        except NotEnoughData as refusal:
            return Played(planted=planted, seed=seed, arguments=shown, named="refused", sentence=refusal.what)
    record = read_study(study.folder)
    assert record is not None
    loads = {
        n: [each.load.others for each in record.measured if each.n == n and each.load] for n in drawn.levels
    }
    cause = study.cause
    return Played(
        planted=planted,
        seed=seed,
        arguments=shown,
        named=cause.name if cause is not None else "",
        sentence=cause.sentence if cause is not None else "",
        others={str(n): round(float(np.mean(own)), 2) for n, own in loads.items() if own},
        seconds=round(time.monotonic() - began, 1),
    )


def _rounds_a_second() -> float:
    """The speed of the programs' arithmetic, in CPU time."""
    began, value = time.thread_time(), 1
    for _ in range(200_000):
        value = (value * 1103515245 + 12345) % 2147483648
    return 200_000 / (time.thread_time() - began)


def played(names: Sequence[str], seeds: Sequence[int]) -> Iterator[Played]:
    """All studies, seed by seed, so that a busy minute disturbs a few of each."""
    for seed in seeds:
        for name in names:
            with tempfile.TemporaryDirectory(prefix="hooke-causes-") as folder:
                yield play(name, seed, Path(folder))


# --- The record and its page.


def record_of(studies: Sequence[Played], *, seconds: float) -> dict[str, Any]:
    """The machine, the seeds and each study, for JSON."""
    return {
        "machine": machine_facts(),
        "python": platform.python_version(),
        "seeds": sorted({each.seed for each in studies}),
        "repeats": REPEATS,
        "minutes": round(seconds / 60, 1),
        "studies": [asdict(each) for each in studies],
    }


def table_of(record: dict[str, Any]) -> list[str]:
    """The counts, a row for each planted cause."""
    studies = [Played(**each) for each in record["studies"]]
    rows = [
        "| planted | studies | right | `cores taken`, and they were | nothing | a wrong name | undisturbed | right of these |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    names = [name for name in PLANTS if any(each.planted == name for each in studies)]
    causes = [each for each in studies if not each.planted.startswith("no cause")]
    controls = [each for each in studies if each.planted.startswith("no cause")]
    groups = [(name, [each for each in studies if each.planted == name]) for name in names]
    groups += [("**all causes**", causes), ("**all controls**", controls)]
    for name, own in groups:
        counts = Counter(each.outcome for each in own)
        taken = sum(each.outcome == "cores taken" and each.disturbed for each in own)
        nothing = counts["nothing"] + counts["refused"]
        wrong = len(own) - counts["right"] - nothing - taken
        quiet = [each for each in own if not each.disturbed]
        right = sum(each.outcome == "right" for each in quiet)
        cells = (name, len(own), counts["right"], taken, nothing, wrong, len(quiet), right)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def misses_of(record: dict[str, Any]) -> str:
    """Which planted causes are named in less than nine of ten studies, and what is named instead."""
    told = []
    studies = [Played(**each) for each in record["studies"]]
    for name in PLANTS:
        counts = Counter(each.outcome for each in studies if each.planted == name)
        others = [f"{what} in {count}" for what, count in counts.most_common() if what != "right"]
        if counts["right"] < MOSTLY * counts.total():
            told.append(f"{name} in {counts['right']} of {counts.total()} ({', '.join(others)})")
    if not told:
        return f"Each is right in at least {MOSTLY:.0%} of its studies."
    return f"Right in less than {MOSTLY:.0%} of the studies: {'; '.join(told)}."


def disturbance_of(record: dict[str, Any]) -> str:
    """Whether other processes took cores during the studies, and what that means for the counts."""
    undisturbed = f"A study is *undisturbed* if processes that are not the campaign's took less than {DISTURBED:g} cores on average at each N"
    disturbed = [each for each in record["studies"] if Played(**each).disturbed]
    if not disturbed:
        return f"{undisturbed}, as in all of these."
    return f"""{undisturbed}; that does not hold for {len(disturbed)} of these. There, what computes does lose its time to taken cores, so `cores taken` is no wrong name; but neither does such a study show that the planted cause would be named."""


def page_of(record: dict[str, Any]) -> str:
    """The page in the docs."""
    seeds = record["seeds"]
    seen = "which the rule had not seen" if seeds[0] > SEEN else "some of which were looked at then"
    return f"""# How often the cause of lost time is named

A study names [what the time is lost to](../how-to/measure.md#what-the-time-is-lost-to). This page counts how often it names what was planted. It is the output of

```text
make soak-causes
```

Each study is a real `measure` with real workers and {record["repeats"]} repeats, in a folder of its own. A seed draws its numbers: how long items take, the share under a lock, the number of threads and how long they live, the writes, the server's latency, how many items there are. The rule was chosen on seeds 0 to 5 and after a look at 6 to {SEEN}; these are seeds {seeds[0]} to {seeds[-1]}, {seen}. `benchmarks/causes.json` has every study with its numbers and its sentence.

Measured on {record["machine"]}, Python {record["python"]}, in {record["minutes"]:g} minutes.

{chr(10).join(table_of(record))}

{misses_of(record)} Under *nothing* is also what was refused as too noisy.

{disturbance_of(record)}

What is inferred, and from what: *memory bandwidth* from user CPU per item that rises while workers have cores, because hardware counters are not read. Two cores do not use up the memory of a large server, so the planted cause is its other half: two workers write to the same few cache lines, which travel between the cores. The *GIL* from a thread that asks for it 25 times a second, and from the threads that wait at its address then. *Disk*, *lock* and *network* from the system call in which a worker waits; the disk also from a thread in a line that calls `fsync` and wants the interpreter lock back from the sampler while nobody held it. *Cores taken* from the time that workers were ready and had no core, and from the CPU time of other processes.
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--serve", type=float)
    parser.add_argument("--shared", action="store_true")
    options = parser.parse_args()
    if options.serve is not None:
        _serve(options.serve, shared=options.shared)
    if not options.page:
        first, _, last = options.seeds.partition("-")
        seeds = range(int(first), int(last or first) + 1) if first else SEEDS
        only = [name.strip().lower() for name in options.only.split(",") if name.strip()]
        if unknown := set(only) - {name.lower() for name in PLANTS}:
            parser.error(
                f"--only: nothing is called {', '.join(sorted(unknown))}: it takes {', '.join(PLANTS)}"
            )
        chosen = [name for name in PLANTS if not only or name.lower() in only]
        began, studies, record = time.monotonic(), [], {}
        for each in played(chosen, seeds):
            studies.append(each)
            print(json.dumps(asdict(each) | {"outcome": each.outcome}), file=sys.stderr, flush=True)
            record = record_of(studies, seconds=time.monotonic() - began)
            if chosen == list(PLANTS) and seeds is SEEDS:
                RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        if chosen != list(PLANTS) or seeds is not SEEDS:
            print("\n".join(table_of(record)))
            return
    PAGE.write_text(page_of(json.loads(RECORD.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
