"""The rounds of planted faults as a record, and as a table for the docs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.planted_faults.operators import KINDS, Fault
from benchmarks.planted_faults.trials import ALL, IMPORTERS, STAGES, SURVIVED, TEST, Trial

__all__ = ["RECORD", "Round", "add_round", "table"]

RECORD = Path(__file__).parents[1] / "records" / "planted_faults.json"
SAID = {
    IMPORTERS: "found by tests that import the module",
    TEST: "found by `make test`",
    ALL: "found by `make test-all`",
    SURVIVED: "survived",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The faults of one seed with their trials; `witnessed` names survivors for which a snippet prints another answer."""

    seed: int
    stage: str
    machine: str
    faults: Sequence[Fault]
    trials: Mapping[str, Trial]
    witnessed: frozenset[str]
    equivalents: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The round for the record. `first` has the verdicts before survivors became tests."""
        tried = [(fault, self.trials[fault.name]) for fault in self.faults if fault.name in self.trials]
        return {
            "seed": self.seed,
            "stage": self.stage,
            "machine": self.machine,
            "first": _count(trial.first or trial.verdict for _, trial in tried),
            "now": _count(trial.verdict for _, trial in tried),
            "kinds": {
                kind: _count(trial.first or trial.verdict for fault, trial in tried if fault.kind == kind)
                for kind in KINDS
            },
            "faults": [self._row(fault, trial) for fault, trial in tried],
            "equivalents": dict(self.equivalents),
        }

    def _row(self, fault: Fault, trial: Trial) -> dict[str, Any]:
        row: dict[str, Any] = {
            "place": f"{fault.path}:{fault.line}",
            "kind": fault.kind,
            "change": fault.change,
            "verdict": trial.verdict,
            "seconds": trial.seconds,
        }
        if trial.first:
            row["first"] = trial.first
        if trial.test:
            row |= {"test": trial.test, "how": trial.how}
        else:
            row |= {"complete": trial.complete}
        if trial.verdict == SURVIVED:
            row["witness"] = (
                "a snippet prints another answer" if fault.name in self.witnessed else "no witness yet"
            )
        return row


def _count(verdicts: Iterable[str]) -> dict[str, int]:
    counts = Counter(verdicts)
    return {verdict: counts[verdict] for verdict in (*STAGES, SURVIVED) if counts[verdict]}


def add_round(path: Path, new: Round) -> None:
    """Write a round to the record, in the place of an earlier one of its seed."""
    rounds = json.loads(path.read_text("utf-8"))["rounds"] if path.exists() else []
    rounds = [each for each in rounds if each["seed"] != new.seed]
    rounds.append(new.as_json())
    path.write_text(json.dumps({"rounds": rounds}, indent=1) + "\n", "utf-8")


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown: a row for each round, and for each kind in the last one."""
    head = [
        "faults",
        "planted",
        *(SAID[verdict] for verdict in (*STAGES, SURVIVED)),
        "found once survivors had become tests",
    ]
    rows = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for each in record["rounds"]:
        found_now = sum(each["now"].values()) - each["now"].get(SURVIVED, 0)
        rows.append(_table_row(f"seed {each['seed']}, all kinds", each["first"], str(found_now)))
    last = record["rounds"][-1]
    rows += [_table_row(f"seed {last['seed']}, {kind}", counts, "") for kind, counts in last["kinds"].items()]
    return "\n".join(rows) + "\n"


def _table_row(name: str, counts: Mapping[str, int], found_now: str) -> str:
    cells = [
        name,
        sum(counts.values()),
        *(counts.get(verdict, 0) for verdict in (*STAGES, SURVIVED)),
        found_now,
    ]
    return f"| {' | '.join(map(str, cells))} |"
