"""PyTorch: the process group of a gang, its devices and seeds, and checkpoints from which a training goes on exactly."""

from __future__ import annotations

import logging
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from blake3 import blake3

from hooke.base.errors import CorruptObject, GangResized, UsageError
from hooke.base.files import make_folders, replacing, writing
from hooke.base.this_process import most_ranks
from hooke.data.order import key_of
from hooke.frameworks.position import ranks_of_gang
from hooke.store.checkpoints import checkpoint_dir, gang_resizes

__all__ = ["Checkpoint", "device", "process_group", "rank_and_ranks", "set_seed"]

_log = logging.getLogger("hooke")


# --- The ranks of a gang.


def rank_and_ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks: those of torch.distributed, else of the gang; (0, 1) where there is neither."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return ranks_of_gang()


@contextmanager
def process_group(backend: str | None = None, **options: Any) -> Iterator[None]:
    """Inside, torch.distributed connects the ranks of the gang; the group is destroyed at the end, on errors too.

    `backend` is by default gloo, and with GPUs gloo for the CPU and NCCL for them. `options` are those of
    `torch.distributed.init_process_group`. Where there is one rank, as in a plain call of the task, it is a group of one, so the same
    code runs.
    """
    if backend is None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        options.pop("init_method", None)  # nobody else is to be met
        options |= {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group(backend, **options)
    try:
        yield
    finally:
        dist.destroy_process_group()


def device() -> torch.device:
    """This rank's device, which becomes the current one: its first GPU, or the CPU where PyTorch finds no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A rank sees the GPUs of all ranks on its machine, in the order of the ranks; several ranks may share one.
    local, ranks = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = torch.device("cuda", local * torch.cuda.device_count() // ranks)
    torch.cuda.set_device(chosen)
    return chosen


def set_seed(seed: int, *, per_rank: bool = False) -> None:
    """Seed the random numbers of Python, NumPy's global generator and PyTorch: the same on all ranks, or different on each rank."""
    own = key_of(seed, rank_and_ranks()[0]) if per_rank else seed
    seed_cpu(own)
    torch.manual_seed(own % (1 << 64))


def seed_cpu(seed: int) -> None:
    """The same without GPUs."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.default_generator.manual_seed(seed % (1 << 64))


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Random numbers on the CPU that are drawn inside change nothing outside."""
    states = _random_states(gpu=False)
    try:
        yield
    finally:
        _set_random_states(states)


def _random_states(*, gpu: bool = True) -> dict[str, Any]:
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if gpu and torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _seed_of(step: int, states: Sequence[Mapping[str, Any]]) -> int:
    """A seed that follows from the steps done and from all random states."""
    digest = blake3(b"%d" % step)
    for own in states:
        digest.update(repr(own["python"]).encode())
        digest.update(own["numpy"][1].tobytes() + repr(own["numpy"][2:]).encode())
        for name in ("torch", "cuda"):
            if name in own:
                digest.update(own[name].numpy().tobytes())
    return int.from_bytes(digest.digest(8))


def _set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


# --- States of parts: trees of dicts, lists and tuples with tensors. A sharded tensor (DTensor, of FSDP2) is saved whole.

Keys: TypeAlias = tuple[Any, ...]
"""The keys that lead to a tensor in a tree."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Stands for a tensor where only its shape is told."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"has the shape {self.shape}"


def _mapped(tree: Any, kinds: type | tuple[type, ...], new: Callable[[Keys, Any], Any], at: Keys = ()) -> Any:
    """The tree with `new(keys, leaf)` for each leaf of these kinds; a dict without any is the same object, of its own class."""
    if isinstance(tree, kinds):
        return new(at, tree)
    if isinstance(tree, Mapping):
        mapped = {key: _mapped(value, kinds, new, (*at, key)) for key, value in tree.items()}
        return mapped if any(mapped[key] is not value for key, value in tree.items()) else tree
    if type(tree) is list or type(tree) is tuple:
        mapped = (_mapped(value, kinds, new, (*at, key)) for key, value in enumerate(tree))
        return type(tree)(mapped)
    return tree


def _shapes(tree: Any) -> Any:
    return _mapped(tree, torch.Tensor, lambda _, tensor: _Shape(tuple(tensor.shape)))


def _is_sharded(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")


def _whole(tree: Any, *, keep: bool) -> Any:
    """The tree with whole tensors, which all ranks gather together; those that do not `keep` them get None."""

    def whole(_: Keys, tensor: Any) -> Any:
        if _is_sharded(tensor):
            tensor = tensor.full_tensor()
            tensor = tensor.cpu() if keep else None
        return tensor if keep else None

    return _mapped(tree, torch.Tensor, whole)


def _sharded_like(tensor: torch.Tensor, like: Any) -> torch.Tensor:
    from torch.distributed.tensor import distribute_tensor

    # Each rank cuts its own shard: all have the whole tensor.
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _unwrapped(part: Any) -> Any:
    """The module in DistributedDataParallel and torch.compile: the names of its weights are the same in and out of them."""
    while True:
        if isinstance(part, torch.nn.parallel.DistributedDataParallel):
            part = part.module
        elif isinstance(part, torch.nn.Module) and hasattr(part, "_orig_mod"):
            part = part._orig_mod  # noqa: SLF001 - PyTorch documents it
        else:
            return part


def _sharded_targets(part: Any) -> Callable[[Keys], Any]:
    """For the keys of a tensor in the part's state: the tensor whose sharding it gets, if there is one."""
    if isinstance(part, torch.nn.Module):
        weights = part.state_dict()
        return lambda keys: weights.get(keys[0])
    if isinstance(part, torch.optim.Optimizer):
        numbered = [parameter for group in part.param_groups for parameter in group["params"]]
        return lambda keys: numbered[keys[1]] if keys[0] == "state" and len(keys) == 3 else None
    return lambda _: None


# --- Checkpoints.

FILE = "checkpoint.pt"
FORMAT = 1


class Checkpoint:
    """One file in the task's checkpoint folder, from which a training goes on exactly: replaced in one atomic step.

    `parts` are the model, the optimizer, the scheduler, the loader and whatever else has `state_dict` and `load_state_dict`, by name.
    It holds their states of rank 0 and the random states of each rank (Python, NumPy, PyTorch, its GPU). Of a model that `fully_shard`
    has sharded, and of its optimizer, it holds whole tensors, so another number of ranks can load it, and one process.

    `folder` is by default `hooke.checkpoint_dir()`. All ranks of a process group call `load` and `save` together; rank 0 reads and
    writes. In an elastic gang, `save` is where the number of ranks changes: then it does not return. `load` runs code that the file
    holds (pickle), so load no file of another person. Raises UsageError for a part without a state, and for several ranks without a
    process group.
    """

    def __init__(self, *, folder: str | os.PathLike[str] | None = None, **parts: Any) -> None:
        self._parts = {name: _unwrapped(part) for name, part in parts.items()}
        for name, part in self._parts.items():
            _refuse(name, part)
        self._rank, self._ranks = rank_and_ranks()
        if self._ranks > 1 and not dist.is_initialized():
            raise UsageError(
                f"a checkpoint of {self._ranks} ranks needs their process group",
                fix="make it in `with process_group():`",
            )
        self._file = Path(checkpoint_dir() if folder is None else folder) / FILE
        if folder is not None and self._rank == 0:
            with writing("the checkpoint", self._file.parent):
                make_folders(self._file.parent)

    def save(self, step: int) -> None:
        """Save all parts after `step` steps. Raises UsageError if the ranks are at different steps, HookeError if it cannot be written."""
        parts = {name: _whole(part.state_dict(), keep=self._rank == 0) for name, part in self._parts.items()}
        told = self._gathered((step, _random_states()))
        if self._rank == 0:
            self._save_first(step, parts, told)
        if most_ranks() and self._from_first(gang_resizes()):
            raise GangResized

    def _save_first(self, step: int, parts: dict[str, Any], told: Sequence[tuple[int, Any]]) -> None:
        if len({step for step, _ in told}) > 1:
            raise UsageError(
                "the ranks save different steps",
                why=", ".join(f"rank {rank}: {step}" for rank, (step, _) in enumerate(told)),
                fix="call save() on all ranks after the same step",
            )
        kinds = {name: type(part).__name__ for name, part in self._parts.items()}
        saved = {"format": FORMAT, "step": step, "kinds": kinds, "random": [state for _, state in told]}
        self._write(saved | {"parts": parts})

    def load(self) -> int:
        """Load the checkpoint into all parts, and set the random states. Returns the steps that were done; 0 if there is none.

        With another number of ranks, the order of the data goes on, and each rank draws new random numbers that depend on the
        checkpoint alone. Raises UsageError, before weights are loaded, if the checkpoint is of other parts, of another model or of
        other data; CorruptObject for a damaged file.
        """
        saved = self._read() if self._rank == 0 else None
        head = self._from_first(None if saved is None else saved | {"parts": _shapes(saved["parts"])})
        if head is None:
            return 0
        self._check(head)
        # Those without tensors first: a loader refuses the state of other data.
        for name in sorted(self._parts, key=lambda name: _has_tensors(head["parts"][name])):
            tensors = saved["parts"][name] if saved is not None else None
            self._load_part(self._parts[name], head["parts"][name], tensors)
        if len(head["random"]) == self._ranks:
            _set_random_states(head["random"][self._rank])
        else:
            self._draw_anew(head)
        step: int = head["step"]
        return step

    def _load_part(self, part: Any, state: Any, tensors: Any) -> None:
        """Load a state, whose tensors come one by one from rank 0, so that no rank holds a whole model that is sharded."""
        sharded = _sharded_targets(part)

        def received(keys: Keys, _: _Shape) -> torch.Tensor:
            tensor = tensors
            for key in keys if tensors is not None else ():
                tensor = tensor[key]
            whole: torch.Tensor = self._from_first(tensor)
            like = sharded(keys)
            return _sharded_like(whole, like) if _is_sharded(like) and like.shape == whole.shape else whole

        loaded = _mapped(state, _Shape, received)
        if isinstance(part, torch.nn.Module):
            own = part.state_dict()  # with the versions of its modules
            own.update(loaded)
            loaded = own
        part.load_state_dict(loaded)

    def _check(self, head: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of other parts or of another model."""
        names, own = set(head["parts"]), set(self._parts)
        if names != own:
            raise _other(
                f"it holds {', '.join(sorted(names))}, and here are {', '.join(sorted(own))}", self._file
            )
        for name, part in self._parts.items():
            if isinstance(part, torch.nn.Module):
                _check_weights(name, head["parts"][name], _shapes(part.state_dict()), self._file)
            elif (kind := type(part).__name__) != head["kinds"][name]:
                raise _other(f"{name} is a {head['kinds'][name]}, and here a {kind}", self._file)
            elif isinstance(part, torch.optim.Optimizer):
                there, here = (
                    [len(group["params"]) for group in each["param_groups"]]
                    for each in (head["parts"][name], part.state_dict())
                )
                if there != here:
                    raise _other(f"{name} has groups of {there} parameters, and here of {here}", self._file)

    def _draw_anew(self, head: Mapping[str, Any]) -> None:
        before = len(head["random"])
        set_seed(_seed_of(head["step"], head["random"]), per_rank=True)
        if self._rank == 0:
            _log.warning(
                "the checkpoint is of %s rank%s, and %s go on: the order of the data stays, random numbers are drawn anew",
                before,
                "" if before == 1 else "s",
                self._ranks,
            )

    def _read(self) -> dict[str, Any] | None:
        if not self._file.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=False)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                "the checkpoint holds an object whose class is not found",
                where=str(self._file),
                why=f"{type(error).__name__}: {error}",
                fix="make its module importable under that name",
            ) from error
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise CorruptObject(
                "the checkpoint cannot be read",
                where=str(self._file),
                why=f"{type(error).__name__}: {error}",
                fix="remove it, and the training begins anew",
            ) from error
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise _other("it was written by another version of Hooke, or by another program", self._file)
        return saved

    def _write(self, saved: dict[str, Any]) -> None:
        with (
            writing("the checkpoint", self._file.parent),
            replacing(self._file) as fd,
            open(fd, "wb", closefd=False) as out,
        ):
            try:
                torch.save(saved, out)
            except RuntimeError as error:  # PyTorch's own, while it handles that of a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def _gathered(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank; on the ranks after 0 an empty list."""
        if self._ranks == 1:
            return [value]
        values: list[Any] = [None] * self._ranks if self._rank == 0 else []
        dist.gather_object(value, values or None, dst=0)
        return values

    def _from_first(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        if self._ranks == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def _refuse(name: str, part: Any) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
        raise UsageError(
            f"{name} has no state to save: it is a {type(part).__name__}",
            fix="pass objects with state_dict() and load_state_dict()",
        )
    if isinstance(part, FullyShardedDataParallel):
        raise UsageError(
            f"{name} is sharded by FullyShardedDataParallel, which is not supported",
            fix="shard it with torch.distributed.fsdp.fully_shard",
        )


def _has_tensors(state: Any) -> bool:
    found: list[Keys] = []
    _mapped(state, _Shape, lambda keys, _: found.append(keys))
    return bool(found)


def _check_weights(name: str, saved: Mapping[str, Any], own: Mapping[str, Any], file: Path) -> None:
    for weight in [*saved, *own]:
        there, here = (each.get(weight, "is missing") for each in (saved, own))
        if there != here and (isinstance(there, _Shape | str) or isinstance(here, _Shape | str)):
            raise _other(f"{name}: {weight} {there} in it, and {here} here", file)


def _other(why: str, file: Path) -> UsageError:
    return UsageError(
        "the checkpoint is of another training",
        where=str(file),
        why=why,
        fix="go on with what it was made with, or remove it to begin anew",
    )
