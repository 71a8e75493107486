"""Ranks as processes, forked from a server that has imported PyTorch, and a training that they run."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
import torch._dynamo  # an optimizer imports it: for the server, once, instead of in each rank, for a second of CPU time
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss

from hooke.data import Shuffled
from hooke.engines.gang import RankRange, Rendezvous, StartRanks, environment_of
from hooke.frameworks.torch import Checkpoint, ShuffledLoader, process_group, rank_and_ranks, set_seed

N = 136
X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
ROWS = {"number": np.arange(N), "x": X, "y": (X[:, :1] * X[:, 1:2] + X[:, 2:3]).astype(np.float32)}
EPOCHS = 2


def run_ranks(function: Any, ranks: int, *args: Any) -> list[Any]:
    """What a function returns on each rank of a gang, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with Rendezvous() as meeting, ProcessPoolExecutor(ranks, mp_context=context) as pool:
        meet = StartRanks(try_id=0, address=meeting.address, port=meeting.port)
        part = RankRange(try_id=0, lo=0, hi=ranks, ranks=ranks)
        futures = [
            pool.submit(_as_rank, function, environment_of(rank, part, meet), args) for rank in range(ranks)
        ]
        return [future.result(timeout=200) for future in futures]


def _as_rank(function: Any, environment: dict[str, str], args: tuple[Any, ...]) -> Any:
    os.environ.update(environment)
    torch.set_num_threads(1)
    with process_group():
        return function(*args)


def data(**options: Any) -> Shuffled:
    return Shuffled(ROWS, **({"seed": 3, "batch": 10} | options))


class Training:
    """A small model with all that has a state: momenta, a schedule, dropout, statistics of batches."""

    def __init__(self, folder: Any, *, wrap: str = "", workers: int = 0, chance: bool = True) -> None:
        set_seed(1)
        norm = (
            nn.BatchNorm1d(16) if chance and wrap != "fsdp" else nn.Identity()
        )  # buffers are each rank's own
        model: nn.Module = nn.Sequential(
            nn.Linear(6, 16), norm, nn.ReLU(), nn.Dropout(0.2 * chance), nn.Linear(16, 1)
        )
        if wrap == "ddp":
            # Else it arranges its buckets anew after the first step, also the first one after a checkpoint.
            model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        if wrap == "fsdp":
            for layer in (model[0], model[4]):
                fully_shard(layer, mesh=init_device_mesh("cpu", (rank_and_ranks()[1],)))
            fully_shard(model, mesh=init_device_mesh("cpu", (rank_and_ranks()[1],)))
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [5, 15], gamma=0.5)
        self.loader = ShuffledLoader(data(), num_workers=workers)
        self.checkpoint = Checkpoint(
            folder=folder,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            loader=self.loader,
        )
        set_seed(2, per_rank=True)

    def train(self, steps: int | None = None) -> list[list[int]]:
        """Go on for some steps, to the end of the last epoch at most; returns the rows of each batch."""
        seen: list[list[int]] = []
        while self.loader.epoch < EPOCHS and (steps is None or len(seen) < steps):
            left = None if steps is None else steps - len(seen)
            for batch in itertools.islice(self.loader, left):
                self.optimizer.zero_grad()
                loss = mse_loss(self.model(batch.data["x"]), batch.data["y"]) * batch.weight
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                seen.append(batch.data["number"].tolist())
        return seen

    def weights(self) -> dict[str, np.ndarray]:
        model = self.model.module if hasattr(self.model, "module") else self.model
        return {
            name: getattr(value, "full_tensor", lambda value=value: value)().numpy().copy()
            for name, value in model.state_dict().items()
        }


def trained(folder: Any, options: dict[str, Any], steps: int | None = None, save: bool = False) -> Any:
    """Load, train some steps, and save; (steps before, rows of each batch, weights)."""
    training = Training(folder, **options)
    before = training.checkpoint.load()
    seen = training.train(steps)
    if save:
        training.checkpoint.save(before + len(seen))
    return before, seen, training.weights()


def saved_at(folder: Any, step: int) -> None:
    """Each rank saves another step."""
    Training(folder).checkpoint.save(step + rank_and_ranks()[0])


def draws(folder: Any, first: bool) -> tuple[list[float], list[float]]:
    """Numbers before a checkpoint is saved, and after it; or after it was loaded."""

    def drawn() -> list[float]:
        return [random.random(), np.random.random(), float(torch.rand(()))]

    training, before = Training(folder), []
    if first:
        before = drawn()
        training.checkpoint.save(1)
    else:
        training.checkpoint.load()
    return before, drawn()


def loses_a_loader_process() -> None:
    for batch in ShuffledLoader(data(), num_workers=2, transform=_dies_of_row_7):
        assert 7 not in batch.data["number"]


def _dies_of_row_7(batch: Any) -> Any:
    if 7 in batch["number"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def on_hosts_of_their_own(folder: Any, step: int | None) -> int:
    """Load or save a checkpoint where each rank has a folder that the other does not see."""
    own = folder / f"host-{rank_and_ranks()[0]}"
    own.mkdir(exist_ok=True)
    training = Training(own, wrap="ddp")
    if step is None:
        return training.checkpoint.load()
    training.train(step)
    training.checkpoint.save(step)
    return step
