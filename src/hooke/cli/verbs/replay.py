"""`hooke replay`: what each autoscaler would have kept and cost on a service's own arrivals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from hooke.base.errors import UsageError
from hooke.base.formats import aligned, format_seconds
from hooke.base.units import parse_seconds
from hooke.cli.options import json_option, project_option, the_project
from hooke.cli.screens import CommandSession
from hooke.cli.serve.serve import replica_range
from hooke.services.replay_report import (
    Frontier,
    read_trace,
    replay_frontier,
    station_of_service,
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

    --trace needs no service: hooke replay --trace requests.csv --slo "p99 < 500ms" --service-time 50ms
    """
    promise = parse_slo(slo) if slo is not None else None
    limits = replica_range(replicas, name="--replicas") if replicas is not None else None
    if trace is not None:
        if promise is None:
            raise UsageError("--trace needs a promise to keep", fix='add --slo "p99 < 500ms"')
        station = trace_station(
            promise,
            service_s=parse_seconds(service_time, name="--service-time"),
            start_s=parse_seconds(start_time, name="--start-time"),
        )
        counts, declared = read_trace(trace), (1, 40)
    else:
        where = the_project(session, project)
        folder = find_service(where, service, verb="replay", running=False)
        station, counts, declared = station_of_service(where, folder, promise)
    low, high = limits or declared
    found = replay_frontier(counts, station, low=max(low, 1), high=high)
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else _text(found))
    return 0


def _text(found: Frontier) -> str:
    station = found.station
    replica = f"a replica does {station.rate:.3g}/s and starts in {format_seconds(station.start_s)}"
    lines = [
        f"{found.requests:,} requests in {format_seconds(found.seconds)}, {found.requests / found.seconds:.3g}/s",
        f"{replica}; a request may wait {format_seconds(station.wait_s)}",
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
