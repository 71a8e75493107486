"""Ten times the load for some seconds, on real processes: replicas come and go, and the journal says what the client saw."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from benchmarks.serving.spike import spiked
from benchmarks.serving.spike_page import Phase

from hooke.journal.service_events import ReplicaEnded
from hooke.loadtest.generator_protocol import Fate
from hooke.services.service_report import picture_of, save_service, service_text
from hooke.services.service_runs import scalings
from hooke.serving.stats_windows import merge_windows

pytestmark = pytest.mark.needs("processes")

PHASES = [Phase("before", 10.0, 5.0), Phase("spike", 100.0, 10.0), Phase("after", 10.0, 5.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spike")


@pytest.fixture(scope="module")
def spike(folder):
    return spiked(folder, PHASES, replicas="1:4")


@pytest.mark.long
def test_it_is_answered_with_more_replicas_which_are_given_up_after_it(spike):
    scaled = scalings(spike.record.replicas)
    before, during, _ = (each.journal for each in spike.seen)
    rises = [each for each in scaled if each.after > each.before]
    assert any(during.began <= each.at < during.began + during.seconds for each in rises), scaled
    assert max(each.after for each in scaled) >= 3
    assert all("requests wait or run" in each.reason or "requests/s" in each.reason for each in rises)
    falls = [each for each in scaled if each.after < each.before]
    assert scaled[-1].after == 1, "it came back"
    assert all("times the time of a start" in each.reason for each in falls)
    assert max(each.ready for each in spike.record.staff) == max(each.after for each in scaled)
    assert spike.record.staff[0].ready == 0
    assert before.ready > 0


def test_nothing_failed_but_what_was_refused_while_there_were_too_few(spike):
    assert spike.failed == 0, spike.said
    asked = sum(phase.rate * phase.seconds for phase in PHASES)
    assert spike.late <= 0.05 * asked, "what cannot be answered in time is refused at once"
    assert spike.exit_code == 0
    assert spike.answered > 0.3 * asked
    ended = [each for each in spike.record.replicas if isinstance(each, ReplicaEnded)]
    assert ended
    assert all(each.expected for each in ended), ended


def test_the_journal_says_what_the_client_saw(spike):
    whole = merge_windows(spike.record.windows)
    assert (whole.requests, whole.refused, whole.late) == (spike.answered, spike.refused, spike.late)
    assert (whole.failed, whole.gone) == (0, 0)
    assert whole.arrived == whole.requests + whole.refused + whole.late
    assert sum(count for _, count in whole.latencies) == whole.requests
    outcomes = [spike.outcomes, *spike.others]
    limit_s = spike.record.declared.slo_limit_s
    kept = sum(int((each.answered & (each.latency <= limit_s)).sum()) for each in outcomes)
    # The client counts from when a request was due, on a machine that others use: it is the later one.
    assert kept / sum(map(len, outcomes)) == pytest.approx(
        (whole.requests - whole.over_slo) / whole.ended, abs=0.1
    )
    for each in spike.seen:  # of a busy machine windows end late, and their borders move by that
        assert each.journal.asked == pytest.approx(len(each.client), abs=100)
    assert not any((each.status == Fate.LOST).any() for each in outcomes)


def test_it_is_shown(spike, tmp_path):
    text = service_text(spike.record, alive=False)
    assert "how many replicas were wanted, and why" in text
    assert "replicas answered on average" in text
    assert "within SLO" in text
    picture = picture_of(spike.record)
    assert all(later > one for one, later in pairwise(picture.edges))
    page = save_service(spike.record, tmp_path / "spike.html", alive=False).read_text()
    assert picture.changes[0].text.partition(":")[0].replace(">", "&gt;") in page
    assert "<script" not in page


@pytest.mark.long
def test_anybody_sees_it_by_hooke_show(spike, folder):
    def show(*words):
        command = [sys.executable, "-m", "hooke", "show", *words]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=180, check=False,
            env=os.environ | {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip

    done = show("--save", "spike.svg")
    assert done.returncode == 0, done.stderr
    assert {"requests per second", "replicas", "latency (ms)"} <= {
        line.split("   ")[0] for line in done.stdout.splitlines()
    }
    assert (folder / "spike.svg").read_text().startswith("<?xml")
    facts = json.loads(show("--json").stdout)
    assert facts["declared"]["replicas"] == [1, 4], "what was asked for, and not what the class says"
    assert max(each["wanted"] for each in facts["staff"]) == max(
        each.after for each in scalings(spike.record.replicas)
    )
    wrong = show("--save", "spike.pdf")
    assert wrong.returncode != 0
    assert "end the name with .svg" in wrong.stderr
