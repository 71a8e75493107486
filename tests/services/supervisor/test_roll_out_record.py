"""What a trial is told of each replica, and what the next supervisor is told of a roll-out."""

import pytest

from hooke.base.errors import UsageError
from hooke.cli.serve.serve import canary_rules
from hooke.journal.service_events import RollOutChanged
from hooke.services.supervisor.canary import CanaryRules
from hooke.services.supervisor.control_channel import ReplicaUpdate
from hooke.services.supervisor.generation import Generation, write_generation
from hooke.services.supervisor.replica_events import ReplicaReport
from hooke.services.supervisor.roll_out_record import OutcomeReader, RollOutRecord, generation_before
from hooke.services.supervisor.service_folder import ServiceFolder
from hooke.serving.metrics import Counts, RouteCounts
from hooke.serving.problems import ServiceRaised, problem_of


def update(statuses, latencies=(), *, path="/predict", raised=None):
    counts = Counts(service="Times", routes={path: RouteCounts(statuses, [], 0.0)}, raised=raised or {})
    return ReplicaUpdate(report=ReplicaReport(), counts=counts, latencies=tuple(latencies))


def told(outcomes):
    return outcomes.answered, outcomes.failed, outcomes.latencies, dict(outcomes.raised)


def test_outcomes_are_what_came_since_the_last_report():
    reader = OutcomeReader(warm_up=3)
    assert told(reader.take("1", update({200: 3}, [(5, 3)]), adopted=False)) == (3, 0, (), {})
    raised = {"predict raised KeyError": 2}
    more = update({200: 5, 500: 2, 422: 1, 429: 9, 401: 9, 503: 9, 499: 9}, [(5, 4), (9, 1)], raised=raised)
    assert told(reader.take("1", more, adopted=False)) == (5, 3, ((5, 1), (9, 1)), raised)
    assert reader.take("1", ReplicaUpdate(report=ReplicaReport()), adopted=False) is None
    assert told(reader.take("1", update({200: 99}, path="/-/health"), adopted=False))[:2] == (0, 0)


def test_an_adopted_replica_tells_from_where_to_count_and_the_end_of_a_window_loses_nothing():
    reader = OutcomeReader(warm_up=0)
    assert reader.take("1", update({200: 70}, [(5, 70)]), adopted=True) is None
    assert told(reader.take("1", update({200: 71}, [(5, 1)]), adopted=True)) == (1, 0, (), {})
    assert told(reader.take("1", update({200: 72}, [(5, 72)]), adopted=True)) == (1, 0, ((5, 2),), {})
    reader.forget("1")
    assert told(reader.take("1", update({200: 2}, [(5, 2)]), adopted=False))[:2] == (2, 0)


def generation(key):
    names = {"label": key, "target": "f.py:F", "project": "", "folder": "", "given": b"", "host": ""}
    return Generation(key=key, **names, names=(), token_file="")


@pytest.mark.parametrize(
    ("record", "first", "alive", "found"),
    [
        (None, "b", True, None),
        (RollOutRecord(serving="a"), "a", True, "a"),
        (RollOutRecord(serving="a"), "b", True, "a"),
        (RollOutRecord(serving="a"), "b", False, None),
        (RollOutRecord(serving="a", candidate="b", status="began"), "b", False, "a"),
        (RollOutRecord(serving="a", candidate="b", status="back"), "b", False, "a"),
        (RollOutRecord(serving="a", candidate="b", status="back"), "a", False, "a"),
        (RollOutRecord(serving="a", candidate="b", status="back"), "c", False, None),
        (RollOutRecord(serving="lost", candidate="b", status="began"), "b", True, None),
    ],
)
def test_what_is_served_follows_from_the_record_and_from_what_the_names_mean_now(
    tmp_path, record, first, alive, found
):
    folder = ServiceFolder(tmp_path / "Times")
    folder.create()
    write_generation(folder.generation("a"), generation("a"))
    assert RollOutRecord.read(folder) is None
    if record is not None:
        record.write(folder)
    before = generation_before(folder, RollOutRecord.read(folder), generation(first), alive=alive)
    assert (before.key if before is not None else None) == found


def test_the_record_follows_the_events():
    keys = {"a (1)": "1", "b (2)": "2"}

    def after(status):
        event = RollOutChanged(generation="b (2)", before="a (1)", status=status, reason="so")
        return RollOutRecord.after(event, keys)

    assert (after("began").serving, after("began").candidate) == ("1", "2")
    assert after("back").refuses("2") and not after("back").refuses("1")
    assert after("accepted").accepts("2") and not after("began").accepts("2")
    assert after("done") == RollOutRecord(serving="2", status="done")


def test_a_failure_is_named_by_its_type_and_line_without_its_text():
    try:
        raise KeyError("a secret")
    except KeyError as error:
        raised = problem_of(error, "predict").raised
    assert raised.startswith("predict raised KeyError (test_roll_out_record.py, line ")
    far = ServiceRaised(
        "KeyError", 'Traceback:\n  File "/srv/times.py", line 7, in predict\nKeyError: a secret'
    )
    assert problem_of(far, "predict").raised == "predict raised KeyError (times.py, line 7)"


OPTIONS = {"canary": None, "mirror": None, "limit_s": 600.0}


def test_shares_are_percent():
    assert canary_rules(OPTIONS) == CanaryRules()
    assert canary_rules(OPTIONS | {"canary": "off"}) is None
    assert canary_rules(OPTIONS | {"canary": "12.5%"}).share == 0.125
    mirrored = canary_rules(OPTIONS | {"mirror": "100%"})
    assert (mirrored.share, mirrored.mirror) == (1.0, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"canary": "0.05"}, "not a valid share"),
        ({"canary": "60%"}, "1% to 50%; off tries nothing"),
        ({"canary": "0.1%"}, "not a valid share"),
        ({"mirror": "off"}, "write 1% to 100%"),
        ({"canary": "5%", "mirror": "5%"}, "exclude each other"),
    ],
)
def test_other_shares_are_refused(given, said):
    with pytest.raises(UsageError) as raised:
        canary_rules(OPTIONS | given)
    assert said in f"{raised.value}"
