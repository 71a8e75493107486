"""What is promised of each blow, and what of it was not kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.chaos.toll import FRONT, Toll

__all__ = ["broken"]

KILLS = ("a replica killed, `kill -9`", "a replica out of memory, killed")
"""Blows that take a replica's requests with it."""
HUNG = "a replica hung, `kill -STOP`"
"""So does this, and those that it gets until it is noticed."""
UNANSWERED = {"502", "504"}
NO_FRONT = {"connection lost", "no connection"}


def broken(kept: Sequence[Toll], *, again: bool) -> list[str]:
    """One sentence for each promise that was not kept. `again`: whether the service's requests may be sent again."""
    found: list[str] = []
    for toll in kept:
        lost = toll.failed.total()
        if toll.kind == FRONT:
            others = {reason: count for reason, count in toll.failed.items() if reason not in NO_FRONT}
            if others:
                found.append(f"{toll.kind}: {_listed(others)}, though only connections may be lost")
        elif toll.kind in (*KILLS, HUNG) and not again:
            others = {reason: count for reason, count in toll.failed.items() if reason not in UNANSWERED}
            if others:
                found.append(
                    f"{toll.kind}: {_listed(others)}, though what was under way may only stay unanswered"
                )
            if toll.kind != HUNG and lost > toll.under_way:
                found.append(f"{toll.kind}: {lost} failed, and {toll.under_way} were under way")
        elif lost:
            found.append(f"{toll.kind}: {_listed(toll.failed)} failed, and none may")
    return found


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in counts.items())
