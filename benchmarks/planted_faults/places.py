"""The faults of a seed: in which order they are planted, so that each prefix has all kinds and many folders."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.planted_faults.operators import KINDS, Fault, find_faults

__all__ = ["IN_ONE_FILE", "folder_of", "order_faults", "read_package"]

IN_ONE_FILE = 2


def read_package(root: Path) -> tuple[list[Fault], Counter[str]]:
    """All faults that can be planted under `root`/src, and the lines of each top-level folder."""
    faults: list[Fault] = []
    lines: Counter[str] = Counter()
    for path in sorted((root / "src").rglob("*.py")):
        source, name = path.read_bytes(), path.relative_to(root).as_posix()
        lines[folder_of(name)] += source.count(b"\n")
        faults += find_faults(source, name)
    return faults, lines


def folder_of(path: str) -> str:
    """`store` of src/hooke/store/claims.py."""
    return path.split("/")[2]


def order_faults(faults: Sequence[Fault], lines: Counter[str], seed: int) -> Iterator[Fault]:
    """Kinds in rounds; of each, a folder by its lines and by how seldom it was drawn, then an operator, then a place."""
    chance = random.Random(seed)
    left: dict[str, dict[str, list[Fault]]] = {kind: defaultdict(list) for kind in KINDS}
    for fault in faults:
        left[fault.kind][folder_of(fault.path)].append(fault)
    files: Counter[str] = Counter()
    drawn: Counter[str] = Counter()
    while any(left.values()):
        for kind in chance.sample(KINDS, len(KINDS)):
            while folders := sorted(left[kind]):
                weights = [lines[folder] / (1 + drawn[folder]) for folder in folders]
                folder = chance.choices(folders, weights)[0]
                fault = _draw(left[kind][folder], chance)
                left[kind][folder].remove(fault)
                if not left[kind][folder]:
                    del left[kind][folder]
                if files[fault.path] < IN_ONE_FILE:
                    files[fault.path] += 1
                    drawn[folder] += 1
                    yield fault
                    break


def _draw(faults: Sequence[Fault], chance: random.Random) -> Fault:
    """An operator first, so that rare ones are drawn as often as frequent ones."""
    operator = chance.choice(sorted({fault.operator for fault in faults}))
    return chance.choice([fault for fault in faults if fault.operator == operator])
