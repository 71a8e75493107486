"""Whole studies on real workers. What is timed sleeps, so that a busy machine changes no answer that is asked for."""

import pytest

from hooke.base.errors import HookeError, NotEnoughData, TaskError, UsageError
from hooke.journal.events import AttemptFinished, AttemptStarted
from hooke.journal.reader import read
from hooke.journal.study_records import find_studies
from hooke.journal.writer import Journal
from hooke.measuring.studies import Study, measure
from hooke.pipeline.node_state import WORTH_ORDERING_S
from hooke.project.pipeline_file import load_entry
from hooke.scaling import fit

pytestmark = pytest.mark.needs("processes")

NAPS = """
    import fcntl
    import os
    import time
    from pathlib import Path

    from hooke import pipeline, task

    HERE = Path(__file__).parent


    def note(what):
        with open(HERE / "ran", "a") as file:
            file.write(f"{what} {os.getpid()}\\n")


    @task(observe=False)
    def start(x: int) -> int:
        note("start")
        return x


    @task(observe=False)
    def nap(x: int, *, seconds: float) -> int:
        note("nap")
        time.sleep(seconds)
        return x


    @task
    def total(xs: list[int]) -> int:
        return sum(xs)


    @pipeline
    def naps(n: int = 8, seconds: float = 0.03) -> int:
        return total(nap.map(start.map(range(n)), seconds=seconds))


    def at_once(xs, *, seconds):
        note(f"at_once {len(xs)} items for")
        time.sleep(seconds)


    @pipeline
    def crowd(repeats: int = 2) -> int:
        return total(nap.map(range(repeats), seconds=0.01))


    @pipeline
    def moody() -> int:
        return total(fickle.map([0]))


    @task(observe=False)
    def alone(x: int) -> int:
        with open(HERE / "door", "a") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            time.sleep(0.03)
        return x


    @pipeline
    def queue() -> int:
        return total(alone.map(range(8)))


    @task
    def fickle(x: int) -> int:
        # Calls 1 and 2 warm up; each round of two N and the plain calls is then fast or slow as a whole.
        with open(HERE / "moods", "a") as file:
            file.write("x")
        calls = (HERE / "moods").stat().st_size
        time.sleep(0.5 if (calls - 3) // 3 % 2 else 0.005)
        return x

"""


def pipeline_of(workshop, name="naps"):
    return load_entry(f"{workshop.file}:{name}")[0]


def ran(workshop):
    path = workshop.folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def take(workshop, *args, name="naps", workers=(1, 2), repeats=2, **more) -> Study:
    return measure(
        pipeline_of(workshop, name), *args, workers=list(workers), repeats=repeats, progress="none", **more
    )


@pytest.mark.long
def test_a_task_is_measured_at_each_n_beside_plain_calls(workshop):
    workshop.write(NAPS)
    study = take(workshop, task="nap", workers=(1, 2, 4, 8))
    assert study.status == "finished"
    assert [(row.n, row.work, row.repeats) for row in study.rows] == [(n, 8, 2) for n in (1, 2, 4, 8)]
    assert study.rows[0].seconds > 8 * 0.03
    assert min(study.plain_seconds) > 8 * 0.03
    assert len(study.measurements) == 8
    # Sleepers do not stand in one another's way, whatever else the machine does.
    assert study.rows[2].speedup > 1.5
    assert study.law.family == fit(study.measurements).family
    assert 1 <= study.cost.n <= 8
    assert "nap of naps" in str(study)
    assert study.curve.law.family == study.law.family
    assert "<svg" in study._repr_html_()
    # What it needs ran once for each item; it itself once to warm up and once a turn, the plain calls' first item twice.
    names = [line.split()[0] for line in ran(workshop)]
    assert names.count("start") == 8
    assert names.count("nap") == 8 * (1 + 8) + 8 * 2 + 1
    assert not (study.folder / "store").exists()


def test_an_equal_study_is_the_answer_until_the_code_changes(workshop):
    workshop.write(NAPS)
    study = take(workshop, task="nap")
    before = len(ran(workshop))
    assert take(workshop, 8, task="nap").id == study.id
    assert len(ran(workshop)) == before
    more = take(workshop, task="nap", repeats=3)
    assert more.id == study.id
    assert [row.repeats for row in more.rows] == [3, 3]
    assert take(workshop, task="nap", fresh=True).id != study.id
    assert take(workshop, task="nap", seconds=0.02).id != study.id
    workshop.edit("time.sleep(seconds)\n    return", "time.sleep(seconds * 1)\n    return")
    assert len(list(find_studies(workshop.project.runs))) == 3
    assert take(workshop, task="nap").id not in {study.id, more.id}


def test_unless_repeats_are_asked_for_a_study_ends_within_ten_plain_calls_of_the_work(workshop):
    workshop.write(NAPS)
    queue = pipeline_of(workshop, "queue")
    levels = [1, 2, 3, 4]
    study = measure(queue, task="alone", workers=levels, progress="none")
    repeats = [row.repeats for row in study.rows]
    assert sum(repeats) + len(study.plain_seconds) < 12, (
        "three rounds of what does not scale are 15 times the work, and it runs once more to warm up"
    )
    assert {1, 4} <= {row.n for row in study.rows}
    assert max(repeats) > 1
    assert ("cut   N = " in str(study)) == (len(repeats) < 4)
    assert measure(queue, task="alone", workers=levels, progress="none").id == study.id
    assert [row.repeats for row in study.rows] == repeats
    more = measure(queue, task="alone", workers=levels, repeats=2, progress="none")
    assert more.id == study.id
    assert {row.n for row in more.rows} == {1, 2, 3, 4}
    assert min(row.repeats for row in more.rows) >= 2
    assert len(more.plain_seconds) >= 2


@pytest.mark.long
def test_another_question_goes_on_with_what_was_measured(workshop):
    workshop.write(NAPS)
    naps = pipeline_of(workshop)
    study = measure(naps, task="nap", workers=[1, 2, 4], within=10.0, progress="none")
    (before,) = find_studies(workshop.project.runs)
    assert (before.started.answer, before.started.within) == ("knee", 10.0)
    more = measure(naps, task="nap", workers=[1, 2, 4], answer=4, within=1e-6, progress="none")
    assert more.id == study.id
    (after,) = find_studies(workshop.project.runs)
    assert after.measured[: len(before.measured)] == before.measured
    assert len(after.measured) >= len(before.measured)  # a busy machine may have used up the budget before
    # On a quiet machine the few repeats agree so well that no law passes through them, and then it has no answer.
    assert "\ntime  8 items take 4 workers " in str(more) or "\ntime  unknown: " in str(more)
    assert len({(each.n, each.repeat) for each in after.measured}) == len(after.measured)
    count = len(ran(workshop))
    assert measure(naps, task="nap", workers=[1, 2, 4], answer=4, within=1e-6, progress="none").id == study.id
    assert len(ran(workshop)) == count


def test_a_study_that_was_interrupted_goes_on_with_what_was_measured(workshop):
    """Also of a round that was not finished."""
    workshop.write(NAPS)
    take(workshop, task="nap", repeats=2)
    (whole,) = find_studies(workshop.project.runs)
    driver = workshop.project.runs.folder(whole.started.study) / "driver.journal"
    *_, last = read(driver)[0].events[:-1]
    events = [event for event in read(driver)[0].events if event not in (last, whole.finished)]
    driver.unlink()
    with Journal.create(driver.parent, "driver") as journal:
        for event in events:
            journal.append(event)
    count = len(ran(workshop))
    take(workshop, task="nap", repeats=2)
    (again,) = find_studies(workshop.project.runs)
    assert again.rounds == 2
    kept = [each for each in (*whole.measured, *whole.plain) if each != last]
    assert all(each in (*again.measured, *again.plain) for each in kept)
    # 8 items to warm up, and at most 8 for the one that was missing; the plain calls' first item runs twice.
    assert len(ran(workshop)) - count <= 8 + 8 + 1 + 8


def test_what_the_cache_has_of_the_inputs_is_not_computed_again(workshop):
    workshop.write(NAPS)
    workshop.run(name="naps")
    before = ran(workshop)
    take(workshop, task="nap", repeats=1)
    assert not [line for line in ran(workshop)[len(before) :] if line.startswith("start")]
    # Nor does a study leave anything in the cache.
    assert workshop.ran(workshop.run(name="naps")) == {}


def test_a_whole_pipeline_is_measured_in_runs(workshop):
    workshop.write(NAPS)
    study = take(workshop, n=4)
    assert [(row.n, row.work) for row in study.rows] == [(1, 1), (2, 1)]
    assert study.facts()["unit"] == "runs"
    assert study.facts()["task"] == ""
    assert study._repr_html_().startswith(
        '<pre style="font-family:monospace;white-space:pre-wrap">naps(n=4), strong scaling'
    )


def test_weak_scaling_and_sizes(workshop):
    workshop.write(NAPS)
    study = take(workshop, task="nap", weak=True)
    assert [(row.n, row.work) for row in study.rows] == [(1, 4), (2, 8)]
    sizes = take(workshop, task="nap", workers=(1,), sizes=[1, 4, 8])
    assert [(row.n, row.work) for row in sizes.rows] == [(1, 1), (1, 4), (1, 8)]
    assert sizes.law.family == "batch"
    assert sizes.law.parameters["a"].value > 0.03


def test_a_baseline_of_ones_own_is_given_the_whole_map(workshop):
    workshop.write(NAPS)
    module = pipeline_of(workshop).function.__globals__
    study = take(workshop, task="nap", plain=module["at_once"])
    assert "at_once 8 items" in "\n".join(ran(workshop))
    assert max(study.plain_seconds) < min(row.seconds for row in study.rows)
    assert study.cost.never
    assert "one plain thread (at_once)" in str(study)
    assert take(workshop, task="nap").id != study.id


def test_a_machine_that_is_too_noisy_is_told_from_one_that_is_not(workshop):
    workshop.write(NAPS)
    with pytest.raises(NotEnoughData, match="too noisy") as error:
        take(workshop, name="moody", task="fickle", repeats=6)
    assert "repeats=" in error.value.fix
    # Short measurements are easily disturbed, which more of them does not mend as well as longer ones.
    assert ("the shortest measurement took" in error.value.why) == ("measure more work" in error.value.fix)
    (record,) = find_studies(workshop.project.runs)
    assert record.rounds == 2
    assert record.finished is not None
    assert record.finished.status == "failed"
    assert "too noisy" in record.finished.message


def test_a_task_that_fails_ends_the_study_as_it_would_a_run(workshop):
    workshop.write(NAPS.replace("time.sleep(seconds)\n        return x", "raise ValueError('no')", 1))
    with pytest.raises(TaskError, match="no"):
        take(workshop, task="nap")


def test_a_plain_call_that_fails_is_told_as_that(workshop):
    workshop.write(NAPS.replace('note(f"at_once', 'raise ValueError("not here")\n        note(f"at_once'))
    with pytest.raises(HookeError, match=r"the plain call \(the baseline\) raised ValueError: not here"):
        take(workshop, task="nap", plain=pipeline_of(workshop).function.__globals__["at_once"])


def test_a_plain_call_that_dies_is_told_as_that(workshop):
    workshop.write(NAPS.replace('note(f"at_once', 'os.kill(os.getpid(), 9)\n        note(f"at_once'))
    with pytest.raises(HookeError, match="died: it was killed by SIGKILL"):
        take(workshop, task="nap", plain=pipeline_of(workshop).function.__globals__["at_once"])


def test_the_attempts_behind_each_measurement_are_kept(workshop):
    workshop.write(NAPS)
    study = take(workshop, task="nap", repeats=1)
    segments = {segment.name for segment in read(study.folder)}
    (record,) = find_studies(workshop.project.runs)
    assert {each.segment for each in record.measured} < segments


def test_a_map_begins_with_chunks_of_the_size_that_the_warm_up_suggests(workshop):
    workshop.write(NAPS)
    study = take(workshop, task="nap", n=300, seconds=0.0, repeats=1)
    warm, measured, _ = ([*each.events] for each in read(study.folder) if each.name.startswith("attempts-"))
    begun = [
        each for each in measured if isinstance(each, AttemptStarted)
    ]  # all of nap: start's results are kept
    done = (each for each in warm if isinstance(each, AttemptFinished) and each.node == begun[0].node)
    alone = {each.lo for each in done if each.hi - each.lo == 1 and each.seconds >= WORTH_ORDERING_S}
    first = next(each for each in begun if each.lo not in alone)
    assert first.hi - first.lo > 1


def test_names_of_ours_are_refused_where_it_is_not_clear_whose_they_are(workshop):
    workshop.write(NAPS)
    with pytest.raises(UsageError, match="both have a parameter 'repeats'"):
        take(workshop, name="crowd")
    assert take(workshop, 3, name="crowd", task="nap", repeats=1).rows[0].work == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"on": "serial"}, "fixed number of workers"),
        ({"task": "nope"}, "no task 'nope'"),
        ({"workers": (1,)}, "only one N"),
        ({"task": "total", "weak": True}, "called, not mapped"),
        ({"task": "nap", "workers": (1,), "sizes": [1, 2, 9]}, "fewer than the size 9"),
        ({"repeats": 0}, "repeats=0"),
        ({"answer": "speed"}, "cannot answer 'speed'"),
        ({"answer": 5}, "cannot tell the time with 5 workers"),
        ({"answer": 4, "repeats": 3}, "together with repeats"),
        ({"within": 0.1, "task": "nap", "workers": (1,), "sizes": [1, 2, 4]}, "together with sizes"),
        ({"answer": "knee", "task": "nap", "weak": True}, "together with weak"),
        ({"progress": "loud"}, "progress='loud'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(workshop, more, said):
    workshop.write(NAPS)
    with pytest.raises(UsageError, match=said):
        measure(pipeline_of(workshop), **({"workers": [1, 2], "progress": "none"} | more))
    assert not (workshop.folder / ".hooke").exists()


def test_a_task_is_no_pipeline(workshop):
    workshop.write(NAPS)
    with pytest.raises(UsageError, match="takes a pipeline"):
        measure(pipeline_of(workshop).function.__globals__["nap"])


@pytest.mark.needs("processes")
@pytest.mark.parametrize("kept", [False, True])
def test_each_measurement_begins_without_a_checkpoint(workshop, kept):
    """What a training saved in one measurement would be the whole work of the next."""
    workshop.write(f"""
        import time
        from pathlib import Path

        import hooke
        from hooke import pipeline, task

        HERE = Path(__file__).parent


        @task(keep_checkpoints={kept}, observe=False)
        def train(x: int) -> int:
            saved = hooke.checkpoint_dir() / "state"
            assert saved.parent == hooke.checkpoint_dir()
            with open(HERE / "begun", "a") as file:
                file.write("again\\n" if saved.exists() else "anew\\n")
            saved.write_text("done")
            time.sleep(0.05)
            return x


        @pipeline
        def several(n: int = 2) -> list[int]:
            return train.map(range(n))


        @pipeline
        def once(x: int = 1) -> int:
            return train(x)
    """)
    for name, calls in (("several", 2), ("once", 1)):
        loaded = load_entry(f"{workshop.file}:{name}")[0]
        study = measure(loaded, task="train", workers=[1, 2], repeats=2, progress="none")
        begun = workshop.folder / "begun"
        # The warm-up and two rounds of two N; the first plain call, which imports, and two rounds of plain calls.
        assert begun.read_text().split() == ["anew"] * (5 * calls + 1 + 2 * calls), study
        begun.unlink()
