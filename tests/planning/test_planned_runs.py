"""Predicted against actual: sleeping tasks, planned and then run with 2 to 8 workers on the local engine."""

import pytest

from hooke.journal.events import PlanChecked
from hooke.measuring.study_driver import StudyOrder, prepare_study
from hooke.planning.pipeline_plan import PlanQuestion, make_plan
from hooke.project.pipeline_file import load_entry

NAPS = """
    import time
    from hooke import pipeline, task

    @task
    def read(x: int) -> int:
        time.sleep(0.05)
        return x

    @task
    def clean(x: int, year: int) -> int:
        time.sleep(0.05 + 0.05 * (x % 3))
        return x

    @task
    def total(xs: list[int]) -> int:
        time.sleep(0.2)
        return len(xs)

    @pipeline
    def naps(first: int = 0, n: int = 24) -> list[int]:
        year = read(first)
        xs = clean.map(range(first, first + n), year=year)
        return [total(xs), total(clean.map(read.map(range(first, first + n)), year=year))]
"""
LEVELS = range(2, 9)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_runs_end_when_their_plan_says(workshop):
    workshop.write(NAPS)
    for first in (500, 700):
        workshop.run(on="local", workers=2, first=first)
    pipeline, _ = load_entry(str(workshop.file))
    for task in ("read", "clean"):
        order = StudyOrder(
            pipeline=pipeline, params={"first": 1000}, task=task, workers=[1, 2, 4, 8], repeats=2
        )
        prepare_study(order, workshop.project).drive()
    outcomes = {}
    for n in LEVELS:
        params = {"first": 10_000 * n}
        make_plan(PlanQuestion(pipeline=pipeline, params=params, workers=[n]), workshop.project)
        run = workshop.run(on="local", workers=n, **params)
        (checked,) = [event for event in run.journal if isinstance(event, PlanChecked)]
        low, value, high = checked.predicted_s
        outcomes[n] = (low, value, high, checked.seconds)
        print(f"N = {n}: {value:.2f} s ({low:.2f} to {high:.2f}), took {checked.seconds:.2f} s")
    inside = [n for n, (low, _, high, took) in outcomes.items() if low <= took <= high]
    # Each interval is meant for 95 %: of seven, one may miss. One that holds anything would say nothing.
    assert len(inside) >= len(LEVELS) - 1, outcomes
    assert all(high < 4 * value for _, value, high, _ in outcomes.values()), outcomes
