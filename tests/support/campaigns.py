"""Campaigns: tests that play many seeds or trials. They run as a sample, and in full when what they import has changed.

A campaign is full under `HOOKE_TEST_ALL=1` (`make test-all`, `make campaigns`), a sample under `HOOKE_TEST_ALL=0`
(`make unit`). Otherwise it is full if the sources that it imports differ from those of its last full run, which
`tests/campaigns.json` records as hashes. Such full runs may cost a session SECONDS of CPU time together; the campaigns beyond
that run as a sample, and the summary names them.

`python -m tests.support.campaigns` lists the campaigns and says which ones have changed.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support import REPOSITORY

__all__ = ["CAMPAIGNS", "Campaign", "bound", "campaign", "decide", "record", "sources"]

ALL = "HOOKE_TEST_ALL"
CHOSEN = "HOOKE_TEST_CAMPAIGNS"
"""Names of the campaigns that are full, decided once a session and inherited by its processes."""
SECONDS = 60.0
RECORDS = REPOSITORY / "tests" / "campaigns.json"
ROOTS = {"hooke": REPOSITORY / "src", "tests": REPOSITORY, "benchmarks": REPOSITORY}


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """`sample` and `full` count `unit`; `tests` share them or do as many each; `seconds` is the CPU time of the full one."""

    module: str
    tests: int
    unit: str
    sample: int
    full: int
    seconds: float

    @property
    def is_full(self) -> bool:
        return self.module in os.environ.get(CHOSEN, "").split()

    @property
    def size(self) -> int:
        return self.full if self.is_full else self.sample


CAMPAIGNS = {
    each.module: each
    for each in (
        Campaign(
            module="tests.pipeline.test_histories",
            tests=10,
            unit="histories",
            sample=200,
            full=1000,
            seconds=60,
        ),
        Campaign(
            module="tests.pipeline.test_observed_lookup",
            tests=5,
            unit="histories",
            sample=10,
            full=100,
            seconds=100,
        ),
        Campaign(
            module="tests.services.supervisor.test_canary",
            tests=1,
            unit="trials",
            sample=20,
            full=400,
            seconds=40,
        ),
        Campaign(
            module="tests.fleets.test_fleet_histories",
            tests=20,
            unit="histories",
            sample=400,
            full=5000,
            seconds=100,
        ),
        Campaign(
            module="tests.generation.test_token_scheduler",
            tests=4,
            unit="histories",
            sample=64,
            full=10_000,
            seconds=1000,
        ),
        Campaign(
            module="tests.serving.openai.test_language_model",
            tests=1,
            unit="prompts",
            sample=60,
            full=1000,
            seconds=60,
        ),
        Campaign(
            module="tests.providers.test_lambda_cloud",
            tests=8,
            unit="histories",
            sample=64,
            full=2000,
            seconds=110,
        ),
        Campaign(
            module="tests.providers.test_lambda_kills", tests=1, unit="kills", sample=8, full=50, seconds=100
        ),
        Campaign(
            module="tests.running.test_concurrent_runs",
            tests=1,
            unit="trials",
            sample=8,
            full=50,
            seconds=60,
        ),
        Campaign(
            module="tests.running.test_corruption", tests=1, unit="trials", sample=15, full=500, seconds=140
        ),
        Campaign(
            module="tests.running.test_fuzzer",
            tests=10,
            unit="programs",
            sample=200,
            full=10_000,
            seconds=1200,
        ),
        Campaign(module="tests.running.test_kills", tests=2, unit="moments", sample=6, full=100, seconds=400),
        Campaign(
            module="tests.running.test_power_loss", tests=2, unit="moments", sample=4, full=40, seconds=120
        ),
        Campaign(
            module="tests.planning.test_plan_coverage",
            tests=2,
            unit="histories",
            sample=6,
            full=120,
            seconds=110,
        ),
        Campaign(
            module="tests.scaling.test_coverage", tests=21, unit="trials", sample=150, full=1000, seconds=240
        ),
        Campaign(
            module="tests.scaling.test_extrapolation", tests=1, unit="curves", sample=40, full=243, seconds=90
        ),
        Campaign(
            module="tests.scaling.test_affine", tests=6, unit="trials", sample=200, full=1000, seconds=20
        ),
    )
}


def campaign(module: str) -> Campaign:
    """The campaign of a test module: `campaign(__name__)`."""
    return CAMPAIGNS[module]


def bound(count: int) -> str:
    """What no failure in `count` independent cases proves: the share that 95 of 100 such counts would have shown."""
    return f"0 of {count:,} is under {100 * (1 - 0.05 ** (1 / count)):.2g} %"


def decide(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Which campaigns are full in this session."""
    wanted = environment.get(ALL)
    if wanted:
        return list(CAMPAIGNS) if wanted == "1" else []
    chosen: list[str] = []
    left = SECONDS
    for each in sorted(changed(), key=lambda name: CAMPAIGNS[name].seconds):
        left -= CAMPAIGNS[each].seconds
        if left >= 0:
            chosen.append(each)
    return chosen


def changed() -> list[str]:
    """Campaigns whose sources are not those of their last full run."""
    known = json.loads(RECORDS.read_text("utf-8")) if RECORDS.exists() else {}
    return [name for name in CAMPAIGNS if known.get(name) != sources(name)]


def record(names: list[str]) -> None:
    """Write down that these campaigns passed in full, with the sources as they are now."""
    known = json.loads(RECORDS.read_text("utf-8")) if RECORDS.exists() else {}
    known = {name: known.get(name) for name in CAMPAIGNS} | {name: sources(name) for name in names}
    kept = {name: digest for name, digest in sorted(known.items()) if digest}
    RECORDS.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


@cache
def sources(module: str) -> str:
    """A hash of a module and of all modules of this repository that it imports, directly or not."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if path is not None and name not in found:
            found[name], imported = _read(path)
            waiting += imported
    told = hashlib.sha256()
    for name in sorted(found):
        told.update(f"{name} {found[name]}\n".encode())
    return told.hexdigest()[:16]


@cache
def _path(module: str) -> Path | None:
    root = ROOTS.get(module.partition(".")[0])
    if root is None:
        return None
    stem = root / module.replace(".", "/")
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()), None)


@cache
def _read(path: Path) -> tuple[str, list[str]]:
    """The hash of a file's code and the names that it imports. Words cost nothing: docstrings and comments do not count."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column]
    for first, last in _docstrings(tree):
        lines[first - 1 : last] = [""] * (last - first + 1)
    code = "\n".join(line.rstrip() for line in lines if line.strip())
    return hashlib.sha256(code.encode()).hexdigest(), sorted(_imports(tree))


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """First and last lines of the docstrings, also of those that follow an attribute."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                yield node.lineno, node.end_lineno or node.lineno
            case _:
                pass


def _imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


if __name__ == "__main__":
    now = changed()
    for each in CAMPAIGNS.values():
        state = "changed since its last full run" if each.module in now else "as in its last full run"
        print(
            f"{each.module}: {each.sample} of {each.full} {each.unit}, {each.seconds:.0f} s in full; {state}"
        )
    print("next: make campaigns" if now else "no campaign has changed")
