"""`hooke advise`: recommended cpus and memory for each task, from what earlier runs used."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import click

from hooke.base.errors import UsageError
from hooke.base.formats import aligned, format_bytes
from hooke.cli.options import complete_run, json_option, project_option, the_project
from hooke.cli.screens import CommandSession
from hooke.planning.advice import advise as advised
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.scaling.resource_advice import Needed

__all__ = ["advise"]

COLUMNS = ("task", "attempts", "cpus", "busy", "memory", "peak", "declare")


@click.command()
@click.argument(
    "what", metavar="[RUN|FILE.py[:PIPELINE]]", required=False, default="", shell_complete=complete_run
)
@json_option
@project_option
@click.pass_obj
def advise(session: CommandSession, *, what: str, as_json: bool, project: Path | None) -> int:
    """Recommend cpus and memory for each task, from what its attempts used.

    The attempts are those of RUN, or of the newest runs of the pipeline in FILE.py or of the project. Memory is the 99th
    percentile of the peaks plus 20 %. Cpus are the cores that calls kept busy or, if several numbers were tried, the number
    with the highest yield per core.
    """
    where, run, pipeline = _about(session, what, project)
    found = advised(where.runs, run=run, pipeline=pipeline)
    if not found:
        raise UsageError(
            f"no task {f'of {what}' if what else 'in this project'} has run yet",
            next=f"hooke run {what if pipeline else 'FILE.py'}",
            where=str(where.root),
        )
    if as_json:
        click.echo(json.dumps({task: dataclasses.asdict(each) for task, each in found.items()}, indent=2))
        return 0
    rows = [_cells(task, each) for task, each in found.items()]
    click.echo("\n".join(aligned(COLUMNS, rows, right=range(1, 6))))
    click.echo()
    for task, each in found.items():
        for why in each.why:
            click.echo(f"{task}: {why}")
    return 0


def _about(session: CommandSession, what: str, folder: Path | None) -> tuple[Project, str, str]:
    """The project, and the run or the pipeline."""
    if what.partition(":")[0].endswith(".py"):
        with contextlib.redirect_stdout(sys.stderr):
            pipeline, path = load_entry(what)
        session.project = Project.find(path)
        return session.project, "", pipeline.name
    where = the_project(session, folder)
    return where, where.runs.find(what) if what else "", ""


def _cells(task: str, need: Needed) -> tuple[str, ...]:
    return (
        task,
        str(need.attempts),
        f"{need.declared_cpus:g}",
        "" if need.busy is None else f"{need.busy:.2f}",
        "" if need.declared_memory is None else format_bytes(need.declared_memory),
        "" if need.peak_bytes is None else format_bytes(need.peak_bytes),
        _declaration(need),
    )


def _declaration(need: Needed) -> str:
    """`@task(cpus=1, memory="420MiB")`; `keep` if that is declared, or nothing is known."""
    parts = []
    if need.cpus is not None and need.cpus != need.declared_cpus:
        parts.append(f"cpus={need.cpus:g}")
    if need.memory is not None and not _is_close(need.memory, need.declared_memory):
        parts.append(f'memory="{need.memory // 2**20}MiB"')
    return f"@task({', '.join(parts)})" if parts else "keep"


def _is_close(memory: int, declared: int | None) -> bool:
    """Whether the declared memory is sufficient and at most 50 % more."""
    return declared is not None and memory <= declared <= 1.5 * memory
