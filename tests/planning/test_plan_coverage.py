"""Plans hold what simulated runs then take, and are narrow enough to use. The full table: docs/decisions/0068-replays.md.

A history is a machine, its tasks and a pipeline, drawn by a seed; runs are planned after one, two, ... earlier runs, and at
workers and sizes that none of these had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.planning.simulated_runs import HOST, Machine, drawn, drawn_with_data
from tests.support.sizes import choose_size

from hooke.journal.study_records import StudyRecord
from hooke.pipeline.pipeline import Pipeline
from hooke.planning.pipeline_plan import PlanQuestion, predicted
from hooke.planning.task_facts import PastJournals
from hooke.planning.timings import RunTimes, run_times
from hooke.project.folder import Project

HISTORIES = choose_size(sample=6, full=6, soak=120)
NEAR = ("as before", "1.5 x items", "2 x items", "3 workers", "6 workers")
"""Questions within twice what was measured."""
FAR = ("10 x items", "12 workers, 4 x items")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A prediction and what the run took; None if it was refused."""

    asked: str
    interval: tuple[float, float] | None = None
    took: float = math.nan

    @property
    def held(self) -> bool:
        assert self.interval is not None
        return self.interval[0] <= self.took <= self.interval[1]

    @property
    def width(self) -> float:
        assert self.interval is not None
        return self.interval[1] / self.interval[0]


DATA_NEAR = ("1 x data", "1.5 x data", "2 x data", "2 x data, 3 workers")
"""Questions within twice the largest data measured, after five runs and more."""
DATA_FAR = ("4 x data", "10 x data", "10 x the smallest data", "10 x the smallest data, 4 workers")


@dataclass(slots=True, kw_only=True)
class History:
    """A machine, a pipeline, and its runs so far, the newest first."""

    project: Project
    machine: Machine
    pipeline: Pipeline[..., object]
    studies: dict[str, list[StudyRecord]]
    past: list[RunTimes] = field(default_factory=list)
    first: int = 0

    def run(self, *, workers: int, n: int) -> None:
        """A run that is remembered. No item is one of an earlier run."""
        self.first += 10_000
        ran = self.machine.run(self.pipeline, workers=workers, first=self.first, n=n)
        found = run_times(ran.events)
        assert found is not None
        self.past.insert(0, found)

    def ask(self, asked: str, *, workers: int, n: int) -> Outcome:
        """Plan a run, and, if the plan has a time, make it; it is not remembered."""
        self.first += 10_000
        question = PlanQuestion(
            pipeline=self.pipeline, params={"first": self.first, "n": n}, workers=[workers], catalog=[]
        )
        predicted_s = self.predicted_s(question)
        if predicted_s is None:
            return Outcome(asked=asked)
        took = self.machine.run(self.pipeline, workers=workers, first=self.first, n=n).seconds
        return Outcome(asked=asked, interval=predicted_s, took=took)

    def predicted_s(self, question: PlanQuestion) -> tuple[float, float] | None:
        """The interval of the plan for one number of workers; None if it has none."""
        known = PastJournals(
            pipeline=self.pipeline.name,
            host=HOST,
            is_here=True,
            runs=self.past,
            studies=self.studies,
            everywhere=self.past,
        )
        plan = predicted(question, self.project, known)
        row = plan.rows[0] if plan.rows else None
        if row is None or row.seconds is None or plan.untimed:
            return None
        return row.seconds.interval


def outcomes(seed: int, project: Project) -> Iterator[Outcome]:
    """One history: five to eight runs, each planned before it, then the questions beyond them."""
    machine, pipeline = drawn(seed)
    rng = np.random.default_rng([seed, 1])
    studied, workers = int(rng.integers(3)), [1, 2, 4]
    if studied != 1:  # always as many workers; whoever does that may have measured the maps
        workers = [int(rng.choice([2, 4]))]
    studies = {
        name: [machine.study(name, pipeline.name, (1, 2, 4))] for name in ("clean", "score") if not studied
    }
    history = History(project=project, machine=machine, pipeline=pipeline, studies=studies)
    size, varies = int(rng.choice([16, 24, 40])), rng.random() < 0.5
    for number in range(int(rng.integers(5, 9))):
        now = workers[number % len(workers)]
        n = int(size * rng.uniform(0.7, 1.3)) if varies else size
        if 0 < number < 5:
            yield history.ask(f"after {number} run{'s' * (number > 1)}", workers=now, n=n)
        history.run(workers=now, n=n)
    yield history.ask("as before", workers=workers[0], n=size)
    yield history.ask("1.5 x items", workers=workers[0], n=3 * size // 2)
    yield history.ask("2 x items", workers=workers[0], n=2 * size)
    yield history.ask("3 workers", workers=3, n=size)
    yield history.ask("6 workers", workers=6, n=size)
    yield history.ask("10 x items", workers=workers[0], n=10 * size)
    yield history.ask("12 workers, 4 x items", workers=12, n=4 * size)


def data_outcomes(seed: int, project: Project) -> Iterator[Outcome]:
    """One history of five to eight runs on data of three sizes, then the questions beyond them."""
    machine, pipeline = drawn_with_data(seed)
    rng = np.random.default_rng([seed, 3])
    workers, base = (
        [1, 2, 4] if rng.random() < 1 / 3 else [int(rng.choice([2, 4]))],
        float(rng.choice([2.0, 10.0, 40.0])),
    )
    history = DataHistory(project=project, machine=machine, pipeline=pipeline, studies={})
    sizes = rng.permutation([1, 2, 4]).tolist()
    for number in range(int(rng.integers(5, 9))):
        if number == 1:
            yield history.ask_for(4.0, "after 1 run: 4 x data", workers=workers[0])
        history.run_on(base * sizes[number % 3], workers=int(rng.choice(workers)))
    for asked in (*DATA_NEAR, *DATA_FAR):
        scale = float(asked.partition(" ")[0])
        at = int(asked.partition(", ")[2].partition(" ")[0] or workers[0])
        yield history.ask_for(scale, asked, workers=at)


@dataclass(slots=True, kw_only=True)
class DataHistory(History):
    """A history of runs on files, with their MB by path."""

    mb: dict[str, float] = field(default_factory=dict)

    def run_on(self, mb: float, *, workers: int) -> None:
        self.first += 1
        path = f"/data/{self.first}-"
        ran = self.machine.run_on(self.pipeline, workers=workers, path=path, mb=mb)
        found = run_times(ran.events)
        assert found is not None
        self.past.insert(0, found)
        self.mb[path] = mb

    def ask_for(self, scale: float, asked: str, *, workers: int) -> Outcome:
        """Plan a run on `scale` times the largest or the smallest data so far, and, if the plan has a time, make it."""
        path = (min if "smallest" in asked else max)(self.mb, key=lambda each: self.mb[each])
        question = PlanQuestion(
            pipeline=self.pipeline, params={"path": path}, workers=[workers], catalog=[], scale=scale
        )
        predicted_s = self.predicted_s(question)
        if predicted_s is None:
            return Outcome(asked=asked)
        mb = scale * self.mb[path]
        took = self.machine.run_on(self.pipeline, workers=workers, path="/data/next", mb=mb).seconds
        return Outcome(asked=asked, interval=predicted_s, took=took)


def wilson(held: int, asked: int) -> tuple[float, float]:
    """The interval of 95 % of a share (Wilson, 1927)."""
    z, share = 1.96, held / asked
    middle = (share + z**2 / (2 * asked)) / (1 + z**2 / asked)
    half = z / (1 + z**2 / asked) * math.sqrt(share * (1 - share) / asked + z**2 / (4 * asked**2))
    return middle - half, middle + half


def line(name: str, found: list[Outcome]) -> str:
    answered = [each for each in found if each.interval is not None]
    if not answered:
        return f"{name}: 0 of {len(found)} answered"
    held = sum(each.held for each in answered)
    low, high = wilson(held, len(answered))
    width = np.quantile([each.width for each in answered], [0.5, 0.9])
    return (
        f"{name}: {len(answered)} of {len(found)} answered, {held} held ({held / len(answered):.1%}; "
        f"{low:.1%} to {high:.1%}), width {width[0]:.2f} (nine of ten under {width[1]:.2f})"
    )


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.timeout(1500)
def test_plans_hold_and_are_narrow(tmp_path):
    (tmp_path / "hooke.toml").write_text("")
    project = Project.at(tmp_path)
    found = [each for seed in range(HISTORIES) for each in outcomes(seed, project)]
    names = dict.fromkeys(each.asked for each in found)
    for name in sorted(names, key=lambda name: (name in NEAR, name in FAR, name)):
        print(line(name, [each for each in found if each.asked == name]))
    early = [each for each in found if each.asked.startswith("after")]
    near, far = ([each for each in found if each.asked in kind] for kind in (NEAR, FAR))
    for name, some in (("early", early), ("near", near), ("far", far)):
        print(line(name, some))
        answered = [each for each in some if each.interval is not None]
        low, high = wilson(sum(each.held for each in answered), len(answered))
        assert high >= 0.93, "too narrow"
        if name == "near":
            assert low <= 0.97, "too wide"
        if name != "early":
            assert np.median([each.width for each in answered]) <= (1.6 if name == "near" else 2.5)
    answered = [each for each in near if each.interval is not None]
    assert len(answered) >= 0.8 * len(near), "a refusal holds nothing"


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.timeout(1500)
def test_plans_for_other_sizes_of_the_data_hold_and_are_narrow(tmp_path):
    (tmp_path / "hooke.toml").write_text("")
    project = Project.at(tmp_path)
    found = [each for seed in range(HISTORIES) for each in data_outcomes(seed, project)]
    for name in dict.fromkeys(each.asked for each in found):
        print(line(name, [each for each in found if each.asked == name]))
    near, far = ([each for each in found if each.asked in kind] for kind in (DATA_NEAR, DATA_FAR))
    for name, some in (("near", near), ("far", far)):
        print(line(name, some))
        answered = [each for each in some if each.interval is not None]
        low, high = wilson(sum(each.held for each in answered), len(answered))
        assert high >= 0.93, "too narrow"
        if name == "near":
            assert low <= 0.97, "too wide"
        if HISTORIES >= 100:  # a dozen have no median to speak of
            assert np.median([each.width for each in answered]) <= (1.6 if name == "near" else 2.5)
    assert len([each for each in near if each.interval is not None]) >= 0.8 * len(near), (
        "a refusal holds nothing"
    )
