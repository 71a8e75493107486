"""`hooke top`: what runs on this machine and in the fleets of its projects, as one table that is drawn anew."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from hooke.base.errors import HookeError
from hooke.base.formats import aligned, first_line, format_rate, format_seconds
from hooke.cli.options import in_project, json_option
from hooke.fleets.elastic import LedgerMeter, run_meter
from hooke.fleets.fleet_folder import KEEPER_LOCK, FleetFolder, fleets_of
from hooke.journal.events import Measured, RunStarted, StudyStarted
from hooke.journal.fleet_events import LaunchIntended, LedgerRecord
from hooke.journal.reader import SegmentReader, first_event
from hooke.journal.run_folders import DRIVER, LOCK
from hooke.journal.run_view import RunView
from hooke.journal.search_events import SearchStarted
from hooke.journal.segments import SUFFIX
from hooke.journal.study_records import SearchRecord
from hooke.machines.controller import FleetMember, MachinePhase, restored
from hooke.machines.keeper import cost_usd, has_ledger, records_of
from hooke.project.folder import DATA, Project
from hooke.services.single_process import single_process_status
from hooke.services.supervisor.service_folder import ServiceFolder, service_folders

__all__ = [
    "LiveFleetRow",
    "MachineRow",
    "MachineWatch",
    "RunningRow",
    "ServiceRow",
    "TopSnapshot",
    "picture",
    "top",
]

EVERY_S = 2.0
"""Between two looks."""


# --- What there is to see at one moment.


class RunningRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run, a search or a study that a process of this machine drives. Counts are of items; `items` is 0 where it is unknown."""

    project: str
    run: str
    kind: str
    status: str
    seconds: float
    done: int
    items: int
    failed: int
    running: int
    workers: int
    busy: int
    left_s: float | None
    usd: float | None
    """What its machines have cost; None where none has a price."""
    usd_per_hour: float
    """The price of its own machines now."""
    fleet: str = ""
    """The fleet whose machines it uses, and which pays for them; empty where they are its own."""
    note: str = ""


class ServiceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A service that runs here, with what it did in the last minute; a single process, since its start.

    Percentiles are those of the slowest replica; all that is of tokens is None of services that are no language models.
    """

    project: str
    service: str
    state: str
    replicas: int
    wanted: int
    rate: float | None
    p99_s: float | None
    tokens_per_s: float | None = None
    """Of answers."""
    first_p95_s: float | None = None
    """To the first token."""
    next_p95_s: float | None = None
    """From one token to the next."""
    waiting: float | None = None
    """Requests that wait for their first step."""
    within: float | None = None
    """The share of the last day's requests that kept the SLO."""
    url: str
    note: str


class MachineRow(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of a fleet, or one that was asked for, according to the fleet's ledger. `usd` is what it has cost."""

    project: str
    fleet: str
    machine: str
    state: str
    age_s: float
    usd_per_hour: float
    usd: float


class LiveFleetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet according to its ledger. `promised` machines were asked for, and there is no clear answer yet."""

    project: str
    fleet: str
    kept_by: str
    machines: int
    promised: int
    ending: int
    wanted: int
    usd_per_hour: float
    """Of all machines that are not known to be gone, and of the promised ones."""
    usd: float
    note: str


class TopSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at `at`, in seconds since the epoch. `trouble` says what could not be read."""

    at: float
    host: str
    runs: tuple[RunningRow, ...] = ()
    services: tuple[ServiceRow, ...] = ()
    fleets: tuple[LiveFleetRow, ...] = ()
    machines: tuple[MachineRow, ...] = ()
    trouble: tuple[str, ...] = ()

    @property
    def usd_per_hour(self) -> float:
        """What all machines cost now."""
        return sum(each.usd_per_hour for each in (*self.runs, *self.fleets))

    @property
    def usd(self) -> float:
        """What they have cost so far."""
        own = sum(each.usd or 0.0 for each in self.runs if not each.fleet)
        return own + sum(each.usd for each in self.fleets)


# --- As text. Pure.

RUNS = (
    "run",
    "kind",
    "status",
    "time",
    "done",
    "of",
    "failed",
    "running",
    "busy",
    "left",
    "cost",
    "project",
    "",
)
SERVICES = (
    "service", "state", "replicas", "per s", "p99", "tokens/s", "first p95", "next p95", "waiting", "in SLO",
    "url", "project", "",
)  # fmt: skip
FLEETS = ("fleet", "kept by", "machines", "wanted", "promised", "ending", "$/h", "so far", "project", "")
MACHINES = ("machine", "fleet", "state", "age", "$/h", "so far")


def picture(found: TopSnapshot, *, width: int, height: int) -> list[str]:
    """At most `height` lines of at most `width` characters. A table has no column that is empty in all its rows."""
    lines = [_title(found)]
    name = _project_names({each.project for each in (*found.runs, *found.services, *found.fleets)})
    for header, rows, right in (
        (RUNS, [_run_cells(each, name[each.project]) for each in found.runs], range(3, 11)),
        (SERVICES, [_service_cells(each, name[each.project]) for each in found.services], range(2, 10)),
        (FLEETS, [_fleet_cells(each, name[each.project]) for each in found.fleets], range(2, 8)),
        (MACHINES, [_machine_cells(each) for each in found.machines], range(3, 6)),
    ):
        if rows:
            lines += ["", *_table(header, rows, right)]
    if len(lines) == 1:
        lines += ["", "nothing is running: hooke run FILE.py"]
    lines += ["", *found.trouble] if found.trouble else []
    if len(lines) > height:
        rest = len(lines) - height + 1
        lines = [*lines[: height - 1], f"and {rest} more line{'s' * (rest != 1)}: hooke top --once"]
    return [line[:width] for line in lines]


def _title(found: TopSnapshot) -> str:
    counts = (
        (len(found.runs), "run"),
        (len(found.services), "service"),
        (sum(each.machines for each in found.fleets), "machine"),
    )
    parts = [f"{count} {what}{'s' * (count != 1)}" for count, what in counts if count or what == "run"]
    if found.usd_per_hour or found.usd:
        parts.append(f"{_usd(found.usd_per_hour)}/h, {_usd(found.usd)} so far")
    moment = time.strftime("%H:%M:%S", time.localtime(found.at))
    return f"{found.host} {moment}  {', '.join(parts)}"


def _project_names(folders: set[str]) -> dict[str, str]:
    """Each project as a column has it: the name of its folder, or the whole path where two have that name; nothing where there is only one."""
    names = Counter(Path(each).name for each in folders)
    return {
        each: "" if len(folders) == 1 else each if names[Path(each).name] > 1 else Path(each).name
        for each in folders
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int]) -> list[str]:
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    numbers = [place for place, at in enumerate(kept) if at in right]
    return aligned([header[at] for at in kept], [[row[at] for at in kept] for row in rows], right=numbers)


def _run_cells(row: RunningRow, project: str) -> tuple[str, ...]:
    return (
        row.run,
        row.kind,
        row.status,
        format_seconds(row.seconds),
        str(row.done),
        str(row.items) if row.items else "?" * (row.kind == "pipeline"),
        str(row.failed) if row.failed else "",
        str(row.running) if row.running else "",
        f"{row.busy}/{row.workers}" if row.workers else "",
        "" if row.left_s is None else format_seconds(row.left_s),
        "" if row.usd is None else _usd(row.usd),
        project,
        row.note,
    )


def _service_cells(row: ServiceRow, project: str) -> tuple[str, ...]:
    return (
        row.service,
        row.state,
        f"{row.replicas}/{row.wanted}",
        "" if row.rate is None else f"{row.rate:.3g}",
        # A whole answer of a language model takes as long as its tokens.
        "" if row.p99_s is None or row.tokens_per_s is not None else format_seconds(row.p99_s),
        "" if row.tokens_per_s is None else format_rate(row.tokens_per_s),
        "" if row.first_p95_s is None else format_seconds(row.first_p95_s),
        "" if row.next_p95_s is None else format_seconds(row.next_p95_s),
        "" if row.waiting is None else f"{row.waiting:.0f}",
        "" if row.within is None else f"{math.floor(1e4 * row.within) / 100:g} %",
        row.url,
        project,
        row.note,
    )


def _fleet_cells(row: LiveFleetRow, project: str) -> tuple[str, ...]:
    counts = (str(each) if each else "" for each in (row.promised, row.ending))
    money = (_usd(each) if row.usd_per_hour or row.usd else "" for each in (row.usd_per_hour, row.usd))
    return (row.fleet, row.kept_by, str(row.machines), str(row.wanted), *counts, *money, project, row.note)


def _machine_cells(row: MachineRow) -> tuple[str, ...]:
    money = (_usd(each) if row.usd_per_hour else "" for each in (row.usd_per_hour, row.usd))
    return (row.machine, row.fleet, row.state, format_seconds(row.age_s), *money)


def _usd(amount: float) -> str:
    return f"${amount:,.2f}"


# --- Looking.


class MachineWatch:
    """Looks at the projects that were named, and at those of which a process of this user has a run or a fleet."""

    def __init__(self, projects: Sequence[Project]) -> None:
        self._named = list(projects)
        self._followed: dict[Path, _FollowedRun] = {}

    def look(self) -> TopSnapshot:
        """What there is now. Whatever cannot be read is in `trouble`."""
        trouble: list[str] = []
        runs: list[RunningRow] = []
        services: list[ServiceRow] = []
        fleets: list[tuple[LiveFleetRow, list[MachineRow]]] = []
        live: set[Path] = set()
        for project in self._projects(trouble):
            for folder in _live_runs(project, trouble):
                live.add(folder)
                with _told(trouble, folder):
                    runs += self._run(project, folder)
            with _told(trouble, project.root):
                for service in service_folders(project):
                    with _told(trouble, service.path):
                        services += [_service(project, service)] if service.running() else []
            with _told(trouble, project.root):
                for fleet in fleets_of(project):
                    with _told(trouble, fleet.path):
                        fleets += _fleet(project, fleet)
        for folder in self._followed.keys() - live:
            self._followed.pop(folder).close()
        return TopSnapshot(
            at=time.time(),
            host=socket.gethostname(),
            runs=tuple(runs),
            services=tuple(services),
            fleets=tuple(row for row, _ in fleets),
            machines=tuple(machine for _, machines in fleets for machine in machines),
            trouble=tuple(trouble),
        )

    def close(self) -> None:
        """Close the journals."""
        for each in self._followed.values():
            each.close()
        self._followed.clear()

    def _projects(self, trouble: list[str]) -> list[Project]:
        found = {each.root: each for each in self._named}
        for root in projects_at_work():
            if root not in found:
                with _told(trouble, root):
                    found[root] = Project.at(root)
        return list(found.values())

    def _run(self, project: Project, folder: Path) -> list[RunningRow]:
        if folder not in self._followed:
            begun = first_event(folder, DRIVER)
            if begun is None or (isinstance(begun, RunStarted) and (begun.parent or begun.kind == "service")):
                return []  # it has only begun; a trial is its search's, and a service has a table of its own
            self._followed[folder] = _FollowedRun(project, folder)
        return [self._followed[folder].row()]


@contextlib.contextmanager
def _told(trouble: list[str], where: Path) -> Iterator[None]:
    """Note what cannot be read, and go on: the rest is to be seen all the same."""
    try:
        yield
    except (HookeError, OSError) as error:
        said = error.what if isinstance(error, HookeError) else str(error)
        trouble.append(f"{where}: {first_line(said)}")


def projects_at_work() -> list[Path]:
    """The folders of the projects of which a process of this user, on this machine, drives a run or keeps a fleet: it has the lock open."""
    found: dict[Path, None] = {}
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid():
                continue
            files = [Path(each.path) for each in process.open_files()]
        except psutil.Error:  # it has ended, or is another user's
            continue
        for file in files:
            data = file.parents[2] if len(file.parents) > 2 else file
            if file.name in (LOCK, KEEPER_LOCK) and data.name == DATA:
                found[data.parent] = None
    return sorted(found)


def _live_runs(project: Project, trouble: list[str]) -> list[Path]:
    found: list[Path] = []
    with _told(trouble, project.runs.path):
        for name in project.runs.names():
            with _told(trouble, project.runs.folder(name)):
                found += [project.runs.folder(name)] if project.runs.alive(name) else []
    return found


class _FollowedRun:
    """A run whose journal is read as it grows."""

    def __init__(self, project: Project, folder: Path) -> None:
        self._project, self._folder = project, folder
        self._view = RunView()
        self._reader = SegmentReader(folder / f"{DRIVER}{SUFFIX}")
        self._search: SearchRecord | None = None
        self._study: StudyStarted | None = None
        self._measured = 0
        self._meter: LedgerMeter | None = None

    def close(self) -> None:
        self._reader.close()

    def row(self) -> RunningRow:
        """The run now. Raises JournalError."""
        for event in self._reader:
            self._view.apply(event)
            self._note(event)
        now, run = time.time(), self._folder.name
        row = self._view.row(now)
        stopping = self._project.runs.stop_requested(run)
        meter = self._meter = self._meter or run_meter(self._project, run)
        own = records_of(self._folder) if has_ledger(self._folder) else []
        return RunningRow(
            project=str(self._project.root),
            run=run,
            kind=self._kind(),
            status="stopping" if stopping else "running",
            seconds=row.seconds,
            done=row.done + row.cached + self._measured,
            items=row.items,
            failed=row.failed,
            running=row.running,
            workers=max(row.slots, row.workers),
            busy=row.busy,
            left_s=row.remaining.seconds if row.remaining is not None and not row.remaining.untimed else None,
            usd=None if meter is None else meter.usd(now),
            usd_per_hour=sum(price for _, price in _billed(own)),
            fleet="" if meter is None else meter.fleet,
            note=first_line(self._said() or row.message),
        )

    def _note(self, event: object) -> None:
        if self._search is not None:
            self._search.apply(event)
        elif isinstance(event, SearchStarted) and self._view.begun is not None:
            self._search = SearchRecord(begun=self._view.begun, looked=event)
        elif isinstance(event, StudyStarted):
            self._study = event
        elif isinstance(event, Measured):
            self._measured += 1

    def _kind(self) -> str:
        if self._study is not None:
            return "study"
        return self._view.begun.kind if self._view.begun is not None else ""

    def _said(self) -> str:
        if self._study is not None:
            return f"measures {self._study.task or self._study.pipeline}: N = {', '.join(map(str, self._study.levels))}"
        if self._search is None:
            return ""
        ended = sum(each.ended_at is not None for each in self._search.trials.values())
        best = self._search.best()
        return f"{ended} trials" + ("" if best is None else f", best {best.value:.4g}")


def _service(project: Project, folder: ServiceFolder) -> ServiceRow:
    facts: dict[str, Any] = {}
    note = ""
    try:
        if folder.supervised():
            facts = folder.send("status", by="hooke top")
        else:
            single = folder.single_processes()
            if not single:
                note = f"its supervisor is gone: hooke serve down {folder.name}"
            else:
                facts = single_process_status(folder.path, single[0])
                note = facts["unknown"]
    except HookeError as error:  # it is just ending, or does not answer
        note = error.what
    replicas: list[dict[str, Any]] | None = facts.get("replicas")
    ready = int(bool(facts)) if replicas is None else sum(each["state"] == "ready" for each in replicas)
    parts = [facts] if replicas is None else replicas
    tokens = [each["tokens"] for each in parts if each.get("tokens")]
    slo = facts.get("slo")
    return ServiceRow(
        project=str(project.root),
        service=folder.name,
        state=facts.get("state") or ("running" if facts else "unsupervised"),
        replicas=ready,
        wanted=facts.get("wanted", ready),
        rate=_of_all(sum, parts, "rate"),
        p99_s=_of_all(max, parts, "p99_s"),
        tokens_per_s=_of_all(sum, tokens, "tokens_per_s"),
        first_p95_s=_of_all(max, tokens, "first_p95_s"),
        next_p95_s=_of_all(max, tokens, "next_p95_s"),
        waiting=_of_all(sum, tokens, "waiting"),
        within=slo["kept"] / slo["requests"] if slo and slo["requests"] else None,
        url=facts.get("url") or "",
        note=first_line(note),
    )


def _of_all(
    whole: Callable[[list[float]], float], parts: Sequence[dict[str, Any]], name: str
) -> float | None:
    """The sum or the greatest of what is known; None if nothing is."""
    known = [each[name] for each in parts if each.get(name) is not None]
    return whole(known) if known else None


def _fleet(project: Project, fleet: FleetFolder) -> list[tuple[LiveFleetRow, list[MachineRow]]]:
    """A fleet and its machines; nothing for one that has none and wants none. Raises HookeError."""
    now, records = time.time(), fleet.records()
    members = _billed(records)
    wanted = restored(fleet.name, records).wanted
    if not (members or wanted or fleet.kept_by):
        return []
    root = str(project.root)
    machines = [
        MachineRow(
            project=root,
            fleet=fleet.name,
            machine=member.id or member.token,
            state="promised" if member.phase is MachinePhase.ORDERED else _STATES[member.phase],
            age_s=max(now - member.asked_at, 0.0),
            usd_per_hour=price,
            usd=price * max(now - member.asked_at, 0.0) / 3600,
        )
        for member, price in members
    ]
    row = LiveFleetRow(
        project=root,
        fleet=fleet.name,
        kept_by=fleet.kept_by,
        machines=sum(each.state == "there" for each in machines),
        promised=sum(each.state == "promised" for each in machines),
        ending=sum(each.state == "ending" for each in machines),
        wanted=wanted,
        usd_per_hour=sum(price for _, price in members),
        usd=cost_usd(records, [(0.0, now)]),
        note=f"its hooke fleet up was killed: hooke fleet reap {fleet.name}" if fleet.up_was_killed else "",
    )
    return [(row, machines)]


_STATES = {
    MachinePhase.STARTING: "there",
    MachinePhase.READY: "there",
    MachinePhase.RETIRING: "ending",
    MachinePhase.RELEASING: "ending",
}
"""What a ledger knows of a machine: that it was given, and that it is to end."""


def _billed(records: Sequence[LedgerRecord]) -> list[tuple[FleetMember, float]]:
    """The machines of a ledger that are not known to be gone, each with its price per hour in US dollars."""
    prices = {each.token: each.usd_per_hour for each in records if isinstance(each, LaunchIntended)}
    return [(each, prices.get(each.token, 0.0)) for each in restored("", records).members.values()]


# --- The command.


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER ...]", type=click.Path(exists=True, path_type=Path))
@click.option("--once", is_flag=True, help="Print the table once; by default on a terminal it is drawn anew.")
@json_option
@in_project
def top(*, folders: tuple[Path, ...], once: bool, as_json: bool, project: Project) -> int:
    """Show what runs on this machine and in its fleets: runs, searches, studies and services, machines and what they cost. Ctrl-C ends it.

    It shows the working directory's project, those in FOLDERs, and those of which a process of yours drives a run or keeps a fleet. What a
    fleet has is what its ledger says; `hooke fleet ls` asks the provider. Runs inside a cluster are in `hooke runs`.
    """
    named = {each.root: each for each in (project, *map(Project.named, folders))}
    with contextlib.closing(MachineWatch(list(named.values()))) as watch:
        if as_json:
            found = watch.look()
            facts = msgspec.to_builtins(found) | {"usd_per_hour": found.usd_per_hour, "usd": found.usd}
            click.echo(json.dumps(facts, indent=2))
        elif once or not sys.stdout.isatty():
            click.echo("\n".join(picture(watch.look(), width=sys.maxsize, height=sys.maxsize)))
        else:
            _follow(watch)
    return 0


ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's second screen without a cursor, and back."""


def _follow(watch: MachineWatch) -> None:
    click.echo(ENTER, nl=False)
    try:
        while True:
            size = shutil.get_terminal_size()
            lines = picture(watch.look(), width=size.columns, height=size.lines)
            click.echo("\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J", nl=False)
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        pass  # that is how it ends
    finally:
        click.echo(LEAVE, nl=False)
