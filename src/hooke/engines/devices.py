"""GPUs of this machine as shares that attempts hold. Knows device ids, not what runs on them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hooke.base.errors import UsageError

__all__ = ["Devices", "devices_of_this_machine"]

_DRIVER = Path("/proc/driver/nvidia/gpus")


class Devices:
    """Device ids with what is free of each: whole ones for whole numbers, a share of one for a fraction."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        self._free = dict.fromkeys(ids, 1.0)

    def __len__(self) -> int:
        return len(self._free)

    @property
    def ids(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._free)

    def take(self, task: str, amount: float) -> tuple[str, ...] | None:
        """The ids for an attempt that asks for so much; None while they are not free.

        Raises UsageError where they never will be: more than there are, or more than one but not a whole number.
        """
        if not amount:
            return ()
        self._check(task, amount)
        if amount < 1:
            fitting = [name for name, free in self._free.items() if free >= amount - 1e-9]
            return self._hold(tuple(sorted(fitting, key=self._free.__getitem__)[:1]), amount)
        idle = [name for name, free in self._free.items() if free >= 1 - 1e-9]
        return self._hold(tuple(idle[: int(amount)]), 1.0) if len(idle) >= amount else None

    def keep(self, ids: tuple[str, ...], amount: float) -> None:
        """Hold these, which somebody took before this was made; ids that are not there any more hold nothing."""
        self._hold(tuple(name for name in ids if name in self._free), min(amount, 1.0))

    def release(self, ids: tuple[str, ...], amount: float) -> None:
        """Give back what `take` gave."""
        for name in ids:
            self._free[name] = min(1.0, self._free[name] + min(amount, 1.0))

    def _hold(self, ids: tuple[str, ...], each: float) -> tuple[str, ...] | None:
        for name in ids:
            self._free[name] -= each
        return ids or None

    def _check(self, task: str, amount: float) -> None:
        if amount > 1 and amount != int(amount):
            raise UsageError(
                f"task {task!r} asks for {amount:g} gpus",
                mend="ask for a whole number, or for a share below 1",
            )
        if amount > len(self):
            there = "has none that the NVIDIA driver shows" if not self._free else f"has {len(self)}"
            raise UsageError(
                f"task {task!r} asks for {amount:g} gpus, and this machine {there}",
                mend="run at a place with gpus, or take gpus= off the task",
                next="hooke doctor",
            )


def devices_of_this_machine(environment: Mapping[str, str] = os.environ) -> Devices:
    """The GPUs that the NVIDIA driver shows, cut to CUDA_VISIBLE_DEVICES where that is set."""
    there = sorted(_DRIVER.iterdir()) if _DRIVER.is_dir() else []
    ids = tuple(str(number) for number in range(len(there)))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return Devices(ids)
    return Devices(tuple(name.strip() for name in visible.split(",") if name.strip()) if ids else ())
