"""A convolutional network on scikit-learn's handwritten digits, trained by two processes, from a checkpoint where there is one.

hooke run examples/training/digits.py --workers 2
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

import hooke
from hooke import pipeline, task
from hooke.data import Shuffled
from hooke.frameworks.torch import Checkpoint, ShuffledLoader, device, process_group, set_seed


@task
def digits() -> dict[str, dict[str, np.ndarray]]:
    """1,437 images of 8 by 8 pixels to learn from, and 360 to test with."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels, test_size=0.2, random_state=1)
    return {
        "train": {"image": parts[0], "label": parts[2]},
        "test": {"image": parts[1], "label": parts[3]},
    }


def network() -> nn.Sequential:
    """Two convolutions and a linear layer: 22,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(512, 10),
    )


@task(gang=2, retries=2)
def train(data: dict[str, dict[str, np.ndarray]], epochs: int, rate: float, batch: int) -> nn.Module:
    """Train on the ranks of a gang; the network is the same on all."""
    torch.set_num_threads(1)
    with process_group():
        here = device()
        set_seed(1)
        model = nn.parallel.DistributedDataParallel(network().to(here))
        set_seed(2, per_rank=True)  # each rank drops out other pixels
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        loader = ShuffledLoader(Shuffled(data["train"], seed=3, batch=batch))
        checkpoint = Checkpoint(model=model, optimizer=optimizer, loader=loader)
        step = checkpoint.load()
        while loader.epoch < epochs:
            for part in loader:
                optimizer.zero_grad()
                loss = cross_entropy(model(part.data["image"].to(here)), part.data["label"].to(here))
                (loss * part.weight).backward()
                optimizer.step()
                step += 1
                if loader.rank == 0:
                    hooke.log_metric("loss", loss.item(), step=step)
            checkpoint.save(step)
        return model.module.cpu().eval()


@task
def accuracy(model: nn.Module, data: dict[str, dict[str, np.ndarray]]) -> float:
    """The share of test images that the network names."""
    with torch.no_grad():
        named = model(torch.from_numpy(data["test"]["image"].copy())).argmax(1).numpy()
    found = float((named == data["test"]["label"]).mean())
    hooke.log_metric("accuracy", found)
    return found


@pipeline
def training(epochs: int = 6, rate: float = 0.002, batch: int = 64) -> float:
    """From the images to the accuracy of a network."""
    data = digits()
    return accuracy(train(data, epochs, rate, batch), data)
