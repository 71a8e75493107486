"""What the errors of Hooke and its alternatives report when a task dies: real programs, processes and output.

    python -m benchmarks.deaths > docs/explanation/deaths.md
    python -m benchmarks.deaths sigkill poison --systems hooke,ray     a part of it

Each program runs in its own network with only a loopback (Ray listens on all addresses) and with its own home folder, and
is killed when its time is up. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from benchmarks.death_programs import DAY, DEATHS, LOG_LINE, SYSTEMS, Death, write_program
from benchmarks.private_network import enter_private_network

NAMES = {"hooke": "Hooke", "pool": "ProcessPoolExecutor", "loky": "loky", "dask": "Dask", "ray": "Ray"}
DISTRIBUTIONS = {"hooke": "hooke-ml", "loky": "loky", "dask": "distributed", "ray": "ray"}
LETTERS = {
    "F": "function",
    "A": "arguments",
    "W": "worker",
    "S": "signal or exit code",
    "M": "peak memory and limit",
    "L": "log lines in the message",
    "N": "next step",
}
ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 90.0
FRAME = re.compile(r'^\s*File "')
LINES = 26
"""A screen's longest; what is left out of the middle is counted."""
WIDTH = 150

SIGNS = {
    "F": r"\bclean\b",
    "A": re.escape(DAY),
    "W": r"worker local-\d|tcp://127|[Ww]orker ID|worker_id|\(clean pid=|, pid=",
    "M": r"peak memory [\d.]+ [KMG]iB|[\d.]+ ?[KMG]i?B",
    "L": rf"^[ \t]+{LOG_LINE}",
    "N": r"next: \w+|`ray \w+|python-core-\w+|[Ii]nspecting worker logs",
}
"""What must be in the output for a fact to count as named."""
HOW = {
    "sigkill": r"SIGKILL|signal 9|code:? -9",
    "segfault": r"SIGSEGV|signal 11|code:? -11|Segmentation fault",
    "exit": r"exit(ed with)?( exit)? ?code:? 7|EXIT\(7\)|status 7",
    "sigstop": r"SIGSTOP",
    "poison": r"SIGKILL|signal 9|code:? -9",
}
SAYS_RERUN = r"\bagain\b|[Rr]etr(y|ied|ies)|try [2-9] of|different workers|died \d times"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one program."""

    output: str
    began: tuple[str, ...]
    """The day of each task, each time that it began."""
    pids: tuple[str, ...]
    ended: int
    """How many tasks ended well."""
    said_s: float | None
    """From the first task's begin, or the program's where none began, to the error in the user's program; None: no error."""
    cut_off: bool
    left: tuple[str, ...]
    """The names of the processes that lived 5 s after the driver was killed."""


def go_alone() -> None:
    """In the child: a private network, and no core dumps."""
    enter_private_network()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def outcome_of(name: str, system: str) -> Outcome:
    """Run one program to its end, or to its limit."""
    death = DEATHS[name]
    with tempfile.TemporaryDirectory(prefix="hd", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        (folder / "elsewhere").mkdir()
        for file, source in write_program(name, system, text).items():
            (folder / file).write_text(source)
        environment = os.environ | {
            "HOOKE_PROGRESS": "none",
            "HOME": text,
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with (folder / "output").open("w") as output:
            program = subprocess.Popen(
                [sys.executable, "main.py"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=go_alone,  # noqa: PLW1509 - this process has one thread
            )
            seen, cut_off = watch(program, folder, death, name)
        left = ()
        if name == "driver":
            time.sleep(5)
            left = tuple(sorted(process.name() for process in seen.values() if lives(process)))
        end(seen)
        program.wait()
        return read_back(folder, left, cut_off=cut_off)


def watch(
    program: subprocess.Popen[bytes], folder: Path, death: Death, name: str
) -> tuple[dict[int, psutil.Process], bool]:
    """Every process of a program, and whether its time was up; a driver that is to be killed is killed."""
    seen: dict[int, psutil.Process] = {}
    root = psutil.Process(program.pid)
    deadline = time.monotonic() + START_LIMIT_S
    while program.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen |= {process.pid: process for process in [root, *root.children(recursive=True)]}
        began = lines_of(folder / "began")
        if called := lines_of(folder / "called"):
            since_s = time.time() - float(called[0].split()[0])
            deadline = min(deadline, time.monotonic() - since_s + death.limit_s)
        if name == "driver" and len(began) == death.days:
            program.kill()
            program.wait()
        time.sleep(0.1)
    return seen, program.poll() is None


def lines_of(file: Path) -> list[str]:
    """The lines that a program has written so far."""
    return file.read_text().splitlines() if file.exists() else []


def read_back(folder: Path, left: tuple[str, ...], *, cut_off: bool) -> Outcome:
    """What a program left in its folder."""
    began = [line.split() for line in lines_of(folder / "began")]
    said = lines_of(folder / "said")
    called_at, printed_before = (folder / "called").read_text().split()
    output = (folder / "output").read_bytes()[int(printed_before) :].decode(errors="replace")
    return Outcome(
        output=cleaned(output, folder),
        began=tuple(day for day, _, _ in began),
        pids=tuple(pid for _, pid, _ in began),
        ended=len(set(lines_of(folder / "ended"))),
        said_s=float(said[0]) - float(began[0][2] if began else called_at) if said else None,
        cut_off=cut_off,
        left=left,
    )


def cleaned(text: str, folder: Path) -> str:
    """Without colours, and with this machine's folders named by what they are."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = text.replace(str(folder), "FOLDER")
    for place, word in ((sys.prefix, "ENV"), (sys.base_prefix, "PYTHON"), (str(ROOT), "HOOKE")):
        text = text.replace(place, word)
    return text


def lives(process: psutil.Process) -> bool:
    """Whether it runs; a dead one whose parent has not noticed does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def end(processes: dict[int, psutil.Process]) -> None:
    """End what is left of a program; psutil kills no process that only bears the pid of an old one."""
    for process in processes.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def named(name: str, system: str, outcome: Outcome) -> str:
    """The letters of what the output names, of what could be named; a dash where there is no such thing."""
    if outcome.said_s is None:
        return "·" * len(DEATHS[name].facts)
    signs = SIGNS | {"S": HOW.get(name, "")}
    found = {
        letter for letter, sign in signs.items() if sign and re.search(sign, outcome.output, re.MULTILINE)
    }
    if any(re.search(rf"\b{pid}\b", outcome.output) for pid in outcome.pids):
        found.add("W")
    return "".join(letter if letter in found else "·" for letter in DEATHS[name].facts)


def reruns(outcome: Outcome) -> str:
    """How often the task that dies began again, and whether the output says so."""
    again = outcome.began.count(DAY) - 1
    if again < 1:
        return "0"
    return f"{again}, {'reported' if re.search(SAYS_RERUN, outcome.output) else 'not reported'}"


def time_of(outcome: Outcome) -> str:
    """When the user's program heard."""
    if outcome.said_s is not None:
        return f"{outcome.said_s:.1f} s"
    return "never (killed by the benchmark)" if outcome.cut_off else "never (the program succeeded)"


def screen(outcome: Outcome) -> list[str]:
    """The output without the frames that are not the program's, its long lines cut, and its middle left out."""
    lines = without_foreign_frames(outcome.output.rstrip().splitlines())
    lines = [part for line in lines for part in folded(line)]
    if len(lines) > LINES:
        half = LINES // 2
        lines = [*lines[:half], f"[... {len(lines) - 2 * half} lines left out]", *lines[-half:]]
    return ["```text", *(line.rstrip() for line in lines or ["(nothing)"]), "```", ""]


def folded(line: str) -> list[str]:
    """A long line over at most three."""
    if len(line) <= WIDTH:
        return [line]
    return textwrap.wrap(
        line, WIDTH, subsequent_indent="    ", max_lines=3, placeholder=" [...]", drop_whitespace=False
    )


def without_foreign_frames(lines: list[str]) -> list[str]:
    """Frames of tracebacks in the systems' own code counted rather than shown."""
    kept: list[str] = []
    out, indent = 0, None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if FRAME.search(line):
            indent = None if "FOLDER" in line else depth
        elif line.strip() and indent is not None and depth <= indent:
            indent = None
        if indent is not None:
            out += 1
            continue
        kept += [f"  [... {out} lines left out]"] * bool(out)
        out = 0
        kept.append(line)
    return kept


def row(name: str, system: str, outcome: Outcome) -> str:
    """A system's row under a death."""
    cells = [NAMES[system]]
    if name == "driver":
        counted = [f"{outcome.left.count(one)} x {one}" for one in sorted(set(outcome.left))]
        cells += [f"{len(outcome.left)}" + (f": {', '.join(counted)}" if counted else "")]
    else:
        cells += [
            spelled(named(name, system, outcome), DEATHS[name].facts),
            time_of(outcome),
            reruns(outcome),
        ]
        if name in RAN_ON:
            cells += ["yes" if outcome.ended else "no"]
        if name == "poison":
            others = [day for day in outcome.began if day != DAY]
            cells += [f"{outcome.ended} of {DEATHS[name].days - 1}", str(len(others) - len(set(others)))]
    return "| " + " | ".join(cells) + " |"


def spelled(letters: str, facts: str) -> str:
    """The facts by name, and those that lack."""
    have = [LETTERS[letter] for letter in facts if letter in letters]
    return ", ".join(have) or "nothing"


HEADS = {
    "driver": ["system", "processes left"],
    "poison": [
        "system",
        "reported",
        "error after",
        "reruns of it",
        "other items done",
        "others started twice",
    ],
}
RAN_ON = ("memory", "timeout")
"""Deaths of tasks that would end well, were they let."""
HEAD = ["system", "reported", "error after", "reruns"]
HEADS |= {name: [*HEAD, "the task still ran to its end"] for name in RAN_ON}


def section(name: str, outcomes: dict[str, Outcome]) -> list[str]:
    """A death's heading, table and screens."""
    death = DEATHS[name]
    head = HEADS.get(name, HEAD)
    lines = [f"## {death.title}", ""]
    if name != "driver":
        lines += [
            "```python no-run the body of a task that dies",
            *textwrap.dedent(death.body).strip().splitlines(),
            "```",
            "",
        ]
    lines += [death.note, ""] if death.note else []
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += [row(name, system, outcome) for system, outcome in outcomes.items()] + [""]
    for system, outcome in outcomes.items():
        lines += [f"{NAMES[system]}:", "", *screen(outcome)]
    return lines


INTRO = """# What the error reports when a task dies

This page shows eleven ways for a task to die, each in the same small program for Hooke and for four alternatives, with their defaults. It is
the output of

```text
python -m benchmarks.deaths > docs/explanation/deaths.md
```

The benchmark runs every program in its own processes, lets the task die, and searches everything that a user would see on the terminal for facts.
The programs are in `benchmarks/death_programs.py`. The screens are real output. FOLDER, ENV, PYTHON and HOOKE stand for the folders of the program, the
environment, Python and Hooke. Output before the call is left out, and long lines are folded. Frames outside the program and the middle of a
long screen are replaced by a count of lines. Each program calls its task by a different name than the task's own, so an echo of its source line does not count as naming the task.
"""


def summary(outcomes: dict[str, dict[str, Outcome]], systems: list[str]) -> list[str]:
    """The matrix on top: what each names, when, and silent reruns."""
    heads = ["death", *(NAMES[system] for system in systems)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, of_system in outcomes.items():
        cells = [short(name, system, of_system[system]) for system in systems]
        lines.append("| " + " | ".join([DEATHS[name].title, *cells]) + " |")
    legend = ", ".join(f"{letter} {word}" for letter, word in LETTERS.items())
    return [
        *lines,
        "",
        (
            f"The letters show what the output names, a dot what it omits: {legend}. The time runs from the start of the task to "
            "the error in the user's program. *Reruns* are the times that the dead task was started again, and *reported* means "
            "that the output says so."
        ),
        "",
    ]


def short(name: str, system: str, outcome: Outcome) -> str:
    """One cell of the matrix."""
    if name == "driver":
        return f"{len(outcome.left)} processes left"
    heard = (
        f"{outcome.said_s:.1f} s"
        if outcome.said_s is not None
        else ("never" if outcome.cut_off else "no error")
    )
    again = reruns(outcome)
    return f"`{named(name, system, outcome)}` {heard}" + (f"; reruns: {again}" if again != "0" else "")


def versions(systems: list[str]) -> str:
    """What was measured, on what."""
    known = [
        f"{NAMES[s]} {importlib.metadata.version(DISTRIBUTIONS[s])}" for s in systems if s in DISTRIBUTIONS
    ]
    return f"{', '.join(known)}, Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}.\n"


def main() -> None:
    """Run what is asked for and print Markdown; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("deaths", nargs="*", help=f"of {', '.join(DEATHS)}; all where none is named")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    arguments = parser.parse_args()
    systems = arguments.systems.split(",")
    outcomes: dict[str, dict[str, Outcome]] = {}
    for name in arguments.deaths or DEATHS:
        for system in systems:
            print(f"{name} {system}", file=sys.stderr)
            outcomes.setdefault(name, {})[system] = outcome_of(name, system)
    print(INTRO)
    print(versions(systems))
    print("\n".join(summary(outcomes, systems)))
    for name, of_system in outcomes.items():
        print("\n".join(section(name, of_system)), end="\n" * (name != list(outcomes)[-1]))


if __name__ == "__main__":
    main()
