"""Register the transformer of `words.py` if it is better than the one before, and let it write for others.

    python examples/training/words_service.py                                     # trains words@champion
    hooke serve examples/training/words_service.py --with model=words@champion

Then POST /write takes {"prompt": "The ", "size": 100} and returns the text, and POST /stream its parts as they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from words import Writer, complete, words

import hooke
from hooke import service

LONGEST = 1000


@service(slo="p99 < 5s", timeout="30s")
class Words:
    """A text that goes on like Python's documentation."""

    def setup(self, model: Writer) -> None:
        """Keep the model, and warm it up: the first call of a process is the slowest."""
        self.model = model
        complete(model, b"The ", 1)

    def write(self, prompt: str, size: int = 100, seed: int = 0) -> str:
        """The prompt and `size` more bytes."""
        return complete(self.model, prompt.encode(), within(size), seed=seed).decode(errors="replace")

    def stream(self, prompt: str, size: int = 100, seed: int = 0) -> Iterator[str]:
        """The bytes after the prompt, ten at a time."""
        text = prompt.encode()
        for at in range(0, within(size), 10):
            more = complete(self.model, text, min(10, size - at), seed=seed + at)
            yield more[len(text) :].decode(errors="replace")
            text = more


def within(size: int) -> int:
    """`size`, if it may be asked for."""
    if not 0 <= size <= LONGEST:
        raise hooke.UsageError(f"size: a number from 0 to {LONGEST}")
    return size


def register(**settings: Any) -> hooke.ModelVersion:
    """Train by the pipeline, or take what it trained before. Compared by bits per byte; lower is better."""
    r = hooke.run(words, workers=2, **settings)
    bits = r.result()["bits"]
    model = r.result()["model"]
    return hooke.register(model, "words", alias="champion", if_better="-transformer", metrics=bits, run=r)


if __name__ == "__main__":
    print(register())
