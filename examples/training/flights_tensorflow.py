"""Will this flight arrive late? A network in TensorFlow on the rows of examples/flights, trained by two processes or by one.

hooke run examples/training/flights_tensorflow.py --workers 2
hooke run examples/training/flights_tensorflow.py --workers 2 --ranks 1
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from flights_rows import NUMBERS, WORDS, Facts, arrays, facts, learnt_from, places, scores, split
from tensorflow import keras

import hooke
from hooke import pipeline, task
from hooke.data import Shuffled
from hooke.frameworks.tensorflow import TensorFlowLoader, set_tf_config


def network(known: Facts) -> Any:
    """An embedding of each word, and two layers: the logits that flights arrive late. Numbers are scaled in it, and NaN where one is missing."""
    numbers = keras.layers.Input((len(NUMBERS),), name="numbers")
    places = keras.layers.Input((len(WORDS),), name="places", dtype="int64")
    missing = keras.ops.isnan(numbers)
    mean, deviation = np.array([known.mean, known.deviation], np.float32)
    parts = [
        keras.ops.where(missing, 0.0, (numbers - mean) / deviation),
        keras.ops.cast(missing, "float32"),
    ]
    for at, words in enumerate(known.words):
        parts.append(keras.layers.Embedding(len(words) + 1, 4)(places[:, at]))
    hidden = keras.layers.Dense(64, "relu")(keras.layers.Concatenate()(parts))
    hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(32, "relu")(hidden))
    return keras.Model({"numbers": numbers, "places": places}, keras.layers.Dense(1)(hidden)[:, 0])


def fit(data: dict[str, np.ndarray], known: Facts, epochs: int, rate: float, batch: int) -> list[np.ndarray]:
    """Train on the ranks of a gang, or alone; the weights of the network, which are the same on all ranks."""
    set_tf_config()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = network(known)
        optimizer = keras.optimizers.Adam(rate)
        optimizer.build(model.trainable_variables)
    loader = TensorFlowLoader(Shuffled(learnt_from(data, known), seed=1, batch=batch))

    variables = [each.value for each in (*model.variables, *optimizer.variables)]
    checkpoint = tf.train.Checkpoint(variables=variables, loader=loader.trackable)
    folder = hooke.checkpoint_dir()
    if saved := tf.train.latest_checkpoint(folder):
        checkpoint.restore(saved).assert_consumed()
    own = folder if loader.rank == 0 else tempfile.mkdtemp()
    manager = tf.train.CheckpointManager(checkpoint, own, max_to_keep=1)

    def learn(rows: dict[str, Any], weight: Any) -> Any:
        with tf.GradientTape() as tape:
            found = model({name: rows[name] for name in ("numbers", "places")}, training=True)
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
    return model.get_weights()


@task(gang=2, retries=2)
def train(
    data: dict[str, np.ndarray], known: Facts, epochs: int, rate: float, batch: int
) -> list[np.ndarray]:
    """As a gang of two ranks."""
    return fit(data, known, epochs, rate, batch)


@task(retries=2)
def train_alone(
    data: dict[str, np.ndarray], known: Facts, epochs: int, rate: float, batch: int
) -> list[np.ndarray]:
    """By one process."""
    return fit(data, known, epochs, rate, batch)


class Trained:
    """The network with its weights."""

    def __init__(self, known: Facts, weights: list[np.ndarray]) -> None:
        self.known, self.model = known, network(known)
        self.model.set_weights(weights)

    def predict(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """See Forecaster."""
        numbers, found = tf.constant(rows["numbers"]), tf.constant(places(rows, self.known.words))
        return tf.sigmoid(self.model({"numbers": numbers, "places": found})).numpy()


@task
def judge(known: Facts, weights: list[np.ndarray], data: dict[str, np.ndarray]) -> dict[str, float]:
    """The scores of the network."""
    return scores(Trained(known, weights), data)


@task
def exported(known: Facts, weights: list[np.ndarray]) -> bytes:
    """The network as ONNX: what reads it needs no TensorFlow. Words come as text, and out come probabilities."""
    import onnx
    import tf2onnx

    model = Trained(known, weights).model
    numbers = tf.TensorSpec((None, len(NUMBERS)), tf.float32, name="numbers")
    signature = [numbers, tf.TensorSpec((None, len(WORDS)), tf.int64, name="places")]

    def forecast(numbers: Any, places: Any) -> Any:
        return tf.sigmoid(model({"numbers": numbers, "places": places}))

    graph, _ = tf2onnx.convert.from_function(tf.function(forecast), input_signature=signature, opset=OPSET)
    words = words_graph(known, graph.ir_version)
    return onnx.compose.merge_models(words, graph, [("found", "places")]).SerializeToString()


OPSET = 15


def words_graph(known: Facts, ir_version: int) -> Any:
    """A graph that gives the places of words: tf2onnx converts no tables of text."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    for name, words in zip(WORDS, known.words, strict=True):
        facts = {"keys_strings": list(words), "values_int64s": list(range(len(words)))}
        coded = helper.make_node(
            "LabelEncoder",
            [name],
            [f"{name} place"],
            domain="ai.onnx.ml",
            default_int64=len(words),
            **facts,
        )
        nodes += [coded, helper.make_node("Unsqueeze", [f"{name} place", "axis"], [f"{name} column"])]
    nodes.append(helper.make_node("Concat", [f"{name} column" for name in WORDS], ["found"], axis=1))
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info(name, TensorProto.STRING, [None]) for name in WORDS],
        [helper.make_tensor_value_info("found", TensorProto.INT64, [None, len(WORDS)])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=versions, ir_version=ir_version)


@pipeline
def training(
    months: int = 12, epochs: int = 3, rate: float = 0.002, batch: int = 1024, ranks: int = 2
) -> dict[str, Any]:
    """Learn from all months but the last quarter, and judge on that."""
    known_months, last_months = split(months)
    data = arrays(known_months)
    known = facts(data)
    weights = (train_alone if ranks == 1 else train)(data, known, epochs, rate, batch)
    return {"model": exported(known, weights), "scores": judge(known, weights, arrays(last_months))}
