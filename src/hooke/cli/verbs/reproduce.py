"""`hooke reproduce`: repeat a run from its record, and compare the results."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hooke.cli.options import complete_run, in_project, json_option, the_project
from hooke.cli.screens import EXIT_FAILED, CommandSession

__all__ = ["reproduce"]

EXIT_DIFFERENT = 3
EXIT_UNMET = 4


@click.command()
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.option("--verify", is_flag=True, help="Repeat the run in a store of its own, and compare each result.")
@click.option("--here", is_flag=True, help="Use the project's current code instead of the recorded tree.")
@click.option("--best-effort", is_flag=True, help="Repeat the run even if conditions differ.")
@click.option(
    "--rtol",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Relative tolerance for numbers.",
)
@click.option(
    "--atol",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Absolute tolerance for numbers.",
)
@click.option("--keep", is_flag=True, help="Keep the folder with the restored tree and the new results.")
@json_option
@in_project
@click.pass_obj
def reproduce(  # noqa: PLR0913 - one parameter for each option of the command
    session: CommandSession,
    *,
    run: str,
    verify: bool,
    here: bool,
    best_effort: bool,
    rtol: float,
    atol: float,
    keep: bool,
    as_json: bool,
    project: Path | None,
) -> int:
    """Check whether RUN (by default the last run) can be repeated; with --verify, repeat it and compare the results.

    The conditions are code, Python, library versions, data files, seed, thread counts and hardware. The code is the tree
    that the run recorded, restored outside the project. For a script with start_run(), the logged values are compared.

    Exit codes: 0 all conditions are met, or all results are equal or within the tolerance; 1 the repetition failed;
    2 wrong usage; 3 results differ; 4 a condition differs, so the run was not repeated.
    """
    from hooke.running.reproduce.reproduce import ReproduceOptions, reproduce_in
    from hooke.running.reproduce.result_comparison import Tolerance

    where = the_project(session, project)
    asked = ReproduceOptions(
        verify=verify,
        here=here,
        best_effort=best_effort,
        tolerance=Tolerance(rtol=rtol, atol=atol),
        keep=keep,
    )
    found = reproduce_in(where, where.runs.find(run), asked)
    click.echo(json.dumps(found.facts(), indent=2) if as_json else str(found))
    if found.status == "checked":
        return EXIT_UNMET if found.unmet else 0
    return {"unmet": EXIT_UNMET, "different": EXIT_DIFFERENT, "failed": EXIT_FAILED}.get(found.status, 0)
