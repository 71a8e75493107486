"""How a supervised service is, as plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from hooke.project.supervising.children import Child
from hooke.project.supervising.watched import Watched
from hooke.serving.supervision.member import RESTARTING, Member, Phase
from hooke.serving.supervision.supervision import Supervision

__all__ = ["status_of"]


def status_of(core: Supervision, children: Mapping[str, Child], watched: Watched) -> dict[str, Any]:
    """Of its replicas and its front, for `hooke serve status --json`; times in seconds, memory in bytes, rates a second."""
    now = time.time()
    replicas = []
    for name, member in core.members.items():
        child = children.get(name)
        if child is None:
            continue
        replicas.append(
            {
                "replica": name,
                "state": _state_of(member),
                "generation": member.generation,
                "pid": child.record.pid,
                "port": child.record.port,
                "age_s": max(0.0, now - child.record.started_at),
                "in_flight": member.report.in_flight,
                "answered": member.report.answered,
                "memory_bytes": member.report.memory_bytes,
                **watched.lately(name),
                "why": member.doomed or member.ended_for,
                "log": child.record.log,
            }
        )
    return {
        "state": "draining" if core.closing else "serving" if core.ready() else "starting",
        "wanted": core.wanted,
        "generation": core.generation,
        "rolling_out": core.rolling.generation if core.rolling is not None else None,
        "front": watched.front_facts(),
        "replicas": replicas,
    }


def _state_of(member: Member) -> str:
    away = member.phase is Phase.READY and member.away_since is not None
    return RESTARTING if away else member.phase.value
