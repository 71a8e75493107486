"""A session of several processes: tests that share a fixture run in one of them, and those with the highest limits begin."""

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


def test_quick():
    ran("quick")


@pytest.mark.heavy
@pytest.mark.parametrize("number", range(8))
def test_shares(slow_to_start, number):
    ran("shares")


@pytest.mark.heavy
@pytest.mark.timeout(300)
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


def test_tests_that_share_a_fixture_run_in_one_process_and_the_longest_begin(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.fixtures.sessions"]')
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_it.py").write_text(TESTS)
    words = (
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "--no-loadscope-reorder",
        "-p",
        "no:cacheprovider",
    )
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=environment() | {"HOOKE_TEST_ALL": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "10 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len({worker for name, worker in ran if name in ("start", "shares")}) == 1
    assert [name for name, _ in ran].count("start") == 1
    assert [name for name, _ in ran].index("long") < [name for name, _ in ran].index("quick")
