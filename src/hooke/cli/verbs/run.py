"""`hooke run` and `hooke attach`: runs a pipeline, with its parameters as options, here or in a session of its own."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import HookeError, JournalError, TraceError, UsageError
from hooke.base.formats import did_you_mean
from hooke.cli.drive import DrivenRun, load_pipeline, user_code
from hooke.cli.in_cluster import attach_in_cluster, start_in_cluster
from hooke.cli.options import (
    TYPED,
    backend_options,
    complete_run,
    debug_option,
    in_project,
    json_option,
    worker_range,
)
from hooke.cli.parameters import Parameters
from hooke.cli.screens import EXIT_FAILED, EXIT_STOPPED, CommandSession, say_next
from hooke.fleets.elastic import parse_wanted
from hooke.journal.run_folders import RunElsewhere
from hooke.journal.run_view import view_of
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.trace import trace
from hooke.processes.start import python_module, start_apart
from hooke.project.backends import find_backend
from hooke.project.folder import Project, check_run_name, new_run_id
from hooke.running.driver import Driver, RunOrder, prepare
from hooke.running.run import Run, check_followed, watch_run

__all__ = ["attach", "run"]


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options as typed: backend, workers, deadline, budget."""

    on: str
    workers: str | None
    deadline: str | None
    budget: str | None
    allow_mismatch: tuple[str, ...]
    force: tuple[str, ...]
    name: str
    tags: dict[str, str]
    retries: int | None
    params: Path | None
    run_id: str


ALL = "*"
"""The value of `--force` without a task."""


AFTER_FORCE = "hooke.after_force"
"""The words that follow `--force`: the file, or a task that somebody wrote without `=`."""


class _RunCommand(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, but the word after `--force` is not its value: `hooke run --force job.py`."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[TYPED] = (args[:end], args[end:])
        ctx.meta[AFTER_FORCE] = [
            word for force, word in pairwise(args[:end]) if force == "--force" and not word.startswith("-")
        ]
        args[:end] = [f"--force={ALL}" if word == "--force" else word for word in args[:end]]
        return super().parse_args(ctx, args)


@click.command(
    cls=_RunCommand,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("target", metavar="FILE.py[:PIPELINE]|MODULE[:PIPELINE]", required=False)
@backend_options(default="local")
@click.option("--deadline", metavar="TIME", help="The deadline: 30m, 2h. Needs --workers LOW-HIGH.")
@click.option(
    "--budget",
    metavar="USD",
    help="The budget: 20, or '$20'. Needs --workers LOW-HIGH and a price in hooke.toml.",
)
@click.option(
    "--allow-mismatch",
    metavar="NAME",
    multiple=True,
    help="A distribution, or python, whose version may differ on remote workers. Can be repeated.",
)
@click.option(
    "--force",
    metavar="[=TASK]",
    multiple=True,
    help="Run TASK (all tasks without =TASK) although its result is stored, and all that uses it. Can be repeated.",
)
@click.option(
    "--name",
    default="",
    metavar="NAME",
    help="The beginning of the run's id.  [default: the pipeline's name]",
)
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="A tag of the run. Can be repeated.")
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(min=0),
    help="How often a failed task runs again, instead of what each task says.",
)
@click.option(
    "--params",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Parameters from a TOML, YAML or JSON file; those on the command line win.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Return when the run has started; it goes on without this terminal, on Kubernetes without this machine.",
)
@click.option("--run-id", default="", hidden=True)
@json_option
@debug_option
@click.option("--help", "asked_help", is_flag=True, help="Show this help, and with a FILE its parameters.")
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
@click.pass_context
def run(  # noqa: PLR0913 - one parameter for each option of the command
    ctx: click.Context,
    *,
    target: str | None,
    backend: str,
    workers: str | None,
    deadline: str | None,
    budget: str | None,
    allow_mismatch: tuple[str, ...],
    force: tuple[str, ...],
    name: str,
    tags: tuple[str, ...],
    retries: int | None,
    params: Path | None,
    detach: bool,
    run_id: str,
    as_json: bool,
    asked_help: bool,
    parameters: tuple[str, ...],
) -> int:
    """Run the only pipeline of FILE.py or of a module, or the named one: report.py, report.py:daily, package.module:daily.

    The pipeline's parameters are options: `def delays(months: int, fast: bool = False)` takes --months 3 --fast.
    Dates, durations (90s, 1h30m), paths and enums are typed as such; lists repeat the option, or are JSON. Pass
    parameters with the name of a Hooke option after --. The result goes to stdout, everything else to stderr.
    Exit codes: 0 finished, 1 a task failed or the run finished with failures, 2 wrong usage, 130 stopped
    (Ctrl-C, hooke stop).
    """
    if target is None or asked_help:
        return _help(ctx, target)
    session = ctx.ensure_object(CommandSession)
    refused = DrivenRun(session=session, as_json=True) if as_json else None
    try:
        asked = _Asked(
            on=backend,
            workers=workers,
            deadline=deadline,
            budget=budget,
            allow_mismatch=allow_mismatch,
            force=force,
            name=name,
            tags=_tags(tags),
            retries=retries,
            params=params,
            run_id=run_id,
        )
        if detach:
            return _detached(ctx, session, target, parameters, asked=asked, as_json=as_json)
        conduct, driver = _driver(ctx, session, target, parameters, asked=asked, as_json=as_json)
    except HookeError as error:
        error.next = error.next or _again(error, ctx)
        if refused is None:
            raise
        return refused.refused(error)
    return conduct.drive(driver)


def _tags(texts: Sequence[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--tag {text}: KEY=VALUE expected", fix="write --tag team=ours")
        if key in tags:
            raise UsageError(f"--tag {key}= is given twice", fix="give each tag once")
        tags[key] = value
    return tags


def _parsed(
    ctx: click.Context, session: CommandSession, target: str, tokens: Sequence[str], asked: _Asked
) -> tuple[Pipeline[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The pipeline with its arguments; the session's project is its project from now on."""
    target, task, tokens = _split_force(ctx, target, tokens)
    pipeline, path = load_pipeline(target)
    parameters = Parameters(pipeline, target=target)
    args, params = parameters.parse(tokens, asked.params)
    parameters.refuse_shared(ctx)
    session.project = Project.find(path)
    if task:
        graph = user_code(lambda: trace(pipeline, args, params), pipeline)
        raise _force_with_a_space(ctx, task, sorted({node.task.name for node in graph.nodes}))
    return pipeline, args, params


def _split_force(ctx: click.Context, target: str, tokens: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """The file, the word after `--force` that is neither the file nor a parameter's (or ""), and the parameters without it."""
    for word in ctx.meta[AFTER_FORCE]:
        if word in tokens:
            at = tokens.index(word)
            return target, word, [*tokens[:at], *tokens[at + 1 :]]
        file = tokens[0].partition(":")[0] if tokens else ""
        if word == target and not Path(word).exists() and Path(file).is_file():
            return tokens[0], word, tokens[1:]
    return target, "", tokens


def _force_with_a_space(ctx: click.Context, word: str, tasks: Sequence[str]) -> UsageError:
    """`--force load` where `--force=load` is meant."""
    meant = (get_close_matches(word, tasks, n=1) or [""])[0]
    before, after = ctx.meta[TYPED]
    at = next(at for at, pair in enumerate(pairwise(before)) if pair == ("--force", word))
    typed = [*before[:at], f"--force={meant}", *before[at + 2 :], *after]
    return UsageError(
        f"--force takes its task after an equals sign, not after a space: --force {word}",
        fix=f"{did_you_mean(word, tasks, form='--force={}')}its tasks: {', '.join(tasks) or 'none'}",
        next=shlex.join(["hooke", "run", *typed]) if meant else "",
    )


def _driver(
    ctx: click.Context,
    session: CommandSession,
    target: str,
    tokens: Sequence[str],
    *,
    asked: _Asked,
    as_json: bool,
) -> tuple[DrivenRun, Driver]:
    pipeline, args, params = _parsed(ctx, session, target, tokens, asked)
    project = session.project
    assert project is not None
    counts = worker_range(asked.workers)
    found = find_backend(asked.on, workers=None, places=project.settings.places)
    conduct = DrivenRun(
        session=session,
        as_json=as_json,
        typed=shlex.join(["hooke", "run", *_given(ctx)]),
        in_this_process=found.engine == "serial",
    )
    order = RunOrder(
        pipeline=pipeline,
        args=args,
        params=params,
        on=asked.on,
        workers=counts,
        wanted=parse_wanted(asked.deadline, asked.budget, now=time.time()),
        allow_mismatch=asked.allow_mismatch,
        force=ALL in asked.force or asked.force,
        new_id=asked.run_id,
        name=asked.name,
        tags=asked.tags,
        retries=asked.retries,
        observers=(conduct.progress.observe,),
    )
    return conduct, user_code(lambda: prepare(order, project), pipeline)


def _given(ctx: click.Context) -> list[str]:
    """The words of the command, to type again."""
    before, after = ctx.meta[TYPED]
    kept = [word for word in before if word != "--detach" and not word.startswith("--run-id=")]
    return [*kept, *after]


# --- `hooke run --detach`: the driver in a session of its own, and `hooke attach`, which shows what it does.

OUTPUT, ERRORS = "output.txt", "errors.txt"
"""What the driver of a detached run prints, in the run's folder; with `--json` its stderr apart."""
POLL_S = 0.05
"""Between two looks at a driver that is starting."""


def _detached(
    ctx: click.Context,
    session: CommandSession,
    target: str,
    tokens: Sequence[str],
    *,
    asked: _Asked,
    as_json: bool,
) -> int:
    """Start the driver and wait until its run has started. If it ends before, what it printed is printed here."""
    pipeline, _, _ = _parsed(ctx, session, target, tokens, asked)
    project = session.project
    assert project is not None
    if asked.name:
        check_run_name(asked.name, said=f"--name {asked.name}")
    run_id = new_run_id(asked.name or pipeline.name, time.time())
    typed = _given(ctx)
    words = [*(["--debug"] if session.debug else []), "run", f"--run-id={run_id}", *typed]
    place = project.settings.places.get(asked.on)
    if place is not None and place.engine == "kubernetes":
        record = RunElsewhere(
            place=asked.on, pipeline=pipeline.name, typed=tuple(typed), started_at=time.time()
        )
        return start_in_cluster(project, run_id, words, record=record, as_json=as_json)
    return _start_here(project, run_id, words, as_json=as_json)


def _start_here(project: Project, run_id: str, words: Sequence[str], *, as_json: bool) -> int:
    """Start the driver in a session of its own on this machine."""
    with tempfile.TemporaryDirectory(dir=project.create()) as folder:
        output, errors = Path(folder) / OUTPUT, Path(folder) / (ERRORS if as_json else OUTPUT)
        with output.open("ab") as out, errors.open("ab") as err:
            process = start_apart(python_module("hooke", *words), output=out, errors=err)
        try:
            begun = _wait_for_start(process, project, run_id)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if not begun:
            click.echo(errors.read_text("utf-8", "replace"), err=True, nl=False)
            if as_json:
                click.echo(output.read_text("utf-8", "replace"), nl=False)
            return process.returncode or EXIT_FAILED
        for file in {output, errors}:
            file.rename(project.runs.folder(run_id) / file.name)
    output = project.runs.folder(run_id) / OUTPUT
    if as_json:
        facts = {"run": run_id, "status": "running", "pid": process.pid, "output": str(output)}
        click.echo(json.dumps(facts, indent=2))
        return 0
    click.echo(run_id)
    click.echo(
        f"run {run_id} goes on without this terminal (process {process.pid}); it prints to {output}", err=True
    )
    say_next(f"hooke attach {run_id}", project)
    return 0


def _wait_for_start(process: subprocess.Popen[bytes], project: Project, run_id: str) -> bool:
    """Whether the driver's journal has begun; False if the driver ended before."""
    while True:
        ended = process.poll() is not None
        with contextlib.suppress(JournalError):  # there is no folder yet
            if view_of(project.runs, run_id).begun is not None:
                return True
        if ended:
            return False
        time.sleep(POLL_S)


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@json_option
@in_project
@click.pass_obj
def attach(session: CommandSession, *, run: str, as_json: bool, project: Project) -> int:
    """Show the progress of RUN (by default the running one, else the last), and its result when it ends.

    The exit code is that of the run, as of hooke run. Ctrl-C leaves the run running.
    """
    name = project.runs.find(run) if run else project.runs.current()
    if project.runs.elsewhere(name) is not None:
        return attach_in_cluster(project, name, as_json=as_json)
    check_followed(project, name)
    conduct = DrivenRun(session=session, as_json=as_json)
    try:
        with conduct.progress:
            watch_run(project, name, conduct.progress)
    except KeyboardInterrupt:
        click.echo(f"run {name} goes on", err=True)
        say_next(f"hooke attach {name}, or hooke stop {name}", project)
        return EXIT_STOPPED
    return _ended(conduct, project, name)


def _ended(conduct: DrivenRun, project: Project, name: str) -> int:
    """Print how the run ended, as `hooke run` does; returns its exit code."""
    view = view_of(project.runs, name)
    if view.status == "stopped":
        return conduct.stopped(name, "cleanly")
    if view.status == "lost":
        output = project.runs.folder(name) / OUTPUT
        error = HookeError(
            f"the driver of run {name} died",
            why=f"it printed to {output}" if output.exists() else "",
            next=view.resume_command,
        )
        return conduct.refused(error, run=name)
    return conduct.told(Run(project, name))


def _again(error: HookeError, ctx: click.Context) -> str:
    """The command itself, with its options, if the file needs a fix."""
    if isinstance(error, TraceError) or error.__cause__ is not None:
        return shlex.join(["hooke", "run", *_given(ctx)])
    return ""


def _help(ctx: click.Context, target: str | None) -> int:
    click.echo(ctx.command.get_help(ctx))
    if target is None:
        return 0
    parameters = Parameters(load_pipeline(target)[0], target=target)
    formatter = ctx.make_formatter()
    formatter.write_paragraph()
    with formatter.section(f"Parameters of {parameters.pipeline.name!r}"):
        formatter.write_dl(parameters.rows() or [("(none)", "")])
    click.echo(formatter.getvalue().rstrip())
    return 0
