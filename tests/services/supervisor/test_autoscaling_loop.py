"""The autoscaler's thread for real: it reads the log of arrivals, chooses a rule, and writes what arrives."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from hooke.autoscaling.replay import Station
from hooke.generation.token_scheduler import TokenLoad
from hooke.journal.service_events import BatchSize, BatchWindow, MethodBatches
from hooke.services.arrival_log import ArrivalLog, read_arrivals, read_facts
from hooke.services.supervisor.autoscaling_loop import Autoscaler
from hooke.services.supervisor.canary import CanaryRules, CanaryTrial
from hooke.services.supervisor.replica_events import ReplicaMember, ReplicaPhase, ReplicaReport, Rules
from hooke.services.supervisor.supervision import Rolling, Supervision
from hooke.serving.service import Service
from hooke.serving.slo import Slo


class Model:
    """A model of 50 ms."""

    def predict(self, x: int) -> int:
        """One request."""
        return x


def test_what_the_proxy_refused_is_load_and_late(tmp_path: Path) -> None:
    scaler = Autoscaler(
        Service(made_by=Model, replicas=(1, 8), slo=Slo(99.0, 0.5)), ArrivalLog(tmp_path), print
    )
    scaler.between(1, 8, now_wanted=1)
    core = Supervision(Rules(), generation="one", wanted=1)
    scaler.decide(10.0, core, called=5)
    scaler.decide(20.0, core, called=10, shed=45)
    scaler.close()
    assert read_arrivals(tmp_path)[1].sum() == 55
    assert scaler.slo_facts() == {"promised": "p99 < 500 ms", "requests": 45, "kept": 0}


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_a_rule_is_chosen_from_the_log_and_what_arrives_is_added_to_it(tmp_path: Path) -> None:
    now = int(time.time())
    log = ArrivalLog(tmp_path)
    before = np.random.default_rng(0).poisson(60.0, 1200)
    for second, count in enumerate(before.tolist()):
        log.add(now - 2000 + second, count)
    log.end_block()
    log.flush()
    said: list[str] = []
    scaler = Autoscaler(
        Service(made_by=Model, replicas=(1, 8), slo=Slo(99.0, 0.5)), ArrivalLog(tmp_path), said.append
    )
    for at in range(12):
        predict = MethodBatches(method="predict", sizes=(BatchSize(100, 100, 5.0, 0.25),))
        scaler.window(BatchWindow(at=float(at), seconds=5.0, methods=(predict,), requests=100, busy_s=5.0))
    scaler.started(4.0)
    scaler.between(1, 8, now_wanted=1)
    core = Supervision(Rules(), generation="one", wanted=1)
    try:
        chosen, tries = None, 0
        while chosen is None and tries < 600:
            tries += 1
            scaler.decide(time.monotonic(), core, called=5 * tries)
            chosen = scaler.chosen(time.monotonic())
            time.sleep(0.2)
    finally:
        scaler.close()
    assert chosen is not None
    assert chosen.reason.startswith(chosen.rule)
    assert "the cheapest that kept half of the budget" in chosen.reason
    assert scaler.choice is not None
    assert scaler.choice.kept
    _, counts = read_arrivals(tmp_path)
    assert before.sum() < counts.sum() <= before.sum() + 5 * tries
    assert read_facts(tmp_path)[0].requests == 1200
    assert not said


def talking(tmp_path: Path) -> Autoscaler:
    """The scaler of a language model."""
    model = Service(made_by=Model, replicas=(1, 8), slo=Slo(99.0, 0.5), protocol="openai")
    scaler = Autoscaler(model, ArrivalLog(tmp_path), print)
    scaler._bounds = (1, 8)
    return scaler


def replica(name: str, generation: str, load: TokenLoad) -> ReplicaMember:
    return ReplicaMember(
        name=name,
        generation=generation,
        started=0.0,
        since=0.0,
        heard_at=0.0,
        phase=ReplicaPhase.READY,
        report=ReplicaReport(tokens=load),
    )


def test_copies_of_requests_are_no_load_of_a_language_model(tmp_path: Path) -> None:
    arrived = {}
    for mirror in (True, False):
        scaler = talking(tmp_path)
        core = Supervision(Rules(), generation="old", wanted=1)
        trial = CanaryTrial(CanaryRules(share=0.5, mirror=mirror))
        core.rolling = Rolling(generation="new", reason="", trial=trial)
        for second in range(2):
            load = TokenLoad(
                running=second, running_tokens=500 * second, taken=second, ended=second, given=second
            )
            core.members = {"1": replica("1", "old", load), "2": replica("2", "new", load)}
            scaler.decide(10.0 * (second + 1), core, called=second if mirror else 2 * second)
        assert scaler._demand is not None
        arrived[mirror] = (scaler._demand.arrived, scaler._demand.outstanding)
        scaler.close()
    assert arrived[True][1] == 500
    assert arrived[False][1] == 1000
    assert 0 < arrived[True][0] < arrived[False][0]


def test_a_language_model_needs_as_many_requests_as_others_before_a_rule_is_chosen(tmp_path: Path) -> None:
    now = int(time.time())
    log = ArrivalLog(tmp_path)
    for second in range(1200):
        log.add(now - 1300 + second, 128 if second % 150 == 0 else 0)  # eight answers
    log.end_block()
    log.flush()
    scaler = talking(tmp_path)
    station = Station(
        rate=1000.0, wait_s=1.0, variability=255.0, percent=99.0, start_s=5.0, in_service=1000.0
    )
    scaler._replay(station)
    assert scaler._new is None
    for second in range(1200):
        log.add(now - 1300 + second, 256)
    log.end_block()
    log.flush()
    scaler._due = 0.0
    scaler._replay(station)
    assert scaler._new is not None
    scaler.close()


def test_tokens_are_logged_once_it_is_known_what_one_of_a_prompt_counts(tmp_path: Path) -> None:
    scaler = talking(tmp_path)
    core = Supervision(Rules(), generation="one", wanted=1)
    for second in range(4):
        load = TokenLoad(taken=second, prompt_tokens=1000 * second)
        core.members = {"1": replica("1", "one", load)}
        assert scaler._demand is not None
        scaler._demand.weight = 0.5 if second >= 2 else 0.0
        scaler.decide(10.0 * (second + 1), core, called=second)
    assert [count >= 500 for _, count in scaler._keeper.arrivals] == [True, True]
    scaler.close()
