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
        ([NotesLogged()], "is no run that began"),
        ([STARTED], "is lost: it has no results"),
        ([STARTED, RunFinished(status="failed")], "is failed: it has no results"),
        ([STARTED, RunFinished(status="finished")], "has no record of what it was made of"),
        ([StudyStarted(study="r", pipeline="p", entry="f.py:p")], "measured how 'p' scales"),
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


def test_a_reproduction_without_anchors_has_a_text_and_facts():
    found = Reproduction(run="r", status="failed", message="no room")
    assert str(found).endswith("it could not be made again: no room")
    assert found.facts()["message"] == "no room"
