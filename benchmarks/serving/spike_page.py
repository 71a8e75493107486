"""What came of a spike, and the page of the documentation that shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.serving.programs.spike_service import BATCH_S, MOST

from hooke.base.formats import format_seconds
from hooke.loadtest.generator_protocol import REFUSALS, Outcomes
from hooke.services.service_report import ServiceRecord
from hooke.services.service_runs import TimeSlice, scalings, start_times_s, time_slices
from hooke.serving.stats_windows import SHORTEST_WINDOW_S, merge_windows

__all__ = ["Phase", "Seen", "Spike", "page"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A rate for a time."""

    name: str
    rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Of a phase: what the journal says, and what the client saw of the requests that were due in it."""

    phase: Phase
    journal: TimeSlice
    client: Outcomes
    limit_s: float

    @property
    def within(self) -> float:
        """By the client: the share that was answered within the limit, counted from when each was due."""
        return float((self.client.answered & (self.client.latency <= self.limit_s)).mean())

    def client_s(self, percent: float) -> float:
        """The percentile of the client's times."""
        return float(np.percentile(self.client.latency[self.client.answered], percent))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """What came of it. `outcomes` are the client's of all phases, `others` of what was sent before and after them."""

    record: ServiceRecord
    seen: tuple[Seen, ...]
    outcomes: Outcomes
    others: tuple[Outcomes, ...]
    exit_code: int
    said: str

    @property
    def answered(self) -> int:
        """By the client, with 2xx."""
        return sum(int(each.answered.sum()) for each in (self.outcomes, *self.others))

    @property
    def refused(self) -> int:
        """By the client, with 429 and 503."""
        return sum(int(np.isin(each.status, REFUSALS[:2]).sum()) for each in (self.outcomes, *self.others))

    @property
    def late(self) -> int:
        """By the client, with 504."""
        return sum(int((each.status == REFUSALS[2]).sum()) for each in (self.outcomes, *self.others))

    @property
    def failed(self) -> int:
        """By the client: all the rest."""
        sent = sum(len(each) for each in (self.outcomes, *self.others))
        return sent - self.answered - self.refused - self.late

    def found_again_s(self) -> float | None:
        """By the journal: how long after the spike began the SLO was kept again, and from then on all through it."""
        spike = self.seen[1].journal
        percent = (self.record.declared.slo_percent or 99.0) / 100
        count = max(round(spike.seconds / SHORTEST_WINDOW_S), 1)
        parts = time_slices(
            self.record.windows,
            self.record.staff,
            began=spike.began,
            ended=spike.began + spike.seconds,
            most=count,
        )
        kept_from = spike.seconds
        for part in reversed(parts):
            if part.within is not None and part.within < percent:
                break
            kept_from = part.began - spike.began
        return kept_from if kept_from < spike.seconds else None


_INTRODUCTION = """\
# A spike of ten times the load

A service under `hooke serve --replicas 1:8` gets a steady load, then ten times as much, then the steady load again. This page is the output of

```text
python -m benchmarks.serving.spike --save docs/explanation/serving-spike.svg > docs/explanation/serving-spike.md
```

Supervisor, Envoy and replicas are the real ones, each replica a process. The model is simulated: a batch of up to {most} rows waits {batch},
so a replica handles {rate:.0f} rows a second on any machine. Waiting takes no CPU, so eight replicas handle eight times as much, although there are only {cores} cores, shared with
other work. Replicas that compute would share the cores. Requests are sent when they are due, by a Poisson process of the stated
rate, whether or not earlier requests were answered. The model's scaling law was not known at the start: the service measured it.

Figures and chart come from the run's journal, as `hooke show RUN --save` shows them for any service ([how](../how-to/serve-several.md#what-a-spike-did)).
Only the start and end of each phase, and the rows *client*, which serve as a check, come from the benchmark itself.
"""
_MARGIN = """\
Over the whole run, the counts of journal and client must be equal, and they are. In the journal, phases begin and end with windows of {window}. Within
a phase, the number of requests differs by at most {asked:.1%}, and the share within the SLO by {within:.1f} points. Windows end some milliseconds late. The journal counts a response in the window
in which it was given; the client counts it in the phase in which its request was due. The client measures time from then, so its times include the path through
Envoy and its own lag.
"""


def page(spike: Spike, *, picture: str) -> str:
    """As Markdown."""
    intro = _INTRODUCTION.format(
        most=MOST, batch=format_seconds(BATCH_S), rate=MOST / BATCH_S, cores=os.cpu_count()
    )
    alt = "Load, replicas and response times over time. The changes of the number of replicas are numbered; the reasons are listed below."
    parts = [
        intro,
        *([f"![{alt}]({picture})"] if picture else []),
        "## What clients saw",
        "\n".join(_table(spike)),
        _whole(spike),
        _margin(spike),
        "## How many replicas, and why",
        "\n".join(_reasons(spike)),
        _starts(spike),
    ]
    return "\n\n".join(part.rstrip() for part in parts)


def _table(spike: Spike) -> Iterator[str]:
    percent = spike.record.declared.slo_percent or 99.0
    limit = format_seconds(spike.record.declared.slo_limit_s or 0.0)
    yield f"| phase | source | replicas, mean | requests | answered | not answered | within {limit} | p50 | p{percent:g} |"
    yield "|---" * 9 + "|"
    for each in spike.seen:
        ours, theirs = each.journal, each.client
        answered = int(theirs.answered.sum())
        times = [ours.quantile_s(quantile) for quantile in (50.0, percent)]
        yield (
            f"| {each.phase.name}: {each.phase.rate:g}/s for {each.phase.seconds:g} s | journal | {ours.ready:.1f} | {ours.asked:,.0f} "
            f"| {ours.answered:,.0f} | {ours.unanswered:,.0f} | {_percent(ours.within)} | {_ms(times[0])} | {_ms(times[1])} |"
        )
        times = [each.client_s(quantile) for quantile in (50.0, percent)]
        yield (
            f"| | client | | {len(theirs):,} | {answered:,} | {len(theirs) - answered:,} | {_percent(each.within)} "
            f"| {_ms(times[0])} | {_ms(times[1])} |"
        )


def _whole(spike: Spike) -> str:
    whole = merge_windows(spike.record.windows)
    again = spike.found_again_s()
    kept = (
        f"Measured in windows of {format_seconds(SHORTEST_WINDOW_S)}, the SLO was met again {again:.0f} s after the spike began, and then until its end. "
        if again is not None
        else "The SLO was not met again while the spike lasted. "
    )
    return (
        f"{kept}Journal: {whole.requests:,} answered, {whole.refused:,} refused (429), {whole.late:,} too late (504), {whole.failed:,} failed. "
        f"Client: {spike.answered:,} answered, {spike.refused:,} refused (429 or 503), {spike.late:,} too late (504), {spike.failed:,} failed otherwise. "
        "No request failed because a replica was removed."
    )


def _margin(spike: Spike) -> str:
    return _MARGIN.format(
        window=format_seconds(SHORTEST_WINDOW_S),
        asked=max(abs(each.journal.asked / len(each.client) - 1) for each in spike.seen),
        within=max(100 * abs((each.journal.within or 0.0) - each.within) for each in spike.seen),
    )


def _reasons(spike: Spike) -> Iterator[str]:
    for number, event in enumerate(scalings(spike.record.replicas), 1):
        at = event.at - spike.record.started.at
        yield f"{number}. at {at:.1f} s, {event.before} → {event.after}: {event.reason}"


def _starts(spike: Spike) -> str:
    starts = start_times_s(spike.record.replicas)
    return (
        f"{len(starts)} starts took {format_seconds(min(starts))} to {format_seconds(max(starts))}, from the decision to the first response. "
        "Decisions use the longest of the last three. Until the new replicas answer, requests queue at the few that exist, and stay "
        "there: a request that a replica has accepted is not moved to another. A higher minimum, `--replicas 3:8`, leaves fewer "
        "requests waiting, and costs as much all the time."
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:,.0f} ms"
