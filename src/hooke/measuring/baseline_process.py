"""The process of the plain baseline: `python -P -m hooke.measuring.baseline_process FD LIFELINE [CORE]`.

It does the work of the measured task or pipeline as plain function calls in one thread, without
an engine. The first message is the setup; each empty message after it requests all of the work, and the answer says how
long it took. The lifeline is a pipe whose other end the driver holds; it closes when the driver dies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from hooke.pipeline.references import unpack
from hooke.processes.channel import Channel
from hooke.store.checkpoints import fresh_checkpoint
from hooke.store.store import Store
from hooke.tracking.tracker import MUTED, enter

__all__ = ["BaselineSetup", "BaselineTimed", "Broken", "Loaded", "main"]


class BaselineSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The setup. `work` is a packed list of (task or pipeline, columns or None, arguments, keywords)."""

    sys_path: list[str]
    folder: str
    store: str
    secret: bytes | None
    work: bytes


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """All inputs are in memory, and all imports are done; `import_s` is how long those of the user's code took."""

    import_s: float = 0.0


class BaselineTimed(msgspec.Struct, frozen=True, tag=True):
    """The work is done."""

    seconds: float
    cpu_s: float


class Broken(msgspec.Struct, frozen=True, tag=True):
    """The user's code raised."""

    error: str
    traceback: str


_setup = msgspec.msgpack.Decoder(BaselineSetup)


def main(fd: int, lifeline: int, core: int | None) -> None:
    """Serve the driver behind the socket `fd` until it ends."""
    if core is not None:
        os.sched_setaffinity(0, (core,))
    threading.Thread(target=_follow_driver, args=(lifeline,), daemon=True).start()
    channel = Channel(fd)
    work: list[Callable[[], Any]] = []

    def load() -> Loaded:
        setup = _setup.decode(channel.receive())
        calls, import_s = _unpacked(setup)
        work.extend(_loaded(calls))
        return Loaded(import_s)

    def do_all() -> BaselineTimed:
        wall, cpu = time.perf_counter(), time.process_time()
        _results = [call() for call in work]
        return BaselineTimed(time.perf_counter() - wall, time.process_time() - cpu)

    enter(MUTED)
    answer = _answer(load)
    while True:
        channel.send(msgspec.msgpack.encode(answer))
        channel.receive()
        answer = _answer(do_all)


def _answer(act: Callable[[], Loaded | BaselineTimed]) -> Loaded | BaselineTimed | Broken:
    try:
        return act()
    except (EOFError, ConnectionResetError):
        sys.exit(0)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything; it is reported to the driver
        return Broken(f"{type(error).__name__}: {error}", traceback.format_exc())


def _unpacked(setup: BaselineSetup) -> tuple[Any, float]:
    """The calls, and the seconds to import their code and to read their inputs."""
    sys.path[:] = setup.sys_path
    os.chdir(setup.folder)
    store = Store.open(setup.store, secret=setup.secret)
    began = time.perf_counter()
    return unpack(setup.work, store), time.perf_counter() - began


def _loaded(calls: Any) -> list[Callable[[], Any]]:
    """The calls, ready to be timed. The first call, or its first item, runs here, so that its imports are done.

    If it asks for a checkpoint folder, each call or item gets a new one.
    """
    checkpoints = False
    for function, columns, args, kwargs in calls[:1]:
        first = args if columns is None else tuple(column[0] for column in columns if len(column))
        if columns is None or len(first) == len(columns):
            with fresh_checkpoint() as used:
                function(*first, **kwargs)
            checkpoints = used.asked
    return [_call(*each, checkpoints=checkpoints) for each in calls]


def _call(
    function: Any,
    columns: tuple[Any, ...] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    checkpoints: bool,
) -> Callable[[], Any]:
    def anew(*values: Any) -> Any:
        with fresh_checkpoint():
            return function(*values, **kwargs)

    if columns is None:
        return lambda: anew(*args) if checkpoints else function(*args, **kwargs)
    if checkpoints:
        return lambda: [anew(*values) for values in zip(*columns, strict=True)]
    return lambda: function.map(*columns, **kwargs)


def _follow_driver(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
