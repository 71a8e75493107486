"""Price lists: those of the user before the shipped ones, updates, and what of them is old."""

import json

import pytest
from click.testing import CliRunner

from hooke.base.errors import ConfigError, UsageError
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.project.price_lists import changed_prices, machine_price, own_prices, read_catalogs, update_prices
from hooke.project.settings import FleetSettings
from hooke.scaling.catalog import COLUMNS, STALE_DAYS, parse_catalog

HEADER = ",".join(COLUMNS)
DAY = 86400.0
NOW = 1_796_000_000.0  # 2026-11-30
FACTS = "# source: our contract\n# date: 2026-11-29\n"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOKE_PRICES", str(tmp_path / "prices"))
    return tmp_path / "prices"


def written(folder, text, name="lambda"):
    file = folder / f"{name}.csv"
    file.write_text(text)
    return file


def call(*words):
    return CliRunner().invoke(
        hooke, ["prices", *words], obj=CommandSession(), catch_exceptions=False, standalone_mode=False
    )


def test_an_update_replaces_the_shipped_list_and_says_what_changed(tmp_path, own):
    file = written(tmp_path, f"{FACTS}{HEADER}\ncpu_4x_general,,0,4,16,0.25,\nnew_type,X,1,8,32,1.5,0.5\n")
    made, changes = update_prices(file, NOW)
    assert "cpu_4x_general: $0.2/h -> $0.25/h" in changes
    assert "new_type: new, $1.5/h, $0.5/h spot" in changes
    assert "gpu_1x_a10: is gone" in changes
    assert [each.name for each in read_catalogs("lambda")[0].machines] == ["cpu_4x_general", "new_type"]
    assert {each.name for each in read_catalogs(None)} == {"coreweave", "digitalocean", "lambda"}
    assert made.source == "our contract"
    assert update_prices(file, NOW)[1] == []
    assert list(own.iterdir()) == [own / "lambda.csv"], "nothing half-written stays"


def test_a_list_of_ones_own_joins_the_known_ones(tmp_path):
    update_prices(written(tmp_path, f"{FACTS}{HEADER}\na,,0,4,16,0.25,\n", "ours"), NOW)
    assert {each.name for each in read_catalogs(None)} == {"coreweave", "digitalocean", "lambda", "ours"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{HEADER}\na,,0,4,16,0.25,\n", "does not say where its prices are from"),
        (f"# source: x\n{HEADER}\na,,0,4,16,0.25,\n", "does not say where"),
        (f"# source: x\n# date: 2026-13-40\n{HEADER}\na,,0,4,16,0.25,\n", "does not say where"),
        (f"# source: x\n# date: 2027-11-29\n{HEADER}\na,,0,4,16,0.25,\n", "does not say where"),
        (f"# source: x\n# date: 2025-11-29\n{HEADER}\na,,0,4,16,0.25,\n", "older than the known list"),
        (f"{FACTS}{HEADER}\na,,0,4,16,cheap,\n", "'cheap' is not a price"),
        (f"{FACTS}{HEADER}\na,,0,4,16,,\n", "has no price"),
    ],
)
def test_what_is_not_valid_changes_nothing(tmp_path, own, text, says):
    with pytest.raises(UsageError, match=says):
        update_prices(written(tmp_path, text), NOW)
    assert not own.exists()


def test_prices_are_old_after_ninety_days():
    made = parse_catalog(f"{FACTS}{HEADER}\na,,0,4,16,0.25,\n", name="ours", file="ours.csv")
    day = NOW - made.age_days(NOW) * DAY
    assert made.stale_text(day + STALE_DAYS * DAY) == ""
    assert made.stale_text(day + 91 * DAY) == "the prices of ours are 91 days old: hooke prices update FILE"
    undated = parse_catalog(f"{HEADER}\na,,0,4,16,0.25,\n", name="ours", file="ours.csv")
    assert undated.stale_text(1e12) == ""


def test_a_list_may_have_reserved_prices(tmp_path):
    text = f"{FACTS}{HEADER},reserved_usd_per_hour\na,,0,4,16,0.25,,0.15\nb,,0,4,16,,,0.1\n"
    update_prices(written(tmp_path, text, "ours"), NOW)
    price = machine_price(FleetSettings(price="ours:a", reserved=True), where="[fleets.f]")
    assert price.usd_per_hour == 0.15
    for settings, says in (
        (FleetSettings(price="ours:b"), "no on-demand price of it"),
        (FleetSettings(price="ours:a", spot=True), "no spot price of it"),
        (FleetSettings(price="ours:a", spot=True, reserved=True), "has spot and reserved"),
        (FleetSettings(reserved=True), "reserved = true is about a price list"),
    ):
        with pytest.raises(ConfigError, match=says):
            machine_price(settings, where="[fleets.f]")


def test_what_differs_between_two_lists():
    old, new = (
        parse_catalog(f"{HEADER}\n{row}\n", name="o", file="o")
        for row in ("a,,0,4,16,1,0.5", "a,,0,8,16,1,0.5")
    )
    assert changed_prices(old, new) == ["a: the same price, other facts"]
    assert changed_prices(old, old) == []


def test_the_commands_list_and_update(tmp_path):
    file = written(tmp_path, f"{FACTS}{HEADER}\ncpu_4x_general,,0,4,16,0.25,\n")
    done = call("update", str(file))
    assert "cpu_4x_general: $0.2/h -> $0.25/h\n" in done.stdout
    assert done.stdout.endswith("lambda: our contract (date: 2026-11-29)\n")
    assert "lambda" in call("ls").stdout
    shown = call("ls", "lambda").stdout
    assert "cpu_4x_general" in shown and "0.25" in shown and "our contract" in shown
    facts = {each["catalog"]: each for each in json.loads(call("ls", "--json").stdout)}
    assert facts["lambda"]["machines"] == {"cpu_4x_general": {"on-demand": 0.25}}
    assert facts["coreweave"]["machines"]["hgx_h100_8x"] == {"on-demand": 49.24, "spot": 19.71}


def test_the_folder_of_lists_follows_the_environment(tmp_path):
    assert own_prices({"XDG_CONFIG_HOME": "/c"}).as_posix() == "/c/hooke/prices"
    assert own_prices({"HOOKE_PRICES": "/p", "XDG_CONFIG_HOME": "/c"}).as_posix() == "/p"
    assert own_prices({}).as_posix().endswith("/.config/hooke/prices")
