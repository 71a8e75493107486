"""The benchmark of autoscalers: its page has the figures of its record, and a small part of it runs."""

from __future__ import annotations

import json

import pytest
from benchmarks.replay import GOALS, PAGE, RECORD, TRAFFICS, experiment
from benchmarks.replay_page import GOAL, compared, page


def test_the_page_is_that_of_the_record() -> None:
    rows = [json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines()]
    assert PAGE.read_text(encoding="utf-8") == page(rows)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("number", range(3), ids=[each.name for each in TRAFFICS[:3]])
def test_an_hour_is_judged_on_its_second_half(number: int) -> None:
    row = experiment(TRAFFICS[number], 30.0, 0)
    assert GOALS[GOAL] == 99.0
    made = compared(row)
    assert made["late"] <= 0.015
    assert made["work"] <= made["bound"] <= made["hours"]
    for each in row["families"].values():
        assert len(each["picks"]) == len(GOALS)
