"""The main job at another place: with equal thread counts the outputs are those of the local engine, byte for byte."""

import subprocess

import pytest
from tests.examples.test_flights_resume import COMMAND, assert_same, copy, outputs

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = copy(tmp_path_factory.mktemp("flights") / "local")
    subprocess.run([*COMMAND, "run", "flights.py", "--on", "local:2"], cwd=folder, check=True)
    return outputs(folder)


@pytest.mark.parametrize("place", ["dask:2", "ray:2"])
def test_the_same_at_another_place(place, local, tmp_path):
    folder = copy(tmp_path / "there")
    subprocess.run([*COMMAND, "run", "flights.py", "--on", place], cwd=folder, check=True)
    assert_same(outputs(folder), local)
