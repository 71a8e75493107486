"""Tests of `TensorFlowLoader` that run where TensorFlow is: test_tensorflow.py gives them to pytest in an environment of its own."""

import itertools
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import tensorflow as tf

from hooke import UsageError
from hooke.data import Shuffled, TokenBuckets, pack
from hooke.frameworks.tensorflow import TensorFlowLoader, set_tf_config

N, BATCH = 203, 16
ROWS = {"number": np.arange(N), "half": np.arange(N, dtype=np.float32) / 2}


def shuffled(**options):
    return Shuffled(ROWS, **({"seed": 5, "batch": BATCH} | options))


def loader(rank=0, ranks=1, **options):
    return TensorFlowLoader(shuffled(), rank=rank, ranks=ranks, **options)


def numbers(batches):
    return [batch.data["number"].numpy().tolist() for batch in batches]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_each_rank_has_the_batches_that_the_arrays_have(ranks):
    for rank in range(ranks):
        own = shuffled().batches(0, rank, ranks)
        batches = list(loader(rank, ranks))
        assert [int(batch.step) for batch in batches] == list(range(shuffled().steps(ranks)))
        for batch, same in zip(batches, own, strict=True):
            assert batch.data["number"].numpy().tolist() == same["number"].tolist()
            assert batch.data["half"].numpy().tolist() == same["half"].tolist()
            assert batch.data["half"].dtype == tf.float32
            assert (float(batch.weight), int(batch.rows), int(batch.epoch)) == (
                pytest.approx(own.weight),
                own.rows,
                0,
            )
            assert batch.tokens is None


def test_a_state_is_where_the_loop_is_although_more_was_read():
    whole = numbers(loader())
    later = loader()
    later.set_epoch(1)
    second = numbers(later)
    for taken in range(len(whole) + 1):
        first = loader(prefetch=3)
        had = numbers(itertools.islice(first, taken))
        again = loader()
        again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert again.epoch == (taken == len(whole))
        assert had == whole[:taken]
        assert numbers(again) == (whole[taken:] or second)


def test_epochs_follow_one_another_and_one_that_was_left_goes_on():
    wanted = [[batch["number"].tolist() for batch in shuffled().batches(epoch)] for epoch in range(3)]
    one = loader()
    assert len(one) == len(wanted[0])
    assert [numbers(one), one.epoch] == [wanted[0], 1]
    begun = numbers(itertools.islice(one, 4))
    assert (one.epoch, one.state_dict()["step"]) == (1, 4)
    one.set_epoch(1)
    assert begun + numbers(one) == wanted[1]
    assert [numbers(one), one.epoch] == [wanted[2], 3]
    one.set_epoch(0)
    assert numbers(one) == wanted[0]


def test_another_number_of_ranks_goes_on_with_the_next_row():
    first = [loader(rank, 2) for rank in range(2)]
    had = [numbers(itertools.islice(each, 5)) for each in first]
    state = first[0].state_dict()
    assert state == first[1].state_dict()
    rest = []
    for rank in range(3):
        each = loader(rank, 3)
        each.load_state_dict(state)
        rest.append(numbers(each))
    seen = [row for part in (*had, *rest) for batch in part for row in batch]
    assert sorted(seen) == list(range(N))


def test_a_state_at_the_end_of_an_epoch_begins_the_next(caplog):
    data = Shuffled(np.arange(131), seed=0, batch=64)
    one = TensorFlowLoader(data, rank=0, ranks=4)
    one.load_state_dict(data.state_dict() | {"step": 2})
    assert list(one) == []
    assert one.epoch == 1
    assert "epoch 0 ends without its last 3 rows" in caplog.text
    assert len(list(one)) == 2


def test_a_checkpoint_of_tensorflow_has_the_position(tmp_path):
    whole, one = numbers(loader()), loader()
    steps = tf.Variable(0)
    checkpoint = tf.train.Checkpoint(steps=steps, loader=one.trackable)
    for _ in itertools.islice(one, 7):
        steps.assign_add(1)
    path = checkpoint.save(str(tmp_path / "at"))
    again, others = loader(), tf.Variable(0)
    tf.train.Checkpoint(steps=others, loader=again.trackable).restore(path).assert_consumed()
    assert int(others) == 7
    assert numbers(again) == whole[7:]
    other = TensorFlowLoader(shuffled(seed=6))
    with pytest.raises(UsageError, match="the state is of other data: seed is 5"):
        tf.train.Checkpoint(steps=others, loader=other.trackable).restore(path)


def trained(folder, steps):
    """Losses of the steps from the checkpoint on, and all variables; saves after `steps` steps."""
    import keras

    keras.utils.set_random_seed(1)
    one = loader()
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dropout(0.2)]
    model = keras.Sequential([keras.layers.Input((1,)), *layers, keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    variables = [each.value for each in (*model.variables, *optimizer.variables)]
    checkpoint = tf.train.Checkpoint(variables=variables, loader=one.trackable)
    if saved := tf.train.latest_checkpoint(folder):
        checkpoint.restore(saved).assert_consumed()

    @tf.function(reduce_retracing=True)
    def learn(half):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(half[:, None], training=True)[:, 0] - half**2) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    losses = []
    while int(optimizer.iterations.numpy()) < steps:
        rest = itertools.islice(one, steps - int(optimizer.iterations.numpy()))
        losses += [float(learn(batch.data["half"])) for batch in rest]
    tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1).save()
    return losses, [each.numpy().tolist() for each in variables]


def test_a_checkpoint_of_all_variables_goes_on_bit_equal(tmp_path):
    """With dropout, whose seeds the variables of a model have, and `tf.train.Checkpoint(model=model)` has not."""
    tf.config.experimental.enable_op_determinism()
    losses, variables = trained(tmp_path / "never", 20)
    for step in (5, 13):
        before, _ = trained(tmp_path / str(step), step)
        after, again = trained(tmp_path / str(step), 20)
        assert before + after == losses
        assert again == variables


def test_the_ranks_are_those_of_the_gang(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert numbers(TensorFlowLoader(shuffled())) == numbers(loader(1, 3))


def test_weighted_losses_of_unequal_parts_average_to_that_of_the_global_batch():
    """Gradients of the mean over the ranks equal those of one process to 2e-6 relative: float32 sums in another order."""
    weight = tf.Variable([[0.3]])

    def gradient(batch, factor):
        half = batch.data["half"][:, None]
        with tf.GradientTape() as tape:
            loss = factor * tf.reduce_mean((half @ weight - half**2) ** 2)
        return tape.gradient(loss, weight).numpy()

    shares = zip(*(loader(rank, 3) for rank in range(3)), strict=True)
    for whole, share in zip(loader(), shares, strict=True):
        assert len({len(part.data["half"]) for part in share}) == 2, "the parts are unequal"
        mean = np.mean([gradient(part, part.weight) for part in share], axis=0)
        np.testing.assert_allclose(mean, gradient(whole, 1.0), rtol=2e-6)
        plain = np.mean([gradient(part, 1.0) for part in share], axis=0)
        assert not np.allclose(plain, gradient(whole, 1.0), rtol=1e-4)


def test_a_function_is_traced_once_for_all_batches():
    traced = []

    @tf.function(reduce_retracing=True)
    def total(batch):
        traced.append(batch)
        return tf.reduce_sum(batch.data["number"])

    assert sum(int(total(batch)) for batch in loader(1, 3)) == sum(
        sum(part) for part in numbers(loader(1, 3))
    )
    assert len(traced) <= 2, "for the first batch, and for any number of rows"


def test_keras_fits_it_and_the_callback_counts():
    import keras

    one = loader()
    pairs = one.dataset.map(lambda data, weight, *_: (data["half"][:, None], data["half"] ** 2))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    at = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            one.advance()
            at.append((one.epoch, one.state_dict()["step"]))

    model.fit(pairs, epochs=2, verbose=0, callbacks=[Count()])
    steps = len(one)
    assert at == [(0, step) for step in range(1, steps)] + [(1, step) for step in range(steps)] + [(2, 0)]


# --- Tensors.


@pytest.mark.parametrize(
    "make", [dict, pd.DataFrame, pl.DataFrame, pa.table], ids=["dict", "pandas", "polars", "arrow"]
)
def test_a_table_becomes_tensors_by_column(make):
    table = make(ROWS | {"name": np.array([f"Zeile ä {n}" for n in range(N)])})
    seen = []
    for batch in TensorFlowLoader(Shuffled(table, seed=1, batch=50)):
        rows = batch.data["number"].numpy().tolist()
        assert batch.data["half"].numpy().tolist() == [row / 2 for row in rows]
        assert batch.data["name"].dtype == tf.string
        assert batch.data["name"].numpy().tolist() == [f"Zeile ä {n}".encode() for n in rows]
        seen += rows
    assert sorted(seen) == list(range(N))


def test_rows_of_any_shape_and_the_last_batch_is_smaller():
    images = np.random.default_rng(0).integers(0, 255, (35, 4, 5, 3), np.uint8)
    one = TensorFlowLoader(Shuffled(images, seed=1, batch=10))
    assert one.dataset.element_spec[0] == tf.TensorSpec((None, 4, 5, 3), tf.uint8)
    assert [batch.data.shape[0] for batch in one] == [10, 10, 10, 5]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i4", ">i8", "u1", "u8", "?", "c8", "S3"])
def test_kinds_of_numbers(kind):
    array = np.arange(6).astype(kind)
    (batch,) = TensorFlowLoader(Shuffled(array, seed=1, batch=6))
    (same,) = Shuffled(array, seed=1, batch=6).batches()
    assert batch.data.numpy().tolist() == same.tolist()


def test_a_packed_file_with_text(tmp_path):
    packed = pack(ROWS | {"name": [f"row {n}" for n in range(N)]}, tmp_path / "rows.packed")
    for batch in TensorFlowLoader(Shuffled(packed, seed=1, batch=50)):
        assert batch.data["name"].numpy().tolist() == [b"row %d" % n for n in batch.data["number"].numpy()]


def test_bytes_keep_their_zeros():
    (batch,) = TensorFlowLoader(Shuffled([b"a\0", b"\0"] * 2, seed=1, batch=4))
    assert sorted(batch.data.numpy().tolist()) == [b"\0", b"\0", b"a\0", b"a\0"]


def padded(batch):
    """Lists of numbers, padded to the longest of the batch."""
    longest = max(map(len, batch))
    return {"tokens": np.array([[*row, *[0] * (longest - len(row))] for row in batch])}


def test_token_buckets_have_their_tokens_and_lists_are_padded():
    lengths = np.random.default_rng(0).integers(1, 30, 100)
    rows = [list(range(1, length + 1)) for length in lengths]
    data = Shuffled(rows, seed=1, balance=TokenBuckets(lengths, tokens=120))
    spec = {"tokens": tf.TensorSpec((None, None), tf.int64)}
    tokens = 0
    for batch in TensorFlowLoader(data, transform=padded, spec=spec):
        assert int(tf.math.count_nonzero(batch.data["tokens"])) == int(batch.tokens)
        tokens += int(batch.tokens)
    assert tokens == lengths.sum()


# --- What is wrong.


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"day": np.array(["2026-11-29"] * 9, "M8[D]")}, "column 'day' cannot be a tensor(.|\n)*datetime64"),
        ({"name": np.array(["a", None] * 5)}, "column 'name' cannot be a tensor(.|\n)*None"),
        ([1, "a"] * 5, "the data cannot be a tensor(.|\n)*it holds 1, a int"),
        ([[1], [1, 2]] * 5, "the data cannot be a tensor(.|\n)*pad lists"),
    ],
)
def test_what_has_no_tensor_is_refused(source, why):
    with pytest.raises(UsageError, match=why):
        next(iter(TensorFlowLoader(Shuffled(source, seed=1, batch=4))))


def test_a_batch_of_another_shape_is_refused():
    lengths = np.arange(1, 41)
    data = Shuffled([[1] * length for length in lengths], seed=1, batch=4)
    with pytest.raises(UsageError, match="column 'tokens' has the shape .* was expected(.|\n)*pass `spec`"):
        list(TensorFlowLoader(data, transform=padded))


@pytest.mark.parametrize("spec", [None, tf.TensorSpec((None,), tf.int64)], ids=["first", "spec"])
def test_a_batch_of_another_type_is_refused_and_not_cut_off(spec):
    """As where a column has a null in a later batch."""
    data = Shuffled(np.arange(40), seed=1, batch=10)
    seen = iter(range(100))
    loader = TensorFlowLoader(data, transform=lambda batch: batch / 2 if next(seen) > 2 else batch, spec=spec)
    with pytest.raises(
        UsageError, match="values of float64 in a batch, and int64 was expected(.|\n)*what is missing"
    ):
        list(loader)


def test_a_spec_may_be_of_a_type_that_holds_all():
    loader = TensorFlowLoader(
        Shuffled(np.arange(4), seed=1, batch=4), spec=tf.TensorSpec((None,), tf.float32)
    )
    (batch,) = loader
    assert batch.data.dtype == tf.float32
    assert sorted(batch.data.numpy()) == [0, 1, 2, 3]


def test_a_spec_of_columns_for_an_array_is_refused():
    loader = TensorFlowLoader(
        Shuffled(np.arange(4), seed=1, batch=4), spec={"x": tf.TensorSpec((None,), tf.int64)}
    )
    with pytest.raises(UsageError, match="a batch is a dict of columns, and the spec is not"):
        list(loader)


def test_a_loop_over_the_dataset_leaves_an_epoch_whose_rest_is_too_small():
    """For these ranks: the state is of fewer."""
    alone = Shuffled(np.arange(21), seed=1, batch=10)
    for _ in itertools.islice(alone.batches(0), 2):
        pass
    loader = TensorFlowLoader(Shuffled(np.arange(21), seed=1, batch=10), rank=0, ranks=2)
    loader.load_state_dict(alone.state_dict())
    seen = 0
    for _ in range(4):
        for _ in loader.dataset:
            seen += 1
            loader.advance()
        if loader.epoch == 2:
            break
    assert (loader.epoch, seen) == (2, 2)


def test_a_batch_of_other_columns_is_refused():
    seen = []

    def transform(batch):
        seen.append(batch)
        return batch if len(seen) < 5 else {"number": batch["number"]}

    with pytest.raises(UsageError, match="a batch has the columns number, and the spec number, half"):
        list(loader(transform=transform))


def test_an_error_of_a_transform_is_that_of_the_loop():
    seen = []

    def fails(batch):
        seen.append(batch)
        if len(seen) == 4:
            raise KeyError("a row that cannot be read")
        return batch

    with pytest.raises(KeyError, match="a row that cannot be read"):
        list(loader(transform=fails))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: loader(3, 3), "rank is 3, of 3 ranks"),
        (lambda: loader(0, 17), "16 rows cannot be shared by 17 ranks"),
        (lambda: loader().load_state_dict({}), "not a state of Shuffled"),
    ],
)
def test_what_is_wrong_is_said(make, what):
    with pytest.raises(UsageError, match=what):
        make()


def test_a_cluster_is_made_before_tensorflow_starts(monkeypatch):
    tf.constant(1)
    set_tf_config()  # the only rank: there is nothing to set
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="TensorFlow has started"):
        set_tf_config()
