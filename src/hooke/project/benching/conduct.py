"""Conducts a load test: the first requests alone, then a level after the other until it is decided."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from hooke.base.errors import HookeError, UsageError
from hooke.load.hdr import encoded
from hooke.load.ladder import Seen, next_rate, safe_rate
from hooke.load.outcomes import REFUSALS, Fate, Outcomes
from hooke.load.process import Generator, outcomes_of
from hooke.load.summary import Summary, needed, summary_of
from hooke.load.wire import Goal, Report
from hooke.project.benching.order import BenchOrder
from hooke.project.benching.result import BenchResult, LevelResult, ServerUse
from hooke.project.benching.usage import Usage

__all__ = ["conduct"]

LONE, LONE_GAP_S = 10, 0.05
WARM_SHARE, WARM_MOST_S = 0.2, 1.0
LONGEST_S = 30.0
"""Of a level that is made longer so that its requests suffice."""
MOST_REQUESTS = 20_000_000
"""Of a level: what is kept of each is some 30 bytes here and there."""


def conduct(order: BenchOrder, *, usage: Usage | None, tell: Callable[[LevelResult], None]) -> BenchResult:
    """Measure; `tell` gets each level when it is over. `usage` watches the server's processes.

    Ctrl-C ends it, and what was measured is the result. Raises UsageError where the first request has no 2xx answer because
    of what was asked, HookeError where the server could not answer it.
    """
    goal = Goal(
        host=order.target.host,
        port=order.target.port,
        requests=order.requests,
        tls=order.target.tls,
        ca=order.ca,
        connections=order.connections,
    )
    with Generator(goal) as generator:
        conductor = _Conductor(order, generator, usage, tell)
        with contextlib.suppress(KeyboardInterrupt):
            conductor.all()
        return conductor.result()


@dataclass(slots=True)
class _Conductor:
    order: BenchOrder
    generator: Generator
    usage: Usage | None
    tell: Callable[[LevelResult], None]
    lone_s: float = float("nan")
    levels: list[LevelResult] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    answered: int = 0
    unheard: int = 0
    stopped: bool = True
    """Until all is measured."""

    def all(self) -> None:
        self.lone_s = self._alone()
        if self.order.rates:
            for rate in self.order.rates:
                self._level(rate)
        elif self.order.slo is not None and self.lone_s < self.order.slo.limit_s:
            ladder = self.order.ladder(self.lone_s)
            while (rate := next_rate(ladder, self.seen)) is not None:
                self._level(rate)
        self.stopped = False

    def result(self) -> BenchResult:
        return BenchResult(
            order=self.order,
            lone_s=self.lone_s,
            levels=tuple(self.levels),
            safe=None if self.order.slo is None else safe_rate(self.seen),
            stopped=self.stopped,
            asked_for=self.answered,
            unheard=self.unheard,
        )

    def _alone(self) -> float:
        outcomes, report = self._run(np.arange(LONE) * LONE_GAP_S)
        if report.stopped:
            raise KeyboardInterrupt
        if not outcomes.answered.all():
            raise _no_answer(self.order, outcomes, report)
        return float(np.median(outcomes.ended - outcomes.begun))

    def _level(self, rate: float) -> None:
        order = self.order
        seconds = order.seconds
        if not order.rates:
            seconds = max(seconds, min(1.1 * needed(order.slo) / rate, LONGEST_S))
        warm_s = min(WARM_SHARE * seconds, WARM_MOST_S)
        if rate * (warm_s + seconds) > MOST_REQUESTS:
            raise UsageError(
                f"{rate:,.0f} requests a second for {seconds:g} s are too many to be kept",
                mend="give a lower --rate, or a shorter --for",
            )
        due = order.arrivals(rate, warm_s + seconds, order.seed + len(self.levels))
        before = (self.usage.cpu_s(), self.usage.batches()) if self.usage else (0.0, None)
        began = time.monotonic()
        outcomes, report = self._run(due)
        took = time.monotonic() - began
        server = None if self.usage is None else _used(self.usage, *before, took)
        counted = outcomes.sent().since(warm_s)
        if len(counted):
            stretch = seconds if not report.stopped else max(float(counted.due[-1]), 1e-3)
            summary = summary_of(counted, seconds=stretch, cpu=_cpu(report), slo=order.slo)
            self._keep(rate, summary, outcomes, counted, report, server)
        if report.stopped:
            raise KeyboardInterrupt

    def _keep(
        self,
        rate: float,
        summary: Summary,
        outcomes: Outcomes,
        counted: Outcomes,
        report: Report,
        server: ServerUse | None,
    ) -> None:
        level = LevelResult(
            asked=rate,
            summary=summary,
            histogram=encoded(counted.latency[counted.answered]),
            answered=int(outcomes.answered.sum()),
            opened=report.opened,
            most_open=report.most,
            waited=report.waited,
            said=dict(report.said),
            server=server,
        )
        self.levels.append(level)
        if summary.verdict is not None and not report.stopped:
            self.seen.append((rate, summary.verdict))
        self.tell(level)

    def _run(self, due: np.ndarray) -> tuple[Outcomes, Report]:
        tick = self.usage.sample if self.usage else lambda: None
        report = self.generator.run(due, timeout_s=self.order.timeout_s, tick=tick)
        outcomes = outcomes_of(due, report)
        self.answered += int(outcomes.answered.sum())
        self.unheard += int(np.isin(outcomes.status, [Fate.TIMED_OUT, Fate.LOST, Fate.CUT]).sum())
        return outcomes, report


def _used(usage: Usage, cpu_s: float, batches: tuple[float, float] | None, took: float) -> ServerUse:
    """Since these counts were taken, `took` seconds ago."""
    used, now = usage.cpu_s() - cpu_s, usage.batches()
    mean = None
    if batches is not None and now is not None and now[0] > batches[0]:
        mean = (now[1] - batches[1]) / (now[0] - batches[0])
    return ServerUse(cpu_s=used, cores=used / took, rss=usage.peak(), mean_batch=mean)


def _cpu(report: Report) -> float:
    return report.cpu_s / max(report.wall_s, 1e-9)


def _no_answer(order: BenchOrder, outcomes: Outcomes, report: Report) -> HookeError:
    """What is said of a first request that went wrong."""
    status = int(outcomes.status[~outcomes.answered][0])
    url = order.url
    said = _readable(report.said.get(status, ""))
    if status == Fate.REFUSED:
        return UsageError(
            f"nothing answers at {order.target.authority}",
            why=said,
            mend="start the service, or give the address that it names: hooke serve FILE.py",
        )
    if status < 0:
        return HookeError(
            f"{url} gave no answer within {order.timeout_s:g} s"
            if status == Fate.TIMED_OUT
            else f"{url} closed the connection without an answer",
            mend="look at what the service logs; --timeout 30s waits longer",
        )
    mends = {
        401: "give its token: --token-file FILE names the file that `hooke serve` names",
        403: "ask for it by the name that it was started for",
        404: "name a method of it: --path /predict",
        405: "name a method of it: --path /predict",
        422: "give what it takes: --data '{\"rows\": [[1, 2]]}'",
    }
    mend = mends.get(status, "")
    if order.sent.made_from and status not in REFUSALS and status not in (401, 403):
        said = f"{said}\nit was asked with {order.sent}"
        mend = "what it takes is more than that says: give it, --data '{...}' or --data @FILE"
    kind = HookeError if status in REFUSALS or status >= 500 else UsageError
    return kind(f"{url} answers {status}, not 2xx, so its load is not measured", why=said, mend=mend)


def _readable(text: str) -> str:
    """What an answer says, in a line that does nothing to a terminal."""
    try:
        problem = msgspec.json.decode(text)
        fields = problem.get("errors") or []
        text = "; ".join(
            [
                str(problem.get("detail") or problem.get("title") or text),
                *(f"{each['field']}: {each['detail']}" for each in fields),
            ]
        )
    except (msgspec.DecodeError, AttributeError, TypeError, KeyError):
        pass  # it is no problem document: it is shown as it is
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300].strip()
