"""A spike of ten times the load on a real service, and its fall: what its users had, how many replicas answered, and why.

`python -m benchmarks.serving.spike` from the repository's root prints what docs/explanation/serving-spike.md shows; about five minutes.
All of it is read from the journal of the service's run. Beside it stands what the client saw, as a check.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from benchmarks.serving.spike_page import Phase, Seen, Spike, page
from tests.services.supervisor.supervised import Supervised, end_all

from hooke.loadtest.generator_protocol import Goal, Outcomes
from hooke.loadtest.load_test import Generator, outcomes_of
from hooke.loadtest.target import parse_target, poisson, request_bytes
from hooke.project.folder import Project
from hooke.services.service_report import read_service, save_service
from hooke.services.service_runs import time_slice
from hooke.serving.stats_windows import SHORTEST_WINDOW_S

__all__ = ["spiked"]

PROGRAM = Path(__file__).parent / "programs" / "spike_service.py"
TIMEOUT_S = 10.0
"""Of the client: longer than the service's own, so that it is the service that gives up."""
CONNECTIONS = 1024
BODIES = 64
FIRST = np.zeros(1)
MORE_S = 5.0
"""The last phase goes on by so much until the replicas are back where they began."""


def spiked(
    folder: Path, phases: Sequence[Phase], *, replicas: str = "1:8", patience_s: float = 120.0
) -> Spike:
    """Serve in `folder`, send the phases one after the other without a break, wait for the fall, end the service, and read its journal."""
    shutil.copy(PROGRAM, folder / PROGRAM.name)
    due, ends = _due(phases)
    with _served(folder, replicas) as service:
        service.until(r"1 of \d+ replicas? answer|answers: POST")
        target = parse_target(service.url)
        requests = tuple(
            request_bytes(target, "/predict", f'{{"rows": [{row}]}}'.encode(), token=service.token)
            for row in range(BODIES)
        )
        goal = Goal(host=target.host, port=target.port, requests=requests, connections=CONNECTIONS)
        with Generator(goal) as generator:
            others = [outcomes_of(FIRST, generator.run(FIRST, timeout_s=TIMEOUT_S))]  # its process has begun
            time.sleep(
                SHORTEST_WINDOW_S - time.time() % SHORTEST_WINDOW_S
            )  # a phase begins and ends where windows do
            began = time.time()
            outcomes = outcomes_of(due, generator.run(due, timeout_s=TIMEOUT_S))
            gives_up = time.monotonic() + patience_s
            while not _is_back(service) and time.monotonic() < gives_up:
                more = poisson(phases[-1].rate, MORE_S, seed=len(others))
                others.append(outcomes_of(more, generator.run(more, timeout_s=TIMEOUT_S)))
        exit_code = service.end()
        said = service.text
    project = Project.find(folder)
    record = read_service(project.runs.folder(project.runs.find("")))
    limit_s = record.declared.slo_limit_s or np.inf
    seen = tuple(
        Seen(
            phase=phase,
            journal=time_slice(
                record.windows, record.staff, began=began + end - phase.seconds, ended=began + end
            ),
            client=_part(outcomes, end - phase.seconds, end),
            limit_s=limit_s,
        )
        for phase, end in zip(phases, ends, strict=True)
    )
    return Spike(
        record=record, seen=seen, outcomes=outcomes, others=tuple(others), exit_code=exit_code, said=said
    )


def _due(phases: Sequence[Phase]) -> tuple[np.ndarray, list[float]]:
    parts, ends, end = [], [], 0.0
    for seed, phase in enumerate(phases):
        parts.append(end + poisson(phase.rate, phase.seconds, seed))
        end += phase.seconds
        ends.append(end)
    return np.concatenate(parts), ends


def _part(outcomes: Outcomes, began: float, ended: float) -> Outcomes:
    kept = (outcomes.due >= began) & (outcomes.due < ended)
    columns = {name: getattr(outcomes, name)[kept] for name in ("due", "begun", "ended", "status")}
    return Outcomes(**columns)


def _is_back(service: Supervised) -> bool:
    facts = service.status()
    return facts["wanted"] == 1 and len(facts["replicas"]) == 1


@contextlib.contextmanager
def _served(folder: Path, replicas: str) -> Iterator[Supervised]:
    service = Supervised(folder, "--replicas", replicas, file=PROGRAM.name)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()
        end_all(folder)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--steady", type=float, default=60.0, help="seconds before the spike")
    asked.add_argument("--spike", type=float, default=60.0, help="seconds of it")
    asked.add_argument(
        "--after", type=float, default=90.0, help="seconds after it, and then until one replica is left"
    )
    asked.add_argument("--rate", type=float, default=16.0, help="requests a second")
    asked.add_argument("--times", type=float, default=10.0, help="so many times as much in the spike")
    asked.add_argument("--keep", type=Path, help="a folder for the project, which stays")
    asked.add_argument("--save", type=Path, help="a file for the picture: .svg, .png or .html")
    given = asked.parse_args()
    phases = [
        Phase("before", given.rate, given.steady),
        Phase("spike", given.times * given.rate, given.spike),
        Phase("after", given.rate, given.after),
    ]
    with contextlib.ExitStack() as stack:
        folder = given.keep
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spike-")))
        folder.mkdir(parents=True, exist_ok=True)
        made = spiked(folder, phases)
    if given.save is not None:
        save_service(made.record, given.save, alive=False)
    print(page(made, picture=given.save.name if given.save is not None else ""))


if __name__ == "__main__":
    main()
