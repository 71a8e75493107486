"""A small network on scikit-learn's handwritten digits, trained at several learning rates; every epoch is logged.

As a pipeline, one task per item of a map:   hooke run examples/tracking/digits.py
As a plain script, one run of `start_run`:  python examples/tracking/digits.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import hooke
from hooke import pipeline, task

EPOCHS = 20


@task
def split(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images with labels: 1,437 and 360 of 8 by 8 pixels."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    train, test, train_labels, test_labels = train_test_split(
        images / 16, labels, test_size=0.2, random_state=seed
    )
    return train, train_labels, test, test_labels


@task
def train(rate: float, data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], epochs: int) -> float:
    """Train one network; returns its accuracy on the test images."""
    images, labels, test, test_labels = data
    hooke.log_params({"rate": rate, "epochs": epochs, "hidden": 32})
    network = MLPClassifier((32,), learning_rate_init=rate, random_state=0)
    accuracy = 0.0
    for _ in range(epochs):
        network.partial_fit(images, labels, classes=np.arange(10))
        accuracy = float(network.score(test, test_labels))
        hooke.log_metrics({"loss": network.loss_, "accuracy": accuracy})
    return accuracy


@task
def choose(rates: list[float], accuracies: list[float]) -> float:
    """The learning rate of the best network."""
    best = rates[int(np.argmax(accuracies))]
    hooke.log_metric("best_accuracy", max(accuracies))
    hooke.log_table({"rate": rates, "accuracy": accuracies}, "rates.json")
    return best


@pipeline
def digits(epochs: int = EPOCHS, seed: int = 1) -> float:
    """The best of four learning rates."""
    rates = [0.0003, 0.001, 0.003, 0.01]
    return choose(rates, train.map(rates, data=split(seed), epochs=epochs))


if __name__ == "__main__":
    with hooke.start_run("digits", tags={"as": "a script"}) as run:
        # Outside a pipeline run, a task is a plain function, and its logs belong to this run.
        print(f"accuracy {train(0.003, split(1), EPOCHS):.3f}; hooke show {run.id}")
