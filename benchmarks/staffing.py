"""How many replicas, by our rule and by those of others: what keeps the SLO, and what it costs, in virtual time.

`python -m benchmarks.staffing` from the repository's root prints the table that docs/decisions/0028 quotes. Nothing is real but
the traffic: replicas are the law of their batches with 10 % of noise, and take `start_s` to start.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.autoscaling.traffic import Ours, Outcome, Shape, poisson, recorded, simulate, spike

from hooke.autoscaling.peers import Hpa, Knative, PeerSetting, RayServe
from hooke.autoscaling.replay import LoadSecond, RuleFamily
from hooke.autoscaling.service_policy import Bounds, ServiceSnapshot, capacity_of_batches

DATA = Path(__file__).parents[1] / "tests" / "autoscaling" / "data"
HIGH = 30
LLM = Shape(a=0.05, b=0.15, max_batch=8, limit_s=2.0, timeout_s=30.0, start_s=20.0, max_waiting=256)
"""Seconds and not milliseconds, and a model that takes its time to load."""


def traffics() -> dict[str, tuple[Shape, list[float]]]:
    chance = random.Random(1)
    return {
        "a spike of 10x for 60 s, start 5 s": (Shape(), spike()),
        "the same, start 30 s": (Shape(start_s=30.0), spike()),
        "Azure code x4, bursts, start 20 s": (LLM, recorded(DATA / "azure_code_per_second.txt", 4, chance)),
        "Azure conversation x10, start 20 s": (LLM, recorded(DATA / "azure_conv_per_second.txt", 10, chance)),
        "steady 1,900/s, start 5 s": (Shape(), list(poisson(chance, lambda _: 1900.0, 1900.0, 300.0))),
    }


class Peer:
    """A family of one setting, asked with snapshots."""

    def __init__(self, family: RuleFamily) -> None:
        self._family, self._second = family, 0

    def __call__(self, _: float, seen: ServiceSnapshot) -> int:
        self._second += 1
        in_flight, ready = np.array([float(seen.in_flight)]), np.array([seen.ready])
        busy = np.minimum(in_flight, ready)
        decided = self._family.decide(LoadSecond(self._second, 0, in_flight, in_flight - busy, busy, ready))
        return int(min(max(decided[0], 1), HIGH))


def hpa(target: float) -> Peer:
    """On requests in flight."""
    return Peer(Hpa([PeerSetting(target=target)], lambda seen: seen.in_flight, mean_s=1))


def knative(target: float) -> Peer:
    """Of which 70 % are used."""
    return Peer(Knative([PeerSetting(target=0.7 * target, down_s=0.0)]))


def ray_serve(target: float) -> Peer:
    """With its default delays."""
    return Peer(RayServe([PeerSetting(target=target, down_s=600.0)]))


def policies(shape: Shape) -> dict[str, tuple[Callable[..., int], bool]]:
    well = 2.0 * shape.max_batch
    return {
        "Hooke, with the law": (Ours(Bounds(low=1, high=HIGH, assumed_in_flight=well)), True),
        "Hooke, no law yet": (Ours(Bounds(low=1, high=HIGH, assumed_in_flight=well)), False),
        "Ray Serve, target 2": (ray_serve(2.0), False),
        f"Ray Serve, target {well:g}": (ray_serve(well), False),
        "Knative, target 100": (knative(100.0), False),
        f"Knative, target {well:g}": (knative(well), False),
        "HPA, target 2": (hpa(2.0), False),
        f"HPA, target {well:g}": (hpa(well), False),
    }


def main() -> None:
    for title, (shape, arrivals) in traffics().items():
        print(
            f"\n{title}: {len(arrivals):,} requests in {arrivals[-1]:.0f} s, p{shape.percent:g} < {shape.limit_s:g} s"
        )
        print(f"{'rule':24}{'within':>9}{'replica-h':>11}{'most':>6}{'changes':>9}{'turns':>7}")
        capacity = capacity_of_batches(
            shape.a, shape.b, max_batch=shape.max_batch, limit_s=shape.limit_s, percent=shape.percent
        )
        for name, (policy, knows) in policies(shape).items():
            made: Outcome = simulate(arrivals, policy, shape, capacity=capacity if knows else None)
            most = max(count for _, count, _ in made.targets)
            print(
                f"{name:24}{made.attained:9.1%}{made.replica_s / 3600:11.3f}{most:6}{len(made.targets) - 1:9}{made.turns:7}"
            )


if __name__ == "__main__":
    main()
