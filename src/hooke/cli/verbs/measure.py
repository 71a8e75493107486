"""`hooke measure` and `hooke curve`: how a task, or a whole pipeline, scales, measured and drawn."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import HookeError, NotEnoughData, UsageError
from hooke.cli.drive import load_pipeline, user_code
from hooke.cli.options import (
    complete_run,
    debug_option,
    in_project,
    is_unicode,
    json_option,
    lengths_options,
    number_list,
    run_and_task,
)
from hooke.cli.parameters import Parameters
from hooke.cli.screens import EXIT_STOPPED, CommandSession, refuse, say_next
from hooke.journal.events import RunStarted
from hooke.measuring.design import question_of
from hooke.measuring.studies import Study, StudyLines, take_study
from hooke.measuring.study_driver import StudyDriver, StudyOrder, prepare_study
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import Task
from hooke.planning.curves import curve_of
from hooke.planning.token_plan import TokenCurve, known_steps, token_curve
from hooke.project.folder import Project
from hooke.project.token_lengths import asked_lengths

__all__ = ["curve", "measure"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="FILE.py[:PIPELINE]")
@click.option("--task", metavar="TASK", help="The task to measure.  [default: the whole pipeline]")
@click.option(
    "--workers",
    metavar="N,N,...",
    help="The numbers of workers; of a gang, of its ranks.  [default: 1,2,4,... up to the cores]",
)
@click.option(
    "--repeats",
    metavar="N",
    type=click.IntRange(min=1),
    help="Measure in this many whole rounds.  [default: until the answer is known, with at most 3 measurements for each N and for the plain calls, on average, and the time of ten plain calls]",
)
@click.option(
    "--answer",
    metavar="knee|cost|N",
    default=None,
    help="What to find out: the knee (the default), the COST, or the time with N workers. It decides which N is measured again.",
)
@click.option(
    "--within",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SHARE",
    default=None,
    help="Stop when half the interval of the answer is at most this share of it.  [default: 0.25, of a time 0.1]",
)
@click.option(
    "--sizes", metavar="N,N,...", help="Vary the number of the task's items instead, with one N (default 1)."
)
@click.option("--weak", is_flag=True, help="Weak scaling: the same work per worker at every N.")
@click.option(
    "--plain",
    metavar="FUNCTION",
    help="The baseline: a function of the file that does the same work in one call.",
)
@click.option("--on", default="local", show_default=True, metavar="BACKEND", help="The backend.")
@click.option("--fresh", is_flag=True, help="Measure again what is already known.")
@json_option
@debug_option
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
@click.pass_context
def measure(  # noqa: PLR0913 - one parameter for each option of the command
    ctx: click.Context,
    *,
    target: str,
    task: str | None,
    workers: str | None,
    sizes: str | None,
    plain: str | None,
    answer: str | None,
    within: float | None,
    as_json: bool,
    parameters: tuple[str, ...],
    **asked: Any,
) -> int:
    """Measure how a TASK of the pipeline in FILE.py scales, and whether it beats plain Python.

    Hooke computes the inputs of the task once. Then it runs the task's work with each N once, in random order, and as plain
    calls in one thread without Hooke; after that, again with the N that tell most about the answer, until it is known. The
    report has throughput, speed-up, efficiency, the scaling law, the COST (the
    number of workers needed to beat plain Python) and the N to measure next. The pipeline's parameters are options, as
    for `hooke run`. Known results are reused; a study that was stopped, or had fewer repeats, continues.
    Exit codes: 0 measured, 1 too noisy or a task failed, 2 wrong usage, 130 stopped.
    """
    session = ctx.ensure_object(CommandSession)
    typed = shlex.join(["hooke", "measure", *sys.argv[2:]]) if sys.argv[1:2] == ["measure"] else ""
    try:
        pipeline, path = load_pipeline(target)
        args, params = Parameters(pipeline, target=target, verb="measure").parse(parameters)
        session.project = project = Project.find(path)
        order = StudyOrder(
            pipeline=pipeline,
            args=args,
            params=params,
            task=task,
            workers=number_list("--workers", workers),
            sizes=number_list("--sizes", sizes) or (),
            question=question_of(answer, within),
            plain=_function(pipeline, plain, task=task, target=target),
            command=typed,
            observers=() if as_json else (StudyLines(sys.stderr).observe,),
            **asked,
        )
        driver = user_code(lambda: prepare_study(order, project), pipeline)
        return _told(_taken(driver), as_json=as_json, again=driver.is_known)
    except HookeError as error:
        return refuse(error, session, as_json=as_json, study=None, status="refused")
    except KeyboardInterrupt:
        click.echo(f"stopped; finished measurements are kept\n  next: {typed}", err=True)
        return EXIT_STOPPED


def _taken(driver: StudyDriver) -> Study:
    with contextlib.redirect_stdout(sys.stderr):
        return take_study(driver)


def _told(study: Study, *, as_json: bool, again: bool) -> int:
    if as_json:
        click.echo(json.dumps(study.facts(), indent=2))
        return 0
    click.echo(str(study))
    sys.stdout.flush()
    if again:
        click.echo("already known; --fresh measures again", err=True)
    say_next(f"hooke {_looked_at_by(study)} {study.id}", study.project)
    return 0


def _looked_at_by(study: Study) -> str:
    """`curve` if there is a law, else `show`."""
    try:
        _ = study.curve
    except (NotEnoughData, UsageError):
        return "show"
    return "curve"


def _function(
    pipeline: Pipeline[..., Any], name: str | None, *, task: str | None, target: str
) -> Callable[..., Any] | None:
    """The function `name` in the module of the pipeline or of the task."""
    if name is None:
        return None
    beside = vars(sys.modules[pipeline.function.__module__])
    for each in list(beside.values()):
        if isinstance(each, Task) and each.name == task:
            beside = vars(sys.modules[each.function.__module__]) | beside
    found = beside.get(name)
    if not inspect.isfunction(found):
        functions = sorted(each for each, value in beside.items() if inspect.isfunction(value))
        raise UsageError(
            f"{target} has no function {name!r} for --plain",
            fix=f"its functions: {', '.join(functions) or 'none'}",
        )
    return found


# --- `hooke curve`: how a task scales, from the journal of a run or a study.


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@click.option(
    "--save",
    "files",
    metavar="FILE",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the chart to FILE.svg, or with the extra `plot` to FILE.png or FILE.html. Can be repeated.",
)
@lengths_options("For a language model's service", default="the run's mean")
@json_option
@in_project
def curve(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    run: str,
    task: str,
    files: tuple[Path, ...],
    lengths: str | None,
    length_scale: float,
    as_json: bool,
    project: Project,
) -> int:
    """Show how TASK scales, from RUN (by default the last run).

    By default, TASK is the one that took longest. RUN may be a study of `hooke measure`. Other runs of the project
    contribute if they did the same work with another number of workers. Of a run of a language model's service, N counts requests at once: the curve
    and the times of tokens are simulated with the law of its steps. Exit code 1 if the data do not determine a law.
    """
    name, only = run_and_task(project, run, task, verb="curve", studies=True)
    found = _token_curve(project, name, lengths, length_scale) if not only else None
    if found is None and (lengths is not None or length_scale != 1):
        raise UsageError(
            f"{name} is not a run of a language model's service", fix="omit --lengths and --length-scale"
        )
    found = found or curve_of(project.runs, name, only)
    for file in files:
        found.save(file)
    if as_json:
        click.echo(json.dumps(found.facts(), indent=2))
        return 0
    click.echo(found.text(colour=not os.environ.get("NO_COLOR"), plain=not is_unicode()))
    if not files:
        again = shlex.join(["hooke", "curve", name, *filter(None, [only]), "--save", "curve.svg"])
        say_next(again, project)
    return 0


def _token_curve(project: Project, run: str, lengths: str | None, scale: float) -> TokenCurve | None:
    """Of a run of a language model's service; None for another run."""
    started = next((each for each in project.runs.events(run) if isinstance(each, RunStarted)), None)
    if started is None or started.kind != "service":
        return None
    given = asked_lengths(lengths, scale)
    return token_curve(known_steps(project.runs, run), given, name=started.pipeline)
