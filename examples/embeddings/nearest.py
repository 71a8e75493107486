"""Find the sentence nearest to a question, with the service of `embeddings.py`, from eight threads at once.

python nearest.py QUESTION... [--at ADDRESS] [--token-file FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SENTENCES = [
    "The plane to Boston leaves at seven in the evening.",
    "Your suitcase may weigh up to 23 kilograms.",
    "Snow has closed the airport until tomorrow.",
    "Tickets can be cancelled until a day before departure.",
    "The restaurant serves breakfast from six to ten.",
    "Dogs and cats travel in a box in the hold.",
    "There is a train to the city every ten minutes.",
    "The bond yields two per cent a year.",
]
SERVICE = Path(__file__).with_name("embeddings.py")
TOKEN = Path(__file__).parent / ".hooke" / "services" / "Embeddings" / "token"


def embedded(texts: list[str], address: str, token: str) -> NDArray[np.float32]:
    """The vectors of these texts, one request per text; the service batches concurrent requests."""

    def one(text: str) -> list[float]:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        body = json.dumps({"texts": [text]}).encode()
        request = urllib.request.Request(f"{address}/embed", body, headers)  # noqa: S310 - the user's own address
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            (row,) = json.load(answer)
        return row

    with ThreadPoolExecutor(8) as threads:
        return np.array(list(threads.map(one, texts)), dtype=np.float32)


def main() -> None:
    """Print the nearest sentence for each question."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("questions", nargs="+")
    options.add_argument("--at", default="http://127.0.0.1:8000")
    options.add_argument("--token-file", type=Path, default=TOKEN)
    given = options.parse_args()
    try:
        token = given.token_file.read_text().strip()
        rows = embedded([*SENTENCES, *given.questions], given.at, token)
    except OSError as error:  # no file, no service, or an error response
        sys.exit(f"{given.at} returned no vectors: {error}\nnext: hooke serve {SERVICE}")
    sentences, questions = rows[: len(SENTENCES)], rows[len(SENTENCES) :]
    for question, likenesses in zip(given.questions, questions @ sentences.T, strict=True):
        nearest = int(likenesses.argmax())
        print(f"{question} -> {SENTENCES[nearest]} ({likenesses[nearest]:.2f})")


if __name__ == "__main__":
    main()
