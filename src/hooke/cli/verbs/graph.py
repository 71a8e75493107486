"""`hooke graph`: the picture of a pipeline's graph, as text, SVG or Mermaid."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from hooke.base.errors import UsageError
from hooke.base.files import write_atomic
from hooke.cli.drive import load_pipeline, user_code
from hooke.cli.options import debug_option
from hooke.cli.parameters import Parameters

__all__ = ["graph"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("target", metavar="FILE.py[:PIPELINE]")
@click.option(
    "--svg",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the picture to FILE, as SVG.",
)
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, for Markdown.")
@debug_option
@click.argument("parameters", nargs=-1, metavar="[--PARAMETER VALUE ...]", type=click.UNPROCESSED)
def graph(*, target: str, file: Path | None, mermaid: bool, parameters: tuple[str, ...]) -> int:
    """Draw the graph of the pipeline in FILE.py: its calls, maps with their items, and nested pipelines.

    The pipeline's body runs, but no task. The text has a line for each call, with the calls whose results it takes. Of more than
    60 calls, those of one task are one. The pipeline's parameters are options, as for `hooke run`.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError(f"--svg {file}: its folder does not exist", fix=f"mkdir -p {file.parent}")
    with contextlib.redirect_stdout(sys.stderr):
        pipeline, _ = load_pipeline(target)
        args, params = Parameters(pipeline, target=target, verb="graph").parse(parameters)
        drawn = user_code(lambda: pipeline.graph(*args, **params), pipeline)
    if file is not None:
        write_atomic(file, drawn.svg().encode())
        click.echo(f"wrote {file}: {drawn.summary}", err=True)
    if mermaid:
        click.echo(drawn.mermaid(), nl=False)
    elif file is None:
        click.echo(drawn.text())
    return 0
