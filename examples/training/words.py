"""A small transformer that learns to write like Python's own documentation, byte by byte.

    hooke run examples/training/words.py --workers 2              # trained by a gang of two ranks
    hooke run examples/training/words.py --workers 2 --ranks 1    # by one process

The texts are the topics of `help()`, which come with Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence

import hooke
from hooke import pipeline, task
from hooke.data import Shuffled, TokenBuckets, pack
from hooke.frameworks.torch import Checkpoint, ShuffledLoader, device, process_group, set_seed

CONTEXT = 256
"""The longest text, in bytes."""
TOKENS = 1024
"""Of a batch, with its padding."""
BEGIN = 0
"""The byte before each text."""
NEAR = 4
"""The bytes up to each one whose embeddings are added, for attention is slow to learn what is beside what."""
PADDING = -100
"""The target after the end of a text, which `cross_entropy` leaves out."""
VALIDATION = 10
"""Each so-many-th topic is validated on."""


@task
def texts(part: str, every: int = 1) -> list[bytes]:
    """Paragraphs, in pieces of at most `CONTEXT` bytes: of the topics to "train" on, or of those for "validation".

    With `every`, each so-many-th piece of them.
    """
    names = sorted(topics)
    held_out = set(names[::VALIDATION])
    paragraphs = [
        paragraph.encode()
        for name in names
        if (name in held_out) == (part == "validation")
        for paragraph in topics[name].split("\n\n")
    ]
    pieces = (each[at : at + CONTEXT] for each in paragraphs for at in range(0, len(each), CONTEXT))
    return [piece for piece in pieces if piece.strip()][::every]


@task
def packed(texts: list[bytes]) -> Path:
    """One file with all texts, from which each rank reads its own."""
    return pack(texts, "texts.packed")


@task
def lengths(texts: list[bytes]) -> np.ndarray:
    """The bytes of each text."""
    return np.array([len(each) for each in texts])


class Writer(nn.Module):
    """A transformer: the logits of the next byte, after each byte of some texts (texts, bytes)."""

    def __init__(self, width: int, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.width, self.layers, self.heads = width, layers, heads
        self.bytes = nn.Embedding(NEAR * 256, width)
        self.places = nn.Embedding(CONTEXT, width)
        for each in (self.bytes, self.places):
            nn.init.normal_(each.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (texts, bytes, 256), each from the bytes up to its own."""
        size = inputs.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(size, device=inputs.device)
        near = pad(inputs, (NEAR - 1, 0)).unfold(1, NEAR, 1) + 256 * torch.arange(NEAR, device=inputs.device)
        embedded = self.bytes(near).sum(2) + self.places.weight[:size]
        logits: torch.Tensor = self.head(self.blocks(embedded, mask=mask, is_causal=True))
        return logits


def inputs_and_targets(texts: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """The texts, and the same one byte further on."""
    rows = [torch.tensor(list(each)) for each in texts]
    targets = pad_sequence(rows, batch_first=True, padding_value=PADDING)
    begin = torch.full((len(rows), 1), BEGIN)
    return torch.cat([begin, targets[:, :-1].clamp(min=0)], dim=1), targets


def summed_loss(model: nn.Module, texts: Sequence[bytes], here: torch.device) -> torch.Tensor:
    """The sum of the losses of all bytes, in nats."""
    inputs, targets = (each.to(here) for each in inputs_and_targets(texts))
    return cross_entropy(
        model(inputs).flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="sum"
    )


def bits_per_byte(model: nn.Module, texts: Sequence[bytes], here: torch.device) -> float:
    """The mean loss: how many bits of each byte the model does not foresee."""
    ordered = sorted(texts, key=len)
    with torch.no_grad():
        parts = [summed_loss(model, ordered[at : at + 64], here).item() for at in range(0, len(ordered), 64)]
    return sum(parts) / sum(map(len, texts)) / math.log(2)


def fit(file: Path, sizes: np.ndarray, held_out: list[bytes], settings: dict[str, Any]) -> Writer:
    """Train on the ranks of a gang, or alone; the model is the same on all ranks."""
    torch.set_num_threads(1)
    with process_group():
        here = device()
        set_seed(1)
        model = nn.parallel.DistributedDataParallel(Writer(settings["width"]).to(here))
        data = Shuffled(file, seed=2, balance=TokenBuckets(sizes, tokens=TOKENS))
        loader = ShuffledLoader(data)
        steps = settings["epochs"] * len(loader)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings["rate"], betas=(0.9, 0.95))
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings["rate"], total_steps=steps, pct_start=0.1
        )
        checkpoint = Checkpoint(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
        step = checkpoint.load()
        while loader.epoch < settings["epochs"]:
            for part in loader:
                optimizer.zero_grad()
                assert part.tokens is not None  # it has them by TokenBuckets
                loss = summed_loss(model, part.data, here)
                (loss * loader.ranks / part.tokens).backward()  # the mean over the bytes of all ranks
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                step += 1
                if loader.rank == 0:
                    mean = loss.item() / sum(map(len, part.data)) / math.log(2)
                    hooke.log_metric("loss", mean, step=step)
            if loader.rank == 0:  # before it is saved: what goes on from there has it already
                hooke.log_metric("validation", bits_per_byte(model.module, held_out, here), step=step)
            checkpoint.save(step)
        return model.module.cpu().eval()


@task(gang=2, retries=2)
def train(file: Path, sizes: np.ndarray, held_out: list[bytes], settings: dict[str, Any]) -> Writer:
    """Train on two ranks."""
    return fit(file, sizes, held_out, settings)


@task(retries=2)
def train_alone(file: Path, sizes: np.ndarray, held_out: list[bytes], settings: dict[str, Any]) -> Writer:
    """Train on one process."""
    return fit(file, sizes, held_out, settings)


@task
def baselines(texts: list[bytes], held_out: list[bytes]) -> dict[str, float]:
    """Bits per byte of counting: of single bytes, and of pairs, which are smoothed with the single ones."""

    def pairs(given: list[bytes]) -> np.ndarray:
        counts = np.zeros((256, 256))
        for each in given:
            row = np.frombuffer(bytes([BEGIN]) + each, np.uint8)
            np.add.at(counts, (row[:-1], row[1:]), 1)
        return counts

    counts, asked = pairs(texts), pairs(held_out)
    single = (counts.sum(0) + 1) / (counts.sum() + 256)
    double = (counts + 4 * single) / (counts.sum(1, keepdims=True) + 4)
    return {
        "unigram": float(-(asked.sum(0) * np.log2(single)).sum() / asked.sum()),
        "bigram": float(-(asked * np.log2(double)).sum() / asked.sum()),
    }


@task
def evaluate(model: Writer, held_out: list[bytes], baselines: dict[str, float]) -> dict[str, float]:
    """Bits per byte of the transformer, beside the baselines."""
    found = {"transformer": bits_per_byte(model, held_out, torch.device("cpu")), **baselines}
    for name, bits in found.items():
        hooke.log_metric(f"{name}_bits", bits)
    return found


def complete(model: Writer, prompt: bytes, size: int, *, warmth: float = 0.7, seed: int = 0) -> bytes:
    """The prompt and `size` more bytes, drawn one by one; with less `warmth`, likelier ones."""
    text, chance = list(prompt), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(size):
            inputs = torch.tensor([[BEGIN, *text][-CONTEXT:]])
            shares = (model(inputs)[0, -1] / warmth).softmax(0)
            text.append(int(torch.multinomial(shares, 1, generator=chance)))
    return bytes(text)


@task
def sample(model: Writer, prompt: str, size: int) -> str:
    """What it writes after the prompt."""
    return complete(model, prompt.encode(), size).decode(errors="replace")


@pipeline
def words(
    epochs: int = 2,
    width: int = 64,
    rate: float = 0.004,
    ranks: int = 2,
    every: int = 1,
    prompt: str = "The ",
) -> dict[str, Any]:
    """From the texts to a trained model, its loss beside the baselines, and a sample. `ranks` is 1 or 2; `every` trains on fewer texts."""
    known, held_out = texts("train", every), texts("validation", every)
    settings = {"epochs": epochs, "width": width, "rate": rate}
    model = (train_alone if ranks == 1 else train)(packed(known), lengths(known), held_out, settings)
    bits = evaluate(model, held_out, baselines(known, held_out))
    return {"model": model, "bits": bits, "sample": sample(model, prompt, 200)}
