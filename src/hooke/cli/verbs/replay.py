"""`hooke replay`: what each autoscaler would have kept and cost on a service's own arrivals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from hooke.autoscaling.peers import PEERS
from hooke.base.errors import UsageError
from hooke.base.formats import aligned, format_rate, format_seconds
from hooke.base.units import parse_seconds
from hooke.cli.options import json_option, project_option, the_project
from hooke.cli.screens import CommandSession
from hooke.cli.serve.serve import replica_range
from hooke.services.replay_report import (
    Frontier,
    RecordedService,
    read_trace,
    recorded_service,
    replay_frontier,
    trace_station,
)
from hooke.services.supervisor.service_folder import find_service
from hooke.serving.slo import parse_slo

__all__ = ["replay"]

COLUMNS = ("autoscaler", "in time", "replica-hours", "setting")


@click.command()
@click.argument("service", required=False, default="")
@click.option("--slo", metavar="TEXT", help='Another promise than the declared one, such as "p99 < 500ms".')
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A CSV whose first column is the time of each request, instead of a service.",
)
@click.option("--service-time", metavar="TIME", default="50ms", help="Of a request, with --trace.  [50ms]")
@click.option("--start-time", metavar="TIME", default="5s", help="Of a replica, with --trace.  [5s]")
@click.option("--replicas", metavar="LOW:HIGH", help="The limits.  [those of the service, or 1:40]")
@json_option
@project_option
@click.pass_obj
def replay(  # noqa: PLR0913 - one parameter an option
    session: CommandSession,
    *,
    service: str,
    slo: str | None,
    trace: Path | None,
    service_time: str,
    start_time: str,
    replicas: str | None,
    as_json: bool,
    project: Path | None,
) -> int:
    """Replay the arrivals of SERVICE, and show what each autoscaler would have kept and cost.

    Of Hooke's rules, of Kubernetes' HPA, Knative's KPA, KEDA and Ray Serve, and of constant numbers, the setting that was
    cheapest for each goal with half of its late requests to spare. The last three days are judged, each by itself.

    Of a language model with protocol="openai", tokens are replayed and not requests: what a replica does comes from the law
    of its steps in the last run, and "in time" are first tokens. Of other autoscalers only KEDA is compared then.

    --trace needs no service: hooke replay --trace requests.csv --slo "p99 < 500ms" --service-time 50ms
    """
    limits = replica_range(replicas, name="--replicas") if replicas is not None else None
    if trace is not None:
        if slo is None:
            raise UsageError("--trace needs a promise to keep", fix='add --slo "p99 < 500ms"')
        station = trace_station(
            parse_slo(slo, of_tokens=False),
            service_s=parse_seconds(service_time, name="--service-time"),
            start_s=parse_seconds(start_time, name="--start-time"),
        )
        told = RecordedService(station=station, counts=read_trace(trace), replicas=(1, 40))
    else:
        where = the_project(session, project)
        folder = find_service(where, service, verb="replay", running=False)
        told = recorded_service(where, folder, slo)
    low, high = limits or told.replicas
    found = replay_frontier(told.counts, told.station, low=max(low, 1), high=high, prompt=told.prompt)
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else _text(found))
    return 0


def _text(found: Frontier) -> str:
    station = found.station
    tokens = found.prompt is not None
    replica = f"a replica does {format_rate(station.rate)}{' tokens' * tokens}/s and starts in {format_seconds(station.start_s)}"
    rate = format_rate(found.arrived / found.seconds)
    lines = [
        f"{found.arrived:,} {found.unit} in {format_seconds(found.seconds)}, {rate}/s",
        f"{replica}; a request may wait {format_seconds(station.wait_s)}",
    ]
    if tokens:
        others = ", ".join(each.name for each in PEERS if not each.of_tokens)
        lines += [
            f"tokens are those of answers, and a token of a prompt counts as {found.prompt:.2g} of one; KEDA's target is tokens a second",
            f"left out: {others}; they scale by busy shares or open requests, which tokens do not tell",
        ]
    for goal in sorted({point.goal for point in found.points}):
        points = sorted(
            (one for one in found.points if one.goal == goal), key=lambda one: (not one.kept, one.hours)
        )
        rows = [
            (
                one.autoscaler,
                f"{one.attained:.2f} %",
                f"{one.hours:.4g}",
                one.setting + ("" if one.kept else " (missed)"),
            )
            for one in points
        ]
        promised = ", the SLO" if goal == station.percent else ""
        lines += ["", f"for {goal:g} %{promised}", *aligned(COLUMNS, rows, right=(1, 2))]
    return "\n".join(lines)
