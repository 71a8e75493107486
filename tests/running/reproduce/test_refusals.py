"""What cannot be made again says so, and what to do instead."""

import pytest

from hooke.base.errors import UsageError
from hooke.journal.events import NotesLogged, RunFinished, RunStarted, SearchStarted, StudyStarted
from hooke.journal.writer import Journal
from hooke.project.folder import Project
from hooke.running.reproduce.reproduce import ReproduceOptions, Reproduction, reproduce_in

STARTED = RunStarted(run="r", pipeline="p", entry="f.py:p")


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ([NotesLogged()], "never started"),
        ([STARTED], "is lost, so it has no results"),
        ([STARTED, RunFinished(status="failed")], "is failed, so it has no results"),
        ([STARTED, RunFinished(status="finished")], "has no record of its provenance"),
        ([StudyStarted(study="r", pipeline="p", entry="f.py:p")], "is a scaling study of 'p'"),
        (
            [
                STARTED,
                SearchStarted(
                    key="k", space={}, metric="", direction="minimize", sampler="tpe", pruner="none", seed=0
                ),
            ],
            "is a search",
        ),
    ],
)
def test_what_cannot_be_made_again_says_so(tmp_path, events, what):
    project = Project.find(tmp_path)
    with Journal.create(project.runs.create("r"), "driver", durable="none") as journal:
        for event in events:
            journal.append(event)
    with pytest.raises(UsageError, match=what) as refused:
        reproduce_in(project, "r", ReproduceOptions())
    assert refused.value.fix or refused.value.next


def test_a_reproduction_without_conditions_has_a_text_and_facts():
    found = Reproduction(run="r", status="failed", message="no room")
    assert str(found).endswith("the rerun failed: no room")
    assert found.facts()["message"] == "no room"
