"""Shuffled batches as tensors: one order for any number of ranks and of loader processes, and a state that follows the loop."""

import gc
import itertools
import json
import os
import random

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hooke import UsageError
from hooke.data import Shuffled

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # more workers than this machine has cores
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]

N, BATCH = 203, 16
ROWS = {"number": np.arange(N), "half": np.arange(N, dtype=np.float32) / 2}


def shuffled(**options) -> Shuffled:
    return Shuffled(ROWS, **({"seed": 5, "batch": BATCH} | options))


def loader(rank=0, ranks=1, workers=0, **options):
    from hooke.frameworks.torch import ShuffledLoader

    return ShuffledLoader(shuffled(), rank=rank, ranks=ranks, num_workers=workers, **options)


def numbers(batches) -> list[list[int]]:
    return [batch.data["number"].tolist() for batch in batches]


def in_order(parts: list[list[list[int]]]) -> list[int]:
    """The rows of an epoch in their order, of the batches of each rank."""
    ranks, order = len(parts), []
    for step in zip(*parts, strict=True):
        rows = [None] * sum(map(len, step))
        for rank, part in enumerate(step):
            rows[(rank - len(order)) % ranks :: ranks] = part
        order += rows
    return order


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_and_loader_processes_do_not_change_the_order(ranks, workers):
    alone = [row for batch in shuffled().batches() for row in batch["number"].tolist()]
    parts = []
    for rank in range(ranks):
        batches = list(loader(rank, ranks, workers))
        assert [batch.step for batch in batches] == list(range(shuffled().steps(ranks)))
        own = shuffled().batches(0, rank, ranks)
        for batch, same in zip(batches, own, strict=True):
            assert (batch.weight, batch.rows, batch.epoch) == (own.weight, own.rows, 0)
            assert batch.data["half"].tolist() == same["half"].tolist()
        parts.append(numbers(batches))
    assert in_order(parts) == alone
    assert sorted(alone) == list(range(N))


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_is_where_the_loop_is_although_more_was_read(workers):
    whole = numbers(loader())
    for taken in range(len(whole)) if workers == 0 else (1, 4, len(whole)):
        first = loader(workers=workers)
        had = numbers(itertools.islice(first, taken))
        state = json.loads(json.dumps(first.state_dict()))
        again = loader(workers=workers and 3)
        again.load_state_dict(state)
        assert again.epoch == (taken == len(whole))
        rest = numbers(again)
        assert rest == (whole[taken:] or numbers(loader_at(1)))
        assert had == whole[:taken]


def loader_at(epoch: int):
    made = loader()
    made.set_epoch(epoch)
    return made


@pytest.mark.needs("cpu")
def test_another_number_of_ranks_goes_on_in_the_same_order():
    alone = [row for batch in shuffled().batches() for row in batch["number"].tolist()]
    first = [loader(rank, 2) for rank in range(2)]
    had = [numbers(itertools.islice(each, 5)) for each in first]
    state = first[0].state_dict()
    assert state == first[1].state_dict()
    later = [loader(rank, 3) for rank in range(3)]
    for each in later:
        each.load_state_dict(state)
    rest = [numbers(each) for each in later]
    done = in_order(had)
    assert done == alone[: 5 * BATCH]
    tail = []
    for step in zip(*rest, strict=True):
        rows = [None] * sum(map(len, step))
        for rank, part in enumerate(step):
            rows[(rank - len(done) - len(tail)) % 3 :: 3] = part
        tail += rows
    assert done + tail == alone


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"workers": 2, "persistent_workers": True}])
def test_epochs_follow_one_another_and_one_that_was_left_goes_on(options):
    wanted = [numbers(map(same, shuffled().batches(epoch))) for epoch in range(3)]
    one = loader(**options)
    assert len(one) == len(wanted[0])
    assert [numbers(one), one.epoch] == [wanted[0], 1]
    begun = numbers(itertools.islice(one, 4))
    assert (one.epoch, one.state_dict()["step"]) == (1, 4)
    one.set_epoch(1)
    assert begun + numbers(one) == wanted[1]
    assert [numbers(one), one.epoch] == [wanted[2], 3]
    one.set_epoch(0)
    assert numbers(one) == wanted[0]


def same(batch):
    """A batch of `Shuffled` as one of the loader's, for its numbers."""
    from hooke.frameworks.torch import TrainingBatch

    return TrainingBatch(batch, 1.0, 0, 0, 0)


@pytest.mark.needs("cpu")
def test_a_state_at_the_end_of_an_epoch_begins_the_next(caplog):
    """Of a loader whose epoch has fewer steps, because the tail joins the batch before it."""
    data = Shuffled(np.arange(131), seed=0, batch=64)
    from hooke.frameworks.torch import ShuffledLoader

    one = ShuffledLoader(data, rank=0, ranks=4)
    one.load_state_dict(data.state_dict() | {"step": 2})
    assert list(one) == []
    assert one.epoch == 1
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 0 ends without its last 3 rows, which are fewer than the 4 ranks; 3 ranks or fewer can read them"
    ]
    assert len(list(one)) == 2
    assert (one.epoch, len(caplog.records)) == (2, 1)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("workers", [0, 3])
def test_the_dataset_works_in_a_loader_of_pytorch(workers):
    from torch.utils.data import DataLoader

    from hooke.frameworks.torch import ShuffledDataset

    dataset = ShuffledDataset(shuffled())
    plain = DataLoader(dataset, batch_size=None, num_workers=workers)
    assert len(plain) == len(dataset) == shuffled().steps()
    assert numbers(plain) == numbers(loader())
    dataset.set_epoch(2, start=7)
    assert numbers(plain) == numbers(loader_at(2))[7:]


@pytest.mark.needs("cpu")
def test_it_draws_nothing_from_the_global_random_numbers():
    """A loop that is resumed in an epoch makes another iterator, and must draw the same numbers as one that is not."""
    import torch

    for workers in (0, 1):
        before = torch.get_rng_state()
        list(loader(workers=workers))
        assert torch.equal(torch.get_rng_state(), before)


def test_the_ranks_are_those_of_the_gang(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert numbers(loader(None, None)) == numbers(loader(1, 3))


@pytest.mark.needs("cpu")
def test_weighted_losses_of_unequal_parts_average_to_that_of_the_global_batch():
    """Gradients of the mean over the ranks equal those of one process to 2e-7 relative: float32 sums in another order."""
    import torch
    from torch.nn.functional import mse_loss

    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)

    def gradient(batch) -> torch.Tensor:
        model.zero_grad()
        half = batch.data["half"][:, None]
        (mse_loss(model(half), half**2) * batch.weight).backward()
        return model.weight.grad.clone()

    ranks = 3
    shares = zip(*(loader(rank, ranks) for rank in range(ranks)), strict=True)
    for whole, share in zip(loader(), shares, strict=True):
        assert len({len(part.data["half"]) for part in share}) == 2, "the parts are unequal"
        mean = torch.stack([gradient(part) for part in share]).mean(0)
        torch.testing.assert_close(mean, gradient(whole), rtol=2e-6, atol=0)
        plain = torch.stack([gradient(part._replace(weight=1.0)) for part in share]).mean(0)
        assert not torch.allclose(plain, gradient(whole), rtol=1e-4)


# --- Tensors.


def test_aligned_arrays_become_tensors_without_a_copy():
    from hooke.frameworks.torch import ALIGNED_BYTES, tensors_of

    for kind in ("f4", "f8", "f2", "i1", "i4", "i8", "u1", "u2", "u8", "?", "c8"):
        memory = np.zeros(4 * ALIGNED_BYTES, "u1")
        first = -memory.ctypes.data % ALIGNED_BYTES
        size = 6 * np.dtype(kind).itemsize
        aligned, other = (memory[at : at + size].view(kind).reshape(3, 2) for at in (first, first + 16))
        assert np.shares_memory(tensors_of(aligned).numpy(), aligned), kind
        assert tensors_of(other).data_ptr() % ALIGNED_BYTES == 0, kind
    assert tensors_of(np.array([1, 2], ">i4")).tolist() == [1, 2]
    assert tensors_of(np.arange(3)[::-1]).tolist() == [2, 1, 0]
    fixed = np.arange(3)
    fixed.flags.writeable = False
    assert tensors_of(fixed).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "batch",
    [np.array(["a", "b"]), np.array(["2026-11-29"], "M8[D]"), np.array([None, 1]), ["a", b"b"], "text", 7],
    ids=lambda batch: f"{type(batch).__name__}-{getattr(batch, 'dtype', '')}",
)
def test_what_has_no_tensor_stays_as_it_is(batch):
    from hooke.frameworks.torch import tensors_of

    assert tensors_of(batch) is batch
    assert tensors_of({"column": batch})["column"] is batch


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "make", [dict, pd.DataFrame, pl.DataFrame, pa.table], ids=["dict", "pandas", "polars", "arrow"]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_table_becomes_tensors_by_column(make, workers):
    import torch

    from hooke.frameworks.torch import ShuffledLoader

    table = make(ROWS | {"name": np.array([f"row {n}" for n in range(N)])})
    seen = []
    options = {"multiprocessing_context": "forkserver"} if workers and make is pl.DataFrame else {}
    for batch in ShuffledLoader(Shuffled(table, seed=1, batch=50), num_workers=workers, **options):
        number, half, name = (batch.data[column] for column in ("number", "half", "name"))
        assert (number.dtype, half.dtype) == (torch.int64, torch.float32)
        assert torch.equal(half * 2, number.float())
        assert list(name) == [f"row {n}" for n in number.tolist()]
        seen += number.tolist()
    assert sorted(seen) == list(range(N))


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "options", [{}, {"num_workers": 2}, {"num_workers": 2, "multiprocessing_context": "forkserver"}]
)
def test_a_packed_file_is_read_by_all_workers(options, tmp_path):
    from hooke.data import pack
    from hooke.frameworks.torch import ShuffledLoader

    packed = pack(ROWS | {"name": [f"row {n}" for n in range(N)]}, tmp_path / "rows.packed")
    batches = list(ShuffledLoader(Shuffled(packed, seed=1, batch=50), **options))
    for batch in batches:
        assert batch.data["name"] == [f"row {n}" for n in batch.data["number"].tolist()]
        assert (batch.data["half"] * 2).tolist() == batch.data["number"].tolist()
    plain = list(Shuffled(packed, seed=1, batch=50).batches())
    assert numbers(batches) == [batch["number"].tolist() for batch in plain]


def squared(batch):
    return {"square": batch["number"] ** 2, "reader": os.getpid()}


@pytest.mark.needs("cpu")
def test_a_transform_runs_where_the_batch_is_read():
    for workers in (0, 1):
        for batch, plain in zip(loader(workers=workers, transform=squared), loader(), strict=True):
            assert batch.data["square"].tolist() == (plain.data["number"] ** 2).tolist()
            assert (batch.data["reader"] == os.getpid()) == (workers == 0)


def noisy(batch):
    import torch

    noise = [random.random(), float(np.random.random()), float(torch.rand(()))]
    return {"number": batch["number"], "noise": np.array(noise)}


@pytest.mark.needs("cpu")
def test_random_numbers_of_a_transform_belong_to_the_step_and_the_rank():
    import torch

    def noise(rank=0, workers=0, epoch=0, after=0):
        made = loader(rank, 2, workers, transform=noisy)
        made.load_state_dict(made.state_dict() | {"epoch": epoch, "step": after})
        return [batch.data["noise"].tolist() for batch in made]

    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    whole = noise()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert noise(workers=1) == noise(workers=3) == whole
    assert noise(after=4) == noise(workers=2, after=4) == whole[4:]
    assert len({number for step in [*whole, *noise(rank=1), *noise(epoch=1)] for number in step}) == 9 * len(
        whole
    )


def as_tensors(batch):
    import torch

    rows = torch.from_numpy(batch["half"])
    return {
        "half": rows.to(torch.bfloat16),
        "weights": torch.nn.Parameter(rows),
        "large": rows[:, None].expand(-1, 20_000).contiguous(),
        "number": batch["number"],
    }


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_transform_may_make_any_tensors(workers):
    import torch

    batch = next(iter(loader(workers=workers, transform=as_tensors)))
    assert [batch.data[name].dtype for name in ("half", "large")] == [torch.bfloat16, torch.float32]
    assert batch.data["weights"].requires_grad
    assert batch.data["large"].nbytes > 1 << 20
    assert torch.equal(batch.data["large"][:, 7] * 2, batch.data["number"].float())


@pytest.mark.needs("gpu")
def test_batches_are_pinned_where_there_is_a_gpu():
    for batch in loader(workers=1, pin_memory=True):
        assert batch.data["half"].is_pinned()
        assert isinstance(batch.weight, float)


# --- What is wrong.


def fails(batch):
    raise ValueError("a row that cannot be read")


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_an_error_in_a_loader_process_is_that_of_the_loop():
    with pytest.raises(ValueError, match="a row that cannot be read"):
        list(loader(workers=2, transform=fails))
    # PyTorch's frames refer to one another, and end the workers when the collector finds them: 10 s, which some other test would take.
    gc.collect()


def test_polars_in_a_forked_worker_is_refused():
    """It would wait for ever, as the process before it has used Polars."""
    from hooke.frameworks.torch import ShuffledLoader

    data = Shuffled(pl.DataFrame(ROWS), seed=1, batch=50)
    with pytest.raises(UsageError, match="a Polars table cannot be read in a forked worker"):
        ShuffledLoader(data, num_workers=1, multiprocessing_context="fork")
    ShuffledLoader(data, num_workers=1, multiprocessing_context="forkserver")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: loader(batch_size=3), "does not take batch_size"),
        (lambda: loader(shuffle=True, drop_last=True), "does not take drop_last, shuffle"),
        (lambda: loader(3, 3), "rank is 3, of 3 ranks"),
        (lambda: loader(0, 17), "16 rows cannot be shared by 17 ranks"),
        (
            lambda: loader().load_state_dict(shuffled(seed=6).state_dict()),
            "the state is of other data: seed is 6",
        ),
        (lambda: loader().load_state_dict({}), "not a state of Shuffled"),
    ],
)
def test_what_is_wrong_is_said(make, what):
    with pytest.raises(UsageError, match=what):
        make()
