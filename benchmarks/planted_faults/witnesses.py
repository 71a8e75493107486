"""Evidence about faults that no test found, by the fault's name: a snippet that prints another answer with it, or why none can.

A fault that a test finds needs neither: the test has the input whose answer changes.
"""

from __future__ import annotations

__all__ = ["EQUIVALENT", "WITNESSES"]

WITNESSES: dict[str, str] = {}
"""Python that prints one answer without the fault and another with it; run by the soak, which compares them."""

EQUIVALENT: dict[str, str] = {
    "hooke.testing.provider_suite:FakeProvider.release: if (lost >= self.faults.lost or lost < self.faults.lost / 2) and known is not"
    " None: -> if (lost > self.faults.lost or lost < self.faults.lost / 2) and known is not None:": (
        "`lost` is a random number, which equals the bound once in 2^53 calls"
    ),
    'hooke.running.cluster_driver_process:_Output.mark: with self._lock: -> with __import__("contextlib").nullcontext():': (
        "the line is written in one call, and where it stands between lines of other threads is open with the lock, too"
    ),
}
"""Why no caller can tell the fault: another one of the seed is planted in its place."""
