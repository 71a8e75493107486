"""Recognize handwritten digits: a small network on scikit-learn's data, trained, registered and served.

    python examples/serving/handwriting.py                                         # trains digits@champion
    hooke serve examples/serving/handwriting.py --with model=digits@champion

Then POST /predict takes {"images": [[...64 numbers from 0 to 16...]]} and returns one digit per image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import hooke
from hooke import service

PIXELS = 64


@service(max_batch=64, slo="p99 < 50ms", timeout="2s", idempotent=True)
class Digits:
    """Images are lists of 8 x 8 pixels, each from 0 (paper) to 16 (ink)."""

    def setup(self, model: MLPClassifier) -> None:
        """Keep the model, and warm it up: the first call of a process is the slowest."""
        self.model = model
        self.model.predict_proba(np.zeros((1, PIXELS)))

    def predict(self, images: NDArray[np.float64]) -> list[int]:
        """The most likely digit of each image."""
        return [int(digit) for digit in self.probabilities(images).argmax(axis=1)]

    def probabilities(self, images: NDArray[np.float64]) -> np.ndarray:
        """Ten probabilities per image."""
        if images.shape[1:] != (PIXELS,):
            raise hooke.UsageError(f"images: an image is a list of {PIXELS} numbers")
        shares: np.ndarray = self.model.predict_proba(images / 16)
        return shares

    def guesses(self, image: NDArray[np.float64]) -> Iterator[dict[str, float]]:
        """The candidates for one image, streamed in order of their probability."""
        (shares,) = self.probabilities(image[np.newaxis])
        for digit in shares.argsort()[::-1]:
            yield {"digit": int(digit), "share": float(shares[digit])}


def train() -> MLPClassifier:
    """Train on 1,437 of the 1,797 images."""
    images, digits = map(np.asarray, load_digits(return_X_y=True))
    return MLPClassifier((32,), tol=3e-4, max_iter=300, random_state=0).fit(images[:1437] / 16, digits[:1437])


def main() -> None:
    """Train, and register the model if it beats the champion on the other 360 images."""
    images, digits = map(np.asarray, load_digits(return_X_y=True))
    with hooke.start_run("digits"):
        model = train()
        hooke.log_metric("accuracy", float(model.score(images[1437:] / 16, digits[1437:])))
        print(hooke.register(model, "digits", alias="champion", if_better="accuracy"))


if __name__ == "__main__":
    main()
