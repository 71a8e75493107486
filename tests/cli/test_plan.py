"""`hooke plan` as it is typed."""

import json

import pytest
from tests.cli.conftest import Desk

pytestmark = pytest.mark.needs("processes")

NAPS = """
    import time

    from hooke import pipeline, task


    @task
    def nap(x: int, length: float = 0.05) -> int:
        time.sleep(length)
        return x


    @task
    def total(xs: list[int]) -> int:
        return sum(xs)


    @pipeline
    def naps(n: int = 8, first: int = 0, speed: str = "any") -> int:
        return total(nap.map(range(first, first + n)))
"""
OURS = """# source: our own list
# date: 2026-11-25
# startup: 1m-2m
instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour,speed
pair,,0,2,8,0.10,0.03,0.8-1.2
"""


@pytest.fixture
def naps(desk: Desk) -> Desk:
    desk.write("naps.py", NAPS)
    return desk


def test_before_anything_ran(naps):
    done = naps.hooke("plan", "naps.py")
    assert done.code == 1
    assert "not enough data, no duration is known: nap (never measured)" in done.out
    assert "next: hooke run naps.py:naps" in done.err
    assert not (naps.folder / ".hooke").exists()


@pytest.mark.long
def test_after_a_run_and_checked_after_the_next(naps):
    assert naps.hooke("run", "naps.py", "--workers", "2").code == 0
    done = naps.hooke("plan", "naps.py", "--first", "100", "--workers", "2", "--deadline", "1h")
    assert done.code == 0, done.out + done.err
    assert "*  this machine, 2 workers" in done.out
    assert "recommended: you do not need a cluster: this machine, 2 workers in " in done.out
    assert "next: hooke run naps.py:naps --workers 2 --first 100" in done.err
    assert naps.hooke("run", "naps.py", "--workers", "2", "--first", "100").code == 0
    checked = naps.hooke("plan", "--check", naps.last())
    assert checked.code == 0
    assert "on this machine, 2 workers, against plan naps-" in checked.out
    facts = json.loads(naps.hooke("plan", "--check", naps.last(), "--json").out)
    assert {each["task"]: each["ran"] for each in facts["tasks"]} == {"nap": 8, "total": 1}


def test_json_has_every_row_and_where_prices_are_from(naps):
    (naps.folder / "ours.csv").write_text(OURS)
    assert naps.hooke("run", "naps.py", "--workers", "2").code == 0
    done = naps.hooke("plan", "naps.py", "--first", "9", "--catalog", "ours.csv", "--workers", "2", "--json")
    facts = json.loads(done.out)
    pair = next(row for row in facts["rows"] if row["configuration"] == "1 x ours:pair")
    low, value, high = pair["seconds"]
    assert 60 < low < value < high
    (prices,) = facts["prices"]
    assert (prices["catalog"], prices["source"], prices["date"]) == ("ours", "our own list", "2026-11-25")
    assert facts["tasks"][0] == {"task": "nap", "left": 8, "cached": 0, "untimed": ""}


@pytest.mark.long
def test_the_command_that_a_refusal_names_mends_it(naps):
    """As a user would: run, ask for more workers than were measured, type what is said, ask again."""
    assert naps.hooke("run", "naps.py", "--workers", "2").code == 0
    typed = ("plan", "naps.py", "--first", "50", "--n", "64", "--workers", "4")
    refused = naps.hooke(*typed)
    assert refused.code == 1
    assert "not enough data: measure nap at N=4" in refused.out
    command = refused.err.rpartition("next: hooke ")[2].split()
    assert command[0] == "measure"
    assert naps.hooke(*command).code == 0
    again = naps.hooke(*typed)
    assert again.code == 0, again.out
    assert "*  this machine, 4 workers" in again.out
    assert "scaling of nap: from measure-naps-" in again.out


def test_options_of_ours_that_are_parameters_too_stand_behind_dashes(naps):
    done = naps.hooke("plan", "naps.py", "--", "--speed", "low")
    assert "plan of naps(speed='low')" in done.out


@pytest.mark.long
@pytest.mark.parametrize(
    ("typed", "what"),
    [
        ((), "missing FILE.py"),
        (("naps.py", "--frist", "1"), "did you mean --first?"),
        (("naps.py", "--deadline", "soon"), "is not a duration"),
        (("naps.py", "--workers", "two"), "--workers 'two' is not a list of whole numbers"),
        (("naps.py", "--speed", "x"), "--speed 'x' is not a pair"),
        (("naps.py", "--times", "nap=many"), "'many' is not a number"),
        (("naps.py", "--times", "nip=2"), "did you mean nap?"),
        (("naps.py", "--scale", "0"), "scale: 0.0 is not a number above 0"),
        (("naps.py", "--scale", "-1"), "scale: -1.0 is not a number above 0"),
        (("naps.py", "--scale", "nan"), "scale: nan is not a number above 0"),
        (("naps.py", "--scale", "x"), "--scale 'x' is not a number"),
        (("naps.py", "--catalog", "ours.csv"), "no price list 'ours.csv'"),
        (("naps.py", "--check", "x"), "naps.py was passed"),
        (("--check", "x"), "there are no runs yet"),
    ],
)
def test_what_is_wrong_is_named(naps, typed, what):
    done = naps.hooke("plan", *typed)
    assert done.code == 2
    assert what in done.err


COUNTED = """
    import time

    from hooke import pipeline, task


    @task
    def count(path: str) -> int:
        with open(path) as file:
            rows = len(file.readlines())
        time.sleep(rows * 1e-5)
        return rows


    @pipeline
    def counted(path: str) -> int:
        return count(path)
"""


@pytest.mark.long
def test_ten_times_the_data(desk):
    """A refusal names the runs to make; after them, four workers or one, there is a time or a reason."""
    desk.write("counted.py", COUNTED)
    for rows in (1000, 2000, 4000):
        (desk.folder / f"{rows}.csv").write_text("1234567\n" * rows)
    typed = ("plan", "counted.py", "--scale", "10", "--workers", "4", "--catalog", "lambda", "--path")
    assert desk.hooke("run", "counted.py", "--workers", "1", "--path", "1000.csv").code == 0
    first = desk.hooke(*typed, "1000.csv")
    assert "plan of counted(path='1000.csv'), 10 times the data" in first.out
    assert "data read: count 7.81 KiB now, 78.1 KiB in this plan" in first.out
    for rows in (2000, 4000):
        assert desk.hooke("run", "counted.py", "--workers", "1", "--path", f"{rows}.csv").code == 0
    facts = json.loads(desk.hooke(*typed, "4000.csv", "--json").out)
    assert facts["plan"] == "plan of counted(path='4000.csv'), 10 times the data"
    local = next(row for row in facts["rows"] if row["configuration"] == "this machine, 4 workers")
    assert (local["seconds"] is None) == bool(local["refused"])


def test_a_wrong_cell_is_named_by_row_and_column(naps):
    (naps.folder / "ours.csv").write_text(OURS.replace("0.10", "cheap"))
    done = naps.hooke("plan", "naps.py", "--catalog", "ours.csv")
    assert done.code == 2
    assert "ours.csv, line 5, column usd_per_hour: 'cheap' is not a price in US dollars above 0" in done.err


@pytest.mark.long
def test_a_service_where_a_pipeline_is_asked_for_is_told_its_own_verb(naps):
    (naps.folder / "answers.py").write_text(
        "from hooke import service\n\n@service\nclass Answers:\n    def predict(self, n: int) -> int:\n        return n\n"
    )
    done = naps.hooke("plan", "answers.py", "--rate", "3")
    assert done.code == 2 and "hooke plan service answers.py --rate" in done.err
    untested = naps.hooke("plan", "service", "answers.py", "--rate", "3", "--slo", "p99 < 1s")
    assert untested.code == 2 and "next: hooke bench answers.py:Answers" in untested.err
    near = naps.hooke("plan", "servce", "answers.py")
    assert near.code == 2 and "did you mean service?" in near.err


def test_a_pipeline_without_data_cannot_be_scaled(naps):
    assert naps.hooke("run", "naps.py", "--workers", "2").code == 0
    done = naps.hooke("plan", "naps.py", "--scale", "10")
    assert done.code == 2
    assert "scale: no call of naps reads data, so nothing can be 10 times as large" in done.err
    assert "--times TASK=N" in done.err
