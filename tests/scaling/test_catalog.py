"""Price lists: what is shipped, and what a wrong line says."""

from importlib.resources import files

import pytest

from hooke.base.errors import UsageError
from hooke.scaling.catalog import COLUMNS, parse_catalog

HEADER = ",".join(COLUMNS)
SHIPPED = sorted(
    each for each in files("hooke.scaling").joinpath("catalogs").iterdir() if each.name.endswith(".csv")
)


def catalog(text: str):
    return parse_catalog(text, name="ours", file="ours.csv")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_lists_say_where_their_prices_are_from(file):
    found = parse_catalog(file.read_text("utf-8"), name=file.name.removesuffix(".csv"), file=file.name)
    assert found.machines
    assert len(found.source) > 10 and found.date
    assert all(machine.speed is None for machine in found.machines), "a speed is measured, never shipped"
    lags = [machine for machine in found.machines if machine.startup_s is not None]
    assert not lags or len(found.startup_source) > 10


def test_shipped_prices_are_a_table():
    (file,) = (each for each in SHIPPED if each.name == "lambda.csv")
    found = {
        each.name: each for each in parse_catalog(file.read_text("utf-8"), name="lambda", file="x").machines
    }
    assert found["gpu_1x_h100_sxm5"].usd_per_hour == 4.29
    assert found["gpu_8x_h100_sxm5"].usd_per_hour == 31.92 != 8 * 4.29
    assert found["gpu_8x_h100_sxm5"].startup_s == (600, 900)


def test_cells_and_facts():
    found = catalog(
        f"# source: a page\n# date: 2026-09-20\n# startup: 2m-3m\n{HEADER},speed\na,,0,4,16,0.20,,1.3-1.5\nb,A10,1,,,,0.5,\n"
    )
    a, b = found.machines
    assert (found.source, found.date) == ("a page", "2026-09-20")
    assert (a.id, a.vcpus, a.memory, a.usd_per_hour, a.speed, a.startup_s) == (
        "ours:a",
        4,
        16 * 2**30,
        0.2,
        (1.3, 1.5),
        (120, 180),
    )
    assert (b.vcpus, b.usd_per_hour, b.spot_usd_per_hour, b.speed) == (None, None, 0.5, None)


def test_a_list_without_facts_is_its_own_source():
    assert catalog(f"{HEADER}\na,,0,4,16,0.20,\n").source == "ours.csv"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no header"),
        (HEADER, "lists no instance type"),
        ("instance_type,gpu\na,b\n", "line 1: the header lacks the column 'gpus'"),
        (f"{HEADER},colour\na,,0,4,16,0.2,,red\n", "unknown column 'colour'"),
        (f"{HEADER}\na,,0,4,16,0.20\n", "line 2 has 6 cells, but the header has 7"),
        (
            f"# date: today\n{HEADER}\na,,0,4,16,0.20,\nb,,0,4,16,cheap,\n",
            "line 4, column usd_per_hour: 'cheap'",
        ),
        (f"{HEADER}\na,,0,4,16,-1,\n", "line 2, column usd_per_hour: '-1'"),
        (f"{HEADER}\na,,0,4,16,nan,\n", "line 2, column usd_per_hour: 'nan'"),
        (f"{HEADER}\na,,0,0,16,1,\n", "line 2, column vcpus: '0'"),
        (f"{HEADER}\na,,x,4,16,1,\n", "line 2, column gpus: 'x'"),
        (f"{HEADER}\na,,0,4,16,,\n", "line 2, column usd_per_hour: 'a' has no price"),
        (f"{HEADER}\n,,0,4,16,1,\n", "line 2, column instance_type: the name is empty"),
        (f"{HEADER}\na,,0,4,16,1,\na,,0,4,16,1,\n", "line 3, column instance_type: 'a' is listed twice"),
        (f"{HEADER},startup\na,,0,4,16,1,,soon\n", "line 2, column startup: 'soon'"),
        (f"{HEADER},speed\na,,0,4,16,1,,2-1\n", "line 2, column speed: '2-1'"),
    ],
)
def test_what_is_wrong_is_named(text, what):
    with pytest.raises(UsageError) as caught:
        catalog(text)
    assert caught.value.what.startswith("ours.csv")
    assert what in caught.value.what
    assert caught.value.fix


class TestGiven:
    LIST = catalog(f"{HEADER}\na,,0,4,16,0.20,\nb,,0,4,16,0.30,\n")

    def test_speeds_and_lags(self):
        found = self.LIST.given(
            speed={"ours:a": (1.3, 1.5), "other:x": 2}, startup={"ours": "3m", "ours:b": ["1m", "2m"]}
        )
        a, b = found.machines
        assert (a.speed, b.speed) == ((1.3, 1.5), None)
        assert (a.startup_s, b.startup_s) == ((180, 180), (60, 120))

    @pytest.mark.parametrize(
        "speed",
        [
            {"ours:c": 1.0},
            {"ours:a": 0},
            {"ours:a": (2, 1)},
            {"ours:a": "fast"},
            {"ours:a": (1, 2, 3)},
            {"ours": 1},
        ],
    )
    def test_refusals(self, speed):
        with pytest.raises(UsageError, match="speed"):
            self.LIST.given(speed=speed)
