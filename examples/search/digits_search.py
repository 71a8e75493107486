"""A small network on scikit-learn's handwritten digits: a search over rate, width and decay that prunes bad trials.

python examples/search/digits_search.py
"""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import hooke
from hooke import task

EPOCHS = 30
SPACE = {
    "rate": hooke.loguniform(1e-4, 1e-1),
    "width": range(8, 65, 8),
    "decay": hooke.loguniform(1e-6, 1.0),
    "activation": ["relu", "tanh"],
}


@task
def train(
    rate: float, width: int, decay: float, activation: Literal["relu", "tanh"], epochs: int = EPOCHS
) -> float:
    """Train a network on 1,437 images of 8 by 8 pixels; returns its accuracy on 360 others."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    images, test, labels, test_labels = train_test_split(images / 16, labels, test_size=0.2, random_state=1)
    network = MLPClassifier(
        (width,), learning_rate_init=rate, alpha=decay, activation=activation, random_state=0
    )
    accuracy = 0.0
    for epoch in range(epochs):
        network.partial_fit(images, labels, classes=np.arange(10))
        accuracy = float(network.score(test, test_labels))
        hooke.log_metric("accuracy", accuracy, epoch)
    return accuracy


if __name__ == "__main__":
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    found = hooke.search(
        train, SPACE, trials=trials, metric="accuracy.max", direction="maximize", pruner="median"
    )
    found.show()
