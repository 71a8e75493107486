"""A recorded hour on live replicas, ten times as fast: what the rule that was chosen by replay really gives, beside what its replay says.

`python -m benchmarks.serving.closed_loop --record` from the repository's root, about five minutes, writes `benchmarks/records/closed_loop.json`.
The first half of the hour, four times in a row, is written into the service's log of arrivals: a rule is chosen from ten minutes
on. The service starts, chooses its rule, and gets the second half. Its requests take 0.2 s where those of the trace would take 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.serving.peers import ROOT
from benchmarks.serving.programs.closed_loop_service import ANSWER_S
from numpy.typing import NDArray
from tests.autoscaling.request_simulation import simulate_requests, spread_in_seconds
from tests.autoscaling.traffic import numbers
from tests.services.supervisor.supervised import LIMIT_S, Supervised, end_all

from hooke.autoscaling.replay import StaffingRule, StaffingRules, Station, staffing_grid
from hooke.journal.service_events import RuleChosen
from hooke.loadtest.generator_protocol import Goal, Outcomes
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import parse_target, request_bytes
from hooke.project.folder import Project
from hooke.services.arrival_log import ArrivalLog
from hooke.services.service_report import ServiceRecord, read_service
from hooke.services.service_runs import scalings, start_times_s
from hooke.services.supervisor.service_folder import ServiceFolder

RECORD = ROOT / "benchmarks" / "records" / "closed_loop.json"
PROGRAM = Path(__file__).parent / "programs" / "closed_loop_service.py"
SPEED, TIMES, MOST = 10, 4, 24
TRACE = "azure_conv"
LIMIT_OF_ANSWER_S = 0.4
CONNECTIONS = 512
FEW, RAMP_S = 2, 60
"""Requests a second until the rule is chosen, and seconds from there to the load of the trace: a day's budget of late requests is not to be spent by a cold start."""
TIMEOUT_S = 10.0
Ints = NDArray[np.int64]


def sped_up(name: str) -> tuple[Ints, Ints]:
    """Arrivals a second of both halves of a recorded hour, `SPEED` times as fast."""
    counts = numbers(f"{name}_per_second.txt").astype(np.int64)
    whole = counts[: len(counts) // (2 * SPEED) * (2 * SPEED)].reshape(-1, SPEED).sum(axis=1)
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


def closed_loop(folder: Path, *, judged_s: int = 0, ramp_s: int = RAMP_S, seed: int = 7) -> dict[str, Any]:
    """Serve in `folder`, wait for the rule, send the second half or its first `judged_s` seconds, and compare with the replay."""
    past, judged = sped_up(TRACE)
    past, judged = np.tile(past, TIMES), judged[: judged_s or len(judged)]
    shutil.copy(PROGRAM, folder / PROGRAM.name)
    project = Project.find(folder)
    _write_past(ServiceFolder.of(project, "Answers"), past)
    service = Supervised(folder, file=PROGRAM.name)
    try:
        service.until(r"\d+ of \d+ replicas? answer|answers: POST")
        target = parse_target(service.url)
        requests = (request_bytes(target, "/answer", b'{"number": 21}', token=service.token),)
        goal = Goal(host=target.host, port=target.port, requests=requests, connections=CONNECTIONS)
        chance = np.random.default_rng(seed)
        with Generator(goal) as generator:

            def send(counts: Ints) -> Outcomes:
                due = spread_in_seconds(counts, chance)
                return outcomes_of(due, generator.run(due, timeout_s=TIMEOUT_S))

            _until_chosen(service, lambda: send(np.full(5, FEW)))
            send(np.linspace(FEW, judged[0], ramp_s).astype(np.int64))
            began = time.time()
            seen = send(judged)
            ended = time.time()
        assert service.end() == 0, service.text
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(folder)
    record = read_service(project.runs.folder(project.runs.find("")))
    return _compared(record, seen, past, judged, began, ended)


def _write_past(folder: ServiceFolder, past: Ints) -> None:
    folder.create()
    log = ArrivalLog(folder.arrivals)
    first = int(time.time()) - len(past)
    for second, count in enumerate(past.tolist()):
        log.add(first + second, count)
    log.end_block()
    log.flush()


def _until_chosen(service: Supervised, send: Callable[[], object]) -> None:
    until = time.monotonic() + LIMIT_S
    while "scaling by: " not in service.text:
        assert time.monotonic() < until, service.text
        send()


def _rule_named(name: str, grid: Sequence[StaffingRule]) -> StaffingRule:
    """The rule of that name. Its least number may be another than the grid's: the supervisor has measured the rate of a replica itself."""
    candidates = (replace(one, least=least) for one in grid for least in range(1, MOST + 1))
    return next(one for one in (*grid, *candidates) if str(one) == name)


def _compared(
    record: ServiceRecord, seen: Outcomes, past: Ints, judged: Ints, began: float, ended: float
) -> dict[str, Any]:
    chosen = [event for event in record.replicas if isinstance(event, RuleChosen)]
    start_s = float(np.median(start_times_s(record.replicas)))
    station = Station(rate=1 / ANSWER_S, wait_s=LIMIT_OF_ANSWER_S - ANSWER_S, start_s=start_s)
    rule = _rule_named(chosen[-1].rule, staffing_grid(past, station, low=1, high=MOST))
    in_time = (seen.status == 200) & (seen.ended - seen.due <= LIMIT_OF_ANSWER_S)
    wanted = [(each.at, each.wanted) for each in record.staff]
    return {
        "cores": os.cpu_count(),
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "trace": TRACE,
        "speed": SPEED,
        "rule": str(rule),
        "start_s": round(start_s, 3),
        "scaled": len(scalings(record.replicas)),
        "live": {
            "requests": len(seen),
            "in_time": int(in_time.sum()),
            "refused": int(np.isin(seen.status, (429, 503)).sum()),
            "failed": int((~np.isin(seen.status, (200, 429, 503))).sum()),
            "replica_s": round(_integral(wanted, began, ended), 1),
        },
        "simulated": _simulated(rule, station, past, judged),
        "seconds": len(judged),
    }


def _integral(steps: list[tuple[float, int]], began: float, ended: float) -> float:
    total, at, value = 0.0, began, 0
    for when, wanted in steps:
        if when > at:
            total += value * (min(when, ended) - at)
            at = min(when, ended)
        value = wanted
    return total + value * max(ended - at, 0.0)


def _simulated(rule: StaffingRule, station: Station, past: Ints, judged: Ints) -> dict[str, Any]:
    """The same rule, request by request, in virtual time."""
    counts = np.concatenate((past, judged))
    arrivals = spread_in_seconds(counts, np.random.default_rng(7))
    made = simulate_requests(
        arrivals,
        [ANSWER_S] * len(arrivals),
        station,
        StaffingRules(counts, station, [rule]),
        high=MOST,
        begin=len(past),
    )
    return {
        "requests": made.requests,
        "in_time": made.requests - made.late,
        "replica_s": round(made.replica_s, 1),
    }


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = ["| | requests | in time | replica seconds |", "|---|---:|---:|---:|"]
    for title, name in (("live replicas", "live"), ("the same rule, simulated", "simulated")):
        one = record[name]
        lines.append(
            f"| {title} | {one['requests']:,} | {one['in_time'] / one['requests']:.2%} | {one['replica_s']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=int, default=0, help="of the second half; all without it")
    asked.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="loop-") as name:
        record = closed_loop(Path(name), judged_s=given.seconds)
    if given.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1), table(record), sep="\n")


if __name__ == "__main__":
    main()
