"""The first ten minutes with Hooke, Prefect, Metaflow and MLflow: what is typed, and how long each step takes.

    python -m benchmarks.first_contact > docs/explanation/first-ten-minutes.md
    python -m benchmarks.first_contact --systems hooke,metaflow       some of them, to look at
    python -m benchmarks.first_contact --keep outcomes.json           goes on with the systems that are not in this file yet

Each system gets an empty virtual environment and an empty project in a temporary folder. It needs curl, and a package index.
A step whose output lacks what it should show ends the program with that output: no figure is of a step that did not work.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from benchmarks.first_contact.systems import DAYS, STEPS, SYSTEMS, Step, System

ROOT = Path(__file__).parents[2]
LIMIT_S = 900.0
AS_SHOWN = {"port": "8000", "run": "RUN", "first": "FIRST_RUN"}
"""What the page has in place of the values of one trial."""
INTRO = """\
# The first ten minutes

What a new user types in the first ten minutes, and how long the machine takes. This page is the output of

```text
python -m benchmarks.first_contact > docs/explanation/first-ten-minutes.md
```

The program is the same in each system: it reads twelve days, half a second each, computes their mean, and keeps a report. The steps are
"""
READING = """\
Seconds are from the return key to the end of the output, or to the first answer of a service. They are of one run, and do not include the
time to type. *Calls* counts the reads of a day that a step needed. Prefect's tasks are cached by their inputs and their source, as its
documentation recommends; Metaflow and MLflow have no cache. Editing is done with `sed`, so that it can be repeated.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a step; without `seconds`, the system does not have it."""

    seconds: float | None = None
    calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of a system's steps. `load` is the machine's, at the beginning and at the end."""

    version: str
    load: tuple[float, float]
    steps: dict[str, Outcome]


class Trial:
    """One system in a folder of its own."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system, self.folder = system, folder
        self.project = folder / "project"
        self.calls = folder / "calls"
        (self.project / "days").mkdir(parents=True)
        self.calls.touch()
        (self.project / "days.py").write_text(DAYS.format(calls=self.calls), "utf-8")
        for day in range(12):
            (self.project / "days" / f"{day}.txt").write_text(f"{2 * day}\n", "utf-8")
        for name, text in system.files.items():
            (self.project / name).write_text(text, "utf-8")
        kept = {
            name: os.environ[name]
            for name in os.environ
            if not name.startswith(("PYTHON", "HOOKE", "MLFLOW"))
        }
        home = folder / "home"
        home.mkdir()
        commands = str(folder / "venv" / "bin")
        self.environment = kept | {
            "HOME": str(home),
            "PATH": commands + os.pathsep + os.environ["PATH"],
            "NO_COLOR": "1",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self.environment |= {name: text.format(home=home) for name, text in system.environment.items()}
        self._values = {"port": str(free_port())}

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """Every step, in order."""
        yield "install", self.install()
        for name in STEPS:
            if name != "install":
                print(f"{self.system.title}: {name}", file=sys.stderr)
                yield name, self.go(self.system.steps[name])

    def install(self) -> Outcome:
        """Into an empty environment. Hooke comes as a wheel of this checkout, and brings its dependencies from the index."""
        requirement = self.system.requirement
        subprocess.run([sys.executable, "-m", "venv", str(self.folder / "venv")], check=True)
        if self.system is SYSTEMS["hooke"]:
            requirement = self.wheel() + requirement[requirement.index("[") :]
        print(f"{self.system.title}: install", file=sys.stderr)
        began = time.perf_counter()
        self.shell(f"pip install --quiet '{requirement}'")
        return Outcome(seconds=time.perf_counter() - began)

    def wheel(self) -> str:
        """The path of a wheel of this checkout."""
        made = self.folder / "wheel"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--wheel-dir",
                str(made),
                str(ROOT),
            ],
            check=True,
            stdout=sys.stderr,
        )
        (path,) = made.glob("*.whl")
        return str(path)

    def go(self, step: Step) -> Outcome:
        """The step's lines, one after the other. Raises RuntimeError if the last one does not show what it should."""
        if step.none:
            return Outcome()
        if "{run}" in "".join(step.lines):
            self.find_runs()
        *first, last = (line.format(**self._values) for line in step.lines)
        before = self.call_count()
        began = time.perf_counter()
        for line in first:
            self.shell(line)
        if step.serves:
            shown, end = self.served(last, step.serves.format(**self._values))
        else:
            shown, end = self.shell(last, keys=step.keys, fails=step.fails), time.perf_counter()
        if step.shows not in shown:
            raise RuntimeError(f"{self.system.title}: {last} does not show {step.shows!r}:\n{shown}")
        return Outcome(seconds=end - began, calls=self.call_count() - before)

    def find_runs(self) -> None:
        """Hooke's runs: the first and the latest. Other systems' steps name none."""
        runs = sorted((self.project / ".hooke" / "runs").iterdir(), key=lambda each: each.name)
        self._values |= {"first": runs[0].name, "run": runs[-1].name}

    def shell(self, line: str, *, keys: str = "", fails: bool = False) -> str:
        """The line's output. Raises RuntimeError if it fails and should not, or the other way round."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.project,
            env=self.environment,
            input=keys,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if not keys and bool(done.returncode) != fails:
            raise RuntimeError(f"{self.system.title}: {line} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def served(self, line: str, asked: str) -> tuple[str, float]:
        """Start a server, ask it until it answers, and end it. The answer, and the moment when it came."""
        log = self.folder / "served.txt"
        with log.open("w") as output:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.project,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        limit = time.perf_counter() + LIMIT_S
        try:
            while True:
                done = subprocess.run(
                    ["bash", "-c", asked],
                    cwd=self.project,
                    env=self.environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode == 0:
                    return done.stdout, time.perf_counter()
                if server.poll() is not None or time.perf_counter() > limit:
                    raise RuntimeError(
                        f"{self.system.title}: {line} does not answer:\n{log.read_text('utf-8')}"
                    )
                time.sleep(0.05)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)

    def call_count(self) -> int:
        """How many days were read so far."""
        return len(self.calls.read_text("utf-8").splitlines())

    def version(self) -> str:
        """What was installed."""
        name = "hooke" if self.system is SYSTEMS["hooke"] else self.system.requirement
        distributions = self.shell(
            f"python -c \"import importlib.metadata as m; print(next(iter(m.packages_distributions()['{name}'])))\""
        ).strip()
        version = self.shell(
            f"python -c \"import importlib.metadata as m; print(m.version('{distributions}'))\""
        )
        size = sum(path.stat().st_size for path in (self.folder / "venv").rglob("*") if path.is_file())
        return f"{self.system.title} {version.strip()} ({size / 2**20:.0f} MiB installed)"


def free_port() -> int:
    """On which nothing listens now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def cell(outcome: Outcome) -> str:
    """A step in the table."""
    if outcome.seconds is None:
        return "none"
    return f"{outcome.seconds:.1f} s" + (
        f", {outcome.calls} call{'s' * (outcome.calls > 1)}" if outcome.calls else ""
    )


def typed(system: System, step: str) -> tuple[str, ...]:
    """The lines of a step as the page shows them."""
    if step == "install":
        quote = '"' * ("[" in system.requirement)
        return (f"pip install {quote}{system.requirement}{quote}",)
    of_step = system.steps[step]
    lines = (*of_step.lines, of_step.serves) if of_step.serves else of_step.lines
    return tuple(line.format(**AS_SHOWN) for line in lines)


def table(found: dict[str, Tried]) -> Iterator[str]:
    """All systems side by side."""
    systems = [SYSTEMS[name] for name in found]
    yield "| step | " + " | ".join(system.title for system in systems) + " |"
    yield "|---|" + "---|" * len(systems)
    for step in STEPS:
        yield f"| {step} | " + " | ".join(cell(tried.steps[step]) for tried in found.values()) + " |"
    commands = [sum(len(typed(system, step)) for step in STEPS) for system in systems]
    yield "| commands typed | " + " | ".join(map(str, commands)) + " |"
    written = [sum(len(text.splitlines()) for text in system.files.values()) for system in systems]
    yield "| lines of code written | " + " | ".join(map(str, written)) + " |"
    sums = [sum(one.seconds or 0.0 for one in tried.steps.values()) for tried in found.values()]
    yield "| all steps that exist | " + " | ".join(f"{seconds:.0f} s" for seconds in sums) + " |"


def section(system: System, tried: Tried) -> Iterator[str]:
    """What was typed into one system, and its program."""
    yield f"\n## {system.title}\n\n```text"
    for step, outcome in tried.steps.items():
        of_step = system.steps.get(step, Step())
        yield f"# {step}: {cell(outcome)}"
        yield from (f"$ {line}" for line in typed(system, step))
        yield from (f"(Pdb) {key}" for key in of_step.keys.split("\n") if key)
        yield from (f"# {text}" for text in (of_step.none, of_step.note) if text)
    yield "```"
    for file, text in system.files.items():
        yield f"\n`{file}`:\n\n```text\n{text}```"


def tried_in_a_folder(name: str) -> Tried:
    """A system from its installation to its service, in a temporary folder."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="first-contact-") as folder:
        trial = Trial(SYSTEMS[name], Path(folder))
        steps = dict(trial.outcomes())
        return Tried(version=trial.version(), load=(load, os.getloadavg()[0]), steps=steps)


def main() -> None:
    """Run what is asked for and print Markdown; progress goes to stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    parser.add_argument("--keep", type=Path, help="a file for the outcomes, which a later call goes on with")
    options = parser.parse_args()
    kept: Path | None = options.keep
    found: dict[str, Tried] = {}
    if kept and kept.exists():
        found = msgspec.json.decode(kept.read_bytes(), type=dict[str, Tried])
    names = options.systems.split(",")
    for name in names:
        if name not in found:
            found[name] = tried_in_a_folder(name)
        if kept:
            kept.write_bytes(msgspec.json.encode(found))
    found = {name: found[name] for name in names}
    print(INTRO)
    print("\n".join(f"- *{step}*: {text};" for step, text in STEPS.items())[:-1] + ".\n")
    print(READING)
    print(
        f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores shared with other processes, which make all"
        " times longer than on a quiet machine: the load while a system was tried is beside its name.\n"
    )
    print(
        "\n".join(
            f"- {tried.version}, load {min(tried.load):.0f} to {max(tried.load):.0f}"
            for tried in found.values()
        )
        + "\n"
    )
    print("\n".join(table(found)))
    for name, tried in found.items():
        print("\n".join(section(SYSTEMS[name], tried)))


if __name__ == "__main__":
    main()
