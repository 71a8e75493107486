"""Overload: goodput, refusals and recovery of replicas behind Envoy at one to ten times their capacity, with a model that waits.

`python -m benchmarks.serving.overload --record` from the repository's root, about three minutes, writes `benchmarks/records/overload.json`.
The model sleeps, so that the generator, Envoy and the replicas fit on two cores. Latencies are those of the client, from the moment at
which a request was begun.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.serving.peers import ROOT
from tests.services.supervisor.supervised import Supervised, end_all
from tests.services.supervisor.waiting_service import BATCH, BATCH_S
from tests.serving.overloaded import Law, play

from hooke.loadtest.generator_protocol import Goal, Outcomes
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import parse_target, poisson, request_bytes
from hooke.serving.admission import Urgency

RECORD = ROOT / "benchmarks" / "records" / "overload.json"
PROGRAM = ROOT / "tests" / "services" / "supervisor" / "waiting_service.py"
SLO_S = 0.8
TIMEOUT_S = 10.0
CONNECTIONS = 512


RECOVERY_S = (0.0, 0.5, 1.0, 2.0)
"""Half seconds after an overload that are looked at."""
SIMULATED_TIMES, SIMULATED_SEEDS, SIMULATED_S = (0.5, 0.8, 1.5, 5.0), 10, 30.0


def row(times: float, seen: Outcomes, capacity: float, seconds: float) -> dict[str, Any]:
    """One line of the table, with raw counts."""
    took = seen.ended - seen.begun
    good = (seen.status == 200) & (took <= SLO_S)
    late = (seen.status == 200) & ~good
    refused = np.isin(seen.status, (429, 503))
    refusal = np.quantile(took[refused], [0.5, 0.99]) * 1e3 if refused.any() else None
    return {
        "times": times,
        "requests": len(seen),
        "in_time": int(good.sum()),
        "in_time_of_capacity": round(good.sum() / seconds / capacity, 4),
        "late": int(late.sum()),
        "refused": int(refused.sum()),
        "refusal_p50_p99_ms": None if refusal is None else [round(float(one), 2) for one in refusal],
        "other": int((~(good | late | refused)).sum()),
        "load_average": round(os.getloadavg()[0], 1),
    }


def refusals(log: Path) -> dict[str, Any]:
    """What Envoy's own clock says of the requests that it refused itself: whole milliseconds from the head to the last byte."""
    told = [json.loads(line) for line in log.read_text().splitlines()]
    took = [one["took_ms"] for one in told if "overflow" in (one["why"] or "")]
    if not took:
        return {"refused": 0, "of": len(told)}
    p50, p99 = np.quantile(took, [0.5, 0.99], method="inverted_cdf")
    return {"refused": len(took), "of": len(told), "p50_p99_ms": [int(p50), int(p99)]}


def simulated() -> list[dict[str, Any]]:
    """The same in virtual time, without Envoy: a batch of up to eight takes 20 ms and 1 ms a row, a tenth more or less."""
    law, slo_s = Law(a=0.001, b=0.02, max_batch=8), 0.2
    rows = []
    for times in SIMULATED_TIMES:
        totals = Counter[str]()
        rates = {Urgency.CALL: times * law.capacity}
        for seed in range(SIMULATED_SEEDS):
            world = play(seed, law, lambda _, rates=rates: rates, slo_s=slo_s, seconds=SIMULATED_S)
            totals.update(world.count(1.0, SIMULATED_S))
        seconds = SIMULATED_SEEDS * (SIMULATED_S - 1)
        rows.append(
            {
                "times": times,
                "in_time_of_capacity": round(totals["in time"] / seconds / law.capacity, 4),
                **{name.replace(" ", "_"): count for name, count in sorted(totals.items())},
            }
        )
    return rows


def real(replicas: int, times: Sequence[float], seconds: float) -> dict[str, Any]:
    """Replicas behind Envoy at these multiples of their capacity, one after the other, and what follows five times of it."""
    capacity = replicas * BATCH / BATCH_S
    folder = Path(tempfile.mkdtemp(prefix="overload-"))
    shutil.copy(PROGRAM, folder)
    (folder / "hooke.toml").write_text('[services.Waiting]\naccess_log = "access.log"\n')
    service = Supervised(folder, "--replicas", str(replicas), file=PROGRAM.name)
    try:
        service.until_ready(replicas)
        target = parse_target(service.url)
        requests = (request_bytes(target, "/predict", b'{"rows": [1]}', token=service.token),)
        goal = Goal(host=target.host, port=target.port, requests=requests, connections=CONNECTIONS)
        with Generator(goal) as generator:

            def send(due: np.ndarray) -> Outcomes:
                return outcomes_of(due, generator.run(due, timeout_s=TIMEOUT_S))

            send(poisson(0.7 * capacity, 3.0, 3))  # the law is measured
            rows = [row(one, send(poisson(one * capacity, seconds, 3)), capacity, seconds) for one in times]
            # The overload ends, and the next request comes at once.
            seen = send(
                np.concatenate([poisson(5 * capacity, 5.0, 4), 5.0 + poisson(0.7 * capacity, 5.0, 5)])
            )
        service.end()
        return {
            "replicas": replicas,
            "capacity": capacity,
            "seconds": seconds,
            "rows": rows,
            "after_five_times": [_answered(seen, 5.0 + after) for after in RECOVERY_S],
            "envoy": refusals(folder / "access.log"),
        }
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _answered(seen: Outcomes, since: float) -> list[int]:
    """Answered requests of this half second, and all of it."""
    part = (seen.due >= since) & (seen.due < since + 0.5)
    return [int((seen.status[part] == 200).sum()), int(part.sum())]


# --- The page's tables.


def simulated_table(record: Mapping[str, Any]) -> str:
    """In virtual time."""
    lines = [
        "| load | in time, of capacity | late, of admitted | refused at once, of excess | shed later, of excess |",
        "|---|---|---|---|---|",
    ]
    for one in record["simulated"]:
        admitted = one.get("in_time", 0) + one.get("late", 0)
        excess = max(one.get("refused", 0) + one.get("shed", 0), 1)
        lines.append(
            f"| {one['times']:g} times | {one['in_time_of_capacity']:.3f} | {one.get('late', 0) / admitted:.4f} "
            f"| {one.get('refused', 0) / excess:.3f} | {one.get('shed', 0) / excess:.3f} |"
        )
    return "\n".join(lines) + "\n"


def table(record: Mapping[str, Any]) -> str:
    """With real replicas behind Envoy."""
    lines = [
        "| load | requests | in time, of capacity | late, of all | refused, of all | refusal p50, p99 | load of the machine |",
        "|---|---:|---|---|---|---|---|",
    ]
    for one in record["real"]["rows"]:
        refusal = one["refusal_p50_p99_ms"]
        told = "" if refusal is None else f"{refusal[0]:.1f} ms, {refusal[1]:.1f} ms"
        lines.append(
            f"| {one['times']:g} times | {one['requests']:,} | {one['in_time_of_capacity']:.3f} "
            f"| {one['late'] / one['requests']:.4f} | {one['refused'] / one['requests']:.3f} | {told} | {one['load_average']:g} |"
        )
    return "\n".join(lines) + "\n"


def told(record: Mapping[str, Any]) -> str:
    """What Envoy refused, and the recovery."""
    envoy, halves = record["real"]["envoy"], record["real"]["after_five_times"]
    parts = [f"{after:g} s: {good} of {of}" for after, (good, of) in zip(RECOVERY_S, halves, strict=True)]
    text = f"Envoy refused {envoy['refused']:,} of {envoy['of']:,} requests itself"
    if envoy["refused"]:
        text += "; by its own clock, in whole milliseconds, p50 {} ms, p99 {} ms".format(*envoy["p50_p99_ms"])
    return f"{text}. Answered in the half seconds that begin so long after five times the capacity, at 0.7 times: {'; '.join(parts)}.\n"


def main() -> None:
    """The command."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--seconds", type=float, default=10.0)
    given.add_argument("--replicas", type=int, default=2)
    given.add_argument("--times", type=float, nargs="+", default=[0.7, 1.5, 5.0, 10.0])
    given.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    asked = given.parse_args()
    record = {
        "cores": os.cpu_count(),
        "simulated": simulated(),
        "real": real(asked.replicas, asked.times, asked.seconds),
    }
    if asked.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(simulated_table(record), table(record), told(record), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
