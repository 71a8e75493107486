"""Plans of services: from the load tests that a project kept of them, and of nothing that they do not tell."""

import json
import socket
from datetime import UTC, datetime

import pytest

from hooke import UsageError
from hooke.base.clock import SystemClock
from hooke.journal.events import Measured, RunFinished, StudyStarted
from hooke.journal.run_folders import DRIVER
from hooke.journal.service_events import LoadMeasured
from hooke.journal.writer import Journal
from hooke.planning.service_plan import ServiceQuestion, plan_service, service_plan_facts, service_plan_text
from hooke.processes.devices import cpus_here
from hooke.project.folder import Project
from hooke.project.pipeline_file import code_of
from hooke.scaling.provision import LatencyGoal
from hooke.services.serve_file import load_service
from hooke.testing.virtual_world import VirtualClock

SERVICE = """
from hooke import service

@service(slo="p99 < 50ms")
class Delay:
    def predict(self, rows: list[float]) -> float:
        return sum(rows)

@service
class Promiseless:
    def predict(self, rows: list[float]) -> float:
        return sum(rows)
"""
PRICES = """# source: our own
# date: 2026-11-25
instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour,reserved_usd_per_hour,speed
small,,0,2,1,0.10,0.04,,1
large,,0,8,64,0.30,,0.21,1-1.2
slow,,0,8,64,0.01,,,0.5
"""


class Kept:
    """A project with a service, and load tests of it that were kept."""

    def __init__(self, folder):
        folder.mkdir()
        name = f"delay_{folder.parent.name}"
        (folder / f"{name}.py").write_text(SERVICE)
        (folder / "ours.csv").write_text(PRICES)
        (folder / "slow.csv").write_text(
            "".join(PRICES.splitlines(keepends=True)[:3]) + "slow,,0,8,64,0.01,,,\n"
        )
        self.folder = folder
        self.project = Project.find(folder)
        self.project.create()
        self.declared, self.file = load_service(f"{folder}/{name}.py:Delay")
        self.key = code_of(self.declared.made_by)

    def study(self, name, *rates, host="", key=None, **load):
        """Rates by (replicas, threads)."""
        study = f"measure-Delay-{name}"
        self.project.runs.create(study)
        with Journal.create(
            self.project.runs.folder(study), DRIVER, durable="group", clock=SystemClock()
        ) as kept:
            kept.append(
                StudyStarted(
                    study=study, pipeline="Delay", entry=f"{self.file}:Delay", task="predict", unit="requests",
                    key=self.key if key is None else key, levels=tuple(n for (n, _), _ in rates), cpus=8, host=host or socket.gethostname(),
                )
            )  # fmt: skip
            for (replicas, threads), rate in rates:
                kept.append(Measured(task="predict", n=replicas, work=rate, seconds=1.0))
                kept.append(
                    LoadMeasured(
                        **{"slo_percent": 99, "slo_limit_s": 0.05, "arrivals": "poisson", "rss": replicas * 2**29} | load,
                        replicas=replicas, threads=threads, rate=rate,
                    )
                )  # fmt: skip
            kept.append(RunFinished(status="finished"))

    def plan(self, rate, **asked):
        question = {
            "declared": self.declared,
            "catalog": f"{self.folder}/ours.csv",
            "replicas": (1, 2, 4),
        } | asked
        return plan_service(ServiceQuestion(file=self.file, rate=rate, **question), self.project)


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path / "folder")


LINE = (((1, 1), 100.0), ((2, 1), 198.0), ((3, 1), 301.0), ((4, 1), 404.0), ((6, 1), 597.0))


@pytest.mark.needs("cpu")
def test_this_machine_where_it_bears_the_rate_else_the_cheapest_that_does(kept):
    kept.study("20261125-1", *LINE)
    here = kept.plan(150)
    assert str(here.choice.offer.setup) == "this machine, 2 replicas of 1 thread"
    assert here.next.endswith(".py:Delay --replicas 2 --threads 1")

    rented = kept.plan(500)
    assert str(rented.choice.offer.setup) == "1 x ours:large, 8 replicas of 1 thread"
    low, high = rented.choice.offer.bears.interval
    assert 500 < low < 8 * 101 and high == float("inf"), "faster by 1 to 1.2: nothing is known to break it"
    assert not [offer for offer in rented.offers if offer.setup.machine.name == "slow" and offer.bears]
    text = service_plan_text(rented)
    assert (
        "recommended: the cheapest that reliably sustains 500/s: 1 x ours:large" in text and "$0.30" in text
    )
    assert "prices of ours: our own (date: 2026-11-25)" in text
    (chosen,) = [line for line in text.splitlines() if line.startswith("*")]
    assert [each for each in chosen.split() if each.startswith("$")][:2] == ["$0.30", "$0.21"]
    assert "per hour" in text and "reserved" in text
    assert "not predicted: ours:slow: p99 < 25.0 ms was not measured; measured: p99 < 50.0 ms" in text
    clock = VirtualClock()
    clock.time = datetime(2027, 2, 24, tzinfo=UTC).timestamp()
    question = ServiceQuestion(
        file=kept.file,
        rate=500,
        declared=kept.declared,
        catalog=f"{kept.folder}/ours.csv",
        replicas=(1, 2, 4),
    )
    old = plan_service(question, kept.project, clock=clock)
    assert "the prices of ours are 91 days old: hooke prices update FILE" in service_plan_text(old)
    facts = service_plan_facts(rented)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert sum(offer["configuration"] == facts["recommended"] for offer in facts["offers"]) == 1


@pytest.mark.parametrize("host", ["", "elsewhere"])
def test_what_was_measured_on_this_machine_can_be_chosen_although_it_has_fewer_cores(kept, host):
    """A load test held 603/s with three replicas on two cores, and the plan said that none would bear 500/s here."""
    cores = cpus_here()
    kept.study("20261128-1", ((1, cores), 200.0), ((3, cores), 603.0), host=host)
    plan = kept.plan(500, replicas=())
    threads = f"{cores} thread{'s' * (cores != 1)}"
    if host:
        assert not [offer for offer in plan.offers if offer.setup.is_local and offer.setup.replicas == 3]
        return
    assert str(plan.choice.offer.setup) == f"this machine, 3 replicas of {threads}"
    assert plan.next.endswith(f"--replicas 3 --threads {cores}")


@pytest.mark.needs("cpu")
def test_only_so_many_replicas_as_an_instance_has_memory_for(kept):
    kept.study("20261125-1", *LINE, rss=0)
    kept.study("20261125-2", ((1, 1), 90.0), rss=700 * 2**20)
    small = next(offer for offer in kept.plan(1).offers if offer.setup.machine.name == "small")
    assert small.setup.replicas == 1, "two cores, and memory for one"


@pytest.mark.needs("cpu")
def test_what_lies_far_beyond_has_no_figure_and_the_next_measurement_is_named(kept):
    kept.study("20261125-1", *LINE)
    beyond = kept.plan(5000, catalog=f"{kept.folder}/ours.csv", replicas=(1, 64))
    assert beyond.choice.offer is None
    assert "no configuration reliably sustains 5,000/s" in beyond.choice.reason
    assert beyond.next.startswith("hooke bench ") and "--threads 1 --slo 'p99 < 50ms'" in beyond.next
    assert any("too far from the measured range" in offer.refused for offer in beyond.offers)


def test_where_all_that_is_known_is_too_little_more_replicas_are_to_be_measured(kept):
    kept.study("20261125-1", *LINE)
    little = kept.plan(5000, replicas=(1, 2), catalog=f"{kept.folder}/slow.csv")
    assert little.choice.offer is None and little.choice.missing is None
    assert "--replicas 12 --threads 1" in little.next


def test_the_newest_counts_and_what_is_unlike_it_is_left_out_and_said(kept):
    kept.study("20261125-1", *LINE, sent="other bodies")
    kept.study("20261125-2", ((1, 1), 50.0))
    kept.study("20261125-3", ((1, 1), 60.0), ((1, 2), 80.0))
    made = kept.plan(10)
    assert [offer.bears.interval[0] for offer in made.offers if offer.setup.is_local and offer.setup.replicas == 1] == [60, 80]  # fmt: skip
    assert any(note.startswith("left out: 5 with other code, bodies") for note in made.notes)
    assert not any("edited" in note for note in made.notes)


@pytest.mark.needs("cpu")
def test_code_that_was_edited_and_another_host_are_said(kept):
    kept.study("20261125-1", *LINE, key="before", host="elsewhere")
    made = kept.plan(150)
    assert "Delay, or code that it reaches, was edited after it was measured" in made.notes
    assert "measured on elsewhere, not on this machine" in made.notes
    assert all(offer.bears is None for offer in made.offers if offer.setup.is_local), "its speed is not known"
    given = kept.plan(150, speed={"local": "0.9"}, promise=LatencyGoal(99, 0.1))
    assert given.choice.offer.setup.is_local and given.choice.offer.bears.interval[0] == pytest.approx(178.2)


@pytest.mark.needs("cpu")
def test_another_promise_is_not_taken_for_the_one_that_was_measured(kept):
    kept.study("20261125-1", *LINE)
    assert kept.plan(150, promise=LatencyGoal(90, 0.1)).choice.offer is not None, "a laxer one is kept, too"
    strict = kept.plan(150, promise=LatencyGoal(99, 0.01))
    assert strict.choice.offer is None and "--slo 'p99 < 10ms'" in strict.next


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "other"}, "no load test of Delay/other is kept in this project"),
        ({"speed": {"ours:large": "@host"}}, "load tests of two machines cannot be compared yet"),
        ({"speed": {"ours:larg": "2"}}, "did you mean ours:large?"),
    ],
)
def test_what_cannot_be_answered_says_why(kept, asked, said):
    kept.study("20261125-1", *LINE)
    with pytest.raises(UsageError) as caught:
        kept.plan(1, **asked)
    assert said in str(caught.value)


def test_a_load_test_that_cannot_be_read_is_named(kept):
    kept.study("20261125-1", *LINE)
    file = kept.project.runs.folder("measure-Delay-20261125-1") / f"{DRIVER}.journal"
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(UsageError, match="no load test of Delay is kept") as caught:
        kept.plan(1)
    assert "cannot be read (hooke runs): measure-Delay-20261125-1" in caught.value.why


def test_without_a_promise_or_a_load_test(kept):
    with pytest.raises(UsageError, match="no load test of Delay is kept") as caught:
        kept.plan(1)
    assert caught.value.next.startswith("hooke bench ")
    promiseless, _ = load_service(f"{kept.file}:Promiseless")
    with pytest.raises(UsageError, match="Promiseless declares no SLO"):
        kept.plan(1, declared=promiseless)
