"""Will this flight arrive late? A network in PyTorch on the rows of examples/flights, trained by two processes or by one.

hooke run examples/training/flights_torch.py --workers 2
hooke run examples/training/flights_torch.py --workers 2 --ranks 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flights_rows import Facts, arrays, facts, learnt_from, places, scores, split
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import hooke
from hooke import pipeline, task
from hooke.data import Shuffled
from hooke.frameworks.torch import Checkpoint, ShuffledLoader, device, process_group, set_seed


class Late(nn.Module):
    """An embedding of each word, and two layers: the logits that flights arrive late.

    Words that it does not know are one more. Numbers are scaled here, and those that are missing are NaN.
    """

    def __init__(
        self, words: tuple[tuple[str, ...], ...], mean: tuple[float, ...], deviation: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.words, self.mean, self.deviation = words, mean, deviation
        self.register_buffer("scale", torch.tensor([mean, deviation]), persistent=False)
        self.embeddings = nn.ModuleList(nn.Embedding(len(known) + 1, 4) for known in words)
        self.layers = nn.Sequential(
            nn.Linear(2 * len(mean) + 4 * len(words), 64),
            nn.ReLU(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(32, 1),
        )

    def forward(self, numbers: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Logits (rows,) of numbers (rows, numbers) and of the places of words (rows, words)."""
        missing = numbers.isnan()
        scaled = ((numbers - self.scale[0]) / self.scale[1]).masked_fill(missing, 0.0)
        words = [embedding(places[:, at]) for at, embedding in enumerate(self.embeddings)]
        logits: torch.Tensor = self.layers(torch.cat([scaled, missing.float(), *words], dim=1))
        return logits[:, 0]

    def predict(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """See Forecaster."""
        with torch.no_grad():
            logits = self.eval()(
                torch.from_numpy(rows["numbers"].copy()), torch.from_numpy(places(rows, self.words))
            )
        return logits.sigmoid().numpy()


def fit(data: dict[str, np.ndarray], known: Facts, epochs: int, rate: float, batch: int) -> Late:
    """Train on the ranks of a gang, or alone; the network is the same on all ranks."""
    torch.set_num_threads(1)
    with process_group():
        here = device()
        set_seed(1)
        plain = Late(known.words, known.mean, known.deviation).to(here)
        model = nn.parallel.DistributedDataParallel(plain)
        set_seed(2, per_rank=True)  # each rank drops out other parts
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        loader = ShuffledLoader(Shuffled(learnt_from(data, known), seed=1, batch=batch))
        checkpoint = Checkpoint(model=model, optimizer=optimizer, loader=loader)
        step = checkpoint.load()
        while loader.epoch < epochs:
            for part in loader:
                optimizer.zero_grad()
                numbers, places, late = (part.data[name].to(here) for name in ("numbers", "places", "late"))
                loss = binary_cross_entropy_with_logits(model(numbers, places), late)
                (loss * part.weight).backward()
                optimizer.step()
                step += 1
                if loader.rank == 0:
                    hooke.log_metric("loss", loss.item(), step=step)
            checkpoint.save(step)
        return plain.cpu().eval()


@task(gang=2, retries=2)
def train(data: dict[str, np.ndarray], known: Facts, epochs: int, rate: float, batch: int) -> Late:
    """As a gang of two ranks."""
    return fit(data, known, epochs, rate, batch)


@task(retries=2)
def train_alone(data: dict[str, np.ndarray], known: Facts, epochs: int, rate: float, batch: int) -> Late:
    """By one process."""
    return fit(data, known, epochs, rate, batch)


@task
def judge(model: Late, data: dict[str, np.ndarray]) -> dict[str, float]:
    """The scores of the network."""
    return scores(model, data)


@pipeline
def training(
    months: int = 12, epochs: int = 3, rate: float = 0.002, batch: int = 1024, ranks: int = 2
) -> dict[str, Any]:
    """Learn from all months but the last quarter, and judge on that."""
    known_months, last_months = split(months)
    data = arrays(known_months)
    model = (train_alone if ranks == 1 else train)(data, facts(data), epochs, rate, batch)
    return {"model": model, "scores": judge(model, arrays(last_months))}
