"""`hooke export`: a pipeline as a file of another scheduler. `hooke exec`: one task, as such files run it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import click

from hooke.base.errors import HookeError, UsageError
from hooke.base.files import writing
from hooke.cli.drive import load_pipeline, user_code
from hooke.cli.options import project_option, the_project
from hooke.cli.parameters import Parameters
from hooke.cli.screens import CommandSession, error_screen
from hooke.exporters.plan import Secret
from hooke.exporters.schedules import parse_cron
from hooke.exporters.targets import TARGETS, ExportOrder
from hooke.exporters.targets import export as exported
from hooke.project.folder import Project

__all__ = ["execute", "export"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="TARGET")
@click.argument("source", metavar="FILE.py[:PIPELINE]")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT",
    help="The file to write.",
)
@click.option(
    "--plain", is_flag=True, help="Call the functions themselves: the file needs no Hooke when it runs."
)
@click.option(
    "--pods",
    is_flag=True,
    help="Airflow: run each task as a pod of a Kubernetes cluster. Kubeflow: container components instead of lightweight ones.",
)
@click.option(
    "--place",
    default="",
    metavar="PLACE",
    help="The place in hooke.toml that describes the pods.  [default: the only one of the engine kubernetes]",
)
@click.option(
    "--image",
    default="",
    metavar="IMAGE",
    help="The container image of the tasks.  [default: of pods, that of the place]",
)
@click.option(
    "--schedule",
    default="",
    metavar="CRON",
    help="When it runs there: five fields of cron, such as '0 6 * * *'.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="VARIABLE=SECRET:KEY",
    help="An environment variable of the tasks, by the name of the secret that has its value.",
)
@project_option
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
@click.pass_obj
def export(  # noqa: PLR0913 - one parameter for each option of the command
    session: CommandSession,
    *,
    target: str,
    source: str,
    out: Path,
    plain: bool,
    pods: bool,
    place: str,
    image: str,
    schedule: str,
    secrets: tuple[str, ...],
    project: Path | None,
    parameters: tuple[str, ...],
) -> int:
    """Write the pipeline of FILE.py as a file of TARGET, which runs it there without Hooke's control plane: script, or a scheduler such as airflow.

    Each task runs by `hooke exec`, and values pass by reference through the project's store; with --plain the functions are called directly.
    Whatever the target cannot express is refused with its reason before anything is written. The pipeline's parameters are options, as for
    `hooke run`.
    """
    if target not in TARGETS.names():
        raise UsageError(f"no target {target!r}", fix=f"valid targets: {', '.join(TARGETS.names())}")
    pipeline, file = load_pipeline(source)
    args, params = Parameters(pipeline, target=source, verb=f"export {target}").parse(parameters)
    session.project = where = Project.find(file) if project is None else the_project(session, project)
    order = ExportOrder(
        target=target,
        pipeline=pipeline,
        file=file,
        out=out,
        args=tuple(args),
        params=params,
        flavour="plain" if plain else "reference",
        pods=pods,
        place=place,
        schedule=parse_cron(schedule, "--schedule").expression if schedule else "",
        image=image,
        secrets=tuple(map(_secret, secrets)),
    )
    text = user_code(lambda: exported(order, where), pipeline)
    with writing("the exported file", out):
        out.write_text(text, encoding="utf-8")
    click.echo(f"wrote {out}", err=True)
    return 0


_SECRET = re.compile(r"(?P<variable>[A-Za-z_]\w*)=(?P<secret>[\w./-]+):(?P<key>[\w./-]+)", re.ASCII)


def _secret(text: str) -> Secret:
    found = _SECRET.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--secret {text!r} is not VARIABLE=SECRET:KEY", fix="write --secret DATABASE_URL=database:url"
        )
    return Secret(variable=found["variable"], secret=found["secret"], key=found["key"])


# --- `hooke exec`.


@click.command(name="exec")
@click.argument("target", metavar="FILE.py[:TASK]")
@click.option(
    "--in",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE|-",
    help="An input: a Python literal, or a reference. - reads such lines from stdin.",
)
@click.option(
    "--out",
    metavar="PATH",
    default="-",
    show_default=True,
    help="Where the reference of the result goes, as JSON if it ends with .json; - is stdout.",
)
@click.option(
    "--items",
    metavar="PATH",
    default="",
    help="The result is a list: where the references of its items go, as JSON.",
)
@click.option(
    "--on-error",
    type=click.Choice(["raise", "continue"]),
    default="raise",
    show_default=True,
    help="continue: if the item fails, the result is hooke:failed, and later tasks leave it out of their lists.",
)
@project_option
@click.pass_obj
def execute(  # noqa: PLR0913 - one parameter for each option of the command
    session: CommandSession,
    *,
    target: str,
    inputs: tuple[str, ...],
    out: str,
    items: str,
    on_error: Literal["raise", "continue"],
    project: Path | None,
) -> int:
    """Run one task, store its result, and write its reference. Exported pipelines run their tasks by it.

    A reference, such as hooke:DIGEST.SIZE, is what `hooke exec` wrote; ['key'] or [0] behind it means a part. References may be anywhere in a value:
    --in xs='["hooke:...", 3]'. What is stored for the same code and the same inputs is not run again. Without a task the one input is the
    result. What the task prints goes to stderr. Retries and timeouts are the caller's. Exit codes: 0 stored; 1 the task failed; 2 wrong usage.

    With --on-error continue, as in a map that has it, the task's own retries and timeout count. If the last try fails, the error goes to stderr,
    the result is hooke:failed, and the exit code 0. Later tasks leave such items out of their lists. A task with one as an input does not run, and
    its result is hooke:failed, too. --items is refused, as such a task may have no list.
    """
    from hooke.running.single_task import ExecOrder, execute_task

    where = None if project is None else the_project(session, project)
    order = ExecOrder(target=target, inputs=_inputs(inputs), listed=bool(items), on_error=on_error)
    try:
        done = execute_task(order, where)
    except HookeError as error:
        error.next = ""  # there is no run to look at
        raise
    if done.failure is not None:
        done.failure.next = ""
        click.echo(error_screen(done.failure, session), err=True)
    if items:
        _write(items, json.dumps(done.items))
    if not items or out != "-":
        _write(out, json.dumps(done.reference) if out.endswith(".json") else done.reference)
    return 0


def _inputs(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in _lines(texts):
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(
                f"--in {text!r} is not NAME=VALUE", fix="write --in data=hooke:DIGEST.SIZE or --in rate=0.1"
            )
        if name in found:
            raise UsageError(f"--in {name} is given twice", fix="keep one of them")
        found[name] = value
    return found


def _lines(texts: Sequence[str]) -> Iterable[str]:
    for text in texts:
        if text == "-":
            yield from filter(None, sys.stdin.read().splitlines())
        else:
            yield text


def _write(path: str, text: str) -> None:
    if path == "-":
        click.echo(text)
        return
    with writing("the reference", Path(path)):
        Path(path).write_text(text, encoding="utf-8")
