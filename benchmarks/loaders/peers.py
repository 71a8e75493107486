"""One loader in a process of its own: epochs of shuffled batches, their CPU time, and that of what they are compared with.

    python benchmarks/loaders/peers.py NAME EPOCHS FOLDER CASE...

prints JSON for each case, whose data `prepared` has written into FOLDER/CASE. It runs in the environment of the peer, so it imports nothing of Hooke but
in the loaders of Hooke, and each library where it is used. A first epoch, in which the numbers of the rows are noted, is not timed.
"""

from __future__ import annotations

import atexit
import itertools
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

BATCH, SEED = 256, 1
BLOCK = 64
"""Rows of 64 bytes in a page: those of a block are alike where the data are sorted by block."""
BUFFER = 10_000
"""Rows in the buffer of the peers that shuffle in one."""
SMALL_BUFFER = 1_000
"""The same for blobs."""
CASES = {"table": 1_000_000, "columns": 1_000_000, "4 KiB": 16 << 10, "16 KiB": 4 << 10, "100 KiB": 1 << 10}
"""Rows of each."""
FEW = 50_000
"""Rows of a table for loaders that take a minute for all of it."""

Epoch = Callable[[int], Iterator[Any]]
"""The batches of an epoch."""


# --- The data.


def columns_of(values: np.ndarray) -> dict[str, np.ndarray]:
    """64 bytes a row in ten columns of three types; the first has the number of the row."""
    columns = {f"f{n}": np.ascontiguousarray(values[:, n]) for n in range(5)}
    columns |= {f"h{n}": values[:, n].astype(np.float32) for n in range(4)}
    return columns | {"n": np.arange(len(values))}


def prepared(case: str, folder: Path, rows: int) -> None:
    """Write so many rows of a case: numbers from a seed, the number of its row at the beginning of each."""
    chance = np.random.default_rng(SEED)
    if case in ("table", "columns"):
        values = chance.random((rows, 8))
        values[:, 0] = np.arange(len(values))
        if case == "table":
            np.save(folder / "rows.npy", values)
        else:
            for name, column in columns_of(values).items():
                np.save(folder / f"{name}.npy", column)
        return
    size = int(case.split(maxsplit=1)[0]) << 10
    sizes = chance.integers(size // 2, size * 3 // 2, rows)
    np.save(folder / "ends.npy", np.concatenate([[0], np.cumsum(sizes)]))
    noise = chance.bytes(4 << 20)
    with (folder / "blobs").open("wb") as file:
        for number, each in enumerate(sizes.tolist()):
            file.write(number.to_bytes(8, "little") + noise[number % 999 :][: each - 8])


def table_of(folder: Path) -> np.ndarray:
    """The table, mapped; `[:FEW]` of it for what goes row by row."""
    return np.load(folder / "rows.npy", mmap_mode="r").view(np.ndarray)


def mapped_columns(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r").view(np.ndarray) for path in sorted(folder.glob("*.npy"))}


def blobs_of(folder: Path) -> Iterator[bytes]:
    ends = np.load(folder / "ends.npy").tolist()
    with (folder / "blobs").open("rb") as file:
        for low, high in itertools.pairwise(ends):
            yield file.read(high - low)


# --- What is compared with: the same bytes without a shuffle.


def sorted_blocks(folder: Path) -> int:
    """`np.take` of blocks of a page, 5,000 random ones at a time in ascending order, as a window reads them."""
    table = table_of(folder)
    blocks = np.random.default_rng(0).permutation(len(table) // BLOCK)
    for first in range(0, len(blocks), 5000):
        rows = (np.sort(blocks[first : first + 5000])[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        for low in range(0, len(rows), BATCH):
            np.take(table, rows[low : low + BATCH], axis=0)
    return len(table)


def sorted_columns(folder: Path) -> int:
    """The same of each column."""
    columns = list(mapped_columns(folder).values())
    blocks = np.random.default_rng(0).permutation(len(columns[0]) // BLOCK)
    for first in range(0, len(blocks), 5000):
        rows = (np.sort(blocks[first : first + 5000])[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        for low in range(0, len(rows), BATCH):
            for column in columns:
                np.take(column, rows[low : low + BATCH], axis=0)
    return len(columns[0])


def in_pieces(folder: Path) -> int:
    """All bytes in pieces of 1 MiB, each dropped at once: they stay in the processor's cache."""
    with (folder / "blobs").open("rb", buffering=0) as stream:
        while stream.read(1 << 20):
            pass
    return len(np.load(folder / "ends.npy")) - 1


def in_order(folder: Path) -> int:
    """The same batches without a shuffle: lists of 256 blobs, one after another."""
    ends = np.load(folder / "ends.npy").tolist()
    with (folder / "blobs").open("rb", buffering=0) as stream:
        for first in range(0, len(ends) - 1, BATCH):
            some = ends[first : first + BATCH + 1]
            [stream.read(high - low) for low, high in itertools.pairwise(some)]
    return len(ends) - 1


def baselines(case: str) -> dict[str, Callable[[Path], int]]:
    """What the case is compared with; the first is the bar's."""
    if case == "table":
        return {"sorted blocks": sorted_blocks}
    if case == "columns":
        return {"sorted blocks": sorted_columns}
    return {"in pieces": in_pieces, "in order": in_order}


# --- Hooke.


def hooke(case: str, folder: Path) -> Epoch:
    from hooke.data import Shuffled, pack
    from hooke.frameworks.torch import ShuffledLoader

    if case == "table":
        data = Shuffled(folder / "rows.npy", seed=SEED, batch=BATCH)
    elif case == "columns":
        loader = ShuffledLoader(Shuffled(mapped_columns(folder), seed=SEED, batch=BATCH))
        return lambda _: (batch.data for batch in loader)
    else:
        if not (packed := folder / "blobs.packed").exists():
            pack(blobs_of(folder), packed)
        data = Shuffled(packed, seed=SEED, batch=BATCH)
    return data.batches


def hooke_first_epoch(case: str, folder: Path) -> Epoch:
    """A packed file opened anew for each epoch: every block is compared with its digest."""
    from hooke.data import Shuffled, pack

    if not (packed := folder / "blobs.packed").exists():
        pack(blobs_of(folder), packed)
    return lambda epoch: Shuffled(packed, seed=SEED, batch=BATCH).batches(epoch)


# --- PyTorch: a permutation of all rows. A batch is taken from the arrays at once, or collated from its rows.


class Indexed:
    """A dataset of PyTorch, with the rows that `take` gives for a number, or for some at once."""

    def __init__(self, count: int, take: Callable[[Any], Any]) -> None:
        self.count, self.take = count, take

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: Any) -> Any:
        return self.take(at)


def torch_rows(case: str, folder: Path, *, sliced: bool) -> Any:
    import torch

    if case == "table":
        table = torch.from_numpy(np.load(folder / "rows.npy", mmap_mode="c"))
        return (
            Indexed(len(table), table.__getitem__) if sliced else torch.utils.data.TensorDataset(table[:FEW])
        )
    if case == "columns":
        columns = {n: torch.from_numpy(np.array(each)) for n, each in mapped_columns(folder).items()}
        return Indexed(len(columns["n"]), lambda at: {name: each[at] for name, each in columns.items()})
    ends = np.load(folder / "ends.npy").tolist()
    with (folder / "blobs").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if sliced:
        return Indexed(len(ends) - 1, lambda at: [mapped[ends[row] : ends[row + 1]] for row in at.tolist()])
    return Indexed(len(ends) - 1, lambda row: mapped[ends[row] : ends[row + 1]])


def torch_loader(kind: Any, case: str, folder: Path, *, sliced: bool) -> Epoch:
    import torch

    torch.manual_seed(SEED)
    dataset = torch_rows(case, folder, sliced=sliced)
    if not sliced:
        collate = None if case in ("table", "columns") else list
        loader = kind(dataset, batch_size=BATCH, shuffle=True, collate_fn=collate)
        return lambda _: iter(loader)

    class Slices(torch.utils.data.Sampler):
        def __iter__(self) -> Iterator[Any]:
            return iter(torch.randperm(len(dataset)).split(BATCH))

        def __len__(self) -> int:
            return (len(dataset) + BATCH - 1) // BATCH

    loader = kind(dataset, sampler=Slices(), batch_size=None)
    return lambda _: iter(loader)


def dataloader_sliced(case: str, folder: Path) -> Epoch:
    from torch.utils.data import DataLoader

    return torch_loader(DataLoader, case, folder, sliced=True)


def dataloader_by_item(case: str, folder: Path) -> Epoch:
    from torch.utils.data import DataLoader

    return torch_loader(DataLoader, case, folder, sliced=False)


def stateful_dataloader(case: str, folder: Path) -> Epoch:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return torch_loader(StatefulDataLoader, case, folder, sliced=True)


# --- tf.data.


def tf_options(data: Any) -> Any:
    import tensorflow as tf

    return data.prefetch(tf.data.AUTOTUNE)


def tfdata_gathered(case: str, folder: Path) -> Epoch:
    """A permutation of all rows, of which a batch is gathered at once."""
    import tensorflow as tf

    tf.random.set_seed(SEED)
    if case == "table":
        rows: Any = tf.constant(table_of(folder))
        count = len(rows)
    else:
        rows = {name: tf.constant(each) for name, each in mapped_columns(folder).items()}
        count = len(rows["n"])

    def epoch(_: int) -> Iterator[Any]:
        order = tf.random.shuffle(tf.range(count, dtype=tf.int64))
        batches = tf.data.Dataset.range(0, count, BATCH).map(lambda low: order[low : low + BATCH])
        return iter(
            tf_options(batches.map(lambda at: tf.nest.map_structure(lambda c: tf.gather(c, at), rows)))
        )

    return epoch


def tfdata_buffer(case: str, folder: Path) -> Epoch:
    """Rows one by one through a buffer; blobs from a TFRecord file."""
    import tensorflow as tf

    tf.random.set_seed(SEED)
    if case == "table":
        data = tf.data.Dataset.from_tensor_slices(table_of(folder)[:FEW]).shuffle(BUFFER)
    else:
        path = folder / "blobs.tfrecord"
        if not path.exists():
            with tf.io.TFRecordWriter(str(path)) as writer:
                for blob in blobs_of(folder):
                    writer.write(blob)
        data = tf.data.TFRecordDataset(str(path)).shuffle(SMALL_BUFFER)
    data = tf_options(data.batch(BATCH))
    return lambda _: iter(data)


# --- Ray Data, grain, MosaicML.


def start_ray() -> None:
    """A node below this process. With ports that are given, it waits for its agents as long as they take on a busy machine."""
    import ray

    ports = {"port": 6400, "dashboard-agent-grpc-port": 6401, "dashboard-agent-listen-port": 6402}
    ports |= {"runtime-env-agent-port": 6403, "metrics-export-port": 6404}
    node = subprocess.Popen(
        [
            *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2"),
            *("--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
            *(f"--{name}={port}" for name, port in ports.items()),
        ]
    )
    atexit.register(node.wait)
    atexit.register(node.terminate)
    for left in reversed(range(60)):
        try:
            ray.init(address=f"127.0.0.1:{ports['port']}", log_to_driver=False)
            break
        except (ConnectionError, RuntimeError):  # it is not there yet
            if not left or node.poll() is not None:
                raise
            time.sleep(1)


def ray_data(case: str, folder: Path) -> Epoch:
    """Parquet files in random order, rows through a buffer."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    if not ray.is_initialized():
        start_ray()
        ray.data.DataContext.get_current().enable_progress_bars = False
    parts = folder / "parquet"
    if not parts.exists():
        parts.mkdir()
        if case == "table":
            whole = pa.table({f"f{n}": column for n, column in enumerate(table_of(folder)[:FEW].T)})
        elif case == "columns":
            whole = pa.table({name: column[:FEW] for name, column in mapped_columns(folder).items()})
        else:
            whole = pa.table({"blob": pa.array(blobs_of(folder), pa.binary())})
        for part in range(16):
            low, high = (len(whole) * at // 16 for at in (part, part + 1))
            pq.write_table(whole.slice(low, high - low), parts / f"{part:02}.parquet", compression="none")
    data = ray.data.read_parquet(str(parts), shuffle="files")
    of_blobs = case not in ("table", "columns")
    options = {"batch_size": BATCH, "local_shuffle_buffer_size": SMALL_BUFFER if of_blobs else BUFFER}
    if case == "columns":
        return lambda _: iter(data.iter_torch_batches(**options))
    if of_blobs:
        return lambda _: (batch["blob"] for batch in data.iter_batches(batch_format="numpy", **options))
    return lambda _: iter(data.iter_batches(batch_format="numpy", **options))


def grain_batches(case: str, folder: Path) -> Epoch:
    """A shuffle of all numbers; tables are taken from by batches of these, blobs from an ArrayRecord file one by one."""
    import grain

    if case == "table":
        table = table_of(folder)[:FEW]
        numbers = grain.MapDataset.range(len(table)).seed(SEED).shuffle().batch(BATCH, batch_fn=np.array)
        data = numbers.map(lambda rows: np.take(table, rows, axis=0))
    else:
        from array_record.python.array_record_module import ArrayRecordWriter

        path = folder / "blobs.array_record"
        if not path.exists():
            writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
            for blob in blobs_of(folder):
                writer.write(blob)
            writer.close()
        source = grain.sources.ArrayRecordDataSource(str(path))
        data = grain.MapDataset.source(source).seed(SEED).shuffle().batch(BATCH, batch_fn=list)
    steps, repeated = len(data), data.repeat()
    return lambda epoch: iter(repeated[epoch * steps : (epoch + 1) * steps].to_iter_dataset())


def mosaicml_streaming(case: str, folder: Path) -> Epoch:
    """Shards of MDS that are here, with the default shuffle, through its own DataLoader."""
    import streaming
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    streaming.base.util.clean_stale_shared_memory()
    shards, of_blobs = folder / "mds", case != "table"
    if not shards.exists():
        kind = "bytes" if of_blobs else "ndarray:float64:8"
        with MDSWriter(out=str(shards), columns={"row": kind}) as writer:
            for row in blobs_of(folder) if of_blobs else np.array(table_of(folder)[:FEW]):
                writer.write({"row": row})
    data = StreamingDataset(local=str(shards), shuffle=True, shuffle_seed=SEED, batch_size=BATCH)
    loader = StreamingDataLoader(data, batch_size=BATCH, collate_fn=_rows if of_blobs else None)
    return lambda _: (batch if of_blobs else batch["row"] for batch in loader)


def _rows(samples: list[Any]) -> list[Any]:
    return [sample["row"] for sample in samples]


PEERS: dict[str, tuple[Callable[[str, Path], Epoch], tuple[str, ...], str]] = {
    "Hooke": (hooke, tuple(CASES), "hooke-ml"),
    "Hooke, first epoch": (hooke_first_epoch, ("4 KiB", "16 KiB", "100 KiB"), "hooke-ml"),
    "DataLoader, sliced": (dataloader_sliced, tuple(CASES), "torch"),
    "DataLoader, by item": (dataloader_by_item, ("table", "4 KiB", "16 KiB", "100 KiB"), "torch"),
    "StatefulDataLoader, sliced": (stateful_dataloader, tuple(CASES), "torchdata"),
    "tf.data, gathered": (tfdata_gathered, ("table", "columns"), "tensorflow-cpu"),
    "tf.data, buffer": (tfdata_buffer, ("table", "4 KiB", "16 KiB", "100 KiB"), "tensorflow-cpu"),
    "Ray Data, buffer": (ray_data, tuple(CASES), "ray"),
    "grain": (grain_batches, ("table", "4 KiB", "16 KiB", "100 KiB"), "grain"),
    "MosaicML streaming": (mosaicml_streaming, ("table", "4 KiB", "16 KiB", "100 KiB"), "mosaicml-streaming"),
}
"""Each loader, its cases, and the package whose version is told."""


# --- What is measured.


def numbers_of(batch: Any) -> np.ndarray:
    """The numbers of a batch's rows."""
    if isinstance(batch, dict):
        return np.asarray(batch["n"] if "n" in batch else batch["f0"]).astype(np.int64)
    if isinstance(batch, (list, tuple)) and not isinstance(batch[0], (bytes, str)):
        batch = batch[0]  # of a TensorDataset
    if hasattr(batch, "numpy"):
        batch = batch.numpy()
    if isinstance(batch[0], bytes):
        return np.array([int.from_bytes(blob[:8], "little") for blob in batch])
    return np.asarray(batch)[:, 0].astype(np.int64)


def rows_of(batch: Any) -> int:
    if isinstance(batch, dict):
        return len(next(iter(batch.values())))
    return len(batch[0]) if isinstance(batch, (list, tuple)) and hasattr(batch[0], "shape") else len(batch)


def inflation(batches: list[np.ndarray], block: int) -> dict[str, float]:
    """The variance of the batches' means over that of a perfect shuffle, of data that are alike in each block, and sorted throughout."""
    rows = sum(map(len, batches))
    full = np.array([each for each in batches if len(each) == BATCH])
    signs = np.random.default_rng(7).choice(np.array([-1, 1], np.float32), (-(-rows // block), 4))
    of_blocks = signs[full // block].mean(axis=1)
    weights = np.full(len(signs), block)
    weights[-1] = rows - block * (len(signs) - 1)
    centre = np.average(signs, axis=0, weights=weights)
    perfect = 1 / BATCH - 1 / rows
    blocks = (((of_blocks - centre) ** 2).mean(axis=0) / (1 - centre**2)).mean() / perfect
    through = ((full.mean(axis=1) - (rows - 1) / 2) ** 2).mean() / ((rows**2 - 1) / 12) / perfect
    return {"blocks": round(float(blocks), 4), "sorted": round(float(through), 4)}


def tree_cpu_s() -> float:
    """User and system time of this process, of those below it, and of those that have ended."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:  # its parent's times have it now
            continue
    return total


def timed(run: Callable[[], int], clock: Callable[[], float]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), clock()
    rows = run()
    return {"rows": rows, "cpu": round(clock() - cpu, 4), "wall": round(time.perf_counter() - wall, 4)}


def measured(name: str, case: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Epochs of a loader, each beside what the case is compared with."""
    make, _, package = PEERS[name]
    epoch = make(case, folder)
    noted = [numbers_of(batch) for batch in epoch(0)]
    every = np.concatenate(noted)
    told: dict[str, Any] = {
        "name": name,
        "case": case,
        "version": version(package),
        "rows": len(every),
        "distinct": len(np.unique(every)),
        "inflation": inflation(noted, BLOCK if case in ("table", "columns") else 1),
        "epochs": [],
        "beside": {other: [] for other in baselines(case)},
    }
    for run in baselines(case).values():
        run(folder)
    for number in range(1, epochs + 1):
        for other, run in baselines(case).items():
            told["beside"][other].append(timed(lambda run=run: run(folder), time.process_time))
        told["epochs"].append(timed(lambda number=number: sum(map(rows_of, epoch(number))), tree_cpu_s))
    return told


def main() -> None:
    """See the module."""
    name, epochs, folder, *cases = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the answer
    for case in cases:
        told = measured(name, case, Path(folder, case), int(epochs))
        print(json.dumps(told), file=out, flush=True)


if __name__ == "__main__":
    main()
