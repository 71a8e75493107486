"""Which tests `make unit` leaves out beside those marked `heavy`: `tests/slow_tests.txt` names each function whose tests took long together.

`python -m tests.support.slow_tests RESULTS.xml` writes it from the results of a `make test` (`PYTEST_ADDOPTS=--junitxml=RESULTS.xml`).
"""

import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parents[1]
LIST = TESTS / "slow_tests.txt"
SECONDS = 0.3


@cache
def slow_tests() -> frozenset[str]:
    """The functions of the list, each as `folder/file.py::Class::name`."""
    return frozenset(LIST.read_text("utf-8").split())


def is_slow(nodeid: str) -> bool:
    """Whether the list has the function of that test."""
    return function_of(nodeid) in slow_tests()


def function_of(nodeid: str) -> str:
    """The id of a test without its parameters, as it stands in the list."""
    return nodeid.partition("[")[0].removeprefix(f"{TESTS.name}/")


def seconds_of(results: Path) -> dict[str, float]:
    """How long the tests of each function took, all together, by a file of JUnit's form."""
    found: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(results).iter("testcase"):
        *parts, module = case.get("classname", "").split(".")
        inner = []
        while not (module.startswith("test_") and TESTS.parent.joinpath(*parts, f"{module}.py").exists()):
            inner.insert(0, module)
            *parts, module = parts
        path = "/".join([*parts, f"{module}.py"])
        found[function_of("::".join([path, *inner, case.get("name", "")]))] += float(case.get("time", 0))
    return found


def quick_by_mark() -> frozenset[str]:
    """The functions that are not marked `heavy`."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "not heavy", "--collect-only", "-q"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(function_of(line) for line in listed.stdout.splitlines() if "::" in line)


if __name__ == "__main__":
    took = seconds_of(Path(sys.argv[1]))
    slow = sorted(name for name in quick_by_mark() if took[name] >= SECONDS)
    LIST.write_text("\n".join(slow) + "\n", "utf-8")
    print(f"{len(slow)} functions, {sum(took[name] for name in slow):.0f} s")
