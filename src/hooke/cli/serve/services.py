"""`hooke serve FILE.py`, and the commands for a running service: status, logs, scale, rollout, drain, down."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import aligned, format_bytes, format_rate, format_seconds
from hooke.cli.entry import FileOrVerbs
from hooke.cli.options import in_project, json_option
from hooke.cli.screens import EXIT_FAILED, say_next
from hooke.cli.serve.serve import replica_range, serve
from hooke.project.folder import Project
from hooke.services.single_process import SingleProcess, single_process_status
from hooke.services.supervisor.service_folder import (
    PROXY,
    SERVICE,
    ServiceFolder,
    end_leftovers,
    find_service,
)
from hooke.serving.token_metrics import TokenRates

__all__ = ["services"]

POLL_S = 0.1
COLUMNS = (
    "replica",
    "state",
    "age",
    "in flight",
    "answered",
    "per s",
    "p99",
    "memory",
    "pid",
    "port",
    "serves",
)
TOKEN_COLUMNS = ("waiting", "tokens/s", "first p95", "next p95", "kv cache")
"""Of a language model, instead of p99: a whole answer takes as long as its tokens."""
P99 = COLUMNS.index("p99")


@click.group(cls=FileOrVerbs, file_command=serve, name="serve")
def services() -> None:
    """Serve a class of a file, or control a running service."""


_service = click.argument("service", required=False, default="")


@services.command()
@_service
@json_option
@in_project
def status(*, service: str, as_json: bool, project: Project) -> int:
    """Show the URL, the replicas and the proxy of SERVICE.

    Rates, p99 and p95 cover the last minute; p99 and p95 are as exact as the histogram's buckets.

    Of a language model: requests that wait for their first step, tokens of answers a second, the times to the first token
    and from one token to the next, and how full the memory for keys and values is. The SLO counts the requests of the last day.

    SERVICE may be left out if only one is running. A single process without a supervisor shows its totals. Exit code 1 if the supervisor is gone and replicas are left.
    """
    folder = find_service(project, service, verb="serve status")
    if not folder.supervised():
        single = folder.single_processes()
        if single and not folder.living():
            return _show_single(folder, single, as_json=as_json)
        return _show_left(folder, as_json=as_json)
    facts = folder.send("status")
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    click.echo("\n".join(_status_lines(facts)))
    say_next(f"hooke serve logs {folder.name}", project)
    return 0


@services.command()
@_service
@click.option("--replica", default="", metavar="N", help="Only this one; `front` is Envoy.")
@click.option("--follow", "-f", is_flag=True, help="Follow the logs until the service ends.")
@in_project
def logs(*, service: str, replica: str, follow: bool, project: Project) -> int:
    """Print what replicas of SERVICE wrote to stdout and stderr.

    Each line starts with its replica. It works for an ended service, too.
    """
    folder = find_service(project, service, verb="serve logs", running=False)
    record = folder.record()
    if record is None and folder.single_processes():
        raise _by_itself(folder)
    if record is None:
        raise HookeError(
            f"the record of {folder.name} is damaged",
            where=str(folder.path / SERVICE),
            fix="serve it again to write a new one; its logs are below .hooke/runs",
        )
    logs = project.runs.folder(record.run) / "logs"
    known = [path.stem.removeprefix("replica-") for path in sorted(logs.glob("*.log"))]
    if replica and replica not in known:
        raise UsageError(f"{folder.name} has no replica {replica}", fix=f"its logs: {', '.join(known)}")
    told: dict[Path, int] = {}
    count = 0
    while True:
        goes_on = follow and folder.supervised()
        for path in sorted({*logs.glob("*.log"), *(Path(child.log) for child in folder.living())}):
            count += _print_new(path, told, replica)
        if not goes_on:
            break
        time.sleep(POLL_S)
    if not count:
        click.echo(f"{f'replica {replica} of ' if replica else ''}{folder.name} printed nothing", err=True)
    return 0


@services.command()
@click.argument("words", nargs=-1, required=True, metavar="[SERVICE] N|LOW:HIGH")
@json_option
@in_project
def scale(*, words: tuple[str, ...], as_json: bool, project: Project) -> int:
    """Run N replicas of SERVICE, or LOW to HIGH as needed."""
    if len(words) > 2:
        raise UsageError(
            f"{' '.join(words)!r} has more than a service and a number", fix="hooke serve scale 3"
        )
    name = words[0] if len(words) == 2 else ""
    low, high = replica_range(words[-1], name="hooke serve scale")
    folder = _supervised(project, name, "scale")
    facts = folder.send("scale", low=low, high=high)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(
            f"{folder.name}: {facts['wanted']} replica{'s' if facts['wanted'] != 1 else ''} wanted{'' if low == high else f', {low} to {high} as needed'}"
        )
        say_next(f"hooke serve status {folder.name}", project)
    return 0


@services.command()
@_service
@click.option(
    "--accept/--reject", "accept", default=None, help="End the trial: serve the new version, or not."
)
@in_project
def rollout(*, service: str, accept: bool | None, project: Project) -> int:
    """Show the version of SERVICE that is on trial, or end its trial.

    A new version gets a share of the requests until it is accepted, or rolled back. Exit code 1 if none is on trial.
    """
    folder = _supervised(project, service, "rollout")
    if accept is not None:
        verb = "accept" if accept else "reject"
        folder.send(verb, by=f"hooke serve rollout --{verb}")
        click.echo(f"{folder.name}: the trial is over; the new version is {verb}ed")
        return 0
    facts = folder.send("status")
    if facts["trial"] is None:
        said = (
            f"{facts['rolling_out']} has passed its trial"
            if facts["rolling_out"]
            else "no version is on trial"
        )
        click.echo(f"{folder.name}: {said}")
        return 0 if facts["rolling_out"] else EXIT_FAILED
    click.echo(f"{folder.name}: {_trial_line(facts)}")
    say_next(f"hooke serve rollout {folder.name} --accept", project)
    return 0


@services.command()
@_service
@click.option("--replica", default="", metavar="N", help="Only this one, after another has taken its place.")
@in_project
def drain(*, service: str, replica: str, project: Project) -> int:
    """End SERVICE after its open requests are answered.

    Ctrl-C in its terminal does the same. With --replica only that replica ends, after another has taken its place.
    """
    folder = _supervised(project, service, "drain")
    if replica:
        folder.send("replace", replica=replica, by="hooke serve drain")
        click.echo(f"{folder.name}: replica {replica} ends when another has taken its place")
        return 0
    folder.send("drain")
    return _wait(folder)


@services.command()
@_service
@in_project
def down(*, service: str, project: Project) -> int:
    """End SERVICE now, cutting open requests.

    Also ends the processes that a killed supervisor left behind. `drain` waits for answers.
    """
    folder = find_service(project, service, verb="serve down")
    if folder.supervised():
        folder.send("down")
        code = _wait(folder)
    elif folder.single_processes() and not folder.living():
        raise _by_itself(folder)
    else:
        code = 0
    for line in end_leftovers(folder):
        click.echo(line)
    left = folder.living()
    if left:
        click.echo(f"still running: {', '.join(f'pid {one.pid}' for one in left)}", err=True)
        return EXIT_FAILED
    click.echo(f"{folder.name} is down: none of its processes is left")
    return code


def _supervised(project: Project, name: str, verb: str) -> ServiceFolder:
    """A supervised service. Raises UsageError."""
    folder = find_service(project, name, verb=f"serve {verb}")
    if not folder.supervised() and folder.single_processes() and not folder.living():
        raise _by_itself(folder)
    if not folder.supervised():
        raise UsageError(
            f"the supervisor of {folder.name} is gone, but {len(folder.living())} processes are left",
            fix="serve it again to take them over, or end them",
            next=f"hooke serve down {folder.name}",
        )
    return folder


def _wait(folder: ServiceFolder) -> int:
    """Wait until the supervisor is gone; Ctrl-C ends only the wait."""
    click.echo(f"{folder.name} is ending", err=True)
    while folder.supervised():
        time.sleep(POLL_S)
    return 0


def _show_left(folder: ServiceFolder, *, as_json: bool) -> int:
    left = folder.living()
    if as_json:
        facts = [{"name": one.name, "pid": one.pid, "port": one.port} for one in left]
        click.echo(json.dumps({"service": folder.name, "state": "unsupervised", "left": facts}, indent=2))
    else:
        click.echo(
            f"{folder.name}: its supervisor is gone; these processes end by themselves unless it is served again"
        )
        for one in left:
            what = "the proxy" if one.name == PROXY else f"replica {one.name}"
            click.echo(f"  {what}: pid {one.pid}, port {one.port}")
        click.echo(f"next: hooke serve down {folder.name}", err=True)
    return EXIT_FAILED


def _by_itself(folder: ServiceFolder) -> UsageError:
    """The error of a command that needs a supervisor."""
    pids = [one.pid for one in folder.single_processes()]
    return UsageError(
        f"{folder.name} has no supervisor: a single process serves it, and writes to its own terminal",
        where=", ".join(f"pid {pid}" for pid in pids),
        fix=f"end it with Ctrl-C there, or drain it with kill {' '.join(map(str, pids))}; for several replicas: hooke serve FILE.py --replicas 2",
        next=f"hooke serve status {folder.name}",
    )


def _show_single(folder: ServiceFolder, single: list[SingleProcess], *, as_json: bool) -> int:
    facts = [single_process_status(folder.path, one) for one in single]
    if as_json:
        click.echo(json.dumps(facts[0] if len(facts) == 1 else facts, indent=2))
        return 0
    for one in facts:
        click.echo(
            f"{one['service']} is {one['state'] or 'running'} on {one['url']}: one process, without a supervisor"
        )
        click.echo(
            f"  {one['target']}; run {one['run']}, pid {one['pid']}, up for {format_seconds(one['age_s'])}, {format_bytes(one['memory_bytes'])}"
        )
        click.echo(f"  {_single_line(one)}")
    click.echo(f"next: hooke show {facts[0]['run']}", err=True)
    return 0


def _single_line(one: dict[str, Any]) -> str:
    if one["unknown"]:
        return one["unknown"]
    p99 = "" if one["p99_s"] is None else f", p99 {format_seconds(one['p99_s'])}"
    if one.get("tokens"):
        cells = zip(TOKEN_COLUMNS, _token_cells(one["tokens"]), strict=True)
        p99 = "".join(f", {name} {value}" for name, value in cells if value)
    return f"{one['answered']:,} answered since its start ({one['rate']:.3g}/s{p99}), {one['in_flight']} in flight"


def _status_lines(facts: dict[str, Any]) -> list[str]:
    low, high = facts["replicas_low"], facts["replicas_high"]
    ready = sum(one["state"] == "ready" for one in facts["replicas"])
    as_needed = "" if low == high else f" ({low} to {high}, as needed)"
    answer = f"{ready} of {facts['wanted']} replicas{as_needed} answer"
    lines = [
        f"{facts['service']} is {facts['state']} on {facts['url'] or '(not yet)'}: {answer}",
        f"  it serves {facts['generation']}; run {facts['run']}, supervisor pid {facts['pid']}, Envoy pid {facts['front_pid']}",
    ]
    lines.append(f"  {_proxy_line(facts['front'])}")
    if facts.get("slo"):  # a supervisor of an earlier version says none
        lines.append(f"  {_slo_line(facts['slo'])}")
    if facts["zero"] is not None:
        lines.append(f"  {_zero_line(facts['zero'])}")
    if facts.get("scaling"):
        lines.append(f"  scaling by: {facts['scaling']}")
    if facts["trial"] is not None:
        lines.append(f"  {_trial_line(facts)}")
    elif facts["rolling_out"]:
        lines.append(f"  rolling out {facts['rolling_out']}")
    tokens = any(one.get("tokens") for one in facts["replicas"])
    columns = (*COLUMNS[:P99], *TOKEN_COLUMNS, *COLUMNS[P99 + 1 :]) if tokens else COLUMNS
    rows = [_cells(one, tokens=tokens) for one in facts["replicas"]]
    lines += ["", *aligned(columns, rows, right=range(2, len(columns) - 1))] if rows else []
    lines += [f"  replica {one['replica']}: {one['why']}" for one in facts["replicas"] if one["why"]]
    return lines


def _trial_line(facts: dict[str, Any]) -> str:
    trial = facts["trial"]
    what = "copies of" if trial["mirror"] else ""
    gets = " ".join(filter(None, ("it gets", what, f"{100 * trial['share']:g} % of the requests")))
    new, old = trial["new"], trial["old"]
    failed = f"{new['failed']} of {new['answered']} failed, and {old['failed']} of {old['answered']} of the old version"
    evidence = max(trial["evidence"])
    return (
        f"rolling out {facts['rolling_out']}, on trial for {format_seconds(trial['seconds'])}: {gets}; {failed};"
        f" evidence against it {evidence:.2g}, at {trial['evidence_needed']:g} it goes back"
    )


def _zero_line(zero: dict[str, Any]) -> str:
    count, last = zero["cold_starts"], zero["last_cold_start_s"]
    cold = (
        "no cold start yet"
        if last is None
        else f"{count} cold start{'s' if count > 1 else ''}, the last took {format_seconds(last)}"
    )
    waiting = f"{zero['held']} requests wait; " if zero["held"] else ""
    return f"{waiting}{cold}; the last replica stays {format_seconds(zero['keep_alive_s'])} without a call: {zero['keep_alive_why']}"


def _proxy_line(proxy: dict[str, Any] | None) -> str:
    if proxy is None:
        return "Envoy does not report its counters"
    said = (
        f"Envoy since its start: {proxy['requests']:,} requests, {proxy['answers']['5xx']:,} answers of 5xx"
    )
    now = f"now {proxy['connections']:,} connections, {proxy['active']:,} in flight"
    kept = proxy.get("kept") or {}  # an earlier version has none
    resumed = f", streams that went on elsewhere: {kept['resumed']:,}" if kept.get("resumed") else ""
    return f"{said}, {proxy['retries']:,} retries, {proxy['ejections']:,} ejections{resumed}; {now}, {proxy['ejected']:,} ejected"


def _slo_line(slo: dict[str, Any]) -> str:
    if not slo["requests"]:
        return f"SLO {slo['promised']}: no request has ended yet"
    kept = math.floor(1e4 * slo["kept"] / slo["requests"]) / 100
    return f"SLO {slo['promised']}: kept by {kept:g} % of {slo['requests']:,} requests"


def _token_cells(tokens: dict[str, Any] | None) -> tuple[str, ...]:
    tokens = tokens or dict.fromkeys(TokenRates.__struct_fields__)
    waiting, memory = tokens["waiting"], tokens["memory"]
    return (
        "" if waiting is None else f"{waiting:.0f}",
        "" if tokens["tokens_per_s"] is None else format_rate(tokens["tokens_per_s"]),
        "" if tokens["first_p95_s"] is None else format_seconds(tokens["first_p95_s"]),
        "" if tokens["next_p95_s"] is None else format_seconds(tokens["next_p95_s"]),
        "" if memory is None else f"{memory:.0%}",
    )


def _cells(one: dict[str, Any], *, tokens: bool) -> tuple[str, ...]:
    p99 = "" if one["p99_s"] is None else format_seconds(one["p99_s"])
    return (
        one["replica"],
        one["state"],
        format_seconds(one["age_s"]),
        str(one["in_flight"]),
        str(one["answered"]),
        "" if one["rate"] is None else f"{one['rate']:.3g}",
        *(_token_cells(one.get("tokens")) if tokens else (p99,)),
        format_bytes(one["memory_bytes"]),
        str(one["pid"]),
        str(one["port"]),
        one["generation"],
    )


def _print_new(path: Path, told: dict[Path, int], replica: str) -> int:
    """Print the complete lines since the last call; returns how many."""
    name = path.stem.removeprefix("replica-")
    if replica and name != replica:
        return 0
    start = click.style(f"{name} | ", fg="cyan")
    count = 0
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < told.get(path, 0):
            told[path] = 0  # it was begun anew
        file.seek(told.get(path, 0))
        for line in file:  # a log may be long: one line at a time
            if not line.endswith(b"\n"):
                break
            told[path] = told.get(path, 0) + len(line)
            click.echo(start + line.decode("utf-8", "replace").rstrip("\r\n"))
            count += 1
    return count
