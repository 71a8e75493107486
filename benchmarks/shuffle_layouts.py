"""How good `Shuffled` shuffles packed files of many shapes, beside what it predicts and warns of.

    python -m benchmarks.shuffle_layouts --record

Of 100 random cases, those whose file has at most 4 GB are packed, until 60 have been, and the layout of the file is measured; the others have
the layout that the planner gives such a file. All are measured on the production order, for data that are alike within each block.
"""

import argparse
import json
import logging
import random
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hooke.data import Shuffled, pack
from hooke.data.order import BlockLayout, Order
from hooke.data.packing import rows_of_a_block
from hooke.data.quality import WORST_VIF, measured_vif, plan_layout, predicted_vif

RECORD = Path(__file__).with_name("records") / "shuffle_layouts.json"
SEED = 7
CASES = 100
PACKED = 60
MOST_FILE_BYTES = 4 << 30
KINDS = ("numbers", "numbers and text", "values")
REFERENCE_BYTES = 16
BATCHES = 4000
WINDOWS = 100
"""That are measured at least, in as many epochs as that takes, but at most MOST_EPOCHS: a window's blocks are one random draw."""
MOST_EPOCHS = 8
CHECKED = 20
"""Batches of a file whose rows are compared with those of the order."""


@dataclass(frozen=True)
class Case:
    """A file, and how it is read. `fixed` and `text` are the bytes of a row: of numbers, and of a value of any length."""

    kind: str
    rows: int
    fixed: int
    text: int
    batch: int
    memory: int

    @property
    def record_bytes(self) -> int:
        """Of a record: the numbers, and where the value is."""
        return self.fixed + REFERENCE_BYTES * (self.text > 0)

    @property
    def file_bytes(self) -> int:
        return self.rows * (self.record_bytes + self.text)


def cases(seed: int, count: int) -> list[Case]:
    """Random ones, evenly by the logarithm of each size."""
    chance = random.Random(seed)
    found: list[Case] = []
    while len(found) < count:
        kind = chance.choice(KINDS)
        size = int(8 * 512 ** chance.random())
        fixed = {"numbers": size, "values": 0}.get(kind, 8 * int(1 + chance.random() * size / 8))
        each = Case(
            kind=kind,
            rows=int(10 ** chance.uniform(4, 8)),
            fixed=fixed,
            text={"numbers": 0, "values": size}.get(kind, chance.choice([1, 4, 16, 64])),
            batch=2 ** chance.randint(5, 12),
            memory=2 ** chance.randint(22, 30),
        )
        if each.rows >= 30 * each.batch:
            found.append(each)
    return found


def packed(case: Case, path: Path) -> Path:
    """A file of this shape. Its first eight bytes of numbers are the number of the row."""
    columns: dict[str, Any] = {}
    if case.fixed >= 8:
        columns["i"] = np.arange(case.rows)
    if wide := case.fixed - 8 * (case.fixed >= 8):
        width = pa.array(np.zeros(case.rows * wide, np.uint8))
        columns["wide"] = pa.FixedSizeListArray.from_arrays(width, wide)
    if case.text:
        ends = np.arange(case.rows + 1, dtype=np.int64) * case.text
        data = np.full(case.rows * case.text, ord("a"), np.uint8)
        columns["t"] = pa.LargeStringArray.from_buffers(case.rows, pa.py_buffer(ends), pa.py_buffer(data))
    return pack(pa.table(columns), path)


class Heard(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def opened(case: Case, path: Path) -> tuple[BlockLayout, bool]:
    """The layout of such a file, and whether Shuffled warned. Raises AssertionError if it reads other rows than those of the order."""
    heard = Heard()
    log = logging.getLogger("hooke")
    log.addHandler(heard)
    try:
        data = Shuffled(packed(case, path), seed=SEED, batch=case.batch, memory=case.memory)
    finally:
        log.removeHandler(heard)
    layout = data.layout
    assert layout is not None
    rows = Order(layout, SEED, 0).of_window(0)
    for number, batch in zip(range(min(CHECKED, rows.size // case.batch)), data.batches(0), strict=False):
        if case.fixed >= 8:
            assert np.array_equal(batch["i"], rows[number * case.batch : (number + 1) * case.batch])
    return layout, bool(heard.lines)


def planned(case: Case) -> tuple[BlockLayout, bool]:
    """The layout of such a file that is not there, and whether Shuffled would warn."""
    row_bytes = case.record_bytes + case.text
    together = rows_of_a_block(row_bytes)
    layout = plan_layout(case.rows, row_bytes, case.batch, case.memory, together)
    return layout, predicted_vif(layout, case.batch) >= WORST_VIF


def measured(layout: BlockLayout, batch: int) -> float:
    """The VIF, the mean of some epochs."""
    found: list[tuple[float, int]] = []
    windows = layout.windows if layout.windows > 1 else WINDOWS
    while len(found) < MOST_EPOCHS and (
        windows * len(found) < WINDOWS or sum(count for _, count in found) < BATCHES
    ):
        found.append(measured_vif(Order(layout, SEED, len(found)), batch))
    return statistics.fmean(vif for vif, _ in found)


def measure(seed: int, count: int, most_packed: int) -> list[dict[str, Any]]:
    """What each case comes to."""
    told: list[dict[str, Any]] = []
    files = 0
    for case in cases(seed, count):
        real = files < most_packed and case.file_bytes <= MOST_FILE_BYTES
        files += real
        with tempfile.TemporaryDirectory() as folder:
            layout, warned = opened(case, Path(folder, "data.packed")) if real else planned(case)
        vif = measured(layout, case.batch)
        predicted = predicted_vif(layout, case.batch)
        told.append(
            asdict(case)
            | {"packed": real, "block": layout.block, "windows": layout.windows, "warned": warned}
            | {"predicted": round(predicted, 4), "measured": round(vif, 4)}
        )
        print(f"{len(told):>4} {case}: {predicted:.2f} predicted, {vif:.2f} measured", flush=True)
    return told


def table(record: dict[str, Any]) -> str:
    """The cases by kind; the warned ones are those whose memory is too small."""
    lines = [
        "| files of | cases | packed | warned of | worst VIF without a warning | worst with one | prediction off by at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        own = [each for each in record["cases"] if each["kind"] == kind]
        silent = [each["measured"] for each in own if not each["warned"]]
        loud = [each["measured"] for each in own if each["warned"]]
        off = max(abs(each["predicted"] / each["measured"] - 1) for each in own)
        lines.append(
            f"| {kind} | {len(own)} | {sum(each['packed'] for each in own)} | {len(loud)} | {max(silent):.2f} | {max(loud):.1f} | {off:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--packed", type=int, default=PACKED)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    record = {"seed": args.seed, "cases": measure(args.seed, args.cases, args.packed)}
    print(table(record))
    if args.record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
