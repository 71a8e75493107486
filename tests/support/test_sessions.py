"""A session of several processes: tests that share a fixture run in one of them, and it ends with a table of what was left out."""

import re
import subprocess
import sys

import pytest
from tests.engines.local.faults import gone
from tests.support import environment, needs

pytestmark = pytest.mark.needs("processes")

SETTINGS = """
[pytest]
timeout = 60
markers =
    needs
    long
"""
CONFTEST = """
pytest_plugins = {}


def pytest_configure():
    from tests.fixtures import leftovers

    leftovers.PATIENCE_S = 0.5
"""
BESIDE = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "-p", "no:cacheprovider")


def session(folder, tests, *words, **variables):
    """A session of its own with these tests."""
    plugins = [f"tests.fixtures.{name}" for name in ("requirements", "sessions", "times", "leftovers")]
    (folder / "conftest.py").write_text(CONFTEST.format(plugins))
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_it.py").write_text(tests)
    # This session may itself be one of several processes.
    alone = {
        name: value for name, value in environment().items() if not name.startswith(("PYTEST_XDIST", "HOOKE"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=folder,
        env=alone | variables,
        capture_output=True,
        text=True,
        check=False,
    )


SHARED = """
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def ran(name):
    with (HERE / "ran").open("a") as file:
        file.write(f"{name} {os.environ['PYTEST_XDIST_WORKER']}\\n")


@pytest.fixture(scope="module")
def slow_to_start():
    ran("start")


def test_quick():
    ran("quick")


@pytest.mark.needs("processes")
@pytest.mark.parametrize("number", [*range(7), pytest.param(7, marks=pytest.mark.long)])
def test_shares(slow_to_start, number):
    ran(f"shares{number}")


@pytest.mark.long
def test_long():
    ran("long")
"""


def test_tests_that_share_a_fixture_run_in_one_process_and_long_ones_begin(tmp_path):
    done = session(tmp_path, SHARED, *BESIDE)
    assert "10 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len({worker for name, worker in ran if name.startswith(("start", "shares"))}) == 1
    names = [name for name, _ in ran]
    shares = [name for name in names if name.startswith("shares")]
    assert shares == [f"shares{number}" for number in range(8)], (
        "in their order, also where a later one is long"
    )
    assert names.count("start") == 1
    assert names.index("long") < names.index("quick")


OF_A_FOLDER = """
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]


def told(what):
    with (HERE / "told").open("a") as file:
        file.write(f"{what} ")


@pytest.fixture(scope="package")
def cluster():
    told("begins")
    yield
    told("ends")


@pytest.mark.parametrize("number", range(2))
def test_on_it(cluster, number):
    told("used")


def test_beside_it():
    told("beside")
"""
OF_ANOTHER_FOLDER = """
from pathlib import Path


def test_without_it():
    with (Path(__file__).parents[1] / "told").open("a") as file:
        file.write("without ")
"""


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ((), "begins used used beside ends without"),
        (("-n", "1", *BESIDE[2:], "--import-mode=importlib"), "begins used used ends beside without"),
    ],
    ids=["alone", "in a group"],
)
def test_what_a_folder_shares_ends_with_the_last_test_that_uses_it(tmp_path, words, order):
    for name, tests in (("first", OF_A_FOLDER), ("second", OF_ANOTHER_FOLDER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(tests)
    done = session(tmp_path, "", *words, "-p", "no:cacheprovider")
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "told").read_text().split() == order.split()


LEAVES = """
import concurrent.futures
import subprocess
import threading

POOL = concurrent.futures.ThreadPoolExecutor()


def test_it_leaves_a_process():
    print(subprocess.Popen(["sleep", "300"]).pid)


def test_it_leaves_a_thread():
    threading.Timer(3, print).start()


def test_a_pool_of_threads_is_idle():
    POOL.submit(print).result()
"""


def test_what_is_left_behind_is_named_and_ended_and_fails_the_session(tmp_path):
    done = session(tmp_path, LEAVES, *BESIDE)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    told = done.stdout[done.stdout.index("left behind") :]
    pid = int(re.search(r"process (\d+): sleep 300 \(started by \S*::test_it_leaves_a_process", told)[1])
    assert re.search(r"thread Thread-\d+, first seen after \S*::test_it_leaves_a_thread", told)
    assert "ThreadPool" not in told
    gone([pid])


LACKING = """
import pytest


@pytest.mark.needs("gpu")
@pytest.mark.parametrize("number", range(3))
def test_of_a_gpu(number):
    raise AssertionError("it must not run")


@pytest.mark.needs("numba")
@pytest.mark.long
def test_of_numba():
    raise AssertionError("it must not run")


@pytest.mark.long
def test_long():
    pass


@pytest.mark.parametrize("mail", ["a@b"])
def test_well(mail):
    pass


def test_skipped_for_another_reason():
    pytest.skip("it rains")
"""

STARTS = """
import subprocess
import sys


def test_it_starts_a_session(tmp_path):
    (tmp_path / "test_inner.py").write_text("".join(f"def test_{name}(): pass\\n" for name in "abc"))
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "tests.fixtures.times", "."], cwd=tmp_path, check=True)
"""


@pytest.mark.skipif(
    needs.is_there("gpu") or needs.is_there("numba"), reason="it needs a machine without them"
)
@pytest.mark.parametrize("beside", [(), BESIDE], ids=["alone", "beside"])
def test_what_is_missing_is_skipped_and_a_table_says_how_to_get_it(tmp_path, beside):
    done = session(tmp_path, LACKING, *beside, "-m", "not long")
    assert "1 passed, 4 skipped" in done.stdout, done.stdout + done.stderr
    table = done.stdout.rpartition(" left out ")[2].splitlines()[1:]
    assert [" ".join(line.split()) for line in table if line][:5] == [
        "tests they need how to run them",
        f"3 gpu {needs.NEEDS['gpu'].how}",
        "1 - it rains",
        "1 long make test-all",
        f"1 numba {needs.NEEDS['numba'].how}",
    ]


@pytest.mark.skipif(
    needs.is_there("gpu") or needs.is_there("numba"), reason="it needs a machine without them"
)
def test_where_all_is_required_a_skip_is_a_failure_but_for_what_no_machine_of_ci_has(tmp_path):
    done = session(tmp_path, LACKING, HOOKE_REQUIRE="all")
    assert "1 failed, 2 passed, 4 skipped" in done.stdout, done.stdout + done.stderr
    assert "HOOKE_REQUIRE=all, and this test was skipped: it rains" in done.stdout
    done = session(tmp_path, LACKING, HOOKE_REQUIRE="numba")
    assert "2 passed, 4 skipped, 1 error" in done.stdout, done.stdout + done.stderr
    assert f"HOOKE_REQUIRE=numba, and this test needs numba: {needs.NEEDS['numba'].how}" in done.stdout


def test_a_name_that_is_not_known_ends_the_session_and_is_named(tmp_path):
    done = session(tmp_path, "", HOOKE_REQUIRE="all,chromum")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "HOOKE_REQUIRE: chromum is none of all, airflow, " in done.stderr
    done = session(tmp_path, LACKING.replace('needs("gpu")', 'needs("gpus")'))
    assert "needs('gpus'): it is none of airflow, " in done.stdout + done.stderr
    assert done.returncode != 0


def test_each_test_has_a_line_with_what_it_took(tmp_path):
    done = session(tmp_path, LACKING, *BESIDE, "-k", "well or rain or another", HOOKE_TEST_TIMES="times.tsv")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("\t") for line in (tmp_path / "times.tsv").read_text().splitlines()]
    assert sorted(line[2:] for line in lines) == [
        ["passed", "-", "test_it.py::test_well[a@b]"],
        ["skipped", "-", "test_it.py::test_skipped_for_another_reason"],
    ]
    assert all(re.fullmatch(r"\d+\.\d\d", figure) for line in lines for figure in line[:2])


def test_a_session_that_a_test_starts_writes_no_line_and_over_none(tmp_path):
    done = session(tmp_path, STARTS, HOOKE_TEST_TIMES=str(tmp_path / "times.tsv"))
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (tmp_path / "times.tsv").read_text().splitlines()
    assert re.fullmatch(r"\d[\d.\t]+passed\t-\ttest_it.py::test_it_starts_a_session", line)


@pytest.mark.parametrize(("chosen", "count"), [("", 3), ("sample", 3), ("full", 5), ("soak", 8)])
def test_a_size_is_chosen_by_the_variable(monkeypatch, chosen, count):
    from tests.support.sizes import choose_size

    monkeypatch.delenv("HOOKE_TEST_SIZE", raising=False)
    if chosen:
        monkeypatch.setenv("HOOKE_TEST_SIZE", chosen)
    assert choose_size(sample=3, full=5, soak=8) == count
    monkeypatch.setenv("HOOKE_TEST_SIZE", "large")
    with pytest.raises(pytest.UsageError, match="HOOKE_TEST_SIZE=large: it is sample, full or soak"):
        choose_size(sample=3, full=5)
