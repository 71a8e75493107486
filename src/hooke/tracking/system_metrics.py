"""System metrics of the machine during a run, sampled by a thread, under the names that MLflow uses."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any, Self

from hooke.base.later import LATER, LaterWork
from hooke.tracking.tracker import Tracker

__all__ = ["SEGMENT", "SystemMetrics"]

SEGMENT = "system"
"""The name of the tracker for system metrics."""
MEGABYTE = 1e6

_log = logging.getLogger("hooke")

BEGIN_S = 1.0
"""A shorter run is not watched, and does not import psutil (5 ms)."""


class SystemMetrics:
    """Logs cpu, memory, disk, network and NVIDIA GPUs (with `pynvml`) every `every_s` seconds. Use it in `with`."""

    def __init__(self, tracker: Tracker, *, every_s: float) -> None:
        self._tracker = tracker
        self._every_s = every_s
        self._ended = threading.Event()
        self._later: LaterWork | None = None

    def __enter__(self) -> Self:
        if self._every_s > 0:
            begin_s = min(BEGIN_S, self._every_s / 2)
            self._later = LATER.after(begin_s, self._watch, name="hooke-system-metrics")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._later is not None:
            self._later.cancel()
        self._tracker.close()

    def _watch(self) -> None:
        import psutil

        psutil.cpu_percent()  # the next call counts from here
        network = psutil.net_io_counters()
        with contextlib.ExitStack() as opened:
            gpus = opened.enter_context(_gpus())
            while not self._ended.wait(self._every_s):
                try:
                    sample = _sample(str(self._tracker.folder), network) | _gpu_sample(gpus)
                except OSError as error:  # the run's folder was removed
                    _log.warning("the machine is not sampled any more: %s", error)
                    return
                self._tracker.log_metrics(sample)


def _sample(folder: str, network: Any) -> dict[str, float]:
    import psutil

    memory, disk, now = psutil.virtual_memory(), psutil.disk_usage(folder), psutil.net_io_counters()
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system/system_memory_usage_percentage": memory.used / memory.total * 100,
        "system/disk_usage_megabytes": disk.used / MEGABYTE,
        "system/disk_usage_percentage": disk.percent,
        "system/disk_available_megabytes": disk.free / MEGABYTE,
    }
    if network is not None and now is not None:
        found["system/network_receive_megabytes"] = (now.bytes_recv - network.bytes_recv) / MEGABYTE
        found["system/network_transmit_megabytes"] = (now.bytes_sent - network.bytes_sent) / MEGABYTE
    return found


@contextlib.contextmanager
def _gpus() -> Iterator[list[tuple[Any, Any]]]:
    """NVIDIA's library with a handle of each GPU; none without the library or the driver."""
    try:
        import pynvml  # pyrefly: ignore[missing-import]
    except ModuleNotFoundError:
        yield []
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        yield [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(at)) for at in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu_sample(gpus: list[tuple[Any, Any]]) -> dict[str, float]:
    found = {}
    for at, (nvml, handle) in enumerate(gpus):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        found[f"system/gpu_{at}_memory_usage_megabytes"] = memory.used / MEGABYTE
        found[f"system/gpu_{at}_memory_usage_percentage"] = memory.used / memory.total * 100
        found[f"system/gpu_{at}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        found[f"system/gpu_{at}_power_usage_watts"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return found
