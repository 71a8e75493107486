"""What Hooke asks of an API server does not grow faster than its pods: 100 of them here, 10,000 in the committed record."""

import json
import re
from pathlib import Path

import pytest
from tests.kubernetes.scale import HEADING, RECORD, WHATS, growth_table, measure, table

from hooke.engines.dask.pod_jobs import CHECK_S
from hooke.kubernetes.rights import RUN_RIGHTS

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(600)]

NODES, PODS, STEADY_S = 10, 100, 3.0
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "fleets.md"


@pytest.fixture(scope="module")
def made():
    return json.loads(RECORD.read_text())


def looks(phase, every_s):
    """How often at most something is asked that is asked every so many seconds."""
    return phase["seconds"] / every_s + 3


@pytest.mark.usefixtures("cluster")  # skipped where there can be none
def test_a_fleet_asks_once_for_each_pod_and_watches_with_one_request_a_second():
    done = measure("fleet", nodes=NODES, pods=PODS, steady_s=STEADY_S)
    up, steady, down = (done["phases"][name] for name in ("up", "steady", "down"))
    assert up["requests_by_verb"]["create pods"] == PODS
    assert up["requests"] <= PODS + 10 + looks(up, 1.0)
    assert steady["requests"] <= looks(steady, 1.0)
    # A deletion that the watch has not told yet is asked for again: never more than once a look.
    assert set(down["requests_by_verb"]) <= {"delete pods", "get pods/log", "list pods", "watch pods"}
    assert PODS <= down["requests_by_verb"]["delete pods"] <= 2 * PODS
    assert done["left"] == 0


@pytest.mark.usefixtures("cluster")
def test_a_run_asks_twice_for_each_pod_and_then_once_in_five_seconds():
    done = measure("run", nodes=NODES, pods=PODS, steady_s=8.0)
    up, steady, down = (done["phases"][name] for name in ("up", "steady", "down"))
    asked = up["requests_by_verb"]
    assert asked["create jobs"] == asked["create secrets"] == PODS
    often = [asked.get(each, 0) for each in ("list events", "list jobs")]
    assert max(often) <= looks(up, 1.0)
    # Beside these: its rights one by one, its watch, and its lease.
    assert up["requests"] - sum(often) <= 2 * PODS + len(RUN_RIGHTS) + 10 + looks(up, 10.0)
    assert steady["requests"] <= steady["seconds"] / CHECK_S + steady["seconds"] / 10.0 + 3
    assert down["requests_by_verb"]["delete jobs"] == down["requests_by_verb"]["delete pods"] == PODS
    assert done["left"] == 0


def test_nothing_was_left_or_refused_in_the_record(made):
    sizes = {(each["what"], each["nodes"], each["pods"]) for each in made["rounds"]}
    assert sizes >= {(what, *size) for what in WHATS for size in ((10, 100), (100, 1000))}
    assert ("fleet", 1000, 10_000) in sizes
    for each in made["rounds"]:
        assert each["left"] == 0
        assert all(phase["of_all_refused_with_429"] == 0 for phase in each["phases"].values())
    assert made["machine"].keys() == {"cores", "memory_gib"}


def test_no_phase_grows_faster_than_its_pods(made):
    for phases in made["growth_with_pods"].values():
        for phase in phases.values():
            assert phase["requests"]["exponent"] < 1.1
            assert phase["most_memory_mb"]["exponent"] < 0.6


def test_the_page_has_the_figures_of_the_record_and_no_others(made):
    section = PAGE.read_text().split(HEADING)[1].split("\n## ")[0]
    rows = [*table(made), *growth_table(made)]
    for line in rows:
        assert line in section, line
    known = set(re.findall(r"\d[\d,.]*\d|\d", json.dumps(made) + "\n".join(rows)))
    written = set(re.findall(r"\d[\d,.]*\d|\d", section))
    assert written <= known, written - known
