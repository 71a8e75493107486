"""What a language model's service can do, from the law of its steps: its curve over requests at once, and how many replicas users need, with the price of tokens.

The law and the limits come from the windows of the service's newest run that has them. What follows is simulated with the service's own scheduler
(`generation.token_times`); each history has coefficients of its own that the data allow, so intervals include what is not known of the law.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from hooke.base.errors import JournalError, NotEnoughData, UsageError
from hooke.base.formats import aligned, format_rate, format_seconds
from hooke.charts import plotly_figure
from hooke.charts.curve_chart import Curve
from hooke.charts.renderers import save_as
from hooke.generation.token_law import TokenLaw, token_law
from hooke.generation.token_scheduler import TokenLimits
from hooke.generation.token_times import (
    RequestTimes,
    TokenTraffic,
    histories,
    simulate,
    statistic,
    step_times,
)
from hooke.journal.events import RunStarted
from hooke.journal.run_folders import RunsFolder
from hooke.journal.service_events import BatchWindow
from hooke.planning.machines import given, this_machine
from hooke.planning.prediction import filled
from hooke.processes.devices import cpus_here
from hooke.project.folder import Project
from hooke.project.price_lists import Catalogs, read_catalogs
from hooke.project.token_lengths import TokenLengths
from hooke.scaling.catalog import Catalog, InstanceType, Range
from hooke.scaling.measurements import Estimate, Measurements
from hooke.scaling.time_and_price import LOCAL
from hooke.serving.service import Service
from hooke.serving.slo import Slo

__all__ = [
    "KnownSteps",
    "TokenCurve",
    "TokenOffer",
    "TokenPlan",
    "TokenQuestion",
    "known_steps",
    "plan_tokens",
    "sustained_rate",
    "token_curve",
    "token_plan_facts",
    "token_plan_text",
]

MOST_RUNS = 50
"""Newest runs that are looked at."""
SEED = 1
LEVEL = 0.95
CURVE_RUNS, CURVE_REQUESTS = 5, 40
"""Histories at each number of requests at once, and the least requests of one."""
DRAWS, REQUESTS, OF_SLOT, FEWEST = 8, 400, 10, 100
"""Of a plan: laws that the data allow; and requests of a history, at least, and for each slot, if all are busy; and at low rates."""
BEGINNING = 0.2
"""The part of a history that is not judged: the slots fill up."""
STEP, CLOSE = 1.2, 1.05
"""The rate that keeps the SLO is looked for in steps, the first by this factor and the next ones larger, and then between two rates until they are this close."""


# --- What the windows of a run tell.


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSteps:
    """The law of a service's steps from one of its runs, its limits, and the mean length of its requests."""

    run: str
    host: str
    law: TokenLaw
    limits: TokenLimits
    lengths: TokenLengths | None
    """As if all requests were alike; None where none was answered."""


def known_steps(runs: RunsFolder, run: str) -> KnownSteps:
    """What a run's windows tell. Raises NotEnoughData if it computed too few steps, UsageError if it is no service of a language model."""
    events = runs.events(run)
    started = next((event for event in events if isinstance(event, RunStarted)), None)
    windows = [event for event in events if isinstance(event, BatchWindow) and event.steps]
    if not windows or started is None:
        raise UsageError(
            f"run {run} has no steps of a language model",
            fix='its class needs @service(protocol="openai"), and requests',
        )
    slots, step_tokens, context, pages, page_tokens = next(
        each.token_limits for each in windows if each.token_limits
    )
    limits = TokenLimits(
        slots=slots,
        step_tokens=step_tokens,
        context=context,
        pages=pages,
        page_tokens=page_tokens,
        max_waiting=1_000_000,
        patience_s=math.inf,
    )
    return KnownSteps(
        run=run, host=started.host, law=token_law(windows), limits=limits, lengths=_mean_lengths(windows)
    )


def _mean_lengths(windows: Sequence[BatchWindow]) -> TokenLengths | None:
    """Prompts as far as they were computed, and answers, from sums."""
    answers = sum(each.answers for each in windows)
    prompt = sum(part.products[1] for each in windows for part in each.steps)
    if not answers:
        return None
    tokens = sum(each.answer_tokens for each in windows)
    return TokenLengths(
        name="the mean of the run's requests",
        prompts=np.array([max(round(prompt / answers), 1)]),
        outputs=np.array([max(round(tokens / answers), 1)]),
    )


def newest_steps(project: Project, name: str) -> KnownSteps:
    """Of the newest run of this service whose windows determine a law. Raises UsageError with what to do."""
    lacking = ""
    looked = 0
    for run in project.runs.names():
        if looked == MOST_RUNS:
            break
        try:
            first = next((each for each in project.runs.events(run) if isinstance(each, RunStarted)), None)
            if first is None or first.kind != "service" or first.pipeline != name:
                continue
            looked += 1
            return known_steps(project.runs, run)
        except (JournalError, UsageError, NotEnoughData) as error:
            lacking = lacking or f"{run}: {error.what}"
    raise UsageError(
        f"no run of {name} in this project determines the law of its steps",
        why=lacking,
        fix="let it answer requests, or measure it",
        next=f"hooke bench FILE.py:{name} --lengths azure-conversation --rate 1,2,4",
    )


# --- The curve over requests at once.


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCurvePoint:
    """With so many requests at once: tokens of answers a second, and percentiles of times."""

    at_once: int
    tokens: Estimate
    first_p50: Estimate
    first_p95: Estimate
    each_p50: Estimate
    each_p95: Estimate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenCurve:
    """Tokens a second and the times of requests over the number of requests at once, with the law of that and its knee in `curve`."""

    curve: Curve
    levels: tuple[TokenCurvePoint, ...]

    def table(self) -> str:
        """Each number of requests at once, with intervals for a next history like it."""
        head = ("at once", "tokens/s", "first token p50", "p95", "each token p50", "p95")
        return "\n".join(aligned(head, [_cells(each) for each in self.levels], right=range(len(head))))

    def text(self, *, width: int | None = None, colour: bool = False, plain: bool = False) -> str:
        """The table, and the curve of tokens a second with its knee."""
        return self.curve.text_with(self.table(), width=width, colour=colour, plain=plain)

    def __str__(self) -> str:
        return self.text()

    def facts(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            **self.curve.facts(),
            "levels": [
                {"at_once": each.at_once, **{name: getattr(each, name).facts() for name in TIMES}}
                for each in self.levels
            ],
        }

    def to_plotly(self) -> Any:
        """The curve as a `plotly.graph_objects.Figure`, with the times on a second axis. Raises MissingExtra."""
        figure = self.curve.to_plotly()
        spec = figure.to_plotly_json()
        at = [each.at_once for each in self.levels]
        for name, label in (("first_p95", "first token, p95"), ("each_p95", "each token, p95")):
            times = [getattr(each, name) for each in self.levels]
            ends = {
                "array": [each.interval[1] - each.value for each in times],
                "arrayminus": [each.value - each.interval[0] for each in times],
            }
            spec["data"] = [
                *spec["data"],
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": label,
                    "x": at,
                    "y": [each.value for each in times],
                    "error_y": {"type": "data", "symmetric": False, **ends},
                    "yaxis": "y3",
                },
            ]
        spec["layout"] = {
            **spec["layout"],
            "yaxis3": {"title": {"text": "seconds"}, "overlaying": "y", "side": "right", "type": "log"},
        }
        return plotly_figure.figure_from_spec(spec)

    def save(self, path: str | Path) -> Path:
        """Write `.svg` or `.png` of the throughput, or `.html` with the times, as the path ends. Raises as `Curve.save`."""
        makers = {".svg": self.curve.svg, ".png": self.curve.png, ".html": partial(_page, self)}
        return save_as(path, "a curve", makers)


TIMES = ("tokens", "first_p50", "first_p95", "each_p50", "each_p95")


def _page(curve: TokenCurve) -> str:
    return curve.to_plotly().to_html(include_plotlyjs=True)


def _cells(level: TokenCurvePoint) -> list[str]:
    times = [
        format_seconds(level.first_p50.value),
        level.first_p95.shown(format_seconds),
        format_seconds(level.each_p50.value),
        level.each_p95.shown(format_seconds),
    ]
    return [str(level.at_once), level.tokens.shown("{:,.0f}".format), *times]


def token_curve(known: KnownSteps, lengths: TokenLengths | None = None, *, name: str = "") -> TokenCurve:
    """Simulate 1, 2, 4, ... requests at once, up to twice the slots. Raises UsageError without lengths, NotEnoughData."""
    lengths = _fitting(known, lengths)
    chance = np.random.default_rng(SEED)
    levels, throughput = list[TokenCurvePoint](), list[list[float]]()
    for at_once in _numbers(known.limits.slots):
        loads = [
            TokenTraffic(prompts=prompts.tolist(), outputs=outputs.tolist(), users=at_once)
            for prompts, outputs in (
                lengths.drawn(max(CURVE_REQUESTS, 5 * at_once), chance) for _ in range(CURVE_RUNS)
            )
        ]
        told = histories(known.law, known.limits, loads, chance)
        levels.append(_level(at_once, told))
        throughput.append([_tokens_per_s(each, at_once) for each in told])
    slots = known.limits.slots
    kept = [at for at, each in enumerate(levels) if each.at_once <= slots]
    curve = Curve(
        Measurements([levels[at].at_once for at in kept], throughput=[throughput[at] for at in kept]),
        name=name,
        source=f"run {known.run}",
        unit="tokens",
        counts="requests at once",
        most=slots,
        points="simulated",
        notes=(
            f"simulated with the law of {known.law.steps:,} steps and the service's own scheduler; lengths: {lengths.name}",
            f"the service has {slots} slots; further requests wait",
        ),
    )
    return TokenCurve(curve=curve, levels=tuple(levels))


def _fitting(known: KnownSteps, lengths: TokenLengths | None) -> TokenLengths:
    found = lengths or known.lengths
    if found is None:
        raise UsageError(
            f"run {known.run} answered no request, so the lengths are not known",
            fix="give them: --lengths azure-conversation",
        )
    limits = known.limits
    memory = limits.context if limits.pages is None else limits.pages * limits.page_tokens
    return found.fitting(min(limits.context, memory))


def _numbers(slots: int) -> list[int]:
    doubled = [2**at for at in range(slots.bit_length()) if 2**at < slots]
    return sorted({*doubled, slots, 2 * slots, *([round(slots * 0.75)] if slots >= FEW_SLOTS else [])})


FEW_SLOTS = 4


def _tokens_per_s(told: RequestTimes, at_once: int) -> float:
    """While as many requests as possible are there: from when so many were answered, until the last one is sent. An answer's tokens count as if they came evenly."""
    first, rest = told.ended - told.rest_s, told.rest_s
    span = np.sort(told.ended)[at_once - 1], (first - told.first_s).max()
    begin, end = (
        ((at >= first) + np.clip((at - first) / np.maximum(rest, 1e-9), 0.0, 1.0) * (told.outputs - 1)).sum()
        for at in span
    )
    return float((end - begin) / (span[1] - span[0]))


def _level(at_once: int, told: Sequence[RequestTimes]) -> TokenCurvePoint:
    def times(name: str, percent: float) -> Estimate:
        # All users begin together: their first requests see a crowd that is not there later.
        return statistic(
            f"p{percent:g}",
            told,
            lambda each: float(np.nanquantile(getattr(each, name)[at_once:], percent / 100)),
        )

    return TokenCurvePoint(
        at_once=at_once,
        tokens=statistic("tokens/s", told, lambda each: _tokens_per_s(each, at_once)),
        first_p50=times("first_s", 50),
        first_p95=times("first_s", 95),
        each_p50=times("per_token_s", 50),
        each_p95=times("per_token_s", 95),
    )


# --- How many replicas, and what tokens cost.


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenQuestion:
    """Requests a second of such lengths, within an SLO, on this machine and those of price lists."""

    declared: Service
    rate: float
    slo: Slo
    lengths: TokenLengths | None = None
    users: str = ""
    """Whose requests these are, in words."""
    catalog: Catalogs = None
    speed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOffer:
    """A machine with what a replica on it sustains, or in `refused` why that is not known. Count on the low end of `rate`.

    `replicas` and `instances` are (fewest, expected, most). Prices are US dollars for a million tokens, with the interval that the replicas' has.
    """

    machine: InstanceType
    rate: Estimate | None = None
    each: int = 0
    """Replicas on an instance."""
    replicas: tuple[int, int, int] | None = None
    instances: tuple[int, int, int] | None = None
    blended: Estimate | None = None
    input: Estimate | None = None
    output: Estimate | None = None
    refused: str = ""

    @property
    def usd_per_hour(self) -> float | None:
        """Of as many instances as surely suffice."""
        price = self.machine.usd_per_hour
        return None if price is None or self.instances is None else price * self.instances[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlan:
    """All offers, this machine first and then the cheapest first."""

    question: TokenQuestion
    known: KnownSteps
    lengths: TokenLengths
    offers: tuple[TokenOffer, ...]
    catalogs: tuple[Catalog, ...]
    input_share: float
    """The part of the steps' time that prompts take."""

    @property
    def cheapest(self) -> TokenOffer | None:
        """The cheapest that is not this machine."""
        return next(
            (each for each in self.offers if each.blended is not None and each.machine.catalog != LOCAL), None
        )


def plan_tokens(question: TokenQuestion, project: Project) -> TokenPlan:
    """Make the plan from the service's newest run. Raises UsageError, NotEnoughData."""
    known = newest_steps(project, question.declared.name)
    lengths = _fitting(known, question.lengths)
    settings = project.settings.plan
    speed = {
        name: value
        for name, value in {**settings.speed, **question.speed}.items()
        if not str(value).startswith("@")
    }
    lists = read_catalogs(question.catalog if question.catalog is not None else settings.catalog)
    catalogs = given(lists, speed=speed, startup={})
    here = this_machine(speed, measured_here=known.host == socket.gethostname())
    sustained = _Sustained(known, lengths, question.slo)
    share = sustained.input_share()
    machines = [here, *(machine for catalog in catalogs for machine in catalog.machines)]
    offers = [_offer(question, machine, sustained, lengths, share) for machine in machines]
    offers.sort(
        key=lambda each: (each.machine.catalog != LOCAL, each.blended is None, each.usd_per_hour or math.inf)
    )
    return TokenPlan(
        question=question,
        known=known,
        lengths=lengths,
        offers=tuple(offers),
        catalogs=tuple(catalogs),
        input_share=share,
    )


def sustained_rate(known: KnownSteps, lengths: TokenLengths, slo: Slo) -> Estimate:
    """The requests a second of one replica within the SLO, on the machine of the run."""
    return _Sustained(known, lengths, slo).at((1.0, 1.0))


class _Sustained:
    """The rate that one replica sustains within the SLO, by the speed of its machine."""

    def __init__(self, known: KnownSteps, lengths: TokenLengths, slo: Slo) -> None:
        self._known, self._slo = known, slo
        chance = np.random.default_rng(SEED)
        self._draws = known.law.draws(chance, DRAWS)
        count = max(REQUESTS, OF_SLOT * known.limits.slots)
        self._lengths = [lengths.drawn(count, chance) for _ in range(DRAWS)]
        self._gaps = np.cumsum(chance.exponential(1.0, (DRAWS, count)), axis=1)
        self._seeds = chance.integers(2**31, size=DRAWS)
        self._capacities = [self._capacity(draw) for draw in range(DRAWS)]
        self._found: dict[float, Estimate] = {}

    def at(self, speed: Range) -> Estimate:
        """On a machine of this speed: of half the speed, it keeps 50 ms if this one keeps 25 ms, and half of the rate."""
        slow, fast = (self._here(each) for each in speed)
        low, value, high = (
            slow.interval[0] * speed[0],
            math.sqrt(slow.value * speed[0] * fast.value * speed[1]),
            fast.interval[1] * speed[1],
        )
        return Estimate(name="requests/s of a replica", value=value, interval=(low, high), level=LEVEL)

    def _here(self, speed: float) -> Estimate:
        if speed not in self._found:
            lows, highs = np.array(self._highest(speed)).T
            if lows.min() <= 0:
                value, ends = float(np.median(lows)), (0.0, float(highs.max()))
            else:
                logs = np.log([lows, highs])
                # A next one of as many: what the law leaves open, and which requests happen to come.
                half = float(stdtrit(DRAWS - 1, (1 + LEVEL) / 2)) * logs.std(axis=1, ddof=1)
                half *= math.sqrt(1 + 1 / DRAWS)
                low, high = logs.mean(axis=1) + half * (-1, 1)
                value, ends = math.exp(float(logs.mean())), (math.exp(low), math.exp(high))
            self._found[speed] = Estimate(name="", value=value, interval=ends, level=LEVEL)
        return self._found[speed]

    def _highest(self, speed: float) -> list[tuple[float, float]]:
        """Between which rates enough requests cease to be good, for each law; zeros if a lone request is not good."""
        share, found = 1.0, list[tuple[float, float]]()
        for draw, capacity in enumerate(self._capacities):
            low, high = self._between(draw, share * capacity, speed)
            while CLOSE * low < high:
                middle = math.sqrt(low * high)
                low, high = (middle, high) if self._keeps(draw, middle, speed) else (low, middle)
            found.append((low, high))
            share = max(high / capacity, 1 / LONE)
        return found

    def _between(self, draw: int, rate: float, speed: float) -> tuple[float, float]:
        """A rate that keeps the SLO and one that does not, from this one up or down."""
        most, step = self._capacities[draw], STEP
        lone = most / LONE
        if self._keeps(draw, rate, speed):
            while rate < most:
                low, rate = rate, min(rate * step, most)
                if not self._keeps(draw, rate, speed):
                    return low, rate
                step **= 2
            return most, most  # of more, some wait ever longer
        if rate <= lone or not self._keeps(draw, lone, speed):
            return 0.0, 0.0
        while True:
            high, rate = rate, max(rate / step, lone)
            if rate == lone or self._keeps(draw, rate, speed):
                return rate, high
            step **= 2

    def _capacity(self, draw: int) -> float:
        """Requests a second with all slots busy: of those that neither fill them nor end when no more come."""
        prompts, outputs = self._lengths[draw]
        slots = self._known.limits.slots
        told = self._simulated(
            draw, TokenTraffic(prompts=prompts.tolist(), outputs=outputs.tolist(), users=slots)
        )
        return slots / float((told.first_s + told.rest_s)[slots:-slots].mean())

    def _keeps(self, draw: int, rate: float, speed: float) -> bool:
        """Whether enough of the requests are good: of fewer ones at a lower rate, which come in as long a time."""
        prompts, outputs = self._lengths[draw]
        count = max(round(len(prompts) * rate / self._capacities[draw]), FEWEST)
        load = TokenTraffic(
            prompts=prompts[:count].tolist(),
            outputs=outputs[:count].tolist(),
            due=self._gaps[draw][:count] / rate,
        )
        told = self._simulated(draw, load)
        good = self._slo.kept(told.first_s / speed, told.per_token_s / speed)
        return float(good[round(BEGINNING * len(good)) :].mean()) >= self._slo.percent / 100

    def _simulated(self, draw: int, load: TokenTraffic) -> RequestTimes:
        chance = np.random.default_rng(self._seeds[draw])
        return simulate(
            self._known.limits, load, step_times(self._draws[draw], self._known.law.noise, chance)
        )

    def input_share(self) -> float:
        """The part of the seconds that prompts take: their tokens and pairs. Steps and what answers read count for answers."""
        prompts = np.concatenate([each for each, _ in self._lengths])
        law = self._known.law
        pairs = prompts * (prompts + 1) / 2
        prompt_s = float((law.coefficients[1] * prompts + law.coefficients[4] * pairs).sum())
        load = TokenTraffic(
            prompts=self._lengths[0][0].tolist(),
            outputs=self._lengths[0][1].tolist(),
            users=self._known.limits.slots,
        )
        whole_s = simulate(self._known.limits, load, lambda work, _: law.step_s(work)).busy_s * len(
            self._lengths
        )
        return min(prompt_s / whole_s, 1.0) if whole_s else 0.0


LONE = 200.0
"""At so small a part of what it can do, a replica has one request at a time."""


def _offer(
    question: TokenQuestion, machine: InstanceType, sustained: _Sustained, lengths: TokenLengths, share: float
) -> TokenOffer:
    if machine.speed is None:
        return TokenOffer(machine=machine, refused="speed unknown")
    fits = _fits(question.declared, machine)
    if not fits:
        return TokenOffer(machine=machine, refused="too small for a replica")
    rate = sustained.at(machine.speed)
    if rate.interval[0] <= 0:
        return TokenOffer(
            machine=machine, each=fits, rate=rate, refused="even a lone request may miss the SLO"
        )
    low, value, high = rate.ends
    replicas = tuple(max(math.ceil(question.rate / each - 1e-9), 1) for each in (high, value, low))
    instances = tuple(-(-each // fits) for each in replicas)
    prompt, output = float(lengths.prompts.mean()), float(lengths.outputs.mean())
    blended, of_input, of_output = (
        _price(machine, instances, question.rate * tokens, part)
        for tokens, part in ((prompt + output, 1.0), (prompt, share), (output, 1 - share))
    )
    return TokenOffer(
        machine=machine,
        rate=rate,
        each=fits,
        replicas=replicas,  # type: ignore[arg-type] - three
        instances=instances,  # type: ignore[arg-type]
        blended=blended,
        input=of_input,
        output=of_output,
    )


def _fits(declared: Service, machine: InstanceType) -> int:
    """Replicas on an instance: by GPUs if the class has some, else by the cores that it has here."""
    if declared.gpus:
        return int(machine.gpus // declared.gpus)
    if machine.catalog == LOCAL:
        return max(cpus_here() // (declared.cpus or cpus_here()), 1)
    return int((machine.vcpus or 0) // (declared.cpus or cpus_here()))


def _price(
    machine: InstanceType, instances: Sequence[int], tokens_per_s: float, part: float
) -> Estimate | None:
    if machine.usd_per_hour is None:
        return None
    low, value, high = (each * machine.usd_per_hour * part / 3600 / tokens_per_s * 1e6 for each in instances)
    return Estimate(name="USD per million tokens", value=value, interval=(low, high), level=LEVEL)


# --- As text, and as plain values for JSON.

COLUMNS = (
    "",
    "requests/s of a replica",
    "replicas",
    "instances",
    "per hour",
    "$/M tokens",
    "$/M input",
    "$/M output",
)


def token_plan_text(plan: TokenPlan) -> str:
    """The plan as a table, with its basis and what is assumed."""
    offers = [each for each in plan.offers if not each.refused]
    rows = [_row(each) for each in offers]
    table = ["", *filled(COLUMNS, rows)] if rows else []
    return "\n".join([_title(plan), *table, "", *_said(plan)])


def _row(offer: TokenOffer) -> list[str]:
    assert offer.rate is not None
    assert offer.replicas is not None
    assert offer.instances is not None
    local = offer.machine.catalog == LOCAL
    prices = (
        ["", "", ""]
        if local
        else [
            "?" if each is None else each.shown("{:,.3g}".format)
            for each in (offer.blended, offer.input, offer.output)
        ]
    )
    hourly = "" if local else "?" if offer.usd_per_hour is None else f"${offer.usd_per_hour:,.2f}"
    return [
        "this machine" if local else offer.machine.id,
        offer.rate.shown(format_rate),
        _several(offer.replicas),
        "" if local else _several(offer.instances),
        hourly,
        *prices,
    ]


def _several(numbers: tuple[int, int, int]) -> str:
    fewest, _, most = numbers
    return f"{most:,}" if fewest == most else f"{most:,} ({fewest:,} may do)"


def _title(plan: TokenPlan) -> str:
    question = plan.question
    whose = f" ({question.users})" if question.users else ""
    return f"{question.declared.name}: {format_rate(question.rate)} requests/s{whose}, {question.slo}"


def _said(plan: TokenPlan) -> Iterator[str]:
    known, lengths = plan.known, plan.lengths
    yield (
        f"from the law of {known.law.steps:,} steps of run {known.run}; lengths: {lengths.name}, on average {lengths.prompts.mean():,.0f} tokens "
        f"of prompts and {lengths.outputs.mean():,.0f} of answers"
    )
    if lengths.left_out:
        yield f"requests left out, as longer than the context of {known.limits.context:,} tokens: {lengths.left_out:,}"
    yield (
        f"prompts take {plan.input_share:.0%} of the time, and so of the price of tokens; nothing is in memory before it is asked for"
    )
    yield "assumed: requests come independently, each replica gets an equal share of them at random, and Python, memory and network scale with the speed"
    unknown = [each.machine.id for each in plan.offers if each.refused == "speed unknown"]
    if unknown:
        first = unknown[0]
        yield f"left out: {len(unknown)} types whose speed is not known; a run there tells, or --speed {first}=2-4 says it"
    for each in plan.offers:
        if each.refused and each.refused != "speed unknown":
            yield f"left out: {each.machine.id}: {each.refused}"
    used = {each.machine.catalog for each in plan.offers if each.blended is not None}
    for catalog in plan.catalogs:
        if catalog.name in used:
            yield f"prices: {catalog.source}, {catalog.date}"


def token_plan_facts(plan: TokenPlan) -> dict[str, Any]:
    """All offers, cheapest first, as plain values for JSON."""
    question, lengths = plan.question, plan.lengths
    cheapest = plan.cheapest
    return {
        "plan": _title(plan),
        "service": question.declared.name,
        "rate": question.rate,
        "slo": question.slo.facts(),
        "run": plan.known.run,
        "law": [each.facts() for each in plan.known.law.parts()],
        "lengths": {
            "name": lengths.name,
            "prompt": float(lengths.prompts.mean()),
            "output": float(lengths.outputs.mean()),
            "left_out": lengths.left_out,
        },
        "input_share": plan.input_share,
        "cheapest": None if cheapest is None else cheapest.machine.id,
        "offers": [_offer_facts(each) for each in plan.offers],
        "notes": list(_said(plan)),
    }


def _offer_facts(offer: TokenOffer) -> dict[str, Any]:
    estimates = {
        "requests_per_s_of_a_replica": offer.rate,
        "usd_per_million_tokens": offer.blended,
        "usd_per_million_input": offer.input,
        "usd_per_million_output": offer.output,
    }
    return {
        "machine": offer.machine.id,
        "refused": offer.refused,
        "replicas_of_an_instance": offer.each,
        "replicas": offer.replicas,
        "instances": offer.instances,
        "usd_per_hour": offer.usd_per_hour,
        **{name: None if each is None else each.facts() for name, each in estimates.items()},
    }
