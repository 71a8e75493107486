"""The pure planner: schedules, predictions, the front and what is recommended."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.scaling import Measurements, fit
from hooke.scaling.call_times import (
    PredictedRun,
    TimeSpread,
    Timing,
    borrowed_spread,
    calibrated,
    mean_seconds,
    run_spread,
    seconds_factor,
    sized,
)
from hooke.scaling.catalog import InstanceType
from hooke.scaling.pareto import PlanLimits, front, recommend
from hooke.scaling.time_and_price import Configuration, Planner
from hooke.scaling.workload import (
    CallNeed,
    MachineRoom,
    NodeCalls,
    NodeWork,
    TaskFacts,
    Workload,
    makespan,
    slices_of,
)

HERE = InstanceType(
    catalog="local", name="this machine", vcpus=4, usd_per_hour=0.0, startup_s=(0, 0), speed=(1, 1)
)


def machine(vcpus: int = 4, usd: float = 0.4, **more) -> InstanceType:
    return InstanceType(
        catalog="x",
        name=f"m{vcpus}",
        **{"vcpus": vcpus, "usd_per_hour": usd, "startup_s": (30, 60), "speed": (1.0, 1.2)} | more,
    )


def here(workers: int) -> Configuration:
    return Configuration(machine=HERE, workers=workers)


def rented(instances: int = 1, of: InstanceType | None = None) -> Configuration:
    of = of or machine()
    return Configuration(machine=of, instances=instances, workers=instances * (of.vcpus or 1))


@cache
def amdahl(serial: float, n=(1, 2, 4, 8, 16), seed: int = 0):
    n = np.repeat(np.asarray(n, float), 3)
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, n.size))
    return fit(Measurements(n, throughput=n / (1 + serial * (n - 1)) * noise))


class TestSchedule:
    def test_two_chains_side_by_side(self):
        one = [
            NodeCalls(slices=slices_of(1, 2.0, at_once=1), items=1, needs=needs)
            for needs in ((), (CallNeed(0),), (), (CallNeed(2),))
        ]
        assert makespan(one, MachineRoom(slots=1, cpus=1)) == 8
        assert makespan(one, MachineRoom(slots=2, cpus=2)) == 4
        assert makespan(one, MachineRoom(slots=9, cpus=9)) == 4

    def test_in_step_maps_overlap(self):
        maps = [
            NodeCalls(slices=slices_of(4, 1.0, at_once=2), items=4),
            NodeCalls(slices=slices_of(4, 1.0, at_once=2), items=4, needs=(CallNeed(0, in_step=True),)),
        ]
        assert makespan(maps, MachineRoom(slots=8, cpus=8)) == 2
        assert makespan(maps, MachineRoom(slots=2, cpus=2)) == 4

    def test_cpus_and_memory_limit(self):
        wide = [NodeCalls(slices=slices_of(4, 1.0, at_once=4), items=4, cpus=2)]
        assert makespan(wide, MachineRoom(slots=4, cpus=4)) == 2
        large = [NodeCalls(slices=slices_of(4, 1.0, at_once=4), items=4, memory=3.0)]
        assert makespan(large, MachineRoom(slots=4, cpus=4, memory=5.0)) == 4
        assert makespan(large, MachineRoom(slots=4, cpus=4, memory=1.0)) == 4, (
            "what asks for more than there is runs alone"
        )

    @pytest.mark.long
    @given(
        items=st.lists(st.integers(0, 400), min_size=1, max_size=5),
        seconds=st.floats(0.01, 10),
        slots=st.integers(1, 300),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_between_graham_and_the_bounds(self, items, seconds, slots, data):
        nodes = []
        for at, count in enumerate(items):
            parents = data.draw(st.sets(st.integers(0, at - 1), max_size=2)) if at else set()
            nodes.append(
                NodeCalls(
                    slices=slices_of(count, seconds, at_once=slots),
                    items=count,
                    needs=tuple(map(CallNeed, sorted(parents))),
                )
            )
        chain: list[float] = []
        for node in nodes:
            own = max((piece.seconds for piece in node.slices), default=0.0)
            chain.append(own + max((chain[need.calls] for need in node.needs), default=0.0))
        work = sum(piece.width * piece.seconds for node in nodes for piece in node.slices)
        took = makespan(nodes, MachineRoom(slots=slots, cpus=slots))
        assert took >= max(work / slots, *chain) * (1 - 1e-9)
        wide = max((piece.width for node in nodes for piece in node.slices), default=1)
        assert took <= (work / max(slots - wide + 1, 1) + max(chain)) * (1 + 1e-9)

    @given(items=st.integers(1, 10**6), at_once=st.integers(1, 2000), mean=st.floats(1e-4, 100))
    @settings(max_examples=100, deadline=None)
    def test_slices_are_few_and_take_whole_rounds(self, items, at_once, mean):
        pieces = slices_of(items, mean, at_once=at_once)
        assert len(pieces) <= 128
        assert pieces[-1].end == items
        assert [piece.end for piece in pieces] == sorted(piece.end for piece in pieces)
        took = makespan([NodeCalls(slices=pieces, items=items)], MachineRoom(slots=at_once, cpus=at_once))
        rounds = math.ceil(items / at_once)
        assert rounds * mean * (1 - 1e-9) <= took <= (rounds * 1.1 + 1) * mean

    def test_shapes_keep_the_mean(self):
        pieces = slices_of(50, 2.0, at_once=4, shape=[0.1, 0.2, 5.0])
        assert sum(piece.seconds for piece in pieces) == pytest.approx(100)
        assert len({round(piece.seconds, 6) for piece in pieces}) == 3


class TestTimings:
    def test_runs_that_differ_widen(self):
        same = [Timing(items=10, seconds=1.0)] * 5
        apart = [Timing(items=10, seconds=s) for s in (0.5, 1.0, 2.0, 1.5, 0.7)]
        assert run_spread(apart).value > run_spread(same).value
        few, many = (seconds_factor(same[:n], run_spread(same[:n]), items=10) for n in (1, 5))
        assert 1 < many < few

    def test_coverage_of_a_run_that_comes(self):
        """Of 400 sets of three runs and a fourth one, at a spread that is not the prior's, 93 of 100 are inside."""
        inside = 0
        for seed in range(400):
            runs = np.exp(np.random.default_rng(seed).normal(0, 0.1, 4))
            timings = [Timing(items=1, seconds=float(s)) for s in runs[:3]]
            factor = seconds_factor(timings, run_spread(timings), items=1)
            mean = mean_seconds(timings, run_spread(timings))
            inside += mean / factor <= runs[3] <= mean * factor
        assert inside >= 372

    @pytest.mark.parametrize(("noise", "runs"), [(0.03, 2), (0.1, 2), (0.2, 2), (0.2, 3), (0.2, 5)])
    def test_coverage_of_a_whole_run_from_the_few_before_it(self, noise, runs):
        """On quiet machines and on noisy ones: each run is predicted by the mean of those before it."""
        inside = 0
        for seed in range(400):
            logs = np.random.default_rng(seed).normal(0, noise, runs + 1)
            ratios = [float(logs[k] - logs[:k].mean()) for k in range(1, runs + 1)]
            known = calibrated([PredictedRun(ratio, k, 0.0) for k, ratio in enumerate(ratios[:-1], 1)])
            inside += abs(ratios[-1]) <= known.half_width(runs, 0.0)
        assert inside >= 0.92 * 400


class TestSizes:
    """Calls that read another number of items than those that were timed."""

    SIZES = (3, 6, 12, 24)

    @staticmethod
    def timed(sizes, seconds, seed=0):
        noise = np.exp(np.random.default_rng(seed).normal(0, 0.03, 4 * len(sizes)))
        return [
            Timing(items=1, seconds=seconds(size) * float(each), reads=size)
            for size, each in zip(sizes * 4, noise, strict=True)
        ]

    def test_the_same_size_is_as_it_was_and_one_size_leaves_the_exponent_open(self):
        timings = self.timed((10, 40), lambda n: n)
        assert sized(timings, 40).ends == (1, 1, 1)
        one = self.timed((40,), lambda n: 1.0)
        near, far = sized(one, 50), sized(one, 400)
        assert near.ends[2] < 1.5
        assert far.ends[2] > 3
        assert {each.reads for each in near.timings} == {50}
        low, high = (far.timings[0].seconds * far.ends[at] for at in (0, 2))
        assert low < 1 and high > 10, "neither a constant nor proportional seconds are ruled out"

    def test_nothing_leads_from_no_items_to_some(self):
        assert sized([Timing(items=1, seconds=1, reads=0)], 1) is None
        assert sized([Timing(items=1, seconds=1, reads=5)], 0) is None
        assert sized([Timing(items=0, seconds=0, reads=5)], 5) is None

    @pytest.mark.parametrize(
        "seconds",
        [
            lambda n: 1 + 0.5 * n,
            lambda n: 0.1 * n**1.5,
            lambda n: 2.0 + 0 * n,
            lambda n: 0.01 * n * math.log(50 * n),
        ],
        ids=["linear", "power", "constant", "n log n"],
    )
    @pytest.mark.parametrize(("size", "widest"), [(16, 1.3), (48, 1.6), (240, 5.0)])
    def test_three_sizes_and_more_have_a_law(self, seconds, size, widest):
        inside = 0
        for seed in range(20):
            found = sized(self.timed(self.SIZES, seconds, seed), size, TimeSpread(0.03, 4.0))
            expected = math.exp(np.mean([math.log(each.seconds) for each in found.timings]))
            inside += found.ends[0] * 0.98 <= seconds(size) / expected <= found.ends[2] * 1.02
            assert found.ends[2] / found.ends[0] < widest
        assert inside >= 18


class TestCalibration:
    def test_what_earlier_predictions_missed_by_is_the_spread(self):
        sure, unsure = (
            calibrated([PredictedRun(miss * (-1) ** at, runs=at + 1) for at in range(6)])
            for miss in (0.02, 0.3)
        )
        assert sure.half_width(6, 0.0) < 0.08
        assert unsure.half_width(6, 0.0) > 0.5
        assert calibrated([]).half_width(1, 0.0) > 8 * sure.half_width(6, 0.0)

    def test_of_many_histories_nineteen_of_twenty_are_inside(self):
        """Runs that differ by 3 to 40 %, each predicted from all before it."""
        rng, inside = np.random.default_rng(0), 0
        for _ in range(1000):
            logs = rng.normal(0, np.exp(rng.uniform(np.log(0.03), np.log(0.4))), 7)
            past = [PredictedRun(float(logs[k] - logs[:k].mean()), k) for k in range(1, 6)]
            inside += abs(logs[6] - logs[:6].mean()) <= calibrated(past).half_width(6, 0.0)
        assert 930 <= inside <= 970

    def test_chance_that_the_replays_include_is_not_counted_twice(self):
        past = [PredictedRun(0.1 * (-1) ** at, runs=at + 1, chance=0.01) for at in range(6)]
        known = calibrated(past)
        assert known.half_width(6, 0.008) == known.half_width(6, 0.0) < known.half_width(6, 0.04)

    def test_a_task_with_one_run_borrows_the_spread_of_the_others(self):
        rng = np.random.default_rng(1)
        others = [
            [Timing(items=1, seconds=float(np.exp(rng.normal(0, 0.02)))) for _ in range(6)] for _ in range(4)
        ]
        one = [Timing(items=1, seconds=1.0)]
        alone, borrowed = run_spread(one), run_spread(one, borrowed_spread([*others, one]))
        assert seconds_factor(one, borrowed, items=1) < 1.2 < seconds_factor(one, alone, items=1)


def workload(items: int = 40, *, law=None, at_once: int = 4, seconds: float = 10.0) -> Workload:
    works = [
        NodeWork(task="read"),
        NodeWork(task="features", items=items, needs=(CallNeed(0),)),
        NodeWork(task="train", needs=(CallNeed(1),), reads=items),
    ]
    facts = {
        "read": TaskFacts(timings=[Timing(items=1, seconds=2.0)]),
        "features": TaskFacts(timings=[Timing(items=items, seconds=seconds, at_once=at_once)], law=law),
        "train": TaskFacts(timings=[Timing(items=1, seconds=20.0, reads=items)]),
    }
    return Workload(works, facts)


class TestRows:
    def test_the_machine_that_was_measured(self):
        row = Planner(workload()).row(here(4))
        assert row.seconds.value == pytest.approx(2 + 100 + 20)
        assert row.usd.value == 0
        assert row.work_s["features"].value == pytest.approx(400)
        assert row.efficiency is None, "what one worker takes was not measured"

    @pytest.mark.needs("cpu")
    @given(
        serial=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
        instances=st.integers(1, 4),
        low=st.floats(0.5, 2),
        width=st.floats(1, 2),
        lag=st.floats(0, 100),
    )
    @settings(max_examples=25, deadline=None)
    def test_intervals_hold_their_values(self, serial, instances, low, width, lag):
        of = machine(speed=(low, low * width), startup_s=(lag, 2 * lag), spot_usd_per_hour=0.1)
        row = Planner(workload(law=amdahl(serial)), overhead_s=(0.1, 0.2, 0.5)).row(rented(instances, of))
        for estimate in (row.seconds, row.usd, row.spot_usd, row.efficiency, *row.work_s.values()):
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
            assert estimate.interval[0] >= 0

    @pytest.mark.needs("cpu")
    @given(serial=st.sampled_from([0.0, 0.05, 0.2]), usd=st.floats(0.01, 50))
    @settings(max_examples=30, deadline=None)
    def test_more_instances_cost_more_an_hour(self, serial, usd):
        planner = Planner(workload(law=amdahl(serial)))
        rows = [planner.row(rented(n, machine(usd=usd))) for n in (1, 2, 3, 4)]
        hourly = [row.usd.value / row.seconds.value for row in rows]
        assert hourly == sorted(hourly)

    def test_prices_are_of_whole_instances_and_include_starting_up(self):
        row = Planner(workload(law=amdahl(0.0))).row(
            rented(2, machine(usd=3.6, startup_s=(100, 100), speed=(1, 1)))
        )
        assert row.usd.value == pytest.approx(2 * 3.6 / 3600 * row.seconds.value)
        assert row.seconds.value > 100

    def test_speed_divides_time(self):
        slow, fast = (
            Planner(workload()).row(rented(1, machine(speed=(s, s), startup_s=(0, 0)))) for s in (1.0, 2.0)
        )
        assert slow.seconds.value == pytest.approx(2 * fast.seconds.value)

    @pytest.mark.parametrize(
        ("wrong", "why"),
        [
            ({"speed": None}, "speed unknown"),
            ({"startup_s": None}, "start-up time unknown"),
            ({"vcpus": None}, "vCPUs"),
        ],
    )
    def test_what_is_not_known_is_never_invented(self, wrong, why):
        row = Planner(workload()).row(rented(1, machine(**wrong)))
        assert why in row.refused
        assert row.seconds is None and row.usd is None

    def test_a_task_must_fit_one_instance(self):
        works = [NodeWork(task="big", memory=8 * 2**30), NodeWork(task="gpu", gpus=1)]
        load = Workload(
            works, {name: TaskFacts(timings=[Timing(items=1, seconds=1)]) for name in ("big", "gpu")}
        )
        assert "too small for big" in Planner(load).row(rented(4, machine(memory=4 * 2**30))).refused
        assert "too small for gpu" in Planner(load).row(rented(4, machine(memory=8 * 2**30))).refused
        assert not Planner(load).row(rented(4, machine(memory=8 * 2**30, gpus=1))).refused

    def test_a_law_slows_calls_down(self):
        without, with_law = (Planner(workload(law=law)).row(here(4)) for law in (None, amdahl(0.2)))
        assert with_law.seconds.value == pytest.approx(without.seconds.value, rel=1e-6), (
            "four at once were timed"
        )
        two = Planner(workload(law=amdahl(0.2))).row(here(2))
        # With four at once a call takes (1 + 3 s) / (1 + s) of what it takes with two.
        assert two.work_s["features"].value == pytest.approx(400 * 1.2 / 1.6, rel=0.05)

    def test_far_beyond_the_data_the_n_is_named(self):
        row = Planner(workload(items=4000, law=amdahl(0.05, n=(1, 2, 4)))).row(rented(50))
        assert row.refused.startswith("features: N = 200 is too far")
        task, n = row.measure
        assert task == "features" and n <= 8

    def test_without_a_law_nothing_beyond_what_was_timed(self):
        row = Planner(workload(items=4000)).row(rented(50))
        assert row.refused.startswith("features: it has no law")
        assert row.measure == ("features", 8)

    def test_a_small_share_without_a_law_is_let_in_with_a_wider_interval(self):
        small = Planner(workload(seconds=0.01)).row(rented(4))
        assert not small.refused
        assert (
            small.work_s["features"].interval[1]
            > 2 * Planner(workload(seconds=0.01)).row(here(4)).work_s["features"].interval[1]
        )

    def test_what_no_total_can_count_is_said(self):
        works = [
            NodeWork(task="known"),
            NodeWork(task="new", needs=(CallNeed(0),)),
            NodeWork(task="list", items=None, needs=(CallNeed(1),)),
            NodeWork(task="larger", reads=1200),
        ]
        facts = {
            "known": TaskFacts(timings=[Timing(items=1, seconds=1)]),
            "list": TaskFacts(timings=[Timing(items=1, seconds=1)]),
            "larger": TaskFacts(timings=[Timing(items=1, seconds=1, reads=12)]),
        }
        load = Workload(works, facts)
        assert [each.task for each in load.untimed] == ["new", "list"]
        refused = Planner(load).row(here(1)).refused
        assert refused.startswith("larger: the time is uncertain by a factor of ")
        assert "reads 1200 items, but was measured with 12; runs of 3 sizes, the largest 300" in refused

    def test_a_small_call_on_much_more_data_is_let_in_with_a_wider_interval(self):
        works = [NodeWork(task="known"), NodeWork(task="larger", needs=(CallNeed(0),), reads=120)]
        facts = {
            "known": TaskFacts(timings=[Timing(items=1, seconds=1)] * 6),
            "larger": TaskFacts(timings=[Timing(items=1, seconds=0.002, reads=12)] * 6),
        }
        low, high = Planner(Workload(works, facts)).row(here(1)).seconds.interval
        assert low < 1.002
        assert high > 1.02


@cache
def shared_planner() -> Planner:
    """One for all examples: what it has scheduled it need not schedule again."""
    return Planner(workload(law=amdahl(0.05)))


ROWS = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 6), st.floats(0.1, 10), st.floats(0.2, 3)),
    min_size=1,
    max_size=12,
)


class TestAdvice:
    @staticmethod
    def rows(drawn):
        planner = shared_planner()
        return [planner.row(rented(n, machine(vcpus=v, usd=usd, speed=(s, s)))) for v, n, usd, s in drawn]

    @pytest.mark.needs("cpu")
    @given(drawn=ROWS)
    @settings(max_examples=40, deadline=None)
    def test_no_row_of_the_front_is_beaten(self, drawn):
        rows = self.rows(drawn)
        kept = front(rows)
        priced = [row for row in rows if row.seconds is not None]
        assert bool(kept) == bool(priced)
        for row in kept:
            assert not any(
                other.usd.value <= row.usd.value
                and other.seconds.value <= row.seconds.value
                and (other.usd.value, other.seconds.value) != (row.usd.value, row.seconds.value)
                for other in priced
            )

    @pytest.mark.needs("cpu")
    @given(drawn=ROWS, deadline=st.none() | st.floats(60, 1000), budget=st.none() | st.floats(0.01, 2))
    @settings(max_examples=60, deadline=None)
    def test_what_is_recommended_keeps_to_the_wish(self, drawn, deadline, budget):
        wish = PlanLimits(deadline_s=deadline, budget_usd=budget)
        rows = self.rows(drawn)
        advice = recommend(rows, wish)
        assert advice.reason
        if advice.row is not None:
            assert wish.granted(advice.row)
        elif any(row.seconds is not None for row in rows):
            assert not any(wish.granted(row) for row in rows)

    def test_no_cluster_when_this_machine_is_in_time(self):
        planner = Planner(workload(law=amdahl(0.05)))
        rows = [planner.row(each) for each in (here(1), here(2), here(4), rented(1), rented(4))]
        advice = recommend(rows, PlanLimits(deadline_s=3600))
        assert advice.reason.startswith("you do not need a cluster: this machine, 4 workers")
        assert advice.row.configuration.workers == 4

    def test_no_more_workers_than_bring_anything(self):
        planner = Planner(workload(items=4, law=amdahl(0.0)))
        advice = recommend([planner.row(here(n)) for n in (1, 2, 4, 8, 16)], PlanLimits())
        assert advice.row.configuration.workers == 4

    def test_no_cluster_when_none_is_faster(self):
        planner = Planner(workload(items=4, law=amdahl(0.0)))
        rows = [planner.row(each) for each in (here(4), rented(1, machine(startup_s=(1000, 1000))))]
        assert recommend(rows, PlanLimits()).reason.startswith("you do not need a cluster")

    def test_a_deadline_that_this_machine_misses_buys_the_cheapest(self):
        planner = Planner(workload(items=400, law=amdahl(0.0)))
        rows = [planner.row(each) for each in (here(4), *(rented(n) for n in range(1, 7)))]
        advice = recommend(rows, PlanLimits(deadline_s=1200))
        others = [row for row in rows if PlanLimits(deadline_s=1200).granted(row)]
        assert advice.row.usd.value == min(row.usd.value for row in others)
        assert "cheapest that keeps the deadline of 20m 00s" in advice.reason

    def test_a_budget_buys_the_fastest(self):
        planner = Planner(workload(items=400, law=amdahl(0.0)))
        rows = [planner.row(each) for each in (here(4), *(rented(n) for n in range(1, 7)))]
        advice = recommend(rows, PlanLimits(budget_usd=1000))
        assert advice.row.seconds.value == min(row.seconds.value for row in rows)

    def test_an_impossible_wish_names_the_best(self):
        advice = recommend([Planner(workload()).row(here(4))], PlanLimits(deadline_s=1))
        assert advice.row is None
        assert (
            "no configuration reliably keeps the deadline of 1.00 s: the fastest predictable one is this machine"
            in advice.reason
        )

    def test_not_enough_data_names_the_measurement(self):
        advice = recommend([Planner(workload(items=4000)).row(rented(50))], PlanLimits())
        assert advice.row is None
        assert advice.reason.startswith("not enough data: measure features at N=8")
        assert advice.measure == ("features", 8)
