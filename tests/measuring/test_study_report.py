import io
import json
import math
import re

import msgspec
import numpy as np
import pytest
from tests.measuring.records import record_of

from hooke.base.errors import NotEnoughData
from hooke.journal.events import Measured, PlainMeasured, RunFinished, StudyStarted, TimeUse
from hooke.journal.run_folders import RunsFolder
from hooke.journal.study_records import StudyRecord
from hooke.journal.writer import Journal
from hooke.measuring.studies import StudyLines
from hooke.measuring.study_report import facts_of, rows_of, text_of, workers_to_use
from hooke.planning.advice import known_limit
from hooke.planning.task_facts import cost_of, law_of_study, measurements_of
from hooke.scaling.families import FAMILIES


def amdahl(serial):
    return lambda n: 10 * (serial + (1 - serial) / n)


def test_the_table_has_speed_up_and_efficiency_of_what_was_measured():
    rows = rows_of(record_of(amdahl(0.1), noise=1e-9))
    assert [row.n for row in rows] == [1, 2, 4, 8]
    assert rows[-1].speedup == pytest.approx(1 / (0.1 + 0.9 / 8), rel=1e-6)
    assert rows[-1].efficiency == pytest.approx(rows[-1].speedup / 8)
    assert rows[-1].throughput == pytest.approx(100 / rows[-1].seconds)
    assert all(row.repeats == 3 for row in rows)


@pytest.mark.needs("cpu")
def test_without_n_1_speed_up_is_over_the_least_n_and_says_so():
    record = record_of(amdahl(0.0), levels=(2, 4, 8), noise=1e-9)
    assert rows_of(record)[-1].speedup == pytest.approx(4)
    assert rows_of(record)[-1].efficiency == pytest.approx(1)
    assert "speed-up over N = 2" in text_of(record)


@pytest.mark.needs("cpu")
def test_a_study_tells_law_cost_and_what_is_missing():
    text = text_of(record_of(amdahl(0.1), plain=4.5))
    assert "features of delays(months=12), strong scaling: 3 repeats" in text
    assert "law   amdahl:" in text
    assert "COST  3 workers beat one plain thread" in text
    assert "next  measure at N = 16 (this machine has 4 cores)" in text


@pytest.mark.needs("cpu")
def test_items_that_cannot_be_shared_out_are_said_to_bound_it():
    text = text_of(record_of(lambda n: 10 / n, levels=(1, 2, 60)))
    assert "N = 60: 100 items do not divide evenly by 60, so its speed-up is at most 50" in text
    assert "N = 2:" not in text


def from_the_shell(record, *, command_s=0.6, workers_start_s=0.5):
    plain = [
        msgspec.structs.replace(each, start_s=0.1, workers_start_s=workers_start_s) for each in record.plain
    ]
    started = msgspec.structs.replace(record.started, command_s=command_s)
    return msgspec.structs.replace(record, started=started, plain=tuple(plain))


@pytest.mark.needs("cpu")
def test_cost_is_told_of_warm_workers_and_from_the_shell():
    """8 workers save 0.09 - 0.02125 s an item, so 1 s more of start-up is worth 15 items."""
    record = record_of(amdahl(0.1), plain=9.0, noise=1e-9)
    assert "from the shell" not in text_of(record), "a study that no command started timed no command"
    text = text_of(from_the_shell(record))
    assert (
        "from the shell, plain Python wins until 15 items, then 8 workers (start-up 1.10 s against 100 ms"
        in text
    )
    assert facts_of(from_the_shell(record))["cost_from_shell"]["items"] == 15


@pytest.mark.needs("cpu")
def test_from_the_shell_plain_python_may_win_for_any_number_of_items():
    text = text_of(from_the_shell(record_of(lambda n: 10.0 / min(n, 2), plain=1.0)))
    assert "from the shell, plain Python wins for any number of items" in text


@pytest.mark.needs("cpu")
def test_never_is_an_answer():
    text = text_of(record_of(lambda n: 10.0 / min(n, 2), plain=1.0))
    assert "COST  never: no number of workers beats one plain thread" in text


@pytest.mark.needs("cpu")
def test_a_baseline_far_ahead_is_said_to_be():
    text = text_of(record_of(amdahl(0.01), levels=(1, 2, 4), plain=0.3))
    assert (
        "COST  none of the N measured beats one plain thread; whether a larger one does is unknown: N = "
        in text
    )


def test_two_n_tell_no_law_but_a_cost():
    record = record_of(amdahl(0.1), levels=(1, 2), plain=8.0)
    with pytest.raises(NotEnoughData) as error:
        law_of_study(record)
    assert error.value.measure_at == 4
    assert cost_of(record).n == 2
    assert "next  measure at N = 4" in text_of(record)


def test_without_a_law_never_is_said_of_what_was_measured_only():
    text = text_of(record_of(amdahl(0.1), levels=(1, 2), plain=1.0))
    assert "COST  none of the N measured beats one plain thread" in text


@pytest.mark.needs("cpu")
def test_three_n_that_no_law_fits_tell_none():
    record = record_of({1: 10.0, 2: 5.0, 4: 9.0}.__getitem__, levels=(1, 2, 4), noise=0.005)
    with pytest.raises(NotEnoughData, match="N = 1, 2, 4 cannot tell one law from another") as error:
        law_of_study(record)
    assert error.value.measure_at is not None
    assert cost_of(record).n == 2


@pytest.mark.needs("cpu")
def test_work_that_grows_is_fitted_by_its_own_law():
    record = record_of(lambda n: n / (n - 0.5 * (n - 1)), weak=True, levels=(1, 2, 4, 8, 16))
    law = law_of_study(record)
    assert law.family == "gustafson"
    assert law.parameters["s"].value == pytest.approx(0.5, abs=0.1)
    assert "amdahl" not in {each.family for each in law.comparison}
    assert law_of_study(record_of(lambda n: 1.0, weak=True, levels=(1, 2, 4), noise=0.05)).family == "linear"


def test_sizes_give_what_an_item_and_what_a_call_costs():
    record = record_of(lambda size: 0.5 + 0.01 * size, sizes=(1, 10, 100, 1000), levels=(1,))
    law = law_of_study(record)
    assert law.family == "batch"
    assert law.parameters["a"].value == pytest.approx(0.01, rel=0.1)
    assert law.parameters["b"].value == pytest.approx(0.5, rel=0.1)
    text = text_of(record)
    assert "for each of the items" in text
    assert "speed-up" not in text


@pytest.mark.needs("cpu")
def test_noise_that_leaves_too_little_is_said():
    text = text_of(record_of(amdahl(0.0), levels=(1, 2), noise=0.6))
    assert "noise too high to conclude: each N is known only to" in text
    assert "nothing was repeated" in text_of(record_of(amdahl(0.0), repeats=1))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("record", "use"),
    [
        (
            record_of(lambda n: 10.0 / min(n, 2), levels=(1, 2, 4), noise=0.05),
            r"use   2 workers: 2(\.\d+)? \(1\.\d+ to 2\.\d+\) times as fast as 1 worker; 4 is not clearly faster\n.* take 2 workers 8m \d\ds \(8m ",
        ),
        (
            record_of(lambda n: 10.0, levels=(1, 2, 4)),
            r"use   1 worker: 2 and 4 are not clearly faster\n      10,000 items, 100 times as many, take 1 worker 16m ",
        ),
        (
            record_of(amdahl(0.0), levels=(2, 4), noise=0.01),
            r"use   4 workers: [12](\.\d+)? \(.*\) times as fast as 2 workers\n",
        ),
        (
            record_of(amdahl(0.1), plain=1.0),
            r"use   no engine: one plain thread is \d(\.\d+)? \(.*\) times as fast as 8 workers\n.* take it 1m ",
        ),
        (
            record_of(amdahl(0.0), levels=(1, 2), noise=0.6),
            r"use   unknown: the noise hides whether more than 1 is faster \(--repeats \d+ may tell\)$",
        ),
        (record_of(amdahl(0.0), repeats=1), r"use   unknown: nothing was repeated \(--repeats 3 shows"),
    ],
)
def test_it_ends_with_the_number_of_workers_to_use_and_what_more_work_takes(record, use):
    assert re.search(use, text_of(record)), text_of(record)


@pytest.mark.needs("cpu")
def test_the_time_of_more_work_has_the_interval_of_the_law():
    record = record_of(lambda n: 10.0 / min(n, 2), levels=(1, 2, 4), noise=0.05)
    use, rate = workers_to_use(record), law_of_study(record).predict(2)
    assert (use.workers, use.than, use.work, use.not_faster) == (2, 1, 10_000, (4,))
    assert use.seconds.ends == pytest.approx(
        (1e4 / rate.interval[1], 1e4 / rate.value, 1e4 / rate.interval[0])
    )
    assert use.seconds.interval[0] < 500 < use.seconds.interval[1]
    assert facts_of(record)["use"] == use.facts()


@pytest.mark.needs("cpu")
def test_where_the_work_differs_nothing_is_said_on_workers_to_use():
    for record in (
        record_of(lambda n: 1.0, weak=True, levels=(1, 2, 4)),
        record_of(lambda size: 0.5 + 0.01 * size, sizes=(1, 10, 100), levels=(1,)),
    ):
        assert "\nuse " not in text_of(record)


def test_a_study_of_nothing_says_so():
    record = StudyRecord(started=record_of(amdahl(0.1)).started)
    assert "has no measurement" in text_of(record)
    with pytest.raises(NotEnoughData):
        measurements_of(record)


@pytest.mark.needs("cpu")
def test_workers_that_share_cores_are_said_to():
    text = text_of(record_of(amdahl(0.1), pinned=False))
    assert "not bound to cores: 8 workers, 4 cores" in text


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "record",
    [
        record_of(amdahl(0.1), plain=4.0),
        record_of(amdahl(0.0), levels=(1, 2), repeats=1),
        record_of(lambda size: 0.5 + 0.01 * size, sizes=(1, 10, 100), levels=(1,), plain=1.0),
        StudyRecord(started=record_of(amdahl(0.1)).started),
    ],
)
def test_facts_are_json(record):
    text = json.dumps(facts_of(record), allow_nan=False)
    facts = json.loads(text)
    assert len(facts["rows"]) == len(rows_of(record))
    assert facts["study"] == "measure-delays-1"


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_next_is_never_what_was_just_measured():
    for levels in ((1, 2, 4, 8), (1, 2, 3, 4, 6, 8, 16), (1, 2, 4, 8, 16, 32)):
        for truth in (amdahl(0.1), lambda n: 10.0 / min(n, 2), lambda n: 10 / n):
            for line in text_of(record_of(truth, levels=levels, noise=0.1)).splitlines():
                found = re.match(r"next  measure at N = (\d+)", line)
                assert found is None or int(found[1]) not in levels


STAIRS = (1, 3, 7, 15, 23, 40)


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("seconds", "levels", "said"),
    [
        (
            lambda n: 1 / FAMILIES["closed_queue"].curve(np.array([float(n)]), np.array([0.2]))[0],
            (1, 2, 3, 4, 6, 8, 10, 12, 16),
            r"law   closed_queue: .* items/s per worker; a lock held for \d\d % \(.*\) of each item's time: at most (4\.9|5)\S* times",
        ),
        (
            lambda n: math.ceil(100 / n),
            STAIRS,
            r"as measured, staircase: .*nothing else bends it; 100 items over N workers take",
        ),
        (
            lambda n: 100 / (min(n, 8) + 0.3 * max(n - 8, 0)),
            (1, 2, 4, 6, 8, 12, 16, 20, 24),
            r"law   bent_line: .* up to N = [78]\.\d+ \(.*\), and \d\d % \(.*\) of that for each more",
        ),
        (
            lambda n: 100 / (n if n < 9 else 3),
            (1, 2, 4, 6, 8, 10, 12, 16),
            r"law   cliff: .* up to N = .*; beyond, \d\d % \(.*\) of its throughput",
        ),
    ],
)
def test_each_family_has_a_sentence(seconds, levels, said):
    assert re.search(said, text_of(record_of(seconds, levels=levels, noise=0.004)))


@pytest.mark.needs("cpu")
def test_few_items_are_said_before_the_law():
    lines = text_of(record_of(lambda n: math.ceil(100 / n), levels=STAIRS, noise=0.004)).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("law "))
    assert lines[at].startswith(
        "law   too few items per worker to tell: at N = 23, 40 each has fewer than 6 of the 100 items"
    )
    assert lines[at + 1].startswith("      as measured, staircase:")
    assert sum("too few items" in line for line in lines) == 1


@pytest.mark.needs("cpu")
def test_what_else_fits_is_named_with_the_throughput_at_the_largest_n():
    text = text_of(record_of(amdahl(0.05), levels=(1, 2, 4), noise=0.03))
    told = re.search(
        r"at N = 4: (\S+) \((\S+) to (\S+)\) items/s; (.*) or (.*), the data do not tell which", text
    )
    assert told is not None
    assert "a serial share" in told[4] or "no limit" in told[4]
    assert float(told[2]) <= float(told[1]) <= float(told[3])
    assert float(told[2]) <= 100 / amdahl(0.05)(4) <= float(told[3])


def test_requests_and_runs_are_no_items_that_could_be_uneven():
    record = record_of(amdahl(0.05))
    assert measurements_of(record).items == 100
    runs = StudyRecord(
        started=msgspec.structs.replace(record.started, unit="runs"),
        measured=record.measured,
        plain=record.plain,
    )
    assert measurements_of(runs).items is None
    assert measurements_of(runs).throughput == pytest.approx(measurements_of(record).throughput)


@pytest.mark.parametrize(
    ("more", "first", "said"),
    [
        ({"levels": (1, 2, 4)}, {"n": 4, "seconds": 1.0}, "took 1.00 s, so all take 22.0 s to 32.0 s"),
        ({"levels": (1,), "sizes": (1, 2, 3)}, {"n": 1, "seconds": 1.0}, "took 1.00 s, so all take 8.00 s"),
    ],
)
def test_the_first_measurement_says_how_long_all_of_them_take(more, first, said):
    stream = io.StringIO()
    lines = StudyLines(stream)
    lines.observe(StudyStarted(study="s", pipeline="p", entry="e", task="t", repeats=2, **more))
    for repeat in range(2):
        lines.observe(Measured(task="t", work=1.0, repeat=repeat, **first))
    assert [line for line in stream.getvalue().splitlines() if "so all take" in line] == [
        f"the first of 8 measurements {said}"
    ]


def budgeted(record, *, answer="knee", within=0.25, levels=None):
    """The same measurements, as of a study with a budget that has ended."""
    started = msgspec.structs.replace(
        record.started, budget=10.0, answer=answer, within=within, levels=levels or record.started.levels
    )
    ended = RunFinished(status="finished", seconds=1.0)
    return msgspec.structs.replace(record, started=started, finished=ended)


@pytest.mark.needs("cpu")
def test_a_study_with_a_budget_says_how_often_each_n_was_measured_and_which_were_left_out():
    record = record_of(amdahl(0.1), levels=(1, 2, 8))
    some = msgspec.structs.replace(
        record, measured=tuple(each for each in record.measured if each.n != 2 or not each.repeat)
    )
    text = text_of(budgeted(some, levels=(1, 2, 4, 6, 8)))
    assert "strong scaling: 1 to 3 repeats\n" in text
    assert "cut   N = 4 and 6 not measured, to stay within 10 plain calls; --repeats 1 measures all" in text
    whole = text_of(budgeted(record))
    assert "strong scaling: 3 repeats\n" in whole
    assert "\ncut " not in whole


def test_an_n_that_is_measured_less_often_is_known_less_well():
    record = record_of(lambda n: 10.0, levels=(1, 2, 4), noise=0.02)
    some = msgspec.structs.replace(
        record, measured=tuple(each for each in record.measured if each.n == 4 or not each.repeat)
    )
    rows = rows_of(some)
    assert rows[0].error == rows[1].error == pytest.approx(rows[2].error * math.sqrt(3))
    sure = math.hypot(rows[0].error, rows[0].error)
    use = workers_to_use(some)
    assert use.workers == 1
    assert math.log(use.speedup.interval[1] / use.speedup.value) == pytest.approx(sure)


@pytest.mark.needs("cpu")
def test_the_time_that_was_asked_for_is_told():
    record = budgeted(record_of(amdahl(0.1)), answer="4")
    told = re.search(
        r"^time  100 items take 4 workers (\S+) s \((\S+) s to (\S+) s\)$", text_of(record), re.MULTILINE
    )
    assert told is not None
    assert float(told[2]) < amdahl(0.1)(4) < float(told[3])
    assert "\ntime " not in text_of(budgeted(record_of(amdahl(0.1))))


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_study_that_ends_without_its_answer_says_so():
    record = record_of(amdahl(0.1))
    asked = budgeted(record, answer="4", within=0.001)
    told = re.search(
        r"^answer known to (\S+) %; 0\.1 % was asked, and all 15 measurements are taken$",
        text_of(asked),
        re.MULTILINE,
    )
    assert told is not None, text_of(asked)
    assert facts_of(asked)["known_to"] == pytest.approx(float(told[1]) / 100, rel=0.1)
    fewer = msgspec.structs.replace(asked, measured=asked.measured[:-1])
    assert re.search(
        r"^answer known to \S+ %; 0\.1 % was asked, and 10 plain calls are used up$",
        text_of(fewer),
        re.MULTILINE,
    )
    unknown = record_of(lambda n: 10.0 if n == 2 else 10.0 / n, levels=(1, 2, 4, 8), noise=0.001)
    assert "\nanswer unknown; 25 % was asked, and all 15" in text_of(budgeted(unknown))
    assert facts_of(budgeted(unknown))["known_to"] is None
    running = msgspec.structs.replace(asked, finished=None)
    for silent in (record, budgeted(record, answer="4"), running):
        assert "\nanswer " not in text_of(silent)
    assert facts_of(record)["known_to"] is None


def test_the_noise_of_one_worker_hides_nothing_where_more_are_surely_slower():
    record = record_of(lambda n: 10.0 * n, levels=(1, 2, 4), noise=0.15)
    some = msgspec.structs.replace(
        record, measured=tuple(each for each in record.measured if each.n > 1 or not each.repeat)
    )
    rows = rows_of(some)
    assert math.exp(math.hypot(rows[0].error, rows[0].error)) > 1.25
    assert workers_to_use(some).workers == 1


def test_the_time_of_the_plain_calls_is_known_as_well_as_they_were_measured():
    record = record_of(amdahl(0.1), plain=1.0)
    some = msgspec.structs.replace(record, plain=record.plain[:1])
    use, rows = workers_to_use(some), rows_of(some)
    assert use.workers == 0
    assert math.log(use.seconds.interval[1] / use.seconds.value) == pytest.approx(
        rows[0].error * math.sqrt(3)
    )


def busy(record, *, cpus, share=1.0):
    """The same, of workers that compute for this share of their time, or wait for a core if there is none, on so many cores."""
    measured = []
    for each in record.measured:
        cpu = share * each.seconds * min(each.n, cpus)
        idle = each.n * each.seconds - cpu
        use = TimeUse(
            busy_s=each.n * each.seconds,
            user_s=cpu,
            sys_s=0.0,
            delay_s=idle if share == 1 else 0.0,
            attempts=100,
        )
        measured.append(msgspec.structs.replace(each, cpu_s=cpu, use=use))
    started = msgspec.structs.replace(record.started, cpus=cpus)
    return msgspec.structs.replace(record, measured=tuple(measured), started=started)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("levels", [(1, 2), (1, 2, 4), (1, 2, 4, 8)])
def test_next_names_no_n_beyond_cores_that_are_all_in_use(levels):
    record = record_of(lambda n: 10.0 / min(n, 2), levels=levels)
    text = text_of(busy(record, cpus=2))
    if levels[-1] > 2:
        assert "cause the cores are all in use" in text
    named = re.search(r"^next  measure at N = (\d+)", text, re.MULTILINE)
    assert named is None or int(named[1]) <= 2
    if levels == (1, 2):
        assert "next  a machine with more cores: here all 2 are in use" in text
        with pytest.raises(NotEnoughData) as refusal:
            law_of_study(busy(record, cpus=2))
        assert refusal.value.fix == "measure on a machine with more cores"
    waits = text_of(busy(record_of(amdahl(0.0), levels=(1, 2)), cpus=2, share=0.3))
    assert "next  measure at N = 4 (this machine has 2 cores)" in waits


def said_of(started, *events):
    stream = io.StringIO()
    lines = StudyLines(stream)
    for event in (started, *events):
        lines.observe(event)
    return stream.getvalue().splitlines()


def test_with_a_budget_each_repeat_is_said_and_beforehand_how_long_all_takes_at_most():
    started = StudyStarted(
        study="s", pipeline="p", entry="e", task="t", levels=(1, 2), repeats=3, budget=10.0, answer="knee"
    )
    told = said_of(
        started,
        PlainMeasured(work=1.0, seconds=0.5),
        Measured(task="t", n=2, work=1.0, seconds=0.3),
        Measured(task="t", n=2, work=1.0, seconds=0.25, repeat=1),
        PlainMeasured(work=1.0, seconds=0.5, repeat=1),
        RunFinished(status="finished", seconds=1.0),
    )
    assert told == [
        "measuring t of p: N = 1, 2 and plain calls, at most 9 measurements and 10 plain calls",
        "the first took 500 ms, so all measurements, at most 9, take at most 5.00 s",
        "N = 2 a second time: 250 ms",
        "the plain calls a second time: 500 ms",
    ]
    slow = msgspec.structs.replace(started, levels=(1, 2, 4, 8))
    assert said_of(slow, PlainMeasured(work=1.0, seconds=1.0))[1].endswith("at most 15, take at most 10.0 s")
    short = said_of(slow, PlainMeasured(work=1.0, seconds=0.01))
    assert short[1].endswith("at most 15, take at most 1.00 s")


def test_a_budget_in_times_of_what_hooke_takes_is_forecast_by_the_longer_one():
    started = StudyStarted(
        study="s", pipeline="p", entry="e", task="t", levels=(1, 2), repeats=3, budget=10.0, plain="at_once"
    )
    pair = (PlainMeasured(work=1.0, seconds=0.5), Measured(task="t", n=1, work=1.0, seconds=2.0))
    for events in (pair, pair[::-1]):
        assert said_of(started, *events) == [
            "measuring t of p: N = 1, 2 and plain calls, at most 9 measurements and 10 times the time of N = 1",
            "N = 1 took 2.00 s, so all measurements, at most 9, take at most 20.0 s",
        ]
    sizes = msgspec.structs.replace(started, levels=(4,), sizes=(1, 10, 100))
    slow = (PlainMeasured(work=100.0, seconds=5.0), Measured(task="t", n=4, work=100.0, seconds=2.0))
    unit = "10 times the time of the largest size"
    assert said_of(sizes, *slow) == [
        f"measuring t of p: sizes 1, 10, 100 and plain calls, at most 12 measurements and {unit}",
        "the plain calls took 5.00 s, so all measurements, at most 12, take at most 50.0 s",
    ]


def test_a_round_is_said_to_be_done_also_where_an_earlier_driver_measured_a_part_of_it():
    started = StudyStarted(at=1.0, study="s", pipeline="p", entry="e", task="t", levels=(1, 2), repeats=2)
    told = said_of(
        started,
        Measured(at=3.0, task="t", n=2, work=1.0, seconds=1.0, repeat=0),
        PlainMeasured(at=4.0, work=1.0, seconds=1.0, repeat=1),
        RunFinished(at=5.0, status="finished", seconds=1.0),
    )
    assert [line for line in told if "round" in line][1:] == [
        "round 1 of 2 is done, 2.00 s after the start",
        "round 2 of 2 is done, 3.00 s after the start",
    ]
    stopped = said_of(
        started,
        Measured(at=3.0, task="t", n=2, work=1.0, seconds=1.0),
        RunFinished(at=5.0, status="stopped", seconds=1.0),
    )
    assert not [line for line in stopped if "is done" in line]


def test_advice_names_no_more_workers_than_cores_that_are_all_in_use(tmp_path):
    record = busy(record_of(amdahl(0.0), levels=(1, 2)), cpus=2)
    runs, name = RunsFolder(tmp_path), "measure-delays-20261125-010203-abcd"
    with Journal.create(runs.create(name), "driver") as journal:
        for event in (record.started, *record.measured, RunFinished(status="finished", seconds=1.0)):
            journal.append(event)
    assert known_limit(runs, "delays", "features") == "the workers compute on all 2 cores"


def test_next_tells_the_cores_only_where_they_are_fewer():
    text = text_of(record_of(amdahl(0.1), levels=(1, 2)))
    assert re.search(r"^next  measure at N = 4$", text, re.MULTILINE)
