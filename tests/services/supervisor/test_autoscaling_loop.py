"""The autoscaler's thread for real: it reads the log of arrivals, chooses a rule, and writes what arrives."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from hooke.journal.service_events import BatchSize, BatchWindow, MethodBatches
from hooke.services.arrival_log import ArrivalLog, read_arrivals, read_facts
from hooke.services.supervisor.autoscaling_loop import Autoscaler
from hooke.services.supervisor.replica_events import Rules
from hooke.services.supervisor.supervision import Supervision
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
