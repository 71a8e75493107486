"""The replicas of a service as processes: started for a generation, adopted, forgotten."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from hooke.base.refusals import writing
from hooke.project.shares import Share, Shares
from hooke.project.supervising.child import Order
from hooke.project.supervising.children import Child, adopt_child, start_child
from hooke.project.supervising.generation import Generation, read_generation, write_generation
from hooke.project.supervising.messages import Told, decode_told
from hooke.project.supervising.service_folder import ChildRecord, ServiceFolder
from hooke.project.supervising.wish import Wish
from hooke.serving.server import bind
from hooke.serving.supervision.member import Report

__all__ = ["Replicas"]

ADOPT_S = 2.0
"""A child that an earlier supervisor left tells how it is within so long, or is ended."""


class Replicas:
    """Those that run, by name, and the generations that they may be of."""

    def __init__(self, folder: ServiceFolder, logs: Path, shares: Shares, wish: Wish) -> None:
        self.children: dict[str, Child] = {}
        self._folder = folder
        self._logs = logs
        self._shares = shares
        self._lease_s = wish.lease_s
        self._memory_bytes = wish.memory_bytes
        self._generations: dict[str, Generation] = {}

    def add(self, generation: Generation) -> None:
        """Something that may be served from now on. Raises HookeError where it cannot be kept."""
        path = self._folder.generation(generation.key)
        with writing("what a replica is to serve", path):
            write_generation(path, generation)
        self._generations[generation.name] = generation

    def start(self, name: str, generation: str, *, among: int) -> Child:
        """Start one, on a loopback port of its own; `among` so many the cores are shared.

        Raises OSError, also where no GPU is free, and UsageError where there is no port.
        """
        share = self._shares.take(name, among=among)
        try:
            self.children[name] = child = self._start(name, generation, share, among)
        except BaseException:
            self._shares.release(name)
            raise
        return child

    def _start(self, name: str, generation: str, share: Share, among: int) -> Child:
        serves = self._generations[generation]
        write_generation(self._folder.generation(serves.key), serves)  # it may have been damaged since
        with bind(0) as listening:
            port = listening.getsockname()[1]

            def order(control: int) -> str:
                made = Order(
                    name=name,
                    generation=str(self._folder.generation(serves.key)),
                    listening=listening.fileno(),
                    control=control,
                    lease_s=self._lease_s,
                    memory_bytes=self._memory_bytes,
                    among=among,
                )
                return msgspec.json.encode(made).decode()

            log = str(self._logs / f"replica-{name}.log")
            return start_child(
                self._folder,
                "hooke.project.supervising.child",
                order,
                record=ChildRecord(
                    name=name, port=port, generation=generation, log=log, devices=share.devices
                ),
                cwd=serves.folder,
                descriptors=[listening.fileno()],
                environment=share.environment,
            )

    def adopt(self, records: Iterable[ChildRecord]) -> Iterator[tuple[ChildRecord, Report | None]]:
        """Children of an earlier supervisor with what they tell; None for one that tells nothing, or serves nobody knows what: it is ended."""
        known = self._kept()
        for record in records:
            child = adopt_child(self._folder, record)
            report = _first_report(child) if child is not None else None
            if child is None or report is None or record.generation not in known:
                Child(record=record, channel=None).kill()
                self._folder.forget_child(record.name)
                yield record, None
                continue
            self._generations.setdefault(record.generation, known[record.generation])
            self.children[record.name] = child
            self._shares.keep(record.name, record.devices)
            yield record, report
        kept = {generation.key for generation in self._generations.values()}
        for path in (self._folder.path / "generations").iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def forget(self, child: Child, now: float) -> None:
        """It is gone."""
        child.cut(now)
        self._folder.forget_child(child.name)
        self._shares.release(child.name)
        self.children.pop(child.name, None)

    def _kept(self) -> dict[str, Generation]:
        known: dict[str, Generation] = {}
        for path in (self._folder.path / "generations").iterdir():
            with contextlib.suppress(
                OSError, msgspec.MsgspecError
            ):  # from one that is damaged nothing can be started
                generation = read_generation(path)
                known[generation.name] = generation
        return known


def _first_report(child: Child) -> Report | None:
    ends = time.monotonic() + ADOPT_S
    child.renew(time.monotonic())
    while time.monotonic() < ends and child.channel is not None:
        for message in child.take(time.monotonic()):
            told = decode_told(message)
            if isinstance(told, Told):
                return told.report
        time.sleep(0.01)
    return None
