"""Plants faults, has tests look for them, and reports what survives.

    python -m benchmarks.planted_faults --seed 7                         40 faults against all tests; hours
    python -m benchmarks.planted_faults --seed 7 --stage importers       only against the tests that import their modules
    python -m benchmarks.planted_faults --seed 7 --only 12               the twelfth fault alone
    python -m benchmarks.planted_faults --seed 7 --list                  which faults these are; nothing is run
    python -m benchmarks.planted_faults --seed 7 --retry                 survivors again, with the tests that there are now

An interrupted soak goes on where it was: each trial is written at once to `--folder`, which also has the copies of the repository.
These stay as they were when the seed began, so that later edits do not move the faults; `--fresh` begins again. `--record` writes
`benchmarks/records/planted_faults.json`. A survivor is real if a snippet in `witnesses.py` prints another answer with it; if a reason
there says that none can, the seed's next fault takes its place.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.planted_faults.operators import Fault
from benchmarks.planted_faults.places import order_faults, read_package
from benchmarks.planted_faults.record import RECORD, SAID, Round, add_round
from benchmarks.planted_faults.trials import (
    ALL,
    IMPORTERS,
    STAGES,
    SURVIVED,
    Trial,
    TrialLog,
    Workshop,
    copy_repository,
    read_tests,
)
from benchmarks.planted_faults.witnesses import EQUIVALENT, WITNESSES

from hooke.processes.usage import machine_facts

ROOT = Path(__file__).resolve().parents[2]


def choose_faults(root: Path, seed: int, count: int) -> tuple[list[Fault], dict[str, str]]:
    """The first faults of a seed without equivalent ones, and these with their reasons."""
    chosen: list[Fault] = []
    equivalents: dict[str, str] = {}
    for fault in order_faults(*read_package(root), seed):
        if len(chosen) == count:
            break
        if fault.name in EQUIVALENT:
            equivalents[fault.name] = EQUIVALENT[fault.name]
        else:
            chosen.append(fault)
    return chosen, equivalents


def open_workshop(folder: Path, *, fresh: bool, update_tests: bool) -> Workshop:
    """The copies of the repository, made where they are missing, and the trials so far."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    before = read_tests(folder / "clean")
    for name in ("clean", "faulty"):
        if not (folder / name / "copied").exists():
            copy_repository(ROOT, folder / name)
            (folder / name / "copied").touch()
        elif update_tests:
            shutil.rmtree(folder / name / "tests")
            copy_repository(ROOT, folder / name, "tests")
    changed = dict(read_tests(folder / "clean").items() - before.items()) if update_tests else {}
    return Workshop(folder=folder, log=TrialLog.read(folder / "trials.jsonl"), changed=frozenset(changed))


def try_faults(workshop: Workshop, faults: list[tuple[int, Fault]], stage: str, *, retry: bool) -> None:
    """Try each fault, or only survivors, and print what became of it."""
    for number, fault in faults:
        known = workshop.log.trials.get(fault.name)
        if retry:
            trial = workshop.retry(fault) if known is not None and known.verdict == SURVIVED else known
        elif known is None or (known.verdict == SURVIVED and STAGES.index(known.stage) < STAGES.index(stage)):
            trial = workshop.try_fault(fault, stage)
        else:
            trial = known
        if trial is not None:
            print(tell(number, fault, trial), flush=True)


def tell(number: int, fault: Fault, trial: Trial) -> str:
    """A trial in two lines."""
    cut = "" if trial.complete else " (not all of them: time ran out, or too many failed without it)"
    by = f": {trial.test} ({trial.how})" if trial.test else f" the tests of stage {trial.stage}{cut}"
    return f"{number:3} {fault.kind}, {fault.path}:{fault.line}: {fault.change}\n    {SAID[trial.verdict]}{by}, {trial.seconds:.0f} s"


def find_witnessed(workshop: Workshop, faults: list[Fault]) -> frozenset[str]:
    """The names of faults whose snippet prints another answer with them; prints both answers."""
    witnessed = set()
    for fault in faults:
        if fault.name in WITNESSES:
            without, with_it = workshop.witnesses(fault, WITNESSES[fault.name])
            print(f"{fault.name}\n    without: {without.strip()}\n    with:    {with_it.strip()}", flush=True)
            if without != with_it:
                witnessed.add(fault.name)
    return frozenset(witnessed)


def read_options() -> argparse.Namespace:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--stage", choices=STAGES, default=ALL)
    parser.add_argument("--only", type=int, metavar="N", help="the number of one fault, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="processes of pytest")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds of a fault's first stage")
    parser.add_argument("--folder", type=Path, help="where copies and trials are kept")
    for name in ("--record", "--list", "--retry", "--fresh", "--witnesses"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args()


def main() -> None:
    """See the module."""
    given = read_options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the running session would go on
    folder = given.folder or Path(tempfile.gettempdir()) / f"hooke-faults-{given.seed}"
    workshop = open_workshop(folder, fresh=given.fresh, update_tests=given.retry)
    workshop.jobs = given.jobs
    if given.limit:
        workshop.limits_s[IMPORTERS] = given.limit
    chosen, equivalents = choose_faults(workshop.clean, given.seed, given.count)
    numbered = [(n, fault) for n, fault in enumerate(chosen, 1) if given.only in (None, n)]
    if given.list:
        print(
            *(f"{n:3} {fault.kind}, {fault.path}:{fault.line}\n    {fault.name}" for n, fault in numbered),
            sep="\n",
        )
        return
    if not given.witnesses:
        try_faults(workshop, numbered, given.stage, retry=given.retry)
    witnessed = find_witnessed(workshop, [fault for _, fault in numbered])
    verdicts = Counter(
        workshop.log.trials[fault.name].verdict for _, fault in numbered if fault.name in workshop.log.trials
    )
    print(*(f"{SAID[verdict]}: {verdicts[verdict]}" for verdict in (*STAGES, SURVIVED)), sep="\n")
    if given.record:
        done = Round(
            seed=given.seed,
            stage=given.stage,
            machine=f"{machine_facts()}, Python {platform.python_version()}",
            faults=chosen,
            trials=workshop.log.trials,
            witnessed=witnessed,
            equivalents=equivalents,
        )
        add_round(RECORD, done)


if __name__ == "__main__":
    main()
