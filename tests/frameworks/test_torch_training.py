"""Trainings that go on from a checkpoint with bit-equal weights, on any number of ranks; what does not fit is refused."""

import copy
import random

import numpy as np
import pytest
from tests.fixtures.small_disk import fill

from hooke import HookeError, UsageError
from hooke.base.errors import CorruptObject

pytestmark = [
    pytest.mark.needs("processes"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.long
def test_one_process_goes_on_bit_equal_from_any_step(tmp_path):
    from tests.frameworks.torch_ranks import trained

    _, rows, weights = trained(tmp_path / "never", {})
    for step in range(1, len(rows), 4):
        folder = tmp_path / str(step)
        folder.mkdir()
        assert trained(folder, {}, step, save=True)[:2] == (0, rows[:step])
        before, rest, again = trained(folder, {"workers": step % 3 and 1})
        assert (before, rest) == (step, rows[step:])
        assert equal(again, weights)


@pytest.mark.long
@pytest.mark.parametrize(("wrap", "ranks"), [("ddp", 2), ("fsdp", 3)])
def test_ranks_go_on_bit_equal(ranks, wrap, tmp_path):
    from tests.frameworks.torch_ranks import run_ranks, trained

    whole = run_ranks(trained, ranks, tmp_path, {"wrap": wrap})
    run_ranks(trained, ranks, tmp_path, {"wrap": wrap}, 9, True)
    again = run_ranks(trained, ranks, tmp_path, {"wrap": wrap, "workers": 1})
    for one, other in zip(whole, again, strict=True):
        assert (other[0], other[1]) == (9, one[1][9:])
        assert equal(other[2], one[2])


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_ranks_learn_what_one_process_learns(wrap, tmp_path):
    """Weights after two epochs agree to 1e-4: sums of float32 in another order. Parts are unequal: 4, 3 and 3 of 10 rows."""
    from tests.frameworks.torch_ranks import run_ranks, trained

    _, rows, alone = trained(tmp_path, {"chance": False})
    ranks = run_ranks(trained, 3, tmp_path, {"wrap": wrap, "chance": False})
    for _, seen, weights in ranks:
        assert {len(part) for part in seen} >= {3, 4}
        assert weights.keys() == alone.keys()
        for name, value in weights.items():
            np.testing.assert_allclose(value, alone[name], rtol=1e-4, atol=1e-5)
    for batch, parts in zip(rows, zip(*(seen for _, seen, _ in ranks), strict=True), strict=True):
        assert sorted(batch) == sorted(row for part in parts for row in part)


@pytest.mark.long
@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_another_number_of_ranks_goes_on_in_the_same_order(wrap, tmp_path, caplog):
    """From two ranks to one: the same rows follow, and what is random is drawn anew, in the same way each time."""
    from tests.frameworks.torch_ranks import Training, run_ranks, trained

    options = {"wrap": wrap, "chance": wrap != "fsdp"}
    two = run_ranks(trained, 2, tmp_path, options, 9, True)
    _, order, _ = trained(tmp_path / "never", {})
    ends = []
    for _ in range(2):
        training = Training(tmp_path, chance=options["chance"])
        assert training.checkpoint.load() == 9
        assert equal(training.weights(), two[0][2])
        assert "the checkpoint is of 2 ranks, and 1 go on" in caplog.text
        assert training.train() == order[9:]
        ends.append((training.weights(), random.random(), np.random.random()))
    assert equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


def test_rank_0_alone_reads_and_writes(tmp_path):
    """Another host may have an older copy of the folder, or none."""
    from tests.frameworks.torch_ranks import on_hosts_of_their_own, run_ranks

    run_ranks(on_hosts_of_their_own, 2, tmp_path, 3)
    (file,) = tmp_path.rglob("*.pt")
    assert file.parent.name == "host-0"
    (tmp_path / "host-1" / file.name).write_bytes(b"an older one")
    assert run_ranks(on_hosts_of_their_own, 2, tmp_path, None) == [3, 3]


def test_ranks_draw_other_numbers_and_a_checkpoint_has_them_all(tmp_path):
    from tests.frameworks.torch_ranks import draws, run_ranks

    (a, b), after = zip(*run_ranks(draws, 2, tmp_path, True), strict=True)
    assert len({*a, *b}) == len([*a, *b]), "each kind of numbers of each rank"
    assert [drawn for _, drawn in run_ranks(draws, 2, tmp_path, False)] == list(after)


def test_seeds_are_the_same_on_all_ranks_or_others_on_each(monkeypatch):
    import torch

    from hooke.frameworks.torch import set_seed

    def drawn(seed, rank, **options):
        monkeypatch.setenv("RANK", str(rank))
        set_seed(seed, **options)
        return random.random(), np.random.random(), float(torch.rand(()))

    assert drawn(7, 0) == drawn(7, 1) != drawn(8, 0)
    assert drawn(7, 0, per_rank=True) == drawn(7, 0, per_rank=True) != drawn(7, 1, per_rank=True)
    drawn(-1, 0)
    drawn(2**70, 0)


def test_the_group_of_one_process_is_one_of_one_and_ends_on_errors():
    import torch.distributed as dist

    from hooke.frameworks.torch import process_group

    for _ in range(2):
        with process_group():
            assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        with pytest.raises(KeyError), process_group():
            {}["not in it"]
        assert not dist.is_initialized()


def test_a_rank_has_the_first_of_its_gpus(monkeypatch):
    import torch

    from hooke.frameworks.torch import device

    if not torch.cuda.is_available():
        assert device() == torch.device("cpu")
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for gpus, local, ranks, index in [(4, 1, 2, 2), (2, 1, 2, 1), (1, 1, 2, 0), (3, 0, 1, 0)]:
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setenv("LOCAL_RANK", str(local))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert device() == torch.device("cuda", index) == chosen[-1]


@pytest.mark.needs("gpu")
def test_random_numbers_of_the_gpu_go_on(tmp_path):
    import torch

    from hooke.frameworks.torch import Checkpoint, device, set_seed

    here = device()
    set_seed(3)
    model = torch.nn.Linear(2, 2).to(here)
    checkpoint = Checkpoint(folder=tmp_path, model=model)
    torch.rand(5, device=here)
    checkpoint.save(1)
    wanted = torch.rand(5, device=here)
    assert checkpoint.load() == 1
    assert torch.equal(torch.rand(5, device=here), wanted)
    assert next(model.parameters()).device == here


# --- The file.


def test_there_is_no_checkpoint_at_first_and_saving_replaces_it(tmp_path):
    import torch

    from hooke.frameworks.torch import Checkpoint

    model = torch.nn.Linear(2, 2)
    checkpoint = Checkpoint(folder=tmp_path, model=model)
    assert checkpoint.load() == 0
    for step in (1, 2):
        with torch.no_grad():
            model.weight.fill_(step)
        checkpoint.save(step)
    with torch.no_grad():
        model.weight.fill_(9)
    assert checkpoint.load() == 2
    assert model.weight.tolist() == [[2, 2], [2, 2]]
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_leaves_the_checkpoint_of_before(small_disk):
    import torch

    from hooke.frameworks.torch import Checkpoint

    model = torch.nn.Linear(50, 50)
    checkpoint = Checkpoint(folder=small_disk, model=model)
    checkpoint.save(1)
    fill(small_disk)
    with pytest.raises(HookeError, match="the checkpoint cannot be written(.|\n)*ENOSPC|No space left"):
        checkpoint.save(2)
    assert checkpoint.load() == 1
    assert sorted(file.name for file in small_disk.iterdir()) == ["ballast", "checkpoint.pt"]


def test_a_folder_of_ones_own_is_made(tmp_path):
    import torch

    from hooke.frameworks.torch import Checkpoint

    checkpoint = Checkpoint(folder=tmp_path / "of" / "ours", model=torch.nn.Linear(2, 2))
    checkpoint.save(4)
    assert checkpoint.load() == 4


def test_a_class_that_is_not_found_is_no_damage(tmp_path, monkeypatch):
    import sys
    import types

    from hooke.frameworks.torch import Checkpoint

    class Counter:
        def state_dict(self):
            return {"counter": self}

        def load_state_dict(self, state):
            """Nothing."""

    module = types.ModuleType("counters")
    module.Counter, Counter.__module__, Counter.__qualname__ = Counter, "counters", "Counter"
    monkeypatch.setitem(sys.modules, "counters", module)
    checkpoint = Checkpoint(folder=tmp_path, counter=Counter())
    checkpoint.save(1)
    monkeypatch.delitem(sys.modules, "counters")
    with pytest.raises(UsageError, match="No module named 'counters'(.|\n)*importable"):
        checkpoint.load()


def test_a_damaged_file_is_refused(tmp_path):
    import torch

    from hooke.frameworks.torch import Checkpoint

    checkpoint = Checkpoint(folder=tmp_path, model=torch.nn.Linear(2, 2))
    checkpoint.save(1)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CorruptObject, match="the checkpoint cannot be read"):
        checkpoint.load()
    torch.save({"weights": 1}, file)
    with pytest.raises(UsageError, match="by another program"):
        checkpoint.load()


def test_a_checkpoint_of_another_training_is_refused_and_nothing_is_loaded(tmp_path):
    import torch
    from tests.frameworks.torch_ranks import Training, data

    from hooke.frameworks.torch import Checkpoint, ShuffledLoader

    own = Training(tmp_path)
    own.train(3)
    own.checkpoint.save(3)
    parts = {name: getattr(own, name) for name in ("model", "optimizer", "scheduler", "loader")}
    wide = copy.deepcopy(own.model)
    wide[4] = torch.nn.Linear(16, 2)
    deep = copy.deepcopy(own.model).append(torch.nn.Linear(1, 1))
    groups = [{"params": list(own.model.parameters())[:2]}, {"params": list(own.model.parameters())[2:]}]
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    torch.nn.init.ones_(own.model[0].weight)
    for change, why in [
        ({"model": wide}, r"model: 4.weight has the shape \(1, 16\) in it, and has the shape \(2, 16\) here"),
        ({"model": deep}, r"model: 5.weight is missing in it, and has the shape \(1, 1\) here"),
        ({"optimizer": torch.optim.SGD(own.model.parameters())}, "optimizer is a AdamW, and here a SGD"),
        (
            {"optimizer": torch.optim.AdamW(groups)},
            r"optimizer has groups of \[\d+\] parameters, and here of \[2, \d+\]",
        ),
        ({"ema": copy.deepcopy(own.model)}, "it holds loader, model, optimizer, scheduler, and here are ema"),
        ({"loader": ShuffledLoader(data(seed=4))}, "the state is of other data: seed is 3, and here 4"),
    ]:
        with pytest.raises(UsageError, match=why):
            Checkpoint(folder=tmp_path, **parts | change).load()
        assert own.model[0].weight.eq(1).all()
    assert own.checkpoint.load() == 3
    assert all(torch.equal(value, before[name]) for name, value in own.model.state_dict().items())


def test_what_cannot_be_saved_is_refused(tmp_path):
    from hooke.frameworks.torch import Checkpoint

    with pytest.raises(UsageError, match="rows has no state to save: it is a list"):
        Checkpoint(folder=tmp_path, rows=[1])
    with pytest.raises(UsageError, match="called outside a task"):
        Checkpoint()


def test_ranks_that_save_different_steps_are_refused(tmp_path):
    from tests.frameworks.torch_ranks import run_ranks, saved_at

    with pytest.raises(UsageError, match="the ranks save different steps(.|\n)*rank 0: 7, rank 1: 8"):
        run_ranks(saved_at, 2, tmp_path, 7)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_loader_process_that_dies_is_told():
    from tests.frameworks.torch_ranks import loses_a_loader_process, run_ranks

    with pytest.raises(HookeError, match=r"a worker of the loader died: process \d+ was killed by SIGKILL"):
        run_ranks(loses_a_loader_process, 1)


def test_ranks_without_a_process_group_are_refused(tmp_path, monkeypatch):
    from hooke.frameworks.torch import Checkpoint

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="a checkpoint of 2 ranks needs their process group"):
        Checkpoint(folder=tmp_path)
