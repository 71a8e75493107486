"""`hooke measure`: how far a task, or a whole pipeline, scales."""

from __future__ import annotations

import contextlib
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hooke.base.errors import HookeError, NotEnoughData, UsageError
from hooke.cli.drive import user_code
from hooke.cli.options import debug_option, json_option
from hooke.cli.parameters import Parameters
from hooke.cli.screens import EXIT_STOPPED, CommandSession, command, error_facts, error_screen, exit_code
from hooke.measuring.studies import Study, StudyLines, take_study
from hooke.measuring.study_driver import StudyDriver, StudyOrder, prepare_study
from hooke.pipeline.pipeline import Pipeline
from hooke.pipeline.task import Task
from hooke.project.folder import Project
from hooke.project.loading import load_entry

__all__ = ["measure"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="FILE.py[:PIPELINE]")
@click.option(
    "--task", metavar="TASK", help="The task whose calls or map are measured; the whole pipeline without it."
)
@click.option("--workers", metavar="N,N,...", help="Each N to measure.  [default: 1,2,4,... up to the cores]")
@click.option(
    "--repeats", default=3, show_default=True, metavar="N", type=click.IntRange(min=1), help="Rounds."
)
@click.option("--sizes", metavar="N,N,...", help="Vary the items of the task's map instead, by one N (1).")
@click.option(
    "--weak", is_flag=True, help="The same work for each worker at every N, instead of for all together."
)
@click.option(
    "--plain",
    metavar="FUNCTION",
    help="A function beside the task that does the same work in one call: the baseline.",
)
@click.option("--on", "place", default="local", show_default=True, metavar="PLACE", help="Where.")
@click.option("--fresh", is_flag=True, help="Measure anew what is known already.")
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
    repeats: int,
    sizes: str | None,
    weak: bool,
    plain: str | None,
    place: str,
    fresh: bool,
    as_json: bool,
    parameters: tuple[str, ...],
) -> int:
    """Measure how far a TASK of the pipeline in FILE.py scales, and whether it beats one plain thread.

    What the task needs is computed once; then its work is done anew by each N in random rounds, and as plain calls in
    one thread without Hooke. Shown are throughput, speed-up and efficiency, the law that they speak for, the COST (the
    smallest N that beats the plain calls) and which N to measure next. The pipeline's parameters are options, as for
    `hooke run`. What is known already is not measured again; what Ctrl-C stopped goes on, and so does a study with
    fewer repeats. Exit codes: 0 measured, 1 too noisy or a task failed, 2 wrong usage, 130 stopped.
    """
    session = ctx.ensure_object(CommandSession)
    typed = shlex.join(["hooke", "measure", *sys.argv[2:]]) if sys.argv[1:2] == ["measure"] else ""
    try:
        pipeline, path = _load(target)
        args, params = Parameters(pipeline, target=target, verb="measure").parse(parameters)
        session.project = project = Project.find(path)
        order = StudyOrder(
            pipeline=pipeline,
            args=args,
            params=params,
            task=task,
            workers=_numbers("--workers", workers),
            repeats=repeats,
            sizes=_numbers("--sizes", sizes) or (),
            weak=weak,
            plain=_function(pipeline, plain, task=task, target=target),
            on=place,
            fresh=fresh,
            command=typed,
            observers=() if as_json else (StudyLines(sys.stderr).observe,),
        )
        driver = user_code(lambda: prepare_study(order, project), pipeline)
        return _told(_taken(driver), as_json=as_json, again=driver.is_known)
    except HookeError as error:
        return _refused(error, session, as_json=as_json)
    except KeyboardInterrupt:
        click.echo(f"stopped; what had been measured is kept\n  next: {typed}", err=True)
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
        click.echo("known already; --fresh measures it anew", err=True)
    click.echo(f"next: {command(f'hooke {_looked_at_by(study)} {study.id}', study.project)}", err=True)
    return 0


def _looked_at_by(study: Study) -> str:
    """The verb that shows most of it: a picture where there is a law."""
    try:
        _ = study.curve
    except (NotEnoughData, UsageError):
        return "show"
    return "curve"


def _refused(error: HookeError, session: CommandSession, *, as_json: bool) -> int:
    screen = error_screen(error, session)
    if as_json:
        click.echo(
            json.dumps({"study": None, "status": "refused", "error": error_facts(error, session)}, indent=2)
        )
    click.echo(screen, err=True)
    return exit_code(error)


def _load(target: str) -> tuple[Pipeline[..., Any], Path]:
    """The pipeline and its file; what the file prints while it is imported is no result."""
    with contextlib.redirect_stdout(sys.stderr):
        return load_entry(target)


def _numbers(option: str, text: str | None) -> Sequence[int] | None:
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no list of whole numbers", fix=f"write {option} 1,2,4"
        ) from None


def _function(
    pipeline: Pipeline[..., Any], name: str | None, *, task: str | None, target: str
) -> Callable[..., Any] | None:
    """The function of that name beside the pipeline, or beside the task."""
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
            fix=f"there are: {', '.join(functions) or 'none'}",
        )
    return found
