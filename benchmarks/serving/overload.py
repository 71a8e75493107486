"""Overload: goodput, refusals and recovery of replicas behind Envoy at one to ten times their capacity, with a model that waits.

`python -m benchmarks.serving.overload` from the repository's root; about two minutes. The model sleeps, so that the generator, Envoy
and the replicas fit on two cores. Latencies are those of the client, from the moment at which a request was due to be begun.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from tests.services.supervisor.supervised import Supervised, end_all
from tests.services.supervisor.waiting_service import BATCH, BATCH_S
from tests.serving.overloaded import Law, play

from hooke.loadtest.generator_protocol import Goal, Outcomes
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import parse_target, poisson, request_bytes
from hooke.serving.admission import Urgency

PROGRAM = Path(__file__).parents[2] / "tests" / "services" / "supervisor" / "waiting_service.py"
SLO_S = 0.8
TIMEOUT_S = 10.0
CONNECTIONS = 512


def row(name: str, seen: Outcomes, capacity: float, seconds: float) -> str:
    """One line of the table: the load is what the generator really began."""
    took = seen.ended - seen.begun
    good = (seen.status == 200) & (took <= SLO_S)
    late = (seen.status == 200) & ~good
    refused = np.isin(seen.status, (429, 503))
    other = ~(good | late | refused)
    refusal = np.quantile(took[refused], [0.5, 0.99]) * 1e3 if refused.any() else (np.nan, np.nan)
    return (
        f"| {name} | {len(seen) / seconds / capacity:.2f} | {good.sum() / seconds / capacity:.3f} | {late.mean():.4f} "
        f"| {refused.mean():.3f} | {refusal[0]:.2f} | {refusal[1]:.2f} | {other.sum()} |"
    )


def refusals(log: Path) -> str:
    """What Envoy's own clock says of the requests that it refused itself: whole milliseconds from the head to the last byte."""
    told = [json.loads(line) for line in log.read_text().splitlines()]
    took = [one["took_ms"] for one in told if "overflow" in (one["why"] or "")]
    if not took:
        return "Envoy refused nothing"
    p50, p99 = np.quantile(took, [0.5, 0.99], method="inverted_cdf")
    return f"Envoy refused {len(took)} of {len(told)} itself; by its own clock p50 {p50} ms, p99 {p99} ms"


def simulated() -> None:
    """The same in virtual time, without Envoy: a batch of up to eight takes 20 ms and 1 ms a row, a tenth more or less."""
    law, slo_s, seconds = Law(a=0.001, b=0.02, max_batch=8), 0.2, 30.0
    print(
        "| load | in time, of capacity | late, of admitted | refused at once, of excess | shed later, of excess |"
    )
    print("|---|---|---|---|---|")
    for times in (0.5, 0.8, 1.5, 5.0):
        totals = Counter[str]()
        for seed in range(10):
            rates = {Urgency.CALL: times * law.capacity}
            totals.update(
                play(seed, law, lambda _, rates=rates: rates, slo_s=slo_s, seconds=seconds).count(
                    1.0, seconds
                )
            )
        admitted, excess = totals["in time"] + totals["late"], totals["refused"] + totals["shed"]
        print(
            f"| {times:g} times | {totals['in time'] / 10 / (seconds - 1) / law.capacity:.3f} | {totals['late'] / admitted:.4f} "
            f"| {totals['refused'] / max(excess, 1):.3f} | {totals['shed'] / max(excess, 1):.3f} |",
            flush=True,
        )


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--seconds", type=float, default=10.0)
    given.add_argument("--replicas", type=int, default=2)
    given.add_argument("--times", type=float, nargs="+", default=[0.7, 1.5, 5.0, 10.0])
    given.add_argument("--simulated", action="store_true", help="in virtual time, without Envoy")
    asked = given.parse_args()
    if asked.simulated:
        simulated()
        return
    capacity = asked.replicas * BATCH / BATCH_S
    folder = Path(tempfile.mkdtemp(prefix="overload-"))
    shutil.copy(PROGRAM, folder)
    (folder / "hooke.toml").write_text('[services.Waiting]\naccess_log = "access.log"\n')
    service = Supervised(folder, "--replicas", str(asked.replicas), file=PROGRAM.name)
    try:
        service.until_ready(asked.replicas)
        target = parse_target(service.url)
        requests = (request_bytes(target, "/predict", b'{"rows": [1]}', token=service.token),)
        goal = Goal(host=target.host, port=target.port, requests=requests, connections=CONNECTIONS)
        print(
            "| load | of capacity | in time, of capacity | late, share | refused, share | refusal p50 ms | p99 ms | other |"
        )
        print("|---|---|---|---|---|---|---|---|")
        with Generator(goal) as generator:

            def level(times: float, seconds: float) -> Outcomes:
                due = poisson(times * capacity, seconds, 3)
                return outcomes_of(due, generator.run(due, timeout_s=TIMEOUT_S))

            level(0.7, 3.0)  # the law is measured
            for times in asked.times:
                print(
                    row(f"{times:g} times", level(times, asked.seconds), capacity, asked.seconds), flush=True
                )
            # The overload ends, and the next request comes at once.
            parts = [poisson(5 * capacity, 5.0, 4), 5.0 + poisson(0.7 * capacity, 5.0, 5)]
            due = np.concatenate(parts)
            seen = outcomes_of(due, generator.run(due, timeout_s=TIMEOUT_S))
            for at in (5.0, 5.5, 6.0, 7.0):
                after = seen.due >= at
                after &= seen.due < at + 0.5
                ok = (seen.status[after] == 200).mean()
                print(f"{at - 5.0:g} to {at - 4.5:g} s after five times: {ok:.3f} answered", flush=True)
        service.end()
        print(refusals(folder / "access.log"))
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
