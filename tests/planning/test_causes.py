"""The cause of lost time, named from simulated measurements of ten planted causes and of controls without one."""

from __future__ import annotations

import heapq

import msgspec
import numpy as np
import pytest

from hooke.journal.events import MachineLoad, Measured, TimeUse
from hooke.planning.causes import cause_of

CORES = 8
SAMPLE_S = 0.04
LEVELS = (1, 2, 4)
PLANTED = {
    "lock": "lock",
    "gil": "GIL",
    "memory": "memory bandwidth",
    "disk": "disk",
    "network": "network",
    "shared": "shared server",
    "taken": "cores taken",
    "few": "too few items",
    "skew": "skewed items",
    "startup": "start-up",
}
CONTROLS = ("computing", "sleeping")


def item_at(kind: str, n: int) -> dict[str, float]:
    """Seconds of an item by what it does, with `n` workers. A resource that serves one at a time makes the others wait."""

    def queued(held: float, rest: float) -> float:
        return max(held, n * held - rest)

    match kind:
        case "lock":
            return {"cpu": 0.03, "lock": max(0.0, n * 0.015 - 0.03)}
        case "gil":
            return {"cpu": 0.01, "gil": 0.03}
        case "memory":
            return {"cpu": 0.03 * (1 + 0.2 * (n - 1))}
        case "disk":
            return {"cpu": 0.01, "disk": queued(0.025, 0.01)}
        case "network":
            return {"cpu": 0.004, "network": 0.04}
        case "ranks":
            return {"cpu": 0.03 / n, "lock": 0.01 * (n - 1)}
        case "shared":
            return {"cpu": 0.01, "network": queued(0.02, 0.01)}
        case "taken":
            return {"cpu": 0.03, "delay": 0.03 * max(0.0, n / 2 - 1)}
        case "sleeping":
            return {"cpu": 0.002, "sleep": 0.03}
        case _:
            return {"cpu": 0.03}


def measured(kind: str, n: int, repeat: int, chance: np.random.Generator) -> Measured:
    """The items shared out among `n` workers, with their noise, and what the workers' samples see."""
    items = 5 if kind == "few" else 60
    parts = item_at(kind, n)
    sizes = np.exp(0.05 * chance.standard_normal(items)) * np.exp(0.02 * chance.standard_normal())
    if kind == "skew":
        sizes[3] = 0.4 / 0.6 * items
    each = sum(parts.values()) * sizes * (1 + chance.uniform(0, 0.02))
    free = [(0.005 * chance.random(), worker) for worker in range(n)]
    start_s, gap_s, first_s, ends = sum(at for at, _ in free), 0.0, 0.0, {}
    for number, seconds in enumerate(each):
        at, worker = heapq.heappop(free)
        gap = 0.0004 * chance.random()
        extra = 0.5 if kind == "startup" and worker not in ends else 0.0
        gap_s, first_s = gap_s + gap, first_s + extra
        ends[worker] = at + gap + seconds + extra
        each[number] += extra
        heapq.heappush(free, (ends[worker], worker))
    wall, busy = max(ends.values()), float(each.sum())
    work = sum(parts.values()) * float(sizes.sum())
    samples = max(1, int(busy / SAMPLE_S))
    names = [name for name in parts if name not in ("cpu", "delay")]
    seen = {
        f"{name} ledger.py:41": chance.binomial(samples, min(1.0, parts[name] * float(sizes.sum()) / busy))
        / samples
        * busy
        for name in names
    }
    others = 6.0 if kind == "taken" else chance.uniform(0, 0.2)
    return Measured(
        task="t",
        n=n,
        work=float(items),
        seconds=wall,
        repeat=repeat,
        load=MachineLoad(seconds=wall, others=others),
        use=TimeUse(
            busy_s=busy,
            user_s=0.95 * parts["cpu"] / sum(parts.values()) * work,
            sys_s=0.05 * parts["cpu"] / sum(parts.values()) * work,
            delay_s=parts.get("delay", 0.0) * float(sizes.sum()) + 0.01 * busy * chance.random(),
            waits={what: seconds for what, seconds in seen.items() if seconds},
            start_s=start_s,
            gap_s=gap_s,
            tail_s=n * wall - sum(ends.values()) + (n - len(ends)) * wall,
            first_s=first_s,
            longest_s=float(each.max()),
            usual_s=float(np.median(each)),
            attempts=items,
            samples=samples,
        ),
    )


def study(kind: str, seed: int) -> list[Measured]:
    chance = np.random.default_rng([seed, sum(map(ord, kind))])
    return [measured(kind, n, repeat, chance) for repeat in range(3) for n in LEVELS]


@pytest.mark.needs("cpu")
def test_of_ten_planted_causes_nine_in_ten_are_named_and_hardly_any_wrongly():
    named = {kind: [cause_of(study(kind, seed), cores=CORES) for seed in range(10)] for kind in PLANTED}
    controls = [cause_of(study(kind, seed), cores=CORES) for kind in CONTROLS for seed in range(10)]
    right = sum(
        cause is not None and cause.name == PLANTED[kind] for kind in PLANTED for cause in named[kind]
    )
    wrong = sum(
        cause is not None and cause.name != PLANTED[kind] for kind in PLANTED for cause in named[kind]
    )
    told = {kind: [cause and cause.name for cause in causes] for kind, causes in named.items()}
    assert right >= 90, told
    assert wrong + sum(cause is not None for cause in controls) <= 0.02 * 120, (told, controls)


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("memory", "repeated work", "each rank repeats a part of the work: CPU per call rises "),
        ("ranks", "communication", "waits for other ranks in ledger.py:41: "),
        (
            "network",
            "network",
            "waits for a server (network) in ledger.py:41: ",
        ),  # one rank alone does so too
        ("computing", None, ""),
    ],
)
def test_of_a_gang(kind, name, sentence):
    """Its ranks do what their task says, so work that grows is no slow memory."""
    cause = cause_of(study(kind, 1), cores=CORES, counts="ranks")
    assert (cause and cause.name) == name
    if cause is not None:
        assert cause.sentence.startswith(sentence)
        assert cause.evidence[0].startswith("rank-seconds per call: ")
        assert all(each.endswith("at 1, 2, 4 ranks") for each in cause.evidence)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("lock", "waits for a lock in ledger.py:41: "),
        ("gil", "waits for the GIL in ledger.py:41: its threads compute one at a time"),
        ("memory", "memory-bound: CPU per item rises "),
        ("disk", "waits for the disk in ledger.py:41: "),
        ("network", "waits for a server (network) in ledger.py:41: "),
        ("shared", "a slow shared server: response time grows with N, "),
        ("taken", "other processes take the cores: 6.0, 6.0, 6.0 cores at N = 1, 2, 4"),
        ("few", "too few items: 5 for 4 workers, so some have nothing to do at the end"),
        ("skew", "skewed items: one takes "),
        ("startup", "start-up takes "),
    ],
)
def test_the_sentence_says_what_and_where_with_its_evidence(kind, sentence):
    cause = cause_of(study(kind, 1), cores=CORES)
    assert cause is not None
    assert cause.sentence.startswith(sentence)
    assert any(each.startswith("worker-seconds per item: ") for each in cause.evidence)
    assert cause.facts()["evidence"] == list(cause.evidence)


def test_what_is_inferred_without_hardware_counters_is_said():
    cause = cause_of(study("memory", 1), cores=CORES)
    assert cause is not None
    assert "inferred: memory bandwidth cannot be read without hardware counters" in cause.evidence[0]


def test_more_workers_than_cores_are_not_blamed_on_others():
    alone = [
        msgspec.structs.replace(each, load=MachineLoad(seconds=1.0, others=0.0)) for each in study("taken", 1)
    ]
    cause = cause_of(alone, cores=2)
    assert cause is not None
    assert (cause.name, cause.sentence) == ("cores", "the cores are all in use: 4 workers compute on 2 cores")


def test_of_others_and_own_workers_the_one_with_more_cores_is_blamed():
    cause = cause_of(study("taken", 1), cores=2)  # others have six cores, four workers the other two
    assert cause is not None and cause.name == "cores taken", cause
    few = [
        msgspec.structs.replace(each, load=MachineLoad(seconds=1.0, others=0.4)) for each in study("taken", 1)
    ]
    cause = cause_of(few, cores=2)
    assert cause is not None and cause.name == "cores", cause


def spent(n: int, *, others: float = 0.0, **shares: float) -> list[Measured]:
    """Two measurements of `n` workers that spend these milliseconds for each of 100 items."""
    seconds = {kind: milliseconds / 1000 * 100 for kind, milliseconds in shares.items()}
    waits = {what: seconds.pop(what) for what in ("disk", "gil") if what in seconds}
    whole = sum(seconds.values()) + sum(waits.values())
    use = TimeUse(
        busy_s=whole,
        user_s=seconds["user"],
        sys_s=0.0,
        delay_s=seconds["delay"],
        waits={f"{what} ledger.py:41": waited for what, waited in waits.items()},
        attempts=100,
        samples=100,
    )
    load = MachineLoad(seconds=whole / n, others=others)
    return [
        Measured(task="t", n=n, work=100.0, seconds=whole / n, repeat=repeat, load=load, use=use)
        for repeat in range(2)
    ]


def test_a_core_that_nobody_uses_is_not_taken():
    """A fast disk wakes workers so often that they wait for a core as long as for it."""
    fast = [
        *spent(1, user=7, delay=1, disk=13),
        *spent(2, user=7, delay=5, disk=12, others=0.1),
        *spent(4, user=7, delay=16, disk=13),
    ]
    cause = cause_of(fast, cores=2)
    assert cause is not None and cause.name == "disk", cause
    assert cause.sentence == "waits for the disk in ledger.py:41: 36% of the workers' time at N = 4"
    few = [*spent(1, user=7, delay=1, disk=2), *spent(4, user=7, delay=16, disk=2)]
    assert cause_of(few, cores=2) is None
    more = [*spent(1, user=7, delay=1, disk=2), *spent(4, user=17, delay=12, disk=2)]
    cause = cause_of(more, cores=8)
    assert cause is not None and cause.name == "memory bandwidth", "of two that grow the other"


def test_workers_that_wait_for_a_core_are_not_told_to_use_them_all_where_they_compute_little():
    fast = [*spent(1, user=7, delay=1, disk=13), *spent(4, user=7, delay=24, disk=13)]
    cause = cause_of(fast, cores=2)
    assert cause is not None and cause.name == "disk", cause


def test_other_processes_that_take_less_than_a_core_are_named():
    taken = [
        *spent(1, user=45, delay=9, others=1.1),
        *spent(2, user=45, delay=30, others=0.6),
    ]
    cause = cause_of(taken, cores=2)
    assert cause is not None and cause.name == "cores taken", cause


def test_of_two_waits_the_longer_is_named():
    both = [*spent(1, user=8, delay=0, disk=60, gil=32), *spent(2, user=8, delay=0, disk=60, gil=32)]
    cause = cause_of(both, cores=CORES)
    assert cause is not None and cause.name == "disk", cause


@pytest.mark.parametrize(("tail", "named"), [(0.25, "network"), (1.5, "too few items")])
def test_a_wait_outweighs_a_few_items_that_do_not_divide_evenly(tail, named):
    uneven = [
        msgspec.structs.replace(
            each,
            seconds=each.seconds * (1 + tail),
            use=msgspec.structs.replace(each.use, tail_s=each.use.tail_s + tail * each.n * each.seconds),
        )
        if each.n == 4
        else each
        for each in study("network", 1)
    ]
    cause = cause_of(uneven, cores=CORES)
    assert cause is not None and cause.name == named, cause


def test_a_third_of_the_time_in_the_queue_for_the_gil_is_named():
    def waiting(share: float) -> list[Measured]:
        return [
            msgspec.structs.replace(
                each,
                use=msgspec.structs.replace(each.use, waits={"gil ledger.py:41": share * each.use.busy_s}),
            )
            for each in study("computing", 1)
        ]

    cause = cause_of(waiting(0.4), cores=CORES)
    assert cause is not None and cause.name == "GIL", cause
    assert cause_of(waiting(0.1), cores=CORES) is None


def test_measurements_of_before_and_few_samples_name_no_wait():
    assert cause_of([], cores=2) is None
    old = [msgspec.structs.replace(each, use=None) for each in study("lock", 1)]
    assert cause_of(old, cores=CORES) is None
    blind = [
        msgspec.structs.replace(each, use=msgspec.structs.replace(each.use, samples=1))
        for each in study("lock", 1)
    ]
    assert cause_of(blind, cores=CORES) is None
