"""The tool that plants faults: which places it finds, what it edits, which tests it tries, and what it reports."""

import ast
import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from benchmarks.planted_faults.importers import TestGraph
from benchmarks.planted_faults.operators import KINDS, Fault, find_faults, plant
from benchmarks.planted_faults.places import IN_ONE_FILE, order_faults, read_package
from benchmarks.planted_faults.record import Round, add_round, table
from benchmarks.planted_faults.trials import (
    IMPORTERS,
    SESSION,
    SURVIVED,
    TEST,
    Outcome,
    Selection,
    Trial,
    TrialLog,
    Workshop,
    read_outcome,
)

SOURCE = '''"""Text: 1 < 2, 60 * 1000 and more."""  # ä: a byte more than characters

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    SIZES = [n for n in range(3) if n]

LEASE_S = 30.0
STOP_TIMEOUT_S = 5.0
__all__ = ["a"][:1]


class Shop:
    size: "int | None" = None

    def __repr__(self):
        return "a" if self.size is None else "b"

    async def sell(self, count, *, minutes=1):
        with self._lock:
            if count < self.size and not self.open:
                await self.tell(f"{count + 1} of {self.size}")
        self.stop.wait(STOP_TIMEOUT_S)
        os.fsync(self.file)
        self.sold += 60 * minutes
        if sys.platform == "darwin":
            count = count + 1
        assert count < 3
        if count is None:
            raise ValueError("none" if count is None else "1 < 2")
        return [self.rows[n][1:] for n in range(count)], LEASE_S, count + 1
'''
EXPECTED = {
    ("off by one", "count < self.size and not self.open:", "count <= self.size and not self.open:"),
    ("off by one", "[1:]", "[(1) + 1:]"),
    ("off by one", "range(count)", "range((count) - 1)"),
    ("off by one", "LEASE_S, count + 1", "LEASE_S, count + 0"),
    ("swapped condition", "if count < self.size and not self.open:", "if (not (count < self.size and not self.open)):"),
    ("swapped condition", "size and not", "size or not"),
    ("swapped condition", "if count is None:", "if count is not None:"),
    ("dropped await", "await self.tell(", "self.tell("),
    ("lost lock", "with self._lock:", 'with __import__("contextlib").nullcontext():'),
    ("forgotten fsync", "os.fsync(self.file)", "pass"),
    ("wrong unit", "60 * minutes", "1 * minutes"),
    ("wrong unit", "LEASE_S = 30.0", "LEASE_S = 30.0 * 1000"),
    ("dropped statement", "self.sold += 60 * minutes", "pass"),
    ("dropped statement", "self.stop.wait(STOP_TIMEOUT_S)", "pass"),
}  # fmt: skip


def faults_of(source: str = SOURCE) -> list[Fault]:
    return find_faults(source.encode(), "src/sample/shop.py")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")


# --- Places.


def test_each_kind_of_fault_is_found_and_what_nobody_notices_is_left_alone() -> None:
    faults = faults_of()
    assert {fault.kind for fault in faults} == set(KINDS)
    left = list(EXPECTED)
    for fault in faults:
        old, new = fault.change.split(" -> ")
        (match,) = [
            each
            for each in left
            if each[0] == fault.kind and each[1] in old and old.replace(*each[1:]) == new
        ]
        left.remove(match)
    assert not left


def test_all_bytes_beside_the_edit_stay_and_the_file_still_compiles() -> None:
    source = SOURCE.encode()
    for fault in faults_of():
        changed = plant(source, fault)
        assert changed[: fault.start] == source[: fault.start]
        assert changed[len(changed) - len(source) + fault.stop :] == source[fault.stop :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        assert changed.count(b"\n") == source.count(b"\n")


def test_faults_have_names_of_their_own_that_earlier_lines_do_not_change() -> None:
    names = [fault.name for fault in faults_of(SOURCE + "\n\ndef f(a):\n    return a + 1, a[1 + 1]\n")]
    assert len(names) == len(set(names))
    assert [fault.name for fault in faults_of("# more\n\n" + SOURCE)] == [fault.name for fault in faults_of()]


def test_a_seed_gives_the_same_faults_of_all_kinds_and_few_of_one_file(tmp_path: Path) -> None:
    for folder, module in [(folder, module) for folder in "abc" for module in "uvwxyz"]:
        write(tmp_path, {f"src/sample/{folder}/{module}.py": SOURCE})
    faults, lines = read_package(tmp_path)
    drawn = {seed: list(islice(order_faults(faults, lines, seed), 14)) for seed in (1, 2)}
    again, _ = read_package(tmp_path)
    random.Random(0).shuffle(again)
    assert drawn[1] == list(order_faults(sorted(again, key=faults.index), lines, 1))[:14]
    assert drawn[1] != drawn[2]
    assert {kind: sum(fault.kind == kind for fault in drawn[1]) for kind in KINDS} == dict.fromkeys(KINDS, 2)
    everything = list(order_faults(faults, lines, 1))
    paths = [fault.path for fault in everything]
    assert max(map(paths.count, paths)) == IN_ONE_FILE
    assert set(lines) == {"a", "b", "c"}


# --- Which tests are tried.


def test_importers_are_found_directly_and_through_files_of_tests(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "src/hooke/__init__.py": "if 0:\n    from hooke.store.claims import Claim as Claim\n",
            "src/hooke/store/__init__.py": "",
            "src/hooke/store/claims.py": "",
            "tests/store/test_claims.py": "from hooke.store import claims",
            "tests/store/test_names.py": "from hooke import Claim",
            "tests/store/test_nothing.py": "import os",
            "tests/store/conftest.py": "import tests.support.shop",
            "tests/conftest.py": "import tests.support.shop",
            "tests/cli/test_lazily.py": "import hooke\n\ndef test_it():\n    hooke.Claim()",
            "tests/cli/test_through.py": "from tests.support import shop",
            "tests/cli/test_other.py": "from hooke.store import codecs",
            "tests/support/shop.py": "from tests.support.deep import x",
            "tests/support/deep.py": "def f():\n    from hooke.store.claims import Claim",
        },
    )
    assert TestGraph(tmp_path).tests_of("src/hooke/store/claims.py") == [
        "tests/store/test_claims.py",
        "tests/store/test_names.py",
        "tests/cli/test_lazily.py",
        "tests/store/test_nothing.py",
        "tests/cli/test_through.py",
    ]


# --- Trials.

SHOP = "def limit(count):\n    if count < 3:\n        return count + 1\n    return 3\n"
TESTS = """
if 0:
    from hooke.shop import limit

def test_broken():
    assert False

def test_few():
    assert limit(1) == 2
"""
MORE = """
def test_the_bound():
    assert [limit(n) for n in (2, 3, 4)] == [3, 3, 3]
"""
WITNESS = "import runpy; print(runpy.run_path('src/hooke/shop.py')['limit'](3))"


class InProcess(Workshop):
    """Calls the functions of the selected files in this process, with the `limit` of the tree."""

    def run_tests(self, tree: Path, selection: Selection, fault: Fault) -> Outcome:
        for selected in selection.files or ("tests/test_shop.py",):
            file, _, chosen = selected.partition("::")
            scope: dict[str, Any] = {}
            exec((tree / "src/hooke/shop.py").read_text("utf-8"), scope)
            exec((tree / file).read_text("utf-8"), scope)
            for name in [each for each in scope if each.startswith("test_") and chosen in ("", each)]:
                if (test := f"{file}::{name}") not in self.log.unfit:
                    try:
                        scope[name]()
                    except AssertionError:
                        return Outcome(failed=test, how="failed")
        return Outcome()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A package of one function whose tests miss what happens at its bound. One of them fails with and without a fault."""
    for tree in ("clean", "faulty"):
        write(tmp_path / tree, {"src/hooke/shop.py": SHOP, "tests/test_shop.py": TESTS})
    return InProcess(folder=tmp_path, log=TrialLog.read(tmp_path / "trials.jsonl"))


def plan_faults() -> dict[str, Fault]:
    return {fault.operator: fault for fault in find_faults(SHOP.encode(), "src/hooke/shop.py")}


def test_a_fault_is_found_by_a_test_that_passes_without_it(workshop: Workshop) -> None:
    trial = workshop.try_fault(plan_faults()["one"], TEST)
    assert (trial.verdict, trial.test, trial.how) == (IMPORTERS, "tests/test_shop.py::test_few", "failed")
    assert list(workshop.log.unfit) == ["tests/test_shop.py::test_broken"]
    assert (workshop.faulty / "src/hooke/shop.py").read_text("utf-8") == SHOP


def test_a_fault_that_no_test_finds_survives_until_there_is_one(workshop: Workshop) -> None:
    fault = plan_faults()["bound"]
    trial = workshop.try_fault(fault, IMPORTERS)
    assert (trial.verdict, trial.stage, trial.test) == (SURVIVED, IMPORTERS, "")
    assert workshop.try_fault(fault, TEST).stage == TEST
    assert TrialLog.read(workshop.log.path) == workshop.log
    for tree in (workshop.clean, workshop.faulty):
        (tree / "tests/test_shop.py").write_text(TESTS + MORE, "utf-8")
    trial = workshop.retry(fault)
    assert (trial.first, trial.verdict, trial.test) == (
        SURVIVED,
        IMPORTERS,
        "tests/test_shop.py::test_the_bound",
    )


def test_a_soak_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    log = TrialLog.read(tmp_path / "seed" / "trials.jsonl")
    log.add(Trial(fault="first", verdict=SURVIVED, stage=IMPORTERS))
    with log.path.open("a") as file:
        file.write('{"fault": "seco')
    log.add(Trial(fault="third", verdict=TEST, stage=TEST))
    assert list(TrialLog.read(log.path).trials) == ["first", "third"]


def test_the_record_counts_first_verdicts_and_those_once_survivors_became_tests(tmp_path: Path) -> None:
    faults = plan_faults()
    trials = [
        Trial(
            fault=faults["bound"].name,
            verdict=IMPORTERS,
            stage=IMPORTERS,
            test="tests/t.py::test",
            first=SURVIVED,
        ),
        Trial(fault=faults["one"].name, verdict=SURVIVED, stage=IMPORTERS, complete=False),
    ]
    done = Round(
        seed=1,
        stage=IMPORTERS,
        machine="a machine",
        faults=[faults["bound"], faults["one"], faults["negated"]],
        trials={trial.fault: trial for trial in trials},
        witnessed=frozenset({faults["bound"].name}),
        equivalents={},
    )
    for _ in range(2):
        add_round(tmp_path / "record.json", done)
    (written,) = json.loads((tmp_path / "record.json").read_text("utf-8"))["rounds"]
    assert (written["first"], written["now"]) == ({SURVIVED: 2}, {IMPORTERS: 1, SURVIVED: 1})
    assert [each.get("witness") for each in written["faults"]] == [None, "no witness yet"]
    assert "| seed 1, all kinds | 2 | 0 | 0 | 0 | 2 | 1 |" in table({"rounds": [written]})


OUTPUT = """tests/a/test_b.py::test_c[x - y] FAILED                  [ 50%]
ERROR    asyncio:base_events.py:1771 Exception in callback
{more}=========================== short test summary info ====
FAILED tests/a/test_b.py::test_c[x] - assert 1 == 2 - 1
"""


def test_an_outcome_is_the_first_failure_of_a_sessions_summary() -> None:
    failed = Outcome(failed="tests/a/test_b.py::test_c[x]", how="failed")
    assert read_outcome("exited", 1, OUTPUT.format(more="")) == failed
    hung = read_outcome("exited", 1, OUTPUT.format(more="E  Failed: Timeout (>60.0s) from pytest-timeout.\n"))
    assert (hung.failed, hung.how) == (failed.failed, "hung")
    assert read_outcome("hung", -9, "tests/a/test_b.py::test_c \n") == Outcome(
        failed="tests/a/test_b.py::test_c", how="hung"
    )
    assert read_outcome("out of time", -9, "") == Outcome(complete=False)
    assert read_outcome("exited", 5, "") == read_outcome("exited", 0, "") == Outcome()
    assert read_outcome("exited", 1, "").failed == SESSION


@pytest.mark.needs("processes")
def test_sessions_of_pytest_and_witnesses_read_the_sources_with_the_fault(workshop: Workshop) -> None:
    fault = plan_faults()["bound"]
    real = Workshop(folder=workshop.folder, log=workshop.log)
    passing = "from hooke.shop import limit\n\ndef test_few():\n    assert limit(1) == 2\n"
    selection = Selection(files=("tests/test_shop.py",), limit_s=100)
    for tree in (real.clean, real.faulty):
        write(tree, {"src/hooke/__init__.py": "", "tests/test_shop.py": passing + MORE})
    assert real.witnesses(fault, WITNESS) == ("3\n", "4\n")
    with real.planted(fault):
        assert real.run_tests(real.clean, selection, fault) == Outcome()
        assert real.run_tests(real.faulty, selection, fault) == Outcome(
            failed="tests/test_shop.py::test_the_bound", how="failed"
        )
