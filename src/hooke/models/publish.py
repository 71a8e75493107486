"""Registers a saved model: `python -m hooke.models.publish`, with a PublishOrder on stdin and a PublishResult on stdout.

It is a separate process because importing MLflow takes seconds and 300 MB.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.errors import HookeError
from hooke.base.files import FileLock
from hooke.models import registry_protocol as protocol
from hooke.models.registries.mlflow_client import MlflowRegistry

__all__ = ["lock_of", "publish"]

LOCK_WAIT_S = 600.0
REQUIREMENTS = "requirements.txt"
"""The file in which MLflow looks for a model's requirements."""


def publish(order: protocol.PublishOrder) -> protocol.PublishResult:
    """Register the model. Raises HookeError; then MLflow may have its files, but no version of them."""
    registry = _connected(order)
    run, experiment = registry.find_run(order.run_key, order.wait_s) if order.run_key else ("", "")
    example, answer = _example(order)
    with _locked(lock_of(order.uri, Path(order.root))):
        aim = protocol.parse_aim(order.if_better) if order.if_better else None
        if aim is not None and (why := _worse(registry, order, aim)):
            return protocol.PublishResult(why=why)
        (Path(order.folder) / REQUIREMENTS).write_text(_requirements(order.libraries), encoding="utf-8")
        _describe(registry, order, example, answer)
        tags = order.tags | ({protocol.WANTS: order.alias} if aim is not None else {})
        mine = registry.create(Path(order.folder), name=order.name, run=run, experiment=experiment, tags=tags)
        done = protocol.PublishResult(number=mine.number, mlflow_run=mine.mlflow_run)
        if not order.alias:
            return done
        if aim is None:
            registry.give(mine, order.alias)
            return msgspec.structs.replace(done, moved=True)
        return _settled(registry, order.alias, aim, mine, done)


def lock_of(uri: str, root: Path) -> Path | None:
    """The lock for writing to a registry in a SQLite file; None for a server, which serializes writes itself."""
    scheme = "sqlite:///"
    if not uri.startswith(scheme):
        return None
    file = root / uri.removeprefix(scheme)
    return file.with_name(f"{file.name}.hooke-lock")


def _example(order: protocol.PublishOrder) -> tuple[Any, Any]:
    try:
        example, answer = pickle.loads(order.example)
    except Exception as error:  # a class that this process cannot import
        raise _odd_example(error) from error
    return example, answer


def _describe(registry: MlflowRegistry, order: protocol.PublishOrder, example: Any, answer: Any) -> None:
    try:
        registry.describe(Path(order.folder), order.flavors, example, answer)
    except Exception as error:
        if example is None:
            raise
        raise _odd_example(error) from error


def _odd_example(error: Exception) -> HookeError:
    return HookeError(
        "MLflow does not accept the input_example, or the model's prediction for it",
        why=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}",
        fix="give an array or a frame, and a model that returns one; or register without input_example=",
    )


def _requirements(libraries: Mapping[str, str]) -> str:
    return "".join(f"{name}=={version}\n" for name, version in sorted(libraries.items()))


def _connected(order: protocol.PublishOrder) -> MlflowRegistry:
    """Open the registry under the shipper's lock, because two processes that create MLflow's tables at once break them."""
    # MLflow's SQL store reads these variables to find a version's source.
    os.environ["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_REGISTRY_URI"] = order.uri
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    lock = Path(order.root) / ".hooke" / "mlflow.lock"
    with _locked(lock if order.uri.startswith("sqlite:") else None):
        return MlflowRegistry(order.uri)


def _worse(registry: MlflowRegistry, order: protocol.PublishOrder, aim: protocol.Aim) -> str:
    """Why the alias does not move, before anything is written; empty if it may."""
    holder = protocol.holder_of(order.alias, registry.versions(order.name))
    if holder is None:
        return ""
    held = holder.metrics.get(aim.metric)
    if held is None and holder.mlflow_run:
        held = registry.metric_of_run(holder.mlflow_run, aim.metric)
    if held is None:
        raise HookeError(
            f"{order.name}@{order.alias} has no metric {aim.metric!r} to compare with",
            where=f"version {holder.number}; its metrics: {', '.join(holder.metrics) or 'none'}",
            fix="register once without if_better=, with metrics={...}, to take the alias",
        )
    mine = order.metrics[aim.metric]
    return "" if aim.better(mine, held) else protocol.not_better(aim, mine, held, holder)


def _settled(
    registry: MlflowRegistry,
    alias: str,
    aim: protocol.Aim,
    mine: protocol.RegisteredVersion,
    done: protocol.PublishResult,
) -> protocol.PublishResult:
    best = _settle(registry, alias, aim, mine)
    if best.number == mine.number:
        return msgspec.structs.replace(done, moved=True)
    held = best.metrics.get(aim.metric, math.nan)
    why = protocol.not_better(aim, mine.metrics[aim.metric], held, best)
    return msgspec.structs.replace(done, why=f"{why}, which was registered in the meantime")


def _settle(
    registry: MlflowRegistry, alias: str, aim: protocol.Aim, mine: protocol.RegisteredVersion
) -> protocol.RegisteredVersion:
    steps = protocol.settling(aim, alias, mine)
    best = next(steps)
    try:
        while True:
            if best is not None:
                registry.give(best, alias)
                best = next(steps)
            else:
                best = steps.send(registry.versions(mine.name))
    except StopIteration as settled:
        found: protocol.RegisteredVersion = settled.value
        return found


@contextmanager
def _locked(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    held, deadline = FileLock(lock), time.monotonic() + LOCK_WAIT_S
    while not held.try_acquire():
        if time.monotonic() > deadline:
            raise HookeError(
                "another process is registering a model and does not finish",
                where=str(lock),
                fix="end it, or try again",
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        held.release()


def _main() -> int:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # stdout is only for the result
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=protocol.PublishOrder)
    os.chdir(order.root)
    try:
        done = publish(order)
    except HookeError as error:
        done = protocol.PublishResult(
            error={name: getattr(error, name) for name in ("what", "where", "why", "fix", "next")}
        )
    with out:
        out.write(msgspec.msgpack.encode(done))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
