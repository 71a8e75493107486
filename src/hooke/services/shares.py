"""A replica's share of this machine: threads, set before its libraries read them, and GPUs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from hooke.base.errors import UsageError
from hooke.engines.worker.pool import THREAD_VARIABLES, WorkerKind
from hooke.processes.devices import Devices, cpus_here, devices_of_this_machine
from hooke.serving.service import Service

__all__ = ["Share", "Shares", "apply_share", "thread_variables"]


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one replica."""

    threads: int
    devices: tuple[str, ...] = ()
    declared: bool = True
    """Whether the class declares the threads; otherwise the user's own settings stay."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that libraries read. A replica that asks for no GPU sees none."""
        made = WorkerKind(threads=self.threads, devices=self.devices).environment
        return {
            name: value
            for name, value in made.items()
            if self.declared or name not in THREAD_VARIABLES or name not in os.environ
        }


def thread_variables(threads: int) -> dict[str, str]:
    """The variables that libraries read their number of threads from when they are imported."""
    made = WorkerKind(threads=threads, devices=()).environment
    return {name: made[name] for name in THREAD_VARIABLES if name in made}


class Shares:
    """The shares of at most `most` replicas at once. Raises UsageError if they need more GPUs than the machine has."""

    def __init__(
        self, declared: Service, most: int, *, cores: int | None = None, devices: Devices | None = None
    ) -> None:
        self.declared = declared
        self._cores = cores if cores is not None else cpus_here()
        self.devices = devices if devices is not None else devices_of_this_machine()
        self._most = most
        self._held: dict[str, tuple[str, ...]] = {}
        self.threads = declared.cpus or max(self._cores // most, 1)
        needed, there = declared.gpus * most, len(self.devices)
        if declared.gpus > there or needed > there:
            shown = f"{declared.name} asks for {declared.gpus:g} GPUs a replica, {needed:g} with {most}"
            raise UsageError(
                f"{shown}, and this machine has {there or 'none'} that the NVIDIA driver shows",
                fix="serve fewer replicas, or declare a share of one: @service(gpus=0.5)",
                next="hooke doctor",
            )

    def __str__(self) -> str:
        said = f"each replica has {self.threads} of {self._cores} cores"
        if self.declared.gpus:
            return f"{said} and {self.declared.gpus:g} of {len(self.devices)} GPUs"
        return f"{said} and no GPU: @service(gpus=1) gives one" if len(self.devices) else said

    def take(self, name: str, *, among: int = 0) -> Share:
        """The share of a new replica; `among` is how many replicas share, if more than planned. Raises OSError if no GPU is free now, as in a roll-out beside the old ones."""
        ids = self.devices.take(self.declared.name, self.declared.gpus)
        if ids is None:
            raise OSError(f"no GPU is free for it: each replica has {self.declared.gpus:g}")
        self._held[name] = ids
        threads = self.declared.cpus or max(self._cores // max(among, self._most), 1)
        return Share(threads, ids, declared=self.declared.cpus is not None)

    def keep(self, name: str, ids: tuple[str, ...]) -> None:
        """Note the GPUs of a replica that an earlier supervisor started."""
        self.devices.keep(ids, self.declared.gpus)
        self._held[name] = ids

    def release(self, name: str) -> None:
        """Free the share of a replica that has ended."""
        self.devices.release(self._held.pop(name, ()), self.declared.gpus)


def apply_share(declared: Service) -> str:
    """Take this process's share as the only replica; returns a description, empty if it is the whole machine.

    Libraries that are imported later read it from the environment; PyTorch is told, and BLAS and OpenMP if threadpoolctl is installed.
    Raises UsageError if the machine lacks the GPUs.
    """
    shares = Shares(declared, 1)
    share = shares.take("1")
    os.environ["CUDA_VISIBLE_DEVICES"] = share.environment["CUDA_VISIBLE_DEVICES"]
    if declared.cpus is None:
        return str(shares) if len(shares.devices) else ""
    os.environ.update(share.environment)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(share.threads)
    if find_spec("threadpoolctl") is None:
        return f"{shares}; NumPy's own threads are unchanged (pip install threadpoolctl)"
    import_module("threadpoolctl").threadpool_limits(share.threads)
    return str(shares)
