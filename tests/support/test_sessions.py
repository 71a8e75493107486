"""A session of several processes: tests that share a fixture run in one of them, those with the highest limits begin, and what
failed is run again alone."""

import subprocess
import sys

import pytest
from tests.support import environment

pytestmark = pytest.mark.heavy

TESTS = """
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


@pytest.fixture(scope="module")
def slow_as_well():
    ran("start-as-well")


def test_quick():
    ran("quick")


@pytest.mark.parametrize("number", range(8))
def test_quick_ones_share(slow_as_well, number):
    ran("shares-as-well")


@pytest.mark.heavy
@pytest.mark.parametrize("number", range(8))
def test_shares(slow_to_start, number):
    ran("shares")


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_long():
    ran("long")
"""
SETTINGS = """
[pytest]
timeout = 60
markers =
    heavy
    campaign
"""


BESIDE = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
AGAIN = ("--last-failed", "--last-failed-no-failures", "none")


def session(folder, tests, *words):
    """A session of its own with these tests; `AGAIN` as by `make test-again`."""
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.fixtures.sessions"]')
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_it.py").write_text(tests)
    # This session may itself be one of several processes.
    alone = {name: value for name, value in environment().items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=folder,
        env=alone | {"HOOKE_TEST_ALL": "0", "HOOKE_TEST_AGAIN": str(int(words == AGAIN))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_tests_that_share_a_fixture_run_in_one_process_and_the_longest_begin(tmp_path):
    done = session(tmp_path, TESTS, *BESIDE, "-p", "no:cacheprovider")
    assert "18 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len({worker for name, worker in ran if name in ("start", "shares")}) == 1
    assert [name for name, _ in ran].count("start") == 1
    assert [name for name, _ in ran].count("start-as-well") == 1
    assert [name for name, _ in ran].index("long") < [name for name, _ in ran].index("quick")


BUSY = """
import os

import pytest

BESIDE = "PYTEST_XDIST_WORKER" in os.environ


@pytest.fixture(scope="module")
def shared():
    return 1


@pytest.fixture
def ends():
    yield
    assert not BESIDE


@pytest.mark.heavy
@pytest.mark.parametrize("mail", ["a@b", "a@c"])
def test_busy(shared, mail):
    assert not BESIDE or mail == "a@c"


@pytest.mark.heavy
def test_end(ends):
    pass


def test_well():
    pass
"""


def test_what_failed_beside_others_is_run_again_alone_and_named(tmp_path):
    first = session(tmp_path, BUSY, *BESIDE)
    assert first.returncode == 1, first.stdout + first.stderr
    again = session(tmp_path, BUSY, *AGAIN)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 passed" in again.stdout
    told = again.stdout.partition("failed beside other tests")[2].splitlines()
    assert [line for line in told if line.startswith("test_it.py")] == [
        "test_it.py::test_busy[a@b]",
        "test_it.py::test_end",
    ]
    assert "find out which" in again.stdout


def test_what_fails_alone_too_is_a_failure(tmp_path):
    assert session(tmp_path, BUSY.replace("not BESIDE", "False"), *BESIDE).returncode == 1
    assert session(tmp_path, BUSY.replace("not BESIDE", "False"), *AGAIN).returncode == 1


def check_it_is_no_second_look(folder, tests):
    again = session(folder, tests, *AGAIN)
    assert again.returncode not in (0, 1)
    assert "the run before did not end" in again.stdout + again.stderr


def test_a_run_that_broke_off_has_no_second_look(tmp_path):
    """Not all was run, so what failed is not known."""
    assert session(tmp_path, BUSY, *BESIDE).returncode == 1
    killed = BUSY.replace("def test_well():", "def test_well():\n    os.kill(os.getppid(), 9)\n    ")
    assert session(tmp_path, killed, *BESIDE).returncode < 0
    check_it_is_no_second_look(tmp_path, BUSY)


def test_a_run_that_could_not_collect_all_has_no_second_look(tmp_path):
    in_one = BUSY + "\nassert os.environ.get('PYTEST_XDIST_WORKER') != 'gw1'\n"
    assert session(tmp_path, in_one, *BESIDE).returncode != 0
    check_it_is_no_second_look(tmp_path, BUSY)


def test_what_failed_and_is_not_there_is_an_error(tmp_path):
    assert session(tmp_path, BUSY, *BESIDE).returncode == 1
    again = session(tmp_path, BUSY.replace("test_end", "test_other"), *AGAIN)
    assert again.returncode not in (0, 1)
    assert "are not there: ['test_it.py::test_end']" in again.stdout + again.stderr
