"""Loaders of shuffled batches beside one another: Hooke, PyTorch, torchdata, tf.data, Ray Data, grain and MosaicML streaming.

    python -m benchmarks.loaders                            all; writes benchmarks/records/loaders.json and docs/explanation/loaders.md
    python -m benchmarks.loaders --page                     the page, from the record
    python -m benchmarks.loaders --only "Hooke;grain"       these anew, into the record of the others
    python -m benchmarks.loaders --cases table              some, to look at

Each loader runs in a process of its own, in a network of its own. TensorFlow and MosaicML streaming do not fit beside the others, and get
environments of their own, made on the first run. Each epoch is compared with a read of the same bytes just before it in the same
process, so that a machine that gets slower in between disturbs no ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environments import environment_python
from benchmarks.loaders.peers import BATCH, BUFFER, CASES, FEW, PEERS, SEED, SMALL_BUFFER, prepared
from benchmarks.private_network import enter_private_network

from hooke.processes.usage import machine_facts

__all__ = ["PAGE", "RECORD", "main", "page_of", "played", "record_of"]

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "records" / "loaders.json"
PAGE = ROOT / "docs" / "explanation" / "loaders.md"
EPOCHS = 2
LIMIT_S = 3600.0
ENVIRONMENTS = {
    "tensorflow-cpu": ("tensorflow", "tensorflow-cpu", "jax"),
    "mosaicml-streaming": ("mosaicml", "mosaicml-streaming"),
}
"""Packages that do not fit beside the others: the environment, and what is installed there."""
LINKS = {
    "table": "A table of 1,000,000 rows of 64 bytes",
    "columns": "The same in ten columns of three types, as tensors",
    "4 KiB": "Blobs of 4 KiB on average",
    "16 KiB": "Blobs of 16 KiB",
    "100 KiB": "Blobs of 100 KiB",
}


def python_of(name: str) -> Path:
    """The Python that a loader runs on."""
    package = PEERS[name][2]
    return environment_python(*ENVIRONMENTS[package]) if package in ENVIRONMENTS else Path(sys.executable)


def played(
    cases: Sequence[str], names: Sequence[str], epochs: int, rows: Mapping[str, int] = CASES
) -> Iterator[dict[str, Any]]:
    """What each loader told of each of its cases. Raises RuntimeError with the output of one that failed."""
    with tempfile.TemporaryDirectory(prefix="hl") as place:
        for case in cases:
            Path(place, case).mkdir()
            prepared(case, Path(place, case), rows[case])
        for name in names:
            yield from told_by(name, [case for case in cases if case in PEERS[name][1]], Path(place), epochs)


def told_by(name: str, cases: Sequence[str], folder: Path, epochs: int) -> Iterator[dict[str, Any]]:
    """Of one loader. Raises RuntimeError if an epoch has not each row once."""
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "TMPDIR": str(folder),
        "HOOKE_SINKS": "none",
    }
    done = subprocess.run(
        [python_of(name), Path(__file__).with_name("peers.py"), name, str(epochs), folder, *cases],
        env=os.environ | quiet | {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
        preexec_fn=enter_private_network,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-4000:]}")
    for line in done.stdout.splitlines():
        told: dict[str, Any] = json.loads(line)
        if not told["distinct"] == told["rows"] == told["epochs"][0]["rows"]:
            raise RuntimeError(
                f"{name}, {told['case']}: {told['distinct']} of {told['rows']} rows in an epoch"
            )
        yield told


# --- The record and its page.


def record_of(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The machine, the seed and each epoch, for JSON."""
    return {
        "machine": machine_facts(),
        "python": platform.python_version(),
        "seed": SEED,
        "missing": sorted(
            {f"{name}: {case}" for name, (_, cases, _) in PEERS.items() for case in cases}
            - {f"{each['name']}: {each['case']}" for each in told}
        ),
        "loaders": list(told),
    }


def share_of(told: Mapping[str, Any], beside: str, clock: str) -> float:
    """Rows a second over those of what is read beside it: the median of the epochs."""
    return median(
        (own["rows"] / own[clock]) / (other["rows"] / other[clock])
        for own, other in zip(told["epochs"], told["beside"][beside], strict=True)
    )


def table_of(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loaders of one case, the fastest first."""
    beside = list(told[0]["beside"])
    of_table = len(beside) == 1
    heads = ["", "version", *(f"of {name}" for name in beside), "by the clock"]
    heads += ["VIF, alike in blocks", "VIF, sorted"] * of_table
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for each in sorted(told, key=lambda each: -share_of(each, beside[0], "cpu")):
        shares = [f"{share_of(each, name, 'cpu'):.2g}" for name in beside]
        vif = [f"{each['inflation'][what]:.2f}" for what in ("blocks", "sorted")] * of_table
        cells = [each["name"], each["version"], *shares, f"{share_of(each, beside[0], 'wall'):.2g}", *vif]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def missing_of(record: Mapping[str, Any]) -> str:
    """What was not measured."""
    told = []
    for name, (_, cases, _) in PEERS.items():
        if some := [case for case in cases if f"{name}: {case}" in record["missing"]]:
            told.append(name if len(some) == len(cases) else f"{name} ({', '.join(some)})")
    return f" Not measured: {'; '.join(told)}." if told else ""


def spread_of(record: Mapping[str, Any]) -> float:
    """How many times as fast the fastest epoch of a loader is as its slowest, at most, beside what it is compared with."""
    most = 1.0
    for told in record["loaders"]:
        for beside in told["beside"].values():
            shares = [other["cpu"] / own["cpu"] for own, other in zip(told["epochs"], beside, strict=True)]
            most = max(most, max(shares) / min(shares))
    return most


def page_of(record: Mapping[str, Any]) -> str:
    """The page in the docs."""
    parts = []
    for case, title in LINKS.items():
        if own := [each for each in record["loaders"] if each["case"] == case]:
            parts += [f"## {title}", "", *table_of(own), ""]
    return f"""# Loaders of shuffled batches, compared

Batches of {BATCH} rows in random order, from data in the page cache. This page is the output of

```text
make soak-loaders
```

Columns with *of* are rows a CPU-second, user and system time of all processes of the loader, over those of a read of the same bytes without a shuffle, just before it in the same process: `np.take` over sorted blocks of a page for tables; for blobs, pieces of 1 MiB that are dropped, and lists of {BATCH} blobs in their order. *By the clock* is the first of these by wall time, on two cores that other programs use, too. Each is the median of {len(record["loaders"][0]["epochs"])} epochs, which differ by a factor of up to {spread_of(record):.1f}: ignore smaller differences.

*VIF* is the variance of the batches' means over that of a perfect shuffle (1), measured on one epoch of a table: of data that are alike in each block of 64 rows, and of data that are sorted throughout, as a table that is sorted by its label. An epoch of blobs has too few batches to measure it. Where only {FEW:,} rows are read, it is known to about 10 %.

Measured on {record["machine"]}, Python {record["python"]}, seed {record["seed"]}. `benchmarks/records/loaders.json` has each epoch.{missing_of(record)}{record.get("note", "")}

{chr(10).join(parts)}
## What is compared

No loader has worker processes, but Ray Data, which is one: they do not lower the CPU time. Each loader gave each row once an epoch.

- *Hooke*: `Shuffled` over a `.npy` file and over a packed file, later epochs; over a dict of arrays through `ShuffledLoader`. *First epoch*: the packed file opened anew, so that each block is compared with its digest.
- *DataLoader, sliced*: `torch.randperm` of all rows in slices of a batch as the sampler, `batch_size=None`, and a dataset that indexes a tensor, or cuts blobs out of a mapped file. *By item*: `shuffle=True` over the same, of {FEW:,} rows of the table. *StatefulDataLoader*: as sliced, of torchdata.
- *tf.data, gathered*: a permutation of all rows, in batches, and `tf.gather`. *Buffer*: `shuffle({BUFFER:,})` over {FEW:,} rows of the table; of blobs, `TFRecordDataset` and `shuffle({SMALL_BUFFER:,})`.
- *Ray Data*: 16 Parquet files in random order, rows through a local buffer of {BUFFER:,} ({SMALL_BUFFER:,} blobs); {FEW:,} rows of the table.
- *grain*: `MapDataset.shuffle()` over the numbers of rows, and `np.take` of each batch of them, of {FEW:,} rows; blobs from an uncompressed ArrayRecord file with a record in each group.
- *MosaicML streaming*: shards of MDS on the disk, the default shuffle, `StreamingDataLoader`; {FEW:,} rows of the table.

A table of {FEW:,} rows is smaller than what its loader is compared with, which does it no harm. A buffer mixes what lies near: with more rows, its VIF for sorted data is larger.
"""


def _shown(all_told: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for told in all_told:
        print(json.dumps(told), file=sys.stderr, flush=True)
        yield told


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--only", default="")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    cases, names = options.cases.split(","), options.only.split(";") if options.only else list(PEERS)
    if options.page:
        told = json.loads(RECORD.read_text("utf-8"))["loaders"]
    else:
        told = list(_shown(played(cases, names, options.epochs)))
    if len(cases) < len(CASES):
        for case in cases:
            print("\n".join(table_of([each for each in told if each["case"] == case])))
        return
    if options.only:
        kept = json.loads(RECORD.read_text("utf-8"))["loaders"]
        told = [each for each in kept if each["name"] not in names] + told
    if not options.page:
        RECORD.write_text(json.dumps(record_of(told), indent=1) + "\n", "utf-8")
    PAGE.write_text(page_of(json.loads(RECORD.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
