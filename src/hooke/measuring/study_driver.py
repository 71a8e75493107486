"""Drives a study, new or continued, or finds an equal one."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from hooke.base.clock import Clock, SystemClock
from hooke.base.distributions import HOOKE_VERSION
from hooke.base.errors import HookeError, UsageError
from hooke.base.files import FileLock, writing
from hooke.base.formats import short_repr
from hooke.journal.events import Event, RunFinished, StudyStarted
from hooke.journal.study_records import STUDY_PREFIX, StudyRecord, find_studies, read_study
from hooke.journal.writer import Journal
from hooke.keys.fingerprint import fingerprint_code, fingerprint_value
from hooke.keys.fingerprint_parts import combine
from hooke.measuring.design import MOST_PLAIN, USUAL_REPEATS, Design, Question, levels_of
from hooke.measuring.excerpt import excerpt
from hooke.measuring.measurement import Bench, MeasurementRounds, Subject
from hooke.pipeline.engine import Engine, EngineContext
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.runner import CTRL_C
from hooke.pipeline.trace import trace
from hooke.processes.devices import cpus_here
from hooke.processes.start import Interrupts
from hooke.processes.usage import machine_facts
from hooke.project.backends import ENGINES, BackendChoice, Fleet, find_backend, fleet_for, open_engine
from hooke.project.folder import Project, lock_run, new_run_id, open_run
from hooke.project.pipeline_file import entry_of
from hooke.store.store import Store

__all__ = ["StudyDriver", "StudyOrder", "prepare_study", "study_key"]


# --- The key of a study: equal studies answer the same question.


def study_key(subject: Subject, design: Design, *, place: str) -> str:
    """Studies with equal keys measure the same: code, inputs, machine, versions and the varied numbers.

    The number of repeats is not part of the key: more repeats continue a study. Raises NotFingerprintable.
    """
    keys = GraphKeys(subject.part, run="")
    plain = fingerprint_code(subject.plain).key if subject.plain is not None else ""
    whole = fingerprint_code(subject.pipeline).key if subject.part.is_whole else ""
    varied = (subject.task, design.levels, design.sizes, design.weak)
    where = (place, machine_facts(), platform.python_version(), HOOKE_VERSION)
    facts = fingerprint_value((varied, where), where="measure")
    return combine("study", whole, plain, facts, *(keys[number].key for number in subject.part.measured))


STUDY_LOCK = "measuring.lock"
"""Held by a study of this project, because two studies at once would disturb each other."""

SCRATCH = "store"
"""The study's own store, which is removed at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOrder:
    """A requested study. `fresh` ignores equal studies; `command` is the command that continues it."""

    pipeline: Pipeline[..., Any]
    args: tuple[Any, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    workers: Sequence[int] | int | None = None
    repeats: int | None = None
    """None: what answers the question, within the usual ones and ten plain calls of the work."""
    question: Question | None = None
    """None: the knee. A question excludes `repeats`."""
    sizes: Sequence[int] = ()
    weak: bool = False
    plain: Callable[..., Any] | None = None
    on: str = "local"
    seed: int = 0
    """The seed for the order of the measurements."""
    fresh: bool = False
    command: str = ""
    observers: tuple[Callable[[Event], None], ...] = ()


@dataclass(slots=True, kw_only=True)
class StudyDriver:
    """A study that is traced and checked, and not yet started: nothing is written.

    `known` is the equal study to continue, or the answer; None for a new one.
    """

    project: Project
    order: StudyOrder
    study: str
    key: str
    design: Design
    subject: Subject
    place: BackendChoice
    clock: Clock
    pinned: bool
    known: StudyRecord | None = None

    @property
    def is_known(self) -> bool:
        """Whether nothing is left to measure."""
        if self.known is None:
            return False
        if self.known.rounds >= self.design.repeats and self.order.question is None:
            return True
        return self.order.repeats is None and self.known.complete and self._is_asked(self.known.started)

    def _is_asked(self, started: StudyStarted) -> bool:
        """Whether that study was asked the same; one in whole rounds answers everything, unless a question is asked."""
        if not started.answer:
            return self.order.question is None
        asked = self.order.question or Question()
        return (started.answer, started.within) == (asked.answer, asked.within)

    def drive(self) -> StudyRecord:
        """Take the missing measurements.

        Raises NotEnoughData if the machine is too noisy to conclude, UsageError if another study is running, what
        a failed task raises, and KeyboardInterrupt. Measurements are kept, and the same order continues.
        """
        if self.known is not None and self.is_known:
            return self.known
        self.project.create()
        with ExitStack() as open_things:
            self._lock_project(open_things)
            self._clear_scratch()
            open_things.enter_context(lock_run(self.project, self.study))
            folder = self.project.runs.folder(self.study)
            journal = open_things.enter_context(
                open_run(self.project, self._started(), clock=self.clock, observers=self.order.observers)
            )
            self.project.runs.clear_stop(self.study)
            self._measure(folder, journal)
        record = read_study(folder)
        assert record is not None
        return record

    def _clear_scratch(self) -> None:
        """Remove the stores of studies whose drivers were killed. No other study runs now."""
        for name in self.project.runs.names():
            if name.startswith(STUDY_PREFIX):
                shutil.rmtree(self.project.runs.folder(name) / SCRATCH, ignore_errors=True)

    def _lock_project(self, open_things: ExitStack) -> None:
        path = self.project.data / STUDY_LOCK
        with writing("the study's lock", path):
            lock = FileLock(path)
            acquired = lock.try_acquire()
        if not acquired:
            raise UsageError(
                "another study is running in this project",
                where=str(path),
                why="two studies at once would disturb each other's measurements",
                fix="wait until it ends, or stop it",
                next="hooke runs",
            )
        open_things.callback(lock.release)

    def _measure(self, folder: Path, journal: Journal) -> None:
        began = self.clock.monotonic()
        status, message = "failed", ""
        scratch = folder / SCRATCH
        try:
            self._measure_rounds(folder, journal, Store.open(str(scratch), secret=None))
            status = "finished"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        except HookeError as error:
            message = error.what
            error.next = error.next or self.order.command
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            seconds = self.clock.monotonic() - began
            journal.append(RunFinished(status=status, message=message, seconds=seconds))

    def _measure_rounds(self, folder: Path, journal: Journal, store: Store) -> None:
        interrupts = Interrupts(deferred=True)
        known = self.known
        # One fleet for the whole study, because each engine would start its own workers, which import everything again.
        fleet = fleet_for(self.place, workers=self.design.most)
        rounds = MeasurementRounds(
            subject=self.subject,
            design=self.design,
            bench=Bench(
                study=self.study,
                folder=folder,
                store=store,
                secret=None,
                clock=self.clock,
                open_engine=partial(self._open_engine, fleet),
                pinned=self.pinned,
                stop_requested=lambda: self._stop_requested(interrupts),
            ),
            journal=journal,
            cache=self.project.store(),
            core=min(os.sched_getaffinity(0)) if self.pinned else None,
            command=self.order.command,
            measured=list(known.measured) if known is not None else [],
            plain=list(known.plain) if known is not None else [],
        )
        with fleet or nullcontext(), interrupts:
            rounds.run()

    def _open_engine(self, fleet: Fleet | None, context: EngineContext, workers: int) -> Engine:
        at = fleet.at if fleet is not None else None
        place = BackendChoice(
            name=self.place.name, engine=self.place.engine, workers=(workers, workers), at=at
        )
        return open_engine(place, context)

    def _stop_requested(self, interrupts: Interrupts) -> str | None:
        return CTRL_C if interrupts.asked() else self.project.runs.stop_requested(self.study)

    def _code(self) -> dict[str, str]:
        part = self.subject.part
        if part.is_whole:
            return {}
        keys = GraphKeys(part, run="")
        return {each.name: each.digest for each in keys[part.measured[0]].code.parts}

    def _started(self) -> StudyStarted:
        order, design = self.order, self.design
        by_position = {f"[{at}]": short_repr(value) for at, value in enumerate(order.args)}
        return StudyStarted(
            study=self.study,
            pipeline=order.pipeline.name,
            entry=str(entry_of(order.pipeline)),
            task=self.subject.task,
            unit=self.subject.unit,
            key=self.key,
            code=self._code(),
            shown=by_position | {name: short_repr(value) for name, value in order.params.items()},
            place=self.place.name,
            levels=design.levels,
            sizes=design.sizes,
            plain=_name_of(order.plain),
            repeats=design.repeats,
            budget=design.most_plain or 0.0,
            answer=design.question.answer if design.question is not None else "",
            within=design.question.within if design.question is not None else 0.0,
            weak=design.weak,
            seed=design.seed,
            pinned=self.pinned,
            cpus=cpus_here(),
            command_s=max(self.clock.now() - psutil.Process().create_time(), 0.0) if order.command else 0.0,
            machine=machine_facts(),
        )


def prepare_study(order: StudyOrder, project: Project, *, clock: Clock | None = None) -> StudyDriver:
    """Check and trace a requested study, and look for an equal one.

    Raises UsageError, TraceError and NotFingerprintable before anything is written.
    """
    clock = clock or SystemClock()
    place = _place(order, project)
    design = _design(order)
    part = excerpt(trace(order.pipeline, order.args, order.params), order.task)
    subject = Subject(
        pipeline=order.pipeline, args=order.args, params=order.params, part=part, plain=order.plain
    )
    for turn in design.turns:  # fail now rather than after the warm-up
        subject.part_for(turn, design)
    key = study_key(subject, design, place=place.engine)
    known = None if order.fresh else _known(project, order, subject.task, key)
    name = (
        known.started.study
        if known is not None
        else new_run_id(f"{STUDY_PREFIX}{order.pipeline.name}", clock.now())
    )
    return StudyDriver(
        project=project,
        order=order,
        study=name,
        key=key,
        design=design,
        subject=subject,
        place=place,
        clock=clock,
        pinned=_pins(place, subject, design),
        known=known,
    )


def _design(order: StudyOrder) -> Design:
    """Raises UsageError for a question where repeats are asked for, or where sizes or the work vary."""
    varied = bool(order.sizes) or order.weak
    if order.question is not None and (order.repeats is not None or varied):
        what = "repeats" if order.repeats is not None else "sizes" if order.sizes else "weak"
        raise UsageError(
            f"an answer cannot be asked for together with {what}",
            why="repeats are whole rounds of every N"
            if what == "repeats"
            else "it is about one amount of work at each N",
            fix=f"leave out {what}, or answer and within",
        )
    return Design(
        levels=levels_of(order.workers, cores=cpus_here(), sizes=order.sizes),
        sizes=tuple(order.sizes),
        repeats=USUAL_REPEATS if order.repeats is None else order.repeats,
        weak=order.weak,
        seed=order.seed,
        most_plain=MOST_PLAIN if order.repeats is None else None,
        other_plain=order.plain is not None,
        question=None if order.repeats is not None or varied else order.question or Question(),
    )


def _place(order: StudyOrder, project: Project) -> BackendChoice:
    place = find_backend(order.on, workers=None, places=project.settings.places)
    if place.at is not None or not ENGINES.load(place.engine).capabilities.elastic:
        raise UsageError(
            f"the backend {place.name!r} has a fixed number of workers, so N cannot be varied",
            fix='measure on="local"',
        )
    return place


def _known(project: Project, order: StudyOrder, task: str, key: str) -> StudyRecord | None:
    """The newest equal study, complete or not."""
    found = find_studies(project.runs, pipeline=order.pipeline.name, task=task)
    return next((record for record in found if record.started.key == key), None)


def _pins(place: BackendChoice, subject: Subject, design: Design) -> bool:
    """Whether workers are bound to cores: if the engine can, and there are enough cores for the largest N."""
    can = ENGINES.load(place.engine).capabilities.pins
    return can and design.most * subject.threads <= cpus_here()


def _name_of(function: Callable[..., Any] | None) -> str:
    return "" if function is None else getattr(function, "__qualname__", repr(function))
