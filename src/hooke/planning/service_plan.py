"""Plans a service for a rate of requests: setups on this machine and on price lists, from its load tests."""

from __future__ import annotations

import math
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from hooke.base.clock import Clock, SystemClock
from hooke.base.errors import UsageError
from hooke.base.formats import format_rate, format_seconds
from hooke.journal.service_events import LoadMeasured
from hooke.journal.study_records import STUDY_PREFIX, StudyRecord, find_studies
from hooke.planning.machines import INSTANCES, given, this_machine
from hooke.planning.prediction import filled, lacking
from hooke.processes.devices import cpus_here
from hooke.project.folder import Project
from hooke.project.pipeline_file import code_of
from hooke.project.price_lists import Catalogs, read_catalogs
from hooke.scaling import provision
from hooke.scaling.catalog import Catalog, InstanceType
from hooke.scaling.measurements import Estimate
from hooke.serving.service import Service

__all__ = ["ServicePlan", "ServiceQuestion", "plan_service", "service_plan_facts", "service_plan_text"]


MOST_LOADS = 200
"""Number of newest loads that are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceQuestion:
    """The required rate, and the setups to consider. `replicas` are the numbers considered on this machine; empty means all that fit, and those that were measured on it."""

    declared: Service
    file: Path
    rate: float
    promise: provision.LatencyGoal | None = None
    method: str = ""
    replicas: tuple[int, ...] = ()
    catalog: Catalogs = None
    speed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> str:
        """`FILE.py:CLASS`."""
        return f"{self.file}:{self.declared.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """The plan: all offers, the choice among them, its basis, and the command to type next."""

    question: ServiceQuestion
    promise: provision.LatencyGoal
    method: str
    offers: tuple[provision.Offer, ...]
    choice: provision.ProvisionChoice
    catalogs: tuple[Catalog, ...]
    notes: tuple[str, ...]
    next: str

    @property
    def front(self) -> list[provision.Offer]:
        """The offers that no other beats in both safe rate and cost."""
        return provision.offers_on_front(self.offers)

    @property
    def main_offers(self) -> list[provision.Offer]:
        """The offers on this machine, and the other offers on the front."""
        kept = self.front
        return [offer for offer in self.offers if offer.setup.is_local or any(offer is each for each in kept)]

    def priced_by(self) -> list[Catalog]:
        """The price lists that offers take their prices from."""
        used = {offer.setup.machine.catalog for offer in self.offers if offer.bears is not None}
        return [each for each in self.catalogs if each.name in used]


def plan_service(question: ServiceQuestion, project: Project, *, clock: Clock | None = None) -> ServicePlan:
    """Make the plan from the project's load tests. Raises UsageError if there are none, or if no SLO is given."""
    settings = project.settings.plan
    declared = question.declared
    promise = question.promise or _declared_promise(declared)
    past = _Past.read(question, project)
    lists = read_catalogs(question.catalog if question.catalog is not None else settings.catalog)
    speed = {**settings.speed, **question.speed}
    asked = [name for name, value in question.speed.items() if str(value).startswith("@")]
    if asked:
        raise UsageError(
            f"--speed {asked[0]}={question.speed[asked[0]]}: load tests of two machines cannot be compared yet",
            fix="give a ratio: --speed lambda:cpu_4x_general=1.2",
        )
    # Hosts in hooke.toml are measured by runs of pipelines, which say nothing about a service.
    speed = {name: value for name, value in speed.items() if not str(value).startswith("@")}
    catalogs = given(lists, speed=speed, startup={})
    here = this_machine(speed, measured_here=past.host == socket.gethostname())
    bearing = provision.Bearing(past.loads, promise, cores=past.cores)
    offers = tuple(map(bearing.offer, _setups(question, past, here, catalogs)))
    choice = provision.choose(offers, question.rate)
    made = ServicePlan(
        question=question,
        promise=promise,
        method=past.method,
        offers=offers,
        choice=choice,
        catalogs=tuple(catalogs),
        notes=tuple(_notes(past, here)),
        next=_next(question, past, choice, promise),
    )
    now = (clock or SystemClock()).now()
    stale = [each.stale_text(now) for each in made.priced_by()]
    return replace(made, notes=(*made.notes, *filter(None, stale)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """The newest load test, and the comparable ones before it."""

    loads: tuple[provision.MeasuredLoad, ...]
    newest: StudyRecord
    told: tuple[LoadMeasured, ...]
    others: int
    is_edited: bool

    @property
    def host(self) -> str:
        return self.newest.started.host

    @property
    def cores(self) -> int:
        return self.newest.started.cpus

    @property
    def method(self) -> str:
        return self.newest.started.task

    @classmethod
    def read(cls, question: ServiceQuestion, project: Project) -> _Past:
        """Loads with the same code, bodies, arrivals and `setup` as the newest. Of equal loads the newest counts."""
        name = question.declared.name
        studies = [
            study
            for study in find_studies(project.runs, pipeline=name)
            if study.loads and study.started.entry == question.entry
        ]
        of_method = (
            [study for study in studies if study.started.task == question.method]
            if question.method
            else studies
        )
        if not of_method:
            raise _untested(question, project, studies)
        newest = of_method[0]
        kind = _kind(newest, newest.loads[-1])
        found: dict[object, LoadMeasured] = {}
        others = 0
        for study in of_method:
            for load in study.loads:
                if _kind(study, load) != kind:
                    others += 1
                elif len(found) < MOST_LOADS:
                    key = load.replicas, load.threads, load.slo_percent, load.slo_limit_s
                    found.setdefault(key, load)
        return cls(
            loads=tuple(map(_load, found.values())),
            newest=newest,
            told=tuple(found.values()),
            others=others,
            is_edited=newest.started.key != code_of(question.declared.made_by),
        )


def _untested(question: ServiceQuestion, project: Project, studies: Sequence[StudyRecord]) -> UsageError:
    name = question.declared.name
    others = ", ".join(sorted({study.started.task for study in studies}))
    there = [each for each in project.runs.names() if each.startswith(f"{STUDY_PREFIX}{name}-")]
    elsewhere = (
        f"load tests of that name are of another file, or cannot be read (hooke runs): {', '.join(there[:3])}"
    )
    return UsageError(
        f"no load test of {name}{f'/{question.method}' if question.method else ''} is kept in this project",
        why=f"there are tests of {others}" if others else elsewhere if there else "",
        fix="measure its safe rate first",
        next=f"hooke bench {shlex.quote(_short(question))} --replicas 1,2,4 --threads 1",
    )


def _kind(study: StudyRecord, load: LoadMeasured) -> object:
    """What must be equal for two loads to be comparable."""
    started = study.started
    return started.host, started.task, started.key, load.sent, load.arrivals, load.given


def _load(told: LoadMeasured) -> provision.MeasuredLoad:
    return provision.MeasuredLoad(
        replicas=told.replicas,
        threads=told.threads,
        promise=provision.LatencyGoal(told.slo_percent, told.slo_limit_s),
        rate=told.rate,
        breaks_at=math.inf if told.breaks_at is None else told.breaks_at,
        cores=told.cores,
        memory=told.rss,
    )


def _declared_promise(declared: Service) -> provision.LatencyGoal:
    if declared.slo is None:
        raise UsageError(
            f"{declared.name} declares no SLO, so no rate can be called safe", fix='give --slo "p99 < 50ms"'
        )
    return provision.LatencyGoal(declared.slo.percent, declared.slo.limit_s)


def _setups(
    question: ServiceQuestion, past: _Past, here: InstanceType, catalogs: Sequence[Catalog]
) -> Iterator[provision.ServiceSetup]:
    """Each measured number of threads, on this machine and on 1 to 16 instances of each type, with as many replicas as fit.

    What was measured on this machine counts even if it has fewer cores: replicas that wait share them.
    """
    threads = sorted({load.threads for load in past.loads if load.threads})
    measured = past.loads if past.host == socket.gethostname() else ()
    for number in threads:
        fitting = range(1, max(here.vcpus or 1, number) // number + 1)
        here_before = {load.replicas for load in measured if load.threads == number}
        for count in question.replicas or sorted({*fitting, *here_before}):
            yield provision.ServiceSetup(machine=here, replicas=count, threads=number)
    for catalog in catalogs:
        for machine in catalog.machines:
            for number in threads:
                fits = _fits(question.declared, past, machine, number)
                for count in INSTANCES:
                    yield provision.ServiceSetup(
                        machine=machine, instances=count, replicas=count * fits, threads=number
                    )


def _fits(declared: Service, past: _Past, machine: InstanceType, threads: int) -> int:
    """How many replicas fit on one instance, by cores, memory and GPUs."""
    most = float((machine.vcpus or 0) // threads)
    memory = max((load.memory / load.replicas for load in past.loads), default=0.0)
    if memory and machine.memory is not None:
        most = min(most, machine.memory / memory)
    if declared.gpus:
        most = min(most, machine.gpus / declared.gpus)
    return math.floor(most + 1e-9)


def _notes(past: _Past, here: InstanceType) -> Iterator[str]:
    started = past.newest.started
    yield (
        f"from {len(past.loads)} safe rate{'s' * (len(past.loads) != 1)} from load tests on {started.host} "
        f"({started.cpus} cores), with {past.told[0].arrivals} arrivals; the newest is {started.study}"
    )
    if past.is_edited:
        yield f"{started.pipeline}, or code that it reaches, was edited after it was measured"
    if past.others:
        yield f"left out: {past.others} with other code, bodies, arrivals, hosts or bindings than the newest"
    if past.host != here.name and past.host != socket.gethostname():
        yield f"measured on {past.host}, not on this machine"
    for told in past.told:
        if told.batch_s is not None:
            each, beside = (
                f"{format_seconds(value)} ({format_seconds(low)} to {format_seconds(high)})"
                for low, value, high in told.batch_s
            )
            yield f"with {told.replicas} x {told.threads} a batch of n rows takes n x {each} + {beside}"
            break
    yield "replicas on several instances were not measured; the law of N replicas on one machine is used"


def _next(
    question: ServiceQuestion, past: _Past, choice: provision.ProvisionChoice, promise: provision.LatencyGoal
) -> str:
    offer = choice.offer
    if offer is not None and offer.setup.is_local:
        several = f" --replicas {offer.setup.replicas}" if offer.setup.replicas > 1 else ""
        return f"hooke serve {shlex.quote(_short(question))}{several} --threads {offer.setup.threads}{_bindings(past)}"
    if offer is not None:
        return ""
    most = max(past.loads, key=lambda load: (load.replicas, -load.threads))
    more = provision.Missing(
        2 * most.replicas, most.threads
    )  # if everything considered is known, and too little
    return _measurement(question, past, choice.missing or more, promise)


def _measurement(
    question: ServiceQuestion, past: _Past, missing: provision.Missing, promise: provision.LatencyGoal
) -> str:
    asked = missing.promise or promise
    slo = shlex.quote(f"p{asked.percent:g} < {asked.limit_s * 1000:g}ms")
    command = f"hooke bench {shlex.quote(_short(question))} --replicas {missing.replicas} --threads {missing.threads} --slo {slo}{_bindings(past)}"
    cores = missing.replicas * missing.threads
    return command if cores <= cpus_here() else f"{command}, on a machine of {cores} cores or more"


def _bindings(past: _Past) -> str:
    return "".join(f" --with {shlex.quote(each)}" for each in past.told[0].given.split())


def _short(question: ServiceQuestion) -> str:
    try:
        file = question.file.relative_to(Path.cwd())
    except ValueError:
        file = question.file
    return f"{file}:{question.declared.name}"


# --- As text, and as plain values for JSON.

COLUMNS = (
    "",
    "configuration",
    "safe rate",
    "of required",
    "per hour",
    "spot",
    "reserved",
    "per million requests",
)


def service_plan_text(plan: ServicePlan) -> str:
    """The plan as a table, with its basis and what it leaves out."""
    lines = [_title(plan)]
    offers = [offer for offer in plan.main_offers if offer.bears is not None]
    if offers:
        lines += ["", *filled(COLUMNS, [_cells(plan, offer) for offer in offers])]
    return "\n".join([*lines, "", *_said(plan)])


def service_plan_facts(plan: ServicePlan) -> dict[str, Any]:
    """All offers, with marks for the front and the recommended one."""
    question, front = plan.question, plan.front
    return {
        "plan": _title(plan),
        "service": question.declared.name,
        "method": plan.method,
        "rate": question.rate,
        "promise": {"percent": plan.promise.percent, "limit_s": plan.promise.limit_s},
        "recommended": None if plan.choice.offer is None else str(plan.choice.offer.setup),
        "reason": plan.choice.reason,
        "measure": None if plan.choice.missing is None else msgspec.to_builtins(plan.choice.missing),
        "next": plan.next,
        "offers": [
            {
                "configuration": str(offer.setup),
                "machine": offer.setup.machine.id,
                "instances": offer.setup.instances,
                "replicas": offer.setup.replicas,
                "threads": offer.setup.threads,
                "requests_per_s": None if offer.bears is None else offer.bears.facts(),
                "usd_per_hour": offer.setup.usd_per_hour,
                "spot_usd_per_hour": offer.setup.spot_usd_per_hour,
                "reserved_usd_per_hour": offer.setup.reserved_usd_per_hour,
                "grants": offer.grants(question.rate),
                "on_front": any(offer is each for each in front),
                "refused": offer.refused or None,
            }
            for offer in plan.offers
        ],
        "prices": [each.facts() for each in plan.catalogs],
        "notes": list(plan.notes),
    }


def _title(plan: ServicePlan) -> str:
    question = plan.question
    return f"plan of {question.declared.name}/{plan.method} for {question.rate:,.4g} requests/s within {plan.promise}"


def _said(plan: ServicePlan) -> Iterator[str]:
    chosen = plan.choice.offer is not None
    yield f"recommended: {plan.choice.reason}" if chosen else plan.choice.reason
    yield from _refused(plan)
    yield from plan.notes
    for catalog in plan.priced_by():
        yield f"prices of {catalog.name}: {catalog.source} (date: {catalog.date})"


def _refused(plan: ServicePlan) -> Iterator[str]:
    """Why setups of this machine, or instance types, have no row: one line for each reason."""
    for reason, name, named in lacking((_name(offer), offer.refused) for offer in plan.offers):
        fix = f"; give its speed relative to this machine: --speed {name}=RATIO"
        yield f"not predicted: {named}: {reason}{fix if reason.startswith('speed') else ''}"


def _name(offer: provision.Offer) -> str:
    return str(offer.setup) if offer.setup.is_local else offer.setup.machine.id


def _cells(plan: ServicePlan, offer: provision.Offer) -> tuple[str, ...]:
    assert offer.bears is not None
    usd, rate = offer.setup.usd_per_hour, plan.question.rate
    local = offer.setup.is_local
    return (
        "*" if offer is plan.choice.offer else "",
        str(offer.setup),
        f"{format_rate(offer.bears.value)}/s ({_ends(offer.bears)})",
        f"{offer.bears.interval[0] / rate:.0%}" + ("" if offer.grants(rate) else ", too little"),
        "" if local else _usd(usd),
        _usd(offer.setup.spot_usd_per_hour),
        _usd(offer.setup.reserved_usd_per_hour),
        "" if local or usd is None or not offer.grants(rate) else f"${usd / rate / 3600 * 1e6:,.2f}",
    )


def _usd(price: float | None) -> str:
    return "" if price is None else f"${price:,.2f}"


def _ends(estimate: Estimate) -> str:
    low, high = estimate.interval
    return (
        f"{format_rate(low)} to {format_rate(high)}"
        if math.isfinite(high)
        else f"at least {format_rate(low)}"
    )
