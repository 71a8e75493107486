"""Will this flight arrive late? A network in TensorFlow on the rows of examples/flights, trained by two processes.

hooke run examples/training/flights_tensorflow.py --workers 2
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf
from tensorflow import keras

import hooke
from hooke import pipeline, task
from hooke.data import Shuffled
from hooke.frameworks.tensorflow import TensorFlowLoader, set_tf_config

sys.path.append(str(Path(__file__).resolve().parents[1] / "flights"))

from flight_features import AIRPORT, LEG, PLAIN, WORDS, features
from flight_models import arrived, grade

from flights import month, read, read_flights, source

NUMBERS = [name for name in (*PLAIN, *LEG, *AIRPORT) if name not in WORDS]


@task(cpus=1, memory="1GiB")
def arrays(months: Sequence[pl.DataFrame], like: Sequence[pl.DataFrame]) -> dict[str, np.ndarray]:
    """The words as text, and the numbers on the scale that they have in `like`, each with whether it is missing."""
    rows, scale = arrived(months), arrived(like).select(pl.col(NUMBERS).cast(pl.Float32))
    scaled = [(pl.col(name).cast(pl.Float32) - scale[name].mean()) / scale[name].std() for name in NUMBERS]
    missing = [pl.col(name).is_null().cast(pl.Float32).alias(f"no {name}") for name in NUMBERS]
    words = {name: rows[name].to_numpy().astype(np.str_) for name in WORDS}
    numbers = rows.select(*[each.fill_null(0) for each in scaled], *missing).to_numpy()
    return {"numbers": numbers, "late": rows["late"].cast(pl.Float32).to_numpy(), **words}


def network(words: Mapping[str, Sequence[str]]) -> Any:
    """An embedding of each word, and two layers: 8,000 weights."""
    numbers = keras.layers.Input((2 * len(NUMBERS),), name="numbers")
    texts = {name: keras.layers.Input((), name=name, dtype="string") for name in WORDS}
    parts = [numbers]
    for name, text in texts.items():
        place = keras.layers.StringLookup(vocabulary=list(words[name]))(text)
        parts.append(keras.layers.Embedding(len(words[name]) + 1, 4)(place))
    hidden = keras.layers.Dense(64, "relu")(keras.layers.Concatenate()(parts))
    hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(32, "relu")(hidden))
    return keras.Model({"numbers": numbers, **texts}, keras.layers.Dense(1)(hidden)[:, 0])


@task(gang=2, retries=2)
def train(data: dict[str, np.ndarray], epochs: int, rate: float, batch: int) -> dict[str, Any]:
    """Train on the ranks of a gang; the words and the weights of the network, which are the same on all."""
    set_tf_config()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    words = {name: np.unique(data[name]).tolist() for name in WORDS}
    with strategy.scope():
        model = network(words)
        optimizer = keras.optimizers.Adam(rate)
        optimizer.build(model.trainable_variables)
    loader = TensorFlowLoader(Shuffled(data, seed=1, batch=batch))

    variables = [each.value for each in (*model.variables, *optimizer.variables)]
    checkpoint = tf.train.Checkpoint(variables=variables, loader=loader.trackable)
    folder = hooke.checkpoint_dir()
    if saved := tf.train.latest_checkpoint(folder):
        checkpoint.restore(saved).assert_consumed()
    own = folder if loader.rank == 0 else tempfile.mkdtemp()
    manager = tf.train.CheckpointManager(checkpoint, own, max_to_keep=1)

    def learn(rows: dict[str, Any], weight: Any) -> Any:
        with tf.GradientTape() as tape:
            found = model({name: rows[name] for name in ("numbers", *WORDS)}, training=True)
            loss = tf.nn.sigmoid_cross_entropy_with_logits(rows["late"], found)
            share = tf.reduce_mean(loss) * weight / strategy.num_replicas_in_sync
        gradients = tape.gradient(share, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return share

    @tf.function(reduce_retracing=True)
    def learn_together(rows: dict[str, Any], weight: Any) -> Any:
        return strategy.reduce("SUM", strategy.run(learn, (rows, weight)), axis=None)

    step = int(optimizer.iterations.numpy())
    while loader.epoch < epochs:
        for part in loader:
            loss = learn_together(part.data, part.weight)
            step += 1
            if loader.rank == 0:
                hooke.log_metric("loss", float(loss), step=step)
        manager.save()
    return {"words": words, "weights": model.get_weights()}


@task
def judge(trained: dict[str, Any], data: dict[str, np.ndarray]) -> dict[str, float]:
    """The scores of examples/flights for the forecasts of the network."""
    model = network(trained["words"])
    model.set_weights(trained["weights"])
    rows = {name: tf.constant(data[name]) for name in ("numbers", *WORDS)}
    probability = tf.sigmoid(model(rows)).numpy().astype(np.float64)
    scores = grade(pl.DataFrame({"late": data["late"] > 0, "probability": probability}))
    for name, value in scores.items():
        hooke.log_metric(name, value)
    return scores


@pipeline
def training(months: int = 12, epochs: int = 3, rate: float = 0.002, batch: int = 1024) -> dict[str, float]:
    """Learn from all months but the last quarter, and judge on that."""
    year = read_flights(source("flights.csv.zip"))
    weather, planes, airports = (read(source(f"{name}.csv")) for name in ("weather", "planes", "airports"))
    parts = month.map(range(1, months + 1), year=year, airports=airports)
    rows = features.map(parts, [None, *parts[:-1]], weather=weather, planes=planes)
    last = months - max(1, months // 4)
    trained = train(arrays(rows[:last], rows[:last]), epochs, rate, batch)
    return judge(trained, arrays(rows[last:], rows[:last]))
